"""Gradient tracking: every node also tracks the mean gradient; a constant stepsize suffices.

    x_i <- sum_j w_ij x_j - lambda t_i
    t_i <- sum_j w_ij t_j + g_i(new) - g_i(old)      t_i = g_i at the start
A message is twice as long: x_i and t_i, both in plaintext.
Source: Nedic, Olshevsky and Shi, SIAM J. Optim. 2017; docs/explanation/algorithm.md#baselines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cipherfleet_lab.mixing import metropolis
from cipherfleet_lab.systems import Log, Problem

from .trail import Trail, streams


@dataclass(frozen=True)
class GradientTracking:
    """Gradient tracking; *step* is the constant lambda."""

    step: float
    name: str = "gradient tracking"

    def run(self, problem: Problem, rounds: int, seed: int) -> Log:
        """Run *rounds* rounds from problem.start; `broadcast` has x_i, then t_i."""
        rng, _ = streams(seed)
        mix, d = metropolis(problem), problem.dimension
        trail, x = Trail(problem, rounds, 2 * d), problem.start
        gradients = problem.all_gradients(x, rng)
        tracker = gradients
        for _ in range(rounds):
            sent = np.concatenate([x, tracker], axis=1)
            trail.keep(x, gradients, sent)
            mixed = mix(sent)
            x = mixed[:, :d] - self.step * tracker
            fresh = problem.all_gradients(x, rng)
            tracker, gradients = mixed[:, d:] + fresh - gradients, fresh
        steps = np.full(rounds, self.step)
        return trail.log(self.name, x, stepsizes=steps, weights=mix.matrix)
