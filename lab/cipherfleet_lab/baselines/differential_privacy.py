"""Local differential privacy: clipped gradients, normal noise on messages, a privacy account.

    y_i = x_i + N(0, sigma_k^2)                   sent; a node also mixes its own y_i
    x_i <- sum_j w_ij y_j - lambda_k clip(g_i)    |clip(g)| <= C

Given all earlier messages, the readings of node i enter its next message only through clip(g_i):
two sets of readings change it by at most Delta = 2 lambda_k C. Sets differ in any number of
readings. With sigma = multiplier * Delta each message costs rho = 1/(2 multiplier^2) of
zero-concentrated differential privacy (Bun and Steinke, 2016), and the sum of all messages gives
(epsilon, delta) by epsilon = rho + 2 sqrt(rho ln(1/delta)). The first message is the public start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cipherfleet_lab.mixing import metropolis
from cipherfleet_lab.systems import Array, Log, Problem
from cipherfleet_node.settings.sections import Stepsize

from .trail import Trail, mean_stepsizes, streams


@dataclass(frozen=True)
class DifferentialPrivacy:
    """Differentially private descent; *clip* is C, *multiplier* the noise over the sensitivity.

    The log's figures are rho, epsilon and delta of one node's readings over all rounds.
    """

    stepsize: Stepsize
    clip: float
    multiplier: float
    delta: float = 1e-5
    name: str = "differential privacy"

    def run(self, problem: Problem, rounds: int, seed: int) -> Log:
        """Run *rounds* rounds from problem.start."""
        rng, own = streams(seed)
        mix, steps = metropolis(problem), mean_stepsizes(self.stepsize, rounds)
        moved = sensitivities(steps, self.clip)
        trail, x = Trail(problem, rounds, problem.dimension), problem.start
        for step, deviation in zip(steps, self.multiplier * moved, strict=True):
            gradients = problem.all_gradients(x, rng)
            sent = x + deviation * own.standard_normal(x.shape)
            trail.keep(x, gradients, sent)
            x = mix(sent) - step * clip_gradients(gradients, self.clip)
        rho = sum_privacy_loss(moved, self.multiplier * moved)
        figures = {"rho": rho, "epsilon": epsilon(rho, self.delta), "delta": self.delta}
        return trail.log(self.name, x, stepsizes=steps, weights=mix.matrix, figures=figures)


def clip_gradients(gradients: Array, clip: float) -> Array:
    """Scale each row to a length of at most *clip*."""
    lengths = np.linalg.norm(gradients, axis=1, keepdims=True)
    result: Array = gradients * np.minimum(1.0, clip / np.maximum(lengths, np.finfo(float).tiny))
    return result


def sensitivities(steps: Array, clip: float) -> Array:
    """Return the sensitivity of the message in each round, shape (rounds,)."""
    return np.concatenate([[0.0], 2.0 * clip * steps[:-1]])


def sum_privacy_loss(sensitivity: Array, deviation: Array) -> float:
    """Return rho = sum Delta_k^2 / (2 sigma_k^2) over the rounds that depend on readings."""
    private = sensitivity > 0
    with np.errstate(divide="ignore"):
        return float(np.sum(sensitivity[private] ** 2 / (2.0 * deviation[private] ** 2)))


def epsilon(rho: float, delta: float) -> float:
    """Return the epsilon of (epsilon, delta)-differential privacy that *rho* implies."""
    return rho + 2.0 * math.sqrt(rho * math.log(1.0 / delta))
