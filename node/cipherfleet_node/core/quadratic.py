"""The quadratic shield: it hides a part of a node's curvature from all its neighbours together.

All neighbours of a node together know x_i, u_i and the dual in every round, so they can fit the
second derivative H_i of its objective to them. For a linear model H_i has the second moments of the
node's features. With the quadratic shield the node uses

    f_i(x) + c0 x' Q_i x / 2,  Q_i symmetric,  sum_i Q_i = 0 over the participants of a generation

instead of its objective f_i. The sum of all objectives is the same, so the optimum does not move.
`shield.py` makes Q_i of pairs of shares. A pair keeps its share in all generations: other shares in
each of them would average out. The same share in two sizes would cancel, so another size comes with
another share.

H_i + c0 Q_i may have negative eigenvalues. Stepsizes follow their sizes, and coupling keeps the
node with the others. That needs links of enough weight, and provisioning refuses the quadratic
shield where a node has less than LEAST_COUPLING.

Source: docs/explanation/generations.md#the-quadratic-shield; checked by
test_the_quadratic_shield_does_not_move_the_optimum.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .objective import Objective
from .randomness import FloatVector, RoundRandomness
from .sample import Sample
from .window import FloatMatrix

LEAST_COUPLING = 0.3  # least sum of the Metropolis weights of a node's links
MOST_DIMENSIONS = 32  # every saved state has d (d + 1) / 2 numbers more


def symmetric(upper: Sequence[float] | FloatVector, dimension: int) -> FloatMatrix:
    """Return the symmetric matrix, shape (d, d), with this *upper* triangle, given row by row."""
    matrix = np.zeros((dimension, dimension))
    matrix[np.triu_indices(dimension)] = upper
    result: FloatMatrix = matrix + np.triu(matrix, 1).T
    return result


class WithQuadratic:
    """The objective of a node plus x' *matrix* x / 2; *matrix* is c0 Q_i, shape (d, d)."""

    def __init__(self, objective: Objective, matrix: FloatMatrix) -> None:
        self.objective, self._matrix = objective, matrix
        self.dimension, self.fields = objective.dimension, objective.fields
        self._least = float(np.linalg.eigvalsh(matrix)[0])
        self._bound: tuple[FloatMatrix, FloatMatrix, float] | None = None

    @property
    def ready(self) -> bool:
        """True if there are enough readings for a gradient."""
        return self.objective.ready

    @property
    def is_sampled(self) -> bool:
        """True if a gradient uses a part of the readings only."""
        return bool(getattr(self.objective, "is_sampled", False))  # a user's class may not say so

    def absorb(self, samples: Sequence[Sample]) -> None:
        """Add new readings, and drop the oldest ones beyond the window."""
        self.objective.absorb(samples)

    def start(self) -> FloatVector:
        """Return the first estimate, shape (d,)."""
        return self.objective.start()

    def gradient(self, x: FloatVector, randomness: RoundRandomness) -> FloatVector:
        """Return a stochastic gradient at *x*, shape (d,), unbiased over *randomness*."""
        result: FloatVector = self.objective.gradient(x, randomness) + self._matrix @ x
        return result

    def curvature(self) -> float | None:
        """Return the largest size of an eigenvalue of the second derivative, or None if unknown.

        The objective itself is convex, so no eigenvalue is below the least one of the matrix.
        """
        bound = getattr(self.objective, "curvature_bound", None)
        return None if bound is None else max(self._added(bound())[1], -self._least)

    def added_to(self, bound: FloatMatrix) -> FloatMatrix:
        """Return the *bound* of the objective's own second derivative with the matrix added."""
        return self._added(bound)[0]

    def _added(self, bound: FloatMatrix) -> tuple[FloatMatrix, float]:
        if self._bound is None or self._bound[0] is not bound:
            whole: FloatMatrix = bound + self._matrix
            self._bound = bound, whole, float(np.linalg.eigvalsh(whole)[-1])
        return self._bound[1:]
