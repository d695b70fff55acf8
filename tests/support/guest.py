"""A guest: a machine emulated by QEMU, which can lose its power at any moment.

A guest offers no way in. What happens there is read from its serial console, which shows its
journal, from what it sends to the outside, and from its disk while it is off.

QEMU always emulates the processor (TCG): /dev/kvm may exist on a machine and hang. A guest is
therefore about ten times slower than its host. It ends at the latest with the thread that switched
it on.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from cipherfleet_broker.die_with_parent import die_with_parent

from .guest_image import NoGuest
from .processor import AMD64, Processor

ACCELERATOR = "tcg,thread=multi"
_TIME = re.compile(r"^\[ *(\d+\.\d+)\]", re.MULTILINE)  # of the kernel and of journald
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")


@dataclass(frozen=True)
class Hardware:
    """What a guest consists of."""

    kernel: Path
    initrd: Path
    line: str  # the kernel's command line, without the console
    devices: Sequence[str] = ()  # further arguments of QEMU
    memory_mib: int = 1024
    processor: Processor = AMD64


class Guest:
    """A guest in *folder*, switched off at first. As a context manager it is off at the end."""

    def __init__(self, hardware: Hardware, folder: Path) -> None:
        self._hardware, self._folder = hardware, folder
        self.log = folder / "console.log"  # of all boots
        self._monitor = folder / "monitor"
        self._process: subprocess.Popen[bytes] | None = None
        self._boot_starts = 0  # where the log of the present boot begins
        self._on_since = 0.0
        self.cpu_s = 0.0  # of all boots that have ended

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cut_power()

    def switch_on(self) -> None:
        """Start the machine; the boot has only begun when this returns."""
        command = self._command()
        self._boot_starts = self.log.stat().st_size if self.log.exists() else 0
        self._monitor.unlink(missing_ok=True)
        with (self._folder / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(
                die_with_parent(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._on_since = time.monotonic()

    def cut_power(self) -> None:
        """Kill the machine. What the guest has not written to its disk is lost."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)  # Popen's own method would reap it
            self._reap()

    def switch_off(self, within_s: float) -> None:
        """Press the power button and wait until the guest has shut down."""
        assert self._process is not None
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self._monitor))
            monitor.sendall(f"{self._hardware.processor.power_button}\n".encode())
            deadline = time.monotonic() + within_s
            while not self._has_ended():
                assert time.monotonic() < deadline, f"the guest does not shut down\n{self.tail()}"
                time.sleep(0.2)
        self._reap()

    def await_end(self, within_s: float) -> None:
        """Wait until the guest has switched itself off."""
        self.wait(self._has_ended, "the guest ends", within_s, ends=True)
        self._reap()

    def wait(
        self, happened: Callable[[], bool], what: str, within_s: float, *, ends: bool = False
    ) -> None:
        """Wait until *happened*; fail with the end of the console after *within_s*."""
        deadline = time.monotonic() + within_s
        while not happened():
            if not ends:
                assert self.is_on, f"the guest has ended before {what}\n{self.tail()}"
            assert time.monotonic() < deadline, (
                f"{what}: not within {within_s:.0f} s\n{self.tail()}"
            )
            time.sleep(0.2)

    @property
    def is_on(self) -> bool:
        """Whether QEMU runs."""
        return self._process is not None and not self._has_ended()

    @property
    def console(self) -> str:
        """What the guest has printed since it was switched on, without colours."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as stream:
            stream.seek(self._boot_starts)
            return _COLOURS.sub("", stream.read().decode(errors="replace"))

    def tail(self) -> str:
        """Return the last lines of the console, for messages."""
        complaints = (self._folder / "qemu.log").read_text(errors="replace")
        return complaints + "\n".join(self.console.splitlines()[-30:])

    @property
    def on_for_s(self) -> float:
        """Seconds since the machine was switched on."""
        return time.monotonic() - self._on_since

    @property
    def guest_s(self) -> float:
        """The guest's own seconds since its boot, at its last line with a time."""
        return float(([*_TIME.findall(self.console)] or ["0"])[-1])

    @property
    def present_cpu_s(self) -> float:
        """Processor seconds of this boot so far."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks: int = os.sysconf("SC_CLK_TCK")
        return (int(fields[11]) + int(fields[12])) / ticks

    def _has_ended(self) -> bool:
        """Whether QEMU has ended, without reaping it: its processor time is still to be read."""
        assert self._process is not None
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        with suppress(ChildProcessError):
            return os.waitid(os.P_PID, self._process.pid, flags) is not None
        return True

    def _reap(self) -> None:
        assert self._process is not None
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        self.cpu_s += self.present_cpu_s
        self._process.wait()
        self._process = None

    def _command(self) -> list[str]:
        hardware, processor = self._hardware, self._hardware.processor
        name, *machine = processor.emulator
        program = shutil.which(name)
        if program is None:
            raise NoGuest(f"{name} is not installed: apt-get install {processor.package}")
        line = f"{hardware.line} {processor.options} console={processor.console} panic=-1 quiet"
        return [
            *(program, *machine, "-accel", ACCELERATOR),
            *("-smp", "2", "-m", str(hardware.memory_mib)),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-kernel", str(hardware.kernel), "-initrd", str(hardware.initrd), "-append", line),
            *("-chardev", f"file,id=console,path={self.log},append=on"),
            *("-serial", "chardev:console"),
            *("-monitor", f"unix:{self._monitor},server=on,wait=off"),
            *processor.devices,
            *hardware.devices,
        ]
