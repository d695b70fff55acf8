"""Settled nodes, levels, and fleets that end by themselves."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cipherfleet_node.core.events import Setup
from cipherfleet_node.core.settling import CALM_ROUNDS, Settling, calmed
from cipherfleet_node.core.state import State, first_state
from cipherfleet_node.settings.sections import Algorithm, Until
from tests.support.exact_fleets import lying_in_queries, readings, six
from tests.support.memory_fleet import MemoryFleet, fleet_of, names, random_graph, ring

from .test_agreement import errors, section

ACCURACY = 1e-4


def fleet(rounds: int | None = 1000, period_s: float | None = None, **more: Any) -> MemoryFleet:
    options: dict[str, Any] = {"sealed": True, "leaves_open": True, "encrypted": False, **more}
    algorithm = Algorithm(rounds=rounds, period_s=period_s, until=Until(accuracy=ACCURACY))
    return MemoryFleet(six(), readings(six()), section(), algorithm, seed=3, **options)


def coupled(running: MemoryFleet) -> list[int]:
    return [seat.saved.coupled for seat in running.seats.values() if seat.saved is not None]


# -- levels -------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.integers(2, 9), st.integers(0, 10**6))
def test_a_level_above_the_diameter_means_that_all_are_settled(size: int, seed: int) -> None:
    """In every round a node may have seen the levels of this round or of the one before."""
    edges, chance = random_graph(size, seed), random.Random(f"levels {seed}")
    plain = fleet_of(edges, rounds=None, period_s=1.0)
    until = msgspec.structs.replace(plain.algorithm, until=Until(accuracy=1.0))
    settlings = {name: Settling(setup_of(plain, name, until)) for name in plain.seats}
    states = {name: first_state("f", name, b"", 1, 0) for name in plain.seats}
    settled_from = {name: chance.randint(0, 12) for name in plain.seats}
    for k in range(40):
        before = states
        states = {}
        for name, state in before.items():
            calm = CALM_ROUNDS if k >= settled_from[name] else 0
            near = plain.neighbours[name]
            for other in near:
                is_new = other in states and chance.random() < 0.5
                settlings[name].record(other, (states if is_new else before)[other].level)
            states[name] = settlings[name].levelled(msgspec.structs.replace(state, calm=calm), near)
        over = [name for name, state in states.items() if settlings[name].is_over(state)]
        assert not over or all(k >= since for since in settled_from.values())
    assert over == list(states)


def setup_of(plain: MemoryFleet, name: str, algorithm: Algorithm) -> Setup:
    plain.start(name)
    agent = plain.seats[name].agent
    assert agent is not None
    found: Setup = agent._setup
    return type(found)(
        **{f: getattr(found, f) for f in found.__dataclass_fields__} | {"algorithm": algorithm}
    )


@given(st.lists(st.floats(0, 1) | st.none(), min_size=1), st.floats(0.01, 10.0))
def test_a_round_is_calm_if_all_its_distances_are_known_and_small(
    distances: list[float | None], accuracy: float
) -> None:
    state = msgspec.structs.replace(first_state("f", "a", b"", 1, 0), calm=3)
    is_calm = all(each is not None and each < 0.1 * accuracy for each in distances)
    assert calmed(state, distances, accuracy).calm == (4 if is_calm else 0)


# -- fleets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "pairwise"])
def test_a_fleet_ends_by_itself_when_all_have_the_accuracy(sealed: bool) -> None:
    running = fleet(sealed=sealed, encrypted=True)
    running.run()
    assert max(coupled(running)) < 300
    assert errors(running).max() < ACCURACY
    assert all(seat.stopped for seat in running.seats.values())


def test_an_average_ends_by_itself_too() -> None:
    running = fleet_of(ring(6), rounds=1000, sealed=True, encrypted=False)
    running.algorithm = msgspec.structs.replace(running.algorithm, until=Until(accuracy=ACCURACY))
    running.run()
    last = np.array([seat.reported[-1].estimate for seat in running.seats.values()])
    assert max(coupled(running)) < 300
    assert np.abs(last - last.mean(axis=0)).max() < ACCURACY


def test_a_fleet_with_a_period_waits_for_it_only_once_it_has_settled() -> None:
    running = fleet(rounds=None, period_s=10.0)
    for name in running.seats:
        running.start(name)
    running.advance(400.0)
    times = np.diff(running.seats["n00"].closed_at)
    assert np.median(times[:50]) < 1.0
    assert np.median(times[-10:]) == pytest.approx(10.0, rel=0.1)
    assert errors(running).max() < ACCURACY


@pytest.mark.parametrize(("lie", "ends"), [(0, False), (60_000, True)])
def test_a_false_level_ends_no_fleet_early(lie: int, ends: bool) -> None:
    running = fleet(rounds=310, tap=lying_in_queries("n03", settled=lie))
    running.run()
    honest = [seat for name, seat in running.seats.items() if name != "n03"]
    rounds = [seat.saved.coupled for seat in honest if seat.saved is not None]
    assert (max(rounds) < 300) is ends
    assert errors(running).max() < ACCURACY


def test_a_restarted_node_counts_its_calm_rounds_again() -> None:
    running = fleet(rounds=None, period_s=10.0)
    for name in running.seats:
        running.start(name)
    running.advance(400.0)
    name = names(6)[1]
    saved: State | None = running.seats[name].saved
    assert saved is not None
    assert saved.level > 0
    running.kill(name)
    running.advance(430.0)
    running.start(name)
    running.advance(800.0)
    again: State | None = running.seats[name].saved
    assert again is not None
    assert again.level > 0


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "pairwise"])
def test_without_until_a_node_knows_by_itself_that_it_has_settled_and_the_fleet_goes_on(
    sealed: bool,
) -> None:
    algorithm = Algorithm(period_s=1.0)
    options: dict[str, Any] = {"sealed": sealed, "leaves_open": True, "encrypted": False}
    running = MemoryFleet(
        six(), readings(six()), section(), algorithm, seed=3, own_accuracy=ACCURACY, **options
    )
    for name in running.seats:
        running.start(name)
    running.advance(20.0)
    assert not any(has_answers(running))
    while not all(has_answers(running)) and running.now < 600.0:
        running.advance(running.now + 10.0)
    assert all(has_answers(running))
    assert errors(running).max() < ACCURACY
    rounds = len(running.seats["n00"].reported)
    running.advance(running.now + 10.0)
    assert len(running.seats["n00"].reported) > rounds
    for seat in running.seats.values():
        assert seat.agent is not None
        assert (seat.agent.state.level, seat.agent.is_settled) == (0, None)
        assert not seat.stopped


def has_answers(running: MemoryFleet) -> list[bool]:
    return [seat.agent.has_answer for seat in running.seats.values() if seat.agent is not None]


def test_without_an_accuracy_no_node_has_an_answer() -> None:
    running = fleet_of(ring(6), rounds=60, sealed=True, encrypted=False)
    running.run()
    assert not any(has_answers(running))


def test_a_leaf_that_asks_nobody_never_has_an_answer() -> None:
    edges, options = [*ring(4), ("n00", "n04")], {"sealed": True, "encrypted": False}
    running = fleet_of(edges, rounds=None, period_s=1.0, **options)
    running.leaves_open, running.own_accuracy = False, 1.0
    for name in running.seats:
        running.start(name)
    running.advance(300.0)
    assert has_answers(running) == [True] * 4 + [False]
