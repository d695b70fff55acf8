"""The load of a measured machine: CPU time, memory, and the CPU quota of its control group."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from cipherfleet_node.sensors.sysfs import folders, word

from .machine_files import MachineFiles

_TICKS = os.sysconf("SC_CLK_TCK")


class Cpu(msgspec.Struct, frozen=True, kw_only=True):
    """CPU time of all cores since boot, in seconds."""

    total_s: float
    busy_s: float
    steal_s: float  # taken by the hypervisor
    own_s: float  # by the measured processes and their children


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory in KiB, and pages swapped since boot."""

    total_kib: int
    available_kib: int
    swap_used_kib: int
    swapped_in: int
    swapped_out: int


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """The CPU quota of the control group."""

    cpus: float | None  # None: no limit
    periods_throttled: int
    throttled_s: float


def read_cpu_time(machine: MachineFiles, own: Sequence[int]) -> Cpu:
    ticks = [int(text) for text in word(machine.proc / "stat").split("\n", 1)[0].split()[1:9]]
    user, nice, system, idle, iowait, irq, softirq, steal = ticks
    busy = user + nice + system + irq + softirq
    return Cpu(
        total_s=(busy + idle + iowait + steal) / _TICKS,
        busy_s=busy / _TICKS,
        steal_s=steal / _TICKS,
        own_s=_own_ticks(machine, own) / _TICKS,
    )


def _own_ticks(machine: MachineFiles, roots: Sequence[int]) -> int:
    """Return the CPU ticks of the processes *roots* and of their children, ended ones included."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for pid, fields in _processes(machine):
        parents[pid], ticks[pid] = int(fields[1]), sum(map(int, fields[11:15]))
    return sum(ticks[pid] for pid in ticks if _descends(pid, parents, roots))


def _processes(machine: MachineFiles) -> Iterator[tuple[int, list[str]]]:
    for folder in folders(machine.proc, "").items():
        text = word(folder[1] / "stat")
        if text:  # the process may have ended; its name may hold spaces and brackets
            yield folder[0], text.rpartition(")")[2].split()


def _descends(pid: int, parents: Mapping[int, int], roots: Sequence[int]) -> bool:
    for _ in range(len(parents) + 1):
        if pid in roots:
            return True
        if pid not in parents:
            return False
        pid = parents[pid]
    return False


def read_memory(machine: MachineFiles) -> Memory:
    info = _counts(r"^(\w+): +(\d+) kB$", (machine.proc / "meminfo").read_text())
    pages = _counts(r"^(pswp\w+) (\d+)$", (machine.proc / "vmstat").read_text())
    return Memory(
        total_kib=info["MemTotal"],
        available_kib=info.get("MemAvailable", info["MemFree"]),
        swap_used_kib=info.get("SwapTotal", 0) - info.get("SwapFree", 0),
        swapped_in=pages.get("pswpin", 0),
        swapped_out=pages.get("pswpout", 0),
    )


def _counts(pattern: str, text: str) -> dict[str, int]:
    """Return the numbers in *text*, by the names that *pattern* finds before them."""
    return {name: int(number) for name, number in re.findall(pattern, text, re.M)}


def read_quota(machine: MachineFiles) -> Quota | None:
    """Return the tightest limit of this control group and its parents (cgroup versions 1 and 2)."""
    cpus: list[float] = []
    throttled, seconds, seen = 0, 0.0, False
    for folder in _groups(machine):
        found = _counts(r"^(\w+) (\d+)$", word(folder / "cpu.stat"))
        limit = _limit(folder)
        seen = seen or bool(found)
        cpus += [limit] if limit is not None else []
        throttled += found.get("nr_throttled", 0)
        seconds += found.get("throttled_usec", 0) / 1e6 + found.get("throttled_time", 0) / 1e9
    if not seen:
        return None
    return Quota(cpus=min(cpus, default=None), periods_throttled=throttled, throttled_s=seconds)


def _groups(machine: MachineFiles) -> Iterator[Path]:
    mount = machine.sys / "fs" / "cgroup"
    for line in word(machine.proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top = mount if (mount / "cgroup.controllers").exists() else mount / "unified"
        elif "cpu" in controllers.split(","):
            top = mount / "cpu"
        else:
            continue
        folder = top / path.lstrip("/")
        while folder != top:
            yield folder
            folder = folder.parent
        yield top


def _limit(folder: Path) -> float | None:
    """Return the limit in CPUs from cpu.max (`50000 100000`) or cpu.cfs_quota_us and period."""
    words = word(folder / "cpu.max").split() or [
        word(folder / "cpu.cfs_quota_us"), word(folder / "cpu.cfs_period_us")
    ]  # fmt: skip
    if len(words) == 2 and all(text.isdecimal() for text in words):  # "-1" and "max" mean no limit
        return int(words[0]) / int(words[1])
    return None
