"""What every system of the lab has in common: a problem, a run of it, and what was seen of the run.

The cipherfleet exchanges and the baselines solve the same Problem, and leave the same Log; figures
compare logs, and attacks look at one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Gradient = Callable[[Array, np.random.Generator], Array]  # (d,) -> (d,)
AllGradients = Callable[[Array, np.random.Generator], Array]  # (n, d) -> (n, d)


@dataclass(frozen=True)
class Problem:
    """n nodes on a connected graph that minimise F(x) = (1/n) sum_i f_i(x) together."""

    name: str
    edges: Sequence[tuple[int, int]]  # undirected, each once
    gradients: Sequence[Gradient]  # of each f_i: (x of shape (d,), chance) -> shape (d,)
    start: Array  # (n, d)
    objective: Callable[[Array], float]  # F at x of shape (d,)
    optimum: Array | None = None  # (d,), where there is one to compare with
    classes: Sequence[str] = field(default=())  # names of the entries of x, for tables
    vectorised: AllGradients | None = None  # `gradients` of all nodes at once, the same draws
    slope: Callable[[Array], Array] | None = None  # the gradient of F at x of shape (d,), exact

    @property
    def nodes(self) -> int:
        """n."""
        return len(self.gradients)

    @property
    def dimension(self) -> int:
        """d."""
        return int(self.start.shape[1])

    def all_gradients(self, x: Array, chance: np.random.Generator) -> Array:
        """g_i at x_i of every node, shape (n, d); the quick way where there is one."""
        if self.vectorised is not None:
            return self.vectorised(x, chance)
        return np.array([g(own, chance) for g, own in zip(self.gradients, x, strict=True)])

    def neighbours(self, node: int) -> list[int]:
        """Of *node*, ascending."""
        return sorted(
            {b for a, b in self.edges if a == node} | {a for a, b in self.edges if b == node}
        )


@dataclass(frozen=True)
class Log:
    """A run: what came of it, what was true, and what was there to be seen.

    Everything is float64. Rounds are the first axis; nothing below `gradients` is more than what an
    observer in that place receives.
    """

    system: str
    estimates: Array  # (rounds + 1, n, d)
    gradients: Array  # (rounds, n, d): the truth that attacks are scored with, seen by nobody
    # Sent in clear by node i to all its neighbours, as a vector: an eavesdropper reads it.
    broadcast: Array | None = None  # (rounds, n, m)
    # Sent in clear from i to j alone (obfuscations): (i, j) -> (rounds, m).
    between: Mapping[tuple[int, int], Array] = field(default_factory=dict)
    # What asker i finds in the answer of neighbour j after decryption: (i, j) -> (rounds, d).
    opened: Mapping[tuple[int, int], Array] = field(default_factory=dict)
    # What asker i finds in the combination of all answers: (rounds, n, d).
    sums: Array | None = None
    # What it makes of it, c_i in the estimates' units: (rounds, n, d). All of i's neighbours
    # together know it as well.
    couplings: Array | None = None
    # The half weights H that i draws towards j: (i, j) -> (rounds,), of which i knows its own only.
    half_weights: Mapping[tuple[int, int], Array] = field(default_factory=dict)
    # What a key holder or server decrypts: (rounds, d).
    served: Array | None = None
    # Of each system what its adversary knows anyway: mean stepsizes lambda_k, gamma_k, weights.
    stepsizes: Array | None = None  # (rounds,), means
    attenuations: Array | None = None  # (rounds,)
    weights: Array | None = None  # (n, n), the mean mixing matrix
    resolution: float | None = None  # delta
    figures: Mapping[str, float] = field(default_factory=dict)  # of this system alone: epsilon, ...


class System(Protocol):
    """A way of solving a Problem among neighbours."""

    @property
    def name(self) -> str:
        """For tables and legends."""

    def run(self, problem: Problem, rounds: int, seed: int) -> Log:
        """*rounds* rounds from problem.start; the same seed gives the same log."""
