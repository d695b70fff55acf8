"""`cipherfleet watch --page` as a program, for a browser of a test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

COMMAND = [sys.executable, "-m", "cipherfleet_deploy", "watch"]
END_S = 60.0


@dataclass(frozen=True)
class PageServer:
    """A running server of a page."""

    address: str
    process: subprocess.Popen[str]

    @property
    def memory_bytes(self) -> int:
        """The resident memory of the server."""
        return int(psutil.Process(self.process.pid).memory_info().rss)


@contextmanager
def serve_page(place: Path, *options: object) -> Iterator[PageServer]:
    """Serve the page of *place* at a free port, until the block ends."""
    port = [] if "--port" in options else ["--port", "0"]
    command = [*COMMAND, str(place), "--page", *port, *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("page: http://127.0.0.1:"), line
        try:
            yield PageServer(line.removeprefix("page: ").strip(), process)
        finally:
            process.terminate()
            process.wait(END_S)
