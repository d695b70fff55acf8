"""The mean residual of the fleet as one more entry of the estimate, and the range of one node."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from cipherfleet_node.core.drift import (
    BOUND,
    KEPT_WINDOWS,
    PER_WINDOW,
    WINDOWS,
    Drifting,
    DriftRange,
    mean_residual,
)
from cipherfleet_node.core.objective import Flat, make_objective
from cipherfleet_node.core.parameters import shared_parameters
from cipherfleet_node.core.randomness import RoundRandomness
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.core.statistics import find_solutions, make_node_objective
from cipherfleet_node.settings.sections import (
    Algorithm,
    Drift,
    MetricName,
    ObjectiveSection,
    Stepsize,
)
from tests.support.exact_fleets import (
    SCALE,
    SQUARES,
    D,
    objectives_of,
    optimum,
    plain_run,
    readings,
    reported,
    six,
    vector_run,
)
from tests.support.memory_fleet import MemoryFleet

WINDOW = 5
DRIFTING = msgspec.structs.replace(SQUARES, drift=Drift(window=WINDOW))
UNUSED = RoundRandomness(bytes(32))
LEAST = WINDOWS * PER_WINDOW


def fleet(
    rounds: int,
    metric: MetricName = "step",
    *,
    section: ObjectiveSection = DRIFTING,
    sealed: bool = True,
    encrypted: bool = False,
    samples: dict[str, Sequence[Sample]] | None = None,
    followers: Sequence[str] = (),
) -> MemoryFleet:
    algorithm = Algorithm(rounds=rounds, scale=SCALE, metric=metric, stepsize=Stepsize(spread=1.0))
    return MemoryFleet(
        six(),
        samples or readings(six()),
        section,
        algorithm,
        seed=5,
        sealed=sealed,
        encrypted=encrypted,
        followers=followers,
    )


def wrapped(samples: dict[str, Sequence[Sample]]) -> dict[str, Drifting]:
    return {name: Drifting(own, WINDOW) for name, own in objectives_of(samples).items()}


def residuals_at_optimum(samples: dict[str, Sequence[Sample]]) -> list[float]:
    own = objectives_of(samples)
    best = optimum(list(own.values()))
    return [mean_residual(each.window.rows, best, WINDOW) for each in own.values()]


@pytest.mark.parametrize(
    ("metric", "sealed"),
    [("step", True), ("step", False), ("diagonal", True), ("newton", True)],
)
def test_the_fleet_with_a_mean_residual_equals_the_plain_reference(
    metric: MetricName, sealed: bool
) -> None:
    running = fleet(30, metric, sealed=sealed, encrypted=True)
    running.run()
    plain = plain_run(running, wrapped(readings(six())), SCALE)
    np.testing.assert_allclose(reported(running), plain, rtol=0, atol=1e-12)


def test_the_vector_engine_has_the_same_run() -> None:
    running = fleet(30)
    running.run()
    made = vector_run(running, list(wrapped(readings(six())).values()))
    np.testing.assert_allclose(reported(running), made, rtol=0, atol=1e-12)


@pytest.mark.parametrize("metric", ["step", "newton"])
def test_all_nodes_end_at_the_optimum_and_at_the_mean_of_the_residuals(metric: MetricName) -> None:
    running = fleet(150, metric)
    running.run()
    samples = readings(six())
    best = optimum(list(objectives_of(samples).values()))
    residuals = residuals_at_optimum(samples)
    expected = [*best, np.mean(residuals)]
    assert np.std(residuals) > 0.01  # otherwise each node would know the mean by itself
    np.testing.assert_allclose(running.estimates(), [expected] * 6, rtol=0, atol=1e-6)


def test_the_parameters_are_those_of_the_fleet_without_it() -> None:
    """The curvature of f_i is above one here, so the stepsizes are the same, too."""
    samples = readings(six())
    assert all(each.curvature() > 1.0 for each in objectives_of(samples).values())
    without, with_it = fleet(20, section=SQUARES), fleet(20)
    without.run()
    with_it.run()
    assert with_it.estimates().shape == (6, D + 1)
    found = find_solutions(with_it.estimates(), with_it.algorithm, DRIFTING)
    assert found.shape == (6, D)
    best = optimum(list(objectives_of(samples).values()))
    distance = [np.abs(each - best).max() for each in (found, without.estimates())]
    assert distance[0] < 3.0 * distance[1]  # other random choices: the same speed


def test_a_follower_ends_at_the_numbers_of_the_members() -> None:
    samples = readings(six())
    running = fleet(200, followers=("n1",))
    running.run()
    own = {name: each for name, each in samples.items() if name != "n1"}
    best = optimum(list(objectives_of(own).values()))
    expected = [*best, np.mean(residuals_at_optimum(own))]
    np.testing.assert_allclose(running.estimates(), [expected] * 6, rtol=0, atol=1e-4)
    flat = make_node_objective(running.algorithm, DRIFTING, "follower")
    assert isinstance(flat, Flat)
    assert flat.dimension == D + 1


def test_one_broken_sensor_moves_the_mean_by_the_bound_at_most() -> None:
    (own, *_) = objectives_of(readings(six())).values()
    rows = own.window.rows.copy()
    rows[:, -1] += 1e6
    assert mean_residual(rows, np.zeros(D), WINDOW) == BOUND
    rows[:, -1] -= 2e6
    assert mean_residual(rows, np.zeros(D), WINDOW) == -BOUND
    point = np.append(np.zeros(D), 0.25)
    assert Drifting(own, WINDOW).gradient(point, UNUSED)[-1] == pytest.approx(
        0.25 - own.window.rows[-WINDOW:, -1].mean(), abs=1e-12
    )


def test_the_window_is_in_the_digest_and_fleets_without_it_have_their_old_one() -> None:
    plain = Algorithm(rounds=1, method="exact")
    tags = {
        shared_parameters(plain, "sealed", 4, 1.0, None, each).tag
        for each in (None, Drift(window=24), Drift(window=25))
    }
    assert len(tags) == 3
    own = [shared_parameters(plain, "sealed", 4, 1.0, None, Drift(alarm=a)).tag for a in (1.0, 9.0)]
    assert own[0] == own[1]  # each node may choose its own limit


def test_an_objective_without_the_section_is_not_wrapped() -> None:
    algorithm = Algorithm(rounds=1)
    assert type(make_node_objective(algorithm, SQUARES)) is type(make_objective(SQUARES))
    assert make_node_objective(algorithm, SQUARES).dimension == D


# -- the range of one node ------------------------------------------------------------------------


def usual(values: Sequence[float], limit: float = 5.0, least: float = 1e-3) -> DriftRange:
    made = DriftRange(24, limit, least)
    for value in values:
        made.judge(value, 1)
    return made


def noise(count: int, seed: int = 1) -> list[float]:
    """Normal numbers of deviation 0.1 around 0.5."""
    return [0.5 + 0.1 * float(x) for x in np.random.default_rng(seed).normal(size=count)]


def test_nothing_is_judged_before_there_are_enough_values() -> None:
    made = usual(noise(LEAST - 1))
    assert made.judge(1e3, 1).z is None
    assert not made.is_alarm
    assert made.judge(0.5, 1).z is not None


def test_a_difference_out_of_range_is_an_alarm_until_it_is_well_within() -> None:
    made = usual(noise(LEAST))
    assert not made.judge(0.9, 1).is_alarm  # about 4 deviations
    assert made.judge(1.2, 1).is_alarm
    assert made.judge(0.9, 1).is_alarm  # hysteresis
    assert not made.judge(0.6, 1).is_alarm
    assert made.judge(-0.2, 1).is_alarm  # the other side


def test_values_of_an_alarm_do_not_become_usual_and_old_values_are_dropped() -> None:
    made = usual(noise(LEAST))
    for _ in range(2 * LEAST):
        assert made.judge(2.0, 1).is_alarm
    assert len(made.history) == LEAST
    assert max(made.history) < 1.0
    many = usual(noise(2 * KEPT_WINDOWS * PER_WINDOW), limit=100.0)
    assert len(many.history) == KEPT_WINDOWS * PER_WINDOW


def test_a_long_window_keeps_a_value_of_several_readings_only() -> None:
    made = DriftRange(240, 5.0, 1e-3)
    for value in noise(100):
        made.judge(value, 1)
    assert made.readings_per_value == 10
    assert len(made.history) == 10


def test_a_range_is_never_narrower_than_what_is_known() -> None:
    made = usual([0.5] * LEAST, least=0.01)
    assert not made.judge(0.54, 1).is_alarm
    assert made.judge(0.56, 1).is_alarm
