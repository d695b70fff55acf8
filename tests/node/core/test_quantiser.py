"""Quantising: from real numbers to resolutions and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipherfleet_node.core.quantiser import (
    START_NOISE,
    VALUE_BITS,
    dequantise,
    quantise,
    randomise_start,
)
from cipherfleet_node.core.randomness import RoundRandomness
from cipherfleet_node.errors import HeadroomExceeded

SEEDS = st.binary(min_size=32, max_size=32)
RESOLUTION = 2.0**-32
LIMIT = 2 ** (VALUE_BITS - 1)


def randomness(k: int) -> RoundRandomness:
    return RoundRandomness(k.to_bytes(32, "big"))


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.25, 0.5, 0.9])
def test_quantiser_is_unbiased(fraction: float) -> None:
    """Mean and variance of 40,000 roundings, within four deviations of the theory.

    Fixed seeds: deterministic.
    """
    count = 40_000
    for whole in (-3.0, 0.0, 1e6):
        x = np.full(count, (whole + fraction) * 0.5)
        rounded = np.array(quantise(x, 0.5, randomness(int(whole) + 5)), dtype=float)
        error = rounded - (whole + fraction)
        variance = fraction * (1 - fraction)
        assert abs(error.mean()) <= 4 * np.sqrt(variance / count)
        assert error.var() == pytest.approx(variance, abs=4 * 0.5 / np.sqrt(count))
        assert error.var() <= 0.25


@given(SEEDS, st.lists(st.floats(-100, 100), min_size=1, max_size=20))
def test_each_entry_goes_to_a_neighbouring_multiple(seed: bytes, entries: list[float]) -> None:
    """Whole multiples near 100 go up where u > 1 - 2^-23, as x/resolution + u is rounded.

    A run has some hundred of them: it fails by itself less than once in 10,000 times.
    """
    x = np.array(entries)
    integers = quantise(x, RESOLUTION, RoundRandomness(seed))
    assert all(isinstance(entry, int) for entry in integers)
    assert np.all(np.abs(np.array(integers) - x / RESOLUTION) < 1)


@given(SEEDS, st.integers(-LIMIT + 1, LIMIT - 1))
def test_multiples_of_the_resolution_stay_as_they_are(seed: bytes, entry: int) -> None:
    """But where u > 1 - 2^-23, as above: once in 10^5 runs of a hundred examples."""
    assert quantise(np.array([entry * RESOLUTION]), RESOLUTION, RoundRandomness(seed)) == [entry]
    assert dequantise([entry], RESOLUTION)[0] == entry * RESOLUTION


@pytest.mark.parametrize("entry", [LIMIT, -LIMIT, LIMIT + 1, 1e300, np.inf, -np.inf, np.nan])
def test_an_entry_that_would_leave_its_slot_is_refused(entry: float) -> None:
    x = np.array([0.0, entry * RESOLUTION, 0.0])
    with pytest.raises(HeadroomExceeded, match=r"39 bits at resolution 2\.32831e-10") as refused:
        quantise(x, RESOLUTION, randomness(0))
    assert "coarser resolution" in str(refused.value)


def test_the_refusal_does_not_tell_the_entry() -> None:
    with pytest.raises(HeadroomExceeded) as refused:
        quantise(np.array([123456.75]), RESOLUTION, randomness(0))
    assert "123456" not in str(refused.value)


def test_rounding_up_at_the_limit_is_refused_too() -> None:
    x = np.full(64, (LIMIT - 0.5) * RESOLUTION)
    with pytest.raises(HeadroomExceeded):
        quantise(x, RESOLUTION, randomness(1))


def test_a_coarse_start_is_random_at_the_resolution() -> None:
    """Zero and coarse readings alike end anywhere on +-16 resolutions, without bias.

    Fixed seeds: deterministic.
    """
    for coarse in (0.0, 21.5, -3.0):
        x = np.full(10_000, coarse)
        moved = (randomise_start(x, RESOLUTION, randomness(2)) - x) / RESOLUTION
        assert np.all(np.abs(moved) <= START_NOISE)
        assert abs(moved.mean()) < 4 * START_NOISE / np.sqrt(3 * 10_000)
        quantised = np.array(quantise(x + moved * RESOLUTION, RESOLUTION, randomness(3)))
        seen = np.bincount(quantised - round(coarse / RESOLUTION) + 17, minlength=35)
        assert np.count_nonzero(seen) >= 32, "not every multiple within reach was seen"
        assert seen.max() < 10_000 / 32 * 1.5
        # Without the start noise every entry would be the same coarse multiple.
        assert len(set(quantise(x, RESOLUTION, randomness(3)))) == 1


@given(st.lists(st.integers(-(2**62), 2**62), max_size=10))
def test_products_of_large_integers_are_rounded_once(integers: list[int]) -> None:
    unit = RESOLUTION * 2.0**-30
    expected = [float(entry) * unit for entry in integers]  # float() of an int rounds once
    assert dequantise(integers, unit).tolist() == expected
