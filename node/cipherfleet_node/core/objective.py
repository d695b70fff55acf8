"""The private objectives: a node's readings, seen only through gradients at its own estimate.

Physical units end here: readings are brought to order one by offset and scale.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings import sections

from .randomness import Draws, FloatVector
from .sample import Sample

FloatMatrix = npt.NDArray[np.float64]


class Objective(Protocol):
    """f_i: R^d -> R. A class of one's own needs these and is named module:Class.

    It is constructed with the objective section of the configuration.
    """

    dimension: int
    fields: frozenset[str]  # of a reading, that it uses

    @property
    def ready(self) -> bool:
        """Whether enough readings are there for a gradient."""

    def absorb(self, samples: Sequence[Sample]) -> None:
        """Take in new readings; the oldest beyond the window go."""

    def start(self) -> FloatVector:
        """The first estimate, shape (d,)."""

    def gradient(self, x: FloatVector, draws: Draws) -> FloatVector:
        """A stochastic gradient at *x*, shape (d,), unbiased over *draws*."""


def make_objective(section: sections.Objective) -> Objective:
    """The objective that *section* describes (checked by config.check_objective)."""
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


def _import_objective(name: str, section: sections.Objective) -> Objective:
    module, _, attribute = name.partition(":")
    try:
        made = getattr(importlib.import_module(module), attribute)(section)
    except Exception as error:  # somebody else's code: whatever it raises, the operator is told
        raise ConfigError(
            f"objective.kind {name!r} cannot be imported: {type(error).__name__}: {error}"
        ) from None
    return cast("Objective", made)


class Window:
    """The latest readings as rows of numbers."""

    def __init__(self, width: int, length: int) -> None:
        self.rows: FloatMatrix = np.empty((0, width))
        self._length = length

    def extend(self, rows: Sequence[Sequence[float]]) -> None:
        """Append *rows*, forget the oldest beyond the window's length."""
        if rows:
            self.rows = np.vstack([self.rows, np.asarray(rows, float)])[-self._length :]

    def __len__(self) -> int:
        return len(self.rows)


class Mean:
    """f(x) = 1/2 mean |x - y|^2 over the readings y: the fleet agrees on the mean of the nodes'."""

    def __init__(self, section: sections.Objective) -> None:
        self._columns = section.values or []
        self._section = section
        self.dimension = len(self._columns)
        self.fields = frozenset(column.field for column in self._columns)
        self._window = Window(self.dimension, section.window)

    @property
    def ready(self) -> bool:
        """Whether a reading has come."""
        return len(self._window) > 0

    def absorb(self, samples: Sequence[Sample]) -> None:
        """Take in new readings."""
        self._window.extend([[_scaled(s, c) for c in self._columns] for s in samples])

    def start(self) -> FloatVector:
        """Zero: the readings enter by the gradient."""
        return np.zeros(self.dimension)

    def gradient(self, x: FloatVector, draws: Draws) -> FloatVector:
        """mean(x - y) over the window or a minibatch of it."""
        rows = _minibatch(self._window.rows, self._section, draws)
        return _normalised((x - rows).sum(axis=0), len(rows), len(self._window), self._section)

    def hessian(self, x: FloatVector) -> FloatMatrix:
        """The second derivative, shape (d, d)."""
        del x
        full = len(self._window)
        return np.eye(self.dimension) * (full / (self._section.normalise_by or full))


class Average(Mean):
    """f = 0, and the estimate starts at the node's own value: plain average consensus."""

    def start(self) -> FloatVector:
        """The node's own value: the mean of its readings."""
        own: FloatVector = self._window.rows.mean(axis=0)
        return own

    def gradient(self, x: FloatVector, draws: Draws) -> FloatVector:
        """Nothing pulls but the neighbours."""
        del draws
        return np.zeros_like(x)


class Loss(Protocol):
    """A convex loss of a prediction z against a target y, entry by entry."""

    def slope(self, z: FloatVector, y: FloatVector) -> FloatVector:
        """dl/dz."""

    def curvature(self, z: FloatVector, y: FloatVector) -> FloatVector:
        """d2l/dz2."""

    def check(self, y: float) -> None:
        """Raise ConfigError for a target that the loss does not know."""


class SquaredLoss:
    """l = (z - y)^2 / 2."""

    def slope(self, z: FloatVector, y: FloatVector) -> FloatVector:
        """The residual."""
        return z - y

    def curvature(self, z: FloatVector, y: FloatVector) -> FloatVector:
        """One."""
        del y
        return np.ones_like(z)

    def check(self, y: float) -> None:
        """Any number is a target."""


class LogisticLoss:
    """l = log(1 + e^z) - y z, for y in {0, 1}."""

    def slope(self, z: FloatVector, y: FloatVector) -> FloatVector:
        """sigmoid(z) - y."""
        return 0.5 * (1.0 + np.tanh(0.5 * z)) - y

    def curvature(self, z: FloatVector, y: FloatVector) -> FloatVector:
        """sigmoid(z) (1 - sigmoid(z))."""
        del y
        probability = 0.5 * (1.0 + np.tanh(0.5 * z))
        return probability * (1.0 - probability)

    def check(self, y: float) -> None:
        """Only 0 and 1 are classes."""
        if y not in (0.0, 1.0):
            raise ConfigError("objective.target must be 0 or 1 in every reading for kind logistic")


@dataclass(frozen=True)
class HuberLoss:
    """(z - y)^2 / 2 up to *threshold*, linear beyond: outliers pull with a bounded force."""

    threshold: float

    def slope(self, z: FloatVector, y: FloatVector) -> FloatVector:
        """The residual, clipped."""
        clipped: FloatVector = np.clip(z - y, -self.threshold, self.threshold)
        return clipped

    def curvature(self, z: FloatVector, y: FloatVector) -> FloatVector:
        """One inside, zero outside."""
        return (np.abs(z - y) <= self.threshold).astype(np.float64)

    def check(self, y: float) -> None:
        """Any number is a target."""


class Regression:
    """f(x) = mean loss(phi . x, y) + penalty/2 |x|^2 over the readings' (phi, y)."""

    def __init__(self, section: sections.Objective, loss: Loss) -> None:
        if section.target is None:
            raise ConfigError("objective.target is needed")
        self._section, self._loss, self._target = section, loss, section.target
        self._features = section.features or []
        self.dimension = sum(feature_width(feature) for feature in self._features)
        named = {f.field or f.daily for f in self._features} | {self._target.field}
        self.fields = frozenset(name for name in named if name is not None)
        self._window = Window(self.dimension + 1, section.window)

    @property
    def ready(self) -> bool:
        """Whether a reading has come."""
        return len(self._window) > 0

    def absorb(self, samples: Sequence[Sample]) -> None:
        """Take in new readings; raises ConfigError for a target that the loss refuses."""
        rows = [self._row(sample) for sample in samples]
        for row in rows:
            self._loss.check(row[-1])
        self._window.extend(rows)

    def start(self) -> FloatVector:
        """Zero, the same for all."""
        return np.zeros(self.dimension)

    def gradient(self, x: FloatVector, draws: Draws) -> FloatVector:
        """Phi' slope(Phi x, y) / N + penalty x over the window or a minibatch of it."""
        rows = _minibatch(self._window.rows, self._section, draws)
        phi, y = rows[:, :-1], rows[:, -1]
        total: FloatVector = phi.T @ self._loss.slope(phi @ x, y)
        scaled = _normalised(total, len(rows), len(self._window), self._section)
        return scaled + self._section.penalty * x

    def hessian(self, x: FloatVector) -> FloatMatrix:
        """The second derivative at *x*, shape (d, d), for solvers that may see the readings."""
        phi, y = self._window.rows[:, :-1], self._window.rows[:, -1]
        curved: FloatMatrix = (phi.T * self._loss.curvature(phi @ x, y)) @ phi
        count = self._section.normalise_by or len(phi)
        result: FloatMatrix = curved / count + self._section.penalty * np.eye(self.dimension)
        return result

    def _row(self, sample: Sample) -> list[float]:
        phi = [entry for feature in self._features for entry in feature_values(feature, sample)]
        return [*phi, _scaled(sample, self._target)]


def feature_width(feature: sections.Feature) -> int:
    """How many entries of the regressor *feature* makes."""
    return 2 * (feature.harmonics or 1) if feature.daily is not None else 1


def feature_values(feature: sections.Feature, sample: Sample) -> list[float]:
    """The entries of the regressor that *feature* makes of *sample*."""
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


def _minibatch(rows: FloatMatrix, section: sections.Objective, draws: Draws) -> FloatMatrix:
    size = section.minibatch
    if size is None or size >= len(rows):
        return rows
    chosen: FloatMatrix = rows[np.argsort(draws.uniform("minibatch", len(rows)))[:size]]
    return chosen


def _normalised(
    total: FloatVector, batch: int, window: int, section: sections.Objective
) -> FloatVector:
    """A sum over *batch* of *window* rows as the mean, or over normalise_by rows."""
    return total / batch * (window / (section.normalise_by or window))
