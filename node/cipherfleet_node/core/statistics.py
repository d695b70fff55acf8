"""The method `statistics`: the fleet agrees on the mean of its normal equations.

The optimum of a quadratic objective is the solution of H x = b, its normal equations. Over the N
readings (phi, y) of node i they are

    H_i = Phi' Phi / N + penalty I,   b_i = Phi' y / N

and the optimum of the fleet solves the mean equations: mean(H_i) x = mean(b_i). The *statistics*
s_i of a node are the upper triangle of H_i, row by row, and b_i: d (d + 3) / 2 numbers. The fleet
runs the exact iteration (`exact.py`) with the objective f_i(s) = |s - s_i|^2 / 2, whose curvature
is one, whatever the readings are. This is why it needs few rounds. The estimate of a node, which it
exchanges and saves, then consists of statistics. The *solution* is the x that solves their
equations.

For `mean` all H_i are equal, so b_i alone is exchanged. With `normalise_by` they are multiples
w_i I of the identity, and w_i comes before b_i.

**What it shows.** Every node learns mean(H_i) and mean(b_i), which is more than the optimum. All
neighbours of a node together learn s_i exactly: the dual of a node ends at s_i minus the mean.

Source: docs/explanation/algorithm.md#statistics. Checked by
test_the_statistics_fleet_equals_the_plain_reference and
test_the_solution_of_the_mean_statistics_is_the_optimum.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from cipherfleet_node.settings.sections import (
    Algorithm,
    ObjectiveSection,
    Role,
    resolution_of,
)

from .drift import Drifting
from .metric import check_hessian
from .objective import Average, Flat, Mean, Objective, OfReadings, Regression, objective_of
from .perturbation import Perturbation, Perturbed
from .randomness import SEED_BYTES, FloatVector, RoundRandomness

FloatArray = npt.NDArray[np.float64]

# Entries of the mean statistics are right to a few resolutions, and so are the eigenvalues of the
# matrix, times the root of d or less. A smaller eigenvalue cannot be distinguished from zero.
UNCERTAIN_RESOLUTIONS = 16.0
LARGEST = 1e100  # beyond it an eigenvalue is not found; no estimate is nearly as large
_UNUSED = RoundRandomness(bytes(SEED_BYTES))  # gradients over the whole window use no randomness


class Statistics(OfReadings[Mean | Regression]):
    """f(s) = |s - s_i|^2 / 2 for the statistics s_i of the readings of *problem*."""

    def __init__(self, problem: Mean | Regression, section: ObjectiveSection) -> None:
        super().__init__(problem)
        self.dimension = count_statistics(section, problem.dimension)
        self._latest: tuple[FloatArray, FloatVector] | None = None  # rows, and s_i for them

    @property
    def own(self) -> FloatVector:
        """The statistics s_i of the readings in the window, shape (dimension,)."""
        rows = self.window.rows
        if self._latest is None or self._latest[0] is not rows:
            self._latest = rows, _statistics_of(self.problem, self.dimension)
        return self._latest[1]

    def start(self) -> FloatVector:
        """Return zero: the statistics enter through the gradient."""
        return np.zeros(self.dimension)

    def gradient(self, x: FloatVector, randomness: RoundRandomness) -> FloatVector:
        """Return x - s_i; it uses no randomness."""
        del randomness
        return x - self.own

    def curvature(self) -> float:
        """Return one, the only eigenvalue of the second derivative."""
        return 1.0


def make_node_objective(
    algorithm: Algorithm,
    section: ObjectiveSection,
    role: Role = "member",
    perturbation: Perturbation | None = None,
) -> Objective:
    """Return the objective on which a node iterates: that of *section*, or over its statistics.

    With a *perturbation* it has the noise of a release, except on a follower: it has no readings.
    `settings.rules` have checked all four. Raises ConfigError as `make_objective` does, and if a
    class of the user's own lacks what `algorithm.metric` needs.
    """
    problem = objective_of(section, role)
    if perturbation is not None and role == "member":
        problem = Perturbed(section, perturbation)
    check_hessian(problem, algorithm.metric)
    return wrap_objective(algorithm, problem, section)


def wrap_objective(
    algorithm: Algorithm, problem: Objective, section: ObjectiveSection
) -> Objective:
    """Return the objective on which a node iterates, for the *problem* that *section* describes."""
    if section.drift is not None:
        if isinstance(problem, Flat):
            return Flat(problem.dimension + 1)
        assert isinstance(problem, Regression)
        return Drifting(problem, section.drift.window)
    if algorithm.method != "statistics":
        return problem
    if isinstance(problem, Flat):
        return Flat(count_statistics(section, problem.dimension))
    assert isinstance(problem, Mean | Regression)
    assert not isinstance(problem, Average)
    return Statistics(problem, section)


def find_solutions(
    estimates: FloatArray, algorithm: Algorithm, section: ObjectiveSection
) -> FloatArray:
    """Return the solution that follows from each of *estimates*, shape (..., d).

    *estimates* has shape (..., dimension). It is returned unchanged unless the method is
    statistics; the mean residual of `drift.py` is left out. The solution is NaN where the
    statistics determine no minimum: this is usual in the first rounds of a run, and lasts only if
    an objective has none.
    """
    if section.drift is not None:
        return estimates[..., :-1]
    if algorithm.method != "statistics":
        return estimates
    if section.kind != "mean":
        return solve(estimates, resolution_of(algorithm))
    return _divide_by_weights(estimates) if section.normalise_by else estimates


def count_statistics(section: ObjectiveSection, d: int) -> int:
    """Return the number of statistics of an objective of *d* parameters."""
    if section.kind == "mean":
        return d + 1 if section.normalise_by else d
    return d * (d + 3) // 2


def solve(statistics: FloatArray, resolution: float) -> FloatArray:
    """Return the solution x of H x = b for each row of *statistics*, shape (..., d).

    *statistics* has shape (..., d (d + 3) / 2) and was exchanged at *resolution*. Where H is
    singular within that accuracy, the result is the shortest solution, as of a least-squares
    solver. Where H has a negative eigenvalue, or is zero, or an entry is not finite, there is no
    minimum, and the result is NaN.
    """
    matrix, right, is_finite = _unpacked(statistics)
    values, vectors = np.linalg.eigh(matrix)
    least = UNCERTAIN_RESOLUTIONS * resolution * matrix.shape[-1]
    is_positive = values > least
    inverse = np.where(is_positive, 1.0 / np.where(is_positive, values, 1.0), 0.0)
    along = np.einsum("...ji,...j->...i", vectors, right)
    solution: FloatArray = np.einsum("...ij,...j->...i", vectors, inverse * along)
    has_minimum = is_finite & is_positive[..., -1] & (values[..., 0] >= -least)
    return np.where(has_minimum[..., None], solution, np.nan)


def _unpacked(statistics: FloatArray) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    """Return H, b, and where all entries are below LARGEST; zero stands for rows with others."""
    is_finite: npt.NDArray[np.bool_] = np.asarray((np.abs(statistics) < LARGEST).all(axis=-1))
    safe = np.where(is_finite[..., None], statistics, 0.0)
    d = (math.isqrt(9 + 8 * statistics.shape[-1]) - 3) // 2
    rows, columns = np.triu_indices(d)
    matrix = np.zeros((*statistics.shape[:-1], d, d))
    matrix[..., rows, columns] = matrix[..., columns, rows] = safe[..., :-d]
    return matrix, safe[..., -d:], is_finite


def _statistics_of(problem: Mean | Regression, dimension: int) -> FloatVector:
    zero = np.zeros(problem.dimension)
    right: FloatVector = -problem.gradient(zero, _UNUSED)
    matrix = problem.hessian(zero)
    entries = matrix[np.triu_indices(zero.size)]
    if isinstance(problem, Mean):
        entries = entries[: dimension - zero.size]  # the weight of the identity, or nothing
    result: FloatVector = np.concatenate([entries, right])
    return result


def _divide_by_weights(estimates: FloatArray) -> FloatArray:
    """Return b / w of each row (w, b), and NaN where w is not positive."""
    weights = estimates[..., :1]
    is_positive = weights > 0
    result: FloatArray = np.where(
        is_positive, estimates[..., 1:] / np.where(is_positive, weights, 1.0), np.nan
    )
    return result
