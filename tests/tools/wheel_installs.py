"""Install the wheel with pip into empty environments and use it: `make release-installs`.

For each Python from 3.11 to 3.14 that can be found (on the PATH, in ~/.pyenv, with --python) and
for the base installation and the extras, an environment is made in a folder with a space in its
name. pip installs the wheel of `make release` there with the locked versions, and the programs run
from another folder: `cipherfleet-node`, then a fleet of three real daemons, then a simulation.
Exit code 1: one of them failed, or no Python was found.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from tests.tools.python_versions import VERSIONS, find_interpreters

ROOT = Path(__file__).parents[2]
WITHIN_S = 1200
INIT = ("cipherfleet", "init", "a fleet", "--nodes", "3")
FLEET = ("cipherfleet", "run", "a fleet/fleet.yaml", "--rounds", "5", "--out", "trial")
SIMULATION = ("cipherfleet", "simulate", "a fleet/fleet.yaml", "--rounds", "20", "--out", "figures")
# By extra: the commands, and the exit code that each must have.
USES: dict[str, tuple[tuple[tuple[str, ...], int], ...]] = {
    "": (
        (("cipherfleet-node", "--version"), 0),
        (("cipherfleet-node", "doctor", "nowhere"), 3),
        (("cipherfleet", "--help"), 2),  # it says what to install
    ),
    "operator": ((INIT, 0), (("cipherfleet", "check", "a fleet/fleet.yaml"), 0), (FLEET, 0)),
    "page": ((("cipherfleet", "watch", "nowhere", "--page"), 3),),  # without the extra: 2
    "lab": ((INIT, 0), (SIMULATION, 0)),
}


class InstallResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one installation."""

    python: str
    extra: str  # empty: the base installation
    outcome: Literal["passed", "failed", "not installed here"]
    install_s: float = 0.0
    use_s: float = 0.0
    failure: str = ""


def main() -> int:
    """Run the command line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--wheel", type=Path, help="default: that of make release")
    options.add_argument("--python", action="append", default=[], type=Path, metavar="FILE")
    options.add_argument("--extra", action="append", choices=[*USES], help="default: all")
    options.add_argument("--json", action="store_true", help="print the results as JSON")
    given = options.parse_args()
    wheel = given.wheel or next((ROOT / "dist" / "release").glob("*.whl"), None)
    if wheel is None:
        sys.exit("no wheel: run make release first, or give --wheel")
    found = find_interpreters(given.python)
    results = list(install_all(wheel.absolute(), found, given.extra or [*USES]))
    if given.json:
        print(msgspec.json.encode(results).decode())
    return int(not found or any(result.outcome == "failed" for result in results))


def install_all(
    wheel: Path, interpreters: dict[str, Path], extras: list[str]
) -> Iterator[InstallResult]:
    """Try every Python with every extra; print a line for each."""
    for version in VERSIONS:
        for extra in extras if version in interpreters else extras[:1]:
            result = (
                install_and_use(wheel, version, interpreters[version], extra)
                if version in interpreters
                else InstallResult(python=version, extra="", outcome="not installed here")
            )
            times = f"installed in {result.install_s:.0f} s, used for {result.use_s:.0f} s"
            text = result.failure or (times if result.outcome == "passed" else "")
            name = result.extra or "base"
            print(f"{version:<6}{name:<10}{result.outcome:<20}{text}", file=sys.stderr, flush=True)
            yield result


def install_and_use(wheel: Path, version: str, interpreter: Path, extra: str) -> InstallResult:
    """Install *wheel* with *extra* for *interpreter* and run its commands."""
    with tempfile.TemporaryDirectory(prefix="cipherfleet install ", dir="/var/tmp") as folder:
        place = Path(folder)
        programs = place / "venv" / "bin"
        (place / "elsewhere").mkdir()
        wanted = f"{wheel}[{extra}]" if extra else str(wheel)
        pip = [*(str(programs / "python"), "-m", "pip", "install", "-q"), wanted]
        began = time.monotonic()
        failure = _fault(place, [str(interpreter), "-m", "venv", str(programs.parent)], 0)
        failure = failure or _fault(place, [*pip, "-c", str(ROOT / "constraints.txt")], 0)
        installed = time.monotonic()
        for (program, *arguments), code in () if failure else USES[extra]:
            command = [str(programs / program), *arguments]
            failure = failure or _fault(place / "elsewhere", command, code)
        return InstallResult(
            python=version,
            extra=extra,
            outcome="failed" if failure else "passed",
            install_s=round(installed - began, 1),
            use_s=round(time.monotonic() - installed, 1),
            failure=failure,
        )


def _fault(folder: Path, command: list[str], code: int) -> str:
    """Run *command* in *folder*; what went wrong, or an empty text."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command,
        cwd=folder,
        env=clean,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    if done.returncode == code and "Traceback" not in done.stderr:
        return ""
    last = (done.stderr or done.stdout).strip().splitlines()[-1:] or [""]
    name = " ".join([Path(command[0]).name, *command[1:]])
    return f"{name}: exit code {done.returncode}, expected {code}: {last[0]}"


if __name__ == "__main__":
    sys.exit(main())
