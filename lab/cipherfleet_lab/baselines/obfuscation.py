"""Correlated obfuscation: what a node sends is off by amounts that cancel over the network.

    d_i = sum_j (s_ji - s_ij)    s_ij drawn by i, told to j alone
    y_i = x_i + lambda_k d_i
    x_i <- sum_j w_ij y_j - lambda_k g_i
A node all of whose neighbours pool what they were told has no cover at all.
Source: Gade and Vaidya, 2018; ALGORITHM section 7.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cipherfleet_lab.mixing import metropolis
from cipherfleet_lab.systems import Array, Log, Problem
from cipherfleet_node.settings.sections import Stepsize

from .trail import Trail, mean_stepsizes, streams


@dataclass(frozen=True)
class Obfuscation:
    """*deviation* is that of every s_ij, normal."""

    stepsize: Stepsize
    deviation: float
    name: str = "obfuscation"

    def run(self, problem: Problem, rounds: int, seed: int) -> Log:
        """*rounds* rounds from problem.start."""
        chance, own = streams(seed)
        mix, steps = metropolis(problem), mean_stepsizes(self.stepsize, rounds)
        edges = np.array(problem.edges, dtype=np.intp)
        links = np.concatenate([edges, edges[:, ::-1]])  # (i, j): s_ij
        told = self.deviation * own.standard_normal((rounds, len(links), problem.dimension))
        trail, x = Trail(problem, rounds, problem.dimension), problem.start
        for k, step in enumerate(steps):
            gradients = problem.all_gradients(x, chance)
            sent = x + step * obfuscations(links, told[k], problem.nodes)
            trail.keep(x, gradients, sent)
            x = mix(sent) - step * gradients
        between = {(int(i), int(j)): told[:, link] for link, (i, j) in enumerate(links)}
        return trail.log(self.name, x, between=between, stepsizes=steps, weights=mix.matrix)


def obfuscations(links: npt.NDArray[np.intp], told: Array, nodes: int) -> Array:
    """d_i of every node, shape (n, d), for s_ij of the ordered pairs *links*."""
    result = np.zeros((nodes, told.shape[1]))
    np.add.at(result, links[:, 1], told)
    np.subtract.at(result, links[:, 0], told)
    return result
