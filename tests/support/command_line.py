"""The operator's command line in the process of the test.

A process of its own takes one to two seconds for its imports. Tests of what a command computes and
prints do without it; tests of signals, of the imports and of commands that start daemons do not.
"""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from cipherfleet_deploy.cli.main import main


def run_here(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `cipherfleet` with *words* in *cwd*; return its exit code and its two outputs."""
    command = ["cipherfleet", *map(str, words)]
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with (
        redirect_stdout(out),
        redirect_stderr(err),
        chdir(cwd or Path.cwd()),
        patch.object(sys, "argv", command),
    ):
        code = _exit_code()
    return subprocess.CompletedProcess(command, code, *map(_text_of, (out, err)))


def _exit_code() -> int:
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _text_of(stream: io.TextIOWrapper) -> str:
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode()
