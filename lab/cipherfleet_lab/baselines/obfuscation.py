"""Correlated obfuscation: a node adds noise to its messages; the noise cancels over the network.

    d_i = sum_j (s_ji - s_ij)    i chooses s_ij at random and sends it only to j
    y_i = x_i + lambda_k d_i
    x_i <- sum_j w_ij y_j - lambda_k g_i
If all neighbours of a node collude, its messages are not protected.
Source: Gade and Vaidya, 2018; docs/explanation/algorithm.md#baselines.
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
    """Obfuscated descent; every s_ij is normal with this *deviation*."""

    stepsize: Stepsize
    deviation: float
    name: str = "obfuscation"

    def run(self, problem: Problem, rounds: int, seed: int) -> Log:
        """Run *rounds* rounds from problem.start."""
        rng, own = streams(seed)
        mix, steps = metropolis(problem), mean_stepsizes(self.stepsize, rounds)
        edges = np.array(problem.edges, dtype=np.intp)
        links = np.concatenate([edges, edges[:, ::-1]])  # (i, j): s_ij
        pairwise_noise = self.deviation * own.standard_normal(
            (rounds, len(links), problem.dimension)
        )
        trail, x = Trail(problem, rounds, problem.dimension), problem.start
        for k, step in enumerate(steps):
            gradients = problem.all_gradients(x, rng)
            sent = x + step * obfuscations(links, pairwise_noise[k], problem.nodes)
            trail.keep(x, gradients, sent)
            x = mix(sent) - step * gradients
        between = {(int(i), int(j)): pairwise_noise[:, link] for link, (i, j) in enumerate(links)}
        return trail.log(self.name, x, between=between, stepsizes=steps, weights=mix.matrix)


def obfuscations(links: npt.NDArray[np.intp], pairwise_noise: Array, nodes: int) -> Array:
    """Return d_i of every node, shape (n, d), from s_ij of the ordered pairs *links*."""
    total = np.zeros((nodes, pairwise_noise.shape[1]))
    np.add.at(total, links[:, 1], pairwise_noise)
    np.subtract.at(total, links[:, 0], pairwise_noise)
    return total
