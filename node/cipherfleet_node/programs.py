"""Programs of the owner's that a node runs: a sensor, or an output of the answer.

Each runs in a process group of its own, so that it is killed together with what it has started.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

KILL_S = 1.0  # for the kernel to end a killed program

# These variables are removed: with them a program could send messages to the service manager in
# the node's name, or find the node's keys.
_PRIVATE_VARIABLES = (
    "CREDENTIALS_DIRECTORY",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)


def program_environment() -> dict[str, str]:
    """Return the environment of a program: that of the node without its private variables."""
    return {k: v for k, v in os.environ.items() if k not in _PRIVATE_VARIABLES}


def find_program(name: str, folder: Path) -> str | None:
    """Return the absolute path of an executable *name*; None if there is none.

    A name with a slash is relative to *folder*, any other is searched in PATH.
    """
    if "/" in name:
        places = [folder / name]
    else:
        places = [Path(place) / name for place in os.get_exec_path() if name]
    for path in places:
        if os.access(path, os.X_OK) and path.is_file():
            return str(path.absolute())
    return None


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """True if the program has ended. It stays a zombie, so its group's number is not reused."""
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process.pid, options) is not None


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the program and all processes that it has started, and wait for it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # what is not written yet
                pipe.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(KILL_S)
