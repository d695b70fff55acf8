"""Run nodes on the target: `python -m cipherfleet_hil.measuring.node_runner FOLDER...`.

It prints one JSON object when all have finished: the state of the machine before and after, and
which files hold each node's spans. It imports nothing but what a device has.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from cipherfleet_hil.measurement.document import Part, States
from cipherfleet_hil.measurement.environment import environment
from cipherfleet_node.errors import CipherfleetError, one_line
from cipherfleet_node.runtime.daemon import SPANS_FILE
from cipherfleet_node.settings.node_yaml import LOGS_FOLDER

LOG_FILE = "node.log"
LOOK_EVERY_S = 0.5
STOP_WITHIN_S = 10.0


class Ran(Part, frozen=True):
    """What came of all nodes of one machine."""

    environment: States
    spans: dict[str, list[str]]  # by node, in the order of time, paths from its folder


class NodeFailed(CipherfleetError):
    """A node ended before its rounds did; its last words are in the text."""


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        prog="cipherfleet_hil.measuring.node_runner", description=__doc__
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--own", type=int, required=True, metavar="PID", help="parent of all this")
    options = parser.parse_args()
    try:
        told = run(options.folders, options.own)
    except CipherfleetError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(msgspec.json.encode(told).decode() + "\n")
    return 0


def run(folders: Sequence[Path], own: int) -> Ran:
    """Run the nodes of *folders* to their end. Raises NodeFailed."""
    before = environment([own])
    nodes = {folder: _started(folder) for folder in folders}
    try:
        while _any_runs(nodes):
            time.sleep(LOOK_EVERY_S)
    finally:
        _stop(nodes)
    after = environment([own])
    return Ran(
        environment=States(before=before, after=after),
        spans={folder.name: _spans_of(folder) for folder in folders},
    )


def _started(folder: Path) -> subprocess.Popen[bytes]:
    log = folder / LOGS_FOLDER / LOG_FILE
    log.parent.mkdir(exist_ok=True)
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "cipherfleet_node", "run", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )


def _any_runs(nodes: Mapping[Path, subprocess.Popen[bytes]]) -> bool:
    codes = {folder: process.poll() for folder, process in nodes.items()}
    for folder, code in codes.items():
        if code:
            lines = (folder / LOGS_FOLDER / LOG_FILE).read_text(errors="replace").splitlines()
            words = one_line(lines[-1])[:300] if lines else "nothing"
            raise NodeFailed(
                f"node {folder.name!r} ended with exit code {code}, its last words: {words}"
            )
    return None in codes.values()


def _stop(nodes: Mapping[Path, subprocess.Popen[bytes]]) -> None:
    for process in nodes.values():
        process.terminate()  # nothing, where it has ended
    for process in nodes.values():
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _spans_of(folder: Path) -> list[str]:
    logs = Path(LOGS_FOLDER)
    names = [logs / SPANS_FILE.replace(".jsonl", ".1.jsonl"), logs / SPANS_FILE]
    return [str(name) for name in names if (folder / name).exists()]


if __name__ == "__main__":
    sys.exit(main())
