"""Predicted rounds, lag and links against simulated runs and known graphs."""

from __future__ import annotations

import math
from itertools import combinations, islice
from pathlib import Path

import numpy as np
import pytest

import rounds_by_gap as study
from cipherfleet_analysis.exact_run import ExactMethod
from cipherfleet_analysis.forecast import mixing
from cipherfleet_analysis.links import best_link, with_link
from cipherfleet_analysis.random_choices import Array, FleetRandomness, SeededRandomness
from cipherfleet_analysis.rounds import (
    ROUNDS,
    TRAILING,
    WITHIN,
    Convergence,
    first_below,
    fitted_response,
    predict_convergence,
    rounds_needed,
    simulated_response,
    trailing_rounds,
)
from cipherfleet_analysis.simulation import Links, run
from cipherfleet_node.settings.sections import AGREE, Algorithm
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet
from cipherfleet_provisioning.topology.graph import Graph
from cipherfleet_provisioning.topology.mixing import spectral_gap
from tests.support.paths import ROOT

LAB = ROOT / "examples" / "intel_lab" / "fleet.yaml"
LIVE = """\
config_version: 1
fleet: toy
algorithm: {{rounds: 40, method: {method}, period_s: 60}}
objective: {{kind: {kind}, values: [{{field: t}}]}}
topology: {{kind: {topology}}}
nodes:
  - {{each: {nodes}, id: "n{{n:02}}", sensor: {{kind: thermal, zone: 0, field: t}}}}
"""
RECORDED = """\
config_version: 1
fleet: toy
algorithm: {rounds: 400, method: exact, period_s: 60}
objective: {kind: mean, values: [{field: t}]}
topology: {kind: line}
nodes:
  - {each: 8, id: "n{n}", sensor: {kind: csv, path: r.csv, where: {node: "{n}"}}}
"""
# Two cliques of four, joined by one edge.
SIDES = ("abcd", "efgh")
CLIQUES = Graph(
    tuple("abcdefgh"),
    (*((a, b) for side in SIDES for a, b in combinations(side, 2)), ("d", "e")),
)


def live(
    folder: Path,
    topology: str = "line",
    nodes: int = 8,
    method: str = "exact",
    kind: str = "mean",
) -> Fleet:
    file = folder / "fleet.yaml"
    file.write_text(LIVE.format(topology=topology, nodes=nodes, method=method, kind=kind))
    return load_fleet(file)


def recorded(folder: Path, text: str = RECORDED) -> Fleet:
    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]
    rows = [f"{n},{(value - 4) / 3 + 1}\n" for n, value in enumerate(values, 1)]
    (folder / "r.csv").write_text("node,t\n" + "".join(rows))
    file = folder / "fleet.yaml"
    file.write_text(text)
    return load_fleet(file)


def predicted(fleet: Fleet) -> Convergence:
    found = predict_convergence(fleet)
    assert found is not None
    return found


# -- rounds -------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.5, 1.0])
@pytest.mark.parametrize(
    ("section", "nodes"),
    [
        ({"kind": "ring"}, 12),
        ({"kind": "grid"}, 25),
        ({"kind": "geometric", "neighbours": 6, "seed": 21}, 40),
        ({"kind": "random_regular", "degree": 4, "seed": 21}, 40),
    ],
    ids=["ring", "grid", "geometric", "regular"],
)
def test_the_fit_predicts_graphs_that_it_was_not_made_from(
    section: dict[str, object], nodes: int, spread: float
) -> None:
    """The median over three problems is within the stated factor. Fixed seeds: deterministic."""
    graph = study.graph_of(section, nodes)
    wanted: dict[str, list[float]] = {name: [] for name in (*ROUNDS, "trailing")}
    for seed, kind in ((101, "mean"), (102, 3), (103, 5)):
        hessians, offsets = study.problem(kind, nodes, seed)
        errors = list(study.errors_of(graph, hessians, offsets, spread, seed))
        for level in ROUNDS:
            rounds = first_below(errors, float(level))
            assert rounds is not None
            wanted[level].append(rounds)
        wanted["trailing"].append(trailing_rounds(errors, AGREE))
    gap = spectral_gap(graph)
    for name, fit in {**ROUNDS, "trailing": TRAILING}.items():
        ratio = float(np.median(wanted[name])) / fit.rounds(gap, spread)
        assert abs(math.log(ratio)) < math.log(WITHIN), (name, ratio)


def test_recorded_readings_are_simulated_and_live_ones_are_predicted_by_the_gap(
    tmp_path: Path,
) -> None:
    with_readings, without = predicted(recorded(tmp_path)), predicted(live(tmp_path))
    assert (with_readings.source, with_readings.within) == ("simulation", None)
    assert (without.source, without.within) == ("spectral gap", WITHIN)
    for level in ("1e-4", "1e-6"):
        simulated, fitted = with_readings.rounds_to[level], without.rounds_to[level]
        assert simulated is not None
        assert fitted is not None
        assert 1 / WITHIN**2 < simulated / fitted < WITHIN**2


@pytest.mark.parametrize(("method", "kind"), [("article", "mean"), ("exact", "average")])
def test_other_methods_and_averages_have_no_such_prediction(
    method: str, kind: str, tmp_path: Path
) -> None:
    assert predict_convergence(live(tmp_path, method=method, kind=kind)) is None


def test_the_rounds_of_a_fit_fall_with_the_gap_and_rise_with_the_spread() -> None:
    fit = ROUNDS["1e-4"]
    assert fit.rounds(0.1, 1.0) < fit.rounds(0.01, 1.0)
    assert fit.rounds(0.1, 0.0) == fit.rounds(0.1, 0.5) < fit.rounds(0.1, 1.0)


def test_rounds_needed_is_the_first_round_below_for_good() -> None:
    fleet = load_fleet(LAB)
    needed, simulated = rounds_needed(fleet, 0.5)
    assert needed is not None
    assert needed <= simulated
    assert first_below([0.3, 0.6, 0.4, 0.1], 0.5) == 3
    assert first_below([0.3, math.nan], 0.5) is None


# -- lag ----------------------------------------------------------------------------------------


class Ramp:
    """Gradients x - t k / T: readings that move steadily, each at its own speed."""

    def __init__(self, speeds: Array) -> None:
        self._speeds = speeds

    def evaluate(self, x: Array, k: int, randomness: FleetRandomness) -> Array:
        del randomness
        result: Array = x - self._speeds * (k + 1)
        return result


def test_the_answer_trails_a_steady_movement_by_the_predicted_rounds(tmp_path: Path) -> None:
    """The readings of eight nodes on a line grow from zero; the answer trails their mean.

    The prediction sums sizes of errors and the ramp adds errors, so the prediction is no smaller.
    """
    fleet = recorded(tmp_path)
    response = simulated_response(fleet, fleet.graph)
    assert response is not None
    assert response.trailing is not None
    samples = [fleet.recorded(member) or [] for member in fleet.members]
    speeds = np.array([[sample.values["t"]] for (sample,) in samples]) / 1000
    running = run(
        Links.of(fleet.graph),
        np.zeros(speeds.shape),
        Ramp(speeds),
        Algorithm(rounds=1, method="exact", resolution="2^-32"),
        SeededRandomness(5),
        sealed=False,
        method=ExactMethod(AGREE, np.ones(len(speeds)), 1.0),
    )
    estimates = [closed.estimates for closed in islice(running, 1000)]
    behind = []
    for k in range(600, 1000):
        optimum = speeds.mean(axis=0) * (k + 1)
        distance = math.sqrt(float(np.mean(np.sum((estimates[k] - optimum) ** 2, axis=1))))
        behind.append(distance / float(np.linalg.norm(speeds.mean(axis=0))))
    assert 0.5 * response.trailing < float(np.mean(behind)) < 1.1 * response.trailing


def test_the_lag_is_in_seconds_where_there_is_a_period_and_only_where_the_optimum_moves(
    tmp_path: Path,
) -> None:
    lag = predicted(live(tmp_path)).lag
    assert lag is not None
    assert lag.seconds == pytest.approx(60 * lag.rounds, abs=1)
    assert predicted(recorded(tmp_path)).lag is None
    stepwise = RECORDED.replace("path: r.csv", "path: r.csv, rows_per_round: 1")
    moving = predicted(recorded(tmp_path, stepwise)).lag
    assert moving is not None
    endless = stepwise.replace(", period_s: 60", "")
    without = predicted(recorded(tmp_path, endless)).lag
    assert without is not None
    assert (without.rounds, without.seconds) == (moving.rounds, None)


# -- links --------------------------------------------------------------------------------------


def test_the_best_link_is_the_best_of_all_possible_ones() -> None:
    graphs = [CLIQUES, study.graph_of({"kind": "line"}, 7), study.graph_of({"kind": "grid"}, 12)]
    for graph in graphs:
        pairs = [
            (a, b)
            for place, a in enumerate(graph.ids)
            for b in graph.ids[place + 1 :]
            if (a, b) not in graph.edges
        ]
        best = max(spectral_gap(with_link(graph, pair)) for pair in pairs)
        found = best_link(graph)
        assert found is not None
        assert spectral_gap(found[1]) >= 0.95 * best


def test_a_ring_gains_nothing_from_one_link() -> None:
    """Its slowest mode is double: one link cannot raise both."""
    assert best_link(study.graph_of({"kind": "ring"}, 12)) is None
    assert best_link(study.graph_of({"kind": "complete"}, 6)) is None


@pytest.mark.parametrize("make", [recorded, live], ids=["simulated", "by the gap"])
def test_a_line_gets_the_link_that_saves_rounds(make: object, tmp_path: Path) -> None:
    fleet = recorded(tmp_path) if make is recorded else live(tmp_path)
    found = predicted(fleet)
    assert found.link is not None
    rounds = found.rounds_to["1e-4"]
    assert rounds is not None
    assert found.link.rounds + found.link.saved == rounds
    assert found.link.saved >= 0.2 * rounds
    linked = with_link(fleet.graph, found.link.between)
    if make is recorded:
        again = simulated_response(fleet, linked)
        assert again is not None
    else:
        again = fitted_response(linked, 1.0)
    assert again.rounds_to["1e-4"] == found.link.rounds


def test_large_graphs_get_no_advice_and_a_gap_from_bounds() -> None:
    graph = study.graph_of({"kind": "ring"}, 1300)
    assert best_link(graph) is None
    assert mixing(graph).method != "dense"
    assert fitted_response(graph, 1.0).rounds_to["1e-4"] is not None
