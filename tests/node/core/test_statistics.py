"""Method statistics: the plain reference, the solution of the equations, and how fast it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cipherfleet_analysis.centralised import minimise
from cipherfleet_analysis.simulation import Links, run_objectives
from cipherfleet_deploy.local.results import relative_error, stays_below
from cipherfleet_lab.reference import NormalEquations, solve_equations
from cipherfleet_lab.simulation import engines
from cipherfleet_lab.simulation.node_randomness import NodeRandomness
from cipherfleet_lab.simulation.scenario import scenario_of_fleet
from cipherfleet_node.core import progress
from cipherfleet_node.core.exact import dual
from cipherfleet_node.core.exchange import UNIT
from cipherfleet_node.core.metric import Metric, StepInput
from cipherfleet_node.core.objective import Mean, Regression, make_objective
from cipherfleet_node.core.randomness import FloatVector, RoundRandomness, simulated_seed
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.core.statistics import (
    FloatArray,
    Statistics,
    find_solutions,
    make_node_objective,
    solve,
)
from cipherfleet_node.core.window import take_in, window_of
from cipherfleet_node.settings.sections import (
    Algorithm,
    Column,
    Feature,
    ObjectiveSection,
    Stepsize,
    resolution_of,
)
from cipherfleet_provisioning.fleet.file import Overrides
from cipherfleet_provisioning.fleet.fleet import load_fleet
from tests.support.exact_fleets import plain_run, reported, six, vector_run
from tests.support.memory_fleet import MemoryFleet, names
from tests.support.paths import ROOT

LAB = ROOT / "examples/intel_lab/fleet.yaml"
D = 3
FIELDS = [f"v{index}" for index in range(D - 1)]
PENALTY = 0.1
RIDGE = ObjectiveSection(
    kind="ridge",
    target=Column(field="y"),
    features=[Feature(constant=1.0), *(Feature(field=name) for name in FIELDS)],
    penalty=PENALTY,
    window=24,
)
MEAN = ObjectiveSection(kind="mean", values=[Column(field=name) for name in FIELDS])
ALGORITHM = Algorithm(rounds=60, method="statistics")
RESOLUTION = resolution_of(ALGORITHM)
UNUSED = RoundRandomness(bytes(32))


def regressors(samples: Sequence[Sample]) -> tuple[FloatArray, FloatArray]:
    rows = [[1.0, *(sample.values[name] for name in FIELDS)] for sample in samples]
    return np.array(rows), np.array([sample.values["y"] for sample in samples])


def made_readings(rows: int, drift: float = 0.0) -> dict[str, list[Sample]]:
    """Readings of each node, of unequal number; the parameters move by *drift* per reading."""
    chance = np.random.default_rng(5)
    made: dict[str, list[Sample]] = {}
    for place, name in enumerate(names(6)):
        count = rows + 2 * place
        values = chance.normal(size=(count, D - 1)) + 0.2 * place
        truth = np.array([0.5, -0.7, 0.4]) + drift * np.arange(count)[:, None]
        noise = 0.2 * chance.normal(size=count)
        y = truth[:, 0] + np.sum(truth[:, 1:] * values, axis=1) + noise
        made[name] = [
            Sample({**dict(zip(FIELDS, map(float, row), strict=True)), "y": float(target)})
            for row, target in zip(values, y, strict=True)
        ]
    return made


def fleet(rounds: int = 60, spread: float = 1.0, **more: Any) -> MemoryFleet:
    algorithm = Algorithm(rounds=rounds, method="statistics", stepsize=Stepsize(spread=spread))
    settings_: dict[str, Any] = {
        "sealed": True,
        "leaves_open": True,
        "encrypted": False,
        "samples": made_readings(12),
        "objective": RIDGE,
        **more,
    }
    samples, objective = settings_.pop("samples"), settings_.pop("objective")
    return MemoryFleet(six(), samples, objective, algorithm, seed=3, **settings_)


def problems_of(
    samples: dict[str, list[Sample]], section: ObjectiveSection = RIDGE
) -> list[Mean | Regression]:
    made = []
    for name in sorted(samples):
        objective = make_objective(section)
        assert isinstance(objective, Mean | Regression)
        objective.absorb(samples[name])
        made.append(objective)
    return made


# -- the iteration ------------------------------------------------------------------------------


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "pairwise"])
def test_the_statistics_fleet_equals_the_plain_reference(sealed: bool) -> None:
    running = fleet(40, sealed=sealed, encrypted=True)
    running.run()
    samples = made_readings(12)
    equations = {name: NormalEquations(*regressors(own), PENALTY) for name, own in samples.items()}
    plain = plain_run(running, equations, 1.0)
    found = reported(running)
    np.testing.assert_allclose(found, plain, rtol=0, atol=1e-12)
    answers = solve(found[-1], running.resolution)
    expected = [solve_equations(own, D) for own in plain[-1]]
    np.testing.assert_allclose(answers, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("spread", [0.0, 1.0, 2.0])
def test_every_spread_leads_to_the_optimum_of_the_exact_method(spread: float) -> None:
    running = fleet(100, spread)
    running.run()
    best = minimise(problems_of(made_readings(12)))
    answers = find_solutions(reported(running)[-1], running.algorithm, RIDGE)
    assert relative_error(answers, best) < 1e-6


def test_the_mean_statistics_are_a_fixed_point_under_every_draw() -> None:
    each = [Statistics(problem, RIDGE) for problem in problems_of(made_readings(12))]
    mean = np.mean([statistics.own for statistics in each], axis=0)
    chance = np.random.default_rng(1)
    for statistics in each:
        gradient = statistics.gradient(mean, UNUSED)
        place = StepInput(mean, gradient, -gradient, 0, 1.0, UNUSED, None)
        step, _ = Metric(statistics, "step", 1.0).step(place, 1 + chance.uniform(-1, 1, mean.size))
        np.testing.assert_allclose(step, np.zeros_like(mean), rtol=0, atol=1e-11)


def test_a_dual_ends_at_the_nodes_statistics_minus_the_mean() -> None:
    """All neighbours of a node together know its dual: this is what they learn."""
    running = fleet(120)
    running.run()
    each = [Statistics(problem, RIDGE).own for problem in problems_of(made_readings(12))]
    for name, own in zip(sorted(running.seats), each, strict=True):
        saved = running.seats[name].saved
        assert saved is not None
        ledger = progress.ledger_of(saved, own.size)
        y = dual(ledger, 1.0, running.resolution * UNIT)
        np.testing.assert_allclose(y, own - np.mean(each, axis=0), rtol=0, atol=1e-5)


def test_followers_end_at_the_statistics_of_the_members() -> None:
    followers = ("n01", "n04")
    running = fleet(150, followers=followers)
    running.run()
    members = {name: own for name, own in made_readings(12).items() if name not in followers}
    found = find_solutions(reported(running)[-1], running.algorithm, RIDGE)
    assert relative_error(found, minimise(problems_of(members))) < 1e-6


def test_a_sliding_window_follows_the_moving_optimum() -> None:
    """One reading of every node in 20 rounds, while the parameters drift."""
    rounds, every, first = 260, 20, 96
    section = msgspec.structs.replace(RIDGE, window=first)
    samples = made_readings(first + rounds // every + 10, drift=0.004)
    later = {
        name: [[own[first + k // every]] if k % every == every - 1 else [] for k in range(rounds)]
        for name, own in samples.items()
    }
    start = {name: own[:first] for name, own in samples.items()}
    running = fleet(rounds, samples=start, later=later, objective=section)
    running.run()
    answers = find_solutions(reported(running), running.algorithm, section)
    best = [
        minimise(problems_of({name: own[:count] for name, own in samples.items()}, section))
        for count in range(first, first + rounds // every + 1)
    ]
    errors = [relative_error(answers[k], best[(k + 1) // every]) for k in range(100, rounds)]
    moved = relative_error(best[0][None], best[-1])
    assert np.sqrt(np.mean(np.square(errors))) < 0.01
    assert moved > 0.05, "the optimum has hardly moved"


# -- the equations ------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise_by", [None, 7])
@pytest.mark.parametrize("kind", ["mean", "least_squares", "ridge"])
def test_the_solution_of_the_mean_statistics_is_the_optimum(
    kind: str, normalise_by: int | None
) -> None:
    shared = MEAN if kind == "mean" else RIDGE
    section = ObjectiveSection(
        kind=kind,
        values=shared.values,
        target=shared.target,
        features=shared.features,
        penalty=PENALTY if kind == "ridge" else 0.0,
        normalise_by=normalise_by,
    )
    problems = problems_of(made_readings(12), section)
    each = [Statistics(problem, section) for problem in problems]
    d = D - 1 if kind == "mean" else D
    expected = d * (d + 3) // 2 if kind != "mean" else d + (normalise_by is not None)
    assert {statistics.own.size for statistics in each} == {expected}
    assert {statistics.dimension for statistics in each} == {expected}
    mean = np.mean([statistics.own for statistics in each], axis=0)
    found = find_solutions(mean[None], ALGORITHM, section)
    np.testing.assert_allclose(found[0], minimise(problems), rtol=1e-9)


@given(st.integers(1, 6), st.integers(0, 2**32 - 1), st.floats(-3, 3))
def test_the_solution_satisfies_its_equations(d: int, seed: int, exponent: float) -> None:
    chance = np.random.default_rng(seed)
    factor = chance.normal(size=(d + 2, d)) * 10.0 ** (exponent / 2)
    matrix, right = factor.T @ factor, chance.normal(size=d)
    least = float(np.linalg.eigvalsh(matrix)[0])
    statistics = np.array([*matrix[np.triu_indices(d)], *right])
    found = solve(statistics, 2.0**-40)
    if least > 1e-6:
        size = np.abs(matrix).max() * np.abs(found).max() + 1.0
        np.testing.assert_allclose(matrix @ found, right, rtol=0, atol=1e-9 * size)


SIZES = st.integers(1, 5)


@given(SIZES.flatmap(lambda d: arrays(np.float64, (4, d * (d + 3) // 2))))
@settings(max_examples=200)
def test_any_numbers_give_a_solution_or_none_and_never_an_error(statistics: FloatArray) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        found = solve(statistics, RESOLUTION)
    assert found.shape[0] == 4
    for row, own in zip(found, statistics, strict=True):
        assert np.isnan(row).all() or np.isfinite(own).all()


def test_collinear_features_get_the_shortest_solution() -> None:
    phi = np.ones((5, 2)) * np.array([1.0, 2.0])
    y = 3.0 * phi[:, 0]
    found = solve(NormalEquations(phi, y).own, RESOLUTION)
    np.testing.assert_allclose(found, np.linalg.lstsq(phi, y, rcond=None)[0], rtol=1e-9)


@pytest.mark.parametrize(
    "statistics",
    [
        [1.0, 2.0, 1.0, 0.0, 0.0],  # eigenvalues 3 and -1
        [0.0, 0.0, 0.0, 1.0, 1.0],
        [np.nan, 0.0, 1.0, 1.0, 1.0],
        [1.0, 0.0, 1.0, np.inf, 1.0],
    ],
)
def test_equations_without_a_minimum_have_no_solution(statistics: list[float]) -> None:
    good = [1.0, 0.0, 1.0, 2.0, 3.0]
    found = solve(np.array([statistics, good]), RESOLUTION)
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1], [2.0, 3.0])


def test_a_mean_over_no_readings_has_no_solution() -> None:
    section = ObjectiveSection(kind="mean", values=MEAN.values, normalise_by=4)
    found = find_solutions(np.array([[0.0, 1.0, 2.0], [0.5, 1.0, 2.0]]), ALGORITHM, section)
    assert np.isnan(found[0]).all()
    assert found[1].tolist() == [2.0, 4.0]


def test_statistics_follow_the_window() -> None:
    made = make_node_objective(ALGORITHM, RIDGE)
    assert isinstance(made, Statistics)
    assert not made.ready
    samples = made_readings(40)["n00"]
    for count in (30, 40):
        made.absorb(samples[made_count(made) : count])
        expected = NormalEquations(*regressors(samples[count - RIDGE.window : count]), PENALTY)
        np.testing.assert_allclose(made.own, expected.own, rtol=1e-12, atol=1e-12)


def made_count(made: Statistics) -> int:
    """The number of readings that the test above has passed before."""
    return 30 if made.ready else 0


# -- rounds -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(1, 4))
def test_ten_motes_come_to_1e_6_within_fifty_rounds(seed: int) -> None:
    lab = load_fleet(LAB, Overrides(nodes=10, rounds=60, method="statistics"), endless=False)
    scenario = scenario_of_fleet(lab)
    assert scenario.optimum is not None
    simulated = engines.run_vector(scenario, 60, seed, own_choices=True)
    errors = [relative_error(scenario.solutions(x), scenario.optimum) for x in simulated]
    to = {level: stays_below(errors, level) or 61 for level in (1e-4, 1e-6)}
    assert to[1e-4] <= 32
    assert to[1e-6] <= 50


def test_ridge_with_forty_parameters_comes_to_1e_6_within_fifty_rounds() -> None:
    section, samples = forty()
    graph = load_fleet(LAB, Overrides(nodes=10)).graph
    each = [Statistics(problem, section) for problem in problems_of(samples, section)]
    assert each[0].dimension == 860
    best = minimise([statistics.problem for statistics in each])
    algorithm = Algorithm(rounds=60, method="statistics")
    errors = [
        relative_error(find_solutions(x, algorithm, section), best)
        for x in simulated_rounds(Links.of(graph), each, algorithm, section)
    ]
    assert (stays_below(errors, 1e-6) or 61) <= 50


def forty() -> tuple[ObjectiveSection, dict[str, list[Sample]]]:
    fields = [f"v{index}" for index in range(40)]
    section = ObjectiveSection(
        kind="ridge",
        target=Column(field="y"),
        features=[Feature(field=name) for name in fields],
        penalty=0.1,
    )
    chance = np.random.default_rng(2)
    truth, samples = chance.normal(size=40), {}
    for name in names(10):
        rows = chance.normal(size=(60, 40)) @ (np.eye(40) + 0.3 * chance.normal(size=(40, 40)))
        rows /= np.sqrt(np.mean(rows**2))
        y = rows @ truth / 3.0 + 0.3 * chance.normal(size=60)
        samples[name] = [
            Sample({**dict(zip(fields, map(float, row), strict=True)), "y": float(target)})
            for row, target in zip(rows, y, strict=True)
        ]
    return section, samples


def simulated_rounds(
    links: Links, each: Sequence[Statistics], algorithm: Algorithm, section: ObjectiveSection
) -> Iterator[FloatArray]:
    ids = names(len(each))
    randomness = NodeRandomness(lambda n, k: simulated_seed(1, "fleet", n, k), ids, links)
    rounds = run_objectives(links, each, algorithm, section, randomness, sealed=True)
    assert algorithm.rounds is not None
    return (passed.estimates for passed in islice(rounds, algorithm.rounds))


def test_the_vector_engine_equals_the_statistics_fleet_for_the_same_draws() -> None:
    running = fleet(40)
    running.run()
    each = [Statistics(problem, RIDGE) for problem in problems_of(made_readings(12))]
    simulated = vector_run(running, each)
    np.testing.assert_allclose(reported(running), simulated, rtol=0, atol=1e-6)


def test_only_method_statistics_changes_the_objective_and_the_answer() -> None:
    for method in ("article", "exact"):
        algorithm = Algorithm(rounds=1, method=method)
        assert isinstance(make_node_objective(algorithm, RIDGE), Regression)
        estimates: FloatVector = np.ones((2, D))
        assert find_solutions(estimates, algorithm, RIDGE) is estimates


@pytest.mark.parametrize("section", [RIDGE, MEAN], ids=lambda section: section.kind)
def test_the_window_of_the_statistics_slides_by_time_and_is_restored(
    section: ObjectiveSection,
) -> None:
    old, new = made_readings(12)["n00"][:6], made_readings(12)["n00"][6:]
    spanned = msgspec.structs.replace(section, window_s=10.0)
    sliding, plain = (make_node_objective(ALGORITHM, each) for each in (spanned, section))
    assert isinstance(sliding, Statistics)
    assert isinstance(plain, Statistics)
    take_in(sliding, old, 100.0)
    before = sliding.own
    take_in(sliding, new, 200.0)
    plain.absorb(new)
    np.testing.assert_array_equal(sliding.own, plain.own)
    restored = make_node_objective(ALGORITHM, section)
    assert isinstance(restored, Statistics)
    window, earlier = window_of(restored), problems_of({"n00": old}, section)[0].window
    assert window is not None
    window.restore(earlier.rows, earlier.ages_s(0.0))
    np.testing.assert_array_equal(restored.own, before)
