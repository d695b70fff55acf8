"""What to expect of a fleet before it runs: room, traffic, mixing, error, the time of a round.

Nothing here looks at what is private to a node but recorded readings, which the operator has, and
no figure of a single node's readings is told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import msgspec
import numpy as np

from cipherfleet_analysis.cost.board_card import Calibration
from cipherfleet_analysis.cost.round_time import RoundTime, predict
from cipherfleet_analysis.cost.traffic import Traffic, layout_of, traffic
from cipherfleet_node.core.objective import Mean, Objective, Regression, make_objective
from cipherfleet_node.core.quantiser import VALUE_BITS
from cipherfleet_node.core.randomness import SEED_BYTES, Draws
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.sensors import open_sensor
from cipherfleet_node.settings.sections import SyntheticSensor, resolution_of
from cipherfleet_provisioning.fleet.fleet import Fleet
from cipherfleet_provisioning.fleet.members import Member
from cipherfleet_provisioning.topology.graph import Graph

from .centralised import centralised_answer, common_answer, objectives_in_sight
from .convergence import MEAN, spectral_gap
from .simulation import (
    QUADRATIC,
    Array,
    Generated,
    Links,
    Simulated,
    first_estimates,
    gradients_of,
    run,
    simulate,
)

DENSE_NODES = 1200  # up to so many, all eigenvalues and all distances are computed
LANCZOS_STEPS = 60
NOTHING_LEFT = 1e-9  # of a direction's length: the rest is rounding, and all modes are found
MADE_UP_ROWS = 16  # readings of a synthetic sensor that stand for its run
ENDLESS_ROUNDS = 200  # simulated of an endless fleet
MOST_ROUNDS = 5000
MOST_ENTRIES = 60_000_000  # of links times rounds times entries of the estimate: a second or two
MOST_GRADIENTS = 150_000  # where each is a call: a second or two
SEED = 1
DAY_S = 86_400.0
NO_DRAWS = Draws(bytes(SEED_BYTES))


@dataclass(frozen=True)
class Room:
    """Slots, and how much of an estimate's range is used; bits of VALUE_BITS - 1, None unknown."""

    slot_bits: int
    slots: int
    ciphertexts: int  # of a vector
    value_bits: int
    start_bits: float | None  # the first estimates and steps take so many
    largest_bits: float | None  # the simulated run at its widest


@dataclass(frozen=True)
class Mixing:
    """How fast differences die out: bounds of the spectral gap and of the diameter."""

    spectral_gap: tuple[float, float]
    diameter: tuple[int, int]
    method: str  # "dense": equal bounds, or what was done instead


@dataclass(frozen=True)
class Expected:
    """What a simulation of the plain iteration came to."""

    rounds: int
    of: int | None  # rounds the fleet will run, None: endless
    readings: str  # recorded, or made up
    relative_error: float | None  # root mean square over nodes; None: no answer to compare with
    disagreement: float | None
    stays_in_range: bool


@dataclass(frozen=True)
class Forecast:
    """All of it; *expected* is None where readings are out of sight, *round_time* without a card.

    per_run and per_day are rounds and the traffic of a node and for an edge: of a run whose rounds
    are counted, and of 24 hours of rounds, each a period after the one before or, where the round
    time is known, as soon as it can be. The health figures of each node come on top.
    """

    room: Room
    mixing: Mixing
    traffic: Traffic
    per_run: dict[str, float] | None
    per_day: dict[str, float] | None
    expected: Expected | None
    round_time: RoundTime | None

    def to_json(self) -> dict[str, Any]:
        """The object under `forecast` of `cipherfleet check --json`: JSON has no NaN."""
        told: dict[str, Any] = msgspec.to_builtins(asdict(self))
        return told


def forecast(fleet: Fleet, card: Calibration | None = None) -> Forecast:
    """What to expect of *fleet*; *card* tells what a round's parts cost on its boards."""
    objectives, readings = objectives_to_simulate(fleet)
    simulated, expected = _expected(fleet, objectives, readings) if objectives else (None, None)
    moved = traffic(fleet)
    round_time = predict(fleet, card) if card else None
    return Forecast(
        room=_room(fleet, objectives, simulated),
        mixing=mixing(fleet.graph),
        traffic=moved,
        per_run=_scaled(moved, fleet.file.algorithm.rounds),
        per_day=_scaled(moved, _rounds_per_day(fleet, round_time)),
        expected=expected,
        round_time=round_time,
    )


def _rounds_per_day(fleet: Fleet, round_time: RoundTime | None) -> float | None:
    if round_time is not None and round_time.apart_ms > 0:
        return DAY_S * 1000.0 / round_time.apart_ms
    period = fleet.file.algorithm.period_s
    return DAY_S / period if period else None


def _scaled(moved: Traffic, rounds: float | None) -> dict[str, float] | None:
    if rounds is None:
        return None
    return {
        "rounds": rounds,
        "node": rounds * moved.per_node,
        "edge": rounds * moved.per_edge,
    }


# -- readings -----------------------------------------------------------------------------------


def objectives_to_simulate(fleet: Fleet) -> tuple[Sequence[Objective], str]:
    """Every node's objective with its readings, and what those are; none for live sensors."""
    if fleet.file.objective.minibatch is None:
        recorded = objectives_in_sight(fleet)
        if recorded is not None:
            return recorded, "recorded"
    found, kinds = [], set()
    for member in fleet.members:
        objective = make_objective(fleet.file.objective)
        samples = fleet.recorded(member)
        kinds.add("made up" if samples is None else "recorded")
        if samples is None:
            samples = _made_up(fleet, member, objective)
        try:
            objective.absorb(samples)
        except ConfigError:  # made-up readings that this objective does not take
            return [], ""
        if not objective.ready:
            return [], ""
        found.append(objective)
    return found, " and ".join(sorted(kinds, reverse=True))


def _made_up(fleet: Fleet, member: Member, objective: Objective) -> list[Sample]:
    """Readings of a synthetic sensor as it will make them, those of an average's first round only.

    None for other sensors, and none that lie outside the sensor's limits.
    """
    if not isinstance(member.sensor, SyntheticSensor):
        return []
    device = open_sensor(member.sensor, fleet.folder, objective.fields)
    samples: list[Sample] = []
    for _ in range(1 if fleet.file.objective.kind == "average" else MADE_UP_ROWS):
        with suppress(SensorUnavailable):
            samples += device.read()
        if len(samples) >= MADE_UP_ROWS:
            break
    return samples


# -- room ---------------------------------------------------------------------------------------


def _room(fleet: Fleet, objectives: Sequence[Objective], simulated: Simulated | None) -> Room:
    layout, resolution = layout_of(fleet), resolution_of(fleet.file.algorithm)
    stepsize = fleet.file.algorithm.stepsize
    start_bits = largest_bits = None
    if objectives:
        starts = [objective.start() for objective in objectives]
        longest = stepsize.initial * (1.0 + stepsize.spread)
        steps = [longest * o.gradient(x, NO_DRAWS) for o, x in zip(objectives, starts, strict=True)]
        start_bits = _bits(float(np.abs([starts, steps]).max()), resolution)
    if simulated is not None:
        largest_bits = _bits(simulated.largest, resolution)
    return Room(
        layout.slot_bits, layout.slots, layout.ciphertexts, VALUE_BITS - 1, start_bits, largest_bits
    )


def _bits(value: float, resolution: float) -> float | None:
    """How many bits |value| takes, in resolutions; None beyond all numbers."""
    if not math.isfinite(value):
        return None
    return round(max(0.0, math.log2(max(value / resolution, 1.0))), 1)


# -- mixing -------------------------------------------------------------------------------------


def mixing(graph: Graph) -> Mixing:
    """The spectral gap and the diameter of *graph*: exact up to DENSE_NODES, bounds beyond."""
    if len(graph.ids) <= DENSE_NODES:
        gap, diameter = spectral_gap(graph), graph.diameter
        return Mixing((gap, gap), (diameter, diameter), "dense")
    hops = _diameter_bounds(graph)
    method = f"Lanczos, {LANCZOS_STEPS} steps, from above; 4/(n diameter) from below"
    return Mixing(_gap_bounds(graph, hops[1]), hops, method)


def _diameter_bounds(graph: Graph) -> tuple[int, int]:
    """The farthest of a far node lies at most twice as far as that of any node (double sweep)."""
    *_, (far, _) = graph.distances(graph.ids[0]).items()
    eccentricities = [list(graph.distances(node).values())[-1] for node in (graph.ids[0], far)]
    return max(eccentricities), 2 * min(eccentricities)


def _gap_bounds(graph: Graph, diameter: int) -> tuple[float, float]:
    """Bounds of spectral_gap without the eigenvalues.

    From below: the second eigenvalue of a graph is at least 4/(n diameter) (Mohar 1991), with the
    least weight of an edge for all; the greatest is at most twice the greatest weighted degree
    (Gershgorin). From above: any Rayleigh quotient, here the least that Lanczos' method finds.
    """
    links = Links.of(graph)
    weighted_degree = np.add.reduceat(links.factors, links.first)
    fast = 2.0 - MEAN * 2.0 * float(weighted_degree.max())
    slow = MEAN * float(links.factors.min()) * 4.0 / (len(graph.ids) * diameter)
    return min(slow, fast), min(1.0, MEAN * _least_rayleigh(links, weighted_degree))


def _least_rayleigh(links: Links, weighted_degree: Array) -> float:
    """The least Ritz value of the Laplacian on disagreements, after LANCZOS_STEPS steps."""
    n = len(weighted_degree)
    start = np.random.default_rng(SEED).standard_normal(n)
    basis: list[Array] = []
    image = start
    for _ in range(LANCZOS_STEPS):
        direction = _direction(image, basis)
        if direction is None:
            break
        basis.append(direction)
        image = _laplacian_times(links, weighted_degree, direction)
    columns = np.array(basis).T
    images = np.array([_laplacian_times(links, weighted_degree, v) for v in basis]).T
    return float(np.linalg.eigvalsh(columns.T @ images)[0])


def _direction(v: Array, basis: Sequence[Array]) -> Array | None:
    """*v* less its mean and its part in *basis*, of length one; None where nothing is left of it.

    Taken away twice: rounding leaves some of it the first time.
    """
    size = float(np.linalg.norm(v))
    for _ in range(2):
        v = v - v.mean()
        for known in basis:
            v = v - (known @ v) * known
    left = float(np.linalg.norm(v))
    return v / left if left > NOTHING_LEFT * size else None


def _laplacian_times(links: Links, weighted_degree: Array, v: Array) -> Array:
    product: Array = weighted_degree * v - np.add.reduceat(
        links.factors * v[links.answerers], links.first
    )
    return product


# -- the error at the end -----------------------------------------------------------------------


def _expected(
    fleet: Fleet, objectives: Sequence[Objective], readings: str
) -> tuple[Simulated, Expected]:
    """Simulate as many rounds as a few seconds allow, with all readings there from the first."""
    file = fleet.file
    gradients = gradients_of(objectives, file.objective)
    rounds = _affordable(fleet, min(file.algorithm.rounds or ENDLESS_ROUNDS, MOST_ROUNDS))
    with np.errstate(all="ignore"):
        starts = np.array([objective.start() for objective in objectives])
        simulated = simulate(
            fleet.graph,
            starts,
            gradients,
            file.algorithm,
            rounds,
            Generated(SEED),
            sealed=fleet.exchange == "sealed",
        )
        answer = answer_of(fleet, objectives)
        room = 2.0 ** (VALUE_BITS - 1) * resolution_of(file.algorithm)
        return simulated, Expected(
            rounds=rounds,
            of=file.algorithm.rounds,
            readings=readings,
            relative_error=None if answer is None else _relative(simulated.estimates, answer),
            disagreement=_disagreement(simulated.estimates),
            stays_in_range=bool(simulated.largest < room),
        )


def rounds_needed(fleet: Fleet, accuracy: float) -> tuple[int | None, int]:
    """After how many rounds the simulated relative error is below *accuracy*, and how many ran.

    It stays below for a tenth more rounds. None where that does not happen within as many rounds as
    a few seconds allow. The fleet must have an Expected whose relative_error is known: the
    simulated run is the same, prolonged.
    """
    objectives, _ = objectives_to_simulate(fleet)
    answer = answer_of(fleet, objectives)
    assert answer is not None
    algorithm, random = fleet.file.algorithm, Generated(SEED)
    starts = np.array([objective.start() for objective in objectives])
    running = run(
        Links.of(fleet.graph),
        first_estimates(starts, algorithm, random),
        gradients_of(objectives, fleet.file.objective),
        algorithm,
        random,
        sealed=fleet.exchange == "sealed",
    )
    first, most = None, _affordable(fleet, MOST_ROUNDS)
    for k, passed in enumerate(islice(running, most), 1):
        error = _relative(passed.estimates, answer)
        if error is None or error >= accuracy:
            first = None
        elif first is None:
            first = k
        if first is not None and k >= 1.1 * first:
            return first, k
    return None, most


def _affordable(fleet: Fleet, wanted: int) -> int:
    entries = 2 * len(fleet.graph.edges) * fleet.dimension
    calls = 1 if _is_linear(fleet) else len(fleet.members)
    return max(1, min(wanted, MOST_ENTRIES // entries, MOST_GRADIENTS // calls))


def _is_linear(fleet: Fleet) -> bool:
    section = fleet.file.objective
    return section.kind in QUADRATIC and section.minibatch is None


def answer_of(fleet: Fleet, objectives: Sequence[Objective]) -> Array | None:
    """What the nodes of *fleet* with these *objectives* come to, shape (d,); None if out of sight.

    A minibatch would give the answer to a few of the readings: it is left out.
    """
    if fleet.file.objective.minibatch is not None:
        return centralised_answer(fleet)
    if not all(isinstance(objective, Mean | Regression) for objective in objectives):
        return None
    return common_answer(objectives)


def _relative(estimates: Array, answer: Array) -> float | None:
    """Root mean square over nodes of |x_i - answer| / |answer|; None where that is no number."""
    size = float(np.linalg.norm(answer))
    distance = math.sqrt(float(np.mean(np.sum((estimates - answer) ** 2, axis=1))))
    return distance / size if size and math.isfinite(distance) else None


def _disagreement(estimates: Array) -> float | None:
    mean: Array = estimates.mean(axis=0)
    return _relative(estimates, mean)
