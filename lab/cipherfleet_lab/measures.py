"""What figures and tests look at in a log: one number for each round."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .systems import Array, Log, Problem


def relative_error(log: Log, problem: Problem) -> Array:
    """Root mean square over nodes of |x_i - optimum| / |optimum|, shape (rounds + 1,)."""
    if problem.optimum is None:
        raise ValueError(f"{problem.name} has no optimum to compare with")
    error: Array = np.sqrt(mean_squared_error(log, problem)) / np.linalg.norm(problem.optimum)
    return error


def mean_squared_error(log: Log, problem: Problem) -> Array:
    """Mean over nodes of |x_i - optimum|^2, shape (rounds + 1,)."""
    if problem.optimum is None:
        raise ValueError(f"{problem.name} has no optimum to compare with")
    error: Array = np.sum((log.estimates - problem.optimum) ** 2, axis=2).mean(axis=1)
    return error


def disagreement(log: Log) -> Array:
    """Root mean square over nodes of the distance to their mean, shape (rounds + 1,)."""
    away = log.estimates - log.estimates.mean(axis=1, keepdims=True)
    result: Array = np.sqrt(np.sum(away**2, axis=2).mean(axis=1))
    return result


def objective(log: Log, problem: Problem, rounds: Sequence[int]) -> Array:
    """Mean over nodes of F(x_i) before each of *rounds*: what the fleet's own estimates are worth.

    Never below F at the nodes' mean where F is convex.
    """
    return np.array([np.mean([problem.objective(x) for x in log.estimates[k]]) for k in rounds])


def stationarity(log: Log, problem: Problem) -> Array:
    """|grad F| at the mean over nodes plus the disagreement, shape (rounds + 1,).

    Zero exactly where all nodes agree on a stationary point, of a convex objective or another.
    """
    if problem.slope is None:
        raise ValueError(f"{problem.name} does not know the gradient of F")
    slopes = [np.linalg.norm(problem.slope(x)) for x in log.estimates.mean(axis=1)]
    return np.array(slopes) + disagreement(log)
