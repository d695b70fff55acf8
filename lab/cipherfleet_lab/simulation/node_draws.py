"""The chance of a fleet of real nodes, for the vector engine: each from its own seed of a round."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cipherfleet_analysis.simulation import Array, Links
from cipherfleet_node.core import exchange
from cipherfleet_node.core.optimiser import draw_stepsizes, mean_stepsize
from cipherfleet_node.core.randomness import Draws
from cipherfleet_node.core.sealed import own_weight
from cipherfleet_node.settings.sections import Stepsize

Seeds = Callable[[str, int], bytes]  # of a node's round


class NodeDraws:
    """A Chance that repeats what the nodes *names* draw from *seeds*, call by call."""

    def __init__(self, seeds: Seeds, names: Sequence[str], links: Links) -> None:
        self._seeds, self._names = seeds, names
        self._links = [
            (names[i], names[j]) for i, j in zip(links.askers, links.answerers, strict=True)
        ]

    def _draws(self, node: int, k: int) -> Draws:
        return Draws(self._seeds(self._names[node], k))

    def _uniform(self, label: str, k: int, shape: tuple[int, int]) -> Array:
        return np.array([self._draws(i, k).uniform(label, shape[1]) for i in range(shape[0])])

    def start(self, shape: tuple[int, int]) -> Array:
        """As randomise_start, in round 0."""
        return self._uniform("start", 0, shape)

    def rounding(self, k: int, shape: tuple[int, int]) -> Array:
        """As quantise."""
        return self._uniform("quantise", k, shape)

    def half_weights(self, k: int, links: int) -> Array:
        """As exchange.half_weight, of every link."""
        assert links == len(self._links)
        return np.array(
            [float(exchange.half_weight(Draws(self._seeds(i, k)), j)) for i, j in self._links]
        )

    def node_half_weights(self, k: int, nodes: int) -> Array:
        """As sealed.own_weight."""
        return np.array([float(own_weight(self._draws(i, k))) for i in range(nodes)])

    def dither(self, k: int, links: slice, weights: Array, dimension: int) -> Array:
        """As exchange.dither, of the answerers."""
        return np.array(
            [
                exchange.dither(Draws(self._seeds(j, k)), i, int(weight), dimension)
                for (i, j), weight in zip(self._links[links], weights, strict=True)
            ],
            dtype=np.float64,
        )

    def steps(self, k: int, stepsize: Stepsize, shape: tuple[int, int]) -> Array:
        """As draw_stepsizes, over their mean."""
        drawn = [draw_stepsizes(stepsize, k, shape[1], self._draws(i, k)) for i in range(shape[0])]
        return np.array(drawn) / mean_stepsize(stepsize, k)

    def gradient(self, k: int, node: int) -> Draws:
        """Of the node's own seed."""
        return self._draws(node, k)
