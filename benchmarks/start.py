"""Measure the start of a fleet on this machine: from the command to the first closed round.

`python benchmarks/start.py` runs `cipherfleet run FILE` several times and prints medians: wall and
CPU seconds of all processes until every node has closed its first round, CPU seconds of the nodes
in the first rounds, and what they were used for. It then restarts one node, as a device does, in
turn with its kept bases and without them. `--against FOLDER` runs another checkout of the
repository in turn with this one. On a busy machine CPU seconds are the better measure.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil

from cipherfleet_broker import start_broker
from cipherfleet_deploy.local.processes import LocalFleet
from cipherfleet_node.settings.sections import Broker, Simulation
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.fleet.file import Overrides
from cipherfleet_provisioning.fleet.fleet import load_fleet

HERE = Path(__file__).parents[1]
EXAMPLE = HERE / "examples" / "intel_lab" / "fleet.yaml"
PACKAGES = ("analysis", "broker", "deploy", "lab", "node", "provisioning")
SAMPLE_EVERY_S = 0.05
STALLED_AFTER_S = 600.0


class StartFigures(msgspec.Struct):
    """The start of one run. CPU seconds are of all processes, except those of the nodes alone."""

    first_round_s: float
    first_round_cpu_s: float
    nodes_first_cpu_s: float
    nodes_cpu_s: float
    parts: dict[str, float]  # CPU seconds of the nodes by part; empty if the checkout records none
    collection_cpu_s: float


class Restart(msgspec.Struct):
    """CPU seconds of one restarted node until it had closed the rounds."""

    kept_bases_cpu_s: float
    without_cpu_s: float


class Result(msgspec.Struct):
    """The medians of the runs."""

    nodes: int
    rounds: int
    starts: dict[str, StartFigures]  # by checkout
    restart: Restart


class CpuSamples:
    """CPU seconds of a process and of everything below it, sampled by a thread."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process, self._samples = process, [(time.monotonic(), 0.0)]
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def until(self, moment: float) -> float:
        """Return the largest sample up to *moment*, when the process has ended."""
        self._thread.join()
        return max(seconds for at, seconds in self._samples if at <= moment)

    def _sample(self) -> None:
        while self._process.poll() is None:
            self._samples.append((time.monotonic(), _tree_cpu_s(self._process.pid)))
            time.sleep(SAMPLE_EVERY_S)


def _tree_cpu_s(pid: int) -> float:
    total = 0.0
    try:
        top = psutil.Process(pid)
        for each in [top, *top.children(recursive=True)]:
            total += sum(each.cpu_times()[:4])  # with the children that have ended
    except psutil.Error:
        pass  # a process has ended meanwhile: the next sample has its time
    return total


def measure_start(checkout: Path, file: Path, nodes: int, rounds: int) -> StartFigures:
    """Run the fleet of *file* for *rounds* rounds with the programs in *checkout*."""
    path = os.pathsep.join(str(checkout / name) for name in PACKAGES)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        words = ["run", str(file), "--nodes", str(nodes), "--rounds", str(rounds)]
        began = time.monotonic()
        with subprocess.Popen(
            [sys.executable, "-m", "cipherfleet_deploy", *words, "--json", "--out", str(out)],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            samples = CpuSamples(process)
        if process.returncode != 0:
            raise SystemExit(f"the run with {checkout} ended with code {process.returncode}")
        lines = [_round_lines(place) for place in sorted((out / "nodes").iterdir())]
    first = max(each[0]["at"] + each[0]["ms"] / 1000 for each in lines)
    last = [each[-1] for each in lines]
    parts = {part for each in last for part in each.get("cpu", {})}
    return StartFigures(
        first_round_s=first - began,  # Linux's monotonic clock is the same in all processes
        first_round_cpu_s=samples.until(first),
        nodes_first_cpu_s=sum(each[0]["cpu_s"] for each in lines),
        nodes_cpu_s=sum(each["cpu_s"] for each in last),
        parts={part: sum(each["cpu"].get(part, 0.0) for each in last) for part in sorted(parts)},
        collection_cpu_s=sum(each.get("collection_cpu_s", 0.0) for each in last),
    )


def _round_lines(place: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (place / "logs" / "spans.jsonl").read_text().splitlines())
    return [line for line in lines if line["phase"] == "round"]


def measure_restarts(file: Path, nodes: int, rounds: int, repeats: int) -> Restart:
    """Restart the first node of the fleet, in turn with its kept bases and without them."""
    used: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder, start_broker("embedded") as broker:
        fleet = load_fleet(file, Overrides(nodes=nodes), endless=True)
        address, simulation = Broker(host=broker.host, port=broker.port), Simulation()
        place = Path(folder) / "nodes"
        bundles = write_bundles(fleet, place, address, simulation, with_bases=True)
        name = fleet.members[0].id
        with LocalFleet(bundles, STALLED_AFTER_S) as running:
            running.start()
            for _ in range(repeats):
                for has_bases in (True, False):
                    used[has_bases].append(_restart(running, name, rounds, has_bases=has_bases))
            for node in running.nodes.values():
                if node.process is not None:
                    node.process.send_signal(signal.SIGTERM)
    return Restart(statistics.median(used[True]), statistics.median(used[False]))


def _restart(running: LocalFleet, name: str, rounds: int, *, has_bases: bool) -> float:
    node = running.nodes[name]
    _wait_for_rounds(running, name, rounds)
    running.kill(name)
    kept = {file: file.read_bytes() for file in (node.folder / "keys").glob("*.bases")}
    for file in kept:
        if not has_bases:
            file.unlink()
    before = len(_round_lines(node.folder))
    node.start()
    _wait_for_rounds(running, name, rounds, before)
    for file, data in kept.items():
        if not file.exists():
            file.write_bytes(data)
            file.chmod(0o600)
    return float(_round_lines(node.folder)[before + rounds - 1]["cpu_s"])


def _wait_for_rounds(running: LocalFleet, name: str, rounds: int, before: int = 0) -> None:
    file = running.nodes[name].folder / "logs" / "spans.jsonl"
    while not file.exists() or len(_round_lines(running.nodes[name].folder)) < before + rounds:
        time.sleep(0.2)


def median_start(runs: Sequence[StartFigures]) -> StartFigures:
    """Return the median of every figure."""
    figures = {
        name: statistics.median(getattr(run, name) for run in runs)
        for name in StartFigures.__struct_fields__
        if name != "parts"
    }
    parts = {part: statistics.median(run.parts[part] for run in runs) for part in runs[0].parts}
    return StartFigures(parts=parts, **figures)


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--file", type=Path, default=EXAMPLE, help="the fleet to run")
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=60, help="first rounds that are measured")
    parser.add_argument("--restart-rounds", type=int, default=20, help="rounds after a restart")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout, which runs in turn")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args(arguments)
    checkouts = [HERE, *([given.against.resolve()] if given.against else [])]
    runs: dict[Path, list[StartFigures]] = {checkout: [] for checkout in checkouts}
    for _ in range(given.repeats):
        for checkout, starts in runs.items():
            starts.append(measure_start(checkout, given.file, given.nodes, given.rounds))
    result = Result(
        given.nodes,
        given.rounds,
        {str(checkout): median_start(starts) for checkout, starts in runs.items()},
        measure_restarts(given.file, given.nodes, given.restart_rounds, given.repeats),
    )
    if given.json:
        print(msgspec.json.encode(result).decode())
    else:
        show(result, given.restart_rounds)
    return 0


def show(result: Result, restart_rounds: int) -> None:
    """Print the figures as a table."""
    for checkout, start in result.starts.items():
        print(f"{checkout}: {result.nodes} nodes, {result.rounds} rounds")
        print(f"  first round closed   {start.first_round_s:8.2f} s")
        print(f"  CPU until then       {start.first_round_cpu_s:8.2f} s, all processes")
        print(f"                       {start.nodes_first_cpu_s:8.2f} s, nodes")
        print(f"  CPU of all rounds    {start.nodes_cpu_s:8.2f} s, nodes")
        for part, seconds in sorted(start.parts.items(), key=lambda item: -item[1]):
            print(f"    {part:18} {seconds:8.2f} s   {seconds / start.nodes_cpu_s:4.0%}")
        print(f"  of it collections    {start.collection_cpu_s:8.2f} s")
    restart = result.restart
    print(f"restart of one node, CPU of {restart_rounds} rounds:")
    print(f"  with kept bases      {restart.kept_bases_cpu_s:8.2f} s")
    print(f"  without              {restart.without_cpu_s:8.2f} s")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
