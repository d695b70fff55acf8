"""How long each phase of a round took, as JSON lines. One monotonic clock, no private value.

A line is {"round": k, "phase": "decrypt", "at": seconds, "ms": duration, "cpu_ms": of this thread};
the line that closes a round has phase "round" and its counts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 8 * 1024 * 1024
FLUSH_EVERY_S = 1.0  # an SD card is written at most this often


class Spans:
    """Collects spans and appends them to a file that is renamed away when it grows too long."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lines: list[dict[str, Any]] = []
        self._encoder = msgspec.json.Encoder()
        self._flushed = time.monotonic()
        file.parent.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def span(self, phase: str, round_number: int) -> Iterator[None]:
        """Take the time of the enclosed block."""
        began, cpu = time.monotonic(), time.thread_time()
        try:
            yield
        finally:
            cpu_ms = round(1000.0 * (time.thread_time() - cpu), 4)
            self.add(phase, round_number, began, time.monotonic(), cpu_ms=cpu_ms)

    def add(self, phase: str, round_number: int, began: float, ended: float, **counts: Any) -> None:
        """Note that *phase* lasted from *began* to *ended*, monotonic seconds."""
        line = {
            "round": round_number,
            "phase": phase,
            "at": round(began, 6),
            "ms": round(1000.0 * (ended - began), 4),
        }
        self._lines.append(line | counts)

    def flush(self, *, now: bool = False) -> None:
        """Write what was collected, at most every FLUSH_EVERY_S unless *now*."""
        if not self._lines or (not now and time.monotonic() - self._flushed < FLUSH_EVERY_S):
            return
        lines, self._lines = self._lines, []
        self._flushed = time.monotonic()
        try:
            self._append(self._encoder.encode_lines(lines))
        except OSError as error:  # a full disk must not stop the rounds
            log.warning("%s: %d spans are lost: %s", self._file, len(lines), error.strerror)

    def _append(self, data: bytes) -> None:
        if self._file.exists() and self._file.stat().st_size > MAX_FILE_BYTES:
            self._file.replace(self._file.with_suffix(".1.jsonl"))
        with self._file.open("ab") as stream:
            stream.write(data)
