"""Ternary quantisation: a node sends only signs and zeros.

    T(v) = r sign(v) with probability |v|/r, else 0
    x_i <- x_i + eps_k sum_j w_ij (T(x_j) - T(x_i)) - lambda_k g_i
Source: Wang and Basar, 2023; docs/explanation/algorithm.md#baselines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cipherfleet_lab.mixing import metropolis
from cipherfleet_lab.systems import Array, Log, Problem
from cipherfleet_node.core.optimiser import attenuation_factor
from cipherfleet_node.settings.sections import Attenuation, Stepsize

from .trail import Trail, mean_stepsizes, streams

ATTENUATION = Attenuation(scale=0.1, exponent=0.81)


def ternary(values: Array, bound: float, rng: np.random.Generator) -> Array:
    """Quantise each entry to -bound, 0 or bound, unbiased; ValueError if one is beyond *bound*.

    Checked by test_ternary_values_are_three_and_unbiased.
    """
    largest = float(np.abs(values).max())
    if not largest <= bound:
        raise ValueError(
            f"an estimate reached {largest:.3g}, ternary values are unbiased up to {bound:.3g}; "
            "raise the bound or shorten the steps"
        )
    signs: Array = bound * np.sign(values) * (bound * rng.random(values.shape) < np.abs(values))
    return signs


@dataclass(frozen=True)
class Ternary:
    """Ternary descent; *bound* is r, public and equal for all; the variance is up to its square."""

    stepsize: Stepsize
    bound: float
    attenuation: Attenuation = ATTENUATION  # eps_k
    name: str = "ternary"

    def run(self, problem: Problem, rounds: int, seed: int) -> Log:
        """Run *rounds* rounds from problem.start."""
        rng, own = streams(seed)
        mix, steps = metropolis(problem), mean_stepsizes(self.stepsize, rounds)
        factors = np.array([attenuation_factor(self.attenuation, k) for k in range(rounds)])
        trail, x = Trail(problem, rounds, problem.dimension), problem.start
        for step, factor in zip(steps, factors, strict=True):
            gradients = problem.all_gradients(x, rng)
            sent = ternary(x, self.bound, own)
            trail.keep(x, gradients, sent)
            # The rows of W sum to one: W T - T is the sum of the weighted differences.
            x = x + factor * (mix(sent) - sent) - step * gradients
        return trail.log(self.name, x, stepsizes=steps, attenuations=factors, weights=mix.matrix)
