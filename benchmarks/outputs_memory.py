"""Measure what the outputs of the answer cost a node in memory: all of them against none.

`python benchmarks/outputs_memory.py [--gate]` runs three daemons without an output, then three with
file, program, MQTT with discovery, and the page for Prometheus with values, and so on in turn. Each
is measured when it has settled and its page was read. The gate: at most 8 MiB more. It needs
mosquitto and the extra `metrics`.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from cipherfleet_broker import RunningBroker, start_broker
from cipherfleet_deploy.local.processes import LocalFleet
from cipherfleet_node.outputs.file import answer_file
from cipherfleet_node.settings.node_yaml import NODE_FILE
from cipherfleet_node.settings.sections import Broker, Simulation
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.fleet.fleet import load_fleet

LIMIT_MIB = 8.0
FIGURES = {"rss": "Rss", "pss": "Pss", "private": "Private_Dirty"}  # names in smaps_rollup
FIRST_PORT = 19477
ROUNDS = 120  # enough to settle; the same in both variants
WITHIN_S = 300.0
FLEET = """\
config_version: 1
fleet: outputs
crypto: {{key_bits: {bits}, allow_weak_keys: true}}
algorithm: {{period_s: 0.1, answer_timeout_s: 30, start_timeout_s: 60}}
answer: {answer}
objective:
  kind: least_squares
  drift: {{window: 4}}
  target: {{field: t, offset: 20, scale: 5}}
  features: [{{constant: 1}}, {{field: h, offset: 40, scale: 10}}]
topology: {{kind: ring}}
nodes:
  - {{each: 3, id: "n{{n}}", sensor: {{kind: csv, path: readings.csv}}}}
"""
NONE = "{file: false}"
ALL = """
  every_s: 1
  exec: [/bin/true]
  mqtt: {{port: {port}, topic: "own/{{fleet}}/{{node}}", homeassistant: true}}
  metrics: {{port: 9477, values: true}}"""
READINGS = "t,h\n" + "".join(f"{20 + row % 7 / 10},{40 + row % 11}\n" for row in range(50))


def measure(folder: Path, answer: str, bits: int) -> list[dict[str, float]]:
    """Return the figures of three nodes with the outputs *answer*, in MiB."""
    folder.mkdir()
    (folder / "readings.csv").write_text(READINGS)
    (folder / "fleet.yaml").write_text(FLEET.format(answer=answer, bits=bits))
    fleet = load_fleet(folder / "fleet.yaml")
    with start_broker("embedded") as broker:
        address = Broker(host=broker.host, port=broker.port)
        bundles = dict(write_bundles(fleet, folder / "nodes", address, Simulation()))
        ports = _own_ports(bundles)
        with LocalFleet(bundles, stalled_after_s=120.0) as nodes:
            nodes.start()

            def is_ready() -> bool:
                nodes.poll()
                has_run = all(len(node.rounds) >= ROUNDS for node in nodes.nodes.values())
                files = [answer_file(each) for each in bundles.values()]
                return has_run and (not ports or all(file.exists() for file in files))

            _await(is_ready, "answers")
            for port in ports:
                _await(lambda port=port: "answer_drift" in _page(port), "page")  # type: ignore[misc]
            return [_figures(node.process.pid) for node in nodes.nodes.values() if node.process]


def _own_ports(bundles: Mapping[str, Path]) -> list[int]:
    """Give each node a port of its own for its page, and return the ports; none without a page."""
    ports = []
    for place, folder in enumerate(bundles.values()):
        file = folder / NODE_FILE
        text, found = re.subn(r"\b9477\b", str(FIRST_PORT + place), file.read_text())
        if found:
            file.write_text(text)
            ports.append(FIRST_PORT + place)
    return ports


def _page(port: int) -> str:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text: str = answer.read().decode()
        return text
    return ""


def _await(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {WITHIN_S:g} s")
        time.sleep(0.2)


def _figures(pid: int) -> dict[str, float]:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kib = {name: int(size) for name, size in re.findall(r"^(\w+): +(\d+) kB", text, re.MULTILINE)}
    return {name: kib[key] / 1024 for name, key in FIGURES.items()}


def run(own: RunningBroker, repeats: int, bits: int) -> dict[str, dict[str, float]]:
    """Return the medians without and with outputs, and their difference, in MiB."""
    variants = {"none": NONE, "all": ALL.format(port=own.port)}
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats):
            for name, answer in variants.items():
                seen[name] += measure(Path(folder) / f"{name}-{turn}", answer, bits)
    medians = {
        name: {key: statistics.median(each[key] for each in found) for key in FIGURES}
        for name, found in seen.items()
    }
    more = {key: medians["all"][key] - medians["none"][key] for key in FIGURES}
    return {**medians, "more": more}


def main(arguments: list[str]) -> int:
    """Measure and print; exit code 1 if the gate fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=2, help="runs of each variant; default: 2")
    parser.add_argument("--key-bits", type=int, default=512, help="default: 512, for speed")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--gate", action="store_true", help="exit code 1 if the limit is exceeded")
    given = parser.parse_args(arguments)
    with start_broker("mosquitto") as own:
        figures = run(own, given.repeats, given.key_bits)
    if given.json:
        print(json.dumps({**figures, "limit_mib": LIMIT_MIB}))
    else:
        print(f"{'MiB':8}" + "".join(f"{key:>10}" for key in FIGURES))
        for name, row in figures.items():
            print(f"{name:8}" + "".join(f"{row[key]:10.2f}" for key in FIGURES))
        print(f"limit for more: {LIMIT_MIB:g} MiB of each")
    return int(given.gate and any(each > LIMIT_MIB for each in figures["more"].values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
