"""The plain iteration over arrays: where a fleet would be after its rounds, in a second or two.

Nothing is encrypted. Same mathematics as the fleet's (ALGORITHM section 2), dither included; all
nodes of a round at once. With the fleet's own draws it gives the fleet's own estimates, to the
rounding of sums: checked by test_the_simulation_equals_the_reference_for_the_same_draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cipherfleet_node import config
from cipherfleet_node.config import Algorithm, Stepsize, resolution_of
from cipherfleet_node.draws import SEED_BYTES, Draws
from cipherfleet_node.exchange import metropolis
from cipherfleet_node.objective import Average, Mean, Objective, Regression
from cipherfleet_node.optimiser import attenuation_factor, mean_stepsize
from cipherfleet_node.packing import HALF_WEIGHT_BITS, METROPOLIS_BITS
from cipherfleet_node.quantiser import START_NOISE

from .topology import Graph

Array = npt.NDArray[np.float64]
QUADRATIC = frozenset({"average", "mean", "least_squares", "ridge"})  # their kinds


# -- chance -------------------------------------------------------------------------------------


class Chance(Protocol):
    """All random choices of all nodes; *shape* is (n, d), links are ordered pairs (i, j)."""

    def start(self, shape: tuple[int, int]) -> Array:
        """Uniform on [0, 1)."""

    def rounding(self, k: int, shape: tuple[int, int]) -> Array:
        """Uniform on [0, 1)."""

    def half_weights(self, k: int, links: int) -> Array:
        """H_ij of every link, odd numbers of HALF_WEIGHT_BITS bits."""

    def node_half_weights(self, k: int, nodes: int) -> Array:
        """H_i of every node, for the sealed exchange."""

    def dither(self, k: int, weights: Array, dimension: int) -> Array:
        """e_ji of every link (i, j), shape (links, d), on the *weights* H_ji integers about 0."""

    def steps(self, k: int, stepsize: Stepsize, shape: tuple[int, int]) -> Array:
        """The entries of every Lambda_i over their mean."""

    def gradient(self, k: int, node: int) -> Draws:
        """What a stochastic gradient of *node* is drawn from."""


class Generated:
    """Chance from one seed, drawn for all nodes at once."""

    def __init__(self, seed: int) -> None:
        self._seed, self._chance = seed, np.random.default_rng(seed)

    def start(self, shape: tuple[int, int]) -> Array:
        """Uniform."""
        return self._chance.random(shape)

    def rounding(self, k: int, shape: tuple[int, int]) -> Array:
        """Uniform."""
        del k
        return self._chance.random(shape)

    def half_weights(self, k: int, links: int) -> Array:
        """Odd, of exactly HALF_WEIGHT_BITS bits."""
        del k
        choices = self._chance.integers(1 << (HALF_WEIGHT_BITS - 2), size=links)
        weights: Array = np.asarray(choices, np.float64) * 2.0 + ((1 << (HALF_WEIGHT_BITS - 1)) + 1)
        return weights

    def node_half_weights(self, k: int, nodes: int) -> Array:
        """As half_weights."""
        return self.half_weights(k, nodes)

    def dither(self, k: int, weights: Array, dimension: int) -> Array:
        """Uniform on the weights' integers."""
        del k
        column = weights[:, None]
        below = np.floor(self._chance.random((len(weights), dimension)) * column)
        result: Array = below - (column - 1.0) / 2.0
        return result

    def steps(self, k: int, stepsize: Stepsize, shape: tuple[int, int]) -> Array:
        """The law's factors, of mean one."""
        del k
        deviation = stepsize.spread / math.sqrt(3.0)
        if stepsize.law == "uniform":
            return 1.0 + stepsize.spread * (2.0 * self._chance.random(shape) - 1.0)
        if stepsize.law == "normal":
            return 1.0 + deviation * self._chance.standard_normal(shape)
        sigma = math.sqrt(math.log1p(deviation**2))
        factors: Array = np.exp(sigma * self._chance.standard_normal(shape) - sigma**2 / 2.0)
        return factors

    def gradient(self, k: int, node: int) -> Draws:
        """A seed for every node and round."""
        label = f"{self._seed} {node} {k}".encode()
        return Draws(label.ljust(SEED_BYTES, b".")[:SEED_BYTES])


# -- gradients ----------------------------------------------------------------------------------


class Gradients(Protocol):
    """The gradients of all nodes at once."""

    def at(self, x: Array, k: int, chance: Chance) -> Array:
        """g_i(x_i) of every node, shape (n, d)."""


class Linear:
    """H_i x + b_i: full-window gradients of quadratic objectives."""

    def __init__(self, hessians: Array, offsets: Array) -> None:
        self._hessians, self._offsets = hessians, offsets

    def at(self, x: Array, k: int, chance: Chance) -> Array:
        """One product for all nodes."""
        del k, chance
        result: Array = np.matmul(self._hessians, x[:, :, None])[:, :, 0] + self._offsets
        return result


class OneByOne:
    """Whatever the objectives say, node by node."""

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self._objectives = objectives

    def at(self, x: Array, k: int, chance: Chance) -> Array:
        """A call for each node."""
        return np.array(
            [
                objective.gradient(own, chance.gradient(k, node))
                for node, (objective, own) in enumerate(zip(self._objectives, x, strict=True))
            ]
        )


def gradients_of(objectives: Sequence[Objective], section: config.Objective) -> Gradients:
    """The quickest way to the gradients of *objectives*, which *section* describes."""
    if section.kind not in QUADRATIC or section.minibatch is not None:
        return OneByOne(objectives)
    zero, nothing = np.zeros(objectives[0].dimension), Draws(bytes(SEED_BYTES))
    offsets = np.array([objective.gradient(zero, nothing) for objective in objectives])
    return Linear(np.array([_hessian(objective, zero) for objective in objectives]), offsets)


def _hessian(objective: Objective, x: Array) -> Array:
    if isinstance(objective, Mean | Regression) and not isinstance(objective, Average):
        return objective.hessian(x)
    return np.zeros((x.size, x.size))  # of an average: nothing pulls


# -- rounds -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Simulated:
    """The estimates after the last round, shape (n, d), and the largest entry ever reached."""

    estimates: Array
    largest: float


def simulate(
    graph: Graph,
    starts: Array,
    gradients: Gradients,
    algorithm: Algorithm,
    rounds: int,
    chance: Chance,
    *,
    sealed: bool,
) -> Simulated:
    """Run *rounds* rounds from *starts*, shape (n, d), nodes in the graph's order.

    Every neighbour answers in every round. Estimates that leave the range of numbers end as
    infinite or NaN, without a warning.
    """
    links = Links.of(graph)
    resolution = resolution_of(algorithm)
    x = starts + resolution * START_NOISE * (2.0 * chance.start(starts.shape) - 1.0)
    largest = float(np.abs(x).max())
    with np.errstate(all="ignore"):
        for k in range(rounds):
            quantised = np.floor(x / resolution + chance.rounding(k, x.shape))
            coupling = resolution * links.coupling(quantised, k, chance, sealed=sealed)
            gradient = gradients.at(x, k, chance)
            steps = mean_stepsize(algorithm.stepsize, k) * chance.steps(
                k, algorithm.stepsize, x.shape
            )
            x = x + attenuation_factor(algorithm.attenuation, k) * coupling - steps * gradient
            reached = float(np.abs(x).max())
            if not math.isfinite(reached):
                return Simulated(x, math.inf)
            largest = max(largest, reached)
    return Simulated(x, largest)


@dataclass(frozen=True)
class Links:
    """The ordered pairs (i, j) of neighbours, sorted: i asks, j answers."""

    askers: npt.NDArray[np.intp]
    answerers: npt.NDArray[np.intp]
    back: npt.NDArray[np.intp]  # the place of (j, i)
    factors: Array  # m_ij
    first: npt.NDArray[np.intp]  # of every asker's links

    @classmethod
    def of(cls, graph: Graph) -> Links:
        """The links of *graph*, nodes by their places in it."""
        place = {node: index for index, node in enumerate(graph.ids)}
        both = [(place[a], place[b]) for a, b in graph.edges]
        pairs = np.array(sorted([*both, *((b, a) for a, b in both)]), dtype=np.intp)
        askers, answerers = pairs[:, 0], pairs[:, 1]
        degrees = np.bincount(askers)
        factors = [
            metropolis(int(degrees[a]), int(degrees[b])) / 2.0**METROPOLIS_BITS for a, b in pairs
        ]
        back = np.lexsort((askers, answerers))
        first = np.searchsorted(askers, np.arange(len(graph.ids)))
        return cls(askers, answerers, back, np.array(factors), first)

    def coupling(self, q: Array, k: int, chance: Chance, *, sealed: bool) -> Array:
        """c_i of every node, in resolutions; *q* counts resolutions, shape (n, d)."""
        scale = 2.0**HALF_WEIGHT_BITS
        if sealed:
            own = chance.node_half_weights(k, len(q))
            asking, answering = own[self.askers], own[self.answerers]
        else:
            asking = chance.half_weights(k, len(self.askers))
            answering = asking[self.back]
        theirs = answering[:, None] * (q[self.answerers] - q[self.askers])
        theirs += chance.dither(k, answering, q.shape[1])
        weighted = (self.factors * asking / scale)[:, None] * theirs / scale
        result: Array = np.add.reduceat(weighted, self.first, axis=0)
        return result
