"""Push-sum: descent over one-way links, on which no doubly stochastic weights exist.

    w_i = sum_j c_ij x_j    y_i <- sum_j c_ij y_j    z_i = w_i / y_i
    x_i <- w_i - lambda_k g_i(z_i)
C is column-stochastic: a node gives equal shares to itself and to its receivers. Without the
division by y the position in the graph weights the nodes, and they converge to another point.
Source: Nedic and Olshevsky, IEEE TAC 2015; docs/explanation/algorithm.md#baselines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cipherfleet_lab.mixing import equal_shares
from cipherfleet_lab.systems import Log, Problem
from cipherfleet_node.settings.sections import Stepsize

from .trail import Trail, mean_stepsizes, streams


@dataclass(frozen=True)
class PushSum:
    """Push-sum over *arcs* (from, to), strongly connected; None: both directions of every edge."""

    stepsize: Stepsize
    arcs: Sequence[tuple[int, int]] | None = None
    corrected: bool = True  # False keeps y at one: plain column-stochastic mixing
    name: str = "push-sum"

    def run(self, problem: Problem, rounds: int, seed: int) -> Log:
        """Run *rounds* rounds; estimates are z, broadcast holds the shares of x and of y."""
        rng, _ = streams(seed)
        arcs = self.arcs
        if arcs is None:
            arcs = [pair for a, b in problem.edges for pair in ((a, b), (b, a))]
        mix, steps = equal_shares(problem.nodes, arcs), mean_stepsizes(self.stepsize, rounds)
        shares = 1.0 / (1 + np.bincount([a for a, _ in arcs], minlength=problem.nodes))[:, None]
        trail = Trail(problem, rounds, problem.dimension + 1)
        x, y = problem.start, np.ones((problem.nodes, 1))
        z, gradients = x, problem.all_gradients(x, rng)
        for step in steps:
            trail.keep(z, gradients, shares * np.concatenate([x, y], axis=1))
            w, y = mix(x), mix(y) if self.corrected else y
            z = w / y
            gradients = problem.all_gradients(z, rng)
            x = w - step * gradients
        return trail.log(self.name, z, stepsizes=steps, weights=mix.matrix)
