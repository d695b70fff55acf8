"""Distributed stochastic gradient descent, and average consensus (the same without gradients).

    x_i <- sum_j w_ij x_j - lambda_k g_i
Source: Nedic and Ozdaglar, IEEE TAC 2009; docs/explanation/algorithm.md#baselines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cipherfleet_lab.mixing import metropolis
from cipherfleet_lab.systems import Log, Problem
from cipherfleet_node.settings.sections import Stepsize

from .trail import Trail, mean_stepsizes, streams


@dataclass(frozen=True)
class Dsgd:
    """DSGD: estimates are broadcast in plaintext; every stepsize is the mean, without spread."""

    stepsize: Stepsize
    name: str = "DSGD"

    def run(self, problem: Problem, rounds: int, seed: int) -> Log:
        """Run *rounds* rounds from problem.start."""
        rng, _ = streams(seed)
        mix, steps = metropolis(problem), mean_stepsizes(self.stepsize, rounds)
        trail, x = Trail(problem, rounds, problem.dimension), problem.start
        for step in steps:
            gradients = problem.all_gradients(x, rng)
            trail.keep(x, gradients, x)
            x = mix(x) - step * gradients
        return trail.log(self.name, x, stepsizes=steps, weights=mix.matrix)


@dataclass(frozen=True)
class Consensus:
    """Average consensus, x_i <- sum_j w_ij x_j: the nodes reach the mean of their starts.

    It is the plaintext version of Ruan, Gao and Wang's consensus. Gradients are logged as zero.
    """

    name: str = "average consensus"

    def run(self, problem: Problem, rounds: int, seed: int) -> Log:
        """Run *rounds* rounds from problem.start; nothing is random."""
        del seed
        mix, nothing = metropolis(problem), np.zeros(problem.start.shape)
        trail, x = Trail(problem, rounds, problem.dimension), problem.start
        for _ in range(rounds):
            trail.keep(x, nothing, x)
            x = mix(x)
        return trail.log(self.name, x, weights=mix.matrix)
