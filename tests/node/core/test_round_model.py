"""The round machine under every schedule of a few faults: what an asker learns, and progress.

Each rule is tested in a pair: with the rule no schedule breaks the invariant, without it one does.
`python -m tests.tools.explore_rounds` searches for longer.
"""

from __future__ import annotations

import pytest

from cipherfleet_node.core import answerer
from cipherfleet_node.core.answerer import HELD_ROUNDS
from tests.support.round_model.bugs import switched_off
from tests.support.round_model.graphs import complete, line, ring, star
from tests.support.round_model.invariants import SECRECY, counted_at_one_end, heal
from tests.support.round_model.knowledge import Sum, isolated
from tests.support.round_model.model_nodes import Graph
from tests.support.round_model.search import (
    Limits,
    NewWorld,
    Schedule,
    explore,
    replay,
    shows,
    wander,
)
from tests.support.round_model.symbolic_exchange import Term
from tests.support.round_model.world import STEP, Action, World, new_world

A, B = frozenset("a"), frozenset("b")
NOTHING = frozenset[str](), frozenset[str]()


def sealed(graph: Graph) -> NewWorld:
    return lambda: new_world(graph, sealed=True)


def pairwise(graph: Graph) -> NewWorld:
    return lambda: new_world(graph, sealed=False)


# -- the model itself -----------------------------------------------------------------------------


def term(answerer: str, own: int = 0, draw: bytes = b"", asked: int = 0) -> Term:
    return Term(answerer, own, draw, "i", asked, b"", 2)


def sums(*rosters: str, asked: tuple[int, ...] = ()) -> list[Sum]:
    moves = asked or tuple(0 for _ in rosters)
    return [
        frozenset(term(name, asked=move) for name in roster)
        for roster, move in zip(rosters, moves, strict=True)
    ]


@pytest.mark.parametrize("asked", [(0, 0), (0, 7)], ids=["the asker stands still", "it moves"])
def test_a_narrower_sum_isolates_the_neighbour_that_is_not_in_it(asked: tuple[int, ...]) -> None:
    single, _ = isolated(sums("abc", "ab", asked=asked))
    assert single == {"c"}


def test_three_sums_isolate_what_no_two_of_them_do() -> None:
    pairs = sums("ab", "bc", "ac")
    assert all(isolated(part) == NOTHING for part in (pairs[:2], pairs[1:]))
    assert isolated(pairs)[0] == {"a", "b", "c"}


def test_the_same_roster_again_isolates_nobody() -> None:
    assert isolated(sums("abc", "abc", asked=(0, 7))) == NOTHING


def test_a_neighbour_that_moves_alone_shows_its_change() -> None:
    before = frozenset({term("a"), term("b"), term("c")})
    after = frozenset({term("a"), term("b"), term("c", own=64)})
    assert isolated([before, after])[1] == {"c"}


def test_sums_of_other_draws_isolate_nobody() -> None:
    before = frozenset({term("a"), term("b"), term("c")})
    after = frozenset({term("a", draw=b"x"), term("b", draw=b"x")})
    assert isolated([before, after]) == NOTHING


@pytest.mark.parametrize("seed", range(3))
def test_a_branch_is_in_the_state_of_its_schedule(seed: int) -> None:
    new = sealed(complete(3))
    _, schedule = wander(new, seed, faults_s=2.0, until_s=2.0)
    branch, faults = new(), dict(schedule)
    while branch.now < 2.0:
        parent, branch = branch, branch.fork()
        branch.apply(faults.get(branch.steps, STEP))
    assert branch.fingerprint() == replay(new, schedule, until_s=2.0).fingerprint()
    assert parent.steps == branch.steps - 1


# -- without faults -------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [complete(4), ring(4)], ids=["complete", "ring"])
@pytest.mark.parametrize("exchange", [sealed, pairwise])
def test_without_faults_no_invariant_breaks(exchange: object, graph: Graph) -> None:
    world: World = exchange(graph)()  # type: ignore[operator]
    while world.now < 3.0:
        world.apply(STEP)
    assert not world.violations
    assert not world.rejected
    assert not counted_at_one_end(world)


# -- rules, on and off ----------------------------------------------------------------------------

LATE_AND_WILL = Limits({"late": 1, "will": 1}, last_round=1, rounds=3, focus=A)
LATE = Limits({"late": 1}, most=1, last_round=1, rounds=3, focus=A)
CRASH_IN_A_PAIR = Limits({"crash": 1}, last_round=2, rounds=5)
DYING_ANSWERER = Limits(
    {"crash": 1}, most=1, last_round=1, rounds=4, crashing=B, downs=(6.5,), effects=(0, 3, 4)
)
RESTART = Limits({"crash": 1}, most=1, last_round=1, rounds=4, crashing=A, downs=(0.0,))

RULES = [
    ("answer_any_roster", sealed(complete(4)), DYING_ANSWERER, "isolated"),
    ("never_kick", sealed(complete(4)), DYING_ANSWERER, "nearly_isolated"),
    ("open_in_part", sealed(complete(4)), DYING_ANSWERER, "opened_in_part"),
    ("narrow_within_a_round", sealed(complete(4)), LATE, "two_rosters"),
    (
        "narrow_within_a_round answer_any_query answer_any_roster",
        sealed(complete(4)),
        LATE,
        "isolated",
    ),
    ("open_again_after_a_restart", sealed(complete(4)), RESTART, "two_queries"),
    ("draw_in_every_round", pairwise(line(2)), CRASH_IN_A_PAIR, "redrawn"),
    ("send_before_the_save", sealed(complete(3)), LATE, "unsaved"),
]


@pytest.mark.parametrize(("rules", "new", "limits", "kind"), RULES, ids=[r[0] for r in RULES])
def test_an_invariant_breaks_only_without_its_rule(
    rules: str, new: NewWorld, limits: Limits, kind: str
) -> None:
    wanted = frozenset({kind})
    with switched_off(*rules.split()):
        without = explore(new, limits, wanted=wanted, states=5000)
    assert kind in without.found
    with_rule = explore(new, limits, wanted=wanted, states=max(without.states, 1500))
    assert kind not in with_rule.found


def test_a_late_answer_isolates_nobody() -> None:
    report = explore(sealed(complete(4)), LATE_AND_WILL, states=6000)
    assert report.faults == 1, "all schedules with one fault are visited"
    assert not report.found.keys() & SECRECY


LATE_QUERY: Schedule = ((34, Action("late", "b", "a")), (53, Action("late", "b", "a")))


@pytest.mark.parametrize("is_counted", [True, False])
def test_a_held_round_is_counted_when_its_last_answer_comes(*, is_counted: bool) -> None:
    with switched_off(*([] if is_counted else ["drop_late_sums"])):
        world = replay(sealed(complete(3)), LATE_QUERY, until_s=3.0)
        heal(world, 3.0)
    assert bool(counted_at_one_end(world)) is not is_counted


@pytest.mark.parametrize("seed", range(3))
def test_random_faults_show_no_term_and_stop_no_fleet(seed: int) -> None:
    world, _ = wander(sealed(complete(4)), seed, memories=("saved",), faults_s=5.0, until_s=6.0)
    assert not {violation.kind for violation in world.violations} & (SECRECY | {"exception"})


# -- what the rules do not prevent ----------------------------------------------------------------


def test_a_pairwise_neighbour_that_holds_keeps_its_half_weight() -> None:
    assert not shows(pairwise(line(2)), ((9, Action("cut", "a", down_s=2.5)),), "half_weight")


@pytest.mark.xfail(reason="while all other members stand still, two sums differ by one neighbour")
def test_a_neighbour_that_moves_alone_is_hidden() -> None:
    crash = Action("crash", "a", place=5, down_s=2.5)
    assert not shows(sealed(complete(4)), ((78, crash),), "isolated_change")


@pytest.mark.xfail(reason="each jump that couples nothing doubles the wait for the next one")
def test_a_leaf_catches_up_after_a_will_that_was_not_its_last() -> None:
    assert not shows(pairwise(line(3)), ((29, Action("will", "c", "b")),), "apart")


def test_the_kick_of_a_node_that_has_coupled_nothing_hides_a_roster_change() -> None:
    will = Action("will", "c", "a")
    assert not shows(sealed(star(3)), ((20, will),), "nearly_isolated", until_s=4.0)


@pytest.mark.parametrize("rounds", [1, HELD_ROUNDS])
def test_delays_alone_leave_no_round_counted_at_one_end(
    rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless a node holds only the latest of two queries of one neighbour for later rounds."""
    monkeypatch.setattr(answerer, "HELD_ROUNDS", rounds)
    late = Action("late", "c", "a")
    world = replay(sealed(complete(3)), ((35, late), (58, late)), until_s=3.0)
    heal(world, 3.0)
    assert bool(counted_at_one_end(world)) is (rounds == 1)
