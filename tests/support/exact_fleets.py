"""Fleets of six for tests of the exact method, and the same runs in the two other engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from cipherfleet_analysis.simulation import Links, run_objectives
from cipherfleet_lab.reference import HasCurvature, iterate_exact
from cipherfleet_lab.simulation.node_randomness import NodeRandomness
from cipherfleet_node.core import exchange
from cipherfleet_node.core.messages import Message, Query
from cipherfleet_node.core.objective import Objective, Regression, make_objective
from cipherfleet_node.core.randomness import FloatVector, RoundRandomness
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.settings.sections import Column, Feature, ObjectiveSection

from .memory_fleet import Edges, MemoryFleet, names

FloatArray = npt.NDArray[np.float64]

D = 3
FIELDS = [f"v{index}" for index in range(D - 1)]
SQUARES = ObjectiveSection(
    kind="least_squares",
    target=Column(field="y"),
    features=[Feature(constant=1.0), *(Feature(field=name) for name in FIELDS)],
)
RESOLUTION = 2.0**-32
SCALE = 0.7
LAWS = ("uniform", "normal", "log-normal")


def six() -> Edges:
    """A ring of six with one chord more: degrees 2 and 3."""
    ids = names(6)
    return [*zip(ids, [*ids[1:], ids[0]], strict=True), (ids[0], ids[3])]


def readings(edges: Edges, rows: int = 12) -> dict[str, Sequence[Sample]]:
    chance = np.random.default_rng(11)
    truth = np.array([0.5, -0.7, 0.4])
    made: dict[str, Sequence[Sample]] = {}
    for place, name in enumerate(sorted({end for edge in edges for end in edge})):
        phi = chance.normal(size=(rows, D - 1)) + 0.1 * place
        y = truth[0] + phi @ truth[1:] + 0.2 * chance.normal(size=rows)
        made[name] = [
            Sample({**dict(zip(FIELDS, map(float, row), strict=True)), "y": float(target)})
            for row, target in zip(phi, y, strict=True)
        ]
    return made


def objectives_of(
    samples: dict[str, Sequence[Sample]], section: ObjectiveSection = SQUARES
) -> dict[str, Regression]:
    made = {}
    for name, own in samples.items():
        objective = make_objective(section)
        assert isinstance(objective, Regression)
        objective.absorb(own)
        made[name] = objective
    return made


def optimum(objectives: Sequence[Regression]) -> FloatVector:
    zero, unused = np.zeros(D), RoundRandomness(bytes(32))
    hessian = np.sum([each.hessian(zero) for each in objectives], axis=0)
    slope = np.sum([each.gradient(zero, unused) for each in objectives], axis=0)
    result: FloatVector = -np.linalg.solve(hessian, slope)
    return result


def run_to(fleet: MemoryFleet, name: str, round_number: int) -> None:
    end = fleet.now + 5_000
    while not fleet.seats[name].reported or fleet.seats[name].reported[-1].number < round_number:
        assert fleet.now < end, "the fleet did not get there"
        fleet.advance(fleet.now + 0.05)


def six_links() -> Links:
    """The links of `six`, with nodes as indices into their sorted names."""
    places = {name: place for place, name in enumerate(names(6))}
    return Links.between(np.array([(places[a], places[b]) for a, b in six()]), 6)


def reported(running: MemoryFleet) -> FloatArray:
    """The estimates of all nodes after each round, shape (rounds, n, d)."""
    own = [[r.estimate for r in running.seats[name].reported] for name in sorted(running.seats)]
    result: FloatArray = np.array(own).swapaxes(0, 1)
    return result


def plain_run(
    running: MemoryFleet,
    objectives: Mapping[str, HasCurvature],
    scale: float | Literal["agree"],
) -> FloatArray:
    """The run of `six` in the plain reference, with the same choices, as `reported` returns it."""
    dimension = next(iter(objectives.values())).start().size
    rounds = running.algorithm.rounds
    assert rounds is not None

    def dither(answerer: str, asker: str, k: int, weight: int) -> Sequence[int]:
        randomness = RoundRandomness(running.round_seed(answerer, k))
        return exchange.dither(randomness, asker, weight, dimension)

    return iterate_exact(
        six(), objectives, running.algorithm, running.resolution, running.round_seed, rounds,
        dither, scale=scale, sealed=running.sealed,
    )[1:]  # fmt: skip


def vector_run(running: MemoryFleet, objectives: Sequence[Objective]) -> FloatArray:
    """The run of `six` in the vector engine, with the same choices, as `reported` returns it."""
    links = six_links()
    rounds = run_objectives(
        links,
        objectives,
        running.algorithm,
        running.objective,
        NodeRandomness(running.round_seed, names(6), links),
        sealed=running.sealed,
    )
    return np.array([each.estimates for each in islice(rounds, running.algorithm.rounds)])


def lying_in_queries(liar: str, **changes: int) -> Callable[[str, str, Message], Message]:
    """A tap that *changes* fields of the queries of *liar*."""

    def tap(sender: str, receiver: str, message: Message) -> Message:
        del receiver
        is_lie = sender == liar and isinstance(message, Query)
        return msgspec.structs.replace(message, **changes) if is_lie else message

    return tap
