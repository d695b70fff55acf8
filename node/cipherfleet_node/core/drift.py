"""The mean residual of the fleet as a second agreed number, and what a node reads from it.

A sensor that drifts has residuals that move, and so has every sensor when the weather does what the
model does not know. The difference to the fleet is clear where the own residual is not. So the
vector that the nodes exchange gets one more entry m. With x the parameters and r_i(x) the mean
residual of node i, target minus prediction, over its newest `drift.window` readings:

    gradient at (x, m) = (gradient of f_i at x,  m - clip(r_i(x), -BOUND, BOUND))

**Why m ends at the mean of the r_i.** The first d entries do not depend on m, so x goes its way as
without it, to the optimum. There the last entry is the gradient of (m - r_i)^2 / 2, and the exact
iteration ends at the mean of the r_i over the members. Only stepsizes see both parts: the curvature
is that of f_i or one, whichever is larger. A follower has gradient zero in all entries.

**BOUND** limits what one node with a broken sensor does to m: by 2 BOUND / n. It is in the
objective's units of order one, and the same on all nodes. Window and BOUND are in the digest of
parameters (`parameters.py`).

**What it shows.** Every node learns the mean of the fleet's r_i, and nothing else that it did not
know. All neighbours of a node together learn its r_i from the dual, as they learn its gradient; the
shield hides both.

Source: docs/explanation/algorithm.md#drift. Checked by
test_the_fleet_with_a_mean_residual_equals_the_plain_reference and
test_the_parameters_are_those_of_the_fleet_without_it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .objective import OfReadings, Regression
from .randomness import FloatVector, RoundRandomness
from .robust import middle_and_deviation
from .window import FloatMatrix

BOUND = 8.0  # of |r_i|, in the objective's units


def mean_residual(rows: FloatMatrix, x: FloatVector, window: int) -> float:
    """Return r_i, clipped, at *x*, shape (d,).

    It is the mean over the last *window* of *rows*, which have shape (n, d + 1).
    """
    newest = rows[-window:]
    found = float((newest[:, -1] - newest[:, :-1] @ x).mean())
    return min(max(found, -BOUND), BOUND)


class Drifting(OfReadings[Regression]):
    """The objective of *problem* with the entry m behind its own; see the head of the module."""

    def __init__(self, problem: Regression, window: int) -> None:
        super().__init__(problem)
        self.dimension, self._window = problem.dimension + 1, window
        self._bound: tuple[FloatMatrix, FloatMatrix] | None = None  # that of problem, and with m

    @property
    def is_sampled(self) -> bool:
        """True if a gradient of the problem uses a part of the window only."""
        return self.problem.is_sampled

    def start(self) -> FloatVector:
        """Return the start of the problem, and zero."""
        return np.append(self.problem.start(), 0.0)

    def gradient(self, x: FloatVector, randomness: RoundRandomness) -> FloatVector:
        """Return the gradient of the problem, and m - r_i; shape (d + 1,)."""
        own, m = x[:-1], float(x[-1])
        residual = mean_residual(self.window.rows, own, self._window)
        return np.append(self.problem.gradient(own, randomness), m - residual)

    def curvature(self) -> float:
        """Return the larger of the problem's and one, which is that of m."""
        return max(self.problem.curvature(), 1.0)

    def curvature_bound(self) -> FloatMatrix:
        """Return the bound of the problem with one for m, shape (d + 1, d + 1)."""
        own = self.problem.curvature_bound()
        if self._bound is None or self._bound[0] is not own:
            whole = np.eye(self.dimension)
            whole[:-1, :-1] = own
            self._bound = own, whole
        return self._bound[1]


# -- the rule of one node -------------------------------------------------------------------------

WINDOWS = 7  # the difference is judged after so many windows of readings
KEPT_WINDOWS = 28
PER_WINDOW = 24  # values of the difference that are kept for each window
OFF = 0.5  # of the alarm's limit: the alarm ends below it


@dataclass(frozen=True)
class Judgement:
    """A difference d = r_i - m, its distance from the usual one, and whether it is an alarm.

    *z* counts robust deviations of the history. It is None while the history is too short.
    """

    difference: float
    z: float | None
    is_alarm: bool


class DriftRange:
    """The usual range of d = r_i - m of one node, by the median and the deviation from it.

    Values of an alarm do not become usual. A drift that is slower than KEPT_WINDOWS does, and is
    not found. No deviation counts as smaller than *least*, since m itself is not known better.
    """

    def __init__(self, window: int, limit: float, least: float) -> None:
        self._limit, self._least = limit, least
        self.readings_per_value = max(1, window // PER_WINDOW)
        self.history: list[float] = []
        self.is_alarm = False
        self._since = self.readings_per_value  # readings since the latest value

    def judge(self, difference: float, readings: int) -> Judgement:
        """Return what *difference* means, after *readings* new ones; it then joins the history."""
        z = None
        if len(self.history) >= WINDOWS * PER_WINDOW:
            middle, deviation = middle_and_deviation(self.history)
            z = (difference - middle) / max(deviation, self._least)
            limit = self._limit * (OFF if self.is_alarm else 1.0)
            self.is_alarm = abs(z) >= limit
        self._since += readings
        if self._since >= self.readings_per_value and not self.is_alarm:
            self._since = 0
            self.history = [*self.history, difference][-KEPT_WINDOWS * PER_WINDOW :]
        return Judgement(difference, z, self.is_alarm)
