"""What the nodes of a running fleet have written, read from their folders; whether all stand still.

It does not matter here what the nodes run in: processes, containers.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Protocol

from cipherfleet_node.errors import CipherfleetError
from cipherfleet_node.runtime.daemon import ESTIMATES_FILE, SPANS_FILE
from cipherfleet_node.settings.node_yaml import LOGS_FOLDER

from .json_lines import JsonLinesReader

LOG_FILE = "node.log"


class FleetFailed(CipherfleetError):
    """A fleet that cannot go on; names the node and its last words."""


@dataclass
class NodeRecord:
    """One node's folder, and what it has written so far."""

    id: str
    folder: Path
    _: KW_ONLY
    restarts: int = 0
    estimates: dict[int, list[float]] = field(default_factory=dict)  # round -> x_{k+1}
    rounds: list[dict[str, float]] = field(default_factory=list)  # the spans that close rounds
    finished: bool = False

    def __post_init__(self) -> None:
        logs = self.folder / LOGS_FOLDER
        self._estimates, self._spans = (
            JsonLinesReader(logs / ESTIMATES_FILE),
            JsonLinesReader(logs / SPANS_FILE),
        )

    @property
    def log(self) -> Path:
        """What the daemon says of itself."""
        return self.folder / LOGS_FOLDER / LOG_FILE

    def read(self) -> None:
        """Take in what the daemon has written since the last call."""
        for line in self._estimates.read():
            self.estimates[int(line["round"])] = line["estimate"]
        self.rounds += [line for line in self._spans.read() if line.get("phase") == "round"]

    @property
    def round(self) -> int:
        """Rounds closed so far: one above the number of the latest."""
        return max(self.estimates, default=-1) + 1

    def last_words(self) -> str:
        """The last line of the log."""
        lines = (
            self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        )
        return lines[-1] if lines else "nothing"


class Recorded(Protocol):
    """A fleet whose nodes' records can be read."""

    @property
    def nodes(self) -> Mapping[str, NodeRecord]:
        """The records, by node id."""


class Standstill:
    """Notices that nothing moves any more: *after_s* seconds without any round closed anywhere."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._progress: tuple[float, int] = (time.monotonic(), -1)

    def check(self, nodes: Collection[NodeRecord]) -> None:
        """Raise FleetFailed, with the last words of the slowest node, if it is too long ago."""
        closed, now = sum(node.round for node in nodes), time.monotonic()
        if closed != self._progress[1]:
            self._progress = (now, closed)
        elif now - self._progress[0] > self._after_s:
            slowest = min(nodes, key=lambda node: node.round)
            raise FleetFailed(
                f"no round was closed for {self._after_s:g} s; {slowest.id!r} is at round "
                f"{slowest.round}, its last words: {slowest.last_words()}"
            )
