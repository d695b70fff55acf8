"""Which neighbours are asked: back-off of the mute ones, and halves of a spoiled roster."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipherfleet_node.core.roster import (
    FIRST_TRIAL,
    MOST_DOUBLINGS,
    MOST_MISSES,
    PATIENCE,
    SPOILED_ROUNDS,
    Roster,
)

NAMES = [f"n{index}" for index in range(6)]


def asked_in(roster: Roster, rounds: Iterable[int], name: str) -> list[int]:
    return [k for k in rounds if name in roster.choose(NAMES, k)]


def after_misses(count: int, name: str = "n0") -> Roster:
    roster = Roster(least=2)
    for _ in range(count):
        roster.missed([name])
    return roster


@pytest.mark.parametrize("misses", range(MOST_MISSES + 5))
def test_a_mute_neighbour_is_asked_ever_less_often(misses: int) -> None:
    interval = 1 if misses < 2 else min(1 << (misses + 1), 64)
    assert asked_in(after_misses(misses), range(256), "n0") == list(range(0, 256, interval))


def test_an_answer_halves_the_misses() -> None:
    roster = after_misses(5)
    roster.answered(["n0"])
    assert asked_in(roster, range(32), "n0") == [0, 8, 16, 24]
    roster.answered(["n0"])
    assert asked_in(roster, range(4), "n0") == [0, 1, 2, 3]


@pytest.mark.parametrize("misses", range(1, 40))
def test_who_answers_again_is_asked_in_every_round_after_72_rounds_at_most(misses: int) -> None:
    roster = after_misses(misses)
    for k in range(1, 73):
        if "n0" in roster.choose(NAMES, k):
            roster.answered(["n0"])
    assert asked_in(roster, range(73, 137), "n0") == list(range(73, 137))


def test_a_new_connection_ends_all_misses() -> None:
    roster = after_misses(30)
    roster.forgive()
    assert asked_in(roster, range(4), "n0") == [0, 1, 2, 3]


def test_who_is_needed_to_make_two_is_asked_in_any_case() -> None:
    roster = after_misses(9)
    assert roster.choose(["n0", "n1"], 1) == ["n0", "n1"]
    assert roster.choose(["n0", "n1", "n2"], 1) == ["n1", "n2"]
    roster.missed(["n1"] * 2)
    assert roster.choose(["n0", "n1", "n2"], 1) == ["n1", "n2"], "the one with fewest misses"


def test_a_pairwise_node_needs_one() -> None:
    roster = Roster(least=1)
    roster.missed(["n0"] * 2)
    assert roster.choose(["n0"], 1) == ["n0"]
    assert roster.choose(["n0", "n1"], 1) == ["n1"]


def test_only_refusals_without_end_count_as_misses() -> None:
    roster = Roster(least=2)
    for _ in range(PATIENCE - 1):
        roster.refused("n0")
    assert not roster.has_missed("n0")
    roster.refused("n0")
    assert roster.has_missed("n0")
    roster.answered(["n0"])
    for _ in range(PATIENCE - 1):
        roster.refused("n0")
    assert not roster.has_missed("n0"), "an answer ends the row"


# -- answers out of range -------------------------------------------------------------------------


def play(roster: Roster, faulty: str, rounds: int, candidates: list[str] = NAMES) -> list[int]:
    """Run rounds in which *faulty* spoils each sum that it is in; return the spoiled ones."""
    spoiled = []
    for k in range(rounds):
        asked = roster.choose(candidates, k)
        if faulty in asked:
            roster.spoiled(asked, k)
            spoiled.append(k)
        else:
            roster.opened(asked)
    return spoiled


@pytest.mark.parametrize("faulty", NAMES)
@pytest.mark.parametrize("n", [4, 5, 6])
def test_in_the_end_the_faulty_neighbour_alone_is_left_out(faulty: str, n: int) -> None:
    candidates = NAMES[:n]
    if faulty not in candidates:
        return
    roster = Roster(least=2)
    spoiled = play(roster, faulty, 2_000, candidates)
    assert roster.left_out == {faulty}
    assert roster.choose(candidates, 2_001) == [name for name in candidates if name != faulty]
    assert len(spoiled) < 40, "trials become rare"


def test_nobody_is_left_out_before_three_spoiled_rounds_one_after_another() -> None:
    roster = Roster(least=2)
    for k in range(30):
        if k % SPOILED_ROUNDS == SPOILED_ROUNDS - 1:
            roster.opened(NAMES)
        else:
            roster.spoiled(NAMES, k)
    assert roster.left_out == frozenset()


def test_the_halves_are_disjoint_and_change_places() -> None:
    roster = Roster(least=2)
    for k in range(SPOILED_ROUNDS):
        roster.spoiled(NAMES, k)
    first = roster.choose(NAMES, SPOILED_ROUNDS)
    for k in range(SPOILED_ROUNDS):
        roster.spoiled(first, k)
    second = roster.choose(NAMES, 2 * SPOILED_ROUNDS)
    assert not set(first) & set(second)
    assert sorted([*first, *second]) == NAMES


def test_a_roster_too_small_to_divide_stays_whole() -> None:
    roster = Roster(least=2)
    play(roster, "n0", 100, NAMES[:3])
    assert roster.choose(NAMES[:3], 101) == NAMES[:3]


def test_a_neighbour_that_is_sound_again_returns_by_a_trial() -> None:
    roster = Roster(least=2)
    play(roster, "n0", 500)
    assert roster.left_out == {"n0"}
    interval = FIRST_TRIAL << MOST_DOUBLINGS
    play(roster, "nobody", 500 + 2 * interval)
    assert roster.left_out == frozenset()


def test_a_neighbour_that_was_not_asked_is_not_tried() -> None:
    """A sum without it says nothing about it, so it stays left out until it is asked."""
    roster = Roster(least=2)
    play(roster, "n0", 500)
    assert roster.left_out == {"n0"}
    play(roster, "n0", 5_000, NAMES[1:])
    assert roster.left_out == {"n0"}


# -- properties -----------------------------------------------------------------------------------

happenings = st.lists(
    st.tuples(
        st.sampled_from(["missed", "answered", "opened", "spoiled"]),
        st.lists(st.sampled_from(NAMES), unique=True),
    ),
    max_size=60,
)


def happen(roster: Roster, what: str, names: list[str], asked: list[str], k: int) -> None:
    match what:
        case "spoiled":
            roster.spoiled(asked, k)
        case "opened":
            roster.opened(asked)
        case "missed":
            roster.missed(names)
        case _:
            roster.answered(names)


@given(st.sampled_from([1, 2]), happenings, st.sets(st.sampled_from(NAMES), min_size=4))
def test_a_roster_is_sorted_out_of_the_candidates_and_never_too_small(
    least: int, script: list[tuple[str, list[str]]], candidates: set[str]
) -> None:
    """A node with enough neighbours in reach never holds because it asks too few of them."""
    roster = Roster(least)
    for k, (what, names) in enumerate(script):
        chosen = roster.choose(candidates, k)
        assert chosen == sorted(set(chosen))
        assert set(chosen) <= candidates
        usable = candidates - roster.left_out
        assert len(chosen) >= min(least, len(usable))
        happen(roster, what, names, chosen, k)


@given(happenings)
def test_a_sound_neighbour_is_asked_again_in_the_end(script: list[tuple[str, list[str]]]) -> None:
    """Whatever has happened: when all answer and every sum opens, all are asked in every round."""
    roster = Roster(least=2)
    for k, (what, names) in enumerate(script):
        happen(roster, what, names, roster.choose(NAMES, k), k)
    for k in range(len(script), len(script) + 1_200):
        asked = roster.choose(NAMES, k)
        roster.answered(asked)
        roster.opened(asked)
    assert roster.choose(NAMES, 1_301) == NAMES


CHOICES = """
from cipherfleet_node.core.roster import Roster
roster = Roster(least=2)
names = [f"node{index}" for index in range(9)]
for name in names:
    roster.missed([name] * 3)
print([roster.choose(set(names), k) for k in range(64)])
"""


def test_the_choice_is_the_same_for_every_order_of_a_set() -> None:
    def said(seed: int) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        return subprocess.check_output([sys.executable, "-c", CHOICES], env=environment, text=True)

    assert len({said(seed) for seed in range(4)}) == 1
