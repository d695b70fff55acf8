"""Run average consensus on many graphs with real daemons and check the predicted rounds.

After the rounds that `cipherfleet run` advises, every node must be within 1e-4 of the mean,
relative to the range of the readings. No graph may deadlock.

    python benchmarks/average_sweep.py --nodes 3 12 --key-bits 512 --json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from cipherfleet_analysis.advice import CONSENSUS_ACCURACY
from cipherfleet_analysis.centralised import range_of_starts
from cipherfleet_analysis.convergence import rounds_to_consensus
from cipherfleet_deploy.local.run import RunOptions, run_fleet
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import resolution_of
from cipherfleet_provisioning.fleet.file import Overrides
from cipherfleet_provisioning.fleet.fleet import load_fleet

KINDS = {
    "ring": "{kind: ring}",
    "line": "{kind: line}",
    "star": "{kind: star}",
    "grid": "{kind: grid}",
    "complete": "{kind: complete}",
    "random": "{kind: erdos_renyi, probability: 0.5, seed: 4}",
    "regular": "{kind: random_regular, degree: 2, seed: 1}",
}


def main() -> int:
    """Run the sweep; exit code 1 if any run misses the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[3, 6])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument(
        "--key-bits", type=int, default=512, help="key size; below 2048 bits is unsafe"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cases = [(kind, n) for kind in options.kinds for n in options.nodes]
    console = Console(stderr=True)
    results = [
        result
        for kind, n in track(cases, "graphs", console=console, disable=not console.is_terminal)
        if (result := run_case(kind, n, options.key_bits)) is not None
    ]
    if options.json:
        print(json.dumps(results))
    else:
        for result in results:
            print(
                "{kind:9} n={nodes:<3} rounds={rounds:<5} error={error:.1e} {verdict}".format(
                    **result
                )
            )
    return 0 if all(result["verdict"] == "ok" for result in results) else 1


def run_case(kind: str, n: int, key_bits: int) -> dict[str, Any] | None:
    """Run one graph; None if it does not exist for *n* nodes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = np.random.default_rng([n, len(kind)])
        readings = rng.uniform(15.0, 25.0, n)
        file = write_fleet(folder, KINDS[kind], readings, key_bits)
        try:
            fleet = load_fleet(file)
        except ConfigError:
            return None
        predicted = rounds_to_consensus(
            fleet.graph,
            CONSENSUS_ACCURACY,
            range_of_starts(fleet),
            resolution_of(fleet.file.algorithm),
            sealed=fleet.exchange == "sealed",
        )
        quiet = Console(stderr=True, quiet=True)
        run_options = RunOptions(Overrides(rounds=predicted.rounds), out=folder / "out")
        result = run_fleet(file, run_options, quiet)
        last = [
            json.loads(line)["estimate"][0]
            for log in (folder / "out" / "nodes").glob("*/logs/estimates.jsonl")
            for line in log.read_text().splitlines()[-1:]
        ]
    error = float(np.max(np.abs(np.array(last) - readings.mean())) / np.ptp(readings))
    is_accurate = error <= CONSENSUS_ACCURACY and len(last) == n and result.silent == 0
    return {
        "kind": kind,
        "nodes": n,
        "rounds": predicted.rounds,
        "error": error,
        "silent": result.silent,
        "wall_s": result.wall_s,
        "verdict": "ok" if is_accurate else "FALLS SHORT",
    }


def write_fleet(folder: Path, topology: str, readings: Any, key_bits: int) -> Path:
    """Write a fleet.yaml with one reading per node."""
    rows = "".join(f"{place},{value!r}\n" for place, value in enumerate(readings.tolist(), 1))
    (folder / "readings.csv").write_text("room,celsius\n" + rows)
    file = folder / "fleet.yaml"
    file.write_text(
        f"""\
config_version: 1
fleet: sweep
crypto: {{key_bits: {key_bits}, allow_weak_keys: {str(key_bits < 2048).lower()}}}
algorithm: {{rounds: 1}}
objective: {{kind: average, values: [{{field: celsius}}]}}
topology: {topology}
nodes:
  - {{each: {len(readings)}, id: "n{{n:02}}",
     sensor: {{kind: csv, path: readings.csv, where: {{room: "{{n}}"}}}}}}
"""
    )
    return file


if __name__ == "__main__":
    sys.exit(main())
