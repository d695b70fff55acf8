"""Daemons that the launcher process forks, with the methods of `subprocess.Popen` that we use."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import msgspec

from cipherfleet_broker.die_with_parent import die_with_parent
from cipherfleet_broker.interrupts import defer_interrupts

from .record import FleetFailed

LAUNCHER = (sys.executable, "-P", "-m", "cipherfleet_deploy.local.node_launcher")
POLL_EVERY_S = 0.01
REPLY_WITHIN_S = 60.0  # the first reply waits for the launcher's imports, about a second
MAX_REQUEST_BYTES = 16 * 1024


class StartDaemon(msgspec.Struct, tag=True):
    """Start the daemon of *folder*; its output is appended to *log*."""

    folder: str
    log: str


class Poll(msgspec.Struct, tag=True):
    """Report whether the process *pid* has ended."""

    pid: int


class LauncherReply(msgspec.Struct):
    """The process id of a start; for `Poll` the exit code, or None while the process runs."""

    value: int | None


class DaemonProcess(Protocol):
    """A running or ended daemon; `subprocess.Popen` is one."""

    pid: int

    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int, /) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class Launcher:
    """The launcher process; as a context manager it ends it, and with it all of its daemons.

    It imports the node while the caller goes on. The kernel ends it with the calling thread.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with defer_interrupts(), theirs:
            self._control = ours
            self._control.settimeout(REPLY_WITHIN_S)
            self._process = subprocess.Popen(
                die_with_parent([*LAUNCHER, str(theirs.fileno())]),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                # One thread: a child of a process with several threads may deadlock.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._control.close()
        self._process.kill()
        self._process.wait()

    def start(self, folder: Path, log: Path) -> LaunchedProcess:
        """Start the daemon of *folder*, whose output is appended to *log*.

        Raises FleetFailed if the launcher has ended.
        """
        pid = self.request(StartDaemon(str(folder), str(log)))
        if pid is None:
            raise FleetFailed("the process that starts the nodes has ended")
        return LaunchedProcess(pid, self)

    def exit_code(self, pid: int) -> int | None:
        """Return the exit code of a daemon, None while it runs."""
        code = self.request(Poll(pid))
        if code is None and self._process.poll() is not None:
            return -signal.SIGKILL  # the kernel has ended it with the launcher
        return code

    def request(self, request: StartDaemon | Poll) -> int | None:
        """Send *request* and return the launcher's reply; None if the launcher has ended.

        An interrupt takes effect after the reply: the next request would otherwise read it as its
        own. A launcher that does not reply within REPLY_WITHIN_S is ended, and with it its daemons.
        """
        with defer_interrupts():
            try:
                self._control.send(msgspec.json.encode(request))
                data = self._control.recv(MAX_REQUEST_BYTES)
            except (ConnectionError, TimeoutError):
                data = b""
        if not data:
            self._process.kill()
            self._process.wait()
            return None
        return msgspec.json.decode(data, type=LauncherReply).value


@dataclass
class LaunchedProcess:
    """A daemon that *launcher* has forked. Its id is not reused before `poll` has seen its end."""

    pid: int
    launcher: Launcher
    returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, None while the daemon runs."""
        if self.returncode is None:
            self.returncode = self.launcher.exit_code(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code; raises subprocess.TimeoutExpired after *timeout* seconds."""
        began = time.monotonic()
        while (code := self.poll()) is None:
            if timeout is not None and time.monotonic() - began >= timeout:
                raise subprocess.TimeoutExpired(f"node {self.pid}", timeout)
            time.sleep(POLL_EVERY_S)
        return code

    def send_signal(self, sig: int) -> None:
        """Send the signal *sig* unless the daemon has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
