"""What a coupling term may do to an estimate: it is capped, and it never leaves the headroom.

A member of the fleet that lies can answer with any number that the range check allows, which is the
whole range of differences. So a coupling term moves the estimate by at most CAP times the median
size of the latest terms. The size of a term is the root mean square of its entries. Terms shrink
while the fleet converges, and so does what a lie can do. SECURITY.md says what is left.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from .quantiser import VALUE_BITS, dequantise
from .randomness import FloatVector

CAP = 64.0  # an honest node that comes back may bring a term of this many times the usual size
TERMS = 9
FLOOR = 2.0 ** (VALUE_BITS - 5)  # in resolutions: smaller terms are never capped
FIRST = 2.0 ** (VALUE_BITS - 3)  # in resolutions: the cap until TERMS terms are known


def size_of(term: FloatVector) -> float:
    """Return the root mean square of the entries of *term*."""
    return float(np.sqrt(np.mean(term**2)))


def cap_of(sizes: Sequence[float], resolution: float) -> float:
    """Return the largest size that a coupling term may have after terms of *sizes*."""
    if len(sizes) < TERMS:
        return FIRST * resolution
    return max(CAP * statistics.median(sizes), FLOOR * resolution)


def capped(term: Sequence[int], unit: float, cap: float) -> list[int]:
    """Return *term*, which counts *unit*, scaled down to the size *cap* if it is larger."""
    size = size_of(dequantise(term, unit))
    return [round(entry * (cap / size)) for entry in term] if size > cap else list(term)


def headroom(resolution: float) -> float:
    """Return the largest entry of an estimate: a little less than what quantises."""
    return (2.0 ** (VALUE_BITS - 1) - 2.0**10) * resolution


def is_within_headroom(x: FloatVector, resolution: float) -> bool:
    """True if the estimate *x* can be quantised."""
    return bool(np.all(np.abs(x) < headroom(resolution)))


def within_headroom(x: FloatVector, resolution: float) -> FloatVector:
    """Return *x* with every entry moved into the headroom."""
    result: FloatVector = np.clip(x, -headroom(resolution), headroom(resolution))
    return result
