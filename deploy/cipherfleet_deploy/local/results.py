"""Results of a run: the estimates of every round, and the figures computed from them.

A run has *settled* when the estimates of all nodes are right to two digits:

* If the centralised answer is known, the relative error after the last round is below SETTLED.
* If it is not known, or the section `privacy` adds noise to the result, both the disagreement
  between the nodes and the movement are below SETTLED. The movement is the distance that the mean
  over nodes covered in the second half of the rounds, relative to its last value.

Why half of the rounds: if the stepsizes fall like 1/k, the error falls like 1/k, too. In the second
half of the rounds the error then falls by as much as remains at the end, so the movement is no
smaller than the error. Over a fixed number of last rounds, every long run would move little.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from cipherfleet_node.core.randomness import FloatVector
from cipherfleet_node.settings.sections import Weight
from cipherfleet_provisioning.fleet.fleet import Fleet

from .record import Recorded

FloatArray = npt.NDArray[np.float64]

SETTLED = 1e-2  # relative error: two digits
ACCURACIES = ("1e-2", "1e-3", "1e-4", "1e-6")  # the keys of `rounds_to`
# Counters in the span of a round. They start at 0 whenever a node starts.
COUNTERS = ("bytes_sent", "rejected", "inline", "cpu_s")


class Percentiles(msgspec.Struct, frozen=True):
    """Two percentiles of round times, in milliseconds; None if no round was closed."""

    p50: float | None
    p95: float | None


class ContainerMemory(msgspec.Struct, frozen=True):
    """The largest memory seen, in MiB; None if it was never measured."""

    nodes_p50: float | None  # median over the nodes
    nodes_max: float | None
    broker: float | None


class ContainerImage(msgspec.Struct, frozen=True):
    """The image of a fleet's containers."""

    name: str
    mib: float


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a run: `--json` prints these keys in this order.

    An undefined figure is None, since JSON has no NaN. A field that is UNSET is left out. Only
    fleets in containers have the fields from *backend* on.
    """

    fleet: str
    nodes: int
    edges: int
    rounds: int
    key_bits: int
    exchange: str
    method: str
    dimension: int
    estimate: list[float]  # mean over nodes of their solutions; empty if no node has one
    optimum: list[float] | None  # the centralised answer; None if it is not known
    weight: Weight  # what counts alike in the estimate and in the optimum
    relative_error: float | None
    disagreement: float | None
    movement: float | None
    settled: bool
    rounds_to: dict[str, int | None]  # by the keys ACCURACIES
    round_ms: Percentiles
    bytes_per_edge_round: float
    silent: int
    rejected: int
    restarts: int
    wall_s: float
    weak_keys: bool
    noise: bool = False  # of the section `privacy`: the relative error contains it
    ended: Literal["complete", "interrupted", "failed"] = "complete"
    reason: str | None = None  # of a failure
    out: str = ""
    broker: str | msgspec.UnsetType = msgspec.UNSET
    backend: Literal["docker"] | msgspec.UnsetType = msgspec.UNSET
    emulated: str | msgspec.UnsetType | None = msgspec.UNSET  # the profile; None: no limits
    image: ContainerImage | msgspec.UnsetType = msgspec.UNSET
    start: dict[str, float] | msgspec.UnsetType = msgspec.UNSET  # seconds, by phase
    memory_mib: ContainerMemory | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True)
class Trajectory:
    """The solutions of all nodes: shape (rounds, nodes, d), NaN where a node has none in a round.

    A solution is the estimate, or with method statistics what follows from it. A node has none in
    rounds that it skipped, and while its statistics determine no minimum.
    """

    estimates: FloatArray

    @classmethod
    def of(cls, nodes: Recorded, dimension: int) -> Trajectory:
        """Build the trajectory from the records that the nodes have written so far."""
        records = list(nodes.nodes.values())
        rounds = max(node.round for node in records)
        estimates = np.full((rounds, len(records), dimension), np.nan)
        for place, node in enumerate(records):
            for k, estimate in node.estimates.items():
                if estimate:
                    estimates[k, place] = estimate
        return cls(estimates)

    @property
    def latest(self) -> Iterator[FloatArray]:
        """Each node's latest estimate after each round, shape (nodes, d); NaN if it has none."""
        latest: FloatArray = np.full(self.estimates.shape[1:], np.nan)
        for of_round in self.estimates:
            latest = np.where(np.isnan(of_round), latest, of_round)
            yield latest

    @property
    def last(self) -> FloatArray:
        """Each node's latest estimate after the last round, shape (nodes, d); NaN if it has none.

        It has this shape even if there was no round.
        """
        last: FloatArray = np.full(self.estimates.shape[1:], np.nan)
        for estimates in self.latest:
            last = estimates
        return last


def relative_error(estimates: FloatArray, optimum: FloatVector) -> float:
    """Return the root mean square over nodes of |x_i - optimum| / |optimum|.

    *estimates* has shape (nodes, d). The result is NaN if *optimum* is 0.
    """
    return _relative_length(estimates - optimum, optimum)


def disagreement(estimates: FloatArray) -> float:
    """Return the root mean square over nodes of |x_i - mean| / |mean|.

    *estimates* has shape (nodes, d). The result is NaN if the mean is 0.
    """
    if not len(estimates):
        return math.nan
    mean = estimates.mean(axis=0)
    return _relative_length(estimates - mean, mean)


def movement(trajectory: Trajectory) -> float:
    """Return the distance that the mean covered in the second half of the rounds, over |mean|.

    The mean is over the nodes, and |mean| is its length after the last round. The result is NaN if
    a node has no estimate after the first half, or if the mean is 0.
    """
    half = Trajectory(trajectory.estimates[: len(trajectory.estimates) // 2])
    mean = trajectory.last.mean(axis=0)
    return _relative_length(half.last.mean(axis=0) - mean, mean)


def count_rounds_to(trajectory: Trajectory, optimum: FloatVector | None) -> dict[str, int | None]:
    """Return for each of ACCURACIES the number of rounds after which the error stays below it.

    The number is None if the relative error is not below it after the last round, or if *optimum*
    is not known.
    """
    errors = []
    if optimum is not None:
        errors = [relative_error(estimates, optimum) for estimates in trajectory.latest]
    return {name: stays_below(errors, float(name)) for name in ACCURACIES}


def stays_below(errors: Sequence[float], level: float) -> int | None:
    """Return the number k of the first of *errors* from which on all are below *level*.

    Numbers begin at 1. The result is None if the last of *errors* is not below *level*.
    """
    above = [k for k, error in enumerate(errors, 1) if not error < level]  # NaN is not below
    first = above[-1] + 1 if above else 1
    return first if first <= len(errors) else None


def _relative_length(deviations: FloatArray, answer: FloatVector) -> float:
    if not deviations.size:
        return math.nan
    distance = math.sqrt(float(np.mean(np.sum(deviations**2, axis=-1))))
    size = float(np.linalg.norm(answer))
    return distance / size if size else math.nan


def summarise(
    fleet: Fleet,
    nodes: Recorded,
    trajectory: Trajectory,
    optimum: FloatVector | None,
    wall_s: float,
) -> RunResult:
    """Compute the figures of a run from its records; the caller adds how and where it ended."""
    file, last = fleet.file, trajectory.last
    closed = [line for node in nodes.nodes.values() for line in node.rounds]
    known = last[~np.isnan(last).any(axis=1)]
    error = None if optimum is None else _finite_or_none(relative_error(known, optimum))
    apart, moved = _finite_or_none(disagreement(known)), _finite_or_none(movement(trajectory))
    has_noise = fleet.privacy is not None
    decisive = (apart, moved) if error is None or has_noise else (error,)
    return RunResult(
        fleet=file.fleet,
        nodes=len(fleet.members),
        edges=len(fleet.graph.edges),
        rounds=len(trajectory.estimates),
        key_bits=file.crypto.key_bits,
        exchange=fleet.exchange,
        method=file.algorithm.method,
        dimension=last.shape[1],
        estimate=known.mean(axis=0).tolist() if len(known) else [],
        optimum=None if optimum is None else optimum.tolist(),
        weight=file.objective.weight,
        relative_error=error,
        disagreement=apart,
        movement=moved,
        settled=len(known) == len(last) and all(e is not None and e < SETTLED for e in decisive),
        rounds_to=count_rounds_to(trajectory, optimum),
        round_ms=_percentiles([line["ms"] for line in closed]),
        bytes_per_edge_round=round(_bytes_sent(nodes) / max(1, _edge_rounds(fleet, nodes)), 1),
        silent=int(sum(line["silent"] for line in closed)),
        rejected=int(sum(_total(node.rounds, "rejected") for node in nodes.nodes.values())),
        restarts=sum(node.restarts for node in nodes.nodes.values()),
        wall_s=round(wall_s, 2),
        weak_keys=file.crypto.allow_weak_keys,
        noise=has_noise,
    )


def plural(count: int, word: str) -> str:
    """Return *count* followed by *word*, which gets an "s" unless *count* is 1."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _finite_or_none(figure: float) -> float | None:
    return figure if math.isfinite(figure) else None


def _percentiles(values: Sequence[float]) -> Percentiles:
    if not values:
        return Percentiles(None, None)
    p50, p95 = np.percentile(values, [50, 95])
    return Percentiles(round(float(p50), 2), round(float(p95), 2))


def _bytes_sent(nodes: Recorded) -> float:
    return sum(_total(node.rounds, "bytes_sent") for node in nodes.nodes.values())


def _total(rounds: Sequence[Mapping[str, float]], name: str) -> float:
    """Sum the counter *name* over all starts of a node: each start sets it to 0 again."""
    ends = [line for line, after in pairwise(rounds) if _is_restart(line, after)]
    return sum(line[name] for line in [*ends, *rounds[-1:]])


def _is_restart(before: Mapping[str, float], after: Mapping[str, float]) -> bool:
    return any(after[name] < before[name] for name in COUNTERS)


def _edge_rounds(fleet: Fleet, nodes: Recorded) -> int:
    rounds = sum(len(node.rounds) for node in nodes.nodes.values()) / len(nodes.nodes)
    return round(rounds * len(fleet.graph.edges))
