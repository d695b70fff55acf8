"""The guard of the outputs, with the attack that succeeds when it is off.

A reader of all published answers of a fleet knows the graph, the mean half weight and c0, and no
message. It estimates from each step what came from the neighbours. These flows sum to the dual of a
node, which ends at its gradient: so it finds the reading of every node.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from cipherfleet_node.core import exact
from cipherfleet_node.core.exchange import metropolis
from cipherfleet_node.core.packing import METROPOLIS_BITS
from cipherfleet_node.core.randomness import FloatVector
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.outputs.answer import Answer
from cipherfleet_node.outputs.physical import Newest, Place, make_answer
from cipherfleet_node.outputs.publisher import Publisher
from cipherfleet_node.settings.sections import (
    Algorithm,
    AnswerSection,
    Column,
    ObjectiveSection,
    Stepsize,
    Until,
)
from tests.support.memory_fleet import MemoryFleet, complete, names, run_until, start_all

NODES, ROUNDS, C0 = 6, 60, 1.0
ACCURACY = 1e-3
EVERY_S = 0.001  # the pace does not help here: the rounds are in virtual time
MEAN_HALF_WEIGHT = 0.75
OFFSET, SCALE = 20.0, 5.0
SECTION = ObjectiveSection(kind="mean", values=[Column(field="t", offset=OFFSET, scale=SCALE)])


@dataclass
class Reader:
    """It keeps what one node publishes."""

    answers: list[Answer] = field(default_factory=list)

    def put(self, answer: Answer) -> None:
        self.answers.append(answer)

    def close(self) -> None:
        pass


@dataclass
class Run:
    """The answers of all nodes, the estimates behind them, and the readings, all of order one."""

    published: dict[str, list[Answer]]
    estimates: FloatVector  # shape (nodes, rounds)
    readings: FloatVector  # shape (nodes,)


def run(seed: int, *, is_guarded: bool) -> Run:
    """Run a fleet whose nodes publish in every round that the guard allows."""
    chance = np.random.default_rng(seed)
    temperatures = OFFSET + SCALE * chance.normal(size=NODES)
    samples = {
        name: [Sample({"t": float(t)})] for name, t in zip(names(NODES), temperatures, strict=True)
    }
    algorithm = Algorithm(
        period_s=1.0, scale=C0, stepsize=Stepsize(spread=0.5), until=Until(accuracy=ACCURACY)
    )
    fleet = MemoryFleet(complete(NODES), samples, SECTION, algorithm, seed=seed, encrypted=False)
    readers = {name: Reader() for name in fleet.seats}
    publishers = {name: Publisher([readers[name]], EVERY_S, 0.0) for name in fleet.seats}
    settings = AnswerSection() if is_guarded else AnswerSection(digits=12)
    accuracy = ACCURACY if is_guarded else 1e-12
    seen = dict.fromkeys(fleet.seats, 0)

    def observe() -> bool:
        for name, seat in fleet.seats.items():
            if len(seat.reported) == seen[name]:
                continue
            seen[name] += 1
            assert len(seat.reported) == seen[name]
            closed, agent = seat.reported[-1], seat.agent
            assert agent is not None
            place = Place("trial", name, closed.number, "")
            publishers[name].tend(
                fleet.now,
                lambda p=place, x=closed.estimate: make_answer(  # type: ignore[misc]
                    p, x, SECTION, settings, accuracy, Newest()
                ),
                is_settled=agent.has_answer or not is_guarded,
            )
        return min(seen.values()) >= ROUNDS

    start_all(fleet)
    run_until(fleet, observe)
    series = [[c.estimate[0] for c in s.reported[:ROUNDS]] for s in fleet.seats.values()]
    published = {name: reader.answers for name, reader in readers.items()}
    return Run(published, np.array(series), (temperatures - OFFSET) / SCALE)


def find_readings(streams: FloatVector) -> FloatVector:
    """Estimate the reading of every node from *streams*, shape (nodes, rounds), of order one."""
    nodes = len(streams)
    weight = MEAN_HALF_WEIGHT**2 * metropolis(nodes - 1, nodes - 1) / 2**METROPOLIS_BITS
    mixing = np.eye(nodes) * (1 - nodes * weight) + weight
    flows = streams - np.linalg.solve(mixing, streams)
    gradients = exact.BETA * C0 * flows.sum(axis=1)
    found: FloatVector = streams[:, -1] - gradients
    return found


def streams_of(published: dict[str, list[Answer]]) -> FloatVector:
    """The published values by node, of order one, cut to the shortest stream."""
    values = [[a.model.values["t"] for a in answers] for answers in published.values()]
    length = min(map(len, values))
    return (np.array([each[:length] for each in values]) - OFFSET) / SCALE


def error_of(found: FloatVector, truth: FloatVector) -> float:
    """The error relative to the guess that every node has the mean reading."""
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth - truth.mean()))


@pytest.mark.parametrize("seed", [2, 3])  # fixed: the half weights are random
def test_a_stream_without_the_guard_shows_the_readings_and_with_it_nothing(seed: int) -> None:
    open_, guarded = run(seed, is_guarded=False), run(seed, is_guarded=True)
    assert streams_of(open_.published).shape == (NODES, ROUNDS)
    assert error_of(find_readings(streams_of(open_.published)), open_.readings) < 0.35
    assert error_of(find_readings(streams_of(guarded.published)), guarded.readings) > 0.9


@pytest.mark.parametrize("seed", [2, 3])
def test_before_a_node_has_settled_nothing_is_published_and_then_no_step(seed: int) -> None:
    guarded = run(seed, is_guarded=True)
    last = guarded.estimates[:, -1]
    for answers, series, final in zip(
        guarded.published.values(), guarded.estimates, last, strict=True
    ):
        first = answers[0].round
        # What the guard has kept back: the node was far away in the rounds before.
        assert np.abs(series[: first - 15] - final).max() > 50 * ACCURACY
        values = {(answer.model.values["t"] - OFFSET) / SCALE for answer in answers}
        assert len(values) <= 2  # the two multiples of the accuracy beside the answer
        assert all(abs(value - final) < 2 * ACCURACY for value in values)
