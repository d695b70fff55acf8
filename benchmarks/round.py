"""Measure whole rounds: encrypted against plaintext, throughput, CPU per node as fleets grow.

All figures of a comparison come from one interleaved run over one broker.

    python benchmarks/round.py latency      encrypted / plaintext rounds, pools filled
    python benchmarks/round.py sealed       sealed / pairwise rounds, 10 nodes, TLS, access rules
    python benchmarks/round.py throughput   10 nodes, degree 4, pools refilled at the same pace
    python benchmarks/round.py growth       CPU per node and round, degree 2, n = 5, 10, 20

Both exchanges are measured, unless --exchange selects one.
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
RATIO_GATE = 4.0  # p50 of an encrypted round over that of a plaintext one
SEALED_GATE = 1.3  # p50 of a sealed round over that of a pairwise one
ERROR_TOLERANCE = 1e-5  # allowed difference of the two relative errors, which are about 1e-6
EXCHANGES = ("sealed", "pairwise")

Spans = list[dict[str, Any]]


@dataclass(frozen=True)
class Recipe:
    """The fleet to run: 2048-bit keys, one reading per node in each of *d* entries."""

    n: int
    d: int
    degree: int
    rounds: int
    exchange: str
    pool: int = 8
    rerandomise: str = "full"


@dataclass(frozen=True)
class FleetResult:
    """The results of a fleet that ran to its last round."""

    spans: list[Spans]  # of every node
    error: float  # relative error to the centralised answer


def main() -> int:
    """Run one measurement; with --gate exit code 1 if a gate fails."""
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
    parser.add_argument("--repeats", type=int, default=3, help="runs of each part")
    parser.add_argument("--exchange", nargs="+", choices=EXCHANGES, default=list(EXCHANGES))
    parser.add_argument("--broker", default="embedded")
    parser.add_argument("--gate", action="store_true", help="exit code 1 if a gate fails")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.what == SEALED and set(options.exchange) != set(EXCHANGES):
        parser.error("sealed compares both exchanges: leave --exchange out")
    if options.rounds < LEAST_ROUNDS:
        parser.error(f"--rounds is {options.rounds}, must be {LEAST_ROUNDS} or more")
    return options


def latency(broker: RunningBroker, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure p50 and p95 of encrypted (filled pools) and of plaintext rounds, interleaved."""
    cases = [(n, d, degree) for n in (5, 10) for d in (4, 32) for degree in (2, 4)]
    results = []
    for n, d, degree in _with_progress(cases):
        recipe = Recipe(n, d, degree, options.rounds, "pairwise", pool=options.rounds + 4)
        plain: list[FleetResult] = []
        encrypted: dict[str, list[FleetResult]] = {exchange: [] for exchange in options.exchange}
        for _ in range(options.repeats):
            for exchange, repeats in encrypted.items():
                repeats.append(run(broker, replace(recipe, exchange=exchange), FILLED))
            plain.append(run(broker, replace(recipe, pool=8), PLAIN))
        gated = (n, d, degree) == (5, 32, 2)
        for exchange, repeats in encrypted.items():
            ratio = ratio_p50(repeats, plain)
            results.append(
                {
                    "n": n,
                    "d": d,
                    "degree": degree,
                    "exchange": exchange,
                    **_percentiles("encrypted", repeats),
                    **_percentiles("plain", plain),
                    "ratio_p50": ratio,
                    "encrypted_cpu_ms": _median_cpu_ms(repeats),
                    "plain_cpu_ms": _median_cpu_ms(plain),
                    "fallen": gated and ratio > RATIO_GATE,
                }
            )
    return results


def sealed(
    broker: RunningBroker, authority: Certified, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Measure rounds and errors of both exchanges, interleaved, in a fleet as deployed."""
    results: dict[str, list[FleetResult]] = {exchange: [] for exchange in EXCHANGES}
    for repeat in _with_progress(range(options.repeats)):
        for exchange in EXCHANGES[:: 1 if repeat % 2 else -1]:
            recipe = _sealed_recipe(options.rounds, exchange)
            results[exchange].append(run(broker, recipe, NODE_COMMAND, authority))
    return [{"n": recipe.n, "d": recipe.d, "degree": recipe.degree, **compare_with_gates(results)}]


def compare_with_gates(results: dict[str, list[FleetResult]]) -> dict[str, Any]:
    """Return ratio and errors of sealed and pairwise runs, and the result of the gates."""
    ratio = ratio_p50(results["sealed"], results["pairwise"])
    errors = {
        exchange: median(each.error for each in repeats) for exchange, repeats in results.items()
    }
    error_difference = abs(errors["sealed"] - errors["pairwise"])
    return {
        **_percentiles("sealed", results["sealed"]),
        **_percentiles("pairwise", results["pairwise"]),
        "ratio_p50": ratio,
        "ratio_gate": SEALED_GATE,
        **{f"{exchange}_error": float(f"{e:.3g}") for exchange, e in errors.items()},
        "error_tolerance": ERROR_TOLERANCE,
        "fallen": ratio > SEALED_GATE or not error_difference <= ERROR_TOLERANCE,
    }


def _sealed_recipe(rounds: int, exchange: str) -> Recipe:
    return Recipe(10, 32, 4, rounds, exchange)


@contextmanager
def _broker_for(options: argparse.Namespace) -> Iterator[tuple[RunningBroker, Certified | None]]:
    """Start a broker on plain TCP; for `sealed` with TLS, access rules and an authority."""
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
    """Measure the rounds per second of a fleet at full speed, and its use of CPU time."""
    results = []
    cases = [(exchange, how) for exchange in options.exchange for how in ("uniform", "full")]
    for exchange, rerandomise in _with_progress(cases * options.repeats):
        recipe = Recipe(10, 32, 4, 4 * options.rounds, exchange, rerandomise=rerandomise)
        spans = run(broker, recipe, NODE_COMMAND).spans
        # In the last three quarters the tables of `full` are complete (64 obfuscators).
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
    """Measure CPU per node and round on rings; it must not depend on the size of the fleet."""
    results = []
    for n, exchange in _with_progress([(n, e) for n in (5, 10, 20) for e in options.exchange]):
        recipe = Recipe(n, 32, 2, 3 * options.rounds, exchange)
        total = _growth(run(broker, recipe, NODE_COMMAND).spans, "cpu_s", options.rounds)
        per_round = round(1000 * total / (n * 2 * options.rounds), 2)
        results.append({"n": n, "exchange": exchange, "cpu_ms_per_node_round": per_round})
    return results


SEALED = "sealed"
LEAST_ROUNDS = 10  # of which five are warm-up
MEASUREMENTS = {"latency": latency, "throughput": throughput, "growth": growth}


def run(
    broker: RunningBroker,
    recipe: Recipe,
    command: Sequence[str],
    authority: Certified | None = None,
) -> FleetResult:
    """Run the fleet of *recipe* to its last round; with *authority* over TLS."""
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
        error = relative_error(Trajectory.of(nodes, fleet.solution_dimension).last, optimum)
        spans = [
            JsonLinesReader(bundle / "logs" / "spans.jsonl").read() for bundle in bundles.values()
        ]
        return FleetResult(spans, error)


def round_ms(spans: list[Spans]) -> list[float]:
    """Return the durations of rounds without the first five, which are warm-up."""
    return [s["ms"] for node in spans for s in node if s["phase"] == "round" and s["round"] >= 5]


def ratio_p50(slow: Sequence[FleetResult], fast: Sequence[FleetResult]) -> float:
    """Return the median over the repeats of the ratio of their median rounds."""
    ratios = [
        np.median(round_ms(one.spans)) / np.median(round_ms(other.spans))
        for one, other in zip(slow, fast, strict=True)
    ]
    return round(float(median(ratios)), 2)


def cpu_ms(spans: list[Spans]) -> float:
    """Return CPU ms per node and round after the warm-up, without the filling of pools."""
    rounds = int(max(s["round"] for node in spans for s in node)) - 5
    return round(1000.0 * _growth(spans, "cpu_s", 5) / float(len(spans) * rounds), 2)


def _median_cpu_ms(repeats: Sequence[FleetResult]) -> float:
    return round(median(cpu_ms(repeat.spans) for repeat in repeats), 2)


def _growth(spans: list[Spans], name: str, since: int) -> float:
    """Return the growth of a counter in the spans from round *since* on, over all nodes."""
    total = 0.0
    for node in spans:
        lines = [s for s in node if s["phase"] == "round" and s["round"] >= since]
        total += float(lines[-1][name]) - float(lines[0][name])
    return total


def _percentiles(what: str, repeats: Sequence[FleetResult]) -> dict[str, float]:
    """Return p50 and p95 over the rounds of all *repeats*."""
    times = [ms for repeat in repeats for ms in round_ms(repeat.spans)]
    return {f"{what}_p{p}_ms": round(float(np.percentile(times, p)), 2) for p in (50, 95)}


def _with_progress(cases: Sequence[Any]) -> Any:
    console = Console(stderr=True)
    return track(cases, "fleets", console=console, disable=not console.is_terminal)


def _line(result: dict[str, Any]) -> str:
    return "  ".join(f"{name}={value}" for name, value in result.items() if name != "fallen") + (
        "  FAILED" if result.get("fallen") else ""
    )


def _write_fleet(folder: Path, recipe: Recipe) -> Path:
    n, d, degree = recipe.n, recipe.d, recipe.degree
    rng = np.random.default_rng(1)
    columns = [f"f{place}" for place in range(d)]
    rows = [
        f"{node}," + ",".join(f"{value:.6f}" for value in rng.uniform(-1, 1, d))
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
