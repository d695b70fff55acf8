"""The attacks that the exchange must withstand: each succeeds once its guard is switched off."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import gmpy2
import pytest
from gmpy2 import mpz
from hypothesis import given
from hypothesis import strategies as st

from cipherfleet_node.draws import Draws
from cipherfleet_node.exchange import (
    dither,
    half_weight,
    make_answer,
    make_query,
    prepare_answer,
    read_ciphertexts,
)
from cipherfleet_node.packing import Layout
from memory_fleet import toy_key

ASKER = toy_key(0)
N, N2 = ASKER.public.n, ASKER.public.n_squared
D = 8
LAYOUT = Layout(512, D)
TRIALS = 60


def fresh_obfuscator(chance: random.Random) -> mpz:
    return gmpy2.powmod(chance.randrange(2, int(N)), N, N2)


def exchange(
    trial: int, *, with_dither: bool, rerandomised: bool
) -> tuple[list[int], list[int], int, mpz, mpz]:
    """One edge and round: the asker's q, the answerer's q and H, the query and the answer."""
    chance = random.Random(f"attack {trial}")
    asked, own = ([chance.randrange(-(2**27), 2**27) for _ in range(D)] for _ in range(2))
    draws = Draws(chance.randbytes(32))
    weight = half_weight(draws, "asker")
    noise = dither(draws, "asker", weight, D) if with_dither else [0] * D
    data = make_query(ASKER.public, LAYOUT, asked, lambda: fresh_obfuscator(chance))
    (query,) = read_ciphertexts(ASKER.public, LAYOUT, data)
    take = (lambda: fresh_obfuscator(chance)) if rerandomised else (lambda: mpz(1))
    prepared = prepare_answer(ASKER.public, LAYOUT, own, weight, noise, take)
    answer = make_answer(ASKER.public, LAYOUT, [query], weight, prepared)
    (read,) = read_ciphertexts(ASKER.public, LAYOUT, answer)
    return asked, own, weight, query, read


def opened(answer: mpz) -> list[int]:
    return LAYOUT.unpack([ASKER.decrypt(answer)], N, 1 << 62)


# -- common factor over the coordinates -----------------------------------------------------------


def common_factor_attack(asked: list[int], answer: mpz) -> list[int] | None:
    """H as the gcd of H (q_j - q_i)_l over l, hence q_j; None where it makes no sense."""
    products = opened(answer)
    factor = math.gcd(*products)
    if not 2048 < factor < 4096:
        return None
    return [product // factor + q for product, q in zip(products, asked, strict=True)]


def test_without_dither_a_common_factor_gives_the_neighbours_state_away() -> None:
    found = 0
    for trial in range(TRIALS):
        asked, own, _, _, answer = exchange(trial, with_dither=False, rerandomised=True)
        found += common_factor_attack(asked, answer) == own
    # Eight random differences have a common factor of their own once in 250 times (1/zeta(8)).
    assert found >= TRIALS - 2


def test_with_dither_a_common_factor_tells_nothing() -> None:
    for trial in range(TRIALS):
        asked, own, _, _, answer = exchange(trial, with_dither=True, rerandomised=True)
        assert common_factor_attack(asked, answer) != own


@given(
    st.lists(st.integers(-(2**32) + 1, 2**32 - 1), min_size=1, max_size=12),
    st.binary(min_size=32, max_size=32),
    st.integers(1024, 2047),
)
def test_every_odd_half_weight_explains_an_answer(
    differences: list[int], seed: bytes, other: int
) -> None:
    """For any odd H' the slots H D + e are also H' D' + e' for exactly one D', e' in H's range.

    Rounding to the nearest multiple of an odd number is unique: the H' integers around each
    multiple cover the line without overlap. Had the dither fewer values, some H' would explain
    nothing; had it more, some slots would have two explanations and others one.
    """
    draws = Draws(seed)
    weight, candidate = half_weight(draws, "asker"), 2 * other + 1
    noise = dither(draws, "asker", weight, len(differences))
    for difference, e in zip(differences, noise, strict=True):
        slot = weight * difference + e
        half = (candidate - 1) // 2
        explanation = (slot + half) // candidate
        assert abs(slot - candidate * explanation) <= half
        for neighbour in (explanation - 1, explanation + 1):
            assert abs(slot - candidate * neighbour) > half


def test_every_odd_half_weight_makes_a_slot_equally_likely() -> None:
    """Exhaustive on small weights: over uniform differences and dither each H gives every slot

    value (away from the ends) the same probability, so the likelihood prefers no half weight.
    """
    for weight in (3, 5, 7, 9):
        half = (weight - 1) // 2
        slots = Counter(
            weight * difference + e
            for difference, e in itertools.product(range(-50, 51), range(-half, half + 1))
        )
        assert all(slots[value] == 1 for value in range(-100, 101))


@pytest.mark.parametrize("narrower", [0, 1, 10])
def test_narrower_dither_shows_the_half_weight(narrower: int) -> None:
    """The guard's width is no more than it must be: with less, wrong weights are excluded."""
    chance, weight = random.Random(5), 2777
    slots = [weight * chance.randrange(-(2**20), 2**20) for _ in range(400)]
    noisy = [slot + chance.randint(-narrower, narrower) for slot in slots]

    def explains(candidate: int) -> bool:
        return all(min(s % candidate, -s % candidate) <= narrower for s in noisy)

    assert [h for h in range(2049, 4096, 2) if explains(h)] == [weight]


# -- randomness of the answer ---------------------------------------------------------------------


def randomness(ciphertext: mpz) -> mpz:
    """r of c = (1 + n m) r^n: what the owner of the key can always extract."""
    exponent = gmpy2.invert(N, (ASKER.p - 1) * (ASKER.q - 1))
    return gmpy2.powmod(ciphertext % N, exponent, N)


def randomness_attack(query: mpz, answer: mpz) -> int | None:
    """The H with r_answer = r_query^H, found by trying the 1,024 there are."""
    root, target = randomness(query), randomness(answer)
    power, square = gmpy2.powmod(root, 2049, N), root * root % N
    for candidate in range(2049, 4096, 2):
        if power == target:
            return candidate
        power = power * square % N
    return None


def state_from_weight(asked: list[int], answer: mpz, weight: int) -> list[int]:
    """q_j by rounding each slot to the nearest multiple of H: the dither does not hide it."""
    half = (weight - 1) // 2
    return [(slot + half) // weight + q for slot, q in zip(opened(answer), asked, strict=True)]


def test_without_rerandomisation_the_answer_shows_half_weight_and_state() -> None:
    for trial in range(TRIALS // 6):
        asked, own, weight, query, answer = exchange(trial, with_dither=True, rerandomised=False)
        assert randomness_attack(query, answer) == weight
        assert state_from_weight(asked, answer, weight) == own


def test_with_rerandomisation_the_answer_shows_no_half_weight() -> None:
    for trial in range(TRIALS // 6):
        _, _, _, query, answer = exchange(trial, with_dither=True, rerandomised=True)
        assert randomness_attack(query, answer) is None


# -- what is not claimed --------------------------------------------------------------------------


def test_an_asker_that_deviates_from_the_protocol_learns_the_half_weight() -> None:
    """A limit, not a guard: neighbours are honest but curious.

    An asker that encrypts a number far beyond the range reads H off the product. Nobody but the
    asker could see that; a proof of range would be needed against it.
    """
    chance = random.Random(11)
    own = [chance.randrange(-(2**27), 2**27) for _ in range(D)]
    draws = Draws(chance.randbytes(32))
    weight = half_weight(draws, "asker")
    far = 1 << 48
    data = make_query(ASKER.public, LAYOUT, [-far] + [0] * 7, lambda: fresh_obfuscator(chance))
    query = read_ciphertexts(ASKER.public, LAYOUT, data)
    noise = dither(draws, "asker", weight, D)
    prepared = prepare_answer(
        ASKER.public, LAYOUT, own, weight, noise, lambda: fresh_obfuscator(chance)
    )
    answer = make_answer(ASKER.public, LAYOUT, query, weight, prepared)
    (read,) = read_ciphertexts(ASKER.public, LAYOUT, answer)
    learnt = (opened(read)[0] + far // 2) // far
    assert learnt == weight
    assert state_from_weight([-far] + [0] * 7, read, learnt) == own
