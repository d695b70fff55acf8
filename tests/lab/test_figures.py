"""The claims of the figures in short runs, and the pages that one command makes."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from cipherfleet_lab import problems
from cipherfleet_lab.attacks.table import attack_table
from cipherfleet_lab.baselines import Dsgd
from cipherfleet_lab.figures import STUDIES, load_study
from cipherfleet_lab.figures.articles import (
    PRINTED_BOUNDS,
    PRINTED_NORMS,
    measured_rounding,
    quantisation_bound,
    spectral_norm,
)
from cipherfleet_lab.figures.attenuation import GRAPHS, lab_stepsize, table_row
from cipherfleet_lab.figures.five_nodes import STEPSIZE, run_courses
from cipherfleet_lab.figures.make import FiguresResult, make
from cipherfleet_lab.figures.pages import write_index
from cipherfleet_lab.figures.seeds import ARTICLES, NONE, exact_fleet, fleet, measure_end
from cipherfleet_lab.figures.streaming import algorithms, errors_of, make_stream
from cipherfleet_lab.figures.study import StudyEffort
from cipherfleet_lab.measures import relative_error
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import Stepsize
from tests.support.command_line import run_here
from tests.support.paths import ROOT
from tests.support.results import check_result
from tests.support.tolerances import assert_same_text

RESULTS = ROOT / "docs" / "results"
# The systems of the finding of `attacks`; tests/lab/test_attack_command.py attacks all systems.
NAMED = [
    *("pairwise", "sealed", "pairwise-exact", "sealed-exact", "pairwise-shielded"),
    *("pairwise-quadratic", "dsgd"),
]


def quick(out: Path, *names: str) -> FiguresResult:
    return make(out, names, StudyEffort(quick=True), lambda _: None)


# -- claims -------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", PRINTED_BOUNDS)
def test_rounding_errors_stay_below_the_articles_bound(nodes: int) -> None:
    """Fixed seed: deterministic."""
    bound = quantisation_bound(nodes, 1, 0.01)
    measured = measured_rounding(nodes, 0.01, 20_000, seed=1)
    assert measured == pytest.approx(nodes * (nodes - 1) * 0.01**2 / 4, rel=0.03)
    assert measured < 1.03 * bound
    printed = PRINTED_BOUNDS[nodes]
    assert (printed == pytest.approx(bound, rel=0.005)) == (nodes != 10)


def test_the_bound_that_lost_a_digit_is_0_00405() -> None:
    assert quantisation_bound(10, 1, 0.01) == pytest.approx(4.05e-3)


@pytest.mark.parametrize("k", PRINTED_NORMS)
def test_a_ring_has_the_articles_spectral_norms(k: int) -> None:
    assert spectral_norm(k) == pytest.approx(1 - 0.5 / (k + 1), abs=1e-12)
    assert spectral_norm(k) == pytest.approx(PRINTED_NORMS[k], abs=0.0006)


@pytest.mark.parametrize("attenuation", [NONE, ARTICLES], ids=["none", "articles"])
def test_five_encrypted_nodes_end_within_five_per_cent_of_plain_descent(attenuation: Any) -> None:
    problem, last, seeds = problems.five_nodes(), np.array([1000]), range(8)
    plain, _ = run_courses(Dsgd(STEPSIZE), problem, last, seeds)
    sealed, squared = run_courses(fleet(STEPSIZE, attenuation), problem, last, seeds)
    assert sealed.shape == (8, 1)
    assert np.abs(sealed / plain - 1).max() < (0.05 if attenuation is ARTICLES else 0.001)
    # What is left is the disagreement that attenuation slows down, and it is there.
    assert (np.median(squared) > 0.05) == (attenuation is ARTICLES)


@pytest.mark.parametrize("graph", [GRAPHS[0], GRAPHS[3]], ids=["seed 1", "seed 4"])
def test_the_lab_fleet_errs_as_when_the_project_began(graph: Any) -> None:
    _, errors = table_row(graph, 1000, range(1, 2))
    attenuated, plain, tracking = errors[:3], errors[3:5], errors[5]
    for error in attenuated:
        assert 0.073 / 2 < error < 0.073 * 2
    for error in plain:
        assert 0.008 / 2 < error < 0.008 * 2
    assert max(attenuated) / min(attenuated) < 1.05  # the spread costs next to nothing
    assert tracking < 1e-3


def test_attenuation_pays_at_a_coarse_resolution_and_only_there() -> None:
    problem = problems.intel_lab()

    def error(attenuation: Any, resolution: float) -> float:
        way = fleet(lab_stepsize(1.0), attenuation, resolution)
        return measure_end(way, problem, 1000, range(2), relative_error)

    assert error(NONE, 2.0**-24) < 0.3 * error(ARTICLES, 2.0**-24)
    assert error(NONE, 2.0**-1) > 2 * error(ARTICLES, 2.0**-1)


def test_the_exact_method_follows_a_moving_optimum_closer_than_a_constant_stepsize() -> None:
    stream, (exact, _, constant) = make_stream(5), algorithms().values()
    ends = {a.method: errors_of(stream, a, 1)[-50:].mean() for a in (exact, constant)}
    assert ends["exact"] < 0.5 * ends["article"]


def test_the_exact_method_on_the_lab_problem_is_below_a_millionth_under_every_law() -> None:
    problem = problems.intel_lab()
    for law, spread in (("uniform", 0.0), ("normal", 1.0), ("log-normal", 1.0)):
        way = exact_fleet(Stepsize(spread=spread, law=law))  # type: ignore[arg-type]
        assert measure_end(way, problem, 450, range(1), relative_error) < 1e-6


# -- pages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_makes_its_page_and_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("cipherfleet_lab.figures.attacks.QUICK_TRIALS", 1)
    rows = functools.partial(attack_table, rows=[(name, ()) for name in NAMED])
    monkeypatch.setattr("cipherfleet_lab.figures.attacks.attack_table", rows)
    result = quick(tmp_path, name)
    json.dumps(msgspec.to_builtins(result), allow_nan=False)
    assert list(result.figures) == [name]
    assert len(result.files) == 3  # page, figure, index
    index = (tmp_path / "README.md").read_text()
    assert f"\n    cipherfleet figures --out {tmp_path}\n" in index
    page = (tmp_path / f"{name}.md").read_text()
    assert f"`cipherfleet figures --out {tmp_path} --only {name} --quick`" in page
    assert not re.search(r"\b(nan|inf)\b", page)
    assert result.figures[name]["finding"] in page
    assert result.figures[name]["finding"] in index
    figure = (tmp_path / f"{name}.svg").read_text()
    assert figure.startswith("<?xml")
    assert len(figure) < 250_000
    assert ("Bodik" in page) == load_study(name).shows_readings


def test_the_same_seed_makes_the_same_files_and_another_seed_others(tmp_path: Path) -> None:
    def files(seed: int) -> list[bytes]:
        make(tmp_path, ["five-nodes"], StudyEffort(quick=True, seed=seed), lambda _: None)
        return [(tmp_path / f"five-nodes.{kind}").read_bytes() for kind in ("svg", "md")]

    one, two, other = files(1), files(1), files(5)
    assert one == two
    assert all(a != b for a, b in zip(one, other, strict=True))
    assert "--seed 5`" in other[1].decode()


def test_the_command_of_a_page_names_the_folder_of_the_page_quoted(tmp_path: Path) -> None:
    out = tmp_path / "my figures"
    quick(out, "articles")
    stamp = f"cipherfleet figures --out '{out}' --only articles --quick"
    assert f"Made by `{stamp}`." in (out / "articles.md").read_text()


def test_the_collecting_page_keeps_what_was_made_before(tmp_path: Path) -> None:
    both = quick(tmp_path, "five-nodes", "key-size")
    assert (list(both.figures), len(both.files)) == (["five-nodes", "key-size"], 2 * 2 + 1)
    quick(tmp_path, "articles")
    titles = re.findall(r"^## (.*)$", (tmp_path / "README.md").read_text(), re.M)
    assert titles == [load_study(name).title for name in ("articles", "five-nodes", "key-size")]


def test_the_results_in_the_repository_are_complete_and_no_trials(tmp_path: Path) -> None:
    for name in STUDIES:
        page = (RESULTS / f"{name}.md").read_text()
        assert page.endswith(f"Made by `cipherfleet figures --out docs/results --only {name}`.\n")
        assert (RESULTS / f"{name}.svg").is_file()
        (tmp_path / f"{name}.md").write_text(page)
    command = "cipherfleet figures --out docs/results"
    index = write_index(tmp_path, [load_study(name) for name in STUDIES], command)
    assert index.read_text() == (RESULTS / "README.md").read_text()


def test_the_page_in_the_repository_is_the_one_its_command_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = Path("docs/results")
    make(out, ["articles"], StudyEffort(), lambda _: None)
    assert_same_text((out / "articles.md").read_text(), (RESULTS / "articles.md").read_text())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match=r"taken: cannot be written .* give --out a folder"):
        quick(tmp_path / "taken", "articles")


def test_the_command_prints_findings_or_one_json_object(tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path), "--quick", "--only", "articles"]
    spoken, result = (run_here("figures", *arguments, *more) for more in ([], ["--json"]))
    assert (spoken.returncode, spoken.stderr) == (0, "")
    assert spoken.stdout.startswith("articles: The quantisation bound")
    report = check_result("figures-result", result.stdout)
    assert report["figures"]["articles"]["misprinted"] == [10]
    assert all(Path(file).is_file() for file in report["files"])


def test_an_unknown_figure_is_a_mistake_of_usage() -> None:
    done = run_here("figures", "--out", "x", "--only", "wonder")
    assert done.returncode == 2
    assert "'wonder' is not one of 'articles'" in done.stderr
