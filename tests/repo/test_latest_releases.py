"""The search for the library that broke a test, and the parser of pytest's output."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.tools.latest_releases import Report, blame, failed_in, lines_of
from tests.tools.lock_dependencies import Change

YAML, MSGSPEC = Change("pyyaml", "6.0.3", "6.0.4"), Change("msgspec", "0.21", "0.22")


class Breaking:
    """Libraries of which some break some tests."""

    def __init__(self, broken: dict[str | None, list[str]]) -> None:
        self._broken, self._used = broken, ""

    def use(self, change: Change | None) -> None:
        self._used = change.library if change else ""

    def failing(self, tests: Sequence[str]) -> list[str]:
        always = self._broken.get("", [])
        return [test for test in tests if test in self._broken.get(self._used, []) + always]


def report_of(failed: list[str], broken: dict[str | None, list[str]]) -> Report:
    report = Report("3.11.2", [], [MSGSPEC, YAML], failed)
    blame(report, Breaking(broken))
    return report


def test_each_failed_test_is_put_down_to_the_library_that_broke_it() -> None:
    report = report_of(["a", "b", "c"], {"pyyaml": ["a", "b"], "msgspec": ["b", "c"]})
    assert report.broken == {"msgspec": ["b", "c"], "pyyaml": ["a", "b"]}
    assert not report.broken_by_several
    assert lines_of(report) == [
        "Python 3.11.2, all tests: 3 failed",
        "changed  msgspec: 0.21 -> 0.22",
        "changed  pyyaml: 6.0.3 -> 6.0.4",
        "BROKEN by msgspec: 0.21 -> 0.22",
        "    b",
        "    c",
        "BROKEN by pyyaml: 6.0.3 -> 6.0.4",
        "    a",
        "    b",
    ]


def test_what_no_library_breaks_alone_and_what_was_broken_before_is_said_apart() -> None:
    report = report_of(["a", "b", "c"], {"pyyaml": ["a"], "": ["c"]})
    assert report.broken == {"pyyaml": ["a"]}
    assert report.broken_by_several == ["b"]
    assert report.failed_when_locked == ["c"]
    assert "failed with the locked versions too" in lines_of(report)


TESTS = """
import pytest

def test_good(): pass
def test_bad(): assert False
@pytest.mark.parametrize("x", ["a b", "[c]"])
def test_each(x): assert x == "a b"
@pytest.fixture
def broken(): raise OSError
def test_setup(broken): pass
"""


def test_failed_tests_are_read_as_the_ids_that_pytest_takes(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").touch()
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_other.py").write_text("import no_such_library")
    failed = ran(tmp_path, ".")
    assert failed == ["test_other.py"]  # pytest stops where a file cannot be imported
    (tmp_path / "test_other.py").unlink()
    failed = ran(tmp_path, ".")
    names = ["test_bad", "test_each[[c]]", "test_setup"]
    assert failed == [f"test_some.py::{name}" for name in names]
    assert ran(tmp_path, *failed) == failed


def ran(folder: Path, *tests: str) -> list[str]:
    results = folder / "results.xml"
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={results}"]
    command += ["-o", "junit_family=xunit1", *tests]
    subprocess.run(command, cwd=folder, capture_output=True, check=False)
    return failed_in(results)
