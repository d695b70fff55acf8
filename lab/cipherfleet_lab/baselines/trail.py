"""The recorder of a baseline's rounds, and the baselines' two random streams."""

from __future__ import annotations

from typing import Any

import numpy as np

from cipherfleet_lab.systems import Array, Log, Problem
from cipherfleet_node.core.optimiser import mean_stepsize
from cipherfleet_node.settings.sections import Stepsize


def streams(seed: int) -> tuple[np.random.Generator, np.random.Generator]:
    """Return the stream of gradients, equal in all systems, and the system's own stream."""
    return np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])


def mean_stepsizes(stepsize: Stepsize, rounds: int) -> Array:
    """Return lambda_k of every round, shape (rounds,)."""
    return np.array([mean_stepsize(stepsize, k) for k in range(rounds)])


class Trail:
    """Records estimates, gradients and messages of every round."""

    def __init__(self, problem: Problem, rounds: int, sent_width: int = 0) -> None:
        n, d = problem.start.shape
        self._estimates = np.empty((rounds + 1, n, d))
        self._gradients = np.empty((rounds, n, d))
        self._sent = np.empty((rounds, n, sent_width))
        self._k = 0

    def keep(self, estimates: Array, gradients: Array, sent: Array | None = None) -> None:
        """Record a round: the estimates before it, the gradients there, and each node's message."""
        self._estimates[self._k], self._gradients[self._k] = estimates, gradients
        if sent is not None:
            self._sent[self._k] = sent
        self._k += 1

    def log(self, system: str, last: Array, **parts: Any) -> Log:
        """Return the log of all recorded rounds; *last* are the estimates after them."""
        self._estimates[self._k] = last
        sent = self._sent if self._sent.shape[2] else None
        return Log(system, self._estimates, self._gradients, broadcast=sent, **parts)
