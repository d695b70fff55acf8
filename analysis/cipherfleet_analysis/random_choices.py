"""The random choices of all nodes of a simulated fleet."""

from __future__ import annotations

import hashlib
import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cipherfleet_node.core.packing import HALF_WEIGHT_BITS
from cipherfleet_node.core.randomness import RoundRandomness
from cipherfleet_node.settings.sections import Stepsize

Array = npt.NDArray[np.float64]


class FleetRandomness(Protocol):
    """The random choices of all nodes; *shape* is (n, d), a link is an ordered pair (i, j)."""

    def start(self, shape: tuple[int, int]) -> Array:
        """Return numbers for the first estimates, uniform on [0, 1)."""

    def rounding(self, k: int, shape: tuple[int, int]) -> Array:
        """Return numbers for the quantiser in round *k*, uniform on [0, 1)."""

    def half_weights(self, k: int, links: int) -> Array:
        """Return H_ij of every link in round *k*: odd numbers of HALF_WEIGHT_BITS bits."""

    def node_half_weights(self, k: int, nodes: int) -> Array:
        """Return H_i of every node in round *k*, for the sealed exchange."""

    def dither(self, k: int, links: slice, weights: Array, dimension: int) -> Array:
        """Return e_ji of *links* (i, j), shape (number of links, d).

        e_ji is uniform on H_ji consecutive integers about 0, where *weights* holds the H_ji. The
        caller requests the blocks of links in order.
        """

    def steps(self, k: int, stepsize: Stepsize, shape: tuple[int, int]) -> Array:
        """Return the entries of every Lambda_i in round *k*, divided by their mean."""

    def gradient(self, k: int, node: int) -> RoundRandomness:
        """Return the randomness of a stochastic gradient of *node* in round *k*."""


class SeededRandomness:
    """Random choices from one seed, generated for all nodes at once; see `FleetRandomness`."""

    def __init__(self, seed: int) -> None:
        self._seed, self._random = seed, np.random.default_rng(seed)

    def start(self, shape: tuple[int, int]) -> Array:
        return self._random.random(shape)

    def rounding(self, k: int, shape: tuple[int, int]) -> Array:
        del k
        return self._random.random(shape)

    def half_weights(self, k: int, links: int) -> Array:
        del k
        choices = self._random.integers(1 << (HALF_WEIGHT_BITS - 2), size=links)
        weights: Array = np.asarray(choices, np.float64) * 2.0 + ((1 << (HALF_WEIGHT_BITS - 1)) + 1)
        return weights

    def node_half_weights(self, k: int, nodes: int) -> Array:
        return self.half_weights(k, nodes)

    def dither(self, k: int, links: slice, weights: Array, dimension: int) -> Array:
        del k, links
        column = weights[:, None]
        below = np.floor(self._random.random((len(weights), dimension)) * column)
        result: Array = below - (column - 1.0) / 2.0
        return result

    def steps(self, k: int, stepsize: Stepsize, shape: tuple[int, int]) -> Array:
        del k
        deviation = stepsize.spread / math.sqrt(3.0)
        if stepsize.law == "uniform":
            return 1.0 + stepsize.spread * (2.0 * self._random.random(shape) - 1.0)
        if stepsize.law == "normal":
            return 1.0 + deviation * self._random.standard_normal(shape)
        sigma = math.sqrt(math.log1p(deviation**2))
        factors: Array = np.exp(sigma * self._random.standard_normal(shape) - sigma**2 / 2.0)
        return factors

    def gradient(self, k: int, node: int) -> RoundRandomness:
        return RoundRandomness(hashlib.sha256(f"{self._seed} {node} {k}".encode()).digest())
