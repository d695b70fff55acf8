"""What the spans of nodes say of their rounds: phases that add up, the network's share, the costs.

Spans are lines as the nodes write them (node/README.md). No time of one node's clock is compared
with one of another's: of two clocks, only durations meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from cipherfleet_node.runtime.round_trips import SERVICE, TRIP

from .document import Figure, Labels, NodeFigures, figure

Span = Mapping[str, Any]
ROUND, SAMPLE, NETWORK, ACKNOWLEDGED = "round", "sample", "network", "acknowledged"


@dataclass(frozen=True)
class NodeSpans:
    """One node, the machine that it ran on, and its spans after the warm-up."""

    name: str
    target: str
    spans: Sequence[Span]

    def of(self, phase: str) -> list[Span]:
        """The spans of one phase."""
        return [span for span in self.spans if span["phase"] == phase]

    def seconds(self, phase: str) -> list[float]:
        """Their durations."""
        return [span["ms"] / 1000.0 for span in self.of(phase)]


def after_warm_up(spans: Iterable[Span], warm_up: int) -> list[Span]:
    """Those of rounds that count: from number *warm_up* on."""
    return [span for span in spans if span["round"] >= warm_up]


def node_figures(node: NodeSpans, others: Mapping[str, NodeSpans]) -> NodeFigures:
    """All that is told of *node*; *others* are the nodes by name."""
    rounds = node.of(ROUND)
    labels: Labels = {"node": node.name, "target": node.target}

    def of(name: str, seconds: list[float]) -> Figure:
        return figure(name, labels, seconds)

    phases = {name: of(name, times) for name, times in phase_seconds(rounds).items()}
    beside = {
        SAMPLE: node.seconds(SAMPLE),
        ACKNOWLEDGED: [r["acknowledged_ms"] / 1000.0 for r in rounds if r["acknowledged_ms"]],
        TRIP: node.seconds(TRIP),
        NETWORK: network_seconds(node, others),
    }
    return NodeFigures(
        name=node.name,
        target=node.target,
        phases={ROUND: of(ROUND, node.seconds(ROUND)), **phases},
        beside={name: of(name, seconds) for name, seconds in beside.items() if seconds},
        counts=counts(node, others),
    )


def phase_seconds(rounds: Sequence[Span]) -> dict[str, list[float]]:
    """By phase, its duration in each of *rounds*; longest first. One that was not there took 0."""
    names = {name for line in rounds for name in line["phases"]}
    times = {
        name: [line["phases"].get(name, 0.0) / 1000.0 for line in rounds] for name in sorted(names)
    }
    return dict(sorted(times.items(), key=lambda item: -sum(item[1])))


def unaccounted(rounds: Sequence[Span]) -> float:
    """The part of *rounds*' time that no phase took; below 0 where phases exceed them."""
    total = sum(line["ms"] for line in rounds)
    phases = sum(sum(line["phases"].values()) for line in rounds)
    return float(1.0 - phases / total)


def network_seconds(node: NodeSpans, others: Mapping[str, NodeSpans]) -> list[float]:
    """Each trip of *node* less its neighbour's service of it: what broker and network took."""
    services = {
        (other.name, line["round"], line["attempt"]): line["ms"]
        for other in others.values()
        for line in other.of(SERVICE)
        if line["neighbour"] == node.name
    }
    return [
        (line["ms"] - services[key]) / 1000.0
        for line in node.of(TRIP)
        if (key := (line["neighbour"], line["round"], line["attempt"])) in services
    ]


def counts(node: NodeSpans, others: Mapping[str, NodeSpans]) -> dict[str, float]:
    """What is counted, per round where the name says so."""
    rounds = node.of(ROUND)
    first, last, steps = rounds[0], rounds[-1], max(1, len(rounds) - 1)

    def grew(name: str) -> float:
        return float(last[name] - first[name])

    trips, network = node.seconds(TRIP), network_seconds(node, others)
    told = {
        "rounds": float(len(rounds)),
        "unaccounted": unaccounted(rounds),
        "network_share": median(network) / median(trips) if network else 0.0,
        "bytes_sent_per_round": grew("bytes_sent") / steps,
        "bytes_received_per_round": grew("bytes_received") / steps,
        "cpu_ms_per_round": 1000.0 * grew("cpu_s") / steps,
        "pool_cpu_ms_per_round": 1000.0 * grew("pool_cpu_s") / steps,
        "rss_mib": max(line["rss_mib"] or 0.0 for line in rounds),
        "pool_level": median(line["pool"] for line in rounds),
        "pool_misses": grew("inline"),
        "silent": float(sum(line["silent"] for line in rounds)),
        "rejected": grew("rejected"),
    }
    return {name: float(f"{value:.4g}") for name, value in told.items()}
