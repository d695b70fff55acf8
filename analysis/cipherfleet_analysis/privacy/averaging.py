"""How many rounds an observer that follows the protocol needs to average the randomness away.

Two secrets are a constant times a random factor that is drawn anew in every round:

    half weight   one neighbour sees  h_ji (q_j - q_i),  h uniform on (1/2, 1): mean 3/4, spread 1/3
    stepsize      all neighbours of i see  Lambda_i g_i,  Lambda_i of mean lambda_k, spread s

The law of the factor is public, so that every round is an estimate of the constant, and many are a
good one. All figures here are relative root mean square errors per entry, and assume what helps
the observer most: that the constant stands still while it watches (q_j - q_i at quasi-stationary
estimates, g_i at the optimum), that every round is seen, and the laws of node/optimiser.py and
node/exchange.py. In a fleet that still moves the constant is the gradient where the node stands;
averaging loses little by that, the sharper attacks come to rest at the size of the movement
(test_in_a_fleet_that_moves_the_sharp_attack_comes_to_rest).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from cipherfleet_node.core.optimiser import mean_stepsize
from cipherfleet_node.settings.sections import Algorithm, resolution_of

Law = Literal["uniform", "normal", "log-normal"]

HALF_WEIGHT_SPREAD = 1 / 3  # of the uniform law on (1/2, 1) about its mean 3/4
NEGLIGIBLE = 0.1  # of the error asked for: rounding smaller than that leaves the sharp attack sharp
MOST_ROUNDS = 10**9


def averaging_error(spread: float, rounds: int, noise: float = 0.0) -> float:
    """Of the mean over *rounds*: sqrt(spread^2 / (3 rounds) + (noise / rounds)^2), for every law.

    All laws have the variance of the uniform one, spread^2/3. *noise* is rounding_noise: steps
    telescope, so that only the first and the last estimate's rounding is left of all rounds.
    Checked by test_averaging_is_as_good_as_its_formula.
    """
    return math.hypot(spread / math.sqrt(3.0 * rounds), noise / rounds)


def sharpest_error(spread: float, rounds: int, law: Law = "uniform") -> float:
    """Of the best estimate known to us, which uses the whole law and not its mean alone.

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
    """What rounding two estimates adds to one step of round *k*, relative to a gradient of 1.

    resolution / (sqrt(2) lambda_k): each estimate is off by a standard deviation of at most half a
    resolution. What all neighbours know of the coupling term is exact.
    """
    return resolution_of(algorithm) / math.sqrt(2.0) / mean_stepsize(algorithm.stepsize, k)


def rounds_to_pin_state(error: float) -> int:
    """Rounds in which one neighbour, pairwise, knows q_j - q_i to *error*, and so q_j."""
    return _first(lambda n: sharpest_error(HALF_WEIGHT_SPREAD, n) <= error)


def rounds_to_pin_gradient(algorithm: Algorithm, error: float, *, sharp: bool = True) -> int:
    """Rounds in which all neighbours of a node know an entry of size 1 of its gradient to *error*.

    Not *sharp*: by plain averaging only. With spread 0 one round is enough, but for rounding.
    """
    stepsize = algorithm.stepsize
    noise = rounding_noise(algorithm, (algorithm.rounds or 1) - 1)
    averaged = _first(lambda n: averaging_error(stepsize.spread, n, noise) <= error)
    if not sharp or noise > NEGLIGIBLE * error:
        return averaged
    sharpest = _first(lambda n: sharpest_error(stepsize.spread, n, stepsize.law) <= error)
    return min(averaged, sharpest)


def _first(enough: Callable[[int], bool]) -> int:
    """The least number of rounds that is *enough*, about MOST_ROUNDS at most; so are all above."""
    low, high = 0, 1
    while not enough(high) and high < MOST_ROUNDS:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
