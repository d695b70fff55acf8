"""The tables of the examples with followers: their solver, their claims, and the page with them."""

from __future__ import annotations

import csv
import json
import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from cipherfleet_analysis.centralised import centralised_answer
from cipherfleet_node.core.randomness import FloatVector
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.outputs.command import answer_lines
from cipherfleet_node.outputs.physical import Newest, Place, make_answer, regressor_of
from cipherfleet_node.settings.sections import CsvSensor
from cipherfleet_provisioning.fleet.fleet import Fleet
from cipherfleet_provisioning.fleet.members import Member
from followers import (
    EXAMPLES,
    Row,
    balanced_accuracy,
    fit,
    load_example,
    main,
    mean_of,
    nodes_of,
    ratio_of,
    rmse,
    table_of_example,
)
from tests.support.paths import ROOT
from tests.support.tolerances import assert_same_text

PAGE = ROOT / "docs" / "tutorials" / "followers.md"
AIR = ROOT / "examples" / "air"
NUMBER = re.compile(r"(?<=\s)-?\d+(?:\.\d+)?(?=\s|$)")


def rows_by_node(name: str) -> dict[str, Row]:
    return {row.node: row for row in table_of_example(name)[0]}


def air_equations(station: int) -> tuple[FloatVector, FloatVector]:
    """The second moments of a station's two weeks, from the file alone."""
    with (AIR / "air.csv").open() as stream:
        rows = [r for r in csv.DictReader(stream) if r["station"] == str(station)]
    column = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    angle = 2.0 * math.pi * column["hour"] / 24.0
    phi = np.column_stack(
        [
            np.ones(len(rows)),
            (column["pm10"] - 150) / 100,
            (column["co"] - 2000) / 1500,
            (column["no2"] - 70) / 30,
            (column["temperature_c"] - 5) / 5,
            (column["dew_point_c"] + 5) / 8,
            column["wind_ms"] - 1.5,
            np.sin(angle),
            np.cos(angle),
        ]
    )
    target = (column["pm25"] - 80) / 60
    return phi.T @ phi / len(rows), phi.T @ target / len(rows)


def test_the_model_of_air_solves_the_equations_of_its_six_members() -> None:
    members = [node for node in nodes_of(load_example("air")) if node.role == "member"]
    equations = [air_equations(station) for station in (1, 3, 5, 7, 9, 11)]
    hessian = sum(h for h, _ in equations) / 6 + 0.01 * np.eye(9)
    model = np.linalg.solve(hessian, sum(b for _, b in equations) / 6)
    np.testing.assert_allclose(fit(members), model, rtol=0, atol=1e-9)


def test_the_followers_of_air_are_as_good_as_its_members() -> None:
    rows, _ = table_of_example("air")
    assert [row.role for row in rows] == ["member"] * 6 + ["follower"] * 6
    assert ratio_of(rows) <= 1.05


def test_a_desk_without_labels_is_as_good_as_with_them_and_desk_4_is_not_helped() -> None:
    rows = rows_by_node("rooms")
    assert rows["desk2"].without_own >= rows["desk2"].alone
    assert rows["desk4"].with_own < rows["desk4"].alone - 0.1
    assert rows["desk4"].without_own == pytest.approx(0.5, abs=0.05)


def test_the_measures_are_those_of_the_books() -> None:
    assert rmse(np.array([1.0, 5.0]), np.array([1.0, 1.0])) == pytest.approx(math.sqrt(8.0))
    labels, found = np.array([1.0, 1.0, 0.0, 0.0]), np.array([0.9, 0.1, 0.2, 0.3])
    assert balanced_accuracy(found, labels) == pytest.approx(0.75)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_page_shows_what_the_command_prints(name: str) -> None:
    """Table and notes, up to one in the last digit."""
    printed, page = table_of_example(name)[1], PAGE.read_text()
    nodes = [line.split("|")[1] for line in printed.splitlines()[2:] if line.startswith("|")]
    (shown,) = [block for block in tables_of(page) if nodes[0] in block]
    assert_same_text(printed.partition("\n\n")[0], shown)
    notes = printed.partition("\n\n")[2]
    if notes:
        found = re.search(r"Mean error of followers .*\nStandard deviation .*", page)
        assert found is not None
        assert_same_text(notes, found[0])


def test_three_days_of_labels_are_too_few_for_members_and_followers() -> None:
    page = " ".join(PAGE.read_text().split())
    found = re.search(r"three days .* errors are ([\d.]+), ([\d.]+) and ([\d.]+) ", page)
    assert found is not None
    rows, _ = table_of_example("air", 72)
    alone = float(np.mean([row.alone for row in rows]))
    used = [mean_of(rows, role).used for role in ("member", "follower")]
    assert [float(each) for each in found.groups()] == pytest.approx([alone, *used], abs=0.1)


@pytest.mark.parametrize(("name", "node"), [("air", "changping"), ("rooms", "desk2")])
def test_the_page_shows_the_answer_of_a_follower(name: str, node: str) -> None:
    """A run ends within answer.accuracy of the optimum, so its figures may differ a little."""
    fleet = load_example(name)
    optimum, section = centralised_answer(fleet), fleet.file.objective
    assert optimum is not None
    (member,) = [each for each in fleet.members if each.id == node]
    newest = read_newest(fleet, member)
    expected = make_answer(
        Place(name, node, 1, ""),
        optimum,
        section,
        fleet.file.answer,
        fleet.file.answer.accuracy,
        Newest(regressor_of(newest, section)),
    )
    assert expected is not None
    command = f"$ cipherfleet-node answer {name}/nodes/{node}\n"
    shown = PAGE.read_text().partition(command)[2].partition("\n```")[0].splitlines()
    assert re.fullmatch(rf"{name}/{node}, \w+: settled round \d+, 20[\dTZ:-]+", shown[0])
    for one, other in zip(shown[1:], [*answer_lines(expected)][1:], strict=True):
        assert NUMBER.sub("#", one).split() == NUMBER.sub("#", other).split()
        pairs = zip(NUMBER.findall(one), NUMBER.findall(other), strict=True)
        assert all(float(a) == pytest.approx(float(b), rel=0.03) for a, b in pairs)


def read_newest(fleet: Fleet, member: Member) -> Sample:
    """Return the last recorded reading of *member*, with the fields of the features."""
    assert isinstance(member.sensor, CsvSensor)
    table = fleet.tables[fleet.folder / member.sensor.path]
    features = fleet.file.objective.features or []
    needed = {field for f in features for field in (f.field, f.daily) if field is not None}
    return table.samples(member.sensor.where, needed)[-1]


def tables_of(page: str) -> list[str]:
    return re.findall(r"(?m)^\| node \| role \|.*(?:\n\|.*)*", page)


def test_the_command_prints_one_object_or_refuses_an_unknown_example(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["rooms", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["node"] for row in found["rooms"]] == ["desk1", "desk3", "desk4", "desk2"]
    with pytest.raises(SystemExit):
        main(["weather"])
    assert "must be one of air, rooms" in capsys.readouterr().err


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_later_readings_of_an_example_are_later_and_complete(name: str) -> None:
    folder = ROOT / "examples" / name
    fitted, later = (read_file(folder / file) for file in (f"{name}.csv", "later.csv"))
    place = 1  # hours or minutes
    assert fitted[:, place].max() < later[:, place].min()
    for rows in (fitted, later):
        for node in np.unique(rows[:, 0]):
            times = rows[rows[:, 0] == node, place].tolist()
            assert all(one < other for one, other in pairwise(times))


def read_file(file: Path) -> FloatVector:
    with file.open() as stream:
        return np.array([[float(cell) for cell in row] for row in list(csv.reader(stream))[1:]])


def test_the_readings_of_air_take_less_than_450_kb() -> None:
    assert sum(file.stat().st_size for file in AIR.glob("*.csv")) < 450_000
