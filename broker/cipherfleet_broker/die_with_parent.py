"""Run a command that ends with its parent: ``python die_with_parent.py PARENT_PID COMMAND...``.

The kernel sends SIGKILL to the command when its parent ends for any reason (prctl
PR_SET_PDEATHSIG). This setting survives exec, so this program makes it and then executes the
command under the same process id. It is a program and not a preexec_fn: running Python between fork
and exec of a process with threads can deadlock, and Python 3.12 warns about it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>


def die_with_parent(command: Sequence[str]) -> list[str]:
    """Return a command line that runs *command* until the caller ends.

    *command* begins with an absolute path. The kernel ends it when the *thread* that starts it
    ends, even if the process goes on.
    """
    # -I -S: neither the environment nor site-packages, which saves most of the start time.
    return [sys.executable, "-I", "-S", str(Path(__file__)), str(os.getpid()), *command]


def main(parent: int, command: list[str]) -> None:
    """Set the parent-death signal and execute *command*; exit if *parent* has ended already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it ended before prctl: the kernel would send no signal
        sys.exit(1)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and exec would keep that
    os.execv(command[0], command)  # noqa: S606  # no shell is the point


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
