"""The latest readings of a node: a window that slides by count, and by time if it has a span.

A reading counts from the round that takes it in. Its age is measured by the agent's monotonic
clock, which no correction of the time of day moves. Over a restart the ages go on by the time of
day, if that is plausible (runtime/kept_window.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .sample import Sample

FloatMatrix = npt.NDArray[np.float64]


class Window:
    """The latest readings, one row of numbers for each. `rows` is replaced, never changed.

    It keeps *length* readings at most. With *span_s* it drops readings that are older, but never
    the newest one: a node whose sensor is silent keeps a gradient.
    """

    def __init__(self, width: int, length: int, span_s: float | None = None) -> None:
        self.rows: FloatMatrix = np.empty((0, width))
        self.length = length
        self._span_s = math.inf if span_s is None else span_s
        self._taken = np.empty(0)  # monotonic seconds, one for each row
        self._now = 0.0

    def advance(self, now: float) -> None:
        """Set the time to *now*, in monotonic seconds, and drop the readings that are too old."""
        self._now = now
        self._drop()

    def extend(self, rows: Sequence[Sequence[float]]) -> None:
        """Append *rows*, which arrive now, and drop the oldest ones beyond length and span."""
        if rows:
            self._append(np.asarray(rows, float), np.full(len(rows), self._now))

    def ages_s(self, now: float) -> npt.NDArray[np.float64]:
        """Return the age of each row at monotonic *now*, in seconds."""
        ages: npt.NDArray[np.float64] = now - self._taken
        return ages

    def restore(self, rows: FloatMatrix, ages_s: npt.NDArray[np.float64]) -> None:
        """Append rows of an earlier start with their ages, the oldest first."""
        self._append(rows, self._now - ages_s)

    def _append(self, rows: FloatMatrix, taken: npt.NDArray[np.float64]) -> None:
        self.rows = np.vstack([self.rows, rows])
        self._taken = np.concatenate([self._taken, taken])
        self._drop()

    def _drop(self) -> None:
        late = int(np.count_nonzero(self._taken < self._now - self._span_s))
        first = max(len(self.rows) - self.length, min(late, len(self.rows) - 1), 0)
        if first:
            self.rows, self._taken = self.rows[first:], self._taken[first:]

    def __len__(self) -> int:
        return len(self.rows)


def window_of(objective: object) -> Window | None:
    """Return the window of *objective*; None if a user's own class keeps its readings itself."""
    window = getattr(objective, "window", None)
    return window if isinstance(window, Window) else None


class TakesSamples(Protocol):
    """The part of an objective that takes in readings."""

    def absorb(self, samples: Sequence[Sample]) -> None:
        """Add new readings, and drop those that are too old or too many."""


def take_in(objective: TakesSamples, samples: Sequence[Sample], now: float) -> None:
    """Add *samples*, which arrive at monotonic time *now*, to *objective*."""
    window = window_of(objective)
    if window is not None:
        window.advance(now)
    objective.absorb(samples)
