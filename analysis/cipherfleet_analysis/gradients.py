"""The gradients of all nodes of a simulated fleet, computed together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from cipherfleet_node.core.objective import Average, Mean, Objective, Regression
from cipherfleet_node.core.randomness import SEED_BYTES, RoundRandomness
from cipherfleet_node.core.statistics import Statistics
from cipherfleet_node.settings import sections

from .random_choices import Array, FleetRandomness

QUADRATIC = frozenset({"average", "mean", "least_squares", "ridge"})  # kinds of objectives


class Gradients(Protocol):
    """The gradients of all nodes, computed together."""

    def evaluate(self, x: Array, k: int, randomness: FleetRandomness) -> Array:
        """Return g_i(x_i) of every node in round *k*, shape (n, d)."""


class Linear:
    """Gradients H_i x + b_i of quadratic objectives over all readings."""

    def __init__(self, hessians: Array, offsets: Array) -> None:
        self.hessians, self.offsets = hessians, offsets

    def evaluate(self, x: Array, k: int, randomness: FleetRandomness) -> Array:
        del k, randomness
        result: Array = np.matmul(self.hessians, x[:, :, None])[:, :, 0] + self.offsets
        return result


class Targets:
    """Gradients x - s_i of objectives |x - s_i|^2 / 2; *targets* holds the s_i, shape (n, d).

    *members* is 1 for a member and 0 for a follower, whose gradient is zero; its shape is (n, 1).
    """

    def __init__(self, targets: Array, members: Array) -> None:
        self.targets, self.members = targets, members

    def evaluate(self, x: Array, k: int, randomness: FleetRandomness) -> Array:
        del k, randomness
        result: Array = self.members * (x - self.targets)
        return result


class WithMatrices:
    """Other gradients plus M_i x_i; *matrices* holds the M_i, shape (n, d, d)."""

    def __init__(self, gradients: Gradients, matrices: Array) -> None:
        self._gradients, self._matrices = gradients, matrices

    def evaluate(self, x: Array, k: int, randomness: FleetRandomness) -> Array:
        added: Array = np.matmul(self._matrices, x[:, :, None])[:, :, 0]
        return self._gradients.evaluate(x, k, randomness) + added


class OneByOne:
    """Gradients of any objectives, with one call per node."""

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self._objectives = objectives

    def evaluate(self, x: Array, k: int, randomness: FleetRandomness) -> Array:
        return np.array(
            [
                objective.gradient(own, randomness.gradient(k, node))
                for node, (objective, own) in enumerate(zip(self._objectives, x, strict=True))
            ]
        )


def has_linear_gradients(section: sections.ObjectiveSection) -> bool:
    """True if the gradient of *section* is H_i x + b_i; a mean residual is clipped."""
    return section.kind in QUADRATIC and section.minibatch is None and section.drift is None


def gradients_of(objectives: Sequence[Objective], section: sections.ObjectiveSection) -> Gradients:
    """Return the fastest gradients of *objectives*, which *section* describes."""
    if any(isinstance(each, Statistics) for each in objectives):
        members = np.array([[float(isinstance(each, Statistics))] for each in objectives])
        targets = [
            each.own if isinstance(each, Statistics) else each.start() for each in objectives
        ]
        return Targets(np.array(targets), members)
    if not has_linear_gradients(section):
        return OneByOne(objectives)
    zero, unused = np.zeros(objectives[0].dimension), RoundRandomness(bytes(SEED_BYTES))
    offsets = np.array([objective.gradient(zero, unused) for objective in objectives])
    return Linear(np.array([_hessian(objective, zero) for objective in objectives]), offsets)


def _hessian(objective: Objective, x: Array) -> Array:
    if isinstance(objective, Mean | Regression) and not isinstance(objective, Average):
        return objective.hessian(x)
    return np.zeros((x.size, x.size))  # of an average, whose gradient is zero
