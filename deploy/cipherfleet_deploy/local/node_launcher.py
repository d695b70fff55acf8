"""The process from which a local fleet's daemons are forked, after it has imported the node.

A daemon spends most of its start on imports, and ten daemons on one machine would do so ten times.
This process imports once. For each request on its socket it forks: the child is a daemon in a
session of its own, as if `cipherfleet-node run FOLDER` had been called. The children have no secret
in common, because the process reads no file of a node and no random number. The kernel ends it with
the command that started it, and the daemons with it.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path

import msgspec

from cipherfleet_broker.die_with_parent import PR_SET_PDEATHSIG
from cipherfleet_node.__main__ import main as run_command
from cipherfleet_node.runtime import run_node  # noqa: F401  # imported here once, for all children

from .launched import MAX_REQUEST_BYTES, LauncherReply, Poll, StartDaemon

PR_SET_NAME = 15  # from <linux/prctl.h>; a name has up to 15 bytes, `ps` and `top` show it


def main(descriptor: int) -> None:
    """Answer requests on the socket *descriptor* until the other end is closed."""
    libc, decoder = ctypes.CDLL(None, use_errno=True), msgspec.json.Decoder(StartDaemon | Poll)
    gc.collect()
    gc.freeze()  # a collection in a child then copies no page of this process
    with socket.socket(fileno=descriptor) as control, suppress(ConnectionError):  # the caller ended
        while data := control.recv(MAX_REQUEST_BYTES):
            match decoder.decode(data):
                case StartDaemon() as start:
                    value: int | None = _fork(start, control, libc)
                case Poll(pid):
                    value = _exit_code(pid)
            control.send(msgspec.json.encode(LauncherReply(value)))


def _exit_code(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _fork(start: StartDaemon, control: socket.socket, libc: ctypes.CDLL) -> int:
    parent = os.getpid()
    if pid := os.fork():
        return pid
    code = 1
    try:
        control.close()
        _prepare_child(start, parent, libc)
        code = run_command(["run", start.folder])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _prepare_child(start: StartDaemon, parent: int, libc: ctypes.CDLL) -> None:
    os.setsid()
    log = os.open(start.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    libc.prctl(PR_SET_NAME, Path(start.folder).name.encode())
    if libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it ended before prctl: the kernel would send no signal
        os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
