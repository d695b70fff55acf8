"""The payload of a target without cipherfleet: unpacked packages for its Python and processor.

The packages form one folder on the module search path. A virtual environment would need pip on the
target, and minutes.
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

from .target import TargetMachine, pack

OURS = ("cipherfleet_node", "cipherfleet_hil")  # the packages that the worker imports
LEAST_PYTHON = (3, 11)
_UNPACK_WITHIN_S = 600.0


class PayloadUnavailable(CipherfleetError):
    """No payload can be assembled for a target."""


def check_machine(name: str, machine: TargetMachine) -> None:
    """Raise PayloadUnavailable if copied packages cannot run on *machine*."""
    version = ".".join(map(str, machine.python))
    if machine.python[:2] < LEAST_PYTHON:
        raise PayloadUnavailable(
            f"target {name!r} has Python {version}, needs 3.11 or newer",
            remedy=(
                "install it on the target, and name it, or an environment with cipherfleet, in "
                "the bench file (python: PATH)"
            ),
        )
    if machine.libc[0] != "glibc":
        raise PayloadUnavailable(
            f"target {name!r} has the C library {machine.libc[0]!r}, wheels need 'glibc'",
            remedy=(
                "install cipherfleet on the target, and name its Python in the bench file "
                "(python: PATH)"
            ),
        )


@cache
def gather_payload(python: tuple[int, ...], architecture: str) -> bytes:
    """Return the payload for such a machine as a tar file.

    The result is cached, because boards are often alike. *python* is a version, for example
    (3, 11). Raises PayloadUnavailable.
    """
    with tempfile.TemporaryDirectory(prefix="cipherfleet-programs-") as folder:
        _write_payload(python, architecture, Path(folder))
        return pack(Path(folder))


def _write_payload(python: tuple[int, ...], architecture: str, folder: Path) -> None:
    _unpack(".".join(map(str, python)), architecture, folder)
    for package in OURS:
        found = find_spec(package)
        assert found is not None
        assert found.submodule_search_locations
        ignore = shutil.ignore_patterns("__pycache__", "examples")
        shutil.copytree(found.submodule_search_locations[0], folder / package, ignore=ignore)


def _unpack(version: str, architecture: str, folder: Path) -> None:
    """Unpack the wheels of the base install with the pip of this machine."""
    platforms = [f"--platform={each}_{architecture}" for each in MANYLINUX]
    command = [
        *(sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"),
        *("--only-binary=:all:", "--no-compile", "--implementation=cp"),
        *(f"--python-version={version}", *platforms, f"--target={folder}", *_requirements()),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_UNPACK_WITHIN_S, check=False
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise PayloadUnavailable(
            f"no packages for Python {version} on {architecture}, pip says "
            f"{one_line(lines[-1])[:300] if lines else 'nothing'}",
            remedy=(
                "install cipherfleet on the target, and name its Python in the bench file "
                "(python: PATH)"
            ),
        )


def _requirements() -> list[str]:
    """Return pip's arguments for the base install; a source tree pins the versions."""
    constraints = SOURCE / "constraints.txt"
    locked = ["-c", str(constraints)] if constraints.is_file() else []
    return locked + [
        each for each in requires("cipherfleet") or () if not re.search(r";.*extra", each)
    ]
