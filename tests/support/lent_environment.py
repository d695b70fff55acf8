"""A virtual environment with our wheel, whose libraries are links to those of this environment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement


def needed_distributions(
    name: str, extras: frozenset[str] = frozenset(), seen: set[str] | None = None
) -> Iterator[Distribution]:
    """What an installation of *name* with *extras* brings along, itself left out."""
    seen = set() if seen is None else seen
    for line in distribution(name).requires or ():
        wanted = Requirement(line)
        chosen = [{"extra": extra} for extra in extras or {""}]
        if wanted.marker is not None and not any(map(wanted.marker.evaluate, chosen)):
            continue
        found = distribution(wanted.name)
        if found.metadata["Name"] not in seen:
            seen.add(found.metadata["Name"])
            yield found
            yield from needed_distributions(found.metadata["Name"], frozenset(wanted.extras), seen)


def make_environment(folder: Path, wheel: Path, *extras: str) -> Path:
    """Install *wheel* with *extras* in a new environment; return the folder of its programs."""
    made: list[str | Path] = [sys.executable, "-m", "venv", "--without-pip", folder]
    pip: list[str | Path] = [sys.executable, "-m", "pip", "-q"]
    pip += ["--python", folder / "bin" / "python"]
    for command in (made, [*pip, "install", "--no-deps", "--no-index", wheel]):
        subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    for found in needed_distributions("cipherfleet", frozenset(extras)):
        _lend(found, site)
    return folder / "bin"


def _lend(found: Distribution, site: Path) -> None:
    """Links in the folder *site* to the files of an installed distribution."""
    for top in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
        if not (site / top).exists() and top != "__pycache__":
            (site / top).symlink_to(Path(str(found.locate_file(top))))
