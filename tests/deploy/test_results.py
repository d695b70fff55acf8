"""The figures of a run, computed from hand-made numbers."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from cipherfleet_deploy.local.plots import plot_run
from cipherfleet_deploy.local.processes import LocalFleet
from cipherfleet_deploy.local.results import (
    Percentiles,
    RunResult,
    Trajectory,
    count_rounds_to,
    disagreement,
    movement,
    relative_error,
    summarise,
)
from cipherfleet_deploy.local.run import show_result, unsettled_warning
from cipherfleet_node.settings.sections import Privacy
from cipherfleet_provisioning.fleet.file import Overrides
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet
from tests.support.paths import ROOT

AVERAGE = ROOT / "examples" / "average" / "fleet.yaml"


@pytest.fixture
def fleet() -> Fleet:
    """Three nodes in a ring, d = 1."""
    return load_fleet(AVERAGE, Overrides(nodes=3))


@pytest.fixture
def nodes(fleet: Fleet, tmp_path: Path) -> LocalFleet:
    """The same three; nothing of them has been started."""
    return LocalFleet({member.id: tmp_path / member.id for member in fleet.members}, 1.0)


def line(ms: float = 10.0, silent: int = 0, **counters: float) -> dict[str, float]:
    """The span that closes a round."""
    return {
        "ms": ms,
        "silent": silent,
        "rejected": 0,
        "inline": 0,
        "bytes_sent": 0,
        "cpu_s": 1,
    } | counters


def test_the_relative_error_is_the_root_mean_square_over_nodes() -> None:
    estimates = np.array([[3.0, 4.0], [3.0, 4.0 + 5.0], [3.0 + 5.0, 4.0], [3.0, 4.0]])
    optimum = np.array([3.0, 4.0])
    assert relative_error(estimates, optimum) == pytest.approx(math.sqrt(50 / 4) / 5)
    assert relative_error(np.array([optimum, optimum]), optimum) == 0.0


def test_the_disagreement_is_measured_from_the_nodes_own_mean() -> None:
    estimates = np.array([[9.0, 0.0], [11.0, 0.0]])
    assert disagreement(estimates) == pytest.approx(0.1)
    assert disagreement(estimates * -7.0) == pytest.approx(0.1)
    assert disagreement(np.ones((4, 2))) == 0.0


def test_nothing_is_relative_to_zero() -> None:
    assert math.isnan(disagreement(np.zeros((3, 2))))
    assert math.isnan(disagreement(np.array([[1.0], [-1.0]])))
    assert math.isnan(relative_error(np.ones((3, 2)), np.zeros(2)))


def test_a_trajectory_has_a_gap_where_a_node_skipped_rounds(nodes: LocalFleet) -> None:
    one, two, three = nodes.nodes.values()
    one.estimates = {0: [1.0], 1: [2.0], 2: [3.0]}
    two.estimates = {0: [4.0], 2: [6.0]}
    three.estimates = {0: [7.0], 1: [8.0]}
    trajectory = Trajectory.of(nodes, 1)
    assert trajectory.estimates.shape == (3, 3, 1)
    expected = [[1, 4, 7], [2, math.nan, 8], [3, 6, math.nan]]
    assert trajectory.estimates[:, :, 0] == pytest.approx(np.array(expected), nan_ok=True)
    assert trajectory.last.tolist() == [[3.0], [6.0], [8.0]]


def test_a_node_without_any_estimate_is_left_out_of_the_figures(
    fleet: Fleet, nodes: LocalFleet
) -> None:
    one, two, _ = nodes.nodes.values()
    one.estimates, two.estimates = {0: [19.0]}, {0: [21.0]}
    trajectory = Trajectory.of(nodes, 1)
    assert np.isnan(trajectory.last[2]).all()
    result = summarise(fleet, nodes, trajectory, np.array([20.0]), 1.0)
    assert result.estimate == [20.0]
    assert result.relative_error == pytest.approx(0.05)


def test_nodes_without_a_solution_have_no_figures(
    fleet: Fleet, nodes: LocalFleet, tmp_path: Path
) -> None:
    """As after one round of method statistics."""
    for node in nodes.nodes.values():
        node.estimates = {0: []}
    trajectory = Trajectory.of(nodes, 1)
    assert trajectory.estimates.shape == (1, 3, 1)
    result = summarise(fleet, nodes, trajectory, np.array([20.0]), 1.0)
    assert (result.rounds, result.estimate, result.settled) == (1, [], False)
    assert (result.relative_error, result.disagreement, result.movement) == (None, None, None)
    output = io.StringIO()
    show_result(result, Console(file=output))
    assert "NOT SETTLED after 1 round" in output.getvalue()
    plot_run(trajectory, np.array([20.0]), "no solution", tmp_path / "plot.png")


def test_counters_that_start_again_at_a_restart_are_added_up(
    fleet: Fleet, nodes: LocalFleet
) -> None:
    one, two, three = nodes.nodes.values()
    one.rounds = [
        line(bytes_sent=100, rejected=1, cpu_s=1.0),
        line(bytes_sent=200, rejected=3, cpu_s=1.5),
        line(bytes_sent=50, rejected=0, cpu_s=0.4),  # restarted
        line(bytes_sent=150, rejected=2, cpu_s=0.9),
    ]
    # Started again, too: it has already sent more than before, yet used less time.
    two.rounds = [line(bytes_sent=100, cpu_s=0.5), line(bytes_sent=120, cpu_s=0.4)]
    three.rounds = [line(bytes_sent=30, silent=2)]
    for node in nodes.nodes.values():
        node.estimates = {0: [20.0]}
    one.restarts = two.restarts = 1
    result = summarise(fleet, nodes, Trajectory.of(nodes, 1), None, 1.0)
    assert result.rejected == 5
    assert result.silent == 2
    assert result.restarts == 2
    # (200 + 150) + (100 + 120) + 30 bytes in 7 rounds of nodes, on 3 edges
    assert result.bytes_per_edge_round == pytest.approx(600 / 7, abs=0.05)


def test_round_times_are_those_of_all_nodes(fleet: Fleet, nodes: LocalFleet) -> None:
    for place, node in enumerate(nodes.nodes.values()):
        node.estimates = {0: [20.0]}
        node.rounds = [line(ms=10.0 * place + k) for k in range(7)]
    result = summarise(fleet, nodes, Trajectory.of(nodes, 1), None, 1.0)
    assert result.round_ms == Percentiles(13.0, 25.0)


def test_the_result_is_json_even_where_figures_are_not_defined(
    fleet: Fleet, nodes: LocalFleet
) -> None:
    for node in nodes.nodes.values():
        node.estimates = {0: [0.0]}
    result = summarise(fleet, nodes, Trajectory.of(nodes, 1), np.zeros(1), 1.234)
    document = json.loads(json.dumps(msgspec.to_builtins(result), allow_nan=False))
    assert document["relative_error"] is None
    assert document["disagreement"] is None
    assert document["round_ms"] == {"p50": None, "p95": None}
    assert document["bytes_per_edge_round"] == 0
    assert (document["nodes"], document["edges"], document["rounds"], document["dimension"]) == (
        3,
        3,
        1,
        1,
    )
    assert document["wall_s"] == 1.23


def test_without_an_optimum_there_is_no_error_to_report(fleet: Fleet, nodes: LocalFleet) -> None:
    for node in nodes.nodes.values():
        node.estimates = {0: [20.0]}
    result = summarise(fleet, nodes, Trajectory.of(nodes, 1), None, 1.0)
    assert result.optimum is None
    assert result.relative_error is None
    assert result.disagreement == 0.0


# -- settled ------------------------------------------------------------------------------------


def result_of(
    fleet: Fleet, nodes: LocalFleet, estimates: list[list[float]], optimum: float | None
) -> RunResult:
    """The result of *estimates*, which has one list for each node."""
    for node, own in zip(nodes.nodes.values(), estimates, strict=False):
        node.estimates = {k: [x] for k, x in enumerate(own)}
    answer = None if optimum is None else np.array([optimum])
    return summarise(fleet, nodes, Trajectory.of(nodes, 1), answer, 1.0)


def test_a_run_has_settled_when_its_answer_is_right_to_two_digits(
    fleet: Fleet, nodes: LocalFleet
) -> None:
    near = result_of(fleet, nodes, [[20.1], [20.1], [20.1]], 20.0)
    assert near.settled is True
    assert near.relative_error == pytest.approx(0.005)
    assert result_of(fleet, nodes, [[20.3], [20.3], [20.3]], 20.0).settled is False
    assert result_of(fleet, nodes, [[19.0], [20.0], [21.0]], 20.0).settled is False


def test_who_has_no_estimate_has_not_settled(fleet: Fleet, nodes: LocalFleet) -> None:
    result = result_of(fleet, nodes, [[20.0], [20.0]], 20.0)
    assert (result.settled, result.relative_error) == (False, 0.0)


def test_without_an_answer_to_compare_to_nodes_must_agree_and_stand_still(
    fleet: Fleet, nodes: LocalFleet
) -> None:
    still = [9.0, 20.0, 20.1, 20.1]
    assert result_of(fleet, nodes, [still] * 3, None).settled is True
    apart = [[9.0, 20.0, 20.0, 20.0], still, [9.0, 21.0, 21.0, 21.0]]
    assert result_of(fleet, nodes, apart, None).settled is False
    # Its last steps are short, as those of every long run: from half of the rounds on it went 2 %.
    creeping = [20.0 + 0.1 * math.log2(k) * 5.8 for k in range(1, 65)]
    result = result_of(fleet, nodes, [creeping] * 3, None)
    assert abs(creeping[-1] - creeping[-2]) / creeping[-1] < 0.001
    assert result.movement == pytest.approx(0.58 / creeping[-1])
    assert (result.settled, result.disagreement) == (False, 0.0)


def test_noise_on_the_result_does_not_keep_a_fleet_from_settling(
    fleet: Fleet, nodes: LocalFleet
) -> None:
    noisy = dataclasses.replace(
        fleet, file=msgspec.structs.replace(fleet.file, privacy=Privacy(epsilon=1.0))
    )
    beside = [[9.0, 20.0, 20.0, 20.0]] * 3
    assert result_of(fleet, nodes, beside, 25.0).settled is False
    result = result_of(noisy, nodes, beside, 25.0)
    assert (result.settled, result.noise, result.relative_error) == (True, True, 0.2)
    out = io.StringIO()
    show_result(result, Console(file=out, width=120))
    assert "relative_error, noise of privacy included" in out.getvalue()
    moving = result_of(noisy, nodes, [[9.0, 20.0, 20.0, 21.0]] * 3, 25.0)
    assert moving.settled is False
    assert "disagreement 0, movement 0.0476" in unsettled_warning(moving)


def test_a_single_round_has_no_first_half(fleet: Fleet, nodes: LocalFleet) -> None:
    result = result_of(fleet, nodes, [[20.0]] * 3, None)
    assert (result.movement, result.settled) == (None, False)


def test_an_error_that_falls_like_one_over_k_is_no_greater_than_the_movement() -> None:
    for rounds in (10, 1000):
        estimates = np.array([1.0 - 0.3 / k for k in range(1, rounds + 1)])[:, None, None]
        error = 0.3 / rounds
        assert movement(Trajectory(estimates)) >= error


def test_rounds_are_counted_up_to_the_one_from_which_the_error_stays_below() -> None:
    errors = [0.5, 0.005, 0.02, 0.009, 0.0009, 0.0002]
    estimates = np.array([1.0 + error for error in errors])[:, None, None]
    found = count_rounds_to(Trajectory(estimates), np.array([1.0]))
    assert found == {"1e-2": 4, "1e-3": 5, "1e-4": None, "1e-6": None}
    nowhere = dict.fromkeys(("1e-2", "1e-3", "1e-4", "1e-6"))
    assert count_rounds_to(Trajectory(estimates), None) == nowhere
    assert count_rounds_to(Trajectory(estimates), np.zeros(1)) == nowhere


def test_a_node_that_is_late_counts_with_the_estimate_that_it_has() -> None:
    estimates = np.array([[1.0, math.nan], [1.0, 1.5], [1.0, math.nan], [1.0, 1.0]])[:, :, None]
    assert count_rounds_to(Trajectory(estimates), np.array([1.0]))["1e-6"] == 4
