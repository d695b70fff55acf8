"""One edge of the encrypted exchange, and the messages that it refuses."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import gmpy2
import pytest
from gmpy2 import mpz
from hypothesis import given, settings
from hypothesis import strategies as st

from cipherfleet_lab.simulation.toy_keys import SeededBlinding, toy_key
from cipherfleet_node.core.exchange import (
    Edge,
    Opening,
    Pairwise,
    dither,
    half_weight,
    make_answer,
    make_query,
    open_answers,
    prepare_answer,
    read_ciphertexts,
)
from cipherfleet_node.core.messages import Query
from cipherfleet_node.core.packing import Layout
from cipherfleet_node.core.paillier import PrivateKey
from cipherfleet_node.core.randomness import RoundRandomness
from cipherfleet_node.errors import HeadroomExceeded, RemoteProtocolError
from tests.support.paths import ROOT
from tests.support.queries import query_of
from tests.tools.make_vectors import exchange_vectors

VECTORS = json.loads((ROOT / "node/vectors/exchange.json").read_text())
KEY = toy_key(0)
D = 10
LAYOUT = Layout(512, D)
LIMIT = 2**31 - 1

states = st.lists(
    st.one_of(st.sampled_from([-LIMIT, LIMIT, 0]), st.integers(-LIMIT, LIMIT)),
    min_size=D,
    max_size=D,
)
odd_weights = st.integers(1024, 2047).map(lambda half: 2 * half + 1)
SEEDS = st.binary(min_size=32, max_size=32)


def blinding(key: PrivateKey = KEY) -> Callable[[], mpz]:
    roots = itertools.count(2)
    return lambda: gmpy2.powmod(next(roots), key.public.n, key.public.n_squared)


def asked_for(q: list[int]) -> list[mpz]:
    return read_ciphertexts(KEY.public, LAYOUT, make_query(KEY.public, LAYOUT, q, blinding()))


def answered(query: list[mpz], own: list[int], weight: int, noise: list[int]) -> list[mpz]:
    prepared = prepare_answer(KEY.public, LAYOUT, own, weight, noise, blinding())
    data = make_answer(KEY.public, LAYOUT, query, weight, prepared)
    return read_ciphertexts(KEY.public, LAYOUT, data)


@settings(max_examples=25)
@given(
    asked=states,
    others=st.lists(
        st.tuples(states, odd_weights, odd_weights, st.integers(1, 16), SEEDS),
        min_size=1,
        max_size=3,
    ),
)
def test_opening_gives_the_weighted_sum_of_differences(asked: list[int], others: Any) -> None:
    query = asked_for(asked)
    openings, expected = {}, [0] * D
    for index, (own, weight, own_weight, m, seed) in enumerate(others):
        noise = dither(RoundRandomness(seed), "i", weight, D)
        openings[str(index)] = Opening(own_weight * m, answered(query, own, weight, noise))
        terms = zip(expected, own, asked, noise, strict=True)
        expected = [s + own_weight * m * (weight * (o - a) + e) for s, o, a, e in terms]
    assert open_answers(KEY, LAYOUT, openings) == expected


@given(SEEDS, st.text(max_size=8))
def test_half_weights_are_odd_and_of_fixed_length(seed: bytes, neighbour: str) -> None:
    weight = half_weight(RoundRandomness(seed), neighbour)
    assert weight % 2 == 1
    assert weight.bit_length() == 12


def test_half_weights_differ_between_neighbours_and_rounds() -> None:
    drawn = {
        half_weight(RoundRandomness(k.to_bytes(32, "big")), name)
        for k in range(300)
        for name in ("a", "b")
    }
    assert len(drawn) > 400  # of 1024 possible, 600 draws are expected to hit 454


@given(SEEDS, odd_weights)
def test_dither_keeps_within_half_the_weight(seed: bytes, weight: int) -> None:
    noise = dither(RoundRandomness(seed), "a", weight, 50)
    assert all(abs(e) <= (weight - 1) // 2 for e in noise)


def test_dither_is_uniform_on_exactly_the_weights_integers() -> None:
    noise = dither(RoundRandomness(bytes(32)), "a", 11, 11_000)
    counts = [noise.count(e) for e in range(-5, 6)]
    assert sum(counts) == 11_000
    # Exceeded once in a thousand seeds; ours is fixed.
    assert sum((count - 1000) ** 2 / 1000 for count in counts) < 29.6


def asked_by(name: str, ciphertexts: list[bytes]) -> Query:
    return query_of("f", name, 1, 3, [], ciphertexts)


def pairwise() -> tuple[Pairwise, Pairwise]:
    """Both ends, i and j, of an edge."""
    other = toy_key(1)
    ends = []
    for own, neighbour, key in ((KEY, "j", other), (other, "i", KEY)):
        edge = {neighbour: Edge(key.public, 21)}
        ends.append(Pairwise(own, edge, D, SeededBlinding(own, edge, f"towards {neighbour}")))
    return ends[0], ends[1]


@settings(max_examples=25)
@given(states, states, SEEDS, SEEDS, st.booleans())
def test_an_answer_of_a_round_made_again_carries_the_same_dither(
    asked: list[int], own: list[int], seed: bytes, other: bytes, same_round: bool
) -> None:
    """Fresh dither for the same state and half weight would narrow the half weight down.

    The blinding is another one all the same.
    """
    asker, answerer = pairwise()
    query, answers, opened = asked_by("i", asker.query(asked)), [], []
    for randomness in (RoundRandomness(seed), RoundRandomness(seed if same_round else other)):
        prepared = answerer.prepare("i", own, randomness)
        answers.append(answerer.answer(query, randomness, prepared))
        opened.append(asker.open({"j": asker.accept(answers[-1])}, RoundRandomness(bytes(32))))
    assert not set(answers[0]) & set(answers[1])
    assert (opened[0] == opened[1]) == (same_round or seed == other)


@settings(max_examples=25)
@given(states, states, SEEDS, SEEDS)
def test_each_end_of_an_edge_learns_the_weighted_difference(
    q_i: list[int], q_j: list[int], seed_i: bytes, seed_j: bytes
) -> None:
    """Through `Pairwise`, both ways: H_ij M (H_ji (q_j - q_i) + e_ji), and the reverse."""
    ends = dict(zip("ij", pairwise(), strict=True))
    q, randomness = (
        {"i": q_i, "j": q_j},
        {"i": RoundRandomness(seed_i), "j": RoundRandomness(seed_j)},
    )
    for me, other in ("ij", "ji"):
        query = ends[me].query(q[me])
        prepared = ends[other].prepare(me, q[other], randomness[other])
        answer = ends[other].answer(asked_by(me, query), randomness[other], prepared)
        mine, theirs = half_weight(randomness[me], other), half_weight(randomness[other], me)
        noise = dither(randomness[other], me, theirs, D)
        assert ends[me].open({other: ends[me].accept(answer)}, randomness[me]) == [
            mine * 21 * (theirs * (a - b) + e)
            for a, b, e in zip(q[other], q[me], noise, strict=True)
        ]


@given(SEEDS, st.text(max_size=8), st.text(max_size=8))
def test_every_neighbour_gets_other_dither(seed: bytes, first: str, second: str) -> None:
    noises = [dither(RoundRandomness(seed), name, 4095, 16) for name in (first, second)]
    assert (noises[0] == noises[1]) == (first == second)


def test_the_same_answer_is_never_blinded_alike() -> None:
    """Two answers from equal inputs share nothing but their plaintexts."""
    query, fresh = asked_for([1] * D), blinding()
    first, second = (
        make_answer(
            KEY.public,
            LAYOUT,
            query,
            2049,
            prepare_answer(KEY.public, LAYOUT, [2] * D, 2049, [0] * D, fresh),
        )
        for _ in range(2)
    )
    assert not set(first) & set(second)
    decrypted = [
        [KEY.decrypt(c) for c in read_ciphertexts(KEY.public, LAYOUT, answer)]
        for answer in (first, second)
    ]
    assert decrypted[0] == decrypted[1]


def test_every_ciphertext_takes_an_obfuscator_of_its_own() -> None:
    taken: list[mpz] = []

    def take() -> mpz:
        taken.append(blinding_source())
        return taken[-1]

    blinding_source = blinding()
    query = make_query(KEY.public, LAYOUT, [0] * D, take)
    assert len(taken) == len(query) == LAYOUT.ciphertexts == 2
    prepared = prepare_answer(KEY.public, LAYOUT, [0] * D, 2049, [0] * D, take)
    assert len(taken) == len(set(taken)) == 4
    # With nothing to say the brackets are the obfuscators themselves; answering takes no others.
    assert prepared == taken[2:]
    make_answer(KEY.public, LAYOUT, read_ciphertexts(KEY.public, LAYOUT, query), 2049, prepared)
    assert len(taken) == 4


def test_headroom_is_refused_before_encrypting() -> None:
    def never() -> mpz:
        raise AssertionError("an obfuscator was taken for a value out of range")

    too_large = [0] * 9 + [1 << 70 | 1]
    with pytest.raises(HeadroomExceeded):
        make_query(KEY.public, LAYOUT, too_large, never)
    with pytest.raises(HeadroomExceeded):
        prepare_answer(KEY.public, LAYOUT, too_large, 2049, [0] * D, never)
    # Also where only the product with the half weight is too large.
    with pytest.raises(HeadroomExceeded):
        prepare_answer(KEY.public, LAYOUT, [0] * 9 + [1 << 59], 2049, [0] * D, never)


@pytest.mark.parametrize("excess", [1 << 53, 1 << 69])
def test_a_slot_overflow_is_detected_after_decryption(excess: int) -> None:
    """An answerer whose state left the range (its own check switched off) is found out."""
    own = [0] * 3 + [excess // 4095] + [0] * 6
    opening = Opening(4095, answered(asked_for([0] * D), own, 4095, [0] * D))
    with pytest.raises(RemoteProtocolError) as refused:
        open_answers(KEY, LAYOUT, {"liar": opening})
    assert refused.value.reason == "out_of_range"


def test_an_answer_under_another_key_is_out_of_range() -> None:
    stranger = toy_key(1)
    data = make_query(stranger.public, LAYOUT, [5] * D, blinding(stranger))
    ciphertexts = [mpz(int.from_bytes(item, "big")) % KEY.public.n_squared for item in data]
    with pytest.raises(RemoteProtocolError) as refused:
        open_answers(KEY, LAYOUT, {"j": Opening(2049, ciphertexts)})
    assert refused.value.reason == "out_of_range"


# -- refusals -------------------------------------------------------------------------------------


def test_a_negative_number_arrives_as_a_huge_one_and_is_refused() -> None:
    """There is no sign on the wire: -5 can only be sent as two's complement."""
    good = make_query(KEY.public, LAYOUT, [0] * D, blinding())
    negative = (-5 % (1 << 8 * LAYOUT.ciphertext_bytes)).to_bytes(LAYOUT.ciphertext_bytes, "big")
    with pytest.raises(RemoteProtocolError) as refused:
        read_ciphertexts(KEY.public, LAYOUT, [good[0], negative])
    assert refused.value.reason == "ciphertext_range"


@given(st.lists(st.binary(max_size=140), max_size=3))
def test_any_bytes_are_either_ciphertexts_or_refused(data: list[bytes]) -> None:
    try:
        read = read_ciphertexts(KEY.public, LAYOUT, data)
    except RemoteProtocolError as error:
        reason = error.reason
    else:
        reason = "ciphertext_that_is_one"
        assert [c.to_bytes(128, "big") for c in read] == data
    assert reason.startswith("ciphertext_")


def test_an_opening_does_not_show_its_ciphertexts() -> None:
    assert "123456789" not in repr(Opening(123456789, [mpz(123456789)]))


# -- vectors --------------------------------------------------------------------------------------


def test_the_exchange_vectors_are_up_to_date() -> None:
    assert exchange_vectors() == VECTORS


def vector_key() -> PrivateKey:
    return PrivateKey(mpz(VECTORS["key"]["p"]), mpz(VECTORS["key"]["q"]))


def numbers(items: list[str]) -> list[int]:
    return [int(item, 16) for item in items]


def packed(values: list[int]) -> list[int]:
    return [
        sum(value << 71 * place for place, value in enumerate(values[start : start + 7]))
        for start in range(0, len(values), 7)
    ]


def test_the_query_vector_is_what_plain_arithmetic_makes() -> None:
    n = int(vector_key().public.n)
    expected = [
        (1 + n * (-m % n)) * pow(root, n, n * n) % (n * n)
        for m, root in zip(packed(VECTORS["asked"]), (2, 3), strict=True)
    ]
    assert numbers(VECTORS["query"]) == expected
    query = [bytes.fromhex(item) for item in VECTORS["query"]]
    message = query_of("f", "i", 1, VECTORS["round"], [], query)
    assert message.digest.hex() == VECTORS["digest"]


@pytest.mark.parametrize(
    ("case", "first_root"), [(VECTORS["answers"][0], 4), (VECTORS["answers"][1], 6)]
)
def test_the_answer_vectors_are_what_plain_arithmetic_makes(case: Any, first_root: int) -> None:
    n = int(vector_key().public.n)
    weight = case["half_weight"]
    shifts = packed([weight * o + e for o, e in zip(case["own"], case["dither"], strict=True)])
    expected = [
        pow(c, weight, n * n) * (1 + n * (m % n)) * pow(root, n, n * n) % (n * n)
        for root, (c, m) in enumerate(
            zip(numbers(VECTORS["query"]), shifts, strict=True), first_root
        )
    ]
    assert numbers(case["ciphertexts"]) == expected


def test_the_combination_vector_is_the_weighted_sum() -> None:
    layout, openings = Layout(512, 9), {}
    expected = [0] * 9
    for case in VECTORS["answers"]:
        exponent = case["askers_half_weight"] * case["metropolis"]
        openings[case["sender"]] = Opening(exponent, [mpz(c) for c in numbers(case["ciphertexts"])])
        terms = zip(expected, case["own"], VECTORS["asked"], case["dither"], strict=True)
        expected = [s + exponent * (case["half_weight"] * (o - a) + e) for s, o, a, e in terms]
    assert [str(entry) for entry in expected] == VECTORS["combined"]
    assert open_answers(vector_key(), layout, openings) == expected


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda c: c["name"])
def test_what_is_no_query_is_refused_under_its_own_reason(case: Any) -> None:
    data = [bytes.fromhex(item) for item in case["ciphertexts"]]
    with pytest.raises(RemoteProtocolError) as refused:
        read_ciphertexts(vector_key().public, Layout(512, 9), data)
    assert refused.value.reason == case["fails"]
