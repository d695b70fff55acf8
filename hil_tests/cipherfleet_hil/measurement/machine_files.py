"""Access to the files and tools of a measured machine."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_TIMEOUT_S = 3.0


def run_tool(words: Sequence[str]) -> str:
    """Return the output of a program; '' if it does not exist or fails."""
    program = shutil.which(words[0])
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, *words[1:]], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@dataclass(frozen=True)
class MachineFiles:
    """Access to a machine: the root of its file system, and a function that runs a program."""

    root: Path = Path("/")
    tool: Callable[[Sequence[str]], str] = run_tool

    @property
    def proc(self) -> Path:
        return self.root / "proc"

    @property
    def sys(self) -> Path:
        return self.root / "sys"
