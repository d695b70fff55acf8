"""The middle of numbers, and how far they usually are from it, in spite of single wrong ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .randomness import FloatVector

NORMAL = 1.4826  # the deviation of a normal distribution, in median absolute deviations


def middle_and_deviation(values: Sequence[float] | FloatVector) -> tuple[float, float]:
    """Return the median of *values*, and the deviation that their median distance from it means."""
    found = np.asarray(values, dtype=np.float64)
    middle = float(np.median(found))
    return middle, NORMAL * float(np.median(np.abs(found - middle)))
