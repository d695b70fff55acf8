"""The exact method in a simulated fleet: its steps, its scale of curvature, and its duals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cipherfleet_node.core import agreement, exact, metric
from cipherfleet_node.core.objective import Objective
from cipherfleet_node.core.randomness import SEED_BYTES, RoundRandomness
from cipherfleet_node.settings import sections
from cipherfleet_node.settings.sections import AGREE, Algorithm, Scale, exact_scale_of

from .gradients import Gradients
from .random_choices import Array, FleetRandomness

Places = npt.NDArray[np.intp]


@dataclass(frozen=True)
class ExactMethod:
    """What the exact method needs beside the gradients; see cipherfleet_node.core.exact."""

    scale: Scale  # c0, or AGREE
    curvatures: Array  # L_i of every node, shape (n,)
    spread: float
    is_sampled: bool = False  # gradients of minibatches: the steps fall
    metric: sections.MetricName = "step"
    bounds: Array | None = None  # H_i of every node, shape (n, d, d), for other metrics than `step`
    first_duals: Array | None = None  # y_i at the start, shape (n, d), with sum zero; None: zero
    first_gradient: int = 0  # the round from which nodes use their gradients, and the first duals

    def chosen(self, places: Places) -> ExactMethod:
        """Return the method of a fleet whose node i is the node *places*[i] of this one."""
        bounds = None if self.bounds is None else self.bounds[places]
        duals = None if self.first_duals is None else self.first_duals[places]
        return replace(self, curvatures=self.curvatures[places], bounds=bounds, first_duals=duals)

    def logarithms(self, shape: tuple[int, int]) -> Array:
        """Return the first estimates of the agreement on c0, shape (n, d)."""
        points = np.zeros(shape)
        points[:, 0] = [agreement.logarithm(own, self.metric) for own in self.curvatures]
        return points

    def agreed_scale(self, points: Array) -> float:
        """Return c0 after the agreement, when all nodes know the largest exponent."""
        return agreement.scale_of(max(agreement.power_of(own) for own in points[:, 0]))


class Stepping:
    """The steps of all nodes in one run of the exact method; see cipherfleet_node.core.metric."""

    def __init__(self, method: ExactMethod, scale: float) -> None:
        self._method, self._scale = method, scale
        self._moments: metric.Moments | None = None
        self._roots: Array | None = None
        means = [[exact.mean_step(own, scale, method.spread)] for own in method.curvatures]
        self._means = np.array(means)
        if method.metric == "newton":
            assert method.bounds is not None
            self._roots = metric.newton_root(method.bounds, scale, method.spread)

    def steps(self, k: int, x: Array, gradient: Array, dual: Array, factors: Array) -> Array:
        """Return Lambda_i (g_i + y_i) of every node in round *k*, shape (n, d)."""
        method, direction = self._method, gradient + dual
        divisor = exact.falling(k) if method.is_sampled else 1.0
        if self._roots is not None:
            return metric.newton_step(self._roots, factors, direction) / divisor
        entries = self._entries(x, gradient) if method.metric == "diagonal" else self._means
        result: Array = entries / divisor * factors * direction
        return result

    def _entries(self, x: Array, gradient: Array) -> Array:
        """Return the mean entries of every Lambda_i of metric `diagonal`."""
        method, before = self._method, self._moments
        assert method.bounds is not None
        now = metric.Moments.first(x, gradient) if before is None else before.after(x, gradient)
        self._moments = now
        curvature = metric.weighted_curvature(method.bounds, now.weights)
        return metric.diagonal_entries(now.weights, curvature, self._scale, method.spread)


def exact_method(
    objectives: Sequence[Objective], algorithm: Algorithm, section: sections.ObjectiveSection
) -> ExactMethod | None:
    """Return the exact method of a fleet of *objectives*, or None for the article's."""
    scale = exact_scale_of(algorithm, section)
    if scale is None:
        return None
    unused = RoundRandomness(bytes(SEED_BYTES))
    curvatures = [exact.Curvature(each).at(each.start(), 0, unused) for each in objectives]
    is_sampled = any(map(exact.is_sampled, objectives))
    bounds = None
    if algorithm.metric != "step":
        bounds = np.array([_bound(each) for each in objectives])
    spread, chosen = algorithm.stepsize.spread, algorithm.metric
    return ExactMethod(scale, np.array(curvatures), spread, is_sampled, chosen, bounds)


def _bound(objective: Objective) -> Array:
    """Return the curvature H_i of *objective*, shape (d, d).

    For a class without one it is measured at the start, by differences of gradients.
    """
    start, unused = objective.start(), RoundRandomness(bytes(SEED_BYTES))
    known = metric.bound_of(objective, start)
    if known is not None:
        return known
    length = 1e-4 * max(1.0, float(np.linalg.norm(start)))
    here = objective.gradient(start, unused)
    columns = [
        (objective.gradient(start + length * axis, unused) - here) / length
        for axis in np.eye(start.size)
    ]
    matrix = np.array(columns)
    result: Array = (matrix + matrix.T) / 2.0
    return result


class ExactRun:
    """What the nodes keep between the rounds of the exact method."""

    def __init__(self, method: ExactMethod, x: Array) -> None:
        self._method, self._dual = method, np.zeros_like(x)
        self._logarithms = method.logarithms(x.shape)
        self._scale = None if method.scale == AGREE else method.scale
        self._stepping: Stepping | None = None
        self._shares = method.first_duals  # None: the duals have them

    def shared(
        self,
        x: Array,
        gradients: Gradients,
        k: int,
        randomness: FleetRandomness,
        algorithm: Algorithm,
    ) -> tuple[Array, Array]:
        """Return what all nodes share in round *k*, and their gradients; both of shape (n, d)."""
        if agreement.is_agreeing(self._method.scale, k):
            return self._logarithms, np.zeros_like(x)
        if self._scale is None:
            self._scale = self._method.agreed_scale(self._logarithms)
        first = self._method.first_gradient
        gradient = gradients.evaluate(x, k, randomness) if k >= first else np.zeros_like(x)
        if self._shares is not None and k >= first:
            self._dual, self._shares = self._dual + self._shares, None
        factors = randomness.steps(k, algorithm.stepsize, x.shape)
        if self._stepping is None:
            self._stepping = Stepping(self._method, self._scale)
        return x - self._stepping.steps(k, x, gradient, self._dual, factors), gradient

    def after(self, x: Array, coupled: Array, couplings: Array, k: int) -> Array:
        """Return the estimates after round *k*; *coupled* is what was shared, moved."""
        if agreement.is_agreeing(self._method.scale, k):
            self._logarithms = coupled
            return x
        assert self._scale is not None
        self._dual = self._dual - exact.BETA * self._scale * couplings
        return coupled
