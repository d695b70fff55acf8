"""The alert of a node that no neighbour answers although neighbours speak."""

from __future__ import annotations

from cipherfleet_node.runtime.unanswered import UNANSWERED_ROUNDS, Unanswered

PATIENCE_S = 30.0


def node() -> Unanswered:
    return Unanswered(PATIENCE_S, now=0.0)


def test_an_answered_node_gives_no_alert() -> None:
    watched = node()
    for now in range(100):
        watched.hear("n2", float(now))
        watched.close_round(float(now), is_answered=True)
        assert watched.duration_s(float(now)) == 0
    assert watched.has_exchanged


def test_rounds_without_an_answer_give_an_alert_if_a_neighbour_speaks() -> None:
    watched = node()
    for k in range(UNANSWERED_ROUNDS):
        assert watched.duration_s(k * 0.5) == 0
        watched.hear("n2", k * 0.5)
        watched.close_round(k * 0.5, is_answered=False)
    assert watched.duration_s(9.0) == 9
    assert watched.speakers(9.0) == ["n2"]
    assert not watched.has_exchanged
    watched.close_round(9.5, is_answered=True)
    assert watched.duration_s(9.5) == 0


def test_silent_neighbours_are_no_alert() -> None:
    watched = node()
    for k in range(UNANSWERED_ROUNDS * 2):
        watched.close_round(float(k), is_answered=False)
    assert watched.duration_s(16.0) == 0


def test_a_node_that_closes_no_round_gives_the_alert_after_a_healthy_rounds_time() -> None:
    watched = node()
    watched.hear("n2", 25.0)
    assert watched.duration_s(PATIENCE_S - 1) == 0
    assert watched.duration_s(PATIENCE_S) == 30


def test_the_alert_ends_when_the_neighbours_fall_silent() -> None:
    watched = node()
    watched.hear("n2", 25.0)
    assert watched.duration_s(40.0) == 40
    assert watched.duration_s(25.0 + PATIENCE_S) == 0
