"""A broker's process: in a folder and a session of its own, dead at the latest when we are."""

from __future__ import annotations

import shutil
import signal
import subprocess
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .die_with_parent import leashed
from .interrupts import defer_interrupts

STOP_TIMEOUT_S = 5.0  # both engines end within 0.1 s of SIGTERM; then SIGKILL
LOG_NAME = "broker.log"


class Process:
    """One command, started and ended any number of times; *folder* is its own and holds its log."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._command = leashed(command)
        self.folder = folder
        self._log = folder / LOG_NAME
        self._popen: subprocess.Popen[bytes] | None = None
        # Also where an interrupt keeps our owner from ever learning of us.
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        # The leash is tied to the thread that forks. This one lives as long as we do, so a caller's
        # short-lived worker thread may start a broker without taking it along when it ends.
        self._spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="broker-spawner")

    @property
    def pid(self) -> int | None:
        """The process id, None while it does not run."""
        return self._popen.pid if self._popen and self._popen.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        """How the last process ended (negative: by which signal), None while it runs."""
        return self._popen.poll() if self._popen else None

    def start(self) -> None:
        """Start the command; it has not proven anything yet when this returns."""
        with defer_interrupts():
            self._popen = self._spawner.submit(self._spawn).result()

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Send *how* if it runs, and wait until it is gone; SIGKILL follows where SIGTERM fails."""
        if self._popen is None:
            return
        self._popen.send_signal(how)  # sends nothing to a process that has ended
        try:
            self._popen.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send *number*, and do not wait for what comes of it."""
        if self._popen is not None:
            self._popen.send_signal(number)

    def close(self) -> None:
        """End the process and the thread that holds its leash, and remove the folder."""
        with defer_interrupts():
            self.end()
            self._spawner.shutdown()
            self._remove()

    def last_words(self) -> str:
        """The last line of the log, shortened: the reason, where a broker stopped by itself."""
        lines = self._log.read_text(errors="replace").split("\n") if self._log.exists() else []
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "nothing")

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            # A session of its own: Ctrl-C is for the operator's command, which stops nodes first.
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
