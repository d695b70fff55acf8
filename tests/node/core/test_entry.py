"""Newcomers and lost states in the exact method: each round is counted alike at both ends.

Without dither the ledgers of a fleet sum to zero exactly. A round that one end alone has counted
moves this sum. The rounds have a period, so there are moments at which all nodes have closed the
same round.
"""

from __future__ import annotations

import numpy as np
import pytest

from cipherfleet_node.core import progress
from cipherfleet_node.core.claims import Claims
from cipherfleet_node.core.entry import BLOCK
from cipherfleet_node.core.events import MembershipPending
from cipherfleet_node.core.round import Phase
from cipherfleet_node.settings.sections import Algorithm
from tests.support.exact_fleets import (
    RESOLUTION,
    SCALE,
    SQUARES,
    D,
    objectives_of,
    optimum,
    readings,
    run_to,
)
from tests.support.memory_fleet import (
    Edges,
    MemoryFleet,
    agent_of,
    degree_four,
    run_until,
    start_all,
)

NEW = "n02"


@pytest.fixture(params=[True, False], ids=["sealed", "pairwise"])
def sealed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr("cipherfleet_lab.simulation.plaintext_exchange.dither", lambda *_: [0] * D)
    return bool(request.param)


def fleet(edges: Edges, *, sealed: bool, seed: int = 0) -> MemoryFleet:
    algorithm = Algorithm(rounds=None, period_s=0.2, scale=SCALE)
    return MemoryFleet(
        edges, readings(edges), SQUARES, algorithm, seed=seed, sealed=sealed, encrypted=False
    )


def run_until_all_have_closed(running: MemoryFleet, nodes: list[str]) -> None:
    """Run until all *nodes* are between the same two rounds."""

    def is_reached() -> bool:
        agents = [agent_of(running, name) for name in nodes]
        is_between = all(agent.phase is Phase.READING for agent in agents)
        return is_between and len({agent.round_number for agent in agents}) == 1

    run_until(running, is_reached)


def ledger_sum(running: MemoryFleet, nodes: list[str]) -> list[int]:
    rows = [progress.ledger_of(agent_of(running, name).state, D) for name in nodes]
    return [sum(column) for column in zip(*rows, strict=True)]


def error(running: MemoryFleet, nodes: list[str]) -> float:
    best = optimum(list(objectives_of(readings(list(running.edges))).values()))
    last = np.array([running.seats[name].reported[-1].estimate for name in nodes])
    return float(np.linalg.norm(last - best, axis=1).max() / np.linalg.norm(best))


def others(running: MemoryFleet) -> list[str]:
    return [name for name in running.seats if name != NEW]


def without_newcomer(edges: Edges, until: int, *, sealed: bool, seed: int) -> MemoryFleet:
    """A fleet without NEW, all nodes of which are about to restart with it at round *until*."""
    running = fleet(edges, sealed=sealed, seed=seed)
    full = {name: list(near) for name, near in running.neighbours.items()}
    for near in running.neighbours.values():
        if NEW in near:
            near.remove(NEW)
    for name in others(running):
        running.start(name)
    run_to(running, "n00", until - 5)
    for name in others(running):
        assert not list(agent_of(running, name).handle(MembershipPending(until), running.now))
    run_until(running, lambda: all(running.seats[name].switched for name in others(running)))
    running.neighbours.update(full)
    running.first_rounds = {NEW: until}
    return running


@pytest.mark.parametrize("seed", range(2))
def test_the_ledgers_sum_to_zero_after_a_newcomer(seed: int, *, sealed: bool) -> None:
    running = without_newcomer(degree_four(7), 16, sealed=sealed, seed=seed)
    for name in running.seats:
        running.seats[name].stopped = running.seats[name].switched = False
        running.start(name)
    run_to(running, NEW, 50)
    run_until_all_have_closed(running, list(running.seats))
    assert ledger_sum(running, list(running.seats)) == [0] * D


def test_a_lost_state_costs_its_dual_and_nothing_else(*, sealed: bool) -> None:
    running = fleet(degree_four(7), sealed=sealed)
    start_all(running)
    run_to(running, "n00", 150)
    run_until_all_have_closed(running, list(running.seats))
    lost = progress.ledger_of(agent_of(running, NEW).state, D)
    running.kill(NEW)
    running.lose_state(NEW)
    run_to(running, "n00", 170)
    run_until_all_have_closed(running, others(running))
    before = ledger_sum(running, others(running))
    running.start(NEW)
    run_to(running, NEW, 300)
    run_until_all_have_closed(running, list(running.seats))
    assert ledger_sum(running, list(running.seats)) == before
    assert agent_of(running, NEW).state.follows
    assert error(running, list(running.seats)) < 1e-4, "the others keep the optimum of all"
    missing = np.array([a + b for a, b in zip(before, lost, strict=True)], dtype=float)
    assert np.abs(missing).max() * RESOLUTION * 2.0**-30 < 1e-5, "the death itself, near rest"


def test_a_node_without_a_state_opens_the_first_round_of_a_block() -> None:
    running = fleet(degree_four(7), sealed=True)
    start_all(running)
    run_to(running, "n00", 29)
    running.kill(NEW)
    running.lose_state(NEW)
    run_to(running, "n00", 37)
    closed = len(running.seats[NEW].reported)
    running.start(NEW)
    run_to(running, "n00", 60)
    first = running.seats[NEW].reported[closed]
    assert first.number % BLOCK == 0
    assert first.is_coupled


def test_no_node_follows_a_neighbour_to_the_round_in_which_it_enters() -> None:
    claims = Claims({"a": 5, "b": 5}, None, 0.0)
    claims.restart("a")
    claims.record("a", 16, 0.0)
    assert claims.first == {"a": 16}
    assert claims.target(6, 0.0, 1.0, holding=True) == 16
    assert claims.target(6, 0.0, 1.0, holding=True, without={"a"}) is None
