"""Private metrics of the exact method: how Lambda_i follows the curvature of each direction.

Every Lambda_i is exact (see `exact.py`), so it may be adapted to the node's own objective. With H_i
the curvature of the objective, c0 the public scale and r = 1 / (1 + max(spread, LEAST_SPREAD)):

    step      p_i D,           p_i = r min(REACH / L_i, 1 / c0)
    diagonal  diag(p_il) D,    p_il = r min(REACH w_il / L(w_i), 1 / c0)
    newton    S_i D S_i,       S_i S_i = r min(REACH H_i^-1, 1 / c0), in every eigenvector of H_i

D is diagonal and holds the random factors. L_i is the largest eigenvalue of H_i, L(w) that of
W^1/2 H_i W^1/2 with W = diag(w).

**Weights.** w_il is the running root mean square of the changes of x_il, divided by that of the
changes of g_il, and by the largest of these ratios. RMSProp and AdaDelta keep such moments of
gradients. Moments of the gradient itself would measure how far an entry still is from the optimum.
Moments of its changes measure the curvature of that entry.

**Stability.** Under every metric the eigenvalues of the mean Lambda_i H_i are at most r REACH, and
those of the mean Lambda_i at most r / c0. These are the limits of the metric `step`.

The moments belong to the saved state: a round that is opened again from the same state has the same
Lambda_i. Nothing else is remembered. Source: docs/explanation/algorithm.md#metrics; checked by
test_every_metric_keeps_within_what_is_stable and
test_the_exact_fleet_equals_the_plain_reference_under_every_metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np
import numpy.typing as npt

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import MetricName

from .exact import REACH, Curvature, falling, is_sampled, mean_step, shortening
from .objective import Objective
from .quadratic import WithQuadratic
from .randomness import FloatVector, RoundRandomness

Floats = npt.NDArray[np.float64]

MEMORY = 0.95  # of the moments, per round
LEAST_WEIGHT = 0.01  # no entry takes steps that are shorter than this part of the longest


@dataclass(frozen=True)
class Moments:
    """What the weights of metric `diagonal` are computed from; all arrays have shape (..., d)."""

    point: Floats  # the latest estimate
    gradient: Floats  # at that estimate
    moved: Floats  # running mean of the squared changes of the estimate
    turned: Floats  # running mean of the squared changes of the gradient

    @classmethod
    def first(cls, x: Floats, gradient: Floats) -> Moments:
        """Return the moments before any change."""
        return cls(x, gradient, np.zeros_like(x), np.zeros_like(x))

    @classmethod
    def of_rows(cls, rows: Sequence[Sequence[float]]) -> Moments:
        """Return the moments whose `rows` these are."""
        return cls(*(np.array(row) for row in rows))

    @property
    def rows(self) -> list[list[float]]:
        """The four arrays of one node as lists, for its state."""
        return [each.tolist() for each in (self.point, self.gradient, self.moved, self.turned)]

    def after(self, x: Floats, gradient: Floats) -> Moments:
        """Return the moments after a step to *x*."""
        moved = MEMORY * self.moved + (1.0 - MEMORY) * (x - self.point) ** 2
        turned = MEMORY * self.turned + (1.0 - MEMORY) * (gradient - self.gradient) ** 2
        return Moments(x, gradient, moved, turned)

    @property
    def weights(self) -> Floats:
        """The weights w, between LEAST_WEIGHT and 1; 1 where an entry has not changed yet."""
        known = (self.moved > 0) & (self.turned > 0)
        ratio = np.sqrt(self.moved) / np.sqrt(np.where(known, self.turned, 1.0)) * known
        largest = ratio.max(axis=-1, keepdims=True)
        relative = np.where(known, ratio / np.where(largest > 0, largest, 1.0), 1.0)
        return np.asarray(np.maximum(relative, LEAST_WEIGHT), np.float64)


def weighted_curvature(bound: Floats, weights: Floats) -> Floats:
    """Return L(w), shape (..., 1), of matrices *bound* of shape (..., d, d)."""
    root = np.sqrt(weights)
    scaled = root[..., :, None] * bound * root[..., None, :]
    return np.asarray(np.linalg.eigvalsh(scaled)[..., -1:], np.float64)


def diagonal_entries(weights: Floats, curvature: Floats, scale: float, spread: float) -> Floats:
    """Return p_il, shape (..., d); *curvature* is L(w), shape (..., 1), and *scale* is c0."""
    entries = REACH * weights / np.maximum(curvature, REACH * scale * LEAST_WEIGHT)
    result: Floats = np.minimum(entries, 1.0 / scale) * shortening(spread)
    return result


def newton_root(bound: Floats, scale: float, spread: float) -> Floats:
    """Return S, symmetric, shape (..., d, d), of symmetric matrices *bound* of the same shape.

    A negative curvature counts as a positive one of the same size.
    """
    values, vectors = np.linalg.eigh(bound)
    lengths = shortening(spread) / np.maximum(np.abs(values) / REACH, scale)
    root: Floats = (vectors * np.sqrt(lengths)[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    return root


def newton_step(root: Floats, factors: Floats, direction: Floats) -> Floats:
    """Return S D S times *direction*, shape (..., d); *factors* is the diagonal of D."""
    inner = factors * np.einsum("...ij,...j->...i", root, direction)
    result: Floats = np.einsum("...ij,...j->...i", root, inner)
    return result


def bound_of(objective: Objective, x: FloatVector) -> Floats | None:
    """Return the curvature H_i of *objective* near *x*, shape (d, d), or None if it is unknown.

    The objectives of this project know a matrix that bounds the second derivative at every x.
    """
    if isinstance(objective, WithQuadratic):
        own = bound_of(objective.objective, x)
        return None if own is None else objective.added_to(own)
    bound = getattr(objective, "curvature_bound", None)  # a user's own class may have none
    if bound is not None:
        return np.asarray(bound(), np.float64)
    hessian = getattr(objective, "hessian", None)
    return None if hessian is None else np.array(hessian(x), np.float64)


def check_hessian(objective: Objective, metric: MetricName) -> None:
    """Raise ConfigError if *objective* does not have what *metric* needs."""
    if isinstance(objective, WithQuadratic):
        objective = objective.objective
    known = any(hasattr(objective, name) for name in ("curvature_bound", "hessian"))
    if metric == "newton" and not known:
        raise ConfigError(
            f"algorithm.metric is newton, but the class {type(objective).__name__} has no method "
            "hessian",
            remedy="give the class a method hessian(x) that returns the second derivative, shape "
            "(d, d), or set algorithm.metric: diagonal",
        )


@dataclass(frozen=True)
class StepInput:
    """Where a step of one node begins; vectors have shape (d,)."""

    x: FloatVector
    gradient: FloatVector
    dual: FloatVector
    k: int
    scale: float  # c0
    randomness: RoundRandomness
    moments: Moments | None  # of the round before

    @property
    def direction(self) -> FloatVector:
        """The direction g_i + y_i."""
        result: FloatVector = self.gradient + self.dual
        return result


class Metric:
    """The metric of one node. It keeps what it has computed of the curvature, and nothing else."""

    def __init__(self, objective: Objective, name: MetricName, spread: float) -> None:
        check_hessian(objective, name)
        self._objective, self._name, self._spread = objective, name, spread
        self.curvature = Curvature(objective)
        self._rooted: tuple[Floats, float, Floats] | None = None  # H_i and c0, and S for them

    def step(self, place: StepInput, factors: FloatVector) -> tuple[FloatVector, Moments | None]:
        """Return Lambda_i (g_i + y_i), and the moments to save; *factors* is the diagonal of D."""
        divisor = falling(place.k) if is_sampled(self._objective) else 1.0
        match self._name:
            case "step":
                curvature = self.curvature.at(place.x, place.k, place.randomness)
                mean = mean_step(curvature, place.scale, self._spread)
                return mean / divisor * factors * place.direction, None
            case "diagonal":
                moments = self._next_moments(place)
                entries = self._entries(place, moments.weights)
                return entries / divisor * factors * place.direction, moments
            case "newton":
                step = newton_step(self._root(place), factors, place.direction)
                return step / divisor, None
            case other:
                assert_never(other)

    @staticmethod
    def _next_moments(place: StepInput) -> Moments:
        if place.moments is None:
            return Moments.first(place.x, place.gradient)
        return place.moments.after(place.x, place.gradient)

    def _entries(self, place: StepInput, weights: FloatVector) -> FloatVector:
        bound = bound_of(self._objective, place.x)
        if bound is None:
            largest = self.curvature.weighted(place.x, weights, place.randomness)
            curvature = np.array([largest])
        else:
            curvature = weighted_curvature(bound, weights)
        return diagonal_entries(weights, curvature, place.scale, self._spread)

    def _root(self, place: StepInput) -> Floats:
        bound, scale = bound_of(self._objective, place.x), place.scale
        assert bound is not None, "check_hessian has made sure of it"
        known = self._rooted
        if known is None or known[0] is not bound or known[1] != scale:
            known = self._rooted = bound, scale, newton_root(bound, scale, self._spread)
        return known[2]
