"""When a node follows the rounds that its neighbours claim, and how far."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipherfleet_node.core.claims import (
    FAR,
    FIRST_WAIT,
    LONGEST_WAIT,
    PERIODS,
    SHORTEST_ROUND_S,
    Claims,
)
from cipherfleet_node.core.state import UNSEEN

DEADLINE_S = 5.0


def claims_of(*rounds: int, period_s: float | None = None, away_s: float = 0.0) -> Claims:
    """Claims of the neighbours a, b, ... in that order; the node is in no round yet."""
    return Claims(dict(zip("abcdefgh", rounds, strict=False)), period_s, away_s)


def target(claims: Claims, current: int, now: float = 0.0, *, holding: bool = False) -> int | None:
    return claims.target(current, now, DEADLINE_S, holding=holding)


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        ([1_000_000, 5, 5], None),
        ([1_000_000, 8, 5], 8),
        ([1_000_000, 6, 6], None),  # one round ahead is normal
        ([7, 7], 7),
        ([7, UNSEEN], None),
        ([7], None),
        ([], None),
    ],
)
def test_two_neighbours_bear_a_claim_out(rounds: list[int], expected: int | None) -> None:
    assert target(claims_of(*rounds), 5) == expected


def test_absent_neighbours_count_with_their_last_claim() -> None:
    """All configured neighbours count, present or not: the claims are saved."""
    assert target(claims_of(20, 5, 18), 5) == 18


def test_a_holder_follows_one_claim_alone_but_not_by_one_round() -> None:
    assert target(claims_of(7, 5), 5, holding=True) == 7
    assert target(claims_of(6, 5), 5, holding=True) is None
    assert target(claims_of(6, 6), 5, holding=True) is None


def test_a_neighbour_out_of_reach_for_two_deadlines_is_followed_alone() -> None:
    claims = claims_of(5 + FAR, 5)
    assert target(claims, 5, 100.0) is None
    assert target(claims, 5, 100.0 + 2 * DEADLINE_S - 0.1) is None
    assert target(claims, 5, 100.0 + 2 * DEADLINE_S) == 5 + FAR


def test_a_neighbour_within_reach_is_not_followed_alone_however_long() -> None:
    claims = claims_of(5 + FAR - 1, 5)
    assert all(target(claims, 5, float(now)) is None for now in range(0, 10_000, 7))


def test_a_neighbour_that_came_within_reach_again_starts_its_time_again() -> None:
    claims = claims_of(9, 5)
    assert target(claims, 5, 0.0) is None
    assert target(claims, 6, 8.0) is None  # this node has caught up by one
    assert target(claims, 5, 11.0) is None
    assert target(claims, 5, 11.0 + 2 * DEADLINE_S) == 9


def jump_times(claims: Claims, until: float) -> list[float]:
    """When a holder follows a single claim that is always two rounds ahead."""
    jumps = []
    now = 0.0
    while now < until:
        claims.record("a", 10**9, now)
        if target(claims, 10**6, now, holding=True) is not None:
            jumps.append(now)
        now += DEADLINE_S
    return jumps


def test_the_wait_between_single_jumps_doubles_up_to_its_limit() -> None:
    jumps = jump_times(claims_of(UNSEEN, UNSEEN), 5_000 * DEADLINE_S)
    waits = [(b - a) / DEADLINE_S for a, b in itertools.pairwise(jumps)]
    doubled = [float(FIRST_WAIT << n) for n in range(10)]
    assert waits[:10] == doubled
    assert set(waits[10:]) == {float(LONGEST_WAIT)}


def test_a_coupled_round_with_the_neighbour_followed_makes_the_wait_short_again() -> None:
    claims = claims_of(UNSEEN, UNSEEN)
    jumps = jump_times(claims, 100 * DEADLINE_S)
    assert len(jumps) == 6
    claims.coupled(["b"])
    late = jumps[-1] + 64 * DEADLINE_S
    assert target(claims, 5, late, holding=True) == 10**9
    assert target(claims, 5, late + 127 * DEADLINE_S, holding=True) is None, "b was not followed"
    claims.coupled(["a", "b"])
    later = late + 128 * DEADLINE_S
    assert target(claims, 5, later, holding=True) == 10**9
    assert target(claims, 5, later + FIRST_WAIT * DEADLINE_S, holding=True) == 10**9


# -- the bound ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("period_s", "shortest_s"), [(None, SHORTEST_ROUND_S), (2.0, 2.0 / PERIODS), (0.001, 0.005)]
)
def test_no_claim_counts_beyond_the_rounds_that_fit_in_the_time(
    period_s: float | None, shortest_s: float
) -> None:
    claims = claims_of(UNSEEN, UNSEEN, period_s=period_s)
    claims.begin(100, 50.0)
    most = 100 + int(10.0 / shortest_s) + FAR
    assert claims.bound(60.0) == most
    assert claims.record("a", most, 60.0)
    assert not claims.record("a", 10**12, 60.0)
    assert not claims.record("b", 10**12, 60.0)
    assert claims.rounds == {"a": most, "b": most}
    assert target(claims, 100, 60.0) == most


def test_the_time_that_the_node_was_off_counts() -> None:
    claims = claims_of(UNSEEN, away_s=3600.0)
    claims.begin(100, 0.0)
    assert claims.bound(0.0) == 100 + 3600 / SHORTEST_ROUND_S + FAR


def test_the_bound_counts_from_the_first_round_of_the_start() -> None:
    claims = claims_of(UNSEEN)
    assert claims.bound(0.0) == float("inf")
    claims.begin(100, 0.0)
    claims.begin(10**9, 1.0)
    assert claims.bound(0.0) == 100 + FAR


def test_a_claim_never_falls_but_by_a_restart_of_its_neighbour() -> None:
    claims = claims_of(9, 5)
    claims.record("a", 3, 0.0)
    assert claims.rounds["a"] == 9
    claims.restart("a")
    assert claims.rounds["a"] == UNSEEN


moments = st.lists(
    st.tuples(
        st.sampled_from("abcd"),  # who claims
        st.integers(UNSEEN, 10**12),  # which round
        st.floats(0.0, 20.0),  # how much later
        st.booleans(),  # whether this node holds
    ),
    max_size=40,
)


@given(st.integers(0, 1000), moments)
def test_a_target_is_ahead_by_two_within_the_bound_and_claimed(
    current: int, script: list[tuple[str, int, float, bool]]
) -> None:
    claims, now = claims_of(*[UNSEEN] * 4), 0.0
    claims.begin(current, now)
    for name, claim, later_s, holding in script:
        now += later_s
        claims.record(name, claim, now)
        found = target(claims, current, now, holding=holding)
        second = sorted(claims.rounds.values())[-2]
        if found is None:
            assert second < current + 2
            continue
        assert current + 2 <= found <= claims.bound(now)
        assert found in claims.rounds.values()
        assert second >= found or holding or found >= current + FAR
        current = found


@given(st.integers(0, 100), st.lists(st.integers(0, 10**12), min_size=1, max_size=300))
def test_one_liar_moves_a_node_that_couples_with_others_by_nothing_within_reach(
    current: int, lies: list[int]
) -> None:
    """A node that does not hold ignores one neighbour for two deadlines, whatever it claims."""
    claims = claims_of(current, current, current)
    claims.begin(current, 0.0)
    step_s = 1.9 * DEADLINE_S / len(lies)
    for index, lie in enumerate(lies):
        claims.record("a", lie, index * step_s)
        assert target(claims, current, index * step_s) is None
