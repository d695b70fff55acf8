"""The command `conformance` takes our own node, and finds a node with a bug."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import msgspec
import pytest

from cipherfleet_node.__main__ import main
from cipherfleet_node.conformance import checker
from cipherfleet_node.conformance.checker import ConformanceResult, check_folder
from cipherfleet_node.conformance.scenario import NodeScenario
from tests.support.paths import ROOT

SCENARIOS = ROOT / "node" / "vectors" / "scenarios"
SPEAK = f"{sys.executable} -m cipherfleet_node conformance --speak"
# A line of Python that puts a bug into our node, and the scenario that shows it.
BUGS = {
    "another-roster": "core.answerer.Answerer._may_see = lambda *_: True",
    "far-claim": "core.claims.Claims.bound = lambda *_: float('inf')",
    "retained-presence": "core.neighbours.NeighbourTable.are_present_live = property(lambda _: 1)",
    "silence": "core.collector.Collector.open_pending = lambda *_: core.collector.CouplingTerm([])",
}
BUGGY = """
from cipherfleet_node import core
from cipherfleet_node.core import answerer, claims, collector, neighbours
from cipherfleet_node.conformance.checker import speak
{bug}
speak()
"""


def folder_of(home: Path, *names: str) -> Path:
    """Return a folder with some of the scenarios."""
    folder = home / "scenarios"
    folder.mkdir()
    for name in names:
        shutil.copyfile(SCENARIOS / f"{name}.json", folder / f"{name}.json")
    return folder


def command_of(home: Path, text: str) -> str:
    script = home / "node_under_test.py"
    script.write_text(text)
    return f"{sys.executable} {script}"


def test_our_own_node_conforms_through_standard_input(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "start", "refusals", "flaws-on-the-wire")
    result = check_folder(folder, SPEAK)
    assert result.failed == 0
    steps = {each.scenario: each.steps for each in result.results}
    for name, count in steps.items():
        text = (folder / f"{name}.json").read_bytes()
        assert count == len(msgspec.json.decode(text, type=NodeScenario).steps)


@pytest.mark.parametrize("name", BUGS)
def test_a_node_with_a_bug_fails_the_scenario_of_its_rule(name: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, name)
    assert check_folder(folder, command_of(tmp_path, BUGGY.format(bug="pass"))).failed == 0
    (result,) = check_folder(folder, command_of(tmp_path, BUGGY.format(bug=BUGS[name]))).results
    assert result.problem.startswith(f"step {result.steps} ")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has ended"),
        ("print('hello', flush=True); input()", "no outcome"),
        ("import json; print(json.dumps({'effects': [], 'timer': None}), flush=True)", "missing"),
        ("import time; time.sleep(99)", "has ended"),
    ],
)
def test_a_command_that_is_no_node_fails(
    text: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checker, "LIMIT_S", 5.0)
    (result,) = check_folder(folder_of(tmp_path, "start"), command_of(tmp_path, text)).results
    assert problem in result.problem or "Broken pipe" in result.problem
    assert result.steps == 0


def test_the_command_prints_a_result_and_exits_by_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path, "giving-up")
    assert main(["conformance", str(folder), "--json"]) == 0
    result = msgspec.json.decode(capsys.readouterr().out, type=ConformanceResult)
    assert [each.scenario for each in result.results] == ["giving-up"]
    file = folder / "giving-up.json"
    document = json.loads(file.read_text())
    document["setup"]["algorithm"]["start_timeout_s"] = 9.0
    file.write_text(json.dumps(document))
    assert main(["conformance", str(folder)]) == 1
    printed = capsys.readouterr().out
    assert "fail  giving-up" in printed
    assert "the timer is 9.0, expected 8.0" in printed


@pytest.mark.parametrize("text", ["", "{}", '{"name": 1}'])
def test_a_folder_without_scenarios_is_an_error_of_the_configuration(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text:
        (tmp_path / "one.json").write_text(text)
    assert main(["conformance", str(tmp_path)]) == 3
    assert str(tmp_path) in capsys.readouterr().err
