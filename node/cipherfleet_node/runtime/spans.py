"""The duration of each phase of a round, as JSON lines. Times are monotonic; no value is private.

A line is {"round": k, "phase": "decrypt", "at": seconds, "ms": duration, "cpu_ms": of this thread}.
The last line of a round has phase "round", the counts of the round, and `phases`: the time in ms
that the daemon's thread spent in each phase from the opening to the closing of the round. Each
moment counts for one phase only, the innermost. `cpu` has the CPU seconds of the process by part,
since its start (`cpu_account.py`).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 8 * 1024 * 1024
FLUSH_EVERY_S = 1.0  # an SD card is written at most this often
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


class Spans:
    """Collect spans and append them to a file, which is renamed when it grows too long."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lines: list[dict[str, Any]] = []
        self._encoder = msgspec.json.Encoder()
        self._flushed = self._charged_until = time.monotonic()
        self._open: list[str] = []  # the current phases, the innermost one last
        self._spent: dict[str, float] = {}  # seconds by phase since `restart`
        self._outside = "start"  # the part of CPU time outside all phases
        self._cpu_until = time.thread_time()
        self._cpu: dict[str, float] = {self._outside: self._cpu_until}  # CPU seconds by phase
        file.parent.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def span(self, phase: str, round_number: int) -> Iterator[None]:
        """Measure the enclosed block, and record it as a line."""
        self._enter(phase)
        began, cpu = self._charged_until, self._cpu_until
        try:
            yield
        finally:
            self._leave()
            cpu_ms = round(1000.0 * (self._cpu_until - cpu), 4)
            self.add(phase, round_number, began, self._charged_until, cpu_ms=cpu_ms)

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Count the time of the enclosed block as *phase*, except the phases within it."""
        self._enter(phase)
        try:
            yield
        finally:
            self._leave()

    def _enter(self, phase: str) -> None:
        self._charge(time.monotonic())
        self._open.append(phase)

    def _leave(self) -> None:
        self._charge(time.monotonic())
        self._open.pop()

    def add(self, phase: str, round_number: int, began: float, ended: float, **counts: Any) -> None:
        """Record that *phase* lasted from *began* to *ended*, in monotonic seconds."""
        line = {
            "round": round_number,
            "phase": phase,
            "at": round(began, 6),
            "ms": round(1000.0 * (ended - began), 4),
        }
        self._lines.append(line | counts)

    # -- the time of the daemon's thread ---------------------------------------------------------

    def restart(self, now: float) -> None:
        """Discard the time counted so far, which belongs to no round."""
        self._charge(now)
        self._spent = {}

    def move(self, phase: str, other: str, seconds: float) -> None:
        """Move *seconds* from *phase* to *other*."""
        if seconds > 0.0:
            self._spent[phase] = self._spent.get(phase, 0.0) - seconds
            self._spent[other] = self._spent.get(other, 0.0) + seconds

    def phases_ms(self, now: float) -> dict[str, float]:
        """Return the time in ms by phase since the last call or restart."""
        self._charge(now)
        spent, self._spent = self._spent, {}
        return {phase: round(1000.0 * seconds, 4) for phase, seconds in spent.items()}

    def begin_loop(self) -> None:
        """Count the CPU time outside all phases as `loop` from now on, no longer as `start`."""
        self._charge(time.monotonic())
        self._outside = "loop"

    def cpu_by_phase(self) -> dict[str, float]:
        """Return the CPU seconds of the daemon's thread by phase, since the process began."""
        self._charge(time.monotonic())
        return dict(self._cpu)

    def _charge(self, now: float) -> None:
        cpu, part = time.thread_time(), self._open[-1] if self._open else self._outside
        self._cpu[part] = self._cpu.get(part, 0.0) + cpu - self._cpu_until
        self._cpu_until = cpu
        if self._open:
            phase = self._open[-1]
            self._spent[phase] = self._spent.get(phase, 0.0) + now - self._charged_until
        self._charged_until = now

    # -- the file --------------------------------------------------------------------------------

    def flush(self, *, now: bool = False) -> None:
        """Write the collected lines, at most once per FLUSH_EVERY_S unless *now*."""
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


def resident_mib() -> float | None:
    """Return the resident memory of this process in MiB, or None if /proc does not have it."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return None
    return round(int(pages) * _PAGE_MIB, 2)
