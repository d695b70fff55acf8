"""Become a command that dies with its parent: ``python leash.py PARENT_PID COMMAND...``.

The kernel sends SIGKILL when the parent ends, however it ends (prctl PR_SET_PDEATHSIG). The request
survives exec, so this program asks for it and then becomes the command, under the same process id.
It is a program and not a preexec_fn: running Python between fork and exec of a process with threads
can deadlock, and Python 3.12 warns about it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>


def leashed(command: Sequence[str]) -> list[str]:
    """The command line that runs *command*, an absolute path first, on a leash that we hold.

    "We" is the *thread* that starts it: the kernel pulls the leash when that thread ends.
    """
    # -I -S: neither the environment nor site-packages, which saves most of the start time.
    return [sys.executable, "-I", "-S", str(Path(__file__)), str(os.getpid()), *command]


def main(parent: int, command: list[str]) -> None:
    """Put the leash on, then become *command*; ends at once if *parent* is already gone."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it ended before the leash was on: nobody will pull it
        sys.exit(1)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and exec would keep that
    os.execv(command[0], command)  # noqa: S606  # no shell is the point


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
