"""Packing into slots: every bound from both sides."""

from __future__ import annotations

import json

import pytest
from gmpy2 import mpz
from hypothesis import given, settings
from hypothesis import strategies as st

from cipherfleet_node.core.exchange import (
    UNIT,
    Opening,
    make_answer,
    make_query,
    metropolis,
    open_answers,
    prepare_answer,
    read_ciphertexts,
)
from cipherfleet_node.core.packing import HALF_WEIGHT_BITS, MAX_DEGREE, METROPOLIS_BITS, Layout
from cipherfleet_node.core.paillier import PrivateKey
from cipherfleet_node.core.quantiser import VALUE_BITS
from cipherfleet_node.errors import HeadroomExceeded, RemoteProtocolError
from tests.support.paths import ROOT
from tests.tools.make_vectors import packing_vectors

VECTORS = ROOT / "node" / "vectors" / "packing.json"
HALF = 1 << 70  # of a slot
LARGEST_Q = (1 << (VALUE_BITS - 1)) - 1
LARGEST_WEIGHT = (1 << HALF_WEIGHT_BITS) - 1
MODULUS = mpz(2) ** 512 - 1  # large enough for eight slots; its factors do not matter here

slot_values = st.one_of(
    st.sampled_from([-HALF, -HALF + 1, -1, 0, 1, HALF - 1]), st.integers(-HALF, HALF - 1)
)
vectors = st.lists(slot_values, min_size=1, max_size=20)


def by_hand(layout: Layout, values: list[int]) -> list[int]:
    """The definition, sum_l v_l 2^(71 l), in Python's own arithmetic."""
    size = layout.slots
    cuts = [values[start : start + size] for start in range(0, len(values), size)]
    return [sum(v << (71 * place) for place, v in enumerate(cut)) for cut in cuts]


@pytest.mark.parametrize(
    ("bits", "dimension", "slots", "ciphertexts", "size"),
    [
        (512, 7, 7, 1, 128),
        (512, 8, 7, 2, 128),
        (2048, 1, 28, 1, 512),
        (2048, 28, 28, 1, 512),
        (2048, 29, 28, 2, 512),
        (3072, 1, 43, 1, 768),
        (3072, 43, 43, 1, 768),
    ],
)
def test_a_slot_has_71_bits_and_ciphertexts_are_as_few_as_can_be(
    bits: int, dimension: int, slots: int, ciphertexts: int, size: int
) -> None:
    layout = Layout(bits, dimension)
    assert layout.slot_bits == 71
    assert (layout.slots, layout.ciphertexts, layout.ciphertext_bytes) == (slots, ciphertexts, size)
    assert sum(layout.counts) == dimension
    assert len(layout.counts) == ciphertexts


@given(vectors)
def test_packing_is_the_weighted_sum_of_its_definition(values: list[int]) -> None:
    layout = Layout(512, len(values))
    assert [int(plaintext) for plaintext in layout.pack(values)] == by_hand(layout, values)


@given(vectors)
def test_unpacking_undoes_packing(values: list[int]) -> None:
    layout = Layout(512, len(values))
    plaintexts = [plaintext % MODULUS for plaintext in layout.pack(values)]
    assert layout.unpack(plaintexts, MODULUS, HALF) == values


@given(
    st.lists(st.tuples(st.integers(-(2**40), 2**40), st.integers(-(2**40), 2**40)), min_size=1),
    st.integers(-(2**20), 2**20),
)
def test_packing_is_linear(pairs: list[tuple[int, int]], factor: int) -> None:
    layout = Layout(512, len(pairs))
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    mixed = layout.pack([factor * a + b for a, b in pairs])
    packs = zip(layout.pack(left), layout.pack(right), strict=True)
    assert mixed == [factor * p + q for p, q in packs]


@pytest.mark.parametrize("value", [HALF, -HALF - 1, 1 << 90])
@pytest.mark.parametrize("place", [0, 6, 7, 19])
def test_an_entry_that_its_slot_cannot_hold_is_refused(value: int, place: int) -> None:
    values = [0] * 20
    values[place] = value
    with pytest.raises(HeadroomExceeded, match="more than 70 bits"):
        Layout(512, 20).pack(values)


def test_a_vector_of_another_length_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="3 entries for dimension 4"):
        Layout(512, 4).pack([1, 2, 3])


@given(vectors, st.data())
def test_a_slot_beyond_its_bound_is_detected(values: list[int], data: st.DataObject) -> None:
    layout = Layout(512, len(values))
    plaintexts = [plaintext % MODULUS for plaintext in layout.pack(values)]
    largest = max(abs(value) for value in values)
    assert layout.unpack(plaintexts, MODULUS, largest) == values
    with pytest.raises(RemoteProtocolError, match="a slot exceeds its bound") as refused:
        layout.unpack(plaintexts, MODULUS, largest - data.draw(st.integers(1, largest + 1)))
    assert refused.value.reason == "out_of_range"


@given(st.integers(0, 6), st.booleans())
def test_whatever_lies_above_the_last_slot_is_detected(entries: int, negative: bool) -> None:
    """Also where the plaintext wraps around the modulus."""
    layout = Layout(512, entries + 1)
    above = mpz(1) << (71 * (entries + 1))
    plaintext = (-above - (1 << 70) if negative else above) % MODULUS
    with pytest.raises(RemoteProtocolError, match="exceeds its slots") as refused:
        layout.unpack([plaintext], MODULUS, HALF)
    assert refused.value.reason == "out_of_range"


@given(st.integers(0, int(MODULUS) - 1))
def test_any_plaintext_is_either_in_range_or_refused(plaintext: int) -> None:
    layout = Layout(512, 3)
    try:
        values = layout.unpack([mpz(plaintext)], MODULUS, HALF)
    except RemoteProtocolError:
        return
    assert by_hand(layout, values)[0] % MODULUS == plaintext


@settings(max_examples=20)
@given(
    degree=st.sampled_from([1, 2, 3, 31, 62, MAX_DEGREE]),
    signs=st.lists(st.sampled_from([-1, 1]), min_size=10, max_size=10),
)
def test_the_largest_combination_fits_its_slot(
    key: PrivateKey, degree: int, signs: list[int]
) -> None:
    """A node of the largest degree, all of whose neighbours sit at the far end of the range.

    Everything at its maximum at once: |q_j - q_i|, both half weights, the dither, and the sum of
    the Metropolis factors (neighbours of degree one).
    """
    layout = Layout(512, 10)
    asked = [-sign * LARGEST_Q for sign in signs]
    own = [sign * LARGEST_Q for sign in signs]
    noise = [sign * (LARGEST_WEIGHT - 1) // 2 for sign in signs]
    take = lambda: key.obfuscator(mpz(3), mpz(5))  # noqa: E731
    query = read_ciphertexts(key.public, layout, make_query(key.public, layout, asked, take))
    prepared = prepare_answer(key.public, layout, own, LARGEST_WEIGHT, noise, take)
    answer = make_answer(key.public, layout, query, LARGEST_WEIGHT, prepared)
    exponent = LARGEST_WEIGHT * metropolis(degree, 1)
    opening = Opening(exponent, read_ciphertexts(key.public, layout, answer))
    openings = {f"n{index}": opening for index in range(degree)}
    extreme = degree * exponent * (LARGEST_WEIGHT * 2 * LARGEST_Q + (LARGEST_WEIGHT - 1) // 2)
    assert open_answers(key, layout, openings) == [sign * extreme for sign in signs]
    assert extreme < HALF


@given(st.integers(1, MAX_DEGREE), st.data())
def test_metropolis_factors_sum_to_less_than_one(degree: int, data: st.DataObject) -> None:
    others = data.draw(st.lists(st.integers(1, 63), min_size=degree, max_size=degree))
    factors = [metropolis(degree, other) for other in others]
    assert min(factors) > 0
    assert sum(factors) < 1 << METROPOLIS_BITS
    assert all(metropolis(other, degree) == m for other, m in zip(others, factors, strict=True))


def test_one_more_neighbour_than_allowed_would_weigh_nothing() -> None:
    assert metropolis(MAX_DEGREE, 1) == 1
    assert metropolis(MAX_DEGREE + 1, 1) == 0


def test_a_unit_is_the_product_of_the_three_scales() -> None:
    assert UNIT == 2.0**-30


# -- vectors --------------------------------------------------------------------------------------


def test_the_packing_vectors_are_up_to_date() -> None:
    assert json.loads(VECTORS.read_text()) == packing_vectors()


@pytest.mark.parametrize("case", json.loads(VECTORS.read_text())["pack"], ids=lambda c: c["name"])
def test_packing_vectors_hold(case: dict[str, object]) -> None:
    values = [int(value) for value in case["values"]]  # type: ignore[attr-defined]
    layout = Layout(int(str(case["key_bits"])), len(values))
    if "fails" in case:
        with pytest.raises(HeadroomExceeded):
            layout.pack(values)
    else:
        assert [str(plaintext) for plaintext in layout.pack(values)] == case["plaintexts"]
        assert [str(plaintext) for plaintext in by_hand(layout, values)] == case["plaintexts"]


@pytest.mark.parametrize("case", json.loads(VECTORS.read_text())["unpack"], ids=lambda c: c["name"])
def test_unpacking_vectors_hold(case: dict[str, object]) -> None:
    layout = Layout(int(str(case["key_bits"])), int(str(case["dimension"])))
    plaintexts = [mpz(plaintext) for plaintext in case["plaintexts"]]  # type: ignore[attr-defined]
    arguments = plaintexts, mpz(str(case["modulus"])), int(str(case["bound"]))
    if "fails" in case:
        with pytest.raises(RemoteProtocolError) as refused:
            layout.unpack(*arguments)
        assert refused.value.reason == case["fails"]
    else:
        assert [str(value) for value in layout.unpack(*arguments)] == case["values"]
