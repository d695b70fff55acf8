"""The weight of nodes and readings: where a fleet ends, and what `check` says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cipherfleet_analysis.forecast import forecast
from cipherfleet_analysis.weights import describe_weight, weight_findings
from cipherfleet_node.findings import Finding
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet

TEXT = """\
config_version: 1
fleet: lab
algorithm: {{rounds: 120, method: exact}}
topology: {{kind: ring}}
objective: {{kind: mean, values: [{{field: a}}]{more}}}
nodes:
  - {{each: 3, id: "m{{n}}", sensor: {{kind: csv, path: r.csv, where: {{node: "{{n}}"}}}}}}
"""
READING = ", weight: reading, normalise_by: 37"


def fleet_of(folder: Path, more: str, counts: tuple[int, int, int] = (1, 99, 10)) -> Fleet:
    """Return three nodes with *counts* readings of 0, 1 and 2."""
    rows = [f"{n + 1},{n}\n" for n, count in enumerate(counts) for _ in range(count)]
    (folder / "r.csv").write_text("node,a\n" + "".join(rows))
    file = folder / "fleet.yaml"
    file.write_text(TEXT.format(more=more))
    return load_fleet(file)


def found(fleet: Fleet) -> list[Finding]:
    return list(weight_findings(fleet))


@pytest.mark.parametrize("more", ["", READING], ids=["node", "reading"])
def test_a_simulated_fleet_ends_at_the_answer_of_its_weight(more: str, tmp_path: Path) -> None:
    expected = forecast(fleet_of(tmp_path, more)).expected
    assert expected is not None
    assert expected.relative_error is not None
    assert expected.relative_error < 1e-4


def test_unequal_numbers_of_readings_are_noted_with_the_declared_count_to_set(
    tmp_path: Path,
) -> None:
    (finding,) = found(fleet_of(tmp_path, ""))
    assert finding.level == "note"
    assert "1 to 99 readings, and every node counts alike" in finding.text
    assert "normalise_by: 37" in finding.remedy
    assert found(fleet_of(tmp_path, READING)) == []
    assert found(fleet_of(tmp_path, "", (10, 10, 15))) == []


def test_readings_beyond_the_window_do_not_count(tmp_path: Path) -> None:
    assert found(fleet_of(tmp_path, ", window: 10", (10, 99, 10))) == []


def test_a_declared_count_far_from_the_readings_is_noted(tmp_path: Path) -> None:
    (finding,) = found(fleet_of(tmp_path, ", weight: reading, normalise_by: 1000"))
    assert "normalise_by is 1000, the nodes have 37 readings on average" in finding.text
    assert "normalise_by: 37" in finding.remedy


def test_the_words_of_a_weight_name_what_counts(tmp_path: Path) -> None:
    words = [describe_weight(fleet_of(tmp_path, more).file.objective) for more in ("", READING)]
    assert words == [
        "every node counts alike",
        "every reading counts alike, 37 of them count one",
    ]


def test_the_two_weights_have_different_answers(tmp_path: Path) -> None:
    from cipherfleet_analysis.centralised import centralised_answer

    answers = [centralised_answer(fleet_of(tmp_path, more)) for more in ("", READING)]
    np.testing.assert_allclose(np.array(answers), [[1.0], [119 / 110]], rtol=1e-9)
