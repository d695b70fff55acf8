"""The delays between connections to the broker."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipherfleet_node.runtime.back_off import (
    DROPPED_LIMIT_S,
    FIRST_S,
    REFUSED_LIMIT_S,
    SETTLED_S,
    BackOff,
)


def longest() -> BackOff:
    return BackOff(jitter=lambda: 1.0)


def test_delays_rise_to_a_limit_and_never_end() -> None:
    back_off = longest()
    delays = [back_off.refused() for _ in range(2000)]
    assert delays[0] == FIRST_S
    assert all(a <= b for a, b in itertools.pairwise(delays))
    assert delays[-1] == REFUSED_LIMIT_S


def test_dropped_connections_are_tried_again_within_seconds() -> None:
    back_off = longest()
    delays = []
    for _ in range(500):
        back_off.accepted()
        delays.append(back_off.dropped(0.6))
    assert delays[0] == FIRST_S
    assert delays[-1] == max(delays) == DROPPED_LIMIT_S < 30.0


def test_a_connection_that_lasts_ends_the_series() -> None:
    back_off = longest()
    for _ in range(20):
        back_off.dropped(1.0)
    assert back_off.dropped(SETTLED_S) == FIRST_S
    # A short one does not, even if the broker has accepted it.
    for _ in range(20):
        back_off.dropped(1.0)
    back_off.accepted()
    assert back_off.dropped(1.0) == DROPPED_LIMIT_S


def test_an_accepted_connection_ends_the_series_of_refusals() -> None:
    back_off = longest()
    for _ in range(20):
        back_off.refused()
    back_off.accepted()
    assert back_off.refused() == FIRST_S


@given(jitter=st.floats(0.0, 1.0), failures=st.integers(1, 3000))
def test_jitter_takes_at_most_half_of_a_delay(jitter: float, failures: int) -> None:
    some, most = BackOff(jitter=lambda: jitter), longest()
    for _ in range(failures):
        delay, limit = some.refused(), most.refused()
    assert limit / 2 <= delay <= limit


@given(jitter=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60))
def test_a_delay_is_not_much_longer_than_the_outage(jitter: list[float]) -> None:
    values = iter(jitter)
    back_off, elapsed = BackOff(jitter=lambda: next(values)), 0.0
    for _ in jitter:
        delay = back_off.refused()
        assert delay <= elapsed + FIRST_S * (1.0 + 1e-9)
        elapsed += delay


def test_two_nodes_do_not_return_at_the_same_moment() -> None:
    one, other = BackOff(), BackOff()
    assert [one.refused() for _ in range(5)] != pytest.approx([other.refused() for _ in range(5)])
