"""The lab's problems: data with known solutions, gradients that match the objectives."""

from __future__ import annotations

import numpy as np
import pytest

from cipherfleet_lab import problems
from cipherfleet_lab.measures import disagreement, objective, relative_error, stationarity
from cipherfleet_lab.systems import Array, Log, Problem

EXACT = {
    "five nodes": problems.five_nodes(noise=0.0),
    "intel lab": problems.intel_lab(),
    "logistic": problems.logistic(),
    "non-convex": problems.non_convex(),
}
DRAWN = {
    "five nodes": problems.five_nodes(),
    "intel lab": problems.intel_lab(minibatch=5),
    "logistic": problems.logistic(minibatch=3),
    "non-convex": problems.non_convex(minibatch=2),
}


def gradients(problem: Problem, x: Array, seed: int = 0) -> Array:
    """Of all nodes at the same *x*."""
    everywhere = np.tile(x, (problem.nodes, 1))
    return problem.all_gradients(everywhere, np.random.default_rng(seed))


def log_of(estimates: Array) -> Log:
    return Log("made up", estimates, np.zeros((len(estimates) - 1, *estimates.shape[1:])))


def test_the_lab_problem_has_the_known_answer() -> None:
    problem = EXACT["intel lab"]
    assert (problem.nodes, problem.dimension, len(problem.edges)) == (50, 4, 178)
    known = [-0.1525029, -0.9587575, -0.1015940, -0.2449960]
    assert problem.optimum == pytest.approx(known, abs=5e-8)
    assert 2 * problem.objective(np.array(known)) == pytest.approx(0.2472, abs=5e-5)


@pytest.mark.parametrize("name", EXACT)
def test_the_gradients_are_the_objectives_slopes(name: str) -> None:
    problem = EXACT[name]
    x = np.random.default_rng(1).normal(size=problem.dimension)
    mean = gradients(problem, x).mean(axis=0)
    small = 1e-5 * np.eye(problem.dimension)
    slopes = [(problem.objective(x + h) - problem.objective(x - h)) / 2e-5 for h in small]
    assert mean == pytest.approx(np.array(slopes), abs=1e-8)
    assert problem.slope is not None
    assert problem.slope(x) == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in EXACT if name != "non-convex"])
def test_nothing_pulls_at_the_optimum(name: str) -> None:
    problem = EXACT[name]
    assert problem.optimum is not None
    assert gradients(problem, problem.optimum).mean(axis=0) == pytest.approx(0.0, abs=1e-12)
    assert np.abs(gradients(problem, problem.optimum)).max() > 0.01  # of single nodes it does


@pytest.mark.parametrize("name", DRAWN)
def test_the_quick_way_draws_what_the_nodes_draw_one_by_one(name: str) -> None:
    problem = DRAWN[name]
    x = np.random.default_rng(2).normal(size=problem.start.shape)
    rng = np.random.default_rng(3)
    single = [g(own, rng) for g, own in zip(problem.gradients, x, strict=True)]
    together = problem.all_gradients(x, np.random.default_rng(3))
    assert together == pytest.approx(np.array(single), abs=1e-14)


@pytest.mark.parametrize("name", DRAWN)
def test_stochastic_gradients_are_unbiased(name: str) -> None:
    """Within five standard errors. Fixed seeds: deterministic."""
    problem, exact = DRAWN[name], EXACT[name]
    x = np.full(problem.dimension, 0.3)
    drawn = np.array([gradients(problem, x, seed) for seed in range(2000)])
    away = np.abs(drawn.mean(axis=0) - gradients(exact, x))
    deviation = drawn.std(axis=0) / np.sqrt(len(drawn))
    assert deviation.min() > 0
    assert (away / deviation).max() < 5


def test_the_non_convex_problem_curves_downwards_at_its_start() -> None:
    readings = problems.non_convex_readings()
    start = problems.non_convex().start[0]
    assert np.linalg.eigvalsh(readings.curvature(start))[0] < -0.01


def test_averages_have_the_mean_as_their_answer() -> None:
    problem = problems.averages(np.array([[1.0, 0.0], [2.0, 5.0], [6.0, 1.0]]), [(0, 1), (1, 2)])
    assert problem.optimum == pytest.approx([3.0, 2.0])
    assert not gradients(problem, problem.start[0]).any()


def test_measures_say_how_far_the_nodes_are() -> None:
    problem = EXACT["five nodes"]
    assert problem.optimum is not None
    offset = np.array([[3.0, 4.0]] * 4 + [[0.0, 0.0]])
    log = log_of(np.array([problem.optimum + 0 * offset, problem.optimum + offset]))
    size = np.linalg.norm(problem.optimum)
    assert relative_error(log, problem) == pytest.approx([0.0, np.sqrt(20.0) / size])
    # 4 nodes at distance 1 from the mean (4/5 of 5), one at distance 4
    assert disagreement(log) == pytest.approx([0.0, 2.0])
    worth = [problem.objective(x) for x in log.estimates[1]]
    assert objective(log, problem, [1]) == pytest.approx([sum(worth) / 5])
    assert problem.slope is not None
    pull = np.linalg.norm(problem.slope(problem.optimum + np.array([2.4, 3.2])))
    assert stationarity(log, problem) == pytest.approx([0.0, pull + 2.0], abs=1e-12)
