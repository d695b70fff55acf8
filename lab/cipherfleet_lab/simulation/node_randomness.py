"""The random choices of real nodes for the vector engine, from each node's seed of each round."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cipherfleet_analysis.random_choices import Array
from cipherfleet_analysis.simulation import Links
from cipherfleet_node.core import exchange
from cipherfleet_node.core.optimiser import draw_stepsizes, mean_stepsize
from cipherfleet_node.core.randomness import RoundRandomness
from cipherfleet_node.core.sealed import own_weight
from cipherfleet_node.settings.sections import Stepsize

Seeds = Callable[[str, int], bytes]  # of a node and a round


class NodeRandomness:
    """A FleetRandomness that repeats the random choices of the nodes *names* from their *seeds*."""

    def __init__(self, seeds: Seeds, names: Sequence[str], links: Links) -> None:
        self._seeds, self._names = seeds, names
        self._links = [
            (names[i], names[j]) for i, j in zip(links.askers, links.answerers, strict=True)
        ]

    def _round_randomness(self, node: int, k: int) -> RoundRandomness:
        return RoundRandomness(self._seeds(self._names[node], k))

    def _uniform(self, label: str, k: int, shape: tuple[int, int]) -> Array:
        return np.array(
            [self._round_randomness(i, k).uniform(label, shape[1]) for i in range(shape[0])]
        )

    def start(self, shape: tuple[int, int]) -> Array:
        """Same as randomise_start, in round 0."""
        return self._uniform("start", 0, shape)

    def rounding(self, k: int, shape: tuple[int, int]) -> Array:
        """Same as quantise, for all nodes."""
        return self._uniform("quantise", k, shape)

    def half_weights(self, k: int, links: int) -> Array:
        """Same as exchange.half_weight, for every link."""
        assert links == len(self._links)
        return np.array(
            [
                float(exchange.half_weight(RoundRandomness(self._seeds(i, k)), j))
                for i, j in self._links
            ]
        )

    def node_half_weights(self, k: int, nodes: int) -> Array:
        """Same as sealed.own_weight, for every node."""
        return np.array([float(own_weight(self._round_randomness(i, k))) for i in range(nodes)])

    def dither(self, k: int, links: slice, weights: Array, dimension: int) -> Array:
        """Same as exchange.dither, for the answerers of *links*."""
        return np.array(
            [
                exchange.dither(RoundRandomness(self._seeds(j, k)), i, int(weight), dimension)
                for (i, j), weight in zip(self._links[links], weights, strict=True)
            ],
            dtype=np.float64,
        )

    def steps(self, k: int, stepsize: Stepsize, shape: tuple[int, int]) -> Array:
        """Same as draw_stepsizes, divided by the mean stepsize."""
        drawn = [
            draw_stepsizes(stepsize, k, shape[1], self._round_randomness(i, k))
            for i in range(shape[0])
        ]
        return np.array(drawn) / mean_stepsize(stepsize, k)

    def gradient(self, k: int, node: int) -> RoundRandomness:
        """Return the random choices for the node's gradient."""
        return self._round_randomness(node, k)
