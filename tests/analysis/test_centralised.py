"""The centralised solution of a fleet's problem, against solutions found in another way."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from cipherfleet_analysis.centralised import (
    centralised_answer,
    range_of_starts,
    recorded_objectives,
    steepest,
)
from cipherfleet_node.core.objective import Mean, Regression
from cipherfleet_node.core.randomness import SEED_BYTES, RoundRandomness
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet
from tests.support.paths import ROOT

EXAMPLES = ROOT / "examples"
NODES = 4
Rows = npt.NDArray[np.float64]
ROWS: Rows = np.random.default_rng(3).normal(size=(40, 4))  # a, b, y, cls
ROWS[:, 2] += 2 * ROWS[:, 0] - ROWS[:, 1] + 0.5
ROWS[::7, 2] += 6  # outliers
ROWS[:, 3] = ROWS[:, 0] + ROWS[:, 3] > 0
FEATURES = "[{constant: 1}, {field: a}, {field: b}]"
PHI: Rows = np.column_stack([np.ones(len(ROWS)), ROWS[:, :2]])


TEXT = """\
config_version: 1
fleet: lab
algorithm: {{rounds: 1}}
topology: {{kind: ring}}
objective: {{{objective}}}
nodes:
  - {{each: {nodes}, id: "m{{n}}", sensor: {{kind: csv, path: r.csv, where: {{node: "{{n}}"}}}}}}
"""


def fleet_of(folder: Path, objective: str, rows: Rows = ROWS, nodes: int = NODES) -> Fleet:
    with (folder / "r.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["node", "a", "b", "y", "cls"])
        writer.writerows([i % nodes + 1, *map(repr, map(float, row))] for i, row in enumerate(rows))
    file = folder / "fleet.yaml"
    file.write_text(TEXT.format(objective=objective, nodes=nodes))
    return load_fleet(file)


def test_every_node_counts_alike_unless_the_weight_is_reading(tmp_path: Path) -> None:
    """1, 99 and 10 readings of 0, 1 and 2: the mean of means is 1, of all readings 119/110."""
    rows = [("1", 0.0)] + [("2", 1.0)] * 99 + [("3", 2.0)] * 10
    (tmp_path / "r.csv").write_text("node,a\n" + "".join(f"{n},{a}\n" for n, a in rows))
    for more, answer in (("", 1.0), (", weight: reading, normalise_by: 37", 119 / 110)):
        objective = f"kind: mean, values: [{{field: a}}]{more}"
        (tmp_path / "fleet.yaml").write_text(TEXT.format(objective=objective, nodes=3))
        assert answer_of(load_fleet(tmp_path / "fleet.yaml")) == pytest.approx([answer])


def test_the_answer_of_a_window_by_time_is_not_known_before_the_run(tmp_path: Path) -> None:
    section = "kind: mean, values: [{field: a}]"
    assert centralised_answer(fleet_of(tmp_path, section)) is not None
    assert centralised_answer(fleet_of(tmp_path, f"{section}, window_s: 60")) is None


def answer_of(fleet: Fleet) -> Rows:
    answer = centralised_answer(fleet)
    assert answer is not None
    return answer


def gradient_at(fleet: Fleet, x: Rows) -> float:
    """The size of the gradient of F at *x*."""
    objectives = recorded_objectives(fleet) or []
    randomness = RoundRandomness(bytes(SEED_BYTES))
    return float(np.linalg.norm(np.mean([o.gradient(x, randomness) for o in objectives], axis=0)))


def test_the_intel_lab_answer_is_that_of_least_squares_over_all_motes() -> None:
    with (EXAMPLES / "intel_lab" / "intel_lab.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    hour, temperature, humidity = (
        np.array([float(row[name]) for row in rows])
        for name in ("hour", "temperature_c", "humidity_pct")
    )
    angle = 2 * math.pi * hour / 24
    phi = np.column_stack(
        [np.ones_like(hour), (temperature - 20) / 5, np.sin(angle), np.cos(angle)]
    )
    expected = np.linalg.lstsq(phi, (humidity - 40) / 10, rcond=None)[0]
    answer = answer_of(load_fleet(EXAMPLES / "intel_lab" / "fleet.yaml"))
    assert answer == pytest.approx(expected, abs=1e-6)
    assert answer == pytest.approx([-0.1525029, -0.9587575, -0.1015940, -0.2449960], abs=1e-6)


def test_average_and_mean_answer_with_the_mean_of_the_nodes(tmp_path: Path) -> None:
    fleet = load_fleet(EXAMPLES / "average" / "fleet.yaml")
    with (EXAMPLES / "average" / "readings.csv").open() as stream:
        readings = [float(row["temperature_c"]) for row in csv.DictReader(stream)]
    assert answer_of(fleet) == pytest.approx([np.mean(readings)], abs=1e-12)
    for kind in ("average", "mean"):
        # Nodes with unlike numbers of readings count alike: F is the mean over nodes.
        fleet = fleet_of(tmp_path, f"kind: {kind}, values: [{{field: a}}, {{field: b}}]", ROWS[:6])
        per_node = [ROWS[:6][n::NODES, :2].mean(axis=0) for n in range(NODES)]
        assert answer_of(fleet) == pytest.approx(np.mean(per_node, axis=0), abs=1e-12)


def test_ridge_answers_as_its_normal_equations_do(tmp_path: Path) -> None:
    fleet = fleet_of(
        tmp_path, f"kind: ridge, target: {{field: y}}, features: {FEATURES}, penalty: 0.3"
    )
    n = len(ROWS)
    expected = np.linalg.solve(PHI.T @ PHI / n + 0.3 * np.eye(3), PHI.T @ ROWS[:, 2] / n)
    assert answer_of(fleet) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "objective",
    [
        f"kind: ridge, target: {{field: y}}, features: {FEATURES}, penalty: 0.1",
        f"kind: logistic, target: {{field: cls}}, features: {FEATURES}",
        f"kind: logistic, target: {{field: cls}}, features: {FEATURES}, penalty: 0.01",
        f"kind: huber, target: {{field: y}}, features: {FEATURES}, threshold: 0.5",
        f"kind: huber, target: {{field: y}}, features: {FEATURES}, threshold: 0.01, penalty: 0.001",
    ],
)
def test_no_gradient_is_left_at_the_answer(objective: str, tmp_path: Path) -> None:
    fleet = fleet_of(tmp_path, objective)
    answer = answer_of(fleet)
    assert gradient_at(fleet, answer) < 1e-10
    assert gradient_at(fleet, answer + 0.01) > 1e-6


def test_huber_resists_the_outliers_that_pull_least_squares(tmp_path: Path) -> None:
    parts = f"target: {{field: y}}, features: {FEATURES}"
    plain = answer_of(fleet_of(tmp_path, f"kind: least_squares, {parts}"))
    robust = answer_of(fleet_of(tmp_path, f"kind: huber, threshold: 0.5, {parts}"))
    truth = np.array([0.5, 2, -1])
    assert np.linalg.norm(robust - truth) < 0.7 * np.linalg.norm(plain - truth)


def test_redundant_features_have_an_answer_nevertheless(tmp_path: Path) -> None:
    features = "[{constant: 1}, {constant: 2}, {field: a}, {field: a, scale: 3}]"
    for kind in ("least_squares", "huber"):
        fleet = fleet_of(tmp_path, f"kind: {kind}, target: {{field: y}}, features: {features}")
        assert gradient_at(fleet, answer_of(fleet)) < 1e-10


def test_fewer_readings_than_features_have_an_answer_nevertheless(tmp_path: Path) -> None:
    fleet = fleet_of(
        tmp_path, f"kind: least_squares, target: {{field: y}}, features: {FEATURES}", ROWS[:2], 2
    )
    assert gradient_at(fleet, answer_of(fleet)) < 1e-10


def test_a_minibatch_does_not_change_the_answer(tmp_path: Path) -> None:
    whole = f"kind: least_squares, target: {{field: y}}, features: {FEATURES}"
    assert answer_of(fleet_of(tmp_path, f"{whole}, minibatch: 2")) == pytest.approx(
        answer_of(fleet_of(tmp_path, whole)), abs=1e-12
    )


def test_nothing_is_said_of_live_sensors(tmp_path: Path) -> None:
    text = (EXAMPLES / "average" / "fleet.yaml").read_text()
    sensor = "{kind: synthetic, fields: {temperature_c: {mean: 20}}}"
    (tmp_path / "fleet.yaml").write_text(
        text.replace('{kind: csv, path: readings.csv, where: {room: "{n}"}}', sensor)
    )
    fleet = load_fleet(tmp_path / "fleet.yaml")
    assert recorded_objectives(fleet) is None
    assert centralised_answer(fleet) is None
    assert steepest(fleet) is None
    assert range_of_starts(fleet) == 1.0


def test_the_range_is_that_of_the_entry_where_nodes_differ_least(tmp_path: Path) -> None:
    rows = np.zeros((4, 4))
    rows[:, 0], rows[:, 1] = [1, 2, 3, 4], [0.1, 0.2, 0.3, 0.15]

    def spread(*fields: str) -> float:
        values = ", ".join(f"{{field: {field}}}" for field in fields)
        return range_of_starts(fleet_of(tmp_path, f"kind: average, values: [{values}]", rows))

    assert spread("a") == 3.0
    assert spread("a", "b") == pytest.approx(0.2)
    assert spread("a", "y") == 3.0  # equal entries need no rounds at all
    assert spread("y") == 1.0


def test_the_steepest_node_is_the_one_with_the_greatest_curvature(tmp_path: Path) -> None:
    rows = np.ones((4, 4))
    rows[2, 0] = 9
    fleet = fleet_of(
        tmp_path, "kind: least_squares, target: {field: y}, features: [{field: a, scale: 3}]", rows
    )
    node, curvature = steepest(fleet) or ("nobody", 0.0)
    assert node == "m3"
    assert curvature == pytest.approx(9.0)
    kinds = {type(objective) for objective in recorded_objectives(fleet) or []}
    assert kinds <= {Mean, Regression}
