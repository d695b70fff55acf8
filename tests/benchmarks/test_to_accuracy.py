"""The benchmark of what an accuracy costs: its arithmetic, its plaintext nodes, its gates."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import islice
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from accuracy.page import page
from accuracy.plain_node import Iteration, PlainKind, PlainSettings
from accuracy.result import (
    LEVELS,
    AccuracyResult,
    Cost,
    Course,
    Kind,
    MethodResult,
    at_round,
    costs,
)
from accuracy.scene import QuadraticProblem, Scene
from accuracy.with_phe import PHE_METHODS, simulate_descent
from cipherfleet_hil.measurement.environment import describe_machine
from cipherfleet_lab.baselines import Dsgd, GradientTracking
from cipherfleet_lab.systems import Problem, System
from cipherfleet_node.settings.sections import Stepsize
from tests.support.paths import ROOT
from to_accuracy import GATES, evaluate_gates, has_passed

ERRORS = [0.5, 5e-3, 2e-2, 5e-3, 5e-4]  # stays below 1e-2 from the fourth round on
FIGURES = [10.0, 20.0, 30.0, 45.0, 60.0]


def course(errors: list[float] | None = None) -> Course:
    figures = FIGURES[: len(errors or ERRORS)]
    return Course(errors or ERRORS, figures, figures, figures)


def test_a_level_that_was_reached_has_the_figures_of_its_round() -> None:
    measured = costs(course(), ())[0]
    assert (measured.kind, measured.rounds, measured.bytes) == ("measured", 4, 45.0)


def test_a_level_that_only_the_simulation_reached_continues_the_later_pace() -> None:
    simulated = [*ERRORS, *[5e-4] * 4, 5e-5]  # below 1e-4 after ten rounds
    found = costs(course(), simulated)[2]
    pace = (60.0 - 20.0) / 3  # of the last three of five rounds
    assert (found.kind, found.rounds) == ("extrapolated", 10)
    assert found.wall_s == pytest.approx(60.0 + 5 * pace, abs=1e-3)


def test_a_level_that_was_never_reached_is_a_lower_bound() -> None:
    found = costs(course(), [*ERRORS, 5e-4, 5e-4])[3]
    assert (found.kind, found.rounds) == ("lower bound", 7)
    assert costs(course(), ())[3].rounds == 5, "without a simulation: of the rounds that ran"


def test_the_pace_of_one_round_is_its_own() -> None:
    assert at_round([7.0], 3) == 21.0
    assert at_round([7.0, 12.0], 4) == 22.0


# -- the methods --------------------------------------------------------------------------------


def small_problem() -> QuadraticProblem:
    """Return three nodes on a path, two entries, curvatures of about one."""
    rng = np.random.default_rng(1)
    roots = rng.normal(size=(3, 2, 2))
    hessians = np.eye(2) + 0.3 * roots @ roots.swapaxes(1, 2)
    return QuadraticProblem(hessians, rng.normal(size=(3, 2)), [[1], [0, 2], [1]])


def plain_estimates(kind: PlainKind, initial: float, decay: float, rounds: int) -> Any:
    """Return the estimates of plain nodes that hand their numbers over in memory."""
    problem = small_problem()
    nodes = {
        i: Iteration(
            PlainSettings(
                kind=kind,
                node=i,
                weights={j: float(problem.mixing[i, j]) for j in (i, *near)},
                hessian=problem.hessians[i].tolist(),
                offset=problem.offsets[i].tolist(),
                initial=initial,
                decay=decay,
                rounds=rounds,
                host="",
                port=0,
                log="",
            )
        )
        for i, near in enumerate(problem.neighbours)
    }
    for k in range(rounds):
        sent = {i: node.sent for i, node in nodes.items()}
        for i, node in nodes.items():
            node.step({j: sent[j] for j in (i, *problem.neighbours[i])}, k)
    return np.array([node.x for node in nodes.values()])


@pytest.mark.parametrize(
    ("kind", "decay", "system"),
    [
        ("dsgd", 0.1, Dsgd(Stepsize(initial=0.2, decay=0.1))),
        ("gradient-tracking", 0.0, GradientTracking(0.2)),
    ],
)
def test_plain_nodes_run_the_iterations_of_the_lab(
    kind: PlainKind, decay: float, system: System
) -> None:
    small = small_problem()
    problem = Problem(
        name="small",
        edges=[(0, 1), (1, 2)],
        gradients=[lambda x, _: x] * 3,
        start=np.zeros((3, 2)),
        objective=lambda _: 0.0,
        vectorised=lambda x, _: small.gradients(x),
    )
    expected = system.run(problem, 30, 1).estimates[-1]
    np.testing.assert_allclose(plain_estimates(kind, 0.2, decay, 30), expected, atol=1e-12)


def test_a_server_with_phe_descends_as_without_encryption() -> None:
    scene = cast("Scene", SimpleNamespace(problem=small_problem(), key_bits=256))
    server = next(method for method in PHE_METHODS if method.name == "phe-server")
    passed = [x for x, _ in islice(server.rounds(scene), 1, 4)]
    x = np.zeros(2)
    for estimates in passed:
        x = x - scene.problem.best_step * scene.problem.gradients(np.tile(x, (3, 1))).mean(axis=0)
        np.testing.assert_allclose(estimates, np.tile(x, (3, 1)), atol=1e-12)
    assert simulate_descent(scene.problem)[-1] <= 1e-9


# -- gates --------------------------------------------------------------------------------------


def method(name: str, figure: float, kind: Kind = "measured") -> MethodResult:
    return MethodResult(
        name=name,
        title=name,
        settings="",
        hides="",
        processes="",
        rounds_run=5,
        last_error=1e-7,
        costs=tuple(
            Cost(level=level, kind=kind, rounds=9, bytes=figure, cpu_s=figure, wall_s=figure)
            for level in LEVELS
        ),
    )


def result(*methods: MethodResult) -> AccuracyResult:
    return AccuracyResult(
        machine=describe_machine(),
        nodes=3,
        edges=2,
        dimension=2,
        key_bits=256,
        simulated_rounds=7,
        methods=methods,
        not_run={"NVFlare": "not installed"},
        gates=tuple(evaluate_gates(methods)),
    )


@pytest.mark.parametrize(
    ("article", "phe", "kind", "passes"),
    [
        (11.0, 110.0, "measured", True),
        (9.0, 110.0, "measured", False),
        (11.0, 90.0, "measured", False),
        (11.0, 110.0, "lower bound", False),
    ],
)
def test_the_gates_limit_bytes_and_wall_time(
    article: float, phe: float, kind: Kind, *, passes: bool
) -> None:
    found = result(
        method("exact", 1.0, kind),
        method("article-best", article, "extrapolated"),
        method("naive-phe", phe, "extrapolated"),
    )
    assert len(found.gates) == len(GATES)
    assert has_passed(found) is passes


def test_a_gate_whose_methods_did_not_run_does_not_pass() -> None:
    found = result(method("exact", 1.0))
    assert not found.gates
    assert not has_passed(found)


def test_the_page_says_what_is_extrapolated_and_what_did_not_run() -> None:
    text = page(result(method("exact", 1.0), method("article-best", 20.0, "extrapolated")))
    assert "| exact | 9 / 1.0 / 1.0 / 0.0 |" in text
    assert "| article-best | ~ 9 / 20.0 / 20.0 / 0.0 |" in text
    assert "of article-best (extrapolated), limit 0.1: passed" in text
    assert "* NVFlare: not installed" in text


def test_the_page_says_what_the_server_of_flower_learns_where_flower_ran() -> None:
    assert "The server learns the model" in page(result(method("flower", 1.0)))
    assert "The server learns the model" not in page(result(method("exact", 1.0)))


def test_the_result_has_a_schema_and_keeps_infinite_ratios_apart() -> None:
    found = result(method("exact", 1.0, "lower bound"), method("article-best", 2.0))
    again = msgspec.json.decode(msgspec.json.encode(found))
    assert all(math.isinf(gate.ratio) for gate in found.gates)
    assert [gate["ratio"] for gate in again["gates"]] == [None, None]
    assert "methods" in msgspec.json.schema(AccuracyResult)["$defs"]["AccuracyResult"]["properties"]


def test_an_unknown_method_is_a_mistake_of_usage() -> None:
    command = [sys.executable, str(ROOT / "benchmarks/to_accuracy.py"), "--methods", "magic"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
