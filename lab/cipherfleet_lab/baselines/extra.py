"""EXTRA: descent whose bias is corrected by the step before, with a constant stepsize.

    x_i <- sum_j w_ij x_j - lambda g_i                                       in round 0
    x_i <- x_i + sum_j w_ij x_j - sum_j (w_ij + [i = j])/2 x_j(before)
           - lambda (g_i - g_i(before))                                      in later rounds
The messages are the estimates, in plaintext.
Source: Shi, Ling, Wu and Yin, SIAM J. Optim. 25(2), 2015, arXiv 1404.6264;
docs/explanation/algorithm.md#baselines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cipherfleet_lab.mixing import metropolis
from cipherfleet_lab.systems import Log, Problem

from .trail import Trail, streams


@dataclass(frozen=True)
class Extra:
    """EXTRA; *step* is the constant stepsize of all nodes."""

    step: float
    name: str = "EXTRA"

    def run(self, problem: Problem, rounds: int, seed: int) -> Log:
        """Run *rounds* rounds from problem.start; `broadcast` has x_i."""
        rng, _ = streams(seed)
        mix, trail = metropolis(problem), Trail(problem, rounds, problem.dimension)
        x, half, old = problem.start, np.zeros(problem.start.shape), np.zeros(problem.start.shape)
        for k in range(rounds):
            gradients = problem.all_gradients(x, rng)
            trail.keep(x, gradients, x)
            mixed = mix(x)
            moved = mixed - self.step * (gradients - old) + ((x - half) if k else 0.0)
            half, old = 0.5 * (x + mixed), gradients
            x = moved
        steps = np.full(rounds, self.step)
        return trail.log(self.name, x, stepsizes=steps, weights=mix.matrix)
