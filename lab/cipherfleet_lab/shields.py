"""The shield of a fleet of the lab: the node's own shares and objectives, for all nodes at once.

Every two nodes are partners, and all take part in one generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import combinations

import numpy as np

from cipherfleet_node.core import exact
from cipherfleet_node.core.exchange import UNIT
from cipherfleet_node.core.quadratic import WithQuadratic, symmetric
from cipherfleet_node.core.randomness import RoundRandomness
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.core.shield import Shield
from cipherfleet_node.settings.sections import Algorithm, resolution_of

from .systems import Array, Problem


class FleetShield:
    """The shields of all nodes of *problem*; *scale* is c0.

    The same seed gives the same secrets.
    """

    def __init__(self, problem: Problem, algorithm: Algorithm, scale: float, seed: int) -> None:
        self.is_quadratic = algorithm.shield == "quadratic"
        self._problem, self._scale = problem, scale
        self._unit = resolution_of(algorithm) * UNIT
        self._nodes = range(problem.nodes)
        self._shields = _make_shields(problem.nodes, algorithm, seed)

    def first_duals(self) -> Array:
        """Return the duals of the first generation, shape (n, d)."""
        shares = [
            shield.shares(b"", self._nodes, self._problem.dimension, self._unit)
            for shield in self._shields
        ]
        return np.array([exact.dual(own, self._scale, self._unit) for own in shares])

    def added_curvatures(self) -> Array | None:
        """Return what node i adds to its second derivative for partner j, shape (n, n, d, d).

        None without a quadratic shield.
        """
        if not self.is_quadratic:
            return None
        d = self._problem.dimension
        return np.array(
            [
                [symmetric(each.quadratic([other], d, self._scale), d) for other in self._nodes]
                for each in self._shields
            ]
        )

    def curvatures(self) -> Array:
        """Return L_i of every node with its quadratic shield, shape (n,)."""
        return np.array([each.curvature() for each in self.objectives])

    @cached_property
    def objectives(self) -> Sequence[WithQuadratic]:
        """The objectives of all nodes with their quadratic shields."""
        d = self._problem.dimension
        entries = [each.quadratic(self._nodes, d, self._scale) for each in self._shields]
        return [
            WithQuadratic(WholeObjective(self._problem, node), symmetric(upper, d))
            for node, upper in enumerate(entries)
        ]


def _make_shields(nodes: int, algorithm: Algorithm, seed: int) -> Sequence[Shield]:
    chance = np.random.default_rng([seed, 2])
    secrets = {pair: chance.bytes(32) for pair in combinations(range(nodes), 2)}
    shields = []
    for own in range(nodes):
        partners = {j: secrets[min(own, j), max(own, j)] for j in range(nodes) if j != own}
        shields.append(Shield(own, 0, 0, 0, b"", len(partners), partners, algorithm.shares))
    return shields


class WholeObjective:
    """The objective f_i of one node of a problem, with gradients over all its readings."""

    def __init__(self, problem: Problem, node: int) -> None:
        self.dimension, self.fields = problem.dimension, frozenset[str]()
        self.ready = True
        self._problem, self._node = problem, node

    def absorb(self, samples: Sequence[Sample]) -> None:
        """Ignore *samples*: the problem has all readings."""

    def start(self) -> Array:
        """Return the first estimate, shape (d,)."""
        start: Array = self._problem.start[self._node]
        return start

    def gradient(self, x: Array, randomness: RoundRandomness) -> Array:
        """Return the gradient at *x*, shape (d,)."""
        del randomness
        assert self._problem.whole is not None
        everywhere = np.broadcast_to(x, self._problem.start.shape)
        gradient: Array = self._problem.whole(everywhere)[self._node]
        return gradient

    def curvature_bound(self) -> Array:
        """Return a bound on the second derivative at any x, shape (d, d)."""
        assert self._problem.bounds is not None
        bound: Array = self._problem.bounds[self._node]
        return bound
