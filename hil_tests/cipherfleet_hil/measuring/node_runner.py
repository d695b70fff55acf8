"""Run nodes on a target: `python -m cipherfleet_hil.measuring.node_runner FOLDER...`.

When all nodes have finished, it prints one JSON object: the state of the machine before and after,
and the files with each node's spans. It imports only packages of the base install.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from cipherfleet_hil.measurement.document import DocumentPart, States
from cipherfleet_hil.measurement.environment import read_environment
from cipherfleet_node.errors import CipherfleetError, one_line
from cipherfleet_node.runtime.telemetry import SPANS_FILE
from cipherfleet_node.settings.node_yaml import LOGS_FOLDER

LOG_FILE = "node.log"
LOOK_EVERY_S = 0.5
STOP_WITHIN_S = 10.0


class NodeRuns(DocumentPart, frozen=True):
    """The results of all nodes on one machine."""

    environment: States
    spans: dict[
        str, list[str]
    ]  # by node: files in the order of time, relative to the node's folder


class NodeFailed(CipherfleetError):
    """A node ended before its last round; the text quotes the last line of its log."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="cipherfleet_hil.measuring.node_runner", description=__doc__
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--own", type=int, required=True, metavar="PID", help="process id of the lease agent"
    )
    options = parser.parse_args()
    try:
        result = run(options.folders, options.own)
    except CipherfleetError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    return 0


def run(folders: Sequence[Path], own: int) -> NodeRuns:
    """Run the nodes of *folders* until all have finished. Raises NodeFailed."""
    before = read_environment([own])
    nodes = {folder: _start(folder) for folder in folders}
    try:
        while _is_any_running(nodes):
            time.sleep(LOOK_EVERY_S)
    finally:
        _stop(nodes)
    after = read_environment([own])
    return NodeRuns(
        environment=States(before=before, after=after),
        spans={folder.name: _span_files(folder) for folder in folders},
    )


def _start(folder: Path) -> subprocess.Popen[bytes]:
    log = folder / LOGS_FOLDER / LOG_FILE
    log.parent.mkdir(exist_ok=True)
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "cipherfleet_node", "run", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )


def _is_any_running(nodes: Mapping[Path, subprocess.Popen[bytes]]) -> bool:
    codes = {folder: process.poll() for folder, process in nodes.items()}
    for folder, code in codes.items():
        if code:
            lines = (folder / LOGS_FOLDER / LOG_FILE).read_text(errors="replace").splitlines()
            last_line = one_line(lines[-1])[:300] if lines else "nothing"
            raise NodeFailed(
                f"node {folder.name!r} ended with exit code {code}; last line of its log: "
                f"{last_line}"
            )
    return None in codes.values()


def _stop(nodes: Mapping[Path, subprocess.Popen[bytes]]) -> None:
    for process in nodes.values():
        process.terminate()  # no effect on a process that has ended
    for process in nodes.values():
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _span_files(folder: Path) -> list[str]:
    logs = Path(LOGS_FOLDER)
    names = [logs / SPANS_FILE.replace(".jsonl", ".1.jsonl"), logs / SPANS_FILE]
    return [str(name) for name in names if (folder / name).exists()]


if __name__ == "__main__":
    sys.exit(main())
