"""What came of a run: one object of figures, and the estimates of every round.

A run has *settled* when the estimates of all nodes are right to two digits. Where the centralised
answer is known, the relative error after the last round is below SETTLED. Where it is not, both the
disagreement between nodes and the movement are: how far their mean went in the second half of the
rounds, relative to where it ended. Half of the rounds, since a schedule whose stepsizes fall like
1/k leaves an error that falls like 1/k, too: between half and all of the rounds it loses as much as
is left. Movement over a fixed number of last rounds would be small in every long run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from cipherfleet_node.core.randomness import FloatVector
from cipherfleet_provisioning.fleet.fleet import Fleet

from .record import Recorded

FloatArray = npt.NDArray[np.float64]

SETTLED = 1e-2  # relative error: two digits
ACCURACIES = ("1e-2", "1e-3", "1e-4", "1e-6")  # of which `rounds_to` speaks
COUNTERS = ("bytes_sent", "rejected", "inline", "cpu_s")  # of a round's span; 0 at a node's start


@dataclass(frozen=True)
class Trajectory:
    """The estimates of all nodes: shape (rounds, nodes, d), NaN where a node skipped a round."""

    estimates: FloatArray

    @classmethod
    def of(cls, nodes: Recorded, dimension: int) -> Trajectory:
        """What the nodes of *nodes* have written so far."""
        everyone = list(nodes.nodes.values())
        rounds = max(node.round for node in everyone)
        estimates = np.full((rounds, len(everyone), dimension), np.nan)
        for place, node in enumerate(everyone):
            for k, estimate in node.estimates.items():
                estimates[k, place] = estimate
        return cls(estimates)

    @property
    def latest(self) -> Iterator[FloatArray]:
        """After each round every node's own latest estimate, (nodes, d); NaN where it has none."""
        latest: FloatArray = np.full(self.estimates.shape[1:], np.nan)
        for of_round in self.estimates:
            latest = np.where(np.isnan(of_round), latest, of_round)
            yield latest

    @property
    def last(self) -> FloatArray:
        """The same after the last round; of shape (nodes, d) also where there was none."""
        last: FloatArray = np.full(self.estimates.shape[1:], np.nan)
        for estimates in self.latest:
            last = estimates
        return last


def relative_error(estimates: FloatArray, optimum: FloatVector) -> float:
    """Root mean square over nodes of |x_i - optimum| / |optimum|; estimates of shape (n, d).

    NaN where the optimum is 0: nothing is relative to that.
    """
    return _relative(estimates - optimum, optimum)


def disagreement(estimates: FloatArray) -> float:
    """Root mean square distance of the nodes to their mean, over |mean|; estimates (n, d).

    NaN where the mean is 0.
    """
    mean = estimates.mean(axis=0)
    return _relative(estimates - mean, mean)


def movement(trajectory: Trajectory) -> float:
    """How far the mean over nodes went in the second half of the rounds, over its last length.

    NaN where a node has no estimate after the first half, or the mean is 0.
    """
    half = Trajectory(trajectory.estimates[: len(trajectory.estimates) // 2])
    mean = trajectory.last.mean(axis=0)
    return _relative(half.last.mean(axis=0) - mean, mean)


def rounds_to(trajectory: Trajectory, optimum: FloatVector | None) -> dict[str, int | None]:
    """For each of ACCURACIES, after how many rounds the relative error stays below it.

    None where it is not below it after the last round, and where there is no answer to compare to.
    """
    errors = []
    if optimum is not None:
        errors = [relative_error(estimates, optimum) for estimates in trajectory.latest]
    return {name: stays_below(errors, float(name)) for name in ACCURACIES}


def stays_below(errors: Sequence[float], level: float) -> int | None:
    """How many *errors* there are up to the first from which all are below *level*."""
    above = [k for k, error in enumerate(errors, 1) if not error < level]  # NaN is not below
    first = above[-1] + 1 if above else 1
    return first if first <= len(errors) else None


def _relative(deviations: FloatArray, answer: FloatVector) -> float:
    distance = math.sqrt(float(np.mean(np.sum(deviations**2, axis=-1))))
    size = float(np.linalg.norm(answer))
    return distance / size if size else math.nan


def summarise(
    fleet: Fleet,
    nodes: Recorded,
    trajectory: Trajectory,
    optimum: FloatVector | None,
    wall_s: float,
) -> dict[str, Any]:
    """The object that `--json` prints: JSON has no NaN, so what is not defined is None."""
    file, last = fleet.file, trajectory.last
    closed = [line for node in nodes.nodes.values() for line in node.rounds]
    known = last[~np.isnan(last).any(axis=1)]
    error = None if optimum is None else _defined(relative_error(known, optimum))
    apart, moved = _defined(disagreement(known)), _defined(movement(trajectory))
    judged = (apart, moved) if error is None else (error,)
    return {
        "fleet": file.fleet,
        "nodes": len(fleet.members),
        "edges": len(fleet.graph.edges),
        "rounds": len(trajectory.estimates),
        "key_bits": file.crypto.key_bits,
        "exchange": fleet.exchange,
        "dimension": last.shape[1],
        "estimate": known.mean(axis=0).tolist(),
        "optimum": None if optimum is None else optimum.tolist(),
        "relative_error": error,
        "disagreement": apart,
        "movement": moved,
        "settled": len(known) == len(last) and all(e is not None and e < SETTLED for e in judged),
        "rounds_to": rounds_to(trajectory, optimum),
        "round_ms": _percentiles([line["ms"] for line in closed]),
        "bytes_per_edge_round": round(_bytes_sent(nodes) / max(1, _edge_rounds(fleet, nodes)), 1),
        "silent": int(sum(line["silent"] for line in closed)),
        "rejected": int(sum(_total(node.rounds, "rejected") for node in nodes.nodes.values())),
        "restarts": sum(node.restarts for node in nodes.nodes.values()),
        "wall_s": round(wall_s, 2),
        "weak_keys": file.crypto.allow_weak_keys,
    }


def plural(count: int, word: str) -> str:
    """*count* and *word*, in the plural where there are several."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _defined(figure: float) -> float | None:
    return figure if math.isfinite(figure) else None


def _percentiles(values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {"p50": None, "p95": None}
    p50, p95 = np.percentile(values, [50, 95])
    return {"p50": round(float(p50), 2), "p95": round(float(p95), 2)}


def _bytes_sent(nodes: Recorded) -> float:
    return sum(_total(node.rounds, "bytes_sent") for node in nodes.nodes.values())


def _total(rounds: Sequence[Mapping[str, float]], name: str) -> float:
    """The sum over a node's starts of a counter that begins anew at each."""
    ends = [line for line, after in pairwise(rounds) if _is_restart(line, after)]
    return sum(line[name] for line in [*ends, *rounds[-1:]])


def _is_restart(before: Mapping[str, float], after: Mapping[str, float]) -> bool:
    return any(after[name] < before[name] for name in COUNTERS)


def _edge_rounds(fleet: Fleet, nodes: Recorded) -> int:
    rounds = sum(len(node.rounds) for node in nodes.nodes.values()) / len(nodes.nodes)
    return round(rounds * len(fleet.graph.edges))
