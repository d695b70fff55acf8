"""Whole rounds: encrypted against plain, throughput, and the cost of a node as fleets grow.

All figures of a comparison come from one run over one broker, its parts in turn.

    python benchmarks/round.py latency      encrypted / plain rounds, pools filled
    python benchmarks/round.py sealed       sealed / pairwise rounds, 10 nodes, TLS, access rules
    python benchmarks/round.py throughput   10 nodes, degree 4, pools refilled at the same pace
    python benchmarks/round.py growth       CPU per node and round, degree 2, n = 5, 10, 20

Both exchanges are measured, or those that --exchange names.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from cipherfleet_analysis.centralised import centralised_answer
from cipherfleet_broker import RunningBroker, start_broker
from cipherfleet_deploy.local.json_lines import JsonLinesReader
from cipherfleet_deploy.local.processes import NODE_COMMAND, LocalFleet
from cipherfleet_deploy.local.results import Trajectory, relative_error
from cipherfleet_node.settings.sections import Broker, Simulation
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.certificates import Certified, make_authority, secure
from cipherfleet_provisioning.fleet.fleet import load_fleet

HERE = Path(__file__).parent
PLAIN = (sys.executable, str(HERE / "bench_node.py"), "--plain")
FILLED = (sys.executable, str(HERE / "bench_node.py"), "--fill-first")
CRYPTO_PHASES = frozenset({"encrypt", "prepare", "answer", "combine", "decrypt"})
STALLED_AFTER_S = 120.0
RATIO_GATE = 4.0  # p50 of an encrypted round over that of a plain one
SEALED_GATE = 1.3  # p50 of a sealed round over that of a pairwise one
ERROR_TOLERANCE = 1e-5  # by which the relative errors of the two may differ; both are about 1e-6
EXCHANGES = ("sealed", "pairwise")

Spans = list[dict[str, Any]]


@dataclass(frozen=True)
class Recipe:
    """The fleet to run: 2048-bit keys, one number of everybody's in each of *d* entries."""

    n: int
    d: int
    degree: int
    rounds: int
    exchange: str
    pool: int = 8
    rerandomise: str = "full"


@dataclass(frozen=True)
class Ran:
    """What came of a fleet that ran to its end."""

    spans: list[Spans]  # of every node
    error: float  # relative, against the centralised answer


def main() -> int:
    """Run one of the measurements."""
    options = _options()
    with _broker_for(options) as (broker, authority):
        results = (
            sealed(broker, authority, options)
            if authority
            else MEASUREMENTS[options.what](broker, options)
        )
    for result in results:
        print(json.dumps(result) if options.json else _line(result))
    return 1 if options.gate and any(result.get("fallen") for result in results) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=(SEALED, *MEASUREMENTS))
    parser.add_argument("--rounds", type=int, default=70)
    parser.add_argument("--turns", type=int, default=3, help="how often each part is run")
    parser.add_argument("--exchange", nargs="+", choices=EXCHANGES, default=list(EXCHANGES))
    parser.add_argument("--broker", default="embedded")
    parser.add_argument("--gate", action="store_true", help="exit 1 if a gate falls")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.what == SEALED and set(options.exchange) != set(EXCHANGES):
        parser.error("sealed compares both exchanges: leave --exchange out")
    if options.rounds < LEAST_ROUNDS:
        parser.error(f"--rounds is {options.rounds}, must be {LEAST_ROUNDS} or more")
    return options


def latency(broker: RunningBroker, options: argparse.Namespace) -> list[dict[str, Any]]:
    """p50 and p95 of rounds, encrypted with pools filled and plain, in turn."""
    cases = [(n, d, degree) for n in (5, 10) for d in (4, 32) for degree in (2, 4)]
    results = []
    for n, d, degree in _shown(cases):
        recipe = Recipe(n, d, degree, options.rounds, "pairwise", pool=options.rounds + 4)
        plain: list[Ran] = []
        encrypted: dict[str, list[Ran]] = {exchange: [] for exchange in options.exchange}
        for _ in range(options.turns):
            for exchange, turns in encrypted.items():
                turns.append(run(broker, replace(recipe, exchange=exchange), FILLED))
            plain.append(run(broker, replace(recipe, pool=8), PLAIN))
        gated = (n, d, degree) == (5, 32, 2)
        for exchange, turns in encrypted.items():
            ratio = ratio_p50(turns, plain)
            results.append(
                {
                    "n": n,
                    "d": d,
                    "degree": degree,
                    "exchange": exchange,
                    **_percentiles("encrypted", turns),
                    **_percentiles("plain", plain),
                    "ratio_p50": ratio,
                    "encrypted_cpu_ms": _median_cpu_ms(turns),
                    "plain_cpu_ms": _median_cpu_ms(plain),
                    "fallen": gated and ratio > RATIO_GATE,
                }
            )
    return results


def sealed(
    broker: RunningBroker, authority: Certified, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rounds and errors of the two exchanges, in turn, in a fleet as it is deployed."""
    ran: dict[str, list[Ran]] = {exchange: [] for exchange in EXCHANGES}
    for turn in _shown(range(options.turns)):
        for exchange in EXCHANGES[:: 1 if turn % 2 else -1]:
            recipe = _sealed_recipe(options.rounds, exchange)
            ran[exchange].append(run(broker, recipe, NODE_COMMAND, authority))
    return [{"n": recipe.n, "d": recipe.d, "degree": recipe.degree, **compared(ran)}]


def compared(ran: dict[str, list[Ran]]) -> dict[str, Any]:
    """Ratio and errors of sealed and pairwise runs, held against the gates."""
    ratio = ratio_p50(ran["sealed"], ran["pairwise"])
    errors = {exchange: median(each.error for each in turns) for exchange, turns in ran.items()}
    apart = abs(errors["sealed"] - errors["pairwise"])
    return {
        **_percentiles("sealed", ran["sealed"]),
        **_percentiles("pairwise", ran["pairwise"]),
        "ratio_p50": ratio,
        "ratio_gate": SEALED_GATE,
        **{f"{exchange}_error": float(f"{e:.3g}") for exchange, e in errors.items()},
        "error_tolerance": ERROR_TOLERANCE,
        "fallen": ratio > SEALED_GATE or not apart <= ERROR_TOLERANCE,
    }


def _sealed_recipe(rounds: int, exchange: str) -> Recipe:
    return Recipe(10, 32, 4, rounds, exchange)


@contextmanager
def _broker_for(options: argparse.Namespace) -> Iterator[tuple[RunningBroker, Certified | None]]:
    """A broker on plain TCP; for `sealed` with TLS and access rules, and the authority behind."""
    if options.what != SEALED:
        with start_broker(options.broker) as broker:
            yield broker, None
        return
    with tempfile.TemporaryDirectory() as name:
        folder, now = Path(name), datetime.now(UTC)
        fleet = load_fleet(_write_fleet(folder, _sealed_recipe(1, "sealed")))
        authority = make_authority(fleet.file.fleet, now, days=1)
        security = secure(fleet, authority, folder, now)
        with start_broker(options.broker, security=security) as broker:
            yield broker, authority


def throughput(broker: RunningBroker, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rounds per second of a fleet that runs flat out, and what its CPU time went into."""
    results = []
    cases = [(exchange, how) for exchange in options.exchange for how in ("uniform", "full")]
    for exchange, rerandomise in _shown(cases * options.turns):
        recipe = Recipe(10, 32, 4, 4 * options.rounds, exchange, rerandomise=rerandomise)
        spans = run(broker, recipe, NODE_COMMAND).spans
        # By the last three quarters the tables of `full` are built (after 64 obfuscators).
        late = [s for node in spans for s in node if s["round"] >= options.rounds]
        closed = [s["at"] + s["ms"] / 1000 for s in late if s["phase"] == "round"]
        seconds = max(closed) - min(closed)
        crypto = sum(s.get("cpu_ms", 0.0) for s in late if s["phase"] in CRYPTO_PHASES) / 1000
        pool, total = (_growth(spans, name, options.rounds) for name in ("pool_cpu_s", "cpu_s"))
        per_round = 1000 * total / (recipe.n * 3 * options.rounds)
        results.append(
            {
                "n": recipe.n,
                "d": recipe.d,
                "degree": recipe.degree,
                "exchange": exchange,
                "rerandomise": rerandomise,
                "rounds_per_s": round(3 * options.rounds / seconds, 2),
                "crypto_share_of_cpu": round((crypto + pool) / total, 3),
                "cpu_ms_per_node_round": round(per_round, 2),
            }
        )
    return results


def growth(broker: RunningBroker, options: argparse.Namespace) -> list[dict[str, Any]]:
    """CPU per node and round on rings: it must not depend on the size of the fleet."""
    results = []
    for n, exchange in _shown([(n, e) for n in (5, 10, 20) for e in options.exchange]):
        recipe = Recipe(n, 32, 2, 3 * options.rounds, exchange)
        total = _growth(run(broker, recipe, NODE_COMMAND).spans, "cpu_s", options.rounds)
        per_round = round(1000 * total / (n * 2 * options.rounds), 2)
        results.append({"n": n, "exchange": exchange, "cpu_ms_per_node_round": per_round})
    return results


SEALED = "sealed"
LEAST_ROUNDS = 10  # five warm up
MEASUREMENTS = {"latency": latency, "throughput": throughput, "growth": growth}


def run(
    broker: RunningBroker,
    recipe: Recipe,
    command: Sequence[str],
    authority: Certified | None = None,
) -> Ran:
    """Run the fleet of *recipe* to its end; with certificates of *authority* in TLS."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fleet = load_fleet(_write_fleet(folder, recipe))
        bundles = write_bundles(
            fleet,
            folder / "nodes",
            Broker(host=broker.host, port=broker.port, tls=authority is not None),
            Simulation(trace_estimates=True),
            authority=authority,
        )
        with LocalFleet(bundles, STALLED_AFTER_S, command) as nodes:
            nodes.start()
            nodes.wait(every_s=1.0)
        optimum = centralised_answer(fleet)
        assert optimum is not None
        error = relative_error(Trajectory.of(nodes, fleet.dimension).last, optimum)
        spans = [
            JsonLinesReader(bundle / "logs" / "spans.jsonl").read() for bundle in bundles.values()
        ]
        return Ran(spans, error)


def round_ms(spans: list[Spans]) -> list[float]:
    """Durations of rounds; the first five warm up."""
    return [s["ms"] for node in spans for s in node if s["phase"] == "round" and s["round"] >= 5]


def ratio_p50(slow: Sequence[Ran], fast: Sequence[Ran]) -> float:
    """The median over the turns of the ratio of their median rounds."""
    ratios = [
        np.median(round_ms(one.spans)) / np.median(round_ms(other.spans))
        for one, other in zip(slow, fast, strict=True)
    ]
    return round(float(median(ratios)), 2)


def cpu_ms(spans: list[Spans]) -> float:
    """CPU per node and round, after the warm-up, the filling of pools excluded."""
    rounds = int(max(s["round"] for node in spans for s in node)) - 5
    return round(1000.0 * _growth(spans, "cpu_s", 5) / float(len(spans) * rounds), 2)


def _median_cpu_ms(turns: Sequence[Ran]) -> float:
    return round(median(cpu_ms(turn.spans) for turn in turns), 2)


def _growth(spans: list[Spans], name: str, since: int) -> float:
    """By how much a counter in the round lines grew from round *since* on, all nodes together."""
    total = 0.0
    for node in spans:
        lines = [s for s in node if s["phase"] == "round" and s["round"] >= since]
        total += float(lines[-1][name]) - float(lines[0][name])
    return total


def _percentiles(what: str, turns: Sequence[Ran]) -> dict[str, float]:
    """p50 and p95 over the rounds of all *turns*."""
    times = [ms for turn in turns for ms in round_ms(turn.spans)]
    return {f"{what}_p{p}_ms": round(float(np.percentile(times, p)), 2) for p in (50, 95)}


def _shown(cases: Sequence[Any]) -> Any:
    console = Console(stderr=True)
    return track(cases, "fleets", console=console, disable=not console.is_terminal)


def _line(result: dict[str, Any]) -> str:
    return "  ".join(f"{name}={value}" for name, value in result.items() if name != "fallen") + (
        "  FALLEN" if result.get("fallen") else ""
    )


def _write_fleet(folder: Path, recipe: Recipe) -> Path:
    n, d, degree = recipe.n, recipe.d, recipe.degree
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
crypto: {{exchange: {recipe.exchange}, pool: {recipe.pool}, rerandomise: {recipe.rerandomise}}}
algorithm: {{rounds: {recipe.rounds}, answer_timeout_s: 30}}
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
