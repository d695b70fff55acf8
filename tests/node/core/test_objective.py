"""Gradients and second derivatives against written-out losses, and minibatches."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cipherfleet_node.core.objective import (
    HuberLoss,
    LogisticLoss,
    Mean,
    Regression,
    SquaredLoss,
    feature_values,
    make_objective,
)
from cipherfleet_node.core.randomness import FloatVector, RoundRandomness
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import Column, Feature, ObjectiveSection

NO_DRAWS = RoundRandomness(bytes(32))
FEATURES = [
    Feature(constant=1.0),
    Feature(field="t", offset=20.0, scale=5.0),
    Feature(daily="hour", harmonics=2),
]
D = 6
Loss = Callable[[float, float], float]


def squared(z: float, y: float) -> float:
    return (z - y) ** 2 / 2


def logistic(z: float, y: float) -> float:
    return math.log1p(math.exp(z)) - y * z


def huber(z: float, y: float) -> float:
    residual = abs(z - y)
    return residual**2 / 2 if residual <= 0.7 else 0.7 * residual - 0.7**2 / 2


LOSSES: dict[str, Loss] = {
    "least_squares": squared,
    "ridge": squared,
    "logistic": logistic,
    "huber": huber,
}


def readings(count: int = 12) -> list[Sample]:
    chance = np.random.default_rng(1)
    return [
        Sample(
            {
                "t": float(chance.normal(20, 5)),
                "hour": float(chance.uniform(0, 24)),
                "y": float(chance.normal(41, 10)),
                "class": float(chance.integers(2)),
            }
        )
        for _ in range(count)
    ]


def section(kind: str, **changes: Any) -> ObjectiveSection:
    if kind in ("mean", "average"):
        values = [Column(field="t", offset=20.0, scale=5.0), Column(field="y")]
        return ObjectiveSection(kind=kind, values=values, **changes)
    numeric = Column(field="y", offset=40.0, scale=10.0)
    target = Column(field="class") if kind == "logistic" else numeric
    return ObjectiveSection(kind=kind, target=target, features=FEATURES, threshold=0.7, **changes)


def loss_by_hand(
    kind: str, samples: list[Sample], settings: ObjectiveSection, x: FloatVector
) -> float:
    """f(x) from the texts of the docstrings alone."""
    total = 0.0
    for sample in samples:
        s = sample.values
        if kind == "mean":
            total += ((x[0] - (s["t"] - 20) / 5) ** 2 + (x[1] - s["y"]) ** 2) / 2
            continue
        angle = 2 * math.pi * s["hour"] / 24
        phi = [1.0, (s["t"] - 20) / 5]
        phi += [math.sin(angle), math.cos(angle), math.sin(2 * angle), math.cos(2 * angle)]
        y = s["class"] if kind == "logistic" else (s["y"] - 40) / 10
        total += LOSSES[kind](float(np.dot(phi, x)), y)
    count = settings.normalise_by or len(samples)
    return total / count + settings.penalty / 2 * float(x @ x)


KINDS = ["mean", "least_squares", "ridge", "logistic", "huber"]
CHANGES: list[dict[str, Any]] = [{}, {"weight": "reading", "normalise_by": 7}, {"penalty": 0.3}]
# The mean of readings knows no penalty.
CASES = [(k, c) for k in KINDS for c in CHANGES if k != "mean" or "penalty" not in c]


@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_gradients_are_the_slopes_of_the_losses(kind: str, changes: dict[str, Any]) -> None:
    settings, samples = section(kind, **changes), readings()
    objective = make_objective(settings)
    objective.absorb(samples)
    chance, h = np.random.default_rng(2), 1e-6
    for _ in range(5):
        x = chance.normal(size=objective.dimension)
        steps = h * np.eye(objective.dimension)
        slopes = [
            (
                loss_by_hand(kind, samples, settings, x + s)
                - loss_by_hand(kind, samples, settings, x - s)
            )
            / (2 * h)
            for s in steps
        ]
        np.testing.assert_allclose(objective.gradient(x, NO_DRAWS), slopes, atol=1e-6)


@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_hessians_are_the_slopes_of_the_gradients(kind: str, changes: dict[str, Any]) -> None:
    objective = make_objective(section(kind, **changes))
    assert isinstance(objective, Mean | Regression)
    objective.absorb(readings())
    x, h = np.random.default_rng(3).normal(size=objective.dimension), 1e-6
    slopes = [
        (objective.gradient(x + s, NO_DRAWS) - objective.gradient(x - s, NO_DRAWS)) / (2 * h)
        for s in h * np.eye(objective.dimension)
    ]
    np.testing.assert_allclose(objective.hessian(x), slopes, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_objectives_are_convex(kind: str) -> None:
    objective = make_objective(section(kind))
    assert isinstance(objective, Mean | Regression)
    objective.absorb(readings())
    x = np.random.default_rng(4).normal(size=objective.dimension)
    assert np.linalg.eigvalsh(objective.hessian(x)).min() > -1e-12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalise_by", [None, 30])
def test_minibatch_gradients_are_unbiased(kind: str, normalise_by: int | None) -> None:
    """The mean of 3,000 minibatch gradients, within five deviations of the full one.

    Fixed seeds: deterministic.
    """
    samples = readings()
    weight = {"weight": "reading", "normalise_by": normalise_by} if normalise_by else {}
    full = make_objective(section(kind, **weight))
    batch = make_objective(section(kind, **weight, minibatch=3))
    full.absorb(samples)
    batch.absorb(samples)
    x = np.random.default_rng(5).normal(size=full.dimension)
    drawn = np.array(
        [batch.gradient(x, RoundRandomness(k.to_bytes(32, "big"))) for k in range(3000)]
    )
    deviation = drawn.std(axis=0) / math.sqrt(3000)
    assert np.all(deviation > 0), "minibatches that never differ are no minibatches"
    error = np.abs(drawn.mean(axis=0) - full.gradient(x, NO_DRAWS))
    assert np.all(error < 5 * deviation)


def test_a_minibatch_as_large_as_the_window_is_the_window() -> None:
    for size in (12, 100):
        objective = make_objective(section("ridge", minibatch=size))
        objective.absorb(readings(12))
        x = np.ones(D)
        drawn = {
            tuple(objective.gradient(x, RoundRandomness(k.to_bytes(32, "big"))).tolist())
            for k in range(5)
        }
        assert len(drawn) == 1


def test_the_optimum_of_least_squares_has_no_gradient() -> None:
    samples = readings(30)
    objective = make_objective(section("least_squares"))
    objective.absorb(samples)
    phi = np.array([[v for f in FEATURES for v in feature_values(f, s)] for s in samples])
    y = np.array([(s.values["y"] - 40) / 10 for s in samples])
    optimum = np.linalg.lstsq(phi, y, rcond=None)[0]
    assert np.abs(objective.gradient(optimum, NO_DRAWS)).max() < 1e-12


def test_an_average_starts_at_its_own_readings_and_pulls_nowhere() -> None:
    objective = make_objective(section("average"))
    objective.absorb([Sample({"t": 20.0, "y": 1.0}), Sample({"t": 30.0, "y": 3.0})])
    assert objective.ready
    assert objective.start().tolist() == [1.0, 2.0]
    assert objective.gradient(np.array([5.0, 6.0]), NO_DRAWS).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_all_but_averages_start_at_zero(kind: str) -> None:
    objective = make_objective(section(kind))
    assert not objective.ready
    assert objective.start().tolist() == [0.0] * objective.dimension


def test_the_oldest_readings_leave_the_window() -> None:
    objective = make_objective(section("average", window=3))
    for value in range(10):
        objective.absorb([Sample({"t": 20.0, "y": float(value)})])
    assert objective.start()[1] == 8.0  # of 7, 8, 9
    objective.absorb([Sample({"t": 20.0, "y": float(value)}) for value in range(100, 110)])
    assert objective.start()[1] == 108.0
    objective.absorb([])
    assert objective.start()[1] == 108.0


def test_fields_are_those_that_the_objective_reads() -> None:
    assert make_objective(section("ridge")).fields == {"t", "hour", "y"}
    assert make_objective(section("mean")).fields == {"t", "y"}
    assert make_objective(section("ridge")).dimension == D


@pytest.mark.parametrize("target", [0.5, -1.0, 2.0, math.nan])
def test_logistic_targets_must_be_classes(target: float) -> None:
    objective = make_objective(section("logistic"))
    reading = {"t": 1.0, "hour": 1.0, "class": target}
    with pytest.raises(ConfigError, match="must be 0 or 1") as refused:
        objective.absorb([Sample(reading)])
    assert str(target) not in str(refused.value)
    assert not objective.ready


@pytest.mark.parametrize("z", [-1e4, -40.0, 0.0, 40.0, 1e4])
def test_logistic_slopes_do_not_overflow(z: float) -> None:
    loss = LogisticLoss()
    slope = loss.slope(np.array([z]), np.array([0.0]))[0]
    assert 0.0 <= slope <= 1.0
    assert loss.curvature(np.array([z]), np.array([0.0]))[0] <= 0.25


def test_huber_is_squared_within_its_threshold_and_bounded_beyond() -> None:
    z, y = np.linspace(-5, 5, 101), np.zeros(101)
    slope = HuberLoss(2.0).slope(z, y)
    inside = np.abs(z) <= 2.0
    assert np.array_equal(slope[inside], SquaredLoss().slope(z, y)[inside])
    assert np.abs(slope).max() == 2.0


def test_an_objective_of_ones_own_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("their_objective")
    module.Mine = lambda given: ("made of", given)  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "their_objective", module)
    settings = ObjectiveSection(kind="their_objective:Mine")
    made: object = make_objective(settings)
    assert made == ("made of", settings)


@pytest.mark.parametrize("kind", ["no_such_module:Mine", "math:NoSuchClass"])
def test_an_objective_that_cannot_be_imported_is_told_by_its_name(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"objective.kind '{kind}' cannot be imported"):
        make_objective(ObjectiveSection(kind=kind))


def test_a_regression_without_a_target_is_refused() -> None:
    with pytest.raises(ConfigError, match="target is needed"):
        make_objective(ObjectiveSection(kind="ridge", features=FEATURES))
