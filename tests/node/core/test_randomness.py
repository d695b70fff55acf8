"""The randomness of a round: repeatable, independent by label, uniform."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipherfleet_node.core.randomness import (
    SEED_BYTES,
    Draw,
    RoundRandomness,
    seeds_of,
    state_fingerprint,
)
from tests.support.paths import ROOT
from tests.tools.make_vectors import draws_vectors

SEED = bytes(range(32))
SEEDS = st.binary(min_size=SEED_BYTES, max_size=SEED_BYTES)
LABELS = st.text(max_size=20)


@given(SEEDS, LABELS)
def test_the_same_seed_and_label_give_the_same_draws(seed: bytes, label: str) -> None:
    first, second = RoundRandomness(seed), RoundRandomness(seed)
    assert np.array_equal(first.uniform(label, 5), second.uniform(label, 5))
    assert first.integers_below(1000, label, 5) == second.integers_below(1000, label, 5)
    assert np.array_equal(first.normal(label, 5), second.normal(label, 5))


@given(SEEDS, SEEDS, LABELS, LABELS)
def test_other_seeds_and_other_labels_give_other_draws(
    seed: bytes, other: bytes, label: str, another: str
) -> None:
    reference = RoundRandomness(seed).integers_below(1 << 120, label, 2)
    assert (RoundRandomness(other).integers_below(1 << 120, label, 2) == reference) == (
        seed == other
    )
    assert (RoundRandomness(seed).integers_below(1 << 120, another, 2) == reference) == (
        label == another
    )


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_seed_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"32 bytes, not {length}"):
        RoundRandomness(bytes(length))


@given(SEEDS, st.integers(1, 2**40), st.integers(0, 40))
def test_whole_numbers_lie_below_their_bound(seed: bytes, bound: int, count: int) -> None:
    numbers = RoundRandomness(seed).integers_below(bound, "x", count)
    assert len(numbers) == count
    assert all(0 <= number < bound for number in numbers)


def test_whole_numbers_are_uniform() -> None:
    counts = np.bincount(RoundRandomness(SEED).integers_below(7, "dice", 70_000), minlength=7)
    # Chi squared with 6 degrees of freedom exceeds 22.5 once in a thousand seeds; ours is fixed.
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 22.5


def test_uniform_numbers_are_uniform_on_the_unit_interval() -> None:
    numbers = np.sort(RoundRandomness(SEED).uniform("u", 100_000))
    assert numbers[0] >= 0.0
    assert numbers[-1] < 1.0
    # Kolmogorov and Smirnov: 1.95/sqrt(n) is passed once in a thousand seeds; ours is fixed.
    distance = np.abs(numbers - (np.arange(100_000) + 0.5) / 100_000).max()
    assert distance < 1.95 / np.sqrt(100_000)


def test_uniform_numbers_keep_53_bits() -> None:
    numbers = RoundRandomness(SEED).uniform("u", 100) * 2.0**53
    assert np.array_equal(numbers, np.floor(numbers))
    assert np.any(numbers % 2 == 1)


def test_normal_numbers_have_the_moments_of_the_normal_law() -> None:
    """Within four standard errors. Fixed seed: deterministic."""
    numbers = RoundRandomness(SEED).normal("n", 100_000)
    assert abs(numbers.mean()) < 4 / np.sqrt(100_000)
    assert abs(numbers.var() - 1) < 4 * np.sqrt(2 / 100_000)
    assert abs((numbers**3).mean()) < 4 * np.sqrt(15 / 100_000)
    assert abs((numbers**4).mean() - 3) < 4 * np.sqrt(96 / 100_000)
    assert np.all(np.isfinite(numbers))


states = st.lists(st.floats(allow_nan=False), min_size=1, max_size=4)


@given(states, states, st.integers(0, 2**63), st.integers(0, 2**63), st.floats(0.0, 10.0))
def test_a_draw_belongs_to_a_state(
    estimate: list[float], other: list[float], number: int, another: int, kick: float
) -> None:
    """The same state and number give the same seed in every round; anything else another one."""
    seeds = seeds_of(b"secret")

    def seed_of(x: list[float], k: float, draw: int, since: int) -> bytes:
        return seeds(Draw(state_fingerprint(x, k), draw, since))

    seed = seed_of(estimate, kick, number, 3)
    assert len(seed) == SEED_BYTES
    assert seed == seed_of(list(estimate), kick, number, 900)
    assert (seed == seed_of(estimate, kick, another, 3)) == (number == another)
    assert seed != seed_of(estimate, kick + 1.0, number, 3)
    assert seed != seeds_of(b"other")(Draw(state_fingerprint(estimate, kick), number, 3))
    if [str(x) for x in estimate] != [str(x) for x in other]:
        assert seed != seed_of(other, kick, number, 3)


def test_draws_do_not_show_their_seed() -> None:
    text = repr(RoundRandomness(SEED)) + str(RoundRandomness(SEED))
    assert SEED.hex() not in text
    assert repr(SEED) not in text


# -- vectors --------------------------------------------------------------------------------------

VECTORS = json.loads((ROOT / "node/vectors/draws.json").read_text())


def words(label: str, size: int, count: int) -> list[int]:
    """SHAKE256(seed || label) cut into big-endian numbers, from the text of the vectors alone."""
    stream = hashlib.shake_256(bytes.fromhex(VECTORS["seed"]) + label.encode()).digest(size * count)
    return [int.from_bytes(stream[i * size : (i + 1) * size], "big") for i in range(count)]


def test_the_draws_vectors_are_up_to_date() -> None:
    assert draws_vectors() == VECTORS


@pytest.mark.parametrize("case", VECTORS["uniform"], ids=lambda c: c["label"])
def test_uniform_vectors_hold(case: Any) -> None:
    by_hand = [word >> 11 for word in words(case["label"], 8, 4)]
    assert [str(word) for word in by_hand] == case["times_2_53"]
    ours = RoundRandomness(bytes.fromhex(VECTORS["seed"])).uniform(case["label"], 4) * 2.0**53
    assert ours.tolist() == by_hand


@pytest.mark.parametrize("case", VECTORS["below"], ids=lambda c: c["label"])
def test_whole_number_vectors_hold(case: Any) -> None:
    by_hand = [word % case["bound"] for word in words(case["label"], 16, 4)]
    assert by_hand == case["values"]
    ours = RoundRandomness(bytes.fromhex(VECTORS["seed"])).integers_below(
        case["bound"], case["label"], 4
    )
    assert ours == by_hand


@pytest.mark.parametrize("case", VECTORS["half_weight"], ids=lambda c: c["neighbour"])
def test_half_weight_vectors_hold(case: Any) -> None:
    (word,) = words(f"half-weight/{case['neighbour']}", 16, 1)
    assert case["value"] == 2048 + 2 * (word % 1024) + 1


@pytest.mark.parametrize("case", VECTORS["dither"], ids=lambda c: c["neighbour"])
def test_dither_vectors_hold(case: Any) -> None:
    weight = case["half_weight"]
    drawn = words(f"dither/{case['neighbour']}", 16, 6)
    by_hand = [word % weight - (weight - 1) // 2 for word in drawn]
    assert case["values"] == by_hand
