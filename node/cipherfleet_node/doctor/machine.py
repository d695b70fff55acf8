"""Checks of any machine: clock, random numbers, arithmetic, memory, disk and temperature."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import gmpy2

from cipherfleet_node.findings import Finding
from cipherfleet_node.sensors.clock import is_synchronised
from cipherfleet_node.sensors.sysfs import SYS, folders, word

MIB = 1024 * 1024
PLAUSIBLE_YEARS = range(2026, 2100)
LITTLE_MEMORY = 64 * MIB
LITTLE_DISK, NO_DISK = 200 * MIB, 8 * MIB
SLOW_SYNC_MS = 200.0
HOT_MILLIDEGREES = 80_000  # boards reduce their clock rate from about this temperature on
# With GMP's assembly gmpy2 is 17 to 20 times as fast as Python (x86-64). GMP's portable C is
# estimated to be about four times slower than its assembly.
LEAST_GAIN = 6.0
# Bits of vcgencmd get_throttled. The bits 16 positions higher mean the same since the boot.
THROTTLED = {0: "under-voltage", 1: "a capped clock", 2: "throttling", 3: "the soft heat limit"}


def check_clock(now: datetime) -> Iterator[Finding]:
    """Check the year, and that the kernel's clock is synchronised."""
    wording = f"{now:%Y-%m-%d %H:%M} UTC"
    if now.year not in PLAUSIBLE_YEARS:
        text = f"shows {wording}, which is not plausible"
        yield Finding("fail", "clock", text, "set it: timedatectl set-ntp true")
        return
    state = is_synchronised()
    if state is False:
        text = f"{wording}, but the kernel reports it as not synchronised"
        yield Finding("warn", "clock", text, "timedatectl set-ntp true, or run chrony")
    elif state is None:
        text = f"{wording}; the kernel does not report if it is synchronised"
        yield Finding("skip", "clock", text)
    else:
        yield Finding("ok", "clock", f"{wording}, synchronised")


def check_randomness() -> Iterator[Finding]:
    """Check that the kernel's random numbers are ready; keys and obfuscators need them."""
    try:
        os.getrandom(32, os.GRND_NONBLOCK)
    except BlockingIOError:
        yield Finding(
            "fail", "randomness",
            "the kernel's random numbers are not ready, and keys wait for them",
            "wait, or install a source of randomness: rng-tools with /dev/hwrng",
        )  # fmt: skip
    else:
        yield Finding("ok", "randomness", "the kernel's random numbers are ready")


def check_arithmetic(powmod: Callable[[int, int, int], object] = gmpy2.powmod) -> Iterator[Finding]:
    """Check that gmpy2 is correct and fast, by comparison with Python's own 2048-bit powers."""
    library = f"gmpy2 {gmpy2.version()}, {gmpy2.mp_version()}"
    base, power, modulus = (_number(label) for label in ("base", "power", "modulus"))
    again = "reinstall gmpy2: pip install --force-reinstall gmpy2"
    began = time.perf_counter()
    expected = pow(base, power, modulus)
    python_s = time.perf_counter() - began
    if powmod(base, power, modulus) != expected:
        yield Finding("fail", "arithmetic", f"{library}: the result of a power is wrong", again)
        return
    library_s = min(_seconds(lambda: powmod(base, power, modulus)) for _ in range(3))
    gain = python_s / library_s
    text = f"{library}: correct; a 2048-bit power takes {1000.0 * library_s:.1f} ms"
    if gain < LEAST_GAIN:
        text += f", only {gain:.0f} times as fast as Python: probably GMP without assembly"
        yield Finding("warn", "arithmetic", text, f"{again}, or build GMP for this processor")
    else:
        yield Finding("ok", "arithmetic", text)


def _number(label: str) -> int:
    """Return an odd number of 2048 pseudo-random bits."""
    return int.from_bytes(hashlib.shake_256(label.encode()).digest(256), "big") | 1 << 2047 | 1


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def check_memory(meminfo: Path = Path("/proc/meminfo")) -> Iterator[Finding]:
    """Check the available memory, and report the swap."""
    found = dict(re.findall(r"^(\w+): +([0-9]+) kB$", meminfo.read_text(), re.M))
    if "MemAvailable" not in found:
        yield Finding("skip", "memory", f"{meminfo} does not have MemAvailable")
        return
    available, swap = (1024 * int(found.get(name, 0)) for name in ("MemAvailable", "SwapTotal"))
    text = f"{available // MIB} MiB available, {swap // MIB} MiB of swap"
    if available < LITTLE_MEMORY:
        yield Finding(
            "warn", "memory", f"{text}; a node needs {LITTLE_MEMORY // MIB} MiB",
            "stop other programs, or lower crypto.table_kib and crypto.pool",
        )  # fmt: skip
    else:
        yield Finding("ok", "memory", text)


def check_disk(folder: Path) -> Iterator[Finding]:
    """Check the free space in *folder* and the duration of a durable write; leaves no file."""
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if found.f_flag & os.ST_RDONLY:
        remedy = "mount it for writing; after errors on the card, replace it (see dmesg)"
        yield Finding("fail", "disk", f"{folder}: its file system is read-only", remedy)
        return
    try:
        sync_ms = statistics.median(_synced_write_ms(folder) for _ in range(3))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free disk space" if full else "give the folder to the user that runs the node"
        yield Finding("fail", "disk", f"{folder}: cannot be written: {error.strerror}", remedy)
        return
    text = f"{folder}: {free // MIB} MiB free, a durable write takes {sync_ms:.1f} ms"
    if free < NO_DISK:
        yield Finding("fail", "disk", text, "free disk space")
    elif sync_ms > SLOW_SYNC_MS:
        yield Finding("warn", "disk", f"{text}, once per round", "use a faster or newer card")
    elif free < LITTLE_DISK:
        yield Finding("warn", "disk", text, f"free disk space, up to {LITTLE_DISK // MIB} MiB")
    else:
        yield Finding("ok", "disk", text)


def _synced_write_ms(folder: Path) -> float:
    with tempfile.TemporaryFile(dir=folder) as stream:  # without a name, if the system supports it
        stream.write(bytes(4096))
        stream.flush()
        return 1000.0 * _seconds(lambda: os.fsync(stream.fileno()))


def check_heat(sysfs: Path = SYS) -> Iterator[Finding]:
    """Check temperature and throttling. No value is shown: a zone may be the node's sensor."""
    zones = folders(sysfs / "class" / "thermal", "thermal_zone").values()
    degrees = [int(text) for text in (word(zone / "temp") for zone in zones) if text.isdecimal()]
    if not degrees:
        yield Finding("skip", "heat", f"{sysfs}/class/thermal has no zone")
    elif max(degrees) >= HOT_MILLIDEGREES:
        text = f"a thermal zone is at {HOT_MILLIDEGREES // 1000} °C or above"
        yield Finding("warn", "heat", text, "cool the board: it may compute more slowly now")
    else:
        text = f"{len(degrees)} zones, all below {HOT_MILLIDEGREES // 1000} °C"
        yield Finding("ok", "heat", text)
    yield _processor(sysfs)
    yield from _check_throttling()


def _processor(sysfs: Path) -> Finding:
    place = sysfs / "devices" / "system" / "cpu" / "cpu0" / "cpufreq"
    now, most, governor = (
        word(place / name) for name in ("scaling_cur_freq", "cpuinfo_max_freq", "scaling_governor")
    )
    if not (now.isdecimal() and most.isdecimal()):
        return Finding("skip", "processor", "the kernel reports no clock rate (no cpufreq)")
    text = f"{int(now) // 1000} of {int(most) // 1000} MHz, governor {governor or 'unknown'}"
    if governor == "powersave":
        return Finding("warn", "processor", text, "use the governor ondemand or schedutil")
    return Finding("ok", "processor", text)


def _check_throttling() -> Iterator[Finding]:
    program = shutil.which("vcgencmd")
    if program is None:
        yield Finding("skip", "power", "no vcgencmd here: not a Raspberry Pi, or not installed")
        return
    try:
        printed = subprocess.run(
            [program, "get_throttled"], capture_output=True, text=True, timeout=3, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        printed = ""
    found = re.fullmatch(r"throttled=0x([0-9a-fA-F]+)\s*", printed)
    if found is None:
        text = "vcgencmd reports nothing to this user"
        yield Finding("skip", "power", text, "add the user to the group video")
        return
    bits = int(found[1], 16)
    now, since = (
        ", ".join(name for bit, name in THROTTLED.items() if bits >> (bit + shift) & 1)
        for shift in (0, 16)
    )
    if now or since:
        text = f"{now} now" if now else f"{since} since the machine's start"
        remedy = "use a stronger power supply, a shorter cable, or cooling"
        yield Finding("warn", "power", text, remedy)
    else:
        yield Finding("ok", "power", "no under-voltage and no throttling since the start")
