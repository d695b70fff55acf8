"""Run the fast part of the suite on several Python versions.

`python -m tests.tools.python_versions` looks for python3.11 to python3.14 on the PATH, in ~/.pyenv
and under --python. It installs the project with the locked dependencies into a fresh virtual
environment per version, runs every test that starts no fleet and no container, and prints a table.
Exit code 1: a version failed, or none was found. A version that is not installed is named as such.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import msgspec

ROOT = Path(__file__).parents[2]
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
FAST = ("-q", "-m", "not fleet and not docker", "-p", "no:cacheprovider")
Outcome = Literal["passed", "failed", "not installed here"]


class VersionResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the tests said on one Python version."""

    version: str
    outcome: Outcome
    interpreter: str = ""
    last_line: str = ""
    seconds: float = 0.0


def main() -> int:
    """Run the command line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--python", action="append", default=[], type=Path, metavar="FILE")
    options.add_argument("--json", action="store_true", help="print the results as JSON")
    options.add_argument("tests", nargs="*", help="arguments for pytest, after --")
    given = options.parse_args()
    interpreters = find_interpreters(given.python)
    results = [run_version(version, interpreters.get(version), given.tests) for version in VERSIONS]
    if given.json:
        print(json.dumps(msgspec.to_builtins(results), indent=2))
    else:
        for result in results:
            print(f"{result.version:<6} {result.outcome:<20} {result.last_line}")
    failed = any(result.outcome == "failed" for result in results)
    return int(failed or not interpreters)


def find_interpreters(named: list[Path]) -> dict[str, Path]:
    """The interpreters of this machine by version; those that the user named come first."""
    candidates = [*named]
    for version in VERSIONS:
        found = shutil.which(f"python{version}")
        candidates += [Path(found)] if found else []
        candidates += sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    interpreters: dict[str, Path] = {}
    for candidate in candidates:
        reported = version_of(candidate)
        if reported in VERSIONS:
            interpreters.setdefault(reported, candidate)
    return interpreters


def version_of(interpreter: Path) -> str | None:
    """The version that *interpreter* reports, such as "3.12"; None if it does not start."""
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run(
            [interpreter, "-c", code], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def run_version(version: str, interpreter: Path | None, arguments: list[str]) -> VersionResult:
    """Install the project for *interpreter* in a new environment and run the fast tests."""
    if interpreter is None:
        return VersionResult(version=version, outcome="not installed here")
    print(f"python {version}: {interpreter}", file=sys.stderr)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cipherfleet-python-", dir="/var/tmp") as folder:
        python = Path(folder) / "venv/bin/python"
        steps: tuple[list[str | Path], ...] = (
            [interpreter, "-m", "venv", python.parent.parent],
            [python, "-m", "pip", "install", "-q", "-c", "constraints.txt", "-e", ".[dev]"],
            [python, "-m", "pytest", *(arguments or FAST)],
        )
        for command in steps:
            done = subprocess.run(
                command,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                print(done.stdout, file=sys.stderr)
                break
    return VersionResult(
        version=version,
        outcome="passed" if done.returncode == 0 else "failed",
        interpreter=str(interpreter),
        last_line=(done.stdout.strip().splitlines() or [""])[-1],
        seconds=round(time.monotonic() - began, 1),
    )


if __name__ == "__main__":
    sys.exit(main())
