"""The table of phases, and the deadlines of a round."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipherfleet_node.core.round import (
    TRANSITIONS,
    Phase,
    Round,
    Trigger,
    jump_target,
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


def test_a_round_is_complete_when_all_that_are_awaited_have_answered() -> None:
    current = Round(3, opened=10.0, resend_every=2.0)
    assert not current.complete, "nobody has answered"
    current.expect("a", 15.0)
    current.expect("b", 16.0)
    assert current.receive("a")
    assert not current.complete
    assert current.receive("b")
    assert current.complete


def test_a_round_that_nobody_answered_is_not_complete() -> None:
    current = Round(0, 0.0, 1.0)
    current.expect("a", 5.0)
    current.stop_waiting_for("a")
    assert not current.complete


def test_a_repeated_answer_changes_nothing() -> None:
    current = Round(0, 0.0, 1.0)
    current.expect("a", 5.0)
    assert current.receive("a")
    assert not current.receive("a")
    assert current.answered == {"a"}


def test_a_neighbour_that_has_answered_is_not_awaited_again() -> None:
    current = Round(0, 0.0, 1.0)
    current.receive("a")
    current.expect("a", 5.0)
    assert current.deadlines == {}
    assert current.complete


def test_the_first_deadline_given_stands() -> None:
    """Or a neighbour that says "ready" ever again would never be overdue."""
    current = Round(0, 0.0, 1.0)
    current.expect("a", 5.0)
    current.expect("a", 50.0)
    assert current.overdue(4.999) == []
    assert current.overdue(5.0) == ["a"]


def test_an_excused_neighbour_may_still_answer() -> None:
    current = Round(0, 0.0, 1.0)
    current.expect("a", 5.0)
    current.expect("b", 5.0)
    current.stop_waiting_for("a")
    current.stop_waiting_for("nobody")
    assert current.receive("a")
    assert not current.complete
    assert current.receive("b")
    assert current.complete


def test_the_next_time_is_the_earliest_deadline_or_the_next_sending() -> None:
    current = Round(0, opened=100.0, resend_every=2.5)
    assert current.next_time() == 102.5
    current.expect("a", 101.0)
    assert current.next_time() == 101.0
    current.note_resend(101.5)
    current.stop_waiting_for("a")
    assert current.next_time() == 104.0


def test_one_claim_alone_does_not_drag_a_node() -> None:
    assert jump_target(5, [1_000_000, 5, 5]) is None
    assert jump_target(5, [1_000_000, 8, 5]) == 8
    assert jump_target(5, [1_000_000, 6, 6]) is None
    assert jump_target(5, [1_000_000, -1]) is None  # the other was not heard yet


def test_an_only_neighbour_is_followed() -> None:
    assert jump_target(5, [7]) == 7
    assert jump_target(5, [6]) is None
    assert jump_target(5, []) is None


@given(st.integers(0, 100), st.lists(st.integers(-1, 200), max_size=8))
def test_a_jump_goes_ahead_by_two_or_more_and_never_beyond_what_two_say(
    current: int, claims: list[int]
) -> None:
    target = jump_target(current, claims)
    if target is None:
        assert sum(claim >= current + 2 for claim in claims) < min(2, max(1, len(claims)))
    else:
        assert target >= current + 2
        assert target in claims
        assert sum(claim >= target for claim in claims) >= min(2, len(claims))
