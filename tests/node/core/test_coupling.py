"""What a coupling term may do: the cap, and the headroom."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cipherfleet_node.core.coupling import (
    CAP,
    FIRST,
    FLOOR,
    TERMS,
    cap_of,
    capped,
    headroom,
    is_within_headroom,
    size_of,
    within_headroom,
)
from cipherfleet_node.core.quantiser import dequantise, quantise
from cipherfleet_node.core.randomness import FloatVector, RoundRandomness

RESOLUTION = 2.0**-32
reals = arrays(np.float64, st.integers(1, 8), elements=st.floats(-1e9, 1e9))
vectors = st.lists(st.integers(-(2**70), 2**70), min_size=1, max_size=8)
UNIT = 2.0**-54
sizes = st.lists(st.floats(0.0, 128.0), max_size=TERMS)


@given(vectors, st.floats(1e-6, 1e9))
def test_a_capped_term_keeps_its_direction_and_its_size_has_a_bound(
    term: list[int], cap: float
) -> None:
    limited, size = capped(term, UNIT, cap), size_of(dequantise(term, UNIT))
    assert size_of(dequantise(limited, UNIT)) <= cap * (1 + 1e-12) + UNIT
    if size <= cap:
        assert limited == term
    else:
        wanted = [entry * (cap / size) for entry in term]
        np.testing.assert_allclose(limited, wanted, rtol=1e-12, atol=1)


@given(sizes)
def test_the_cap_is_never_below_its_floor(earlier: list[float]) -> None:
    assert cap_of(earlier, RESOLUTION) >= FLOOR * RESOLUTION


def test_the_cap_shrinks_with_the_terms() -> None:
    assert cap_of([], RESOLUTION) == FIRST * RESOLUTION
    assert cap_of([1.0] * (TERMS - 1), RESOLUTION) == FIRST * RESOLUTION
    assert cap_of([1.0] * TERMS, RESOLUTION) == CAP
    assert cap_of([0.25] * TERMS, RESOLUTION) == CAP / 4


@pytest.mark.parametrize("lies", range(TERMS // 2 + 1))
def test_few_large_terms_do_not_raise_the_cap(lies: int) -> None:
    assert cap_of([100.0] * lies + [1.0] * (TERMS - lies), RESOLUTION) == CAP


@given(reals, st.integers(-30, 4), st.binary(min_size=32, max_size=32))
def test_what_is_within_the_headroom_can_be_quantised(
    x: FloatVector, exponent: int, seed: bytes
) -> None:
    resolution = 2.0**exponent
    moved = within_headroom(x, resolution)
    assert np.all(np.abs(moved) <= headroom(resolution))
    quantise(moved, resolution, RoundRandomness(seed))  # raises if it leaves its slot
    if is_within_headroom(x, resolution):
        assert np.array_equal(moved, x)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 128.0, -128.0])
def test_an_estimate_that_cannot_be_quantised_is_not_within_the_headroom(bad: float) -> None:
    assert not is_within_headroom(np.array([0.0, bad]), RESOLUTION)
    assert is_within_headroom(np.array([0.0, 127.0]), RESOLUTION)
