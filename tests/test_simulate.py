"""The lab's simulator: the adapter of the cipherfleet exchanges, both engines, the command."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from cipherfleet_lab.cipherfleet import Cipherfleet
from cipherfleet_lab.systems import Array, Gradient, Log, Problem
from cipherfleet_node.config import Algorithm, Stepsize
from cipherfleet_node.exchange import UNIT

RING = [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)]
Exchange = Literal["pairwise", "sealed"]
EXCHANGES: list[Exchange] = ["pairwise", "sealed"]
STEADY = Algorithm(stepsize=Stepsize(initial=0.3, decay=0.2, spread=0.0), attenuation="none")


def quadratic(noise: float = 0.0) -> Problem:
    """f_i = |x - y_i|^2 / 2 on a ring of five; the optimum is the mean of the y_i."""
    targets = np.random.default_rng(5).normal(size=(5, 3))

    def gradient(target: Array) -> Gradient:
        return lambda x, chance: x - target + noise * chance.standard_normal(3)

    return Problem(
        "five quadratics",
        RING,
        [gradient(target) for target in targets],
        np.full((5, 3), 3.0),
        lambda x: float(((x - targets) ** 2).sum(axis=1).mean() / 2),
        targets.mean(axis=0),
    )


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_the_cipherfleet_system_comes_to_the_optimum(exchange: Exchange) -> None:
    problem = quadratic()
    log = Cipherfleet(exchange, STEADY).run(problem, 400, seed=1)
    assert log.estimates.shape == (401, 5, 3)
    start, end = (np.abs(log.estimates[k] - problem.optimum).max() for k in (0, -1))
    assert end < 0.01 * start


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_log_tells_what_made_every_step(exchange: Exchange) -> None:
    """Without spread, x_{k+1} - x_k = gamma_k c_k - lambda_k g_k."""
    log = Cipherfleet(exchange, STEADY).run(quadratic(noise=0.1), 20, seed=2)
    assert log.couplings is not None
    assert log.stepsizes is not None
    assert log.attenuations is not None
    step = log.attenuations[:, None, None] * log.couplings
    step = step - log.stepsizes[:, None, None] * log.gradients
    np.testing.assert_allclose(np.diff(log.estimates, axis=0), step, rtol=0, atol=1e-14)
    assert np.abs(log.couplings).max() > 0.01


def test_only_the_pairwise_exchange_opens_single_answers() -> None:
    pairwise, sealed = (Cipherfleet(name, STEADY).run(quadratic(), 3, 1) for name in EXCHANGES)
    assert sorted(pairwise.opened) == sorted([*RING, *((b, a) for a, b in RING)])
    assert {answers.shape for answers in pairwise.opened.values()} == {(3, 3)}
    assert not sealed.opened
    for log in (pairwise, sealed):
        assert log.sums is not None
        assert np.array_equal(log.sums, np.round(log.sums))
    assert all(np.array_equal(a, np.round(a)) for a in pairwise.opened.values())


def unguarded(exchange: Exchange) -> Log:
    system = Cipherfleet(exchange, STEADY, dither=False, half_weights=4095)
    return system.run(quadratic(), 10, seed=3)


def test_without_guards_an_answer_is_a_multiple_of_the_difference() -> None:
    log = unguarded("pairwise")
    for i, j in RING:
        assert np.array_equal(log.opened[i, j], -log.opened[j, i])
        assert not np.any(log.opened[i, j] % 4095)
    assert log.resolution is not None
    plain = log.estimates[:-1] / log.resolution
    for i, j in RING:  # q is less than one resolution off
        assert np.abs(log.opened[i, j] / 4095 - (plain[:, j] - plain[:, i])).max() < 2


def test_a_sum_is_the_weighted_sum_of_the_answers() -> None:
    """M = 21 on a ring; the pairwise sum holds the asker's own half weight, the sealed does not."""
    pairwise, sealed = unguarded("pairwise"), unguarded("sealed")
    assert pairwise.sums is not None
    assert sealed.sums is not None
    expected = 21 * (pairwise.opened[0, 1] + pairwise.opened[0, 4])
    np.testing.assert_array_equal(pairwise.sums[:, 0] / 4095, expected)
    for log, factor in ((pairwise, 1), (sealed, 4095)):
        assert log.resolution is not None
        assert log.sums is not None
        assert log.couplings is not None
        c = UNIT * factor * log.resolution * log.sums
        np.testing.assert_allclose(log.couplings, c, rtol=1e-15)
        assert np.abs(c.sum(axis=1)).max() < 1e-15
    assert pairwise.weights is not None
    np.testing.assert_allclose(pairwise.weights.sum(axis=1), 1.0)
    assert pairwise.weights[0, 1] == pytest.approx((4095 / 4096) ** 2 * 21 / 64)


def test_dither_leaves_no_common_factor() -> None:
    """What the guard is for: without it the answers of a round are multiples of H."""
    with_dither, without = (
        Cipherfleet("pairwise", STEADY, dither=dither).run(quadratic(), 50, seed=4)
        for dither in (True, False)
    )
    shared = [
        float(np.mean([np.gcd.reduce(row) > 2048 for row in log.opened[0, 1].astype(np.int64)]))
        for log in (with_dither, without)
    ]
    assert shared[0] == 0.0
    assert shared[1] == 1.0


def test_a_seed_gives_the_same_log_and_another_does_not() -> None:
    system = Cipherfleet("sealed", replace_spread(0.5))
    first, again, other = (system.run(quadratic(noise=0.1), 5, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.estimates, again.estimates)
    assert not np.array_equal(first.estimates, other.estimates)


def replace_spread(spread: float) -> Algorithm:
    return Algorithm(stepsize=Stepsize(initial=0.3, decay=0.2, spread=spread))


def test_the_name_of_a_system_tells_its_guards() -> None:
    system = Cipherfleet("pairwise")
    assert system.name == "cipherfleet pairwise"
    assert replace(system, dither=False).name == "cipherfleet pairwise, no dither"
