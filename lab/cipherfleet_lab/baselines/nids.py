"""NIDS: an exact iteration whose stepsizes do not depend on the network.

    sent:   v_i = 2 x_i - x_i(before) - lambda (g_i - g_i(before));  at first x_i - lambda g_i
    x_i <- sum_j (w_ij + [i = j])/2 v_j;                             at first v_i
The messages are plaintext, of the length of x_i.
Source: Li, Shi and Yan, IEEE Trans. Signal Process. 67(17), 2019, arXiv 1704.07807, without the
proximal term; docs/explanation/algorithm.md#baselines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cipherfleet_lab.mixing import metropolis
from cipherfleet_lab.systems import Log, Problem

from .trail import Trail, streams


@dataclass(frozen=True)
class Nids:
    """NIDS; *step* is the constant stepsize of all nodes, below 2/L for the largest curvature L."""

    step: float
    name: str = "NIDS"

    def run(self, problem: Problem, rounds: int, seed: int) -> Log:
        """Run *rounds* rounds from problem.start; `broadcast` has v_i."""
        rng, _ = streams(seed)
        mix, trail = metropolis(problem), Trail(problem, rounds, problem.dimension)
        x, before, old = problem.start, problem.start, np.zeros(problem.start.shape)
        for k in range(rounds):
            gradients = problem.all_gradients(x, rng)
            sent = 2.0 * x - before - self.step * (gradients - old)
            trail.keep(x, gradients, sent)
            before, old = x, gradients
            x = 0.5 * (sent + mix(sent)) if k else sent
        steps = np.full(rounds, self.step)
        return trail.log(self.name, x, stepsizes=steps, weights=mix.matrix)
