"""Records that the nodes of a running fleet write, and detection of a stalled fleet.

Nodes write estimates and spans into their folders. The nodes may run in processes or in containers.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Protocol

from cipherfleet_node.errors import CipherfleetError
from cipherfleet_node.runtime.telemetry import ESTIMATES_FILE, SPANS_FILE
from cipherfleet_node.settings.node_yaml import LOGS_FOLDER

from .json_lines import JsonLinesReader

LOG_FILE = "node.log"


class FleetFailed(CipherfleetError):
    """A fleet cannot continue. The text names the node and its last log line."""


@dataclass
class NodeRecord:
    """The folder of one node, and the records that it has written so far."""

    id: str
    folder: Path
    _: KW_ONLY
    restarts: int = 0
    # The solution after each round: the estimate x_{k+1}, or with method statistics what follows
    # from it. Empty if none follows yet.
    estimates: dict[int, list[float]] = field(default_factory=dict)
    rounds: list[dict[str, float]] = field(default_factory=list)  # one span for each closed round
    finished: bool = False

    def __post_init__(self) -> None:
        logs = self.folder / LOGS_FOLDER
        self._estimates, self._spans = (
            JsonLinesReader(logs / ESTIMATES_FILE),
            JsonLinesReader(logs / SPANS_FILE),
        )

    @property
    def log(self) -> Path:
        """The log file of the daemon."""
        return self.folder / LOGS_FOLDER / LOG_FILE

    def read(self) -> None:
        """Read the records that the daemon has written since the last call."""
        for line in self._estimates.read():
            self.estimates[int(line["round"])] = line["estimate"] or []
        self.rounds += [line for line in self._spans.read() if line.get("phase") == "round"]

    @property
    def round(self) -> int:
        """The number of rounds closed so far: one above the number of the latest round."""
        return max(self.estimates, default=-1) + 1

    def last_log_line(self) -> str:
        """Return the last line of the log, or "nothing" if the log is empty."""
        lines = (
            self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        )
        return lines[-1] if lines else "nothing"


class Recorded(Protocol):
    """A fleet whose nodes' records can be read."""

    @property
    def nodes(self) -> Mapping[str, NodeRecord]:
        """The records, by node id."""


class StallDetector:
    """Detects a stalled fleet: no node has closed a round for *after_s* seconds."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._progress: tuple[float, int] = (time.monotonic(), -1)

    def check(self, nodes: Collection[NodeRecord]) -> None:
        """Raise FleetFailed if the fleet has stalled, with the log of its slowest node."""
        closed, now = sum(node.round for node in nodes), time.monotonic()
        if closed != self._progress[1]:
            self._progress = (now, closed)
        elif now - self._progress[0] > self._after_s:
            slowest = min(nodes, key=lambda node: node.round)
            raise FleetFailed(
                f"no round was closed for {self._after_s:g} s; node {slowest.id!r} is at round "
                f"{slowest.round}, its last log line: {slowest.last_log_line()}"
            )
