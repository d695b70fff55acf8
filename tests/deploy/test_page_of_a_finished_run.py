"""The page of a finished run: what it sends, and its views in a real browser."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cipherfleet_deploy.watch.page.finished import read_finished_run
from cipherfleet_deploy.watch.page.state import PageState
from tests.support.browser import open_browser
from tests.support.page_server import serve_page
from tests.support.paths import ROOT
from tests.support.wiretap import forms_of

AXE = ROOT / "tests" / "data" / "axe" / "axe.min.js.gz"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    values = [21.843719, 19.452163, 23.917358]
    rows = "".join(f"{n},{value!r}\n" for n, value in enumerate(values, 1))
    (folder / "t.csv").write_text("room,t\n" + rows)
    (folder / "fleet.yaml").write_text("""\
config_version: 1
fleet: yard
crypto: {key_bits: 512, allow_weak_keys: true}
algorithm: {rounds: 12}
objective: {kind: average, values: [{field: t}]}
topology: {kind: ring}
nodes:
  - {each: 3, id: "n{n}", sensor: {kind: csv, path: t.csv, where: {room: "{n}"}}}
""")
    command = [
        sys.executable,
        "-m",
        "cipherfleet_deploy",
        "run",
        str(folder / "fleet.yaml"),
        "--out",
        str(folder / "out"),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return folder / "out"


@pytest.mark.fleet
def test_a_finished_run_shows_phases_and_error_but_no_estimate(finished: Path) -> None:
    run, last = read_finished_run(finished)
    assert run.rounds == list(range(1, 13))
    assert run.error is not None
    assert run.disagreement is not None
    result = json.loads((finished / "result.json").read_text())
    assert run.error[-1] == pytest.approx(result["relative_error"], rel=1e-2)
    assert {row.state for row in last.rows} == {"finished"}
    assert len(last.graph.edges) == 3
    for phases in run.phases.values():
        assert phases["decrypt"] > 0
        assert phases["wait"] > 0
    state = PageState("yard", "finished run", run)
    state.take(last, 1.0)
    text = state.snapshot()
    private = {form for value in result["estimate"] + [21.843719] for form in forms_of(value)}
    private = {form for form in private if len(form) >= 5}
    assert any(form in (finished / "result.json").read_bytes() for form in private)
    assert not [form for form in private if form in text]


@pytest.mark.fleet
def test_the_views_of_a_finished_run_have_charts_and_pass_axe_core(finished: Path) -> None:
    with open_browser() as page, serve_page(finished) as server:
        for visit, view in enumerate(("fleet", "rounds", "phases", "error")):
            page.open(f"{server.address}?{visit}#{view}")
            page.wait_for(
                f"state.summary !== null && !document.getElementById('view-{view}').hidden"
            )
            page.evaluate(gzip.decompress(AXE.read_bytes()).decode() + ";0")
            result = page.evaluate("axe.run(document).then((found) => found.violations)")
            found = [(each["id"], [node["html"] for node in each["nodes"]][:3]) for each in result]
            assert found == [], view
            settled = "document.getElementById('figure-settled').textContent"
            assert page.evaluate(settled) in ("yes", "no")
            bars = page.evaluate("document.querySelectorAll('#phase-bars .bar').length")
            assert bars == (3 if view == "phases" else 0)
        assert page.evaluate("charts.error.data[0].length") == 12
        assert page.problems == []
        page.close_document()
