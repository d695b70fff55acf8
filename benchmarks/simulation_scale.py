"""The vector engine from a thousand to a million nodes: time and memory of a round.

Made-up fleets of degree 6 and d = 4, sealed, each size in a process of its own, so that its peak
memory is its own: `cipherfleet simulate --nodes N`. The growth is the slope of CPU time against
nodes, both logarithmic: 1 is linear.

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
GROWTH = 1.15  # at most: caches end somewhere between the sizes


def main() -> int:
    """Measure and print; with --gate exit code 1 if memory or growth is too much."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--turns", type=int, default=3, help="of each size; the best counts")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--gate", action="store_true")
    options = parser.parse_args()
    costs = measure(options.nodes, options.rounds, options.turns)
    told = {"costs": costs, "growth": growth(costs)}
    print(json.dumps(told) if options.json else table(told))
    return int(options.gate and not passes(told))


def measure(sizes: Sequence[int], rounds: int, turns: int) -> list[dict[str, Any]]:
    """What a round of each size takes, in turns so that a busy machine troubles all alike."""
    runs: dict[int, list[dict[str, Any]]] = {nodes: [] for nodes in sizes}
    for _ in range(turns):
        for nodes in sizes:
            runs[nodes].append(simulated(nodes, rounds))
    return [cost(of_size) for of_size in runs.values()]


def simulated(nodes: int, rounds: int) -> dict[str, Any]:
    """The result of one simulation, in a process of its own."""
    command = [sys.executable, "-m", "cipherfleet_deploy", "simulate", "--json"]
    flags = ["--nodes", str(nodes), "--rounds", str(rounds)]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def cost(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The best time of *runs*, and the most memory."""
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
    """The slope of the line fitted to log CPU time against log nodes; None of one size alone."""
    if len(costs) < 2:
        return None
    nodes, seconds = (
        np.log([each[name] for each in costs]) for name in ("nodes", "cpu_seconds_per_round")
    )
    return float(np.polyfit(nodes, seconds, 1)[0])


def passes(told: dict[str, Any]) -> bool:
    """Whether memory and growth are within bounds."""
    within = all(each["peak_memory_mib"] <= MEMORY_MIB for each in told["costs"])
    return within and (told["growth"] is None or told["growth"] <= GROWTH)


def table(told: dict[str, Any]) -> str:
    """For people; times per node are of the CPU, the ratio over the first size's."""
    lines = [f"{'nodes':>9} {'s/round':>9} {'ns/node':>8} {'MiB':>6} {'wall s':>7} {'ratio':>6}"]
    first = told["costs"][0]["ns_per_node"]
    for each in told["costs"]:
        lines.append(
            f"{each['nodes']:>9} {each['seconds_per_round']:>9.3g} {each['ns_per_node']:>8.0f} "
            f"{each['peak_memory_mib']:>6.0f} {each['wall_s']:>7.2f} "
            f"{each['ns_per_node'] / first:>6.2f}"
        )
    if told["growth"] is not None:
        lines.append(f"CPU time grows as nodes^{told['growth']:.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
