"""Generations: the shield, the correction of the sum of duals, and what a coalition learns.

All of it is in one file: the tests share a few fleets and what they ask of their states.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import pytest

from cipherfleet_node.core import generations, listening, progress, stepping
from cipherfleet_node.core.exact import dual
from cipherfleet_node.core.exchange import UNIT
from cipherfleet_node.core.generations import Generations, indices
from cipherfleet_node.core.messages import (
    NAME_BYTES,
    Answer,
    GenerationNote,
    GenerationVotes,
    Message,
    Query,
)
from cipherfleet_node.core.objective import Regression, SquaredLoss
from cipherfleet_node.core.randomness import FloatVector, RoundRandomness
from cipherfleet_node.core.roster import Roster
from cipherfleet_node.core.shield import Shield
from cipherfleet_node.core.state import RoundRecord, State
from cipherfleet_node.core.stepping import Stepper
from cipherfleet_node.settings.sections import Algorithm, MetricName, ShieldName, Stepsize
from cipherfleet_provisioning.topology.graph import Graph
from cipherfleet_provisioning.topology.mixing import loosely_coupled
from tests.support.exact_fleets import (
    RESOLUTION,
    SCALE,
    SQUARES,
    D,
    objectives_of,
    optimum,
    readings,
    reported,
    run_to,
    six,
)
from tests.support.memory_fleet import (
    Edges,
    MemoryFleet,
    complete,
    coupled_of,
    degree_four,
    deliver,
    drop,
    garbling,
    names,
    rejections,
    ring,
    star,
    start_all,
)
from tests.tools import explore_generations, generation_faults

PLAN = 110, 8, 24  # rounds between generations, of the roll call, of the averaging
SHORT = 34, 8, 6


def fleet(
    rounds: int,
    plan: tuple[int, int, int] | None = PLAN,
    scale: float | Literal["agree"] = SCALE,
    **more: Any,
) -> MemoryFleet:
    algorithm = Algorithm(rounds=rounds, scale=scale, stepsize=Stepsize(spread=1.0))
    settings: dict[str, Any] = {"sealed": True, "encrypted": False, "seed": 3, **more}
    return MemoryFleet(six(), readings(six()), SQUARES, algorithm, generations=plan, **settings)


def started(rounds: int, **more: Any) -> MemoryFleet:
    running = fleet(rounds, **more)
    start_all(running)
    return running


def errors(running: MemoryFleet, among: Sequence[str], of: Sequence[str] = ()) -> FloatVector:
    """The relative error of the latest estimate of each node *among*, for the optimum *of* some."""
    objectives = objectives_of({name: running.samples[name] for name in running.seats})
    best = optimum([objectives[name] for name in of or objectives])
    last = np.array([running.seats[name].reported[-1].estimate for name in among])
    result: FloatVector = np.linalg.norm(last - best, axis=1) / np.linalg.norm(best)
    return result


def state_of(running: MemoryFleet, name: str) -> State:
    agent, saved = running.seats[name].agent, running.seats[name].saved
    state = agent.state if agent else saved
    assert state is not None
    return state


def numbers(running: MemoryFleet) -> set[int]:
    return {state_of(running, name).generation.number for name in running.seats}


# -- the iteration --------------------------------------------------------------------------------


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "pairwise"])
def test_an_encrypted_fleet_with_generations_equals_one_in_plaintext(sealed: bool) -> None:
    runs = [fleet(60, SHORT, sealed=sealed, encrypted=which) for which in (True, False)]
    for running in runs:
        running.run()
        assert numbers(running) == {2}
        assert not running.rejected()
    np.testing.assert_array_equal(reported(runs[0]), reported(runs[1]))


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "pairwise"])
def test_the_shield_does_not_move_the_optimum_and_later_generations_hardly_disturb(
    sealed: bool,
) -> None:
    running = started(260, sealed=sealed)
    run_to(running, "n00", 100)
    assert errors(running, list(running.seats)).max() < 1e-4
    running.advance(running.now + 5_000)
    assert numbers(running) == {3}
    assert errors(running, list(running.seats)).max() < 1e-5


def test_the_shares_of_the_first_generation_sum_to_zero_and_are_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cipherfleet_lab.simulation.plaintext_exchange.dither", lambda *_: [0] * D)
    running = fleet(25)
    running.run()
    states = [state_of(running, name) for name in running.seats]
    assert {state.generation.number for state in states} == {1}
    ledgers = np.array([progress.ledger_of(state, D) for state in states], dtype=object)
    assert ledgers.sum(axis=0).tolist() == [0] * D


def test_nodes_have_no_gradient_of_their_own_before_the_first_generation() -> None:
    running = started(60)
    run_to(running, "n00", PLAN[1] - 1)
    for name in running.seats:
        agent = running.seats[name].agent
        assert agent is not None
        assert agent.opener.generations.is_follower(agent.state)
    run_to(running, "n00", 40)
    assert not any(state_of(running, name).follows for name in running.seats)


def test_the_first_roll_call_runs_while_the_nodes_agree_on_their_scale() -> None:
    running = fleet(25, scale="agree")
    running.run()
    assert numbers(running) == {1}


# -- what a coalition learns ----------------------------------------------------------------------


# -- the quadratic shield -------------------------------------------------------------------------


def quadratic(
    rounds: int,
    metric: MetricName = "step",
    shield: ShieldName = "quadratic",
    edges: Edges | None = None,
    **more: Any,
) -> MemoryFleet:
    spread, edges = Stepsize(spread=1.0), edges or six()
    algorithm = Algorithm(rounds=rounds, scale=SCALE, stepsize=spread, shield=shield, metric=metric)
    settings: dict[str, Any] = {"sealed": True, "encrypted": False, "seed": 3, **more}
    return MemoryFleet(edges, readings(edges), SQUARES, algorithm, generations=PLAN, **settings)


def shielded(running: MemoryFleet, name: str) -> list[float]:
    """The upper triangle of c0 Q_i of the node *name*."""
    return state_of(running, name).generation.quadratic


def sum_of_shields(running: MemoryFleet, among: Sequence[str]) -> float:
    """The largest entry of the sum of c0 Q_i; every node *among* must have one."""
    found = np.array([shielded(running, name) for name in among])
    assert np.abs(found).max(axis=1).min() > 0.02
    return float(np.abs(found.sum(axis=0)).max())


@pytest.mark.parametrize(
    ("metric", "sealed"), [("step", True), ("step", False), ("diagonal", False), ("newton", True)]
)
def test_the_quadratic_shield_does_not_move_the_optimum(metric: MetricName, sealed: bool) -> None:
    running = quadratic(PLAN[0] - 10, metric, sealed=sealed)
    running.run()
    assert sum_of_shields(running, list(running.seats)) < 1e-14
    assert errors(running, list(running.seats)).max() < 1e-6


def test_an_encrypted_fleet_with_the_quadratic_shield_equals_one_in_plaintext() -> None:
    runs = [quadratic(40, encrypted=which) for which in (True, False)]
    for running in runs:
        running.run()
    np.testing.assert_array_equal(reported(runs[0]), reported(runs[1]))
    linear = quadratic(40, shield="linear")
    linear.run()
    assert np.abs(reported(runs[1]) - reported(linear)).max() > 1e-3


def test_the_quadratic_shield_changes_only_with_the_participants() -> None:
    running = quadratic(600, sealed=False)
    start_all(running)
    run_to(running, "n00", PLAN[1] - 1)
    assert shielded(running, "n00") == []
    run_to(running, "n00", 40)
    first = {name: shielded(running, name) for name in running.seats}
    run_to(running, "n00", PLAN[0] + 60)
    assert numbers(running) == {2}
    assert {name: shielded(running, name) for name in running.seats} == first
    running.kill("n04")
    rest = [name for name in running.seats if name != "n04"]
    run_to(running, "n00", PLAN[1] + 3 * PLAN[0] - 10)
    assert sum_of_shields(running, rest) < 1e-14
    assert not any(shielded(running, name) == first[name] for name in rest)
    run_to(running, "n00", PLAN[1] + 4 * PLAN[0] + 14)
    assert errors(running, rest, of=rest).max() < 1e-2


def test_a_node_that_has_lost_its_state_has_no_quadratic_shield_until_it_is_listed_again() -> None:
    running = quadratic(300, sealed=False)
    start_all(running)
    run_to(running, "n00", 60)
    running.kill("n02")
    running.lose_state("n02")
    running.start("n02")
    run_to(running, "n00", 80)
    assert shielded(running, "n02") == []
    run_to(running, "n00", PLAN[1] + PLAN[0] + 60)
    assert sum_of_shields(running, list(running.seats)) < 1e-14


class Unknown(Regression):
    """An objective that does not say how curved it is, as a user's own class."""

    curvature = None  # type: ignore[assignment]
    curvature_bound = None  # type: ignore[assignment]


def test_the_quadratic_shield_goes_with_an_objective_of_unknown_curvature(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "cipherfleet_lab.simulation.memory_fleet.make_node_objective",
        lambda _algorithm, section, *_: Unknown(section, SquaredLoss()),
    )
    running = quadratic(PLAN[0] - 10)
    running.run()
    assert sum_of_shields(running, list(running.seats)) < 1e-14
    assert errors(running, list(running.seats)).max() < 1e-5


@pytest.mark.parametrize(
    ("edges", "shield", "holds"),
    [
        (star(10), "linear", True),
        (star(10), "quadratic", False),
        (ring(10), "quadratic", True),
    ],
    ids=["star without it", "star", "ring"],
)
def test_links_of_little_weight_do_not_hold_the_quadratic_shield(
    edges: Edges, shield: ShieldName, holds: bool
) -> None:
    """Provisioning refuses it for a star of ten, where a leaf's one link weighs a tenth.

    Three nodes are followers: without readings, they have no curvature beside that of the shield.
    """
    graph = Graph(tuple(names(10)), tuple(edges))
    assert bool(loosely_coupled(graph)) == (edges == star(10))
    members, followers = names(10)[:7], names(10)[7:]
    running = quadratic(100, shield=shield, edges=edges, sealed=False, followers=followers)
    running.run()
    error = errors(running, names(10), of=members).max()
    assert error < 0.5 if holds else error > 5.0


@pytest.fixture
def flows(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, FloatVector]:
    """By node: all that has flowed into its dual, in units of the ledger; its neighbours know it.

    A pairwise coalition knows the flows exactly, a sealed one with the neighbours' neighbours.
    """
    known: dict[str, Any] = defaultdict(lambda: np.zeros(D))
    booked = Stepper._booked

    def book(
        self: Stepper, state: State, record: RoundRecord, term: Sequence[int], sign: int = 1
    ) -> State:
        known[state.node] = known[state.node] + sign * np.array(term, dtype=float)
        return booked(self, state, record, term, sign)

    monkeypatch.setattr(Stepper, "_booked", book)
    return known


def telescoped(running: MemoryFleet, flows: Mapping[str, FloatVector]) -> float:
    """The error of the gradients that all neighbours together find, relative to a guess of zero.

    They scale what they find by the factor that fits best: nobody can do better with it.
    """
    objectives = objectives_of(readings(six()))
    best, unused = optimum(list(objectives.values())), RoundRandomness(bytes(32))
    true = np.array([objectives[name].gradient(best, unused) for name in running.seats])
    unit = RESOLUTION * UNIT
    found = np.array([-dual(list(flows[name]), SCALE, unit) for name in running.seats])
    factor = float((found * true).sum() / (found**2).sum())
    return float(np.linalg.norm(factor * found - true) / np.linalg.norm(true))


def test_without_a_shield_all_neighbours_find_the_gradient(
    flows: Mapping[str, FloatVector],
) -> None:
    running = fleet(200, None)
    running.run()
    assert telescoped(running, flows) < 1e-3


def test_with_a_shield_all_neighbours_find_nothing_of_the_gradient(
    flows: Mapping[str, FloatVector],
) -> None:
    running = fleet(220)
    running.run()
    assert numbers(running) == {2}
    assert errors(running, list(running.seats)).max() < 1e-3
    assert telescoped(running, flows) > 0.9


def test_partners_who_all_collude_find_the_gradient_in_spite_of_the_shield(
    flows: Mapping[str, FloatVector],
) -> None:
    running = fleet(150, (400, 8, 24))  # the first generation alone
    running.run()
    corrected = {}
    for name, seat in running.seats.items():
        state = seat.saved
        assert state is not None
        shield = running._shield(name)
        assert shield is not None
        everyone = range(len(running.seats))
        shares = shield.shares(state.generation.name, everyone, D, RESOLUTION * UNIT)
        corrected[name] = flows[name] - np.array(shares, dtype=float)
    assert telescoped(running, corrected) < 1e-2


# -- faults ---------------------------------------------------------------------------------------


def test_a_wiped_card_and_a_node_gone_for_good_are_healed_by_the_next_generations() -> None:
    running = started(600, sealed=False)  # a sealed ring without one member does not couple
    run_to(running, "n00", 80)
    running.kill("n02")
    running.lose_state("n02")
    running.start("n02")
    run_to(running, "n00", PLAN[1] + 2 * PLAN[0] + 60)
    everyone = list(running.seats)
    assert errors(running, everyone).max() < 1e-3
    assert not any(state_of(running, name).follows for name in everyone)
    running.kill("n04")
    rest = [name for name in everyone if name != "n04"]
    run_to(running, "n00", PLAN[1] + 3 * PLAN[0] - 10)
    before = errors(running, rest, of=rest).min()
    run_to(running, "n00", PLAN[1] + 4 * PLAN[0] + 14)
    assert errors(running, rest, of=rest).max() < before / 10


@pytest.mark.parametrize("listens", [True, False], ids=["listening", "at once"])
@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "pairwise"])
def test_a_node_that_enters_hardly_disturbs_its_neighbours(
    sealed: bool, listens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not listens:
        monkeypatch.setattr(listening, "rounds_to_listen", lambda *_: 0)
    edges = complete(5)
    algorithm = Algorithm(rounds=400, scale=SCALE, stepsize=Stepsize(spread=1.0))
    running = MemoryFleet(
        edges, readings(edges), SQUARES, algorithm,
        generations=(150, 6, 32), sealed=sealed, encrypted=False, seed=3,
    )  # fmt: skip
    start_all(running)
    run_to(running, "n00", 100)
    others = ["n00", "n01", "n03", "n04"]
    before = running.seats["n00"].reported[-1].number
    assert errors(running, others).max() < 1e-4
    running.kill("n02")
    running.lose_state("n02")
    running.start("n02")
    worst = 0.0
    while running.seats["n00"].reported[-1].number < before + 230:
        running.advance(running.now + 0.02)
        worst = max(worst, errors(running, others).max())
    assert worst < 5e-2 if listens else worst > 8e-2
    assert errors(running, list(running.seats)).max() < 1e-3


def test_a_node_that_listens_does_not_answer_a_roster_of_two() -> None:
    edges = complete(4)
    algorithm = Algorithm(rounds=300, scale=SCALE, stepsize=Stepsize(spread=1.0))
    running = MemoryFleet(
        edges, readings(edges), SQUARES, algorithm, sealed=True, encrypted=False, seed=3
    )
    asked: dict[tuple[str, int], int] = {}  # the size of the roster
    answered, unanswered = [], []

    def listens(k: int) -> bool:
        record = state_of(running, "n02").record(k)
        return record is not None and record.listens

    def watch(sender: str, receiver: str, message: Message) -> Message:
        if isinstance(message, Query) and receiver == "n02":
            asked[sender, message.round] = len(message.roster)
            if listens(message.round):
                unanswered.append(len(message.roster))
        if isinstance(message, Answer) and sender == "n02" and listens(message.round):
            answered.append(asked[receiver, message.round])
        return message

    running.tap = watch
    start_all(running)
    run_to(running, "n00", 40)
    running.kill("n03")
    running.kill("n02")
    running.lose_state("n02")
    running.start("n02")
    running.advance(running.now + 200.0)
    assert 2 in unanswered
    assert 2 not in answered
    assert state_of(running, "n02").listens == 0
    assert coupled_of(running, "n00") > 60


def test_a_node_without_a_share_gets_one_with_the_next_generation() -> None:
    running = started(400)
    run_to(running, "n00", 60)
    running.kill("n01")
    running.lose_state("n01")
    running.start("n01")
    run_to(running, "n00", 80)
    assert not state_of(running, "n01").generation.has_share
    run_to(running, "n00", PLAN[1] + PLAN[0] + PLAN[2] + 15)
    changes = {name: state_of(running, name).generation.change for name in running.seats}
    size = 0.1 / (RESOLUTION * UNIT)
    assert state_of(running, "n01").generation.has_share
    assert all(change is not None for change in changes.values())
    assert max(abs(int(entry)) for entry in changes["n01"].total) > size  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", [1, 7])
def test_no_faults_leave_a_wrong_sum_or_a_node_without_its_gradient(
    seed: int,
) -> None:
    outcome = generation_faults.run(seed)
    assert outcome.applied > 0
    assert outcome.broken == 0
    assert outcome.problems == []


def test_a_node_that_dies_in_every_averaging_keeps_the_others_from_few_generations() -> None:
    """It stands out of 2^f - 1 generations after f failures in a row."""
    edges = complete(5)
    algorithm = Algorithm(
        rounds=700, period_s=1.0, scale=SCALE, stepsize=Stepsize(spread=1.0), answer_timeout_s=1.0
    )
    every, roll_call, averaging = 40, 6, 4
    running = MemoryFleet(
        edges, readings(edges), SQUARES, algorithm,
        generations=(every, roll_call, averaging), encrypted=False, seed=3,
    )  # fmt: skip
    start_all(running)
    applied: set[int] = set()
    while True:
        k = state_of(running, "n00").round
        if k >= roll_call + 15 * every:
            break
        looper = running.seats["n04"].agent
        if looper is not None and looper.state.generation.pending is not None:
            running.kill("n04")
            running.advance(running.now + 12.0)
            running.start("n04")
        running.advance(running.now + 0.5)
        applied.add(state_of(running, "n00").generation.number)
    assert running.seats["n04"].epoch > 3
    assert len(applied - {0}) >= 11


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "pairwise"])
def test_no_single_fault_in_a_generation_leaves_a_wrong_sum(sealed: bool) -> None:
    counts, problems = explore_generations.explore("three", sealed=sealed, stride=450)
    assert sum(counts.values()) >= 4
    assert problems == []


def test_a_share_without_its_counterpart_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = Shield.shares

    def with_one_more(self: Shield, *more: Any) -> list[int]:
        return [entry + (self.index == 1) for entry in shares(self, *more)]

    start = explore_generations.healthy(explore_generations.GRAPHS["three"], sealed=False)
    monkeypatch.setattr(Shield, "shares", with_one_more)
    problems, _ = explore_generations.run(start, [])
    assert "generations with a wrong sum were applied" in problems[0]


def test_votes_without_the_check_of_both_ends_apply_wrong_sums(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generations, "_is_counted_at_both_ends", lambda *_: True)
    assert any(generation_faults.run(seed).broken for seed in (51, 59, 69))


def test_two_nodes_alone_begin_no_generation() -> None:
    edges = [("n00", "n01"), ("n01", "n02"), ("n00", "n02")]
    algorithm = Algorithm(rounds=60, scale=SCALE, stepsize=Stepsize(spread=1.0))
    running = MemoryFleet(
        edges, readings(edges), SQUARES, algorithm, encrypted=False, generations=(30, 6, 4)
    )
    for name in ("n00", "n01"):
        running.start(name)
    running.advance(1_000.0)
    assert {state_of(running, name).generation.passed for name in ("n00", "n01")} >= {2}
    assert {state_of(running, name).generation.number for name in ("n00", "n01")} == {0}


# -- a member that never answers ------------------------------------------------------------------

EIGHT = degree_four(8)
MUTE, OTHERS = "n00", names(8)[1:]


def eight(*, sealed: bool, encrypted: bool = False) -> MemoryFleet:
    """A fleet of eight that has started; it has a generation every 50 rounds from round 12 on."""
    algorithm = Algorithm(rounds=10**6, scale=SCALE, stepsize=Stepsize(spread=1.0))
    settings: dict[str, Any] = {"sealed": sealed, "encrypted": encrypted, "seed": 3}
    running = MemoryFleet(
        EIGHT, readings(EIGHT), SQUARES, algorithm, generations=(50, 12, 10), **settings
    )
    start_all(running)
    return running


def with_a_mute_member(*, sealed: bool = True) -> MemoryFleet:
    """A fleet of which one member asks, and never answers; after its second generation."""
    running = eight(sealed=sealed)
    running.tap = drop(lambda sender, _, m: sender == MUTE and isinstance(m, Answer))
    run_to(running, OTHERS[3], 12 + 2 * 50 - 2)
    return running


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "pairwise"])
def test_a_member_that_never_answers_stops_no_generation(sealed: bool) -> None:
    running = with_a_mute_member(sealed=sealed)
    assert min(state_of(running, name).generation.number for name in OTHERS) >= 2
    assert errors(running, OTHERS, of=OTHERS).max() < 0.02


def test_a_member_that_answers_garbage_stops_no_generation() -> None:
    running = eight(sealed=True, encrypted=True)
    running.tap = garbling(running, MUTE)
    run_to(running, OTHERS[3], 45)
    assert errors(running, OTHERS, of=OTHERS).max() > 0.1, "rounds were counted at one end only"
    run_to(running, OTHERS[3], 12 + 2 * 50 - 2)
    assert errors(running, OTHERS, of=OTHERS).max() < 0.02


def test_a_member_that_never_answers_stops_all_generations_if_it_is_averaged_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def counts_all(record: RoundRecord, name: bytes) -> bool:
        is_whole = record.answered.keys() <= set(record.counted)
        return record.averaging == name and record.outcome == "coupled" and is_whole

    monkeypatch.setattr(generations, "_is_counted_at_both_ends", counts_all)
    running = with_a_mute_member()
    assert numbers(running) == {1}
    assert errors(running, OTHERS, of=OTHERS).max() > 0.05


def test_a_member_that_never_answers_moves_the_optimum_if_it_is_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Roster, "sets_aside", lambda *_: False)
    running = with_a_mute_member()
    assert min(state_of(running, name).generation.number for name in OTHERS) >= 2
    assert errors(running, OTHERS, of=OTHERS).max() > 0.05


def test_a_node_has_no_term_of_the_vector_with_one_that_it_does_not_ask() -> None:
    """The term is zero at both ends, and both vote."""
    with generation_faults.watching() as watched:
        running = eight(sealed=True)
        run_to(running, "n00", 45)
        agent = running.seats["n01"].agent
        assert agent is not None
        choose = agent.roster.choose
        agent.roster.choose = (  # type: ignore[method-assign]
            lambda candidates, k, **more: choose(set(candidates) - {"n00"}, k, **more)
        )
        run_to(running, "n00", 12 + 2 * 50 - 14)
    assert [len(who) for who in watched.applied.values()] == [8, 8]
    assert not watched.broken()


# -- nodes that stand at their limits -------------------------------------------------------------


def without_gradients() -> MemoryFleet:
    """A fleet of eight that has lost all its duals after its first generation.

    All nodes have old copies of their states. So none has a gradient, and the sum of the duals is
    far from zero. The fleet runs to the end of its third generation.
    """
    running = eight(sealed=True)
    run_to(running, "n00", 30)
    for name, seat in running.seats.items():
        running.kill(name)
        running.damage_state(name)
        assert seat.saved is not None
        if name == "n00":
            wrong = progress.texts(2_000 * entry for entry in progress.ledger_of(seat.saved, D))
            seat.saved = progress.replaced(seat.saved, ledger=wrong)
    start_all(running)
    run_to(running, "n04", 12 + 3 * 50 - 2)
    return running


def test_a_fleet_at_its_limits_is_healed_by_the_next_generation() -> None:
    running = without_gradients()
    assert running.rejected()["overreach"] > 0
    assert numbers(running) == {3}
    assert errors(running, names(8)).max() < 20


def test_a_fleet_at_its_limits_stays_there_if_every_step_beyond_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stepping, "REFUSED_STEPS", 10**6)
    running = without_gradients()
    assert numbers(running) == {1}
    assert errors(running, names(8)).max() > 100


# -- notes ----------------------------------------------------------------------------------------


def note(**changes: Any) -> GenerationNote:
    made = GenerationNote(0, b"", b"", b"", b"", None)
    return msgspec.structs.replace(made, **changes)


NOTES_IGNORED = [
    note(number=2**40, name=bytes(NAME_BYTES)),  # a generation that cannot have begun
    note(votes=GenerationVotes(b"x" * NAME_BYTES, b"\xff")),  # votes for another one
    note(listed=b"\xff", fresh=b"\xff"),  # outside a roll call
]


@pytest.mark.parametrize("forged", NOTES_IGNORED)
def test_a_note_that_cannot_be_true_changes_nothing(forged: GenerationNote) -> None:
    running = started(100)
    run_to(running, "n00", 30)
    agent = running.seats["n00"].agent
    assert agent is not None
    before = agent.state
    query = running.seats["n01"].agent.opener.query(  # type: ignore[union-attr]
        state_of(running, "n01"), state_of(running, "n01").records[-1]
    )
    agent.opener.generations.hear(msgspec.structs.replace(query, generation=forged), is_aside=False)
    agent.opener.generations._heard = {"n01": (query.round, forged)}
    assert agent.opener.generations.advance(before) == before


def test_a_fleet_without_generations_refuses_queries_that_mention_them() -> None:
    running = started(50, plan=None)
    run_to(running, "n00", 5)
    record = state_of(running, "n01").records[-1]
    agent = running.seats["n01"].agent
    assert agent is not None
    query: Query = agent.opener.query(agent.state, record)
    for changes in ({"generation": note()}, {"averaged": query.ciphertexts}):
        effects = deliver(running, "n00", msgspec.structs.replace(query, **changes))
        assert rejections(effects) == ["generation"]


def test_bits_name_participants_by_index() -> None:
    assert indices(generations._union(generations._bit(0), generations._bit(9))) == [0, 9]
    assert generations._within(b"\x03\x02", b"\x01") == b"\x01"
    assert indices(b"") == []


def test_generations_begin_at_known_rounds() -> None:
    shield = fleet(1)._shield("n00")
    assert shield is not None
    firsts = [Generations.first_round(shield, number) for number in (1, 2, 3)]
    assert firsts == [8, 118, 228]
    assert [Generations._latest(shield, k) for k in (7, 8, 117, 118)] == [0, 1, 1, 2]
