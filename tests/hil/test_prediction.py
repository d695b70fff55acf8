"""Predictions from a board card stand beside the measurements, under the same names."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from subprocess import run

import pytest
from click.testing import CliRunner

from cipherfleet_analysis.cost.board_card import (
    BOARD_ESTIMATES,
    read_calibration,
    write_calibration,
)
from cipherfleet_analysis.cost.round_time import predict
from cipherfleet_deploy.cli.main import cli
from cipherfleet_deploy.data_folders import example_folder
from cipherfleet_hil.measurement.document import read_measurement
from cipherfleet_hil.measuring import calibrate
from cipherfleet_hil.measuring.prediction import SETTLING, predict_rounds, warm_up_rounds
from cipherfleet_node.errors import ConfigError
from cipherfleet_provisioning.fleet.file import Overrides
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet
from tests.support.results import check_result

BENCH = [sys.executable, "-m", "cipherfleet_deploy", "bench"]
LAB = example_folder("intel_lab") / "fleet.yaml"


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return load_fleet(LAB, Overrides(3), endless=False)


def test_nodes_together_and_apart_are_predicted_as_such(fleet: Fleet) -> None:
    board = BOARD_ESTIMATES["pi-4"]
    expected = predict(fleet, board)
    assert predict_rounds(fleet, board, ["here"]) == {"round, here": expected.together_ms / 1000}
    apart = predict_rounds(fleet, board, ["a", "b", "c"])
    assert apart == {f"round, {name}": expected.apart_ms / 1000 for name in "abc"}
    with pytest.raises(ConfigError, match="3 nodes on 2 targets cannot be predicted"):
        predict_rounds(fleet, board, ["a", "b"])


def test_rounds_that_make_tables_are_not_what_a_card_speaks_of(fleet: Fleet) -> None:
    first = predict(fleet, BOARD_ESTIMATES["host"]).first_rounds
    assert first > 0
    assert warm_up_rounds(fleet, BOARD_ESTIMATES["host"]) == first + SETTLING


@pytest.mark.fleet
def test_a_prediction_is_in_the_document_of_what_was_measured(tmp_path: Path, fleet: Fleet) -> None:
    card = tmp_path / "card.json"
    write_calibration(card, BOARD_ESTIMATES["host"])
    flags = ["--calibration", card, "--rounds", "5", "--warm-up", "1", "--out", tmp_path / "out"]
    done = run([*BENCH, "rounds", *map(str, flags)], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 5), done.stderr
    result = read_measurement(tmp_path / "out" / "rounds.json").cipherfleet
    target = result.targets[0].name
    assert result.predicted == predict_rounds(fleet, BOARD_ESTIMATES["host"], [target])
    assert f"round, {target}: predicted " in done.stdout
    assert set(result.predicted) <= {figure.name for figure in result.figures}


@pytest.mark.fleet
def test_a_card_is_measured_written_and_read_by_check(
    tmp_path: Path, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real daemons and a real broker; the figures are this machine's, so only signs are certain."""
    monkeypatch.setattr(calibrate, "SMALL_FLEETS", (3, 4))
    monkeypatch.setattr(calibrate, "ROUNDS", 20)
    monkeypatch.setattr(calibrate, "WARM_UP", 5)
    card = tmp_path / "card.json"
    flags = ["calibrate", "--board", "bench 1", "--bits", "1024", "--out", str(card), "--json"]
    done = CliRunner().invoke(cli, ["bench", *flags])
    assert done.exit_code == 0, done.stderr
    result = check_result("calibrate-result", done.stdout)
    assert (result["kind"], result["board"], set(result["powers"])) == (
        "measured",
        "bench 1",
        {"1024"},
    )
    own = read_calibration(card)
    assert min(own.save_ms, own.round_trip_ms, own.broker_ms) > 0
    assert own.round_ms + own.neighbour_ms > 0
    expected = predict(fleet, own)
    assert expected.together_ms >= expected.apart_ms > own.round_trip_ms
    check = [*BENCH[:-1], "check", str(LAB), "--calibration", str(card), "--json"]
    forecast = json.loads(run(check, capture_output=True, check=False).stdout)["forecast"]
    assert forecast["round_time"]["board"] == "bench 1"
    assert forecast["round_time"]["cpu_share"] > 0
    assert forecast["per_day"] is None or forecast["per_day"]["node"] > 0
