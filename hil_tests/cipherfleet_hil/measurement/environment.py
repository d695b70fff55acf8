"""The state of a measured machine: identity, clock, temperature, load.

The values are read from files of the kernel, and from vcgencmd on boards that have it. A value that
the machine does not report is None. Counters are meaningful only as differences of two readings.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import gmpy2
import msgspec

from cipherfleet_node import __version__
from cipherfleet_node.sensors.sysfs import folders, word

from .machine_files import MachineFiles
from .machine_load import Cpu, Memory, Quota, read_cpu_time, read_memory, read_quota

PACKAGES = ("cryptography", "msgspec", "numpy", "paho-mqtt", "phe")
_VIRTUAL_BOARD = re.compile(r"virt|qemu|kvm|xen|vmware|firecracker|dummy", re.I)


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """Frequencies of the processor, in Hz."""

    now: int  # of the fastest core
    least: int | None  # limits of the governor
    most: int | None


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


def read_environment(own: Iterable[int] = (), machine: MachineFiles | None = None) -> Environment:
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
        cpu_time=read_cpu_time(machine, tuple(own) or (os.getpid(),)),
        memory=read_memory(machine),
        quota=read_quota(machine),
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


class MachineSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A machine in four values, for results that are no measurement documents."""

    cpu: str
    architecture: str
    cores: int | None  # None if it is not known
    load_before: float  # average over one minute, before the measurement


def describe_machine() -> MachineSummary:
    """Describe this machine."""
    return MachineSummary(
        cpu=cpu_model(),
        architecture=platform.machine(),
        cores=os.cpu_count(),
        load_before=round(os.getloadavg()[0], 2),
    )


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
