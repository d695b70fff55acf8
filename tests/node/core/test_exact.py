"""The exact method: the plain reference, the fixed point, and what breaks it and what does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from cipherfleet_lab.simulation.memory_fleet import Faults
from cipherfleet_node.core import progress
from cipherfleet_node.core.exact import BETA, Curvature, dual, mean_step
from cipherfleet_node.core.exchange import UNIT
from cipherfleet_node.core.messages import Message
from cipherfleet_node.core.randomness import FloatVector, RoundRandomness
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.settings.sections import (
    Algorithm,
    ObjectiveSection,
    Stepsize,
)
from tests.support.exact_fleets import (
    LAWS,
    RESOLUTION,
    SCALE,
    SQUARES,
    D,
    objectives_of,
    optimum,
    plain_run,
    readings,
    reported,
    run_to,
    six,
    vector_run,
)
from tests.support.memory_fleet import MemoryFleet, names


def fleet(rounds: int = 150, spread: float = 1.0, law: Any = "uniform", **more: Any) -> MemoryFleet:
    stepsize = Stepsize(spread=spread, law=law)
    algorithm = Algorithm(rounds=rounds, scale=SCALE, stepsize=stepsize)
    settings: dict[str, Any] = {"sealed": True, "leaves_open": True, "encrypted": False, **more}
    return MemoryFleet(six(), readings(six()), SQUARES, algorithm, seed=3, **settings)


def errors(fleet: MemoryFleet, among: Sequence[str] = ()) -> FloatVector:
    """The relative error of each node at the end, for the optimum of all."""
    best = optimum(list(objectives_of(readings(six())).values()))
    chosen = among or list(fleet.seats)
    last = np.array([fleet.seats[name].reported[-1].estimate for name in chosen])
    result: FloatVector = np.linalg.norm(last - best, axis=1) / np.linalg.norm(best)
    return result


def ledger_sum(fleet: MemoryFleet) -> list[int]:
    states = [seat.saved for seat in fleet.seats.values() if seat.saved is not None]
    rows = [progress.ledger_of(state, D) for state in states]
    return [sum(column) for column in zip(*rows, strict=True)]


# -- the iteration ------------------------------------------------------------------------------


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "pairwise"])
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_the_exact_fleet_equals_the_plain_reference(spread: float, sealed: bool) -> None:
    running = fleet(40, spread, sealed=sealed, encrypted=True)
    running.run()
    plain = plain_run(running, objectives_of(readings(six())), SCALE)
    np.testing.assert_allclose(reported(running), plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("spread", "law"),
    [(0.0, "uniform"), (0.5, "normal"), (1.0, "uniform"), *((2.0, law) for law in LAWS)],
)
def test_every_law_and_spread_leads_to_the_same_optimum(spread: float, law: str) -> None:
    """The slowest is there after 88 rounds. Without a spread every law is the same."""
    running = fleet(100, spread, law)
    running.run()
    assert errors(running).max() < 1e-6


def test_the_ledgers_sum_to_zero_without_dither_and_to_little_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = fleet(60)
    running.run()
    entries = np.array(ledger_sum(running), dtype=float) * UNIT
    assert 0 < np.abs(entries).max() < 5 * np.sqrt(60), "in resolutions"
    monkeypatch.setattr("cipherfleet_lab.simulation.plaintext_exchange.dither", lambda *_: [0] * D)
    running = fleet(60)
    running.run()
    assert ledger_sum(running) == [0] * D


def test_duals_end_at_the_negative_gradients() -> None:
    running = fleet(150)
    running.run()
    objectives = objectives_of(readings(six()))
    best = optimum(list(objectives.values()))
    for name, seat in running.seats.items():
        assert seat.saved is not None
        y = dual(progress.ledger_of(seat.saved, D), SCALE, RESOLUTION * UNIT)
        gradient = objectives[name].gradient(best, RoundRandomness(bytes(32)))
        np.testing.assert_allclose(y, -gradient, rtol=0, atol=1e-5)


# -- absence, restarts and lost states ----------------------------------------------------------


def test_a_node_that_is_away_and_comes_back_moves_nothing() -> None:
    running = fleet(160)
    for name in running.seats:
        running.start(name)
    run_to(running, "n00", 100)
    running.kill("n02")
    run_to(running, "n00", 130)
    rest = [name for name in running.seats if name != "n02"]
    assert errors(running, rest).max() < 1e-6
    running.start("n02")
    running.advance(running.now + 5_000)
    assert errors(running).max() < 1e-6


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "pairwise"])
def test_a_node_that_lost_its_state_follows_and_keeps_its_old_share_in_force(
    *, sealed: bool
) -> None:
    """Also where its neighbours hold meanwhile, because they have no other two neighbours."""
    running = fleet(200, sealed=sealed)
    for name in running.seats:
        running.start(name)
    run_to(running, "n00", 100)
    running.kill("n02")
    running.lose_state("n02")
    run_to(running, "n00", 110)
    running.start("n02")
    running.advance(running.now + 5_000)
    saved = running.seats["n02"].saved
    assert saved is not None
    assert saved.follows
    assert errors(running).max() < 1e-5


@pytest.mark.parametrize("seed", range(2))
def test_kills_at_any_effect_leave_the_ledgers_balanced(seed: int) -> None:
    running = fleet(350, faults=Faults(delay_s=(0.001, 0.05)))
    chance = np.random.default_rng(seed)
    for name in running.seats:
        running.start(name)
    for _ in range(15):
        victim = str(chance.choice(list(running.seats)))
        running.kill_within(victim, int(chance.integers(1, 12)))
        end = running.now + 1.0
        while running.seats[victim].agent is not None and running.now < end:
            running.advance(running.now + 0.005)
        if running.seats[victim].agent is not None:
            running.kill(victim)
        running.start(victim)
        running.advance(running.now + float(chance.uniform(0.0, 2.0)))
    assert not any(seat.stopped for seat in running.seats.values()), "they ended before the kills"
    running.advance(running.now + 10_000)
    entries = np.array(ledger_sum(running), dtype=float) * UNIT
    assert np.abs(entries).max() < 5 * np.sqrt(350), "a term was counted at one end only"


# -- steps and curvature ------------------------------------------------------------------------


@pytest.mark.parametrize("curvature", [0.0, 0.01, 1.0, 100.0])
@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0, 2.0])
def test_no_mean_step_is_longer_than_what_is_stable(curvature: float, spread: float) -> None:
    step = mean_step(curvature, 1.0, spread)
    assert step * curvature <= 1.0
    assert BETA * step <= 2.0


class OwnClass:
    """A user's objective x'Hx/2, without a closed form of its curvature."""

    dimension, fields, ready = D, frozenset[str](), True
    hessian = np.diag([0.5, 2.0, 7.0])

    def absorb(self, samples: Sequence[Sample]) -> None:
        del samples

    def start(self) -> FloatVector:
        return np.zeros(D)

    def gradient(self, x: FloatVector, randomness: RoundRandomness) -> FloatVector:
        del randomness
        result: FloatVector = self.hessian @ x
        return result


def test_the_power_method_finds_the_curvature_of_a_class_of_ones_own() -> None:
    measured = Curvature(OwnClass())
    found = [measured.at(np.ones(D), k, RoundRandomness(bytes(32))) for k in range(40)]
    assert 0.6 * 7.0 < found[0] <= 7.0 + 1e-6
    assert found[-1] == pytest.approx(7.0, rel=1e-3)


@pytest.mark.parametrize("kind", ["least_squares", "ridge", "logistic", "huber"])
def test_the_curvature_in_closed_form_bounds_the_second_derivative(kind: str) -> None:
    samples = readings(six())
    changes: dict[str, Any] = {"kind": kind, "penalty": 0.1 if kind == "ridge" else 0.0}
    section = ObjectiveSection(target=SQUARES.target, features=SQUARES.features, **changes)
    if kind == "logistic":
        samples = {
            name: [Sample({**s.values, "y": float(s.values["y"] > 0)}) for s in own]
            for name, own in samples.items()
        }
    for objective in objectives_of(samples, section).values():
        for point in (np.zeros(D), np.ones(D)):
            largest = float(np.linalg.eigvalsh(objective.hessian(point))[-1])
            assert largest <= objective.curvature() * (1 + 1e-12)


# -- the vector engine --------------------------------------------------------------------------


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "pairwise"])
def test_the_vector_engine_equals_the_exact_fleet_for_the_same_draws(sealed: bool) -> None:
    running = fleet(40, sealed=sealed)
    running.run()
    objectives = list(objectives_of(readings(six())).values())
    simulated = vector_run(running, objectives)
    np.testing.assert_allclose(reported(running), simulated, rtol=0, atol=1e-6)


# -- followers ----------------------------------------------------------------------------------


def test_followers_end_at_the_optimum_of_the_members() -> None:
    followers = names(6)[1::2]
    running = fleet(150, followers=followers)
    running.run()
    members = [o for name, o in objectives_of(readings(six())).items() if name not in followers]
    best = optimum(members)
    last = np.array([seat.reported[-1].estimate for seat in running.seats.values()])
    assert np.linalg.norm(last - best, axis=1).max() / np.linalg.norm(best) < 1e-6


def test_the_readings_of_a_follower_enter_no_message() -> None:
    """Without them every message of the fleet is the same, bit by bit; without a member's, not."""
    followers = names(6)[1::2]

    def messages(without: str) -> list[object]:
        sent: list[object] = []

        def record(sender: str, receiver: str, message: Message) -> Message:
            sent.append((sender, receiver, message))
            return message

        running = fleet(20, followers=followers, tap=record)
        running.seats[without].samples = running.seats[without].samples[:1]
        running.run()
        return sent

    one, other, member = followers[0], followers[1], names(6)[0]
    assert len(messages(one)) > 100
    assert messages(one) == messages(other)
    assert messages(one) != messages(member)
