"""Measures of a log: one number per round."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .systems import Array, Log, Problem


def relative_error(log: Log, problem: Problem) -> Array:
    """Return the RMS over nodes of |x_i - optimum| / |optimum|, shape (rounds + 1,)."""
    if problem.optimum is None:
        raise ValueError(f"{problem.name} has no optimum to compare with")
    error: Array = np.sqrt(mean_squared_error(log, problem)) / np.linalg.norm(problem.optimum)
    return error


def mean_squared_error(log: Log, problem: Problem) -> Array:
    """Return the mean over nodes of |x_i - optimum|^2, shape (rounds + 1,)."""
    if problem.optimum is None:
        raise ValueError(f"{problem.name} has no optimum to compare with")
    error: Array = np.sum((log.estimates - problem.optimum) ** 2, axis=2).mean(axis=1)
    return error


def disagreement(log: Log) -> Array:
    """Return the RMS over nodes of the distance to their mean, shape (rounds + 1,)."""
    away = log.estimates - log.estimates.mean(axis=1, keepdims=True)
    result: Array = np.sqrt(np.sum(away**2, axis=2).mean(axis=1))
    return result


def objective(log: Log, problem: Problem, rounds: Sequence[int]) -> Array:
    """Return the mean over nodes of F(x_i) before each of *rounds*.

    For a convex F it is never below F at the nodes' mean.
    """
    return np.array([np.mean([problem.objective(x) for x in log.estimates[k]]) for k in rounds])


def stationarity(log: Log, problem: Problem) -> Array:
    """Return |grad F| at the nodes' mean plus the disagreement, shape (rounds + 1,).

    It is zero if and only if all nodes agree on a stationary point.
    """
    if problem.slope is None:
        raise ValueError(f"{problem.name} has no gradient of F")
    slopes = [np.linalg.norm(problem.slope(x)) for x in log.estimates.mean(axis=1)]
    return np.array(slopes) + disagreement(log)
