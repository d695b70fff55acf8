"""Whole rounds: encrypted against plain, throughput, and the cost of a node as fleets grow.

All figures of a comparison come from one run over one broker, its parts in turn.

    python benchmarks/round.py latency      encrypted / plain rounds, pools filled
    python benchmarks/round.py throughput   10 nodes, degree 4, pools refilled at the same pace
    python benchmarks/round.py growth       CPU per node and round, degree 2, n = 5, 10, 20
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from cipherfleet_broker import RunningBroker, start_broker
from cipherfleet_deploy.local import NODE_COMMAND, LocalFleet
from cipherfleet_deploy.tail import Tail
from cipherfleet_node.config import Broker, Simulation
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.fleet import load_fleet

HERE = Path(__file__).parent
PLAIN = (sys.executable, str(HERE / "bench_node.py"), "--plain")
FILLED = (sys.executable, str(HERE / "bench_node.py"), "--fill-first")
CRYPTO_PHASES = frozenset({"encrypt", "prepare", "answer", "decrypt"})
STALLED_AFTER_S = 120.0
RATIO_GATE = 4.0  # p50 of an encrypted round over that of a plain one

Spans = list[dict[str, Any]]


def main() -> int:
    """Run one of the three measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("latency", "throughput", "growth"))
    parser.add_argument("--rounds", type=int, default=70)
    parser.add_argument("--turns", type=int, default=3, help="how often each part is run")
    parser.add_argument("--broker", default="embedded")
    parser.add_argument("--gate", action="store_true", help="exit 1 if the ratio exceeds its gate")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with start_broker(options.broker) as broker:
        results = MEASUREMENTS[options.what](broker, options)
    for result in results:
        print(json.dumps(result) if options.json else _line(result))
    gated = [r["ratio_p50"] for r in results if r.get("gated")]
    return 1 if options.gate and any(ratio > RATIO_GATE for ratio in gated) else 0


def latency(broker: RunningBroker, options: argparse.Namespace) -> list[dict[str, Any]]:
    """p50 and p95 of rounds, encrypted with pools filled and plain, in turn."""
    cases = [(n, d, degree) for n in (5, 10) for d in (4, 32) for degree in (2, 4)]
    results = []
    for n, d, degree in _shown(cases):
        turns = [
            (
                run_spans(broker, n, d, degree, options.rounds, FILLED, pool=options.rounds + 4),
                run_spans(broker, n, d, degree, options.rounds, PLAIN),
            )
            for _ in range(options.turns)
        ]
        encrypted, plain = ([round_ms(turn[side]) for turn in turns] for side in (0, 1))
        ratios = [np.median(e) / np.median(p) for e, p in zip(encrypted, plain, strict=True)]
        results.append(
            {
                "n": n,
                "d": d,
                "degree": degree,
                "encrypted_p50_ms": _percentile(encrypted, 50),
                "encrypted_p95_ms": _percentile(encrypted, 95),
                "plain_p50_ms": _percentile(plain, 50),
                "plain_p95_ms": _percentile(plain, 95),
                "ratio_p50": round(float(median(ratios)), 2),
                "encrypted_cpu_ms": median(cpu_ms(turn[0]) for turn in turns),
                "plain_cpu_ms": median(cpu_ms(turn[1]) for turn in turns),
                "gated": (n, d, degree) == (5, 32, 2),
            }
        )
    return results


def throughput(broker: RunningBroker, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rounds per second of a fleet that runs flat out, and what its CPU time went into."""
    n, d, degree = 10, 32, 4
    results = []
    for rerandomise in _shown(["uniform", "full"] * options.turns):
        spans = run_spans(
            broker, n, d, degree, 4 * options.rounds, NODE_COMMAND, rerandomise=rerandomise
        )
        # By the last three quarters the tables of `full` are built (after 64 obfuscators).
        late = [s for node in spans for s in node if s["round"] >= options.rounds]
        closed = [s["at"] + s["ms"] / 1000 for s in late if s["phase"] == "round"]
        seconds = max(closed) - min(closed)
        crypto = sum(s.get("cpu_ms", 0.0) for s in late if s["phase"] in CRYPTO_PHASES) / 1000
        pool, total = (_growth(spans, name, options.rounds) for name in ("pool_cpu_s", "cpu_s"))
        results.append(
            {
                "n": n,
                "d": d,
                "degree": degree,
                "rerandomise": rerandomise,
                "rounds_per_s": round(3 * options.rounds / seconds, 2),
                "crypto_share_of_cpu": round((crypto + pool) / total, 3),
                "cpu_ms_per_node_round": round(1000 * total / (n * 3 * options.rounds), 2),
            }
        )
    return results


def growth(broker: RunningBroker, options: argparse.Namespace) -> list[dict[str, Any]]:
    """CPU per node and round on rings: it must not depend on the size of the fleet."""
    results = []
    for n in _shown([5, 10, 20]):
        spans = run_spans(broker, n, 32, 2, 3 * options.rounds, NODE_COMMAND)
        total = _growth(spans, "cpu_s", options.rounds)
        results.append(
            {"n": n, "cpu_ms_per_node_round": round(1000 * total / (n * 2 * options.rounds), 2)}
        )
    return results


MEASUREMENTS = {"latency": latency, "throughput": throughput, "growth": growth}


def run_spans(
    broker: RunningBroker,
    n: int,
    d: int,
    degree: int,
    rounds: int,
    command: Sequence[str],
    pool: int = 8,
    rerandomise: str = "full",
) -> list[Spans]:
    """The spans of every node of a fleet that ran to its end; 2048-bit keys."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fleet = load_fleet(_write_fleet(folder, n, d, degree, rounds, pool, rerandomise))
        bundles = write_bundles(
            fleet,
            folder / "nodes",
            Broker(host=broker.host, port=broker.port),
            Simulation(trace_estimates=True),
        )
        with LocalFleet(bundles, STALLED_AFTER_S, command) as nodes:
            nodes.start()
            nodes.wait(every_s=1.0)
        return [Tail(bundle / "logs" / "spans.jsonl").read() for bundle in bundles.values()]


def round_ms(spans: list[Spans]) -> list[float]:
    """Durations of rounds; the first five warm up."""
    return [s["ms"] for node in spans for s in node if s["phase"] == "round" and s["round"] >= 5]


def cpu_ms(spans: list[Spans]) -> float:
    """CPU per node and round, after the warm-up, the filling of pools excluded."""
    rounds = int(max(s["round"] for node in spans for s in node)) - 5
    return round(1000.0 * _growth(spans, "cpu_s", 5) / float(len(spans) * rounds), 2)


def _growth(spans: list[Spans], name: str, since: int) -> float:
    """By how much a counter in the round lines grew from round *since* on, all nodes together."""
    total = 0.0
    for node in spans:
        lines = [s for s in node if s["phase"] == "round" and s["round"] >= since]
        total += float(lines[-1][name]) - float(lines[0][name])
    return total


def _percentile(turns: Sequence[Sequence[float]], percent: int) -> float:
    return round(float(np.percentile([ms for turn in turns for ms in turn], percent)), 2)


def _shown(cases: Sequence[Any]) -> Any:
    console = Console(stderr=True)
    return track(cases, "fleets", console=console, disable=not console.is_terminal)


def _line(result: dict[str, Any]) -> str:
    return "  ".join(f"{name}={value}" for name, value in result.items() if name != "gated")


def _write_fleet(
    folder: Path, n: int, d: int, degree: int, rounds: int, pool: int, rerandomise: str
) -> Path:
    chance = np.random.default_rng(1)
    columns = [f"f{place}" for place in range(d)]
    rows = [
        f"{node}," + ",".join(f"{value:.6f}" for value in chance.uniform(-1, 1, d))
        for node in range(1, n + 1)
    ]
    (folder / "readings.csv").write_text("\n".join([f"node,{','.join(columns)}", *rows]) + "\n")
    kind = "{kind: ring}" if degree == 2 else f"{{kind: random_regular, degree: {degree}, seed: 1}}"
    if degree == n - 1:
        kind = "{kind: complete}"
    values = ", ".join(f"{{field: {column}}}" for column in columns)
    file = folder / "fleet.yaml"
    file.write_text(
        f"""\
config_version: 1
fleet: bench
crypto: {{pool: {pool}, rerandomise: {rerandomise}}}
algorithm: {{rounds: {rounds}, answer_timeout_s: 30}}
objective: {{kind: average, values: [{values}]}}
topology: {kind}
nodes:
  - {{each: {n}, id: "n{{n:02}}",
     sensor: {{kind: csv, path: readings.csv, where: {{node: "{{n}}"}}}}}}
"""
    )
    return file


if __name__ == "__main__":
    sys.exit(main())
