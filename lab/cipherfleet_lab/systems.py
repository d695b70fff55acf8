"""Interfaces of the lab: Problem, System, and the Log of a run.

The cipherfleet exchanges and the baselines are Systems: they solve the same Problem and produce the
same kind of Log. Figures compare logs, attacks analyse one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Gradient = Callable[[Array, np.random.Generator], Array]  # (d,) -> (d,)
# A scale of curvature c0 that is right within a factor of two for features of order one.
USUAL_SCALE = 0.7
AllGradients = Callable[[Array, np.random.Generator], Array]  # (n, d) -> (n, d)


@dataclass(frozen=True)
class Problem:
    """A problem: n nodes on a connected graph jointly minimise F(x) = (1/n) sum_i f_i(x)."""

    name: str
    edges: Sequence[tuple[int, int]]  # undirected, each once
    gradients: Sequence[Gradient]  # of each f_i: (x of shape (d,), rng) -> shape (d,)
    start: Array  # (n, d)
    objective: Callable[[Array], float]  # F at x of shape (d,)
    optimum: Array | None = None  # (d,), None if it is unknown
    classes: Sequence[str] = field(default=())  # names of the entries of x, for tables
    vectorised: AllGradients | None = (
        None  # `gradients` of all nodes at once, with the same random choices
    )
    slope: Callable[[Array], Array] | None = None  # the gradient of F at x of shape (d,), exact
    # What the exact method needs: g_i at x_i over the whole window, shapes (n, d); a bound on every
    # second derivative at any x, shape (n, d, d), which of a quadratic objective is that derivative
    # itself; and the scale of curvature c0.
    whole: Callable[[Array], Array] | None = None
    bounds: Array | None = None
    scale: float = USUAL_SCALE

    @property
    def nodes(self) -> int:
        return len(self.gradients)

    @property
    def dimension(self) -> int:
        return int(self.start.shape[1])

    def all_gradients(self, x: Array, rng: np.random.Generator) -> Array:
        """Return g_i at x_i of every node, shape (n, d), vectorised if possible."""
        if self.vectorised is not None:
            return self.vectorised(x, rng)
        return np.array([g(own, rng) for g, own in zip(self.gradients, x, strict=True)])

    def neighbours(self, node: int) -> list[int]:
        """Return the neighbours of *node*, ascending."""
        return sorted(
            {b for a, b in self.edges if a == node} | {a for a, b in self.edges if b == node}
        )


@dataclass(frozen=True)
class Log:
    """The log of a run: results, true gradients, and what each observer received.

    Everything is float64; rounds are the first axis. The fields below `gradients` contain only what
    an observer in that position receives.
    """

    system: str
    estimates: Array  # (rounds + 1, n, d)
    # (rounds, n, d): the truth for scoring attacks; no observer sees it. With a quadratic shield
    # they are those of f_i(x) + c0 x' Q_i x / 2.
    gradients: Array
    # Sent in clear by node i to all its neighbours, as a vector: an eavesdropper reads it.
    broadcast: Array | None = None  # (rounds, n, m)
    # Sent in clear from i to j alone (obfuscations): (i, j) -> (rounds, m).
    between: Mapping[tuple[int, int], Array] = field(default_factory=dict)
    # What asker i decrypts from the answer of neighbour j: (i, j) -> (rounds, d).
    opened: Mapping[tuple[int, int], Array] = field(default_factory=dict)
    # What asker i decrypts from the combination of all answers: (rounds, n, d).
    sums: Array | None = None
    # The coupling term c_i in the estimates' units: (rounds, n, d). All neighbours of i together
    # know it as well.
    couplings: Array | None = None
    # The half weights H of i towards j: (i, j) -> (rounds,). Node i knows only its own.
    half_weights: Mapping[tuple[int, int], Array] = field(default_factory=dict)
    # What a key holder decrypts: (rounds, d).
    served: Array | None = None
    # Public knowledge about the system: mean stepsizes lambda_k, gamma_k, weights.
    stepsizes: Array | None = None  # (rounds,), means
    attenuations: Array | None = None  # (rounds,)
    weights: Array | None = None  # (n, n), the mean mixing matrix
    resolution: float | None = None  # delta
    # The exact method: the points u_i that the rounds share (its neighbours see them, not the
    # estimates), (rounds, n, d), and the public factor of y_i = -dual_rate times the sum of c_i.
    shared: Array | None = None
    dual_rate: float | None = None
    # p_i, the mean of the entries of every Lambda_i, (n,). Only the node itself knows it.
    own_steps: Array | None = None
    # With a shield: the shares that the duals begin at, (n, d). All partners of a node together
    # know its own.
    first_duals: Array | None = None
    # With a quadratic shield: what node i adds to its second derivative for partner j, in [i, j],
    # (n, n, d, d). The two know it.
    added_curvatures: Array | None = None
    figures: Mapping[str, float] = field(
        default_factory=dict
    )  # specific to the system: epsilon, ...

    @property
    def points(self) -> Array:
        """What the rounds share, shape (rounds, n, d): estimates, or the exact method's points."""
        return self.estimates[:-1] if self.shared is None else self.shared


class System(Protocol):
    """A distributed algorithm that solves a Problem."""

    @property
    def name(self) -> str:
        """The name for tables and legends."""

    def run(self, problem: Problem, rounds: int, seed: int) -> Log:
        """Run *rounds* rounds from problem.start; the same seed gives the same log."""
