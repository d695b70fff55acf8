"""The exact iteration: every node ends at the optimum of the sum, whatever its stepsizes are.

Each node keeps one more private vector, the dual y_i. With the public scale of curvature c0:

    u_i  = x_i - Lambda_i (g_i(x_i) + y_i)         the point that the round shares
    q_i  = Q(u_i);  c_i = sum_j a_ij (q_j - q_i)   the exchange, the same as in every method
    x_i <- q_i + c_i
    y_i <- y_i - BETA c0 c_i

**Why it is exact.** The exchange gives sum_i c_i = 0, so sum_i y_i stays zero. At rest c = 0 means
that all x_i are equal, and u = x means y_i = -g_i(x). Summed over the nodes, sum_i g_i(x) = 0. No
stepsize occurs in this argument, so Lambda_i may be private, random and different on every node.

**Exact integers.** Coupling terms are integers, in units of an opened slot. The node keeps their
sum, the *ledger*, and y_i = -BETA c0 unit ledger_i. The ledgers of a fleet sum to zero up to the
dither. Rounding in floating point never enters them.

**Stepsizes.** Lambda_i is diagonal with mean p_i = min(REACH / L_i, 1 / c0) / (1 + spread), where
L_i is the node's own curvature: the largest eigenvalue of its second derivative. It never leaves
the node. Other choices of Lambda_i are in `metric.py`. A wrong c0 costs rounds in proportion, and
no accuracy. A spread below LEAST_SPREAD gives no longer steps than LEAST_SPREAD: with BETA = 3 they
would diverge.

Source: docs/explanation/algorithm.md#exact-iteration, after NIDS (Li, Shi, Yan, arXiv 1704.07807).
Checked by test_the_exact_fleet_equals_the_plain_reference and
test_the_optimum_is_a_fixed_point_under_every_draw.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .objective import Objective
from .randomness import FloatVector, RoundRandomness

BETA = 3.0
REACH = 1.5
LEAST_SPREAD = 0.5
FALLING_ROUNDS = 50.0  # with minibatches p_i falls as 1 / (1 + k / FALLING_ROUNDS)
FIRST_STEPS = 12  # of the power method
ROUNDS_PER_STEP = 4


def mean_step(curvature: float, scale: float, spread: float) -> float:
    """Return p_i of a node of this *curvature* L_i; *scale* is c0."""
    longest = REACH / curvature if curvature > 0 else float("inf")
    return min(longest, 1.0 / scale) * shortening(spread)


def shortening(spread: float) -> float:
    """Return the mean step, relative to the longest one, for random factors of this *spread*."""
    return 1.0 / (1.0 + max(spread, LEAST_SPREAD))


def falling(k: int) -> float:
    """Return the divisor of p_i in round *k* for gradients of minibatches."""
    return 1.0 + k / FALLING_ROUNDS


def is_sampled(objective: Objective) -> bool:
    """True if a gradient of *objective* uses a part of the readings only."""
    return bool(getattr(objective, "is_sampled", False))  # a user's own class may not say so


def dual(ledger: Sequence[int], scale: float, unit: float) -> FloatVector:
    """Return y_i, shape (d,); *unit* is that of an opened slot, in the objective's units."""
    return np.array([-BETA * scale * unit * entry for entry in ledger], dtype=np.float64)


class Curvature:
    """The curvature L_i of an objective: in closed form, or measured by the power method.

    The power method works on differences of gradients. It takes FIRST_STEPS steps at first, and one
    more in every ROUNDS_PER_STEP rounds.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._direction: FloatVector | None = None
        self._measured = 0.0

    def at(self, x: FloatVector, k: int, randomness: RoundRandomness) -> float:
        """Return L_i near *x* in round *k*."""
        closed = getattr(self._objective, "curvature", None)  # a user's own class may have none
        known = None if closed is None else closed()
        if known is not None:
            return float(known)
        steps = 1 if k % ROUNDS_PER_STEP == 0 else 0
        if self._direction is None:
            steps = FIRST_STEPS
            self._direction = _unit(randomness.normal("curvature", x.size))
        for _ in range(steps):
            self._measured = self._step(x, self._direction, randomness)
        return self._measured

    def weighted(self, x: FloatVector, weights: FloatVector, randomness: RoundRandomness) -> float:
        """Return the curvature L(w) near *x* of an objective without a closed form.

        It is the largest eigenvalue of W^1/2 H_i W^1/2. The weights w change in every round, so
        FIRST_STEPS steps are taken each time, from the latest direction.
        """
        if self._direction is None:
            self._direction = _unit(randomness.normal("curvature", x.size))
        root, found = np.sqrt(weights), 0.0
        for _ in range(FIRST_STEPS):
            found = self._step(x, self._direction, randomness, root)
        return found

    def _step(
        self,
        x: FloatVector,
        direction: FloatVector,
        randomness: RoundRandomness,
        root: FloatVector | float = 1.0,
    ) -> float:
        length = 1e-4 * max(1.0, float(np.linalg.norm(x)))
        ahead = self._objective.gradient(x + length * root * direction, randomness)
        change = root * (ahead - self._objective.gradient(x, randomness)) / length
        size = float(np.linalg.norm(change))
        if size > 0:
            self._direction = change / size
        return size


def _unit(vector: FloatVector) -> FloatVector:
    result: FloatVector = vector / np.linalg.norm(vector)
    return result
