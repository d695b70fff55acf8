"""What a target without cipherfleet is given: its packages, unpacked, for its Python and processor.

A folder on the module search path does; a virtual environment would take pip there, and minutes.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path

from cipherfleet_deploy.containers.image import MANYLINUX, SOURCE
from cipherfleet_node.errors import CipherfleetError, one_line

from .target import Machine, packed

OURS = ("cipherfleet_node", "cipherfleet_hil")  # what the worker imports
LEAST_PYTHON = (3, 11)
_UNPACK_WITHIN_S = 600.0


class NoPrograms(CipherfleetError):
    """No packages can be had for a target."""


def check_machine(name: str, machine: Machine) -> None:
    """Raise NoPrograms where nothing that we copy would run."""
    version = ".".join(map(str, machine.python))
    if machine.python[:2] < LEAST_PYTHON:
        raise NoPrograms(
            f"target {name!r} has Python {version}, needs 3.11 or newer: install it there, and "
            "name it or an environment with cipherfleet in the bench file (python: PATH)"
        )
    if machine.libc[0] != "glibc":
        raise NoPrograms(
            f"target {name!r} has another C library than wheels are built for: install cipherfleet "
            "there, and name its Python in the bench file (python: PATH)"
        )


@cache
def gathered(python: tuple[int, ...], architecture: str) -> bytes:
    """All that such a machine needs, as a tar file; made once, boards are often alike.

    *python* is a version, as (3, 11). Raises NoPrograms.
    """
    with tempfile.TemporaryDirectory(prefix="cipherfleet-programs-") as folder:
        _gather(python, architecture, Path(folder))
        return packed(Path(folder))


def _gather(python: tuple[int, ...], architecture: str, folder: Path) -> None:
    _unpack(".".join(map(str, python)), architecture, folder)
    for package in OURS:
        found = find_spec(package)
        assert found is not None
        assert found.submodule_search_locations
        ignore = shutil.ignore_patterns("__pycache__", "examples")
        shutil.copytree(found.submodule_search_locations[0], folder / package, ignore=ignore)


def _unpack(version: str, architecture: str, folder: Path) -> None:
    """The wheels of what a device needs, unpacked by the pip of this machine."""
    platforms = [f"--platform={each}_{architecture}" for each in MANYLINUX]
    command = [
        *(sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"),
        *("--only-binary=:all:", "--no-compile", "--implementation=cp"),
        *(f"--python-version={version}", *platforms, f"--target={folder}", *_wanted()),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_UNPACK_WITHIN_S, check=False
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise NoPrograms(
            f"no packages for Python {version} on {architecture}: pip says "
            f"{one_line(lines[-1])[:300] if lines else 'nothing'}; install cipherfleet there, and "
            "name its Python in the bench file (python: PATH)"
        )


def _wanted() -> list[str]:
    """What the base install takes in; from a source tree in the versions that it names."""
    constraints = SOURCE / "constraints.txt"
    locked = ["-c", str(constraints)] if constraints.is_file() else []
    return locked + [
        each for each in requires("cipherfleet") or () if not re.search(r";.*extra", each)
    ]
