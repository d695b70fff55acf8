"""The drift of a node in its answer, and its history over restarts."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from cipherfleet_node.core.drift import PER_WINDOW, WINDOWS, Judgement
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.outputs.command import answer_lines
from cipherfleet_node.outputs.physical import Newest, Place, make_answer
from cipherfleet_node.runtime.bundle import Bundle, read_bundle
from cipherfleet_node.runtime.drift_watch import DRIFT_FILE, DriftWatch
from cipherfleet_node.settings.sections import (
    AnswerSection,
    Broker,
    Column,
    Drift,
    Feature,
    ObjectiveSection,
    Simulation,
)
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.fleet.fleet import load_fleet

FLEET = """\
config_version: 1
fleet: trial
crypto: {key_bits: 512, allow_weak_keys: true}
algorithm: {rounds: 9}
objective:
  kind: least_squares
  window: 100
  drift: {window: 4, alarm: 5}
  target: {field: t, offset: 10, scale: 5}
  features: [{constant: 1}]
topology: {kind: complete}
nodes:
  - {each: 3, id: "n{n}", sensor: {kind: synthetic, fields: {t: {mean: 10}}}}
  - {id: cheap, role: follower}
"""
SECTION = ObjectiveSection(
    kind="least_squares",
    target=Column(field="t", offset=10.0, scale=5.0),
    features=[Feature(constant=1.0)],
    drift=Drift(window=4),
)
PLACE = Place("trial", "n1", 7, "2026-11-27T20:15:03Z")
LEAST = WINDOWS * PER_WINDOW


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "fleet.yaml").write_text(FLEET)
    fleet = load_fleet(folder / "fleet.yaml")
    assert (fleet.dimension, fleet.solution_dimension) == (2, 1)
    return dict(write_bundles(fleet, folder / "nodes", Broker(), Simulation()))


@pytest.fixture
def bundle(folders: dict[str, Path]) -> Bundle:
    (folders["n1"] / "state").mkdir(exist_ok=True)
    (folders["n1"] / "state" / DRIFT_FILE).unlink(missing_ok=True)
    return read_bundle(folders["n1"])


def read_one(bundle: Bundle, watch: DriftWatch, temperature: float) -> Judgement:
    """Take in one reading, and judge it where the fleet has the parameter 0 and the mean 0.1."""
    bundle.objective.absorb([Sample({"t": temperature})])
    watch.read(1)
    watch.judge([0.0, 0.1])
    assert watch.latest is not None
    return watch.latest


def test_a_node_that_drifts_has_an_alarm_and_the_log_has_its_begin_and_end(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    chance, watch = np.random.default_rng(4), DriftWatch(bundle)
    with caplog.at_level(logging.WARNING):
        for _ in range(LEAST + 10):
            found = read_one(bundle, watch, 10.0 + 0.5 * chance.normal())
            assert not found.is_alarm
        for _ in range(4):
            found = read_one(bundle, watch, 14.0)
        assert found.is_alarm
        assert found.difference == pytest.approx(0.8 - 0.1, abs=1e-3)
        for _ in range(4):
            found = read_one(bundle, watch, 10.0)
    assert not found.is_alarm
    begin, end = (record.getMessage() for record in caplog.records)
    assert "has left its usual range" in begin
    assert "is back in its usual range" in end


def test_nothing_is_judged_twice_without_a_new_reading(bundle: Bundle) -> None:
    watch = DriftWatch(bundle)
    first = read_one(bundle, watch, 10.0)
    watch.judge([0.0, 3.0])
    assert watch.latest is first


def test_the_history_goes_on_after_a_restart_unless_it_is_damaged(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    watch = DriftWatch(bundle)
    for place in range(LEAST):
        assert read_one(bundle, watch, 10.0 + place % 3).z is None
    watch.save()
    file = bundle.folder / "state" / DRIFT_FILE
    assert file.stat().st_mode & 0o777 == 0o600
    assert read_one(bundle, DriftWatch(bundle), 11.0).z is not None
    file.write_bytes(b"\xc1" + file.read_bytes()[1:])
    assert read_one(bundle, DriftWatch(bundle), 11.0).z is None
    assert "is damaged" in caplog.text


def test_a_follower_judges_nothing(folders: dict[str, Path]) -> None:
    watch = DriftWatch(read_bundle(folders["cheap"]))
    watch.judge([0.0, 0.1])
    watch.save()
    assert watch.latest is None
    assert not (folders["cheap"] / "state" / DRIFT_FILE).exists()


def test_the_answer_has_the_drift_in_the_unit_of_the_target() -> None:
    newest = Newest(np.array([1.0]), np.array([[1.0, 0.5]]), Judgement(0.7, 6.25, is_alarm=True))
    found = make_answer(PLACE, np.array([0.25]), SECTION, AnswerSection(), 1e-3, newest, 0.10049)
    assert found is not None
    assert found.model.intercept == 11.25
    assert (found.fleet_residual, found.drift) == (0.5, 3.5)  # a multiple of the accuracy
    assert (found.drift_z, found.drift_alarm) == (6.25, True)
    lines = [line.split() for line in answer_lines(found)]
    assert ["drift", "3.5"] in lines
    assert ["drift", "alarm", "YES"] in lines
    cheap = make_answer(PLACE, np.array([0.25]), SECTION, AnswerSection(), 1e-3, Newest(), 0.1)
    assert cheap is not None
    assert (cheap.fleet_residual, cheap.drift, cheap.drift_alarm) == (0.5, None, None)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("kind: least_squares", "kind: logistic", "needs one of the kinds least_squares, ridge"),
        ("rounds: 9", "rounds: 9, method: statistics", "needs algorithm.method: exact, found stat"),
        ("window: 100", "window: 3", "is 4, must be at most objective.window, which is 3"),
        (
            "topology:",
            "privacy: {epsilon: 1, readings: 2}\ntopology:",
            "is not allowed beside the section privacy",
        ),
    ],
)
def test_a_section_that_does_not_fit_is_refused(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    file = tmp_path / "fleet.yaml"
    text = FLEET.replace(old, new)
    if "privacy" in new:
        (tmp_path / "r.csv").write_text("t\n1\n2\n3\n4\n")
        text = text.replace(
            "{kind: synthetic, fields: {t: {mean: 10}}}", "{kind: csv, path: r.csv}"
        )
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_fleet(file)
