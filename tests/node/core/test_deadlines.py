"""The deadline is learned from first replies only, and stays within its limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipherfleet_node.core.deadlines import (
    LONGEST,
    MARGIN,
    REMEMBERED_ROUNDS,
    SAMPLES,
    Deadlines,
)

BASE_S = 2.0


def learned(replies: list[tuple[float, float]]) -> Deadlines:
    """Deadlines after one reply to each round: (seconds after the query, seconds waited)."""
    deadlines = Deadlines(BASE_S)
    for k, (after_s, waited_s) in enumerate(replies):
        deadlines.sent(k, 100.0 * k)
        deadlines.replied("a", k, waited_s, 100.0 * k + after_s)
    return deadlines


def test_without_a_sample_the_deadline_is_the_base() -> None:
    assert Deadlines(BASE_S).current_s == BASE_S


def test_the_deadline_is_a_multiple_of_the_median_round_trip() -> None:
    assert learned([(3.0, 0.0), (1.0, 0.0), (90.0, 0.0)]).current_s == MARGIN * 3.0


def test_the_time_that_a_query_waited_for_its_round_is_no_round_trip() -> None:
    assert learned([(30.0, 29.0)] * 3).current_s == MARGIN * 1.0


def test_a_repeated_query_gives_no_sample_of_its_own() -> None:
    """Otherwise a member that answers repetitions only would measure the deadline itself."""
    deadlines = Deadlines(BASE_S)
    deadlines.sent(0, 0.0)
    deadlines.sent(0, 8.0)
    deadlines.replied("a", 0, 0.0, 9.0)
    assert deadlines.current_s == MARGIN * 9.0


def test_only_the_first_reply_of_a_neighbour_to_a_round_is_a_sample() -> None:
    deadlines = Deadlines(BASE_S)
    deadlines.sent(0, 0.0)
    deadlines.replied("a", 0, 0.0, 1.0)
    for at in (50.0, 60.0, 70.0):
        deadlines.replied("a", 0, 0.0, at)
    assert deadlines.current_s == MARGIN * 1.0
    for name in ("b", "c"):
        deadlines.replied(name, 0, 0.0, 3.0)
    assert deadlines.current_s == MARGIN * 3.0


def test_late_replies_are_samples_for_some_rounds() -> None:
    deadlines = Deadlines(BASE_S)
    for k in range(REMEMBERED_ROUNDS + 1):
        deadlines.sent(k, 10.0 * k)
    deadlines.replied("a", 0, 0.0, 641.0)
    assert deadlines.current_s == BASE_S, "round 0 is too long ago"
    deadlines.replied("a", 1, 0.0, 20.0)
    assert deadlines.current_s == MARGIN * 10.0


def test_a_lost_connection_ends_the_samples_of_its_rounds() -> None:
    deadlines = Deadlines(BASE_S)
    deadlines.sent(0, 0.0)
    deadlines.forget()
    deadlines.replied("a", 0, 0.0, 500.0)
    assert deadlines.current_s == BASE_S


def test_a_reply_to_a_round_that_was_never_sent_is_no_sample() -> None:
    deadlines = Deadlines(BASE_S)
    deadlines.replied("a", 7, 0.0, 500.0)
    assert deadlines.current_s == BASE_S


replies = st.lists(
    st.tuples(st.floats(0.0, 1e6), st.floats(0.0, 1e7)), min_size=0, max_size=3 * SAMPLES
)


@given(replies)
def test_the_deadline_stays_within_its_limits(given_replies: list[tuple[float, float]]) -> None:
    assert BASE_S <= learned(given_replies).current_s <= LONGEST * BASE_S


@given(replies, st.floats(0.0, 1e3))
def test_enough_round_trips_of_one_length_decide(
    before: list[tuple[float, float]], trip_s: float
) -> None:
    """What came before is forgotten."""
    deadline = learned([*before, *[(trip_s, 0.0)] * SAMPLES]).current_s
    assert deadline == pytest.approx(min(max(MARGIN * trip_s, BASE_S), LONGEST * BASE_S), rel=1e-6)
