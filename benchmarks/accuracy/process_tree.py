"""Processes that start others: the CPU time of all of them, and their end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ENDS_WITHIN_S = 10.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """One line of the kernel's list of processes."""

    pid: int
    parent: int
    cpu_ticks: int  # with those of children that have ended, once the process has waited for them
    started: int  # ticks since boot: with the pid, the identity of a process


def descendants(roots: Sequence[int]) -> list[Process]:
    """Return *roots* and all that descends from them, ended but not yet waited for included."""
    everything = _processes()
    by_parent: dict[int, list[Process]] = {}
    for each in everything:
        by_parent.setdefault(each.parent, []).append(each)
    found = [each for each in everything if each.pid in roots]
    for each in found:  # it grows: the children of children
        found += by_parent.get(each.pid, [])
    return found


def cpu_seconds(roots: Sequence[int]) -> float:
    """Return the CPU time of *roots* and of all that they started."""
    return sum(each.cpu_ticks for each in descendants(roots)) / TICKS_PER_S


def end_all(roots: Sequence[subprocess.Popen[bytes]]) -> None:
    """End *roots* by SIGTERM, and by SIGKILL what is left of their descendants."""
    tree = descendants([each.pid for each in roots])
    for each in roots:
        each.terminate()
    for each in roots:
        try:
            each.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            each.kill()
            each.wait()
    alive = {(each.pid, each.started) for each in _processes()}
    for process in tree:
        if (process.pid, process.started) in alive:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


def _processes() -> list[Process]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended since
            found.append(parse_stat((folder / "stat").read_text()))
    return found


def parse_stat(line: str) -> Process:
    """Return what a line of /proc/PID/stat says; see proc_pid_stat(5).

    The name of a process stands in brackets and may hold blanks and brackets.
    """
    before, _, after = line.rpartition(")")
    fields = after.split()  # fields[0] is the third field of the manual
    return Process(
        pid=int(before.split(" ", 1)[0]),
        parent=int(fields[1]),
        cpu_ticks=sum(map(int, fields[11:15])),
        started=int(fields[19]),
    )
