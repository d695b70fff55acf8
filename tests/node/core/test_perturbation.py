"""Differential privacy of the result: bounds, noise, releases, and the optimum of the fleet."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipherfleet_analysis.centralised import minimise
from cipherfleet_node.core.objective import Flat
from cipherfleet_node.core.perturbation import (
    Perturbation,
    Perturbed,
    added_curvature,
    clip_rows,
    curvature_bound,
    digest_of_release,
    fleet_deviation,
    gradient_bound,
    node_deviation,
    private_loss,
    release_seeds_of,
)
from cipherfleet_node.core.randomness import FloatVector, RoundRandomness
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.core.statistics import make_node_objective
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import (
    Algorithm,
    Column,
    Feature,
    NodePrivacy,
    ObjectiveSection,
)
from tests.support.memory_fleet import MemoryFleet, names, ring

KINDS = ("least_squares", "ridge", "logistic", "huber")
READINGS = 8
UNUSED = RoundRandomness(bytes(32))
SECRET = hashlib.sha256(b"secret").digest()


def section(kind: str = "least_squares", **changes: Any) -> ObjectiveSection:
    penalty = 0.0 if kind == "least_squares" else 0.1
    return ObjectiveSection(
        kind=kind,
        target=Column(field="y"),
        features=[Feature(constant=1.0), Feature(field="u"), Feature(field="v")],
        **{"penalty": penalty, **changes},
    )


def settings(**changes: Any) -> NodePrivacy:
    return NodePrivacy(**{"epsilon": 1.0, "readings": READINGS, "nodes": 4, **changes})


def made(
    samples: Sequence[Sample], kind: str = "ridge", secret: bytes = SECRET, **changes: Any
) -> Perturbed:
    objective = Perturbed(
        section(kind), Perturbation(settings(**changes), release_seeds_of(secret))
    )
    objective.absorb(samples)
    return objective


def samples(seed: int = 0, count: int = READINGS, kind: str = "ridge") -> list[Sample]:
    chance = np.random.default_rng(seed)
    table = chance.normal(size=(count, 3)) * (1.0, 3.0, 2.0)
    if kind == "logistic":
        table[:, 0] = table[:, 0] > 0
    return [Sample({"y": y, "u": u, "v": v}) for y, u, v in table.tolist()]


# -- bounds ---------------------------------------------------------------------------------------

FINITE = st.floats(-1e6, 1e6)


@given(
    kind=st.sampled_from(KINDS),
    row=st.lists(FINITE, min_size=4, max_size=4),
    x=st.lists(FINITE, min_size=3, max_size=3),
    norm=st.floats(0.01, 100.0),
    residual=st.floats(0.01, 100.0),
)
def test_the_gradient_of_a_clipped_reading_is_bounded_at_every_point(
    kind: str, row: list[float], x: list[float], norm: float, residual: float
) -> None:
    given_, own = section(kind), settings(norm=norm, residual=residual)
    if kind == "logistic":
        row = [*row[:3], float(row[3] > 0)]
    (clipped,) = clip_rows(np.array([row]), norm, with_targets=kind != "logistic")
    phi, y, loss = clipped[:-1], clipped[-1:], private_loss(given_, own)
    z = np.array([phi @ np.array(x)])
    gradient = loss.slope(z, y)[0] * phi / READINGS
    curvature = loss.curvature(z, y)[0] * (phi @ phi) / READINGS
    rounding = 1.0 + 1e-12  # some units in the last place
    assert np.linalg.norm(gradient) <= gradient_bound(given_, own) * rounding
    assert curvature <= curvature_bound(given_, own) * rounding


@given(
    rows=st.lists(st.lists(FINITE, min_size=3, max_size=3), min_size=1, max_size=5),
    norm=st.floats(0.01, 100.0),
)
def test_clipping_raises_no_norm_and_keeps_directions_and_targets(
    rows: list[list[float]], norm: float
) -> None:
    before = np.array(rows)
    after = clip_rows(before, norm, with_targets=False)
    old, new = (np.linalg.norm(each[:, :-1], axis=1) for each in (before, after))
    assert (new <= np.minimum(old, norm) * (1.0 + 1e-12)).all()
    np.testing.assert_array_equal(after[:, -1], before[:, -1])
    short = old <= norm
    np.testing.assert_array_equal(after[short], before[short])
    scaled_too = clip_rows(before, norm, with_targets=True)
    np.testing.assert_array_equal(scaled_too[:, :-1], after[:, :-1])
    assert (np.abs(scaled_too[:, -1]) <= np.abs(before[:, -1])).all()
    scaled = after[:, :-1] * old[:, None]
    np.testing.assert_allclose(scaled, before[:, :-1] * new[:, None], rtol=1e-9, atol=1e-9)


def log_density(
    x: FloatVector, rows: Sequence[tuple[float, float]], given_: ObjectiveSection, own: NodePrivacy
) -> FloatVector:
    """The logarithm of the density of the result at each of *x*, for one parameter, one node."""
    loss, count = private_loss(given_, own), own.readings
    delta, deviation = added_curvature(given_, own) * own.nodes, fleet_deviation(given_, own)
    noise, slope = -delta * x, np.full_like(x, delta)
    for phi, y in rows:
        target = np.full_like(x, y)
        noise = noise - loss.slope(phi * x, target) * phi / count
        slope = slope + loss.curvature(phi * x, target) * phi**2 / count
    normal = -0.5 * (noise / deviation) ** 2 - math.log(deviation * math.sqrt(2.0 * math.pi))
    result: FloatVector = normal + np.log(slope)
    return result


@pytest.mark.parametrize("kind", ["least_squares", "logistic"])
@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 1e-5), (1.0, 0.01), (4.0, 1e-3)])
def test_the_densities_of_two_neighbouring_fleets_have_the_stated_ratio(
    kind: str, epsilon: float, delta: float
) -> None:
    """The exact delta of one parameter: the integral of what exceeds e^epsilon times the other."""
    given_ = section(kind, penalty=0.0)
    own = settings(epsilon=epsilon, delta=delta, readings=3, nodes=1)
    rest = [(0.5, 1.0), (-1.0, 0.0)]
    x = np.linspace(-1.0, 1.0, 100_001) * 12.0 * fleet_deviation(given_, own)
    x /= added_curvature(given_, own)
    width = x[1] - x[0]
    for reading in ((own.norm, 0.0), (own.norm, 1.0), (-own.norm, 1.0)):
        with_it = log_density(x, [*rest, reading], given_, own)
        without = log_density(x, rest, given_, own)
        assert np.exp(with_it).sum() * width == pytest.approx(1.0, abs=1e-3)
        for one, other in ((with_it, without), (without, with_it)):
            excess = np.maximum(np.exp(one) - np.exp(epsilon + other), 0.0).sum() * width
            assert excess <= delta


# -- noise ----------------------------------------------------------------------------------------


def test_the_noise_has_the_stated_deviation_and_is_independent_over_readings() -> None:
    """6,000 normal numbers of fixed seeds, 2,000 releases of one secret.

    The limits are five standard deviations each: a false alarm in fewer than 1 in 100,000 choices
    of the seeds.
    """
    drawn = np.array([made(samples(seed)).noise for seed in range(2000)])
    deviation = node_deviation(section("ridge"), settings())
    numbers = (drawn / deviation).ravel()
    count = numbers.size
    assert abs(numbers.mean()) < 5.0 / math.sqrt(count)
    assert abs(numbers.var() - 1.0) < 5.0 * math.sqrt(2.0 / count)
    neighbours = (drawn[:-1] * drawn[1:]).ravel() / deviation**2
    assert abs(neighbours.mean()) < 5.0 / math.sqrt(neighbours.size)


def test_colluders_leave_the_noise_of_the_fleet_to_the_others() -> None:
    whole = fleet_deviation(section(), settings())
    honest = 3  # of four
    own = node_deviation(section(), settings(colluders=0.25))
    assert own * math.sqrt(honest) == pytest.approx(whole, rel=1e-12)


def test_the_deviation_is_the_one_of_the_source() -> None:
    """zeta sqrt(8 ln(2 / delta) + 4 epsilon) / epsilon over N, with zeta = 5 by default."""
    expected = 5.0 / READINGS * math.sqrt(8.0 * math.log(2e5) + 4.0)
    assert fleet_deviation(section(), settings()) == pytest.approx(expected, rel=1e-12)
    assert 4 * added_curvature(section(), settings()) == pytest.approx(2 * 6.25 / READINGS)


def test_the_same_readings_have_the_same_noise_and_other_ones_another() -> None:
    first = made(samples(1))
    noise = first.noise
    np.testing.assert_array_equal(made(samples(1)).noise, noise)  # after a restart
    first.absorb([])
    assert first.noise is noise
    others = [
        made(samples(2)),
        made(samples(1)[::-1]),
        made(samples(1), secret=b"another"),
        made(samples(1), kind="least_squares"),
        made(samples(1), epsilon=2.0),
        made(samples(1), delta=1e-6),
        made(samples(1), nodes=5),
        made(samples(1), readings=7),
        made(samples(1), colluders=0.5),
        made(samples(1), residual=3.0),
    ]
    directions = [noise / np.linalg.norm(noise)]
    directions += [each.noise / np.linalg.norm(each.noise) for each in others]
    assert len({tuple(np.round(each, 9)) for each in directions}) == len(directions)


def test_the_digest_of_a_release_depends_on_the_clipped_readings_alone() -> None:
    rows = np.array([[3.0, 4.0, 1.0], [-0.0, 1.0, 2.0]])
    longer = np.array([[6.0, 8.0, 2.0], [0.0, 1.0, 2.0]])
    digests = {
        digest_of_release(clip_rows(each, 2.5, with_targets=True), section(), settings())
        for each in (rows, longer)
    }
    assert len(digests) == 1


def test_clipped_readings_fit_the_parameters_that_the_readings_fit() -> None:
    x = np.array([0.5, -1.0, 2.0])
    rows = np.random.default_rng(5).normal(size=(50, 4)) * 3.0
    rows[:, -1] = rows[:, :-1] @ x
    clipped = clip_rows(rows, 2.5, with_targets=True)
    np.testing.assert_allclose(clipped[:, :-1] @ x, clipped[:, -1], rtol=0, atol=1e-12)


# -- the objective --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_perturbed_gradient_has_the_stated_second_derivative(kind: str) -> None:
    objective, x = made(samples(3, kind=kind), kind), np.array([0.2, -0.1, 0.3])
    step = 1e-6
    columns = [
        (objective.gradient(x + step * e, UNUSED) - objective.gradient(x - step * e, UNUSED))
        / (2 * step)
        for e in np.eye(3)
    ]
    np.testing.assert_allclose(objective.hessian(x), np.array(columns), rtol=0, atol=1e-6)
    gap = objective.curvature_bound() - objective.hessian(x)
    assert np.linalg.eigvalsh(gap)[0] > -1e-12
    assert objective.curvature() == pytest.approx(
        np.linalg.eigvalsh(objective.curvature_bound())[-1]
    )


def test_the_window_keeps_the_readings_as_they_are() -> None:
    objective = made(samples(4))
    _ = objective.gradient(np.zeros(3), UNUSED)
    own = [[1.0, s.values["u"], s.values["v"], s.values["y"]] for s in samples(4)]
    np.testing.assert_array_equal(objective.window.rows, own)


def test_a_node_with_fewer_readings_than_promised_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"privacy.readings is 8: .* this node has 7") as refused:
        made(samples(0, READINGS - 1))
    assert "provision the fleet again" in refused.value.remedy


def test_a_follower_adds_nothing() -> None:
    perturbation = Perturbation(settings(), release_seeds_of(SECRET))
    algorithm = Algorithm(rounds=1)
    own = make_node_objective(algorithm, section(), "follower", perturbation)
    assert isinstance(own, Flat)
    assert isinstance(make_node_objective(algorithm, section(), "member", perturbation), Perturbed)


# -- the fleet ------------------------------------------------------------------------------------


def perturbation_of(name: str, nodes: int) -> Perturbation:
    return Perturbation(settings(nodes=nodes, epsilon=20.0), release_seeds_of(name.encode()))


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_the_fleet_ends_at_the_central_perturbed_optimum(kind: str) -> None:
    members = names(4)
    readings = {name: samples(place, kind=kind) for place, name in enumerate(members)}
    perturbations = {name: perturbation_of(name, len(members)) for name in members}
    running = MemoryFleet(
        ring(4),
        readings,
        section(kind),
        Algorithm(rounds=250),
        encrypted=False,
        sealed=True,
        perturbations=perturbations,
    )
    running.run()
    objectives = [Perturbed(section(kind), perturbations[name]) for name in members]
    for name, objective in zip(members, objectives, strict=True):
        objective.absorb(readings[name])
    expected = minimise(objectives)
    quiet = make_node_objective(Algorithm(rounds=1), section(kind))
    quiet.absorb([each for own in readings.values() for each in own])
    for name in members:
        found = np.array(running.seats[name].reported[-1].estimate)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert np.linalg.norm(quiet.gradient(expected, UNUSED)) > 1e-3, "the noise moves the optimum"
