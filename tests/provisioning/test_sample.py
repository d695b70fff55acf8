"""`cipherfleet init --sample` proposes an objective that brings the sample to order one."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipherfleet_node.core.objective import make_objective
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.sensors import CsvTable
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet
from cipherfleet_provisioning.fleet.proposal import LeftOut, ProposedColumn
from cipherfleet_provisioning.fleet.sample import propose_column, propose_objective
from cipherfleet_provisioning.fleet.template import Plan, write_template
from tests.support.command_line import run_here
from tests.support.paths import ROOT

LAB = ROOT / "examples" / "intel_lab" / "intel_lab.csv"


def sample_file(folder: Path, header: str = "room,t,p,on,gap") -> Path:
    """Write 60 rows: text, 21 +- 2, 1013 +- 8, a constant, and a column with an empty cell."""
    chance = random.Random(3)
    rows = [
        f"hall,{chance.gauss(21, 2):.3f},{chance.gauss(1013, 8):.2f},1,{'' if n == 7 else n}"
        for n in range(60)
    ]
    file = folder / "sample.csv"
    file.write_text("\n".join([header, *rows, ""]))
    return file


def fleet_from(file: Path, folder: Path, target: str | None = None) -> Fleet:
    write_template(folder, Plan(proposal=propose_objective(file, target)))
    return load_fleet(folder / "fleet.yaml", endless=False)


def refused(file: Path, target: str | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as found:
        propose_objective(file, target)
    return found.value


# -- columns ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("middle", "spread", "offset"),
    [(21.34, 2.1, 21.0), (1013.2, 8.3, 1013.0), (0.0312, 5.0, 0.031), (-2.694, 0.031, -2.69)],
)
def test_an_offset_has_two_digits_or_as_many_as_the_spread_needs(
    middle: float, spread: float, offset: float
) -> None:
    found = propose_column("t", [middle - spread, middle, middle + spread])
    assert isinstance(found, ProposedColumn)
    assert found.offset == pytest.approx(offset, abs=1e-12)


@given(st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=40))
def test_a_proposed_column_is_of_order_one(values: list[float]) -> None:
    found = propose_column("t", values)
    if isinstance(found, LeftOut):
        assert max(values) - min(values) <= 1e-8 * max(map(abs, values))
        return
    scaled = [(value - found.offset) / found.scale for value in values]
    mean_square = sum(value**2 for value in scaled) / len(values)
    assert 0.9 < mean_square < 1.1, "two digits of the scale leave 5 %"
    assert float(f"{found.scale:.1e}") == found.scale


def test_text_gaps_constants_and_braces_are_left_out_with_the_reason(tmp_path: Path) -> None:
    file = sample_file(tmp_path, "room,t,p,on,gap")
    found = propose_objective(file)
    assert [column.field for column in found.columns] == ["t", "p"]
    reasons = {each.field: each.reason for each in found.left_out}
    assert reasons["on"] == "is constant"
    assert "is not numeric" in reasons["room"]
    assert "9: column 'gap' is empty" in reasons["gap"]
    braces = propose_objective(sample_file(tmp_path, "room,t,{p},on,gap"))
    assert [column.field for column in braces.columns] == ["t"]


# -- the file -----------------------------------------------------------------------------------


def test_the_mean_of_all_columns_of_numbers_is_the_default(tmp_path: Path) -> None:
    fleet = fleet_from(sample_file(tmp_path), tmp_path / "lab")
    objective = fleet.file.objective
    assert objective.kind == "mean"
    assert [c.field for c in objective.values or ()] == ["t", "p"]
    offsets = [c.offset for c in objective.values or ()]
    assert offsets == [pytest.approx(21, abs=1), pytest.approx(1013, abs=4)]
    assert all(offset == round(offset) for offset in offsets)


def test_a_target_is_fitted_by_the_other_columns(tmp_path: Path) -> None:
    fleet = fleet_from(LAB, tmp_path / "lab", "humidity_pct")
    objective = fleet.file.objective
    assert (objective.kind, fleet.dimension) == ("least_squares", len(objective.features or ()))
    assert objective.target is not None
    assert objective.target.field == "humidity_pct"
    fields = {feature.field for feature in objective.features or ()}
    assert {"temperature_c", None} <= fields
    assert "humidity_pct" not in fields


def test_the_proposed_objective_has_a_curvature_of_order_one_on_its_sample(
    tmp_path: Path,
) -> None:
    """c0 is 0.7 by default, which suits features of order one."""
    objective = make_objective(fleet_from(LAB, tmp_path, "humidity_pct").file.objective)
    objective.absorb(CsvTable(LAB).samples({}, objective.fields))
    curvature = objective.curvature()  # type: ignore[attr-defined]
    assert 0.5 < curvature < objective.dimension
    assert math.isfinite(float(np.abs(objective.start()).max()))


@pytest.mark.parametrize("name", ["no", "t °C", "a: b", 'say "t"', "1st", "null"])
def test_any_name_of_a_column_survives_the_file(name: str, tmp_path: Path) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    fleet = fleet_from(sample_file(tmp_path, f"room,{quoted},p,on,gap"), tmp_path / "lab")
    assert [c.field for c in fleet.file.objective.values or ()] == [name, "p"]


# -- errors -------------------------------------------------------------------------------------


def test_a_target_that_cannot_be_fitted_is_refused_with_the_reason(tmp_path: Path) -> None:
    file = sample_file(tmp_path)
    missing = refused(file, "tt")
    assert "has no column 'tt', it has 'room', 't', 'p'" in missing.text
    assert "'t'" in missing.text
    assert "column 'room' is 'hall', must be a number" in refused(file, "room").text
    constant = refused(file, "on")
    assert "the target 'on' is constant" in constant.text
    assert "--target" in constant.remedy


def test_a_sample_without_a_usable_column_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "sample.csv"
    file.write_text("a,b\nx,1\ny,1\n")
    assert "no column can be used: 'a' is not numeric" in refused(file).text
    file.write_text("a,b\n1,1\n2,1\n")
    assert "no column beside the target can be used: 'b' is constant" in refused(file, "a").text


def test_the_command_writes_the_proposal_and_says_what_it_left_out(tmp_path: Path) -> None:
    file = sample_file(tmp_path)
    plain = run_here("init", tmp_path / "one", "--sample", file)
    assert plain.returncode == 0, plain.stderr
    assert "column t: offset 21, scale" in plain.stdout
    assert "left out: 'on' is constant" in plain.stdout
    done = run_here("init", tmp_path / "two", "--sample", file, "--target", "p", "--json")
    assert done.returncode == 0, done.stderr
    proposal = json.loads(done.stdout)["proposal"]
    assert proposal["target"] == "p"
    assert [column["field"] for column in proposal["columns"]] == ["t", "p"]
    alone = run_here("init", tmp_path / "three", "--target", "p")
    assert alone.returncode == 2
    assert "--target needs --sample" in alone.stderr
