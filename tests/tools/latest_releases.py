"""Try the newest releases of all libraries: `make latest`, or `make latest TESTS=tests/repo`.

Installs the newest releases into a fresh virtual environment, without constraints, and runs the
tests there. The report names each library that differs from the lock. Tests that fail are run again
with the locked versions, and then with the locked versions and one new library at a time: so it
says which library broke which test. Ends with 1 if a test failed.

Needs Python, pip and the network; a full run takes as long as the tests and two installations.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol
from xml.etree import ElementTree

from tests.tools.lock_dependencies import (
    BACKEND,
    CONSTRAINTS,
    ROOT,
    Change,
    changes_between,
    versions_in,
)

NOT_OURS = {"pip", "setuptools"}  # venv brings them
BEGUN = (0, 1)  # pytest's exit codes where it ran the tests


@dataclass
class Report:
    """What changed and what it broke; tests by their pytest ids."""

    python: str
    tests: list[str]
    changed: list[Change]
    failed: list[str]
    broken: dict[str, list[str]] = field(default_factory=dict)  # by library
    broken_by_several: list[str] = field(default_factory=list)  # by no library alone
    failed_when_locked: list[str] = field(default_factory=list)


class Libraries(Protocol):
    """An environment with the locked versions, in which one library at a time is exchanged."""

    def use(self, change: Change | None) -> None:
        """Have the locked versions, except for the new one of *change*."""

    def failing(self, tests: Sequence[str]) -> list[str]:
        """Those of *tests* that fail now."""


def main() -> int:
    """Run it; the exit code is 1 if a test failed with the newest releases."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("tests", nargs="*", help="what pytest is to run; default: all tests")
    options.add_argument(
        "--against",
        type=Path,
        default=CONSTRAINTS,
        metavar="FILE",
        help="another lock than constraints.txt",
    )
    options.add_argument("--json", action="store_true", help="print the report as JSON")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="cipherfleet-latest-") as folder:
        try:
            report = tried(Path(folder), given.tests, given.against)
        except subprocess.CalledProcessError as error:
            sys.exit(f"{' '.join(map(str, error.cmd[:5]))} failed:\n{error.stderr.strip()}")
    print(json.dumps(asdict(report), indent=1) if given.json else "\n".join(lines_of(report)))
    return 1 if report.failed else 0


def tried(folder: Path, tests: list[str], lock: Path) -> Report:
    """The newest releases, and the locked ones where they fail."""
    say("installing the newest releases")
    newest = Environment(folder / "newest")
    newest.install("--upgrade", *BACKEND)
    newest.install("--upgrade", "--no-build-isolation", "--editable", f"{ROOT}[dev]")
    there = newest.versions()
    locked = {k: v for k, v in versions_in(lock.read_text()).items() if k in there}
    changed = changes_between(locked, there)
    say(f"{len(changed)} libraries differ from {lock.name}; running the tests")
    report = Report(platform.python_version(), tests, changed, newest.failing(tests))
    if report.failed:
        say(f"{len(report.failed)} failed; installing the locked versions")
        blame(report, Locked(folder / "locked", lock))
    return report


def blame(report: Report, libraries: Libraries) -> None:
    """Find out for each failed test which change broke it."""
    libraries.use(None)
    report.failed_when_locked = libraries.failing(report.failed)
    left = [test for test in report.failed if test not in report.failed_when_locked]
    if not left:
        return
    for place, change in enumerate(report.changed, 1):
        say(f"{place}/{len(report.changed)}: {change}")
        if change.new is None:
            continue
        libraries.use(change)
        if failing := libraries.failing(left):
            report.broken[change.library] = failing
    named = {test for tests in report.broken.values() for test in tests}
    report.broken_by_several = [test for test in left if test not in named]


def lines_of(report: Report) -> list[str]:
    """The report for people."""
    where = " ".join(report.tests) or "all tests"
    lines = [f"Python {report.python}, {where}: {len(report.failed)} failed"]
    lines += [f"changed  {change}" for change in report.changed] or ["no library changed"]
    changes = {change.library: change for change in report.changed}
    for library, tests in report.broken.items():
        lines += [f"BROKEN by {changes[library]}", *(f"    {test}" for test in tests)]
    for title, tests in (
        ("BROKEN by no library alone, by all of them together", report.broken_by_several),
        ("failed with the locked versions too", report.failed_when_locked),
    ):
        if tests:
            lines += [title, *(f"    {test}" for test in tests)]
    return lines


class Environment:
    """A fresh virtual environment in *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._python = folder, folder / "bin/python"
        venv.create(folder, with_pip=True)

    def install(self, *words: str | Path) -> None:
        """Let pip install; raises CalledProcessError."""
        command = [str(self._python), "-m", "pip", "install", "-q", *map(str, words)]
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)

    def versions(self) -> dict[str, str]:
        """The version of each library, without the project itself."""
        command = [
            str(self._python),
            "-m",
            "pip",
            "list",
            "--format=freeze",
            "--exclude",
            "cipherfleet",
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        text = "\n".join(line.lower().replace("_", "-") for line in done.stdout.splitlines())
        return {k: v for k, v in versions_in(text).items() if k not in NOT_OURS}

    def failing(self, tests: Sequence[str]) -> list[str]:
        """The ids of those of *tests* that fail; all of them where pytest does not begin."""
        results = self._folder / "results.xml"
        results.unlink(missing_ok=True)
        command = [
            *(str(self._python), "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-o", "junit_family=xunit1", f"--junitxml={results}", *tests),
        ]
        done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
        failing = failed_in(results) if results.exists() else []
        return failing or ([] if done.returncode in BEGUN else list(tests) or ["all tests"])


class Locked(Environment):
    """The locked versions in *folder*."""

    def __init__(self, folder: Path, lock: Path) -> None:
        super().__init__(folder)
        self.install("--constraint", lock, "--editable", f"{ROOT}[dev]")
        self._versions = self.versions()

    def use(self, change: Change | None) -> None:
        """Have the locked versions, except for the new one of *change*."""
        now = changes_between(self.versions(), self._versions)
        back = [f"{each.library}=={each.new}" for each in now if each.new is not None]
        if back:
            self.install("--no-deps", *back)
        if change is not None:
            self.install(f"{change.library}=={change.new}")


def failed_in(results: Path) -> list[str]:
    """The ids of the failed tests in pytest's JUnit file."""
    cases: Iterable[ElementTree.Element] = ElementTree.parse(results).iter("testcase")
    failed = [each for each in cases if {"failure", "error"} & {part.tag for part in each}]
    return list(dict.fromkeys(map(_id, failed)))


def _id(case: ElementTree.Element) -> str:
    """A file that cannot be imported is a case without a class."""
    name = case.attrib["name"]
    if not case.get("classname"):
        return f"{name.replace('.', '/')}.py"
    return f"{case.attrib['file']}::{name}"


def say(text: str) -> None:
    """Progress, beside the report."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
