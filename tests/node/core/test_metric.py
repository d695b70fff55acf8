"""Metrics of the exact method: one optimum, within what is stable, equal in all engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cipherfleet_analysis.random_choices import SeededRandomness
from cipherfleet_analysis.simulation import run_objectives
from cipherfleet_node.core.agreement import METRIC_SHARE, SHARE, logarithm, scale_of
from cipherfleet_node.core.exact import REACH, shortening
from cipherfleet_node.core.metric import (
    LEAST_WEIGHT,
    Metric,
    Moments,
    StepInput,
    check_hessian,
    diagonal_entries,
    newton_root,
    newton_step,
    weighted_curvature,
)
from cipherfleet_node.core.optimiser import draw_factors
from cipherfleet_node.core.randomness import FloatVector, RoundRandomness
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.core.state import State
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import (
    AGREE,
    Algorithm,
    MetricName,
    Stepsize,
    exact_scale_of,
)
from tests.support.exact_fleets import (
    LAWS,
    SCALE,
    SQUARES,
    D,
    objectives_of,
    optimum,
    plain_run,
    readings,
    reported,
    run_to,
    six,
    six_links,
    vector_run,
)
from tests.support.memory_fleet import MemoryFleet
from tests.tools.metric_stability import diverges, random_case

METRICS: tuple[MetricName, ...] = ("step", "diagonal", "newton")
SPREADS = (0.0, 0.5, 1.0, 2.0)


def algorithm_of(metric: MetricName, spread: float = 1.0, law: Any = "uniform") -> Algorithm:
    stepsize = Stepsize(spread=spread, law=law)
    scale = SCALE if metric == "step" else METRIC_SHARE * SCALE
    return Algorithm(rounds=300, scale=scale, metric=metric, stepsize=stepsize)


def fleet(rounds: int, metric: MetricName, spread: float = 1.0, **more: Any) -> MemoryFleet:
    algorithm = msgspec.structs.replace(algorithm_of(metric, spread), rounds=rounds)
    settings: dict[str, Any] = {"sealed": True, "leaves_open": True, "encrypted": False, **more}
    return MemoryFleet(six(), readings(six()), SQUARES, algorithm, seed=3, **settings)


# -- the optimum --------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("spread", SPREADS)
def test_every_metric_law_and_spread_leads_to_the_same_optimum(
    metric: MetricName, law: str, spread: float
) -> None:
    objectives = list(objectives_of(readings(six())).values())
    best = optimum(objectives)
    algorithm = algorithm_of(metric, spread, law)
    rounds = run_objectives(
        six_links(), objectives, algorithm, SQUARES, SeededRandomness(5), sealed=True
    )
    last = next(islice(rounds, 399, None)).estimates
    assert np.linalg.norm(last - best, axis=1).max() < 1e-6 * np.linalg.norm(best)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("spread", [0.0, 1.0, 2.0])
def test_the_optimum_is_a_fixed_point_under_every_draw(
    metric: MetricName, law: Any, spread: float
) -> None:
    objectives = list(objectives_of(readings(six())).values())
    best, chance = optimum(objectives), np.random.default_rng(1)
    for objective in objectives:
        own = Metric(objective, metric, spread)
        moments = None
        for k in range(20):
            randomness = RoundRandomness(chance.bytes(32))
            gradient = objective.gradient(best, randomness)
            place = StepInput(best, gradient, -gradient, k, 0.7, randomness, moments)
            factors = draw_factors(Stepsize(spread=spread, law=law), D, randomness)
            step, moments = own.step(place, factors)
            np.testing.assert_allclose(step, np.zeros(D), rtol=0, atol=1e-11)


# -- what is stable -----------------------------------------------------------------------------


MATRICES = arrays.arrays(np.float64, (6, 4), elements=st.floats(-30, 30, width=32))
WEIGHTS = arrays.arrays(np.float64, 4, elements=st.floats(LEAST_WEIGHT, 1))


@given(phi=MATRICES, weights=WEIGHTS, scale=st.floats(0.01, 100), spread=st.floats(0, 2))
def test_every_metric_keeps_within_what_is_stable(
    phi: FloatVector, weights: FloatVector, scale: float, spread: float
) -> None:
    """The mean Lambda has eigenvalues of at most r/c0, and the mean Lambda H of at most r REACH."""
    h, r = phi.T @ phi / 6.0, shortening(spread)
    root = newton_root(h, scale, spread)
    newton = newton_step(root, np.ones(4), np.eye(4))
    entries = diagonal_entries(weights, weighted_curvature(h, weights), scale, spread)
    for mean in (newton, np.diag(entries)):
        assert np.linalg.eigvalsh(mean)[0] > 0
        assert np.linalg.eigvalsh(mean)[-1] <= r / scale * (1 + 1e-9)
        assert np.abs(np.linalg.eigvals(mean @ h)).max() <= r * REACH * (1 + 1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_no_metric_diverges_where_the_scale_is_off_by_ten(metric: MetricName) -> None:
    """Five of the problems of tests/tools/metric_stability.py, each with three scales."""
    for seed in range(5):
        chance = np.random.default_rng(seed)
        case = random_case(chance)
        curvatures = np.linalg.eigvalsh(case.bounds)[:, -1]
        right = float(np.exp(np.log(curvatures).mean())) / REACH
        law: Any = LAWS[seed % 3]
        stepsize = Stepsize(spread=float(chance.choice(SPREADS)), law=law)
        for off in (0.1, 1.0, 10.0):
            assert not diverges(case, metric, off * right, stepsize, seed)


def test_a_metric_beyond_what_is_stable_is_seen_to_diverge() -> None:
    """The test above can fail: a scale far too small for the steps, given as bounds of 1 %."""
    case = random_case(np.random.default_rng(0))
    wrong = replace(case, bounds=case.bounds / 100.0)
    right = float(np.linalg.eigvalsh(case.bounds)[:, -1].mean()) / REACH
    assert diverges(wrong, "newton", right / 100.0, Stepsize(), 0)


# -- moments ------------------------------------------------------------------------------------


def test_weights_are_the_inverse_curvatures_of_separate_entries() -> None:
    h, x = np.array([0.5, 2.0, 8.0]), np.ones(3)
    moments = Moments.first(x, h * x)
    np.testing.assert_array_equal(moments.weights, np.ones(3))
    for k in range(30):
        x = x * (0.5 + 0.1 * (k % 3))
        moments = moments.after(x, h * x)
    np.testing.assert_allclose(moments.weights, [1.0, 0.25, 0.0625], rtol=1e-9)
    assert Moments.of_rows(moments.rows).rows == moments.rows


def test_an_entry_that_never_moves_keeps_the_longest_weight() -> None:
    moments = Moments.first(np.zeros(2), np.zeros(2)).after(
        np.array([1.0, 0.0]), np.array([3.0, 0])
    )
    np.testing.assert_array_equal(moments.weights, [1.0, 1.0])


def test_moments_survive_a_restart() -> None:
    running = fleet(60, "diagonal")
    for name in running.seats:
        running.start(name)
    run_to(running, "n00", 30)
    before = running.seats["n02"].saved
    assert before is not None
    assert before.moments
    restored = msgspec.msgpack.decode(msgspec.msgpack.encode(before), type=State)
    assert restored.moments == before.moments
    running.kill("n02")
    running.start("n02")
    running.advance(running.now + 5_000)
    whole = fleet(60, "diagonal")
    whole.run()
    for name, seat in running.seats.items():
        again, once = seat.reported[-1], whole.seats[name].reported[-1]
        assert again.number == once.number
        np.testing.assert_allclose(again.estimate, once.estimate, rtol=0, atol=1e-12)


# -- all engines --------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["diagonal", "newton"])
@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "pairwise"])
def test_the_exact_fleet_equals_the_plain_reference_under_every_metric(
    metric: MetricName, sealed: bool
) -> None:
    running = fleet(40, metric, sealed=sealed, encrypted=True)
    running.run()
    scale = exact_scale_of(running.algorithm, SQUARES)
    assert scale is not None
    plain = plain_run(running, objectives_of(readings(six())), scale)
    np.testing.assert_allclose(reported(running), plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("metric", ["diagonal", "newton"])
def test_the_agreed_scale_of_other_metrics_is_a_quarter(metric: MetricName) -> None:
    assert logarithm(3.0, metric) == pytest.approx(logarithm(3.0) - 2.0)
    assert logarithm(0.0, metric) == -2.0
    agreeing = msgspec.structs.replace(algorithm_of(metric), scale=AGREE)
    running = MemoryFleet(
        six(), readings(six()), SQUARES, msgspec.structs.replace(agreeing, rounds=60), seed=3,
        sealed=True, leaves_open=True, encrypted=False,
    )  # fmt: skip
    running.run()
    objectives = objectives_of(readings(six()))
    plain = plain_run(running, objectives, AGREE)
    np.testing.assert_allclose(reported(running)[-1], plain[-1], rtol=0, atol=1e-2)
    powers = {seat.saved.scale_power for seat in running.seats.values() if seat.saved}
    assert len(powers) == 1, "all nodes have the same scale"
    curvatures = [each.curvature() for each in objectives.values()]
    mean = float(np.exp(np.mean(np.log(curvatures))))
    assert scale_of(powers.pop() or 0) == pytest.approx(METRIC_SHARE * SHARE * mean, rel=0.3)


@pytest.mark.parametrize("metric", METRICS)
def test_the_vector_engine_equals_the_fleet_under_every_metric(metric: MetricName) -> None:
    running = fleet(40, metric)
    running.run()
    vector = vector_run(running, list(objectives_of(readings(six())).values()))
    np.testing.assert_allclose(reported(running), vector, rtol=0, atol=1e-6)


# -- classes of the user's own ------------------------------------------------------------------


class OwnClass:
    """A user's objective x'Hx/2 without any second derivative."""

    dimension, fields, ready = 3, frozenset[str](), True
    matrix = np.array([[4.0, 1.0, 0.0], [1.0, 2.0, 0.3], [0.0, 0.3, 0.5]])

    def absorb(self, samples: Sequence[Sample]) -> None:
        del samples

    def start(self) -> FloatVector:
        return np.zeros(3)

    def gradient(self, x: FloatVector, randomness: RoundRandomness) -> FloatVector:
        del randomness
        result: FloatVector = self.matrix @ x
        return result


class CurvedClass(OwnClass):
    def hessian(self, x: FloatVector) -> FloatVector:
        del x
        return self.matrix


def test_newton_is_refused_for_a_class_without_a_hessian() -> None:
    with pytest.raises(ConfigError) as refused:
        check_hessian(OwnClass(), "newton")
    assert "OwnClass has no method hessian" in str(refused.value)
    assert "set algorithm.metric: diagonal" in refused.value.remedy
    check_hessian(OwnClass(), "diagonal")
    check_hessian(CurvedClass(), "newton")


def test_the_power_method_serves_the_diagonal_of_a_class_without_a_hessian() -> None:
    """The steps agree with those of the same class with a hessian to 5 %."""
    places: dict[type, FloatVector] = {}
    for kind in (OwnClass, CurvedClass):
        metric, moments = Metric(kind(), "diagonal", 1.0), None
        x, chance = np.ones(3), np.random.default_rng(2)
        for k in range(30):
            randomness = RoundRandomness(chance.bytes(32))
            gradient = kind().gradient(x, randomness)
            place = StepInput(x, gradient, np.zeros(3), k, 0.1, randomness, moments)
            step, moments = metric.step(place, np.ones(3))
            x = x - step
        places[kind] = step / gradient
    np.testing.assert_allclose(places[OwnClass], places[CurvedClass], rtol=0.05)
