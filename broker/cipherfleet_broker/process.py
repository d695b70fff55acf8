"""A broker's process: it has its own folder and session, and ends at the latest with its parent."""

from __future__ import annotations

import shutil
import signal
import subprocess
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .die_with_parent import die_with_parent
from .interrupts import defer_interrupts

STOP_TIMEOUT_S = 5.0  # both engines end within 0.1 s of SIGTERM; then SIGKILL
LOG_NAME = "broker.log"


class Process:
    """One command, which can be started and ended any number of times.

    The process owns *folder*: the log is written there, and `close` removes it.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._command = die_with_parent(command)
        self.folder = folder
        self._log = folder / LOG_NAME
        self._popen: subprocess.Popen[bytes] | None = None
        # Removes the folder also if an interrupt comes before the caller holds this object.
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        # The parent-death signal is sent when the thread that forked ends. This thread lives as
        # long as this object, so a short-lived thread may start a broker that outlives it.
        self._spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="broker-spawner")

    @property
    def pid(self) -> int | None:
        """The process id; None while the process does not run."""
        return self._popen.pid if self._popen and self._popen.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        """The exit code of the last process (negative: the signal that ended it), None if none."""
        return self._popen.poll() if self._popen else None

    def start(self) -> None:
        """Start the command; it may not be ready yet when this returns."""
        with defer_interrupts():
            self._popen = self._spawner.submit(self._spawn).result()

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Send *how* if the process runs, and wait until it has ended.

        SIGKILL follows if it has not ended after STOP_TIMEOUT_S.
        """
        if self._popen is None:
            return
        self._popen.send_signal(how)  # sends nothing to a process that has ended
        try:
            self._popen.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send the signal *number* without waiting for its effect."""
        if self._popen is not None:
            self._popen.send_signal(number)

    def close(self) -> None:
        """End the process and the thread that started it, and remove the folder."""
        with defer_interrupts():
            self.end()
            self._spawner.shutdown()
            self._remove()

    def last_log_line(self) -> str:
        """Return the last line of the log, at most 300 characters: why a broker has stopped."""
        lines = self._log.read_text(errors="replace").split("\n") if self._log.exists() else []
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "nothing")

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            # A new session: Ctrl-C must reach only the operator's command, which stops the nodes
            # before the broker.
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
