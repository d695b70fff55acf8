"""The state of a measured machine: identity, clock, temperature, load.

The values are read from files of the kernel, and from vcgencmd on boards that have it. A value that
the machine does not report is None. Counters are meaningful only as differences of two readings.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import gmpy2
import msgspec

from cipherfleet_node import __version__
from cipherfleet_node.sensors.sysfs import folders, word

PACKAGES = ("cryptography", "msgspec", "numpy", "paho-mqtt", "phe")
_TIMEOUT_S = 3.0
_TICKS = os.sysconf("SC_CLK_TCK")
_VIRTUAL_BOARD = re.compile(r"virt|qemu|kvm|xen|vmware|firecracker|dummy", re.I)


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """Frequencies of the processor, in Hz."""

    now: int  # of the fastest core
    least: int | None  # limits of the governor
    most: int | None


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


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a machine at one moment."""

    taken_at: str  # UTC, ISO 8601
    uptime_s: float
    board: str | None  # name in the firmware
    is_board: bool  # named in a device tree: a single-board computer, not a PC or virtual machine
    cpu: str
    architecture: str
    cores: int
    virtual: bool
    kernel: str
    governor: str | None
    clock: Clock | None
    firmware_clock_hz: int | None
    throttled: int | None  # the bits of vcgencmd get_throttled
    throttle_events: int | None  # counted by the processor's own driver
    under_voltage: bool | None  # the alarm of the board's supply monitor
    core_volts: float | None
    temperature_c: float | None
    load_1min: float
    cpu_time: Cpu
    memory: Memory
    quota: Quota | None
    clock_source: str | None
    versions: dict[str, str]
    revision: str | None  # git revision of the running checkout


def run_tool(words: Sequence[str]) -> str:
    """Return the output of a program; '' if it does not exist or fails."""
    program = shutil.which(words[0])
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, *words[1:]], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@dataclass(frozen=True)
class MachineFiles:
    """Access to a machine: the root of its file system, and a function that runs a program."""

    root: Path = Path("/")
    tool: Callable[[Sequence[str]], str] = run_tool

    @property
    def proc(self) -> Path:
        return self.root / "proc"

    @property
    def sys(self) -> Path:
        return self.root / "sys"


def environment(own: Iterable[int] = (), machine: MachineFiles | None = None) -> Environment:
    """Read the state of *machine* (default: this machine).

    CPU time of the processes *own* (default: this process) and of their children counts as the
    measurement's own; all other CPU time is other load.
    """
    machine = machine or MachineFiles()
    cpuinfo = _cpuinfo(machine)
    board, is_board = _board(machine)
    return Environment(
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        uptime_s=float(word(machine.proc / "uptime").split()[0]),
        board=board,
        is_board=is_board,
        cpu=cpu_model(machine),
        architecture=platform.machine(),
        cores=os.cpu_count() or 1,
        virtual="hypervisor" in cpuinfo.get("flags", "").split() or _is_virtual_board(board),
        kernel=word(machine.proc / "sys" / "kernel" / "osrelease"),
        governor=_governor(machine),
        clock=_clock(machine),
        firmware_clock_hz=firmware_clock(machine.tool(["vcgencmd", "measure_clock", "arm"])),
        throttled=throttled_bits(machine.tool(["vcgencmd", "get_throttled"])),
        throttle_events=_throttle_events(machine),
        under_voltage=_under_voltage(machine),
        core_volts=core_volts(machine.tool(["vcgencmd", "measure_volts", "core"])),
        temperature_c=_temperature(machine),
        load_1min=float(word(machine.proc / "loadavg").split()[0]),
        cpu_time=_cpu_time(machine, tuple(own) or (os.getpid(),)),
        memory=_memory(machine),
        quota=_quota(machine),
        clock_source=word(
            machine.sys / "devices/system/clocksource/clocksource0/current_clocksource"
        )
        or None,
        versions=versions(),
        revision=_revision(machine),
    )


# -- identity ------------------------------------------------------------------------------------


def _board(machine: MachineFiles) -> tuple[str | None, bool]:
    tree = word(machine.proc / "device-tree" / "model").rstrip("\0")
    if tree:
        return tree, not _is_virtual_board(tree)
    dmi = machine.sys / "devices" / "virtual" / "dmi" / "id"
    words = [word(dmi / name) for name in ("sys_vendor", "product_name")]
    return " ".join(filter(None, words)) or None, False


def cpu_model(machine: MachineFiles | None = None) -> str:
    """Return the name of the processor, or on boards the name of the board."""
    cpuinfo = _cpuinfo(machine or MachineFiles())
    return cpuinfo.get("model name") or cpuinfo.get("Model") or platform.processor() or "unknown"


def _is_virtual_board(board: str | None) -> bool:
    return bool(_VIRTUAL_BOARD.search(board or ""))


def _cpuinfo(machine: MachineFiles) -> dict[str, str]:
    try:
        lines = (machine.proc / "cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":")[::2] for line in lines)
    return {key.strip(): value.strip() for key, value in pairs}


def versions() -> dict[str, str]:
    """Return versions of cipherfleet, Python, gmpy2, GMP, OpenSSL and the installed PACKAGES."""
    found = {
        "cipherfleet": __version__,
        "python": platform.python_version(),
        "gmpy2": gmpy2.version(),
        "gmp": gmpy2.mp_version().removeprefix("GMP "),
        "openssl": ssl.OPENSSL_VERSION,
    }
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _revision(machine: MachineFiles) -> str | None:
    here = Path(__file__).resolve()
    for folder in here.parents:
        if (folder / ".git").exists() and (folder / "pyproject.toml").exists():
            found = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
            return machine.tool(found) or None
    return None


# -- clock and temperature -----------------------------------------------------------------------


def firmware_clock(printed: str) -> int | None:
    """Parse the output `frequency(48)=1500345728` and return Hz."""
    return _number(r"frequency\(\d+\)=(\d+)", printed)


def throttled_bits(printed: str) -> int | None:
    """Parse `throttled=0x50005`; return the bits."""
    found = re.fullmatch(r"throttled=0x([0-9a-fA-F]+)", printed.strip())
    return int(found[1], 16) if found else None


def core_volts(printed: str) -> float | None:
    """Parse the output `volt=0.8600V` and return volts."""
    found = re.fullmatch(r"volt=([0-9.]+)V", printed.strip())
    return float(found[1]) if found else None


def firmware_temperature(printed: str) -> float | None:
    """Parse `temp=48.3'C`; return degrees Celsius."""
    found = re.fullmatch(r"temp=([0-9.]+)'C", printed.strip())
    return float(found[1]) if found else None


def clock_now(machine: MachineFiles | None = None) -> int | None:
    """Return the processor's present clock in Hz, from the firmware or else from the kernel."""
    machine = machine or MachineFiles()
    found = firmware_clock(machine.tool(["vcgencmd", "measure_clock", "arm"]))
    if found is not None:
        return found
    clock = _clock(machine)
    return clock.now if clock else None


def _number(pattern: str, printed: str) -> int | None:
    match = re.fullmatch(pattern, printed.strip())
    return int(match[1]) if match else None


def _cores(machine: MachineFiles) -> list[Path]:
    return list(folders(machine.sys / "devices" / "system" / "cpu", "cpu").values())


def _each_core(machine: MachineFiles, name: str) -> list[str]:
    words = (word(core / name) for core in _cores(machine))
    return [text for text in words if text]


def _numbers(machine: MachineFiles, name: str) -> list[int]:
    return [int(text) for text in _each_core(machine, name) if text.isdecimal()]


def _governor(machine: MachineFiles) -> str | None:
    return ", ".join(sorted(set(_each_core(machine, "cpufreq/scaling_governor")))) or None


def _clock(machine: MachineFiles) -> Clock | None:
    now, least, most = (
        [1000 * khz for khz in _numbers(machine, f"cpufreq/scaling_{name}_freq")]
        for name in ("cur", "min", "max")
    )
    if not now:
        return None
    return Clock(now=max(now), least=min(least, default=None), most=max(most, default=None))


def _throttle_events(machine: MachineFiles) -> int | None:
    counts = _numbers(machine, "thermal_throttle/core_throttle_count")
    return sum(counts) if counts else None


def _under_voltage(machine: MachineFiles) -> bool | None:
    for folder in folders(machine.sys / "class" / "hwmon", "hwmon").values():
        if word(folder / "name") == "rpi_volt":
            return word(folder / "in0_lcrit_alarm") == "1"
    return None


def _temperature(machine: MachineFiles) -> float | None:
    found = firmware_temperature(machine.tool(["vcgencmd", "measure_temp"]))
    if found is not None:
        return found
    zones = folders(machine.sys / "class" / "thermal", "thermal_zone").values()
    degrees = [int(text) for text in (word(zone / "temp") for zone in zones) if text.isdecimal()]
    return max(degrees) / 1000 if degrees else None


# -- load ----------------------------------------------------------------------------------------


def _cpu_time(machine: MachineFiles, own: Sequence[int]) -> Cpu:
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


def _memory(machine: MachineFiles) -> Memory:
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


# -- CPU quota -----------------------------------------------------------------------------------


def _quota(machine: MachineFiles) -> Quota | None:
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
