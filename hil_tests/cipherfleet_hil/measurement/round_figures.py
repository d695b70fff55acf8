"""Figures of rounds from the nodes' spans: phases that add up, network time, costs.

A span is one line of a node's spans file (node/README.md). Times of two nodes' clocks are never
compared; only durations are combined.
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
    """One node, the target on which it ran, and its spans after the warm-up."""

    name: str
    target: str
    spans: Sequence[Span]

    def select_spans(self, phase: str) -> list[Span]:
        return [span for span in self.spans if span["phase"] == phase]

    def seconds(self, phase: str) -> list[float]:
        return [span["ms"] / 1000.0 for span in self.select_spans(phase)]


def skip_warm_up(spans: Iterable[Span], warm_up: int) -> list[Span]:
    """Return the spans of the rounds from number *warm_up* on."""
    return [span for span in spans if span["round"] >= warm_up]


def node_figures(node: NodeSpans, others: Mapping[str, NodeSpans]) -> NodeFigures:
    """Compute all figures of *node*; *others* are the nodes by name."""
    rounds = node.select_spans(ROUND)
    labels: Labels = {"node": node.name, "target": node.target}

    def make_figure(name: str, seconds: list[float]) -> Figure:
        return figure(name, labels, seconds)

    phases = {name: make_figure(name, times) for name, times in phase_seconds(rounds).items()}
    beside = {
        SAMPLE: node.seconds(SAMPLE),
        ACKNOWLEDGED: [r["acknowledged_ms"] / 1000.0 for r in rounds if r["acknowledged_ms"]],
        TRIP: node.seconds(TRIP),
        NETWORK: network_seconds(node, others),
    }
    return NodeFigures(
        name=node.name,
        target=node.target,
        phases={ROUND: make_figure(ROUND, node.seconds(ROUND)), **phases},
        beside={name: make_figure(name, seconds) for name, seconds in beside.items() if seconds},
        counts=node_counts(node, others),
    )


def phase_seconds(rounds: Sequence[Span]) -> dict[str, list[float]]:
    """Return the durations of each phase in *rounds*, longest phase first.

    A missing phase took 0.
    """
    names = {name for line in rounds for name in line["phases"]}
    times = {
        name: [line["phases"].get(name, 0.0) / 1000.0 for line in rounds] for name in sorted(names)
    }
    return dict(sorted(times.items(), key=lambda item: -sum(item[1])))


def unaccounted_share(rounds: Sequence[Span]) -> float:
    """Return the share of *rounds*' time in no phase; negative if the phases exceed the rounds."""
    total = sum(line["ms"] for line in rounds)
    phases = sum(sum(line["phases"].values()) for line in rounds)
    return float(1.0 - phases / total)


def network_seconds(node: NodeSpans, others: Mapping[str, NodeSpans]) -> list[float]:
    """Return the time of broker and network per request: round-trip time minus service time."""
    services = {
        (other.name, line["round"]): line["ms"]
        for other in others.values()
        for line in other.select_spans(SERVICE)
        if line["neighbour"] == node.name
    }
    return [
        (line["ms"] - services[key]) / 1000.0
        for line in node.select_spans(TRIP)
        if (key := (line["neighbour"], line["round"])) in services
    ]


def node_counts(node: NodeSpans, others: Mapping[str, NodeSpans]) -> dict[str, float]:
    """Return counters and costs of *node*; names that end in _per_round are averages per round."""
    rounds = node.select_spans(ROUND)
    first, last, steps = rounds[0], rounds[-1], max(1, len(rounds) - 1)

    def growth(name: str) -> float:
        return float(last[name] - first[name])

    round_trips, network = node.seconds(TRIP), network_seconds(node, others)
    found = {
        "rounds": float(len(rounds)),
        "unaccounted": unaccounted_share(rounds),
        "network_share": median(network) / median(round_trips) if network else 0.0,
        "bytes_sent_per_round": growth("bytes_sent") / steps,
        "bytes_received_per_round": growth("bytes_received") / steps,
        "cpu_ms_per_round": 1000.0 * growth("cpu_s") / steps,
        "pool_cpu_ms_per_round": 1000.0 * growth("pool_cpu_s") / steps,
        "rss_mib": max(line["rss_mib"] or 0.0 for line in rounds),
        "pool_level": median(line["pool"] for line in rounds),
        "pool_misses": growth("inline"),
        "silent": float(sum(line["silent"] for line in rounds)),
        "rejected": growth("rejected"),
    }
    return {name: float(f"{value:.4g}") for name, value in found.items()}
