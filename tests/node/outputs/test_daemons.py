"""The answer of real daemons, as a reader outside sees it."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from cipherfleet_analysis.centralised import centralised_answer
from cipherfleet_node import outputs
from cipherfleet_node.core.settling import CALM_ROUNDS
from cipherfleet_node.errors import AnswerUnavailable
from cipherfleet_node.outputs.answer import Answer
from cipherfleet_node.outputs.file import answer_file
from cipherfleet_node.outputs.physical import regressor_of
from cipherfleet_node.runtime.bundle import read_bundle
from cipherfleet_node.settings.sections import Broker, Simulation
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.fleet.fleet import load_fleet
from tests.support.daemons import Daemons, open_daemons
from tests.support.paths import ROOT

READINGS = {"n1": 19.25, "n2": 20.5, "n3": 22.125}
SENSOR = '{kind: csv, path: readings.csv, where: {node: "n{n}"}}'
ACCURACY = 1e-3
FOLLOWED = """\
config_version: 1
fleet: trial
crypto: {key_bits: 512, allow_weak_keys: true}
algorithm: {rounds: 9}
objective: {kind: ridge, target: {field: y}, features: [{constant: 1}, {field: a}, {daily: h}]}
topology: {kind: complete}
nodes:
  - each: 2
    id: "m{n}"
    sensor: {kind: synthetic, fields: {y: {mean: 1}, a: {mean: 1}, h: {mean: 1}}}
  - {id: seeing, role: follower, sensor: {kind: synthetic, fields: {a: {mean: 1}, h: {mean: 1}}}}
  - {id: partly, role: follower, sensor: {kind: synthetic, fields: {a: {mean: 1}}}}
  - {id: blind, role: follower}
"""


FITTED = """\
config_version: 1
fleet: trial
crypto: {key_bits: 512, allow_weak_keys: true}
algorithm: {period_s: 0.05, answer_timeout_s: 20, start_timeout_s: 60}
answer: {every_s: 1, accuracy: 1e-3}
objective:
  kind: huber
  threshold: 0.1
  target: {field: y, offset: 23, scale: 5}
  features: [{constant: 1}, {field: a, offset: 10, scale: 2}]
topology: {kind: complete}
nodes:
  - {each: 2, id: "m{n}", sensor: {kind: csv, path: readings.csv, where: {node: "m{n}"}}}
  - {id: cheap, role: follower, sensor: {kind: csv, path: cheap.csv}}
"""


def write_readings(folder: Path) -> None:
    rows = "".join(f"{name},{value}\n" for name, value in READINGS.items())
    (folder / "readings.csv").write_text(f"node,t\n{rows}")


def read_all(
    daemons: Daemons, ended: threading.Event, seen: dict[str, list[Answer]], refusals: set[str]
) -> None:
    """Read the files again and again, as a program outside does, and keep every new answer."""
    while not ended.wait(0.002):
        for name, answers in seen.items():
            try:
                found = outputs.load(daemons.bundles[name])
            except AnswerUnavailable as error:
                refusals.add(error.text.partition(": ")[2])
                continue
            if not answers or found != answers[-1]:
                answers.append(found)


def estimates_of(daemons: Daemons, name: str) -> list[float]:
    lines = (daemons.bundles[name] / "logs" / "estimates.jsonl").read_text().splitlines()
    return [json.loads(line)["estimate"][0] for line in lines]


@pytest.mark.fleet
def test_a_reader_sees_nothing_before_a_node_has_settled_and_then_the_answer(
    tmp_path: Path,
) -> None:
    write_readings(tmp_path)
    optimum = sum(READINGS.values()) / len(READINGS)
    seen: dict[str, list[Answer]] = {name: [] for name in READINGS}
    refusals: set[str] = set()
    ended = threading.Event()
    with open_daemons(
        tmp_path,
        algorithm="period_s: 0.05, answer_timeout_s: 20, start_timeout_s: 60",
        sensor=SENSOR,
        answer=f"{{every_s: 1, digits: 4, accuracy: {ACCURACY}}}",
        simulation=Simulation(trace_estimates=True),
    ) as daemons:
        reader = threading.Thread(target=read_all, args=(daemons, ended, seen, refusals))
        reader.start()
        try:
            daemons.start(*READINGS)
            daemons.wait(lambda: all(len(each) > 2 for each in seen.values()), "answers", 240.0)
            for name in READINGS:
                assert daemons.signal(name) == 0
        finally:
            ended.set()
            reader.join()
        assert len(refusals) == 1, "a reader saw a part of a file"
        for name, answers in seen.items():
            check_answers(answers, estimates_of(daemons, name), optimum)
            assert answer_file(daemons.bundles[name]).stat().st_mode & 0o777 == 0o640
            assert daemons.bundles[name].stat().st_mode & 0o777 == 0o700
            assert str(round(optimum, 2)) not in daemons.log(name)


def check_answers(answers: list[Answer], estimates: list[float], optimum: float) -> None:
    """*estimates* are those after each round, which no reader sees."""
    first = answers[0].round
    calm = np.array(estimates[first - CALM_ROUNDS : first])
    assert len(calm) == CALM_ROUNDS
    assert np.abs(calm - optimum).max() < ACCURACY  # all that was hidden is done
    assert np.abs(np.array(estimates[: first - CALM_ROUNDS]) - optimum).max() > 100 * ACCURACY
    for answer in answers:
        assert answer.settled
        value = answer.model.values["t"]
        assert value == float(f"{value:.4g}")
        assert abs(value - optimum) <= 0.005 + ACCURACY


@pytest.mark.fleet
def test_members_publish_residuals_and_a_follower_corrects_its_own_reading(tmp_path: Path) -> None:
    chance = np.random.default_rng(5)
    lines = ["node,a,y"]
    for name in ("m1", "m2"):
        a = chance.normal(10.0, 2.0, size=20)
        y = 3.0 + 2.0 * a + 0.01 * chance.normal(size=20)
        y[-1] += 5.0 * (name == "m1")  # its newest reading is off
        lines += [f"{name},{p:.4f},{q:.4f}" for p, q in zip(a, y, strict=True)]
    (tmp_path / "readings.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "cheap.csv").write_text("a\n9.0\n11.0\n")
    names = ["m1", "m2", "cheap"]
    with open_daemons(tmp_path, text=FITTED) as daemons:
        daemons.start(*names)
        daemons.wait(
            lambda: all(answer_file(daemons.bundles[name]).exists() for name in names),
            "answers",
            240.0,
        )
        found = {name: outputs.load(daemons.bundles[name]) for name in names}
    assert {name: answer.alarm for name, answer in found.items()} == {
        "m1": True,
        "m2": False,
        "cheap": None,
    }
    assert found["m1"].residual == pytest.approx(5.0, abs=0.5)
    cheap = found["cheap"]
    assert cheap.residual is None
    assert cheap.corrected == pytest.approx(3.0 + 2.0 * 11.0, abs=0.5)
    assert cheap.predict({"a": 11.0}) == pytest.approx(cheap.corrected, abs=0.02)
    assert cheap.model.coefficients["a"] == pytest.approx(2.0, abs=0.1)


@pytest.mark.fleet
def test_the_followers_of_the_air_example_publish_corrected_values(tmp_path: Path) -> None:
    example = ROOT / "examples" / "air"
    text = (example / "fleet.yaml").read_text()
    text = text.replace("path: ", f"path: {example}/")
    text = text.replace("key_bits: 2048", "key_bits: 512\n  allow_weak_keys: true")
    text = text.replace("answer:\n", "answer:\n  accuracy: 0.01\n")  # fewer rounds than in the file
    fleet = load_fleet(example / "fleet.yaml")
    optimum = centralised_answer(fleet)
    assert optimum is not None
    with open_daemons(tmp_path, text=text) as daemons:
        daemons.start(*daemons.bundles)
        followers = [member for member in fleet.members if member.role == "follower"]
        folders = [daemons.bundles[member.id] for member in followers]
        daemons.wait(lambda: all(answer_file(each).exists() for each in folders), "answers", 240.0)
        found = [outputs.load(folder) for folder in folders]
        readings = [read_bundle(folder).sensor.read()[-1] for folder in folders]
    for answer, reading in zip(found, readings, strict=True):
        assert answer.settled
        assert (answer.residual, answer.alarm) == (None, None)
        assert "pm25" not in reading.values
        regressor = regressor_of(reading, fleet.file.objective)
        assert regressor is not None
        expected = 80.0 + 60.0 * float(regressor @ optimum)
        # each parameter is off by less than the accuracy, and rounded to a multiple of it
        allowed = 60.0 * 1.5 * 0.01 * float(np.abs(regressor).sum())
        assert answer.corrected == pytest.approx(expected, abs=allowed)


def test_the_section_of_fleet_yaml_reaches_each_node(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(FOLLOWED + "answer: {every_s: 600, units: {y: mm}}\n")
    fleet = load_fleet(file)
    bundles = write_bundles(fleet, tmp_path / "nodes", Broker(), Simulation())
    for folder in bundles.values():
        answer = read_bundle(folder).config.answer
        assert (answer.every_s, answer.units, answer.digits) == (600.0, {"y": "mm"}, 4)


def test_a_follower_reads_what_its_prediction_needs_if_its_sensor_has_it(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(FOLLOWED)
    bundles = write_bundles(load_fleet(file), tmp_path / "nodes", Broker(), Simulation())
    fields = {
        name: {*read_bundle(folder).sensor.read()[0].values}
        for name, folder in bundles.items()
        if name != "blind"
    }
    assert fields["m1"] == {"y", "a", "h"}
    assert fields["seeing"] == {"a", "h"}
    assert not fields["partly"] & {"h"}
    assert read_bundle(bundles["blind"]).sensor.read() == []
