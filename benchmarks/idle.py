"""Measure a node's start and idle costs: time to the first round, CPU and memory while waiting.

`python benchmarks/idle.py [--gate]` runs three daemons with keys of 2048 bits that wait an hour for
their second round. The gate: the first round ends within 3 s, and a waiting node uses less than 1 %
of a core and 60 MiB. On a busy machine the start takes several times longer: use an idle machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import psutil

from cipherfleet_broker import start_broker
from cipherfleet_deploy.local.processes import LocalFleet
from cipherfleet_node.settings.sections import Broker, Simulation
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.fleet.fleet import load_fleet

FILL_S, REST_S = 3.0, 5.0  # time to fill the pools, then the measured idle time
LIMITS = {"start_s": 3.0, "cpu_share": 0.01, "memory_mib": 60.0}
FLEET = """\
config_version: 1
fleet: idle
algorithm: {rounds: 5, period_s: 3600}
objective: {kind: average, values: [{field: celsius}]}
topology: {kind: ring}
nodes:
  - {each: 3, id: "n{n}", sensor: {kind: synthetic, fields: {celsius: {mean: 20}}}}
"""


def measure(folder: Path) -> dict[str, float]:
    """Return the largest values of the three nodes."""
    (folder / "fleet.yaml").write_text(FLEET)
    with start_broker("embedded") as broker:
        address = Broker(host=broker.host, port=broker.port)
        fleet = load_fleet(folder / "fleet.yaml")
        bundles = write_bundles(fleet, folder / "nodes", address, Simulation(trace_estimates=True))
        with LocalFleet(bundles, stalled_after_s=120.0) as nodes:
            nodes.start()
            began = time.monotonic()  # immediately after the start of the processes
            while not all(node.rounds for node in nodes.nodes.values()):
                nodes.poll()
                time.sleep(0.05)
            first = [node.rounds[0] for node in nodes.nodes.values()]
            time.sleep(FILL_S)
            processes = [psutil.Process(n.process.pid) for n in nodes.nodes.values() if n.process]
            before = [sum(each.cpu_times()[:2]) for each in processes]
            time.sleep(REST_S)
            used = [sum(p.cpu_times()[:2]) - b for p, b in zip(processes, before, strict=True)]
            resident = [each.memory_info().rss / 2**20 for each in processes]
    # Linux's monotonic clock is the same in all processes.
    return {
        "start_s": max(line["at"] + line["ms"] / 1000 for line in first) - began,
        "cpu_share": max(used) / REST_S,
        "memory_mib": max(resident),
    }


def main(arguments: list[str]) -> int:
    """Measure and print; exit code 1 if a gate fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--gate", action="store_true", help="exit code 1 if a limit is exceeded")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder))
    if given.json:
        print(json.dumps({**figures, "limits": LIMITS}))
    else:
        for name, figure in figures.items():
            print(f"{name:12} {figure:8.3f}   limit {LIMITS[name]:g}")
    return int(given.gate and any(figures[name] >= LIMITS[name] for name in LIMITS))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
