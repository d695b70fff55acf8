"""The formulas for averaging attacks, against simulated attacks with real random choices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipherfleet_analysis.privacy.averaging import (
    HALF_WEIGHT_SPREAD,
    Law,
    averaging_error,
    best_estimator_error,
    rounding_noise,
    rounds_to_pin_gradient,
    rounds_to_pin_state,
)
from cipherfleet_node.core.exchange import UNIT, dither, half_weight, metropolis
from cipherfleet_node.core.optimiser import draw_stepsizes, mean_stepsize
from cipherfleet_node.core.quantiser import quantise
from cipherfleet_node.core.randomness import RoundRandomness
from cipherfleet_node.settings.sections import Algorithm, Stepsize

Array = npt.NDArray[np.float64]
LAWS: list[Law] = ["uniform", "normal", "log-normal"]
TRIALS = 20_000  # a root mean square of so many is within 1 % or so; 4 % are tolerated


def root_mean_square(errors: Array) -> float:
    return math.sqrt(float(np.mean(errors**2)))


def seeded(number: int) -> RoundRandomness:
    return RoundRandomness(number.to_bytes(32, "big"))


# -- telescoping: all neighbours of a node ------------------------------------------------------


def telescoped(algorithm: Algorithm, rounds: int) -> Array:
    """Estimates of a gradient of 1 from the rounded estimates that neighbours know, TRIALS entries.

    The flow is known, so it is left out of both sides.
    """
    resolution = algorithm.resolution
    assert isinstance(resolution, float)
    stepsize = algorithm.stepsize
    x = np.random.default_rng(1).uniform(-1, 1, TRIALS)
    known = [np.array(quantise(x, resolution, seeded(0))) * resolution]
    for k in range(rounds):
        x = x - draw_stepsizes(stepsize, k, TRIALS, seeded(1 + k)) * 1.0
        known.append(np.array(quantise(x, resolution, seeded(1000 + k))) * resolution)
    result: Array = (known[0] - known[-1]) / (stepsize.initial * rounds)
    return result


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("spread", "rounds"), [(1.0, 1), (1.0, 12), (0.4, 5)])
def test_averaging_is_as_good_as_its_formula(law: Law, spread: float, rounds: int) -> None:
    """With the real stepsizes and the real quantiser at a fine resolution.

    Fixed seeds: deterministic.
    """
    algorithm = Algorithm(
        rounds=rounds,
        resolution=2.0**-24,
        stepsize=Stepsize(initial=0.3, decay=0.0, spread=spread, law=law),
    )
    error = root_mean_square(telescoped(algorithm, rounds) - 1)
    noise = rounding_noise(algorithm, 0)
    assert error == pytest.approx(averaging_error(spread, rounds, noise), rel=0.04)


@pytest.mark.parametrize("rounds", [1, 4, 16])
def test_rounding_does_not_add_up_over_rounds(rounds: int) -> None:
    """Spread 0: nothing but rounding is left; the formula is a bound, met within a third."""
    algorithm = Algorithm(
        rounds=rounds, resolution=0.2, stepsize=Stepsize(initial=0.3, decay=0.0, spread=0.0)
    )
    error = root_mean_square(telescoped(algorithm, rounds) - 1)
    bound = averaging_error(0.0, rounds, rounding_noise(algorithm, 0))
    assert 0.66 * bound < error <= bound


def best_uniform(seen: Array, spread: float) -> Array:
    """Lloyd's best linear unbiased estimate of scale from extremes; *seen* (rounds, trials)."""
    n = len(seen)
    half = spread * (n - 1) / (n + 1)
    means = np.array([1 - half, 1 + half])
    weights = np.linalg.solve([[n, 1], [1, n]], means)
    weights /= weights @ means
    result: Array = weights @ np.array([seen.min(axis=0), seen.max(axis=0)])
    return result


def best_normal(seen: Array, spread: float) -> Array:
    """The maximum of the likelihood of N(g, c^2 g^2)."""
    c = spread**2 / 3
    mean, square = seen.mean(axis=0), (seen**2).mean(axis=0)
    result: Array = (-mean + np.sqrt(mean**2 + 4 * c * square)) / (2 * c)
    return result


def best_log_normal(seen: Array, spread: float) -> Array:
    result: Array = np.exp(np.log(seen).mean(axis=0) + math.log1p(spread**2 / 3) / 2)
    return result


BEST: dict[Law, Callable[[Array, float], Array]] = {
    "uniform": best_uniform,
    "normal": best_normal,
    "log-normal": best_log_normal,
}


@pytest.mark.parametrize("spread", [1.0, 0.5])
@pytest.mark.parametrize(
    ("law", "rounds"),
    [("uniform", 2), ("uniform", 5), ("uniform", 30), ("normal", 60), ("log-normal", 60)],
)
def test_the_sharpest_attack_is_as_good_as_its_formula(
    law: Law, rounds: int, spread: float
) -> None:
    """Fixed seeds: deterministic."""
    stepsize = Stepsize(initial=1.0, decay=0.0, spread=spread, law=law)
    seen = np.array([draw_stepsizes(stepsize, 0, TRIALS, seeded(k)) for k in range(rounds)])
    error = root_mean_square(BEST[law](seen, spread) - 1)
    assert error == pytest.approx(best_estimator_error(spread, rounds, law), rel=0.04)
    if rounds > 2:
        assert error < root_mean_square(seen.mean(axis=0) - 1)


def steps_of_a_moving_fleet(chance: np.random.Generator, rounds: int) -> tuple[Array, Array]:
    """Ten nodes on a ring fit four numbers; Lambda_i g_i / lambda_k from round 200 on, and g_i."""
    n, d = 10, 4
    phi = np.concatenate([np.ones((n, 40, 1)), chance.normal(size=(n, 40, 3))], axis=2)
    y = (phi @ chance.normal(size=(n, d, 1)))[..., 0] + chance.normal(size=(n, 40))
    hessian = np.einsum("nti,ntj->nij", phi, phi) / 40
    pull = np.einsum("nti,nt->ni", phi, y) / 40
    x, seen, stepsize = np.zeros((n, d)), [], Stepsize()
    gradient = -pull
    for k in range(200 + rounds):
        a = chance.uniform(0.5, 1, (2, n)).prod(axis=0)[:, None] / 3  # of the edge i, i + 1
        flow = a * (np.roll(x, -1, axis=0) - x)
        gradient = np.einsum("nij,nj->ni", hessian, x) - pull
        step = (
            draw_stepsizes(stepsize, k, n * d, RoundRandomness(chance.bytes(32))).reshape(n, d)
            * gradient
        )
        if k >= 200:
            seen.append(step / mean_stepsize(stepsize, k))
        x = x + flow - np.roll(flow, 1, axis=0) - step
    return np.array(seen), gradient


def test_in_a_fleet_that_moves_the_sharp_attack_comes_to_rest() -> None:
    """Of the entries above 0.2, the median error; a normal law's is 0.67 of its deviation."""
    chance, rounds = np.random.default_rng(8), 134
    averaged, sharp = [], []
    for _ in range(6):
        seen, gradient = steps_of_a_moving_fleet(chance, rounds)
        large = np.abs(gradient) > 0.2
        seen, size = seen[:, large] * np.sign(gradient[large]), np.abs(gradient[large])
        averaged.append(np.abs(seen.mean(axis=0) / size - 1))
        sharp.append(np.abs(best_uniform(seen, 1.0) / size - 1))
    error = float(np.median(np.concatenate(averaged)))
    assert 0.5 < error / (0.67 * averaging_error(1.0, rounds)) < 2.5
    assert float(np.median(np.concatenate(sharp))) > 3 * best_estimator_error(1.0, rounds)


# -- the half weight: one neighbour -------------------------------------------------------------


@pytest.mark.parametrize("rounds", [1, 3, 8])
def test_one_neighbour_pins_a_difference_as_the_formulas_say(rounds: int) -> None:
    """With real half weights and real dither: slots H D + e, D standing still."""
    trials, difference = 3_000, 1_000_003
    slots = np.empty((rounds, trials))
    for number in range(rounds * trials):
        randomness = seeded(number)
        weight = half_weight(randomness, "i")
        (noise,) = dither(randomness, "i", weight, 1)
        slots[number % rounds, number // rounds] = (weight * difference + noise) / 2**12
    seen = slots / 0.75 / difference
    tolerance = 0.06  # fewer trials than above
    averaged = averaging_error(HALF_WEIGHT_SPREAD, rounds)
    assert root_mean_square(seen.mean(axis=0) - 1) == pytest.approx(averaged, rel=tolerance)
    if rounds > 1:
        sharp = best_estimator_error(HALF_WEIGHT_SPREAD, rounds)
        best = best_uniform(seen, HALF_WEIGHT_SPREAD)
        assert root_mean_square(best - 1) == pytest.approx(sharp, rel=tolerance)
    assert averaging_error(HALF_WEIGHT_SPREAD, 1) == pytest.approx(0.192, abs=5e-4)


def test_two_neighbours_triangulate_an_estimate() -> None:
    """d = 3: one round of two colluding neighbours gives q_i to a few resolutions."""
    chance, errors = np.random.default_rng(5), []
    for trial in range(300):
        q_i, q_j, q_m = chance.integers(-(2**24), 2**24, (3, 3))
        seen = []
        for name, near in (("j", q_j), ("m", q_m)):
            randomness = seeded(trial)
            weight = half_weight(randomness, name)
            noise = dither(randomness, name, weight, 3)
            seen.append((weight * (q_i - near) + noise).astype(float))
        # q_j + D_j s = q_m + D_m t, three equations for s = 1/H_ij and t = 1/H_im
        system = np.column_stack([seen[0], -seen[1]])
        (s, t), *_ = np.linalg.lstsq(system, (q_m - q_j).astype(float), rcond=None)
        found = (q_j + seen[0] * s + q_m + seen[1] * t) / 2
        errors.append(np.abs(found - q_i).max())
    assert np.median(errors) < 2
    assert np.quantile(errors, 0.95) < 50, "only nearly parallel differences are worse"


def test_in_the_sealed_exchange_two_isolated_terms_give_the_estimate_in_one_dimension() -> None:
    """h_i is the same towards everybody: D_j - D_m = h_i (q_m - q_j)."""
    chance = np.random.default_rng(6)
    for _ in range(100):
        q_i, q_j, q_m = chance.uniform(-1, 1, 3)
        h = half_weight(seeded(int(chance.integers(2**60))), "all") / 2**12
        d_j, d_m = h * (q_i - q_j), h * (q_i - q_m)
        found = q_j + d_j * (q_m - q_j) / (d_j - d_m)
        assert found == pytest.approx(q_i, abs=1e-9)


def test_the_only_neighbour_of_a_leaf_learns_its_value_from_plain_averaging() -> None:
    """A line a - b - c: what b itself sees of a, summed over the rounds, is a's first estimate."""
    state = {"a": 3_000_000, "b": -1_000_000, "c": 250_000}
    links = [("a", "b"), ("b", "c")]
    start, flowed = dict(state), 0.0
    exact: dict[str, float] = {node: float(value) for node, value in state.items()}
    factor = metropolis(1, 2) * UNIT
    for k in range(150):
        randomness = {node: seeded(1000 * k + place) for place, node in enumerate(state)}
        coupling = dict.fromkeys(state, 0.0)
        for i, j in [*links, *((b, a) for a, b in links)]:  # i asks, j answers
            weight, own = half_weight(randomness[j], i), half_weight(randomness[i], j)
            (noise,) = dither(randomness[j], i, weight, 1)
            answer = weight * (state[j] - state[i]) + noise
            coupling[i] += own * answer * factor
            if (i, j) == ("b", "a"):
                flowed -= own * answer * factor  # as a's own term, but for the two dithers
        for node in state:
            exact[node] += coupling[node]
            (state[node],) = quantise(np.array([exact[node]]), 1.0, randomness[node])
    assert abs(state["a"] - state["b"]) < 20, "they agree"
    assert state["b"] - flowed == pytest.approx(start["a"], abs=50)
    assert abs(state["b"] - start["a"]) > 10**6, "which the answer alone does not tell"


def whitened(rows: Array) -> Array:
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    result: Array = (rows - rows.mean(axis=0)) @ (vectors / np.sqrt(values)) @ vectors.T
    return result


def test_blind_separation_tells_the_terms_of_a_sealed_sum_apart() -> None:
    """FastICA: three differences that stand still, three entries, half weights of their own."""
    chance = np.random.default_rng(7)
    differences = chance.normal(size=(3, 3))
    weights = np.array(
        [[half_weight(seeded(k), name) / 2**12 for name in "abc"] for k in range(6_000)]
    )
    seen = weights @ differences  # one sum per round
    white = whitened(seen)
    found: list[Array] = []
    for _ in range(3):
        w = chance.normal(size=3)
        for _ in range(100):
            projected = white @ w
            w = (white * projected[:, None] ** 3).mean(axis=0) - 3 * w
            w -= sum((w @ other) * other for other in found)
            w /= np.linalg.norm(w)
        found.append(w)
    lines = []
    for w in found:
        source = white @ w
        direction = (source[:, None] * (seen - seen.mean(axis=0))).mean(axis=0)
        direction *= math.sqrt(12) / 0.5  # the law's own deviation is 0.5/sqrt(12)
        off = [min(np.linalg.norm(sign * direction - d) for sign in (1, -1)) for d in differences]
        nearest = int(np.argmin(off))
        assert off[nearest] < 0.1 * np.linalg.norm(differences[nearest])
        lines.append(nearest)
    assert sorted(lines) == [0, 1, 2], "each of the three, in an order that means nothing"


# -- rounds -------------------------------------------------------------------------------------


def settings_of(**of_stepsize: Any) -> Algorithm:
    return Algorithm(rounds=200, stepsize=Stepsize(**of_stepsize))


@pytest.mark.parametrize(
    ("error", "plain", "sharp"), [(0.1, 34, 10), (0.05, 134, 20), (0.01, 3334, 100)]
)
def test_rounds_of_full_spread_are_those_of_the_formulas(
    error: float, plain: int, sharp: int
) -> None:
    """By hand: 1/(3 error^2), and N near 1/error less one."""
    assert rounds_to_pin_gradient(settings_of(), error, sharp=False) == plain
    assert rounds_to_pin_gradient(settings_of(), error) == sharp


@given(st.floats(0.05, 1.0), st.floats(1e-3, 0.5), st.sampled_from(LAWS))
def test_the_rounds_named_are_the_first_that_suffice(spread: float, error: float, law: Law) -> None:
    algorithm = settings_of(spread=spread, law=law)
    rounds = rounds_to_pin_gradient(algorithm, error)
    noise = rounding_noise(algorithm, 199)

    def best(n: int) -> float:
        return min(averaging_error(spread, n, noise), best_estimator_error(spread, n, law))

    assert best(rounds) <= error
    assert rounds == 1 or best(rounds - 1) > error


@given(st.floats(1e-3, 1.0), st.integers(1, 10**6))
def test_the_sharpest_attack_on_the_uniform_law_is_never_worse_than_averaging(
    spread: float, rounds: int
) -> None:
    assert best_estimator_error(spread, rounds) <= averaging_error(spread, rounds) * (1 + 1e-12)
    assert best_estimator_error(spread, rounds + 1) < best_estimator_error(spread, rounds)


def test_spread_zero_needs_one_round_and_a_coarse_resolution_more() -> None:
    assert rounds_to_pin_gradient(settings_of(spread=0.0), 0.01) == 1
    coarse = Algorithm(rounds=200, resolution=0.1, stepsize=Stepsize(spread=0.0))
    assert rounds_to_pin_gradient(coarse, 0.05) > 10


def test_a_difference_is_pinned_sooner_than_a_gradient() -> None:
    assert [rounds_to_pin_state(error) for error in (0.2, 0.1, 0.01)] == [1, 4, 44]
