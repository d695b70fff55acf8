"""Every benchmark is a command that says how it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

COMMANDS = sorted(set((ROOT / "benchmarks").glob("*.py")) - {ROOT / "benchmarks/bench_node.py"})


@pytest.mark.parametrize("command", COMMANDS, ids=lambda file: file.stem)
def test_a_benchmark_prints_its_help(command: Path) -> None:
    done = subprocess.run(
        [sys.executable, command, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {command.name}")
