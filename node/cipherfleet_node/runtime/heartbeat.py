"""The heartbeat: a small file with the time at which the daemon was last alive, for health checks.

The spans and the state change only with a round, and an endless fleet may have one round per hour.
Times are those of the monotonic clock, which all processes share, so setting the clock does not
change the age of a heartbeat.
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
BEAT_EVERY_S = 15.0  # a shorter interval would wear out SD cards
STALE_S = 60.0  # four intervals: a slow board misses one or two during a long computation


@dataclass(frozen=True)
class Beat:
    """One heartbeat. Times are monotonic seconds."""

    at: float
    round: int
    closed: float  # the time at which the latest round was closed, or the daemon started
    patience_s: float  # the longest duration of a healthy round
    unanswered_s: int = 0  # without an answer, although neighbours speak


class Heartbeat:
    """Write the heartbeat file, at most once per BEAT_EVERY_S."""

    def __init__(self, folder: Path, patience_s: float) -> None:
        self._file, self._patience_s = folder / LOGS_FOLDER / HEARTBEAT_FILE, patience_s
        self._next = 0.0

    def beat(self, now: float, round_number: int, closed: float, unanswered_s: int = 0) -> None:
        """Record that the daemon is alive at *now*; a failed write is only logged."""
        if now < self._next:
            return
        self._next = now + BEAT_EVERY_S
        beat = Beat(now, round_number, closed, self._patience_s, unanswered_s)
        fresh = self._file.with_suffix(".fresh")
        try:
            self._file.parent.mkdir(exist_ok=True)
            fresh.write_text(json.dumps(asdict(beat)) + "\n")
            fresh.replace(self._file)
        except OSError as error:
            log.warning("%s: cannot be written: %s", self._file, error.strerror)

    def stop(self) -> None:
        """Remove the file, since the daemon ends as intended."""
        with suppress(OSError):  # on a disk that has become read-only the file grows stale
            self._file.unlink()


def read_beat(folder: Path) -> Beat | None:
    """Return the latest heartbeat of the node in *folder*, or None if none can be read."""
    try:
        return Beat(**json.loads((folder / LOGS_FOLDER / HEARTBEAT_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def complaint(beat: Beat | None, now: float) -> str:
    """Return the problem of the daemon that wrote *beat*, at time *now*; empty if there is none."""
    if beat is None:
        return "no daemon runs from this folder"
    if not 0 <= now - beat.at <= STALE_S:
        return f"the daemon has given no sign of life for over {STALE_S:g} s, or was killed"
    if now - beat.closed > beat.patience_s:
        return f"no round was closed for {now - beat.closed:.0f} s, round {beat.round} is open"
    if beat.unanswered_s:
        return f"no neighbour has answered for {beat.unanswered_s} s, although neighbours speak"
    return ""
