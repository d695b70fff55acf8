"""The table of phases, and the open round with its deadlines."""

from __future__ import annotations

import itertools

import pytest

from cipherfleet_node.core.round import (
    TRANSITIONS,
    Phase,
    Round,
    Trigger,
    next_phase,
)
from cipherfleet_node.errors import LocalProtocolError


@pytest.mark.parametrize(("phase", "trigger"), list(itertools.product(Phase, Trigger)))
def test_the_table_allows_what_it_lists_and_nothing_else(phase: Phase, trigger: Trigger) -> None:
    if (phase, trigger) in TRANSITIONS:
        assert next_phase(phase, trigger) is TRANSITIONS[phase, trigger]
    else:
        with pytest.raises(LocalProtocolError, match=f"{trigger.name} is not allowed while"):
            next_phase(phase, trigger)


def test_every_phase_is_reached_and_only_the_last_one_is_final() -> None:
    reached = {Phase.STARTING}
    for _ in Phase:
        reached |= {after for (before, _), after in TRANSITIONS.items() if before in reached}
    assert reached == set(Phase)
    assert {before for before, _ in TRANSITIONS} == set(Phase) - {Phase.FINISHED}
    assert {trigger for _, trigger in TRANSITIONS} == set(Trigger)


def opened_round(*roster: str) -> Round:
    return Round(3, frozenset(roster), opened=10.0)


def test_a_round_is_complete_when_its_whole_roster_has_answered() -> None:
    current = opened_round("a", "b")
    assert not current.is_complete
    current.answered.add("a")
    assert not current.is_complete
    current.answered.add("b")
    assert current.is_complete


def test_a_round_without_a_roster_is_never_complete() -> None:
    assert not opened_round().is_complete


def test_a_member_that_refuses_is_still_missing_but_was_heard() -> None:
    current = opened_round("a", "b")
    current.refused.add("a")
    assert current.missing == {"a", "b"}
    assert current.unheard == {"b"}
    current.answered.add("b")
    assert not current.is_complete


def test_a_deadline_is_the_longest_wait_for_a_missing_member() -> None:
    current = opened_round("a", "b")
    waits = {"a": 5.0, "b": 9.0}
    current.await_until(10.0, waits.__getitem__, least_s=5.0)
    assert current.deadline == 19.0
    current.answered.add("b")
    current.await_until(20.0, waits.__getitem__, least_s=5.0)
    assert current.deadline == 25.0


def test_a_deadline_is_at_least_the_base_deadline() -> None:
    current = opened_round()
    current.await_until(10.0, lambda _name: 99.0, least_s=5.0)
    assert current.deadline == 15.0
