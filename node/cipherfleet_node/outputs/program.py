"""The output `exec`: a program of the owner's gets each answer as JSON on its standard input.

It runs without a shell, in the node's folder, for exec_timeout_s at most. Then its whole process
group is killed, so that nothing of it is left. Its output is discarded: it could hold readings.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from cipherfleet_node.programs import find_program, has_ended, kill_group, program_environment

from .answer import Answer
from .file import encode
from .publisher import OutputFailed

_LOOK_S = 0.05  # interval of the checks whether the program has ended


class AnswerProgram:
    """Run the program once for each answer, and wait until it has ended."""

    def __init__(self, command: Sequence[str], timeout_s: float, folder: Path) -> None:
        self._command, self._timeout_s, self._folder = command, timeout_s, folder.absolute()

    def publish(self, answer: Answer) -> None:
        """Run the program; raises OutputFailed, or OSError if it cannot be started."""
        deadline = time.monotonic() + self._timeout_s
        process = self._start()
        try:
            self._write(process, encode(answer) + b"\n", deadline)
            while not has_ended(process):
                self._check_time(deadline)
                time.sleep(_LOOK_S)
        finally:
            kill_group(process)
        if process.returncode:
            raise OutputFailed(f"it ended with code {process.returncode}")

    def close(self) -> None:
        """Do nothing: no program runs between two answers."""

    def _start(self) -> subprocess.Popen[bytes]:
        path = find_program(self._command[0], self._folder)
        if path is None:
            raise OutputFailed(f"{self._command[0]!r} is not an executable program")
        return subprocess.Popen(
            [path, *self._command[1:]],
            cwd=self._folder,
            env=program_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _write(self, process: subprocess.Popen[bytes], data: bytes, deadline: float) -> None:
        """Write *data* as far as the program reads it, then close the pipe."""
        assert process.stdin is not None
        pipe = process.stdin.fileno()
        os.set_blocking(pipe, False)
        while data:
            self._check_time(deadline)
            _, writable, _ = select.select([], [pipe], [], _LOOK_S)
            if not writable:
                if has_ended(process):
                    return
                continue
            try:
                data = data[os.write(pipe, data) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:  # a program need not read it
                return
        process.stdin.close()

    def _check_time(self, deadline: float) -> None:
        if time.monotonic() >= deadline:
            raise OutputFailed(f"it did not end within {self._timeout_s:g} s and was killed")
