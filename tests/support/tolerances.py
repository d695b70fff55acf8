"""Tolerances for floating-point results of different code paths.

Processors round alike but add in different orders: a BLAS kernel or a SIMD loop sums as many terms
at a time as its registers hold, and some multiply and add with one rounding (FMA). The same sums in
another order, through another engine or on another processor therefore differ by a few units in
the last place. Results are equal to the last bit only where the same process, or the same program
on the same machine, carries out the same operations; whole numbers below 2^53 are always exact.
"""

from __future__ import annotations

import re

import numpy as np

from cipherfleet_node.core.randomness import FloatVector

UNIT_ROUNDOFF = 2.0**-53  # the largest relative error of one operation
# A printed figure: decimals, an exponent or a percentage. A count is a word like others.
FIGURE = re.compile(r"\d+\.\d+(?:e[-+]\d+)?|\d+e[-+]\d+|\d+(?= ?%)")


def rounding_of_sums(operations: int, scale: float) -> float:
    """The most by which two orders of *operations* operations on terms up to *scale* differ.

    Each order is off by at most operations * UNIT_ROUNDOFF * scale, to first order.
    """
    return 2 * operations * UNIT_ROUNDOFF * scale


def assert_same_trajectories(
    got: FloatVector, expected: FloatVector, resolution: float, *, operations: int
) -> None:
    """Two runs of the iteration with the same random choices agree but for rounding.

    Both have shape (rounds, n, d), the estimates after each round. *operations* are the additions
    and multiplications behind one entry of one round: rows and columns of the readings, neighbours,
    and about ten of the update. A round does not enlarge differences (the map of two states is
    I - gamma L - lambda H, of norm <= 1), so that they add up: after k rounds the runs differ by at
    most the rounding of k * operations operations.

    Quantisation may amplify such a difference. Where x/resolution + u is a whole number to the last
    bits, one run rounds it up and the other down. That happens once in about
    resolution / rounding = 10^7 entries, and on some processors only. Then one entry of one node
    jumps by a_ij resolutions, less than one, at itself and its neighbours. From there on the two
    runs round independently; each round adds less than two resolutions per entry, as
    test_the_fleet_equals_the_reference_without_dither_to_quantisation_error shows. So the first
    difference beyond rounding must lie in one column and stay below one resolution. A mistake in
    the arithmetic shows in many columns at once, in the first rounds.
    """
    assert got.shape == expected.shape
    apart = np.abs(got - expected)
    scale = max(1.0, float(np.abs(expected).max()))
    rounds = np.arange(1, len(got) + 1)
    rounding = np.array([rounding_of_sums(int(k) * operations, scale) for k in rounds])
    beyond = apart > rounding[:, None, None]
    if not beyond.any():
        return
    first = int(np.argmax(beyond.any(axis=(1, 2))))
    columns = np.flatnonzero(beyond[first].any(axis=0))
    found = f"round {first}: apart by {apart[first].max() / resolution:.3g} resolutions"
    assert len(columns) == 1, f"{found} in the columns {columns.tolist()}: no single rounding"
    assert apart[first].max() <= resolution + rounding[first], f"{found}: more than one rounding"
    since = rounds[first:] - first
    assert np.all(
        np.sqrt((apart[first:] ** 2).sum(axis=(1, 2)))
        <= 2.0 * resolution * np.sqrt(apart[0].size) * since + rounding[first:]
    ), f"{found}, and then more than two resolutions per entry and round"


def assert_same_text(got: str, expected: str) -> None:
    """The same words, and figures that differ by at most one in their last printed digit.

    A figure that is printed with four digits may lie so close to the middle between two of them
    that its last bit decides; a mistake moves a figure further, or a word.
    """
    assert FIGURE.sub("#", got) == FIGURE.sub("#", expected)
    for one, other in zip(FIGURE.findall(got), FIGURE.findall(expected), strict=True):
        step = min(last_digit(one), last_digit(other))
        assert abs(float(one) - float(other)) <= 1.001 * step, f"{one}, expected {other}"


def last_digit(number: str) -> float:
    """The value of one in the last digit of *number*, as it is printed: 0.001 of 4.125."""
    mantissa, _, exponent = number.partition("e")
    decimals = len(mantissa.partition(".")[2])
    return float(10.0 ** (int(exponent or 0) - decimals))
