"""What came of a run: one object of figures, and the estimates of every round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cipherfleet_node.draws import FloatVector
from cipherfleet_provisioning.fleet import Fleet

from .local import LocalFleet

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trajectory:
    """The estimates of all nodes: shape (rounds, nodes, d), NaN where a node skipped a round."""

    estimates: FloatArray

    @classmethod
    def of(cls, nodes: LocalFleet, dimension: int) -> Trajectory:
        """What the nodes of *nodes* have written so far."""
        everyone = list(nodes.nodes.values())
        rounds = max(node.round for node in everyone)
        estimates = np.full((rounds, len(everyone), dimension), np.nan)
        for place, node in enumerate(everyone):
            for k, estimate in node.estimates.items():
                estimates[k, place] = estimate
        return cls(estimates)

    @property
    def last(self) -> FloatArray:
        """Every node's own latest estimate, shape (nodes, d)."""
        filled: FloatArray = self.estimates[-1].copy()
        for place in range(filled.shape[0]):
            known = self.estimates[:, place][~np.isnan(self.estimates[:, place, 0])]
            if len(known):
                filled[place] = known[-1]
        return filled


def relative_error(estimates: FloatArray, optimum: FloatVector) -> float:
    """Root mean square over nodes of |x_i - optimum| / |optimum|; estimates of shape (n, d)."""
    distances = np.linalg.norm(estimates - optimum, axis=-1)
    return float(np.sqrt(np.mean(distances**2)) / np.linalg.norm(optimum))


def disagreement(estimates: FloatArray) -> float:
    """Root mean square distance of the nodes to their mean, over |mean|; estimates (n, d)."""
    mean = estimates.mean(axis=0)
    distances = np.linalg.norm(estimates - mean, axis=-1)
    return float(np.sqrt(np.mean(distances**2)) / np.linalg.norm(mean))


def summarise(
    fleet: Fleet,
    nodes: LocalFleet,
    trajectory: Trajectory,
    optimum: FloatVector | None,
    wall_s: float,
) -> dict[str, Any]:
    """The object that `--json` prints."""
    file, last = fleet.file, trajectory.last
    closed = [line for node in nodes.nodes.values() for line in node.rounds]
    return {
        "fleet": file.fleet,
        "nodes": len(fleet.members),
        "edges": len(fleet.graph.edges),
        "rounds": len(trajectory.estimates),
        "key_bits": file.crypto.key_bits,
        "exchange": file.crypto.exchange,
        "dimension": last.shape[1],
        "estimate": last.mean(axis=0).tolist(),
        "optimum": None if optimum is None else optimum.tolist(),
        "relative_error": None if optimum is None else relative_error(last, optimum),
        "disagreement": disagreement(last),
        "round_ms": _percentiles([line["ms"] for line in closed]),
        "bytes_per_edge_round": round(_bytes_sent(nodes) / max(1, _edge_rounds(fleet, nodes)), 1),
        "silent": int(sum(line["silent"] for line in closed)),
        "rejected": int(sum(_total(node.rounds, "rejected") for node in nodes.nodes.values())),
        "restarts": sum(node.restarts for node in nodes.nodes.values()),
        "wall_s": round(wall_s, 2),
        "weak_keys": file.crypto.allow_weak_keys,
    }


def _percentiles(values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {"p50": None, "p95": None}
    p50, p95 = np.percentile(values, [50, 95])
    return {"p50": round(float(p50), 2), "p95": round(float(p95), 2)}


def _bytes_sent(nodes: LocalFleet) -> float:
    return sum(_total(node.rounds, "bytes_sent") for node in nodes.nodes.values())


def _total(rounds: Sequence[dict[str, float]], name: str) -> float:
    """The sum over a node's starts of a counter that begins anew at each."""
    total = latest = 0.0
    for line in rounds:
        if line[name] < latest:
            total += latest
        latest = line[name]
    return total + latest


def _edge_rounds(fleet: Fleet, nodes: LocalFleet) -> int:
    rounds = sum(len(node.rounds) for node in nodes.nodes.values()) / len(nodes.nodes)
    return round(rounds * len(fleet.graph.edges))
