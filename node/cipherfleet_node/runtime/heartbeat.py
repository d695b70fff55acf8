"""The heartbeat: a small file that says when the daemon last moved, for a container's health check.

Spans and state change only when rounds do, and an endless fleet may have an hour between two. Times
are those of the monotonic clock, which all processes share: setting the clock ages nothing.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from cipherfleet_node.settings.node_yaml import LOGS_FOLDER

log = logging.getLogger(__name__)

HEARTBEAT_FILE = "heartbeat.json"
BEAT_EVERY_S = 15.0  # an SD card is written that often
STALE_S = 60.0  # four beats: a slow board in a long computation misses one or two


@dataclass(frozen=True)
class Beat:
    """The daemon at one moment; monotonic seconds."""

    at: float
    round: int
    closed: float  # when the latest round was closed, or the start
    patience_s: float  # the longest that a round may take


class Heartbeat:
    """Writes the file at most every BEAT_EVERY_S."""

    def __init__(self, folder: Path, patience_s: float) -> None:
        self._file, self._patience_s = folder / LOGS_FOLDER / HEARTBEAT_FILE, patience_s
        self._next = 0.0

    def beat(self, now: float, round_number: int, closed: float) -> None:
        """Say that the daemon moves; a disk that takes nothing must not stop it."""
        if now < self._next:
            return
        self._next = now + BEAT_EVERY_S
        beat = Beat(now, round_number, closed, self._patience_s)
        fresh = self._file.with_suffix(".fresh")
        try:
            self._file.parent.mkdir(exist_ok=True)
            fresh.write_text(json.dumps(asdict(beat)) + "\n")
            fresh.replace(self._file)
        except OSError as error:
            log.warning("%s: cannot be written: %s", self._file, error.strerror)

    def stop(self) -> None:
        """The daemon ends in order: nothing is left that looks alive."""
        with suppress(OSError):  # on a disk that is read-only by now it grows stale
            self._file.unlink()


def read_beat(folder: Path) -> Beat | None:
    """The latest heartbeat of the node in *folder*; None if there is none, or none to be read."""
    try:
        return Beat(**json.loads((folder / LOGS_FOLDER / HEARTBEAT_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def complaint(beat: Beat | None, now: float) -> str:
    """What is wrong with the daemon that wrote *beat*, seen at *now*; empty if it fares well."""
    if beat is None:
        return "no daemon runs from this folder"
    if not 0 <= now - beat.at <= STALE_S:
        return f"the daemon has not moved for more than {STALE_S:g} s, or was killed"
    if now - beat.closed > beat.patience_s:
        return f"no round was closed for {now - beat.closed:.0f} s, round {beat.round} is open"
    return ""
