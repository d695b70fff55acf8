"""Forecast a fleet before it runs: headroom, traffic, mixing, error and the time of a round.

The only private values used here are recorded readings, which the operator has. No result is about
the readings of a single node.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from cipherfleet_analysis.cost.board_card import Calibration
from cipherfleet_analysis.cost.round_time import RoundTime, predict
from cipherfleet_analysis.cost.traffic import Traffic, layout_of, traffic
from cipherfleet_node.core.drift import Drifting
from cipherfleet_node.core.objective import Flat, Mean, Objective, Regression
from cipherfleet_node.core.quantiser import VALUE_BITS
from cipherfleet_node.core.randomness import SEED_BYTES, RoundRandomness
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.core.statistics import (
    Statistics,
    find_solutions,
    make_node_objective,
    wrap_objective,
)
from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.sensors import open_sensor
from cipherfleet_node.settings.sections import SyntheticSensor, resolution_of
from cipherfleet_provisioning.fleet.fleet import Fleet
from cipherfleet_provisioning.fleet.members import Member
from cipherfleet_provisioning.topology.graph import Graph
from cipherfleet_provisioning.topology.mixing import MEAN, spectral_gap

from .centralised import centralised_answer, common_answer, recorded_objectives
from .exact_run import exact_method
from .gradients import gradients_of, has_linear_gradients
from .random_choices import Array, SeededRandomness
from .shielded_run import with_shield
from .simulation import Links, Simulated, simulate

DENSE_NODES = 1200  # up to this many nodes, all eigenvalues and all distances are computed
LANCZOS_STEPS = 60
NEGLIGIBLE_REST = 1e-9  # of a direction's length: only rounding is left, and all modes are found
MADE_UP_ROWS = 16  # readings of a synthetic sensor that represent its whole run
ENDLESS_ROUNDS = 200  # rounds simulated for an endless fleet
MOST_ROUNDS = 5000
MOST_ENTRIES = 60_000_000  # links times rounds times entries of the estimate: a second or two
MOST_GRADIENTS = 150_000  # calls of the objectives: a second or two
SEED = 1
DAY_S = 86_400.0
NO_DRAWS = RoundRandomness(bytes(SEED_BYTES))


@dataclass(frozen=True)
class Headroom:
    """The slots of a plaintext, and the bits that estimates use; None where they are not known."""

    slot_bits: int
    slots: int
    ciphertexts: int  # per vector
    value_bits: int  # available for an estimate, without its sign
    start_bits: float | None  # used by the first estimates and steps
    largest_bits: float | None  # used by the largest estimate of the simulated run


@dataclass(frozen=True)
class Mixing:
    """The speed at which differences between nodes decay: spectral gap and diameter, as bounds."""

    spectral_gap: tuple[float, float]
    diameter: tuple[int, int]
    method: str  # "dense": the bounds are equal; otherwise the method of the bounds


@dataclass(frozen=True)
class Expected:
    """The result of a simulated run without encryption."""

    rounds: int
    of: int | None  # rounds that the fleet will run, None: endless
    readings: str  # recorded, or made up (synthetic)
    relative_error: float | None  # root mean square over nodes; None: no centralised answer
    disagreement: float | None
    stays_in_range: bool


@dataclass(frozen=True)
class DataVolume:
    """Bytes of several rounds, without the nodes' health messages."""

    rounds: float
    node: float  # sent and received by a node, mean
    edge: float


@dataclass(frozen=True)
class Forecast:
    """The whole forecast; *expected* is None without readings, *round_time* without a card.

    *per_run* is for the configured number of rounds. *per_day* is for 24 hours. There a round takes
    the predicted round time if it is known, otherwise the fleet's period. Fields of all parts are
    keys of `cipherfleet check --json`, and no figure is NaN.
    """

    room: Headroom
    mixing: Mixing
    traffic: Traffic
    per_run: DataVolume | None
    per_day: DataVolume | None
    expected: Expected | None
    round_time: RoundTime | None


def forecast(fleet: Fleet, card: Calibration | None = None) -> Forecast:
    """Forecast *fleet*; *card* holds the costs of a round's parts on its boards."""
    objectives, readings = objectives_to_simulate(fleet)
    simulated, expected = (
        _simulate_fleet(fleet, objectives, readings) if objectives else (None, None)
    )
    moved = traffic(fleet)
    round_time = predict(fleet, card) if card else None
    return Forecast(
        room=_headroom(fleet, objectives, simulated),
        mixing=mixing(fleet.graph),
        traffic=moved,
        per_run=_multiply(moved, fleet.file.algorithm.rounds),
        per_day=_multiply(moved, _rounds_per_day(fleet, round_time)),
        expected=expected,
        round_time=round_time,
    )


def _rounds_per_day(fleet: Fleet, round_time: RoundTime | None) -> float | None:
    if round_time is not None and round_time.apart_ms > 0:
        return DAY_S * 1000.0 / round_time.apart_ms
    period = fleet.file.algorithm.period_s
    return DAY_S / period if period else None


def _multiply(moved: Traffic, rounds: float | None) -> DataVolume | None:
    if rounds is None:
        return None
    return DataVolume(rounds, rounds * moved.per_node, rounds * moved.per_edge)


# -- readings -----------------------------------------------------------------------------------


def objectives_to_simulate(fleet: Fleet) -> tuple[Sequence[Objective], str]:
    """Return the objective on which each node iterates, and the kind of its readings.

    The list is empty if there are live sensors.
    """
    if fleet.file.objective.minibatch is None:
        recorded = recorded_objectives(fleet)
        if recorded is not None:
            file = fleet.file
            iterated = [wrap_objective(file.algorithm, own, file.objective) for own in recorded]
            return iterated, "recorded"
    found, kinds = [], set()
    for member in fleet.members:
        objective = make_node_objective(fleet.file.algorithm, fleet.file.objective, member.role)
        samples = fleet.recorded(member)
        kinds.add("made up" if samples is None else "recorded")
        if samples is None:
            samples = _synthetic_samples(fleet, member, objective)
        try:
            objective.absorb(samples)
        except ConfigError:  # this objective refuses the synthetic readings
            return [], ""
        if not objective.ready:
            return [], ""
        found.append(objective)
    return found, " and ".join(sorted(kinds, reverse=True))


def _synthetic_samples(fleet: Fleet, member: Member, objective: Objective) -> list[Sample]:
    """Return readings that a synthetic sensor will make, for `average` those of the first round.

    Readings outside the sensor's limits are left out. The list is empty for other sensors.
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


# -- headroom -----------------------------------------------------------------------------------


def _headroom(
    fleet: Fleet, objectives: Sequence[Objective], simulated: Simulated | None
) -> Headroom:
    layout, resolution = layout_of(fleet), resolution_of(fleet.file.algorithm)
    stepsize = fleet.file.algorithm.stepsize
    start_bits = largest_bits = None
    if objectives:
        starts = [objective.start() for objective in objectives]
        longest = stepsize.initial * (1.0 + stepsize.spread)
        steps = [longest * o.gradient(x, NO_DRAWS) for o, x in zip(objectives, starts, strict=True)]
        start_bits = _bits_of(float(np.abs([starts, steps]).max()), resolution)
    if simulated is not None:
        largest_bits = _bits_of(simulated.largest, resolution)
    return Headroom(
        layout.slot_bits, layout.slots, layout.ciphertexts, VALUE_BITS - 1, start_bits, largest_bits
    )


def _bits_of(value: float, resolution: float) -> float | None:
    """Return the bits of |value| in resolutions; None if it is not finite."""
    if not math.isfinite(value):
        return None
    return round(max(0.0, math.log2(max(value / resolution, 1.0))), 1)


# -- mixing -------------------------------------------------------------------------------------


def mixing(graph: Graph) -> Mixing:
    """Return spectral gap and diameter of *graph*: exact up to DENSE_NODES nodes, else bounds."""
    if len(graph.ids) <= DENSE_NODES:
        gap, diameter = spectral_gap(graph), graph.diameter
        return Mixing((gap, gap), (diameter, diameter), "dense")
    hops = _diameter_bounds(graph)
    method = f"Lanczos, {LANCZOS_STEPS} steps, from above; 4/(n diameter) from below"
    return Mixing(_gap_bounds(graph, hops[1]), hops, method)


def _diameter_bounds(graph: Graph) -> tuple[int, int]:
    """Return bounds of the diameter by a double sweep.

    The diameter is at least the eccentricity of a node, and at most twice that.
    """
    *_, (far, _) = graph.distances(graph.ids[0]).items()
    eccentricities = [list(graph.distances(node).values())[-1] for node in (graph.ids[0], far)]
    return max(eccentricities), 2 * min(eccentricities)


def _gap_bounds(graph: Graph, diameter: int) -> tuple[float, float]:
    """Return bounds of spectral_gap without computing all eigenvalues.

    From below: the second eigenvalue of a graph is at least 4/(n diameter) (Mohar 1991), times the
    smallest weight of an edge; the largest is at most twice the largest weighted degree
    (Gershgorin). From above: every Rayleigh quotient is a bound; Lanczos' method finds a small one.
    """
    links = Links.of(graph)
    weighted_degree = np.add.reduceat(links.factors, links.first)
    fast = 2.0 - MEAN * 2.0 * float(weighted_degree.max())
    slow = MEAN * float(links.factors.min()) * 4.0 / (len(graph.ids) * diameter)
    return min(slow, fast), min(1.0, MEAN * _least_rayleigh(links, weighted_degree))


def _least_rayleigh(links: Links, weighted_degree: Array) -> float:
    """Return the least Ritz value of the Laplacian on disagreements after LANCZOS_STEPS steps."""
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
    """Return *v*, orthogonalised to the mean and to *basis*, with length one; None if it vanishes.

    The components are subtracted twice, because rounding leaves a part of them the first time.
    """
    size = float(np.linalg.norm(v))
    for _ in range(2):
        v = v - v.mean()
        for known in basis:
            v = v - (known @ v) * known
    rest = float(np.linalg.norm(v))
    return v / rest if rest > NEGLIGIBLE_REST * size else None


def _laplacian_times(links: Links, weighted_degree: Array, v: Array) -> Array:
    product: Array = weighted_degree * v - np.add.reduceat(
        links.factors * v[links.answerers], links.first
    )
    return product


# -- the error at the end -----------------------------------------------------------------------


def _simulate_fleet(
    fleet: Fleet, objectives: Sequence[Objective], readings: str
) -> tuple[Simulated, Expected]:
    """Simulate as many rounds as a few seconds allow; all readings are present from the start."""
    file = fleet.file
    gradients = gradients_of(objectives, file.objective)
    method = exact_method(objectives, file.algorithm, file.objective)
    if fleet.has_shield and method is not None:
        gradients, method = with_shield(fleet, objectives, gradients, method)
    rounds = affordable_rounds(fleet, min(file.algorithm.rounds or ENDLESS_ROUNDS, MOST_ROUNDS))
    with np.errstate(all="ignore"):
        starts = np.array([objective.start() for objective in objectives])
        simulated = simulate(
            fleet.graph,
            starts,
            gradients,
            file.algorithm,
            rounds,
            SeededRandomness(SEED),
            sealed=fleet.exchange == "sealed",
            method=method,
        )
        answer = answer_of(fleet, objectives)
        limit = 2.0 ** (VALUE_BITS - 1) * resolution_of(file.algorithm)
        found = find_solutions(simulated.estimates, file.algorithm, file.objective)
        return simulated, Expected(
            rounds=rounds,
            of=file.algorithm.rounds,
            readings=readings,
            relative_error=None if answer is None else relative_error(found, answer),
            disagreement=_disagreement(found),
            stays_in_range=bool(simulated.largest < limit),
        )


def affordable_rounds(fleet: Fleet, wanted: int) -> int:
    """Return the part of *wanted* rounds that can be simulated in a few seconds."""
    entries = 2 * len(fleet.graph.edges) * fleet.dimension
    calls = 1 if _is_linear(fleet) else len(fleet.members)
    return max(1, min(wanted, MOST_ENTRIES // entries, MOST_GRADIENTS // calls))


def _is_linear(fleet: Fleet) -> bool:
    return has_linear_gradients(fleet.file.objective)


def answer_of(fleet: Fleet, objectives: Sequence[Objective]) -> Array | None:
    """Return the centralised answer for these *objectives*, shape (d,); None if it is not known.

    With a minibatch, the objectives are rebuilt without it, so that the answer uses all readings.
    """
    if fleet.file.objective.minibatch is not None:
        return centralised_answer(fleet)
    wrapped = Statistics | Drifting
    problems = [own.problem if isinstance(own, wrapped) else own for own in objectives]
    if not all(isinstance(problem, Mean | Regression | Flat) for problem in problems):
        return None
    return common_answer(problems)


def relative_error(estimates: Array, answer: Array) -> float | None:
    """Return the root mean square over nodes of |x_i - answer| / |answer|; None if not finite."""
    size = float(np.linalg.norm(answer))
    distance = math.sqrt(float(np.mean(np.sum((estimates - answer) ** 2, axis=1))))
    return distance / size if size and math.isfinite(distance) else None


def _disagreement(estimates: Array) -> float | None:
    mean: Array = estimates.mean(axis=0)
    return relative_error(estimates, mean)
