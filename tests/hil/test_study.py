from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from cipherfleet_analysis.centralised import centralised_answer
from cipherfleet_hil.cli.main import bench
from cipherfleet_hil.measurement.environment import MachineSummary
from cipherfleet_hil.measuring.study import (
    ACCURACIES,
    QUICK,
    Grid,
    Reached,
    StudyCase,
    StudyOutcome,
    StudyResult,
    reach,
    write_fleet,
)
from cipherfleet_hil.report.study_pages import write_study
from cipherfleet_node.settings.sections import SAFE_KEY_BITS
from cipherfleet_provisioning.fleet.fleet import load_fleet
from tests.support.results import check_result

HERE = MachineSummary(cpu="some", architecture="x86_64", cores=2, load_before=0.1)


def outcome(error: list[float], case: StudyCase) -> StudyOutcome:
    seconds = [0.1 * (k + 1) for k in range(len(error))]
    return StudyOutcome(
        case=case,
        ciphertexts=1,
        round_ms=20.0,
        bytes_per_edge_round=2000.0,
        error=error,
        seconds=seconds,
        unsafe=case.key_bits < SAFE_KEY_BITS,
        reached={f"{accuracy:g}": reach(accuracy, error, seconds) for accuracy in ACCURACIES},
    )


def test_rounds_are_counted_to_where_the_error_stays_below() -> None:
    error, seconds = [1.0, 0.05, 0.2, 0.09, 0.008], [1.5, 2.5, 3.5, 4.5, 5.5]
    assert reach(0.1, error, seconds) == Reached(4, 4.5)
    assert reach(2.0, error, seconds) == Reached(1, 1.5)
    assert reach(0.008, error, seconds) == Reached(5, 5.5)
    assert reach(0.001, error, seconds) == Reached(None, None)


def test_every_case_of_the_grid_is_a_valid_fleet_with_an_answer(tmp_path: Path) -> None:
    cases = Grid().cases()
    assert len(set(cases)) == (3 + 1) * 3 * 3
    assert {case.key_bits for case in cases if case.objective == "mean"} == {2048}
    for place, case in enumerate(cases[:: len(cases) // 9]):
        folder = tmp_path / str(place)
        folder.mkdir()
        fleet = load_fleet(write_fleet(case, 60, folder))
        assert (fleet.dimension, fleet.exchange) == (case.dimension, "sealed")
        assert centralised_answer(fleet) is not None


def test_the_page_holds_every_case_and_the_command(tmp_path: Path) -> None:
    cases = Grid(rounds=3).cases()
    outcomes = [outcome([0.5, 0.05, 0.005], case) for case in cases]
    result = StudyResult(kind="host", command="cmd", machine=HERE, outcomes=outcomes)
    written = write_study(result, tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert (page.count("\n| average "), page.count("\n| mean ")) == (27, 9)
    assert page.count(" (unsafe) ") == 9
    assert "`cmd`" in page
    assert all(path.stat().st_size > 1000 for path in written)
    assert set(re.findall(r"\(([\w-]+\.svg)\)", page)) == {p.name for p in written[2:]}


@pytest.mark.fleet
def test_finer_resolution_takes_real_fleets_further(tmp_path: Path) -> None:
    result = CliRunner().invoke(bench, ["study", "--quick", "--json", "--out", str(tmp_path / "s")])
    assert result.exit_code == 0, result.output
    document = check_result("study-result", result.stdout)
    coarse, fine = document["outcomes"]
    assert coarse["unsafe"]
    assert fine["error"][0] > 0.01
    assert [len(each["error"]) for each in (coarse, fine)] == [QUICK.rounds, QUICK.rounds]
    assert fine["error"][-1] < 0.3 * coarse["error"][-1]
    assert coarse["case"]["resolution_bits"] < fine["case"]["resolution_bits"]
    assert fine["seconds"] == sorted(fine["seconds"])
    assert set(fine["reached"]) == {f"{accuracy:g}" for accuracy in ACCURACIES}
    assert json.loads((tmp_path / "s" / "study.json").read_text()) == document
