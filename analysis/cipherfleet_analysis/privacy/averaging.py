"""Averaging attacks: the rounds that an observer needs to average out the random factors.

Two secrets are a constant times a random factor, which is new in every round:

    half weight   one neighbour sees  h_ji (q_j - q_i),  h uniform on (1/2, 1): mean 3/4, spread 1/3
    stepsize      all neighbours of i see  Lambda_i g_i,  Lambda_i of mean lambda_k, spread s

The law of the factor is public. So every round gives an estimate of the constant, and many rounds
give an accurate one. All figures are relative root mean square errors per entry. They assume the
best case for the observer: the constant does not change (q_j - q_i at quasi-stationary estimates,
g_i at the optimum), and the observer sees every round. The laws are those of
cipherfleet_node.core.optimiser and cipherfleet_node.core.exchange.

While the estimates of a fleet still move, the constant is the gradient at the node's present
estimate. Averaging loses little accuracy then; the error of the best estimators does not fall below
the size of the movement (test_in_a_fleet_that_moves_the_sharp_attack_comes_to_rest).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from cipherfleet_node.core.optimiser import mean_stepsize
from cipherfleet_node.settings.sections import Algorithm, resolution_of

Law = Literal["uniform", "normal", "log-normal"]

HALF_WEIGHT_SPREAD = 1 / 3  # of the uniform law on (1/2, 1) about its mean 3/4
NEGLIGIBLE = 0.1  # of the requested error: smaller rounding does not weaken the best estimator
MOST_ROUNDS = 10**9


def averaging_error(spread: float, rounds: int, noise: float = 0.0) -> float:
    """Return the error of the mean over *rounds*: sqrt(spread^2/(3 rounds) + (noise/rounds)^2).

    It is the same for all laws, because all have the variance of the uniform law, spread^2/3.
    *noise* is `rounding_noise`. The sum of the steps telescopes, so only the rounding of the first
    and the last estimate remains.
    Checked by test_averaging_is_as_good_as_its_formula.
    """
    return math.hypot(spread / math.sqrt(3.0 * rounds), noise / rounds)


def best_estimator_error(spread: float, rounds: int, law: Law = "uniform") -> float:
    """Return the error of the best known estimator, which uses the law and not only its mean.

    uniform:    from the least and the greatest value seen, Lloyd's best linear estimate of scale:
                spread sqrt(2 / ((N+2) (N+1 + spread^2 (N-1)))), near 1/N: exact for every N
    normal:     maximum likelihood, with c = spread/sqrt(3): 1/sqrt(N (1/c^2 + 2)), for large N
    log-normal: the mean of logarithms, with sigma^2 = log(1 + spread^2/3): sigma/sqrt(N), likewise
    Checked by test_the_sharpest_attack_is_as_good_as_its_formula.
    """
    if spread == 0:
        return 0.0
    n, variance = rounds, spread**2 / 3.0
    if law == "uniform":
        return spread * math.sqrt(2.0 / ((n + 2) * (n + 1 + spread**2 * (n - 1))))
    if law == "normal":
        return 1.0 / math.sqrt(n * (1.0 / variance + 2.0))
    return math.sqrt(math.log1p(variance) / n)


def rounding_noise(algorithm: Algorithm, k: int) -> float:
    """Return the error that rounding adds to the step of round *k*, relative to a gradient of 1.

    It is resolution / (sqrt(2) lambda_k): a step is the difference of two estimates, and the
    rounding of each has a standard deviation of at most half a resolution. The coupling term that
    all neighbours know together is exact.
    """
    return resolution_of(algorithm) / math.sqrt(2.0) / mean_stepsize(algorithm.stepsize, k)


def rounds_to_pin_state(error: float) -> int:
    """Return the rounds until one neighbour (pairwise) knows q_j - q_i, and so q_j, to *error*."""
    return _fewest_rounds(lambda n: best_estimator_error(HALF_WEIGHT_SPREAD, n) <= error)


def rounds_to_pin_gradient(algorithm: Algorithm, error: float, *, sharp: bool = True) -> int:
    """Return the rounds until all neighbours of a node know an entry of its gradient to *error*.

    The entry has size 1. If *sharp* is false, the neighbours only average. With spread 0 one round
    suffices, apart from rounding.
    """
    stepsize = algorithm.stepsize
    noise = rounding_noise(algorithm, (algorithm.rounds or 1) - 1)
    averaged = _fewest_rounds(lambda n: averaging_error(stepsize.spread, n, noise) <= error)
    if not sharp or noise > NEGLIGIBLE * error:
        return averaged
    sharpest = _fewest_rounds(
        lambda n: best_estimator_error(stepsize.spread, n, stepsize.law) <= error
    )
    return min(averaged, sharpest)


def _fewest_rounds(is_enough: Callable[[int], bool]) -> int:
    """Return the least number of rounds for which *is_enough* is true, at most about MOST_ROUNDS.

    *is_enough* must be true for all larger numbers, too.
    """
    low, high = 0, 1
    while not is_enough(high) and high < MOST_ROUNDS:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
