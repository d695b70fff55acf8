"""The command that times the first journeys: its steps work, without the installation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import run_here
from tests.support.paths import ROOT
from tests.tools import journeys
from tests.tools.journeys import (
    JOURNEYS,
    Journey,
    Step,
    StepResult,
    fault_of_answers,
    table,
    travel,
    use_own_files,
    write_readings,
)

INSTALLED = [StepResult(command="install", seconds=60.0, exit_code=0)] * 2


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the programs of a shell in place of an environment."""
    (tmp_path / "venv/bin").mkdir(parents=True)
    return tmp_path


def test_a_journey_stops_at_the_first_step_that_fails(place: Path) -> None:
    steps = (Step("true"), Step("false"), Step("true"))
    result = travel(Journey("short", steps), place, INSTALLED)
    assert (result.outcome, result.commands, result.steps[-1].exit_code) == ("failed", 4, 1)
    assert result.minutes >= 2.0
    passed = travel(Journey("allowed", (Step("false", codes=(0, 1)),)), place, INSTALLED)
    assert (passed.outcome, passed.note) == ("passed", "false: exit code 1")
    assert "allowed   passed" in table([passed])


def test_a_journey_whose_result_is_wrong_fails(place: Path) -> None:
    journey = Journey("wrong", (Step("true"),), lambda _folder: "the answer is wrong")
    assert travel(journey, place, INSTALLED).outcome == "failed"


def test_without_an_engine_the_journey_through_containers_is_skipped(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journeys, "has_engine", lambda *_: False)
    (docker,) = (journey for journey in JOURNEYS if journey.name == "docker")
    assert travel(docker, place, INSTALLED).outcome == "skipped"


def test_files_of_ones_own_become_a_fleet_that_is_checked(tmp_path: Path) -> None:
    """The template of `init` is what the journey edits: it must still have this sensor."""
    (own,) = (journey for journey in JOURNEYS if journey.name == "own")
    write_readings(tmp_path)
    init, edit, check = own.steps[:3]
    assert edit.by_hand is use_own_files
    for step in (init, edit, check):
        if step.by_hand is not None:
            step.by_hand(tmp_path)
        else:
            done = run_here(*step.command.split()[1:], cwd=tmp_path)
            assert done.returncode == 0, done.stderr
    text = (tmp_path / "rooms/fleet.yaml").read_text()
    assert '{kind: csv, path: "room{n}.csv"}' in text
    assert (tmp_path / "rooms/room4.csv").is_file()


def test_answers_that_are_missing_or_far_off_are_found(tmp_path: Path) -> None:
    assert fault_of_answers(tmp_path) == "0 of 4 nodes have an answer.json"
    for number in range(1, 5):
        folder = tmp_path / f"trial/nodes/node{number}/outputs"
        folder.mkdir(parents=True)
        persons = 110.0 if number < 4 else 11.0
        answer = {"model": {"coefficients": {"temperature_c": 15.4, "persons": persons}}}
        (folder / "answer.json").write_text(json.dumps(answer))
    assert fault_of_answers(tmp_path) == "node4: the coefficient of persons is far off"


def test_every_command_of_a_journey_has_a_help(tmp_path: Path) -> None:
    for journey in JOURNEYS:
        for step in journey.steps:
            words = step.command.split()
            if words[0] == "cipherfleet":
                verbs = [word for word in words[1:3] if word.isalpha() and word != "rooms"]
                done = run_here(*verbs, "--help", cwd=tmp_path)
                assert done.returncode == 0, step.command


def test_the_command_has_a_help() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.tools.journeys", "--help"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
