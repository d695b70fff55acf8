"""Collect the wheels that a device installs: cipherfleet, its dependencies and pip."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from cipherfleet_node.errors import CipherfleetError, ConfigError, one_line

WHEELS = "wheels"  # folder in the provisioned set, with a folder for each Python version
PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_17_aarch64", "manylinux_2_28_aarch64")


def collect_wheels(home: Path, python: str, report: Callable[[str], None]) -> Path:
    """Return the folder of the wheels for 64-bit ARM boards with Python *python*, such as 3.13.

    They are downloaded once, into home/wheels. pip checks their hashes. Raises CipherfleetError.
    """
    if not re.fullmatch(r"3\.\d{1,2}", python):
        raise ConfigError(f"--python is {python!r}, must be a version such as 3.13")
    folder = home / WHEELS / python
    if folder.is_dir():
        report(f"using the wheels in {folder}; remove this folder to collect them again")
        return folder
    # Imported here: the engine of containers takes long to import, and is needed for nothing else.
    from cipherfleet_deploy.containers.image import DEVICE_LOCK, locate

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as new:
        wheels = Path(new) / python
        report("building the wheel of cipherfleet")
        _write_source(Path(new) / "source")
        _run_pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(Path(new) / "source"))
        report(f"downloading wheels for Python {python}")
        target = ["--python-version", python, "--implementation=cp"]
        target += [f"--platform={each}" for each in PLATFORMS]
        target += ["--only-binary=:all:", "--require-hashes"]
        _run_pip("download", *target, "--dest", str(wheels), "-r", str(locate(DEVICE_LOCK)))
        wheels.rename(folder)
    return folder


def _write_source(folder: Path) -> None:
    """Write the source of cipherfleet to *folder*, from the project or from an installed wheel."""
    from cipherfleet_deploy.containers.image import build_context

    (wheelhouse := folder / "no-wheels").mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(build_context(wheelhouse))) as tar:
        tar.extractall(folder, filter="data")


def _run_pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["none"]
        raise CipherfleetError(
            f"pip {words[0]} failed, its last error: {one_line(lines[-1])[:300]}",
            remedy="it needs a network; or give a folder of wheels: --wheels",
        )
