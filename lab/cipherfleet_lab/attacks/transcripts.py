"""Transcripts of plaintext systems: an observer who knows the system derives estimates and steps.

A step is lambda_k g_i, the part of an estimate's change that comes from the node's readings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cipherfleet_lab.systems import Array, Log


@dataclass(frozen=True)
class Reading:
    """An adversary's inference about a run; *scales* are the mean stepsizes of *steps*.

    steps[k] corresponds to scales[k] * gradients[first + k] of the log, or with *duals* (of the
    exact method) to scales[k] * (gradients[first + k] + duals[k]).
    """

    states: Array  # (rounds, n, d)
    steps: Array  # (rounds - 1, n, d)
    scales: Array  # (rounds - 1,)
    first: int = 0
    duals: Array | None = None  # (rounds - 1, n, d)

    def gradients(self, rounds: slice) -> Array:
        """Return the inferred gradient of each of *rounds*, counted from `first`."""
        found: Array = self.steps[rounds] / self.scales[rounds, None, None]
        return found if self.duals is None else found - self.duals[rounds]


def read_descent(log: Log) -> Reading:
    """Read x <- x + gamma (W b - b) - step, where b is sent: descent, ternary, noise on b."""
    assert log.broadcast is not None
    assert log.weights is not None
    sent = log.broadcast
    factors = np.ones(len(sent)) if log.attenuations is None else log.attenuations
    flows = factors[:, None, None] * (log.weights @ sent - sent)
    return Reading(sent, (sent + flows)[:-1] - sent[1:], mean_steps(log)[:-1])


def read_tracking(log: Log) -> Reading:
    """Read t(k+1) - W t(k) = g(k+1) - g(k) and t(0) = g(0): the trackers reveal every gradient."""
    assert log.broadcast is not None
    assert log.weights is not None
    d = log.estimates.shape[2]
    states, tracker = log.broadcast[:, :, :d], log.broadcast[:, :, d:]
    changes = tracker[1:] - log.weights @ tracker[:-1]
    gradients = np.concatenate([tracker[:1], changes]).cumsum(axis=0)
    scales = mean_steps(log)[:-1]
    return Reading(states, scales[:, None, None] * gradients[:-1], scales)


def read_push_sum(log: Log) -> Reading:
    """Read w = sum of the received shares, z = w/y, x = w - step; the shares are sent."""
    assert log.broadcast is not None
    assert log.weights is not None
    d = log.estimates.shape[2]
    shares = np.diag(log.weights)[None, :, None]
    arrived = (log.weights > 0).astype(np.float64) @ log.broadcast
    w, y = arrived[:, :, :d], arrived[:, :, d:]
    x = log.broadcast[:, :, :d] / shares
    z = np.concatenate([log.estimates[:1], (w / y)[:-1]])  # the start is public
    return Reading(z, w[:-1] - x[1:], mean_steps(log)[:-1], first=1)


def read_ring(log: Log) -> Reading:
    """Read the mean, which the key holder returns in plaintext: all estimates are near it."""
    assert log.served is not None
    n = log.estimates.shape[1]
    mean = np.repeat(log.served[:, None] / n, n, axis=1)
    return Reading(mean, mean[:-1] - mean[1:], mean_steps(log)[:-1])


def mean_steps(log: Log) -> Array:
    """Return lambda_k, shape (rounds,); ones for consensus, which has no stepsizes."""
    return np.ones(len(log.gradients)) if log.stepsizes is None else log.stepsizes
