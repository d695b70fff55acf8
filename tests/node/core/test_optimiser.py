"""Stepsizes, attenuation and the update."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipherfleet_node.core.optimiser import (
    attenuation_factor,
    descend,
    draw_stepsizes,
    mean_stepsize,
)
from cipherfleet_node.core.randomness import RoundRandomness
from cipherfleet_node.settings.sections import Algorithm, Attenuation, Stepsize

Law = Literal["uniform", "normal", "log-normal"]
LAWS: list[Law] = ["uniform", "normal", "log-normal"]
DRAWS = RoundRandomness(bytes(range(32)))


@pytest.mark.parametrize("spread", [0.2, 1.0])
@pytest.mark.parametrize("law", LAWS)
def test_stepsizes_have_the_same_mean_under_every_law(law: Law, spread: float) -> None:
    """A different mean at one node would move the optimum; the deviations agree as well.

    Fixed seed: deterministic.
    """
    count, k = 200_000, 7
    settings = Stepsize(initial=0.4, decay=0.05, exponent=0.9, spread=spread, law=law)
    mean = 0.4 / (1 + 0.05 * 7**0.9)
    drawn = draw_stepsizes(settings, k, count, DRAWS)
    deviation = spread * mean / math.sqrt(3)
    assert drawn.mean() == pytest.approx(mean, abs=5 * deviation / math.sqrt(count))
    # The log-normal law's fourth moment is the largest: five deviations of the sample deviation.
    assert drawn.std() == pytest.approx(deviation, rel=0.03)


@pytest.mark.parametrize("law", LAWS)
def test_without_spread_every_entry_is_the_mean(law: Law) -> None:
    settings = Stepsize(spread=0.0, law=law)
    drawn = draw_stepsizes(settings, 3, 10, DRAWS)
    np.testing.assert_allclose(drawn, mean_stepsize(settings, 3), rtol=1e-15)


def test_uniform_stepsizes_keep_within_their_spread() -> None:
    settings = Stepsize(initial=1.0, decay=0.0, spread=0.3)
    drawn = draw_stepsizes(settings, 0, 10_000, DRAWS)
    assert 0.7 <= drawn.min() < 0.701
    assert 1.299 < drawn.max() <= 1.3


@given(st.integers(0, 10**6))
def test_log_normal_and_uniform_stepsizes_are_never_negative(k: int) -> None:
    randomness = RoundRandomness(k.to_bytes(32, "big"))
    assert np.all(draw_stepsizes(Stepsize(law="log-normal"), k, 20, randomness) > 0)
    assert np.all(draw_stepsizes(Stepsize(law="uniform"), k, 20, randomness) >= 0)


def test_other_rounds_draw_other_stepsizes() -> None:
    one, two = (draw_stepsizes(Stepsize(), 0, 5, RoundRandomness(bytes([k] * 32))) for k in (1, 2))
    assert not np.any(one == two)


@pytest.mark.parametrize(
    ("k", "expected"), [(0, 1.0), (1, 1 / 1.1), (100, 1 / (1 + 0.1 * 100**0.81))]
)
def test_the_attenuation_factor_is_the_articles(k: int, expected: float) -> None:
    assert attenuation_factor(Attenuation(), k) == pytest.approx(expected, rel=1e-15)
    assert attenuation_factor("none", k) == 1.0


def test_the_mean_stepsize_is_its_formula() -> None:
    settings = Stepsize(initial=0.5, decay=0.05, exponent=1.0)
    assert [mean_stepsize(settings, k) for k in (0, 20, 60)] == [0.5, 0.25, 0.125]


@pytest.mark.parametrize("attenuation", ["none", Attenuation(scale=1.0, exponent=1.0)])
def test_one_step_adds_the_attenuated_coupling_and_takes_the_scaled_gradient(
    attenuation: Attenuation | Literal["none"],
) -> None:
    x, coupling, gradient = np.array([1.0, 2.0]), np.array([0.5, -0.5]), np.array([10.0, 20.0])
    settings = Algorithm(
        rounds=9,
        stepsize=Stepsize(initial=0.1, decay=0.0, spread=0.5),
        attenuation=attenuation,
    )
    gamma = 1.0 if attenuation == "none" else 0.25
    steps = draw_stepsizes(settings.stepsize, 3, 2, DRAWS)
    assert steps[0] != steps[1]
    got = descend(x, coupling, gradient, 3, settings, DRAWS)
    np.testing.assert_allclose(got, x + gamma * coupling - steps * gradient, rtol=1e-15)
    assert x.tolist() == [1.0, 2.0], "the estimate handed in stays as it is"
