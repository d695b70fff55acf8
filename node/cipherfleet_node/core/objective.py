"""The private objective of a node: it takes in readings and returns gradients.

Physical units end in this module: *offset* and *scale* of a column bring its values to order one.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar, cast

import numpy as np

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings import sections

from .randomness import FloatVector, RoundRandomness
from .sample import Sample
from .window import FloatMatrix, Window


class Objective(Protocol):
    """The interface of an objective f_i: R^d -> R.

    A user's own class implements it, and `objective.kind: module:Class` names it. It is constructed
    with the objective section of the configuration as its only argument. If it has an attribute
    `window` of the class `Window`, its readings slide by time and survive a restart, too.
    """

    dimension: int
    fields: frozenset[str]  # the fields of a reading that it uses

    @property
    def ready(self) -> bool:
        """True if there are enough readings for a gradient."""

    def absorb(self, samples: Sequence[Sample]) -> None:
        """Add new readings, and drop the oldest ones beyond the window."""

    def start(self) -> FloatVector:
        """Return the first estimate, shape (d,)."""

    def gradient(self, x: FloatVector, randomness: RoundRandomness) -> FloatVector:
        """Return a stochastic gradient at *x*, shape (d,), unbiased over *randomness*."""


def make_objective(section: sections.ObjectiveSection) -> Objective:
    """Return the objective that *section* describes; `settings.rules` have checked it.

    Raises ConfigError if it is the user's own class and cannot be imported or constructed.
    """
    match section.kind:
        case "average":
            return Average(section)
        case "mean":
            return Mean(section)
        case "least_squares" | "ridge":
            return Regression(section, SquaredLoss())
        case "logistic":
            return Regression(section, LogisticLoss())
        case "huber":
            return Regression(section, HuberLoss(section.threshold))
        case other:
            return _import_objective(other, section)


def _import_objective(name: str, section: sections.ObjectiveSection) -> Objective:
    module, _, attribute = name.partition(":")
    try:
        made = getattr(importlib.import_module(module), attribute)(section)
    except Exception as error:  # the user's own code may raise anything; show it to the operator
        raise ConfigError(
            f"objective.kind {name!r} cannot be imported: {type(error).__name__}: {error}"
        ) from None
    return cast("Objective", made)


class Mean:
    """f(x) = 1/2 mean |x - y|^2 over the readings y.

    The fleet finds the mean of the nodes' means, or with weight reading the mean of all readings.
    """

    def __init__(self, section: sections.ObjectiveSection) -> None:
        self._columns = section.values or []
        self._section = section
        self.dimension = len(self._columns)
        self.fields = frozenset(column.field for column in self._columns)
        self.window = Window(self.dimension, section.window, section.window_s)

    @property
    def ready(self) -> bool:
        """True as soon as there is one reading."""
        return len(self.window) > 0

    def absorb(self, samples: Sequence[Sample]) -> None:
        """Add new readings, and drop the oldest ones beyond the window."""
        self.window.extend([[_scaled(s, c) for c in self._columns] for s in samples])

    def start(self) -> FloatVector:
        """Return zero: the readings enter through the gradient."""
        return np.zeros(self.dimension)

    def gradient(self, x: FloatVector, randomness: RoundRandomness) -> FloatVector:
        """Return mean(x - y) over the window, or over a minibatch of it."""
        rows = _minibatch(self.window.rows, self._section, randomness)
        return _normalised((x - rows).sum(axis=0), len(rows), len(self.window), self._section)

    @property
    def is_sampled(self) -> bool:
        """True if a gradient uses a part of the window only."""
        return _is_sampled(self.window.rows, self._section)

    def curvature(self) -> float:
        """Return the largest eigenvalue of the second derivative."""
        full = len(self.window)
        return full / self._section.count_for_mean(full)

    def curvature_bound(self) -> FloatMatrix:
        """Return the second derivative, shape (d, d)."""
        return np.eye(self.dimension) * self.curvature()

    def hessian(self, x: FloatVector) -> FloatMatrix:
        """Return the second derivative, shape (d, d), which is the same at every *x*."""
        del x
        return self.curvature_bound()


class Average(Mean):
    """Average consensus: f = 0, and the first estimate is the node's own value."""

    def start(self) -> FloatVector:
        """Return the mean of the node's readings."""
        own: FloatVector = self.window.rows.mean(axis=0)
        return own

    def gradient(self, x: FloatVector, randomness: RoundRandomness) -> FloatVector:
        """Return zero: only the coupling term moves the estimate."""
        del randomness
        return np.zeros_like(x)


class Flat:
    """f = 0, whatever is read: the objective of a follower, which takes part without readings.

    In the exact method its node ends at the optimum of the others. Checked by
    test_followers_end_at_the_optimum_of_the_members.
    """

    fields: frozenset[str] = frozenset()
    ready = True

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    def absorb(self, samples: Sequence[Sample]) -> None:
        """Ignore *samples*: a follower has no readings of its own."""

    def start(self) -> FloatVector:
        """Return the first estimate, which is zero on all nodes; shape (d,)."""
        return np.zeros(self.dimension)

    def gradient(self, x: FloatVector, randomness: RoundRandomness) -> FloatVector:
        """Return the gradient of f = 0 at *x*, shape (d,)."""
        del randomness
        return np.zeros_like(x)

    def curvature(self) -> float:
        """Return the largest eigenvalue of the second derivative of f = 0."""
        return 0.0

    def curvature_bound(self) -> FloatMatrix:
        """Return zero, shape (d, d)."""
        return np.zeros((self.dimension, self.dimension))


def objective_of(section: sections.ObjectiveSection, role: sections.Role) -> Objective:
    """Return the objective of a node with this *role*."""
    made = make_objective(section)
    return Flat(made.dimension) if role == "follower" else made


class Loss(Protocol):
    """A convex loss l of a prediction z and a target y, entry by entry."""

    def slope(self, z: FloatVector, y: FloatVector) -> FloatVector:
        """Return the first derivative dl/dz of each entry."""

    def curvature(self, z: FloatVector, y: FloatVector) -> FloatVector:
        """Return the second derivative d2l/dz2 of each entry."""

    def check(self, y: float) -> None:
        """Raise ConfigError for a target that the loss does not allow."""

    @property
    def most_curved(self) -> float:
        """The largest value of `curvature` at any z and y."""


class SquaredLoss:
    """The squared loss l = (z - y)^2 / 2."""

    most_curved = 1.0

    def slope(self, z: FloatVector, y: FloatVector) -> FloatVector:
        """Return the residual z - y."""
        return z - y

    def curvature(self, z: FloatVector, y: FloatVector) -> FloatVector:
        """Return one for each entry."""
        del y
        return np.ones_like(z)

    def check(self, y: float) -> None:
        """Accept every number as a target."""


class LogisticLoss:
    """The logistic loss l = log(1 + e^z) - y z, for targets y in {0, 1}."""

    most_curved = 0.25

    def slope(self, z: FloatVector, y: FloatVector) -> FloatVector:
        """Return sigmoid(z) - y for each entry."""
        return 0.5 * (1.0 + np.tanh(0.5 * z)) - y

    def curvature(self, z: FloatVector, y: FloatVector) -> FloatVector:
        """Return sigmoid(z) (1 - sigmoid(z)) for each entry."""
        del y
        probability = 0.5 * (1.0 + np.tanh(0.5 * z))
        return probability * (1.0 - probability)

    def check(self, y: float) -> None:
        """Raise ConfigError for a target other than 0 and 1."""
        if y not in (0.0, 1.0):
            raise ConfigError("objective.target must be 0 or 1 in every reading for kind logistic")


@dataclass(frozen=True)
class HuberLoss:
    """The Huber loss: (z - y)^2 / 2 up to *threshold*, linear beyond.

    An outlier therefore has a bounded influence on the gradient.
    """

    threshold: float
    most_curved: ClassVar[float] = 1.0

    def slope(self, z: FloatVector, y: FloatVector) -> FloatVector:
        """Return the residual z - y, clipped to +-threshold."""
        clipped: FloatVector = np.clip(z - y, -self.threshold, self.threshold)
        return clipped

    def curvature(self, z: FloatVector, y: FloatVector) -> FloatVector:
        """Return one where the residual is within the threshold, and zero elsewhere."""
        return (np.abs(z - y) <= self.threshold).astype(np.float64)

    def check(self, y: float) -> None:
        """Accept every number as a target."""


class Regression:
    """f(x) = mean loss(phi . x, y) + penalty/2 |x|^2 over the readings' (phi, y)."""

    def __init__(self, section: sections.ObjectiveSection, loss: Loss) -> None:
        if section.target is None:
            raise ConfigError("objective.target is needed")
        self._section, self._loss, self._target = section, loss, section.target
        self._features = section.features or []
        self.dimension = sum(feature_width(feature) for feature in self._features)
        named = {f.field or f.daily for f in self._features} | {self._target.field}
        self.fields = frozenset(name for name in named if name is not None)
        self.window = Window(self.dimension + 1, section.window, section.window_s)
        self._curved: tuple[FloatMatrix, float] | None = None  # the bound, its eigenvalue
        self._bound: tuple[FloatMatrix, FloatMatrix] | None = None  # rows, and the bound for them

    @property
    def ready(self) -> bool:
        """True as soon as there is one reading."""
        return len(self.window) > 0

    def absorb(self, samples: Sequence[Sample]) -> None:
        """Add new readings; raises ConfigError for a target that the loss does not allow."""
        rows = [self._row(sample) for sample in samples]
        for row in rows:
            self._loss.check(row[-1])
        self.window.extend(rows)

    def start(self) -> FloatVector:
        """Return zero, which is the same on all nodes."""
        return np.zeros(self.dimension)

    def gradient(self, x: FloatVector, randomness: RoundRandomness) -> FloatVector:
        """Return Phi' slope(Phi x, y) / N + penalty x over the window, or a minibatch of it."""
        rows = _minibatch(self.window.rows, self._section, randomness)
        phi, y = rows[:, :-1], rows[:, -1]
        total: FloatVector = phi.T @ self._loss.slope(phi @ x, y)
        scaled = _normalised(total, len(rows), len(self.window), self._section)
        return scaled + self._section.penalty * x

    @property
    def is_sampled(self) -> bool:
        """True if a gradient uses a part of the window only."""
        return _is_sampled(self.window.rows, self._section)

    def curvature(self) -> float:
        """Return the largest eigenvalue of the second derivative over all x."""
        bound = self.curvature_bound()
        if self._curved is None or self._curved[0] is not bound:
            self._curved = bound, float(np.linalg.eigvalsh(bound)[-1])
        return self._curved[1]

    def curvature_bound(self) -> FloatMatrix:
        """Return a matrix H, shape (d, d), with hessian(x) <= H at every x."""
        rows = self.window.rows
        if self._bound is None or self._bound[0] is not rows:
            phi = rows[:, :-1]
            count = self._section.count_for_mean(len(phi))
            curved = self._loss.most_curved * (phi.T @ phi) / count
            self._bound = rows, curved + self._section.penalty * np.eye(self.dimension)
        return self._bound[1]

    def hessian(self, x: FloatVector) -> FloatMatrix:
        """Return the second derivative at *x*, shape (d, d), for solvers that may see readings."""
        phi, y = self.window.rows[:, :-1], self.window.rows[:, -1]
        curved: FloatMatrix = (phi.T * self._loss.curvature(phi @ x, y)) @ phi
        count = self._section.count_for_mean(len(phi))
        result: FloatMatrix = curved / count + self._section.penalty * np.eye(self.dimension)
        return result

    def _row(self, sample: Sample) -> list[float]:
        phi = [entry for feature in self._features for entry in feature_values(feature, sample)]
        return [*phi, _scaled(sample, self._target)]


P = TypeVar("P", bound="Mean | Regression")


class OfReadings(Generic[P]):
    """What an objective over the readings of *problem* leaves to that one: the readings."""

    def __init__(self, problem: P) -> None:
        self.problem, self.fields = problem, problem.fields

    @property
    def window(self) -> Window:
        """The window of the problem: it slides by time and survives a restart."""
        return self.problem.window

    @property
    def ready(self) -> bool:
        """True as soon as there is one reading."""
        return self.problem.ready

    def absorb(self, samples: Sequence[Sample]) -> None:
        """Add new readings, and drop the oldest ones beyond the window."""
        self.problem.absorb(samples)


def feature_width(feature: sections.Feature) -> int:
    """Return the number of entries of the regressor that *feature* makes."""
    return 2 * (feature.harmonics or 1) if feature.daily is not None else 1


def feature_values(feature: sections.Feature, sample: Sample) -> list[float]:
    """Return the entries of the regressor that *feature* makes from *sample*."""
    if feature.constant is not None:
        return [feature.constant]
    if feature.daily is not None:
        angle = 2.0 * math.pi * sample.values[feature.daily] / 24.0
        orders = range(1, (feature.harmonics or 1) + 1)
        return [f(order * angle) for order in orders for f in (math.sin, math.cos)]
    assert feature.field is not None
    return [(sample.values[feature.field] - feature.offset) / feature.scale]


def _scaled(sample: Sample, column: sections.Column) -> float:
    return (sample.values[column.field] - column.offset) / column.scale


def _is_sampled(rows: FloatMatrix, section: sections.ObjectiveSection) -> bool:
    return section.minibatch is not None and section.minibatch < len(rows)


def _minibatch(
    rows: FloatMatrix, section: sections.ObjectiveSection, randomness: RoundRandomness
) -> FloatMatrix:
    if not _is_sampled(rows, section):
        return rows
    order = np.argsort(randomness.uniform("minibatch", len(rows)))
    chosen: FloatMatrix = rows[order[: section.minibatch]]
    return chosen


def _normalised(
    total: FloatVector, batch: int, window: int, section: sections.ObjectiveSection
) -> FloatVector:
    """Scale a sum over *batch* of *window* rows as the weight of the section says."""
    return total / batch * (window / section.count_for_mean(window))
