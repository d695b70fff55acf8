"""Measure time and memory of a round of the vector engine, from a thousand to a million nodes.

The fleets are synthetic, sealed, of degree 6 and d = 4. Each size runs in its own process
(`cipherfleet simulate --nodes N`), so that the peak memory is that of one size. The growth is the
slope of log CPU time against log nodes; 1 is linear.

    python benchmarks/simulation_scale.py --gate
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

SIZES = (1_000, 10_000, 100_000, 1_000_000)
MEMORY_MIB = 4096.0  # at most
GROWTH = 1.15  # at most; more than 1, because the larger sizes exceed the caches


def main() -> int:
    """Measure and print; with --gate exit code 1 if memory or growth exceeds its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each size; the best counts")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--gate", action="store_true")
    options = parser.parse_args()
    costs = measure(options.nodes, options.rounds, options.repeats)
    result = {"costs": costs, "growth": growth(costs)}
    print(json.dumps(result) if options.json else table(result))
    return int(options.gate and not passes(result))


def measure(sizes: Sequence[int], rounds: int, repeats: int) -> list[dict[str, Any]]:
    """Measure the costs of a round of each size.

    Sizes are interleaved, so that load affects all.
    """
    runs: dict[int, list[dict[str, Any]]] = {nodes: [] for nodes in sizes}
    for _ in range(repeats):
        for nodes in sizes:
            runs[nodes].append(simulate(nodes, rounds))
    return [summarise(of_size) for of_size in runs.values()]


def simulate(nodes: int, rounds: int) -> dict[str, Any]:
    """Run one simulation in its own process and return its result."""
    command = [sys.executable, "-m", "cipherfleet_deploy", "simulate", "--json"]
    flags = ["--nodes", str(nodes), "--rounds", str(rounds)]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def summarise(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the best time of *runs* and the highest memory."""
    cpu_seconds = min(run["cpu_seconds_per_round"] for run in runs)
    nodes = runs[0]["nodes"]
    return {
        "nodes": nodes,
        "edges": runs[0]["edges"],
        "rounds": runs[0]["rounds"],
        "seconds_per_round": min(run["seconds_per_round"] for run in runs),
        "cpu_seconds_per_round": cpu_seconds,
        "ns_per_node": 1e9 * cpu_seconds / nodes,
        "peak_memory_mib": max(run["peak_memory_mib"] for run in runs),
        "wall_s": min(run["wall_s"] for run in runs),
    }


def growth(costs: Sequence[dict[str, Any]]) -> float | None:
    """Fit log CPU time against log nodes; return the slope, or None for a single size."""
    if len(costs) < 2:
        return None
    nodes, seconds = (
        np.log([each[name] for each in costs]) for name in ("nodes", "cpu_seconds_per_round")
    )
    return float(np.polyfit(nodes, seconds, 1)[0])


def passes(result: dict[str, Any]) -> bool:
    """True if memory and growth are within their limits."""
    within = all(each["peak_memory_mib"] <= MEMORY_MIB for each in result["costs"])
    return within and (result["growth"] is None or result["growth"] <= GROWTH)


def table(result: dict[str, Any]) -> str:
    """Format the result; times per node are CPU times, the ratio is to the first size."""
    lines = [f"{'nodes':>9} {'s/round':>9} {'ns/node':>8} {'MiB':>6} {'wall s':>7} {'ratio':>6}"]
    first = result["costs"][0]["ns_per_node"]
    for each in result["costs"]:
        lines.append(
            f"{each['nodes']:>9} {each['seconds_per_round']:>9.3g} {each['ns_per_node']:>8.0f} "
            f"{each['peak_memory_mib']:>6.0f} {each['wall_s']:>7.2f} "
            f"{each['ns_per_node'] / first:>6.2f}"
        )
    if result["growth"] is not None:
        lines.append(f"CPU time grows as nodes^{result['growth']:.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
