"""Simulate a fleet's rounds without encryption, with arrays over all nodes.

The mathematics is the fleet's (docs/explanation/algorithm.md#iteration), with the dither. With the
random choices of a fleet the simulation gives the estimates of that fleet, apart from the rounding
of sums: checked by test_the_simulation_equals_the_reference_for_the_same_draws.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cipherfleet_node.core import agreement, exact, metric
from cipherfleet_node.core.exchange import UNIT, metropolis
from cipherfleet_node.core.objective import Average, Mean, Objective, Regression
from cipherfleet_node.core.optimiser import attenuation_factor, mean_stepsize
from cipherfleet_node.core.packing import HALF_WEIGHT_BITS, METROPOLIS_BITS
from cipherfleet_node.core.quantiser import START_NOISE
from cipherfleet_node.core.randomness import SEED_BYTES, RoundRandomness
from cipherfleet_node.core.statistics import Statistics
from cipherfleet_node.settings import sections
from cipherfleet_node.settings.sections import (
    AGREE,
    Algorithm,
    Scale,
    Stepsize,
    exact_scale_of,
    resolution_of,
)
from cipherfleet_provisioning.topology.graph import Graph

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]
QUADRATIC = frozenset({"average", "mean", "least_squares", "ridge"})  # kinds of objectives
BLOCK = 1 << 15  # links per block of the exchange


# -- random choices -----------------------------------------------------------------------------


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


# -- gradients ----------------------------------------------------------------------------------


class Gradients(Protocol):
    """The gradients of all nodes, computed together."""

    def evaluate(self, x: Array, k: int, randomness: FleetRandomness) -> Array:
        """Return g_i(x_i) of every node in round *k*, shape (n, d)."""


class Linear:
    """Gradients H_i x + b_i of quadratic objectives over all readings."""

    def __init__(self, hessians: Array, offsets: Array) -> None:
        self.hessians, self.offsets = hessians, offsets

    def evaluate(self, x: Array, k: int, randomness: FleetRandomness) -> Array:
        del k, randomness
        result: Array = np.matmul(self.hessians, x[:, :, None])[:, :, 0] + self.offsets
        return result


class Targets:
    """Gradients x - s_i of objectives |x - s_i|^2 / 2; *targets* holds the s_i, shape (n, d).

    *members* is 1 for a member and 0 for a follower, whose gradient is zero; its shape is (n, 1).
    """

    def __init__(self, targets: Array, members: Array) -> None:
        self.targets, self.members = targets, members

    def evaluate(self, x: Array, k: int, randomness: FleetRandomness) -> Array:
        del k, randomness
        result: Array = self.members * (x - self.targets)
        return result


class OneByOne:
    """Gradients of any objectives, with one call per node."""

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self._objectives = objectives

    def evaluate(self, x: Array, k: int, randomness: FleetRandomness) -> Array:
        return np.array(
            [
                objective.gradient(own, randomness.gradient(k, node))
                for node, (objective, own) in enumerate(zip(self._objectives, x, strict=True))
            ]
        )


def gradients_of(objectives: Sequence[Objective], section: sections.ObjectiveSection) -> Gradients:
    """Return the fastest gradients of *objectives*, which *section* describes."""
    if any(isinstance(each, Statistics) for each in objectives):
        members = np.array([[float(isinstance(each, Statistics))] for each in objectives])
        targets = [
            each.own if isinstance(each, Statistics) else each.start() for each in objectives
        ]
        return Targets(np.array(targets), members)
    if section.kind not in QUADRATIC or section.minibatch is not None:
        return OneByOne(objectives)
    zero, unused = np.zeros(objectives[0].dimension), RoundRandomness(bytes(SEED_BYTES))
    offsets = np.array([objective.gradient(zero, unused) for objective in objectives])
    return Linear(np.array([_hessian(objective, zero) for objective in objectives]), offsets)


def _hessian(objective: Objective, x: Array) -> Array:
    if isinstance(objective, Mean | Regression) and not isinstance(objective, Average):
        return objective.hessian(x)
    return np.zeros((x.size, x.size))  # of an average, whose gradient is zero


# -- the exact method ---------------------------------------------------------------------------


@dataclass(frozen=True)
class ExactMethod:
    """What the exact method needs beside the gradients; see cipherfleet_node.core.exact."""

    scale: Scale  # c0, or AGREE
    curvatures: Array  # L_i of every node, shape (n,)
    spread: float
    is_sampled: bool = False  # gradients of minibatches: the steps fall
    metric: sections.MetricName = "step"
    bounds: Array | None = None  # H_i of every node, shape (n, d, d), for other metrics than `step`

    def chosen(self, places: Places) -> ExactMethod:
        """Return the method of a fleet whose node i is the node *places*[i] of this one."""
        bounds = None if self.bounds is None else self.bounds[places]
        return replace(self, curvatures=self.curvatures[places], bounds=bounds)

    def logarithms(self, shape: tuple[int, int]) -> Array:
        """Return the first estimates of the agreement on c0, shape (n, d)."""
        points = np.zeros(shape)
        points[:, 0] = [agreement.logarithm(own, self.metric) for own in self.curvatures]
        return points

    def agreed_scale(self, points: Array) -> float:
        """Return c0 after the agreement, when all nodes know the largest exponent."""
        return agreement.scale_of(max(agreement.power_of(own) for own in points[:, 0]))


class Stepping:
    """The steps of all nodes in one run of the exact method; see cipherfleet_node.core.metric."""

    def __init__(self, method: ExactMethod, scale: float) -> None:
        self._method, self._scale = method, scale
        self._moments: metric.Moments | None = None
        self._roots: Array | None = None
        means = [[exact.mean_step(own, scale, method.spread)] for own in method.curvatures]
        self._means = np.array(means)
        if method.metric == "newton":
            assert method.bounds is not None
            self._roots = metric.newton_root(method.bounds, scale, method.spread)

    def steps(self, k: int, x: Array, gradient: Array, dual: Array, factors: Array) -> Array:
        """Return Lambda_i (g_i + y_i) of every node in round *k*, shape (n, d)."""
        method, direction = self._method, gradient + dual
        divisor = exact.falling(k) if method.is_sampled else 1.0
        if self._roots is not None:
            return metric.newton_step(self._roots, factors, direction) / divisor
        entries = self._entries(x, gradient) if method.metric == "diagonal" else self._means
        result: Array = entries / divisor * factors * direction
        return result

    def _entries(self, x: Array, gradient: Array) -> Array:
        """Return the mean entries of every Lambda_i of metric `diagonal`."""
        method, before = self._method, self._moments
        assert method.bounds is not None
        now = metric.Moments.first(x, gradient) if before is None else before.after(x, gradient)
        self._moments = now
        curvature = metric.weighted_curvature(method.bounds, now.weights)
        return metric.diagonal_entries(now.weights, curvature, self._scale, method.spread)


def exact_method(
    objectives: Sequence[Objective], algorithm: Algorithm, section: sections.ObjectiveSection
) -> ExactMethod | None:
    """Return the exact method of a fleet of *objectives*, or None for the article's."""
    scale = exact_scale_of(algorithm, section)
    if scale is None:
        return None
    unused = RoundRandomness(bytes(SEED_BYTES))
    curvatures = [exact.Curvature(each).at(each.start(), 0, unused) for each in objectives]
    is_sampled = any(map(exact.is_sampled, objectives))
    bounds = None
    if algorithm.metric != "step":
        bounds = np.array([_bound(each) for each in objectives])
    spread, chosen = algorithm.stepsize.spread, algorithm.metric
    return ExactMethod(scale, np.array(curvatures), spread, is_sampled, chosen, bounds)


def _bound(objective: Objective) -> Array:
    """Return the curvature H_i of *objective*, shape (d, d).

    For a class without one it is measured at the start, by differences of gradients.
    """
    start, unused = objective.start(), RoundRandomness(bytes(SEED_BYTES))
    known = metric.bound_of(objective, start)
    if known is not None:
        return known
    length = 1e-4 * max(1.0, float(np.linalg.norm(start)))
    here = objective.gradient(start, unused)
    columns = [
        (objective.gradient(start + length * axis, unused) - here) / length
        for axis in np.eye(start.size)
    ]
    matrix = np.array(columns)
    result: Array = (matrix + matrix.T) / 2.0
    return result


# -- rounds -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Simulated:
    """The estimates after the last round, shape (n, d), and the largest entry of all rounds."""

    estimates: Array
    largest: float


@dataclass(frozen=True)
class SimulatedRound:
    """One round of all nodes; arrays have shape (n, d), only `opened` has one row per link."""

    estimates: Array  # after the round
    gradients: Array
    couplings: Array  # c_i, in the objective's units
    sums: Array  # the integers that i decrypts, see Links.exchange
    opened: Array | None  # H_ji (q_j - q_i) + e_ji of every link: integers


def simulate(
    graph: Graph,
    starts: Array,
    gradients: Gradients,
    algorithm: Algorithm,
    rounds: int,
    randomness: FleetRandomness,
    *,
    sealed: bool,
    method: ExactMethod | None = None,
) -> Simulated:
    """Run *rounds* rounds from *starts*, shape (n, d), nodes in the graph's order.

    Estimates that overflow become infinite or NaN, without a warning.
    """
    x = first_estimates(starts, algorithm, randomness)
    largest = float(np.abs(x).max())
    running = run(
        Links.of(graph), x, gradients, algorithm, randomness, sealed=sealed, method=method
    )
    for closed in islice(running, rounds):
        x = closed.estimates
        greatest = float(np.abs(x).max())
        if not math.isfinite(greatest):
            return Simulated(x, math.inf)
        largest = max(largest, greatest)
    return Simulated(x, largest)


def first_estimates(starts: Array, algorithm: Algorithm, randomness: FleetRandomness) -> Array:
    """Return *starts* plus noise of the size of the resolution, shape (n, d)."""
    noise = 2.0 * randomness.start(starts.shape) - 1.0
    result: Array = starts + resolution_of(algorithm) * START_NOISE * noise
    return result


def run(
    links: Links,
    x: Array,
    gradients: Gradients,
    algorithm: Algorithm,
    randomness: FleetRandomness,
    *,
    sealed: bool,
    opened: bool = False,
    method: ExactMethod | None = None,
) -> Iterator[SimulatedRound]:
    """Yield rounds from *x* without end, each computed on demand.

    Every neighbour answers in every round. *opened* keeps every single answer, which takes memory.
    Without *method* it is the article's.
    """
    resolution = resolution_of(algorithm)
    exact_run = None if method is None else _ExactRun(method, x)
    for k in count():
        with np.errstate(all="ignore"):
            shared, gradient = x, np.zeros_like(x)
            if exact_run is not None:
                shared, gradient = exact_run.shared(x, gradients, k, randomness, algorithm)
            quantised = np.floor(shared / resolution + randomness.rounding(k, x.shape))
            answers = np.empty((len(links.askers), x.shape[1])) if opened else None
            couplings, sums = links.exchange(
                quantised, k, randomness, sealed=sealed, answers=answers
            )
            couplings *= resolution
            if exact_run is not None:
                x = exact_run.after(x, resolution * quantised + couplings, couplings, k)
            else:
                gradient = gradients.evaluate(x, k, randomness)
                steps = mean_stepsize(algorithm.stepsize, k) * randomness.steps(
                    k, algorithm.stepsize, x.shape
                )
                x = x + attenuation_factor(algorithm.attenuation, k) * couplings - steps * gradient
        yield SimulatedRound(x, gradient, couplings, sums, answers)


class _ExactRun:
    """What the nodes keep between the rounds of the exact method."""

    def __init__(self, method: ExactMethod, x: Array) -> None:
        self._method, self._dual = method, np.zeros_like(x)
        self._logarithms = method.logarithms(x.shape)
        self._scale = None if method.scale == AGREE else method.scale
        self._stepping: Stepping | None = None

    def shared(
        self,
        x: Array,
        gradients: Gradients,
        k: int,
        randomness: FleetRandomness,
        algorithm: Algorithm,
    ) -> tuple[Array, Array]:
        """Return what all nodes share in round *k*, and their gradients; both of shape (n, d)."""
        if agreement.is_agreeing(self._method.scale, k):
            return self._logarithms, np.zeros_like(x)
        if self._scale is None:
            self._scale = self._method.agreed_scale(self._logarithms)
        gradient = gradients.evaluate(x, k, randomness)
        factors = randomness.steps(k, algorithm.stepsize, x.shape)
        if self._stepping is None:
            self._stepping = Stepping(self._method, self._scale)
        return x - self._stepping.steps(k, x, gradient, self._dual, factors), gradient

    def after(self, x: Array, coupled: Array, couplings: Array, k: int) -> Array:
        """Return the estimates after round *k*; *coupled* is what was shared, moved."""
        if agreement.is_agreeing(self._method.scale, k):
            self._logarithms = coupled
            return x
        assert self._scale is not None
        self._dual = self._dual - exact.BETA * self._scale * couplings
        return coupled


@dataclass(frozen=True)
class Links:
    """The ordered pairs (i, j) of neighbours, sorted: i asks, j answers."""

    askers: Places
    answerers: Places
    back: Places  # the index of (j, i)
    metropolis: Array  # M_ij
    first: Places  # index of the first link of every asker

    @classmethod
    def of(cls, graph: Graph) -> Links:
        """Return the links of *graph*, with nodes as indices into its ids."""
        place = {node: index for index, node in enumerate(graph.ids)}
        return cls.between(np.array([(place[a], place[b]) for a, b in graph.edges]), len(place))

    @classmethod
    def between(cls, edges: npt.NDArray[np.integer[Any]], nodes: int) -> Links:
        """Return the links of undirected *edges*, shape (m, 2).

        Each edge occurs once, and every node has at least one.
        """
        ends = edges.astype(np.intp)
        order = np.sort(np.concatenate([ends @ (nodes, 1), ends @ (1, nodes)]))
        askers, answerers = np.divmod(order, nodes)
        del order
        degrees = np.bincount(askers, minlength=nodes)
        # metropolis() of all possible pairs of degrees
        kinds = range(int(degrees.max()) + 1)
        table = np.array([[float(metropolis(a, b)) for b in kinds] for a in kinds])
        factors = table[degrees[askers], degrees[answerers]]
        back = np.lexsort((askers, answerers))
        first = np.concatenate([[0], np.cumsum(degrees)[:-1]])
        return cls(askers, answerers, back, factors, first)

    @property
    def factors(self) -> Array:
        """The Metropolis factor m_ij of every link."""
        return self.metropolis / 2.0**METROPOLIS_BITS

    def exchange(
        self,
        q: Array,
        k: int,
        randomness: FleetRandomness,
        *,
        sealed: bool,
        answers: Array | None = None,
    ) -> tuple[Array, Array]:
        """Return c_i of every node, and the integers that i decrypts; *q* counts resolutions.

        c_i is in resolutions. The integers are sum_j M_ij H_ij answer_ij, or in the sealed exchange
        sum_j M_ij answer_ij. All arrays have shape (n, d). Every answer_ij = H_ji (q_j - q_i) +
        e_ji is written to *answers*, if given.
        """
        if sealed:
            own = randomness.node_half_weights(k, len(q))
            answering, exponents = np.take(own, self.answerers), self.metropolis
        else:
            own = np.ones(len(q))
            asking = randomness.half_weights(k, len(self.askers))
            answering, exponents = np.take(asking, self.back), self.metropolis * asking
        sums = np.empty_like(q)
        for nodes, links in self._blocks():
            weights = answering[links]
            # take is several times as fast as indexing for such short rows
            theirs = np.take(q, self.answerers[links], axis=0)
            theirs -= np.take(q, self.askers[links], axis=0)
            theirs *= weights[:, None]
            theirs += randomness.dither(k, links, weights, q.shape[1])
            if answers is not None:
                answers[links] = theirs
            theirs *= exponents[links, None]
            first = self.first[nodes] - links.start
            np.add.reduceat(theirs, first, axis=0, out=sums[nodes])
        return UNIT * own[:, None] * sums, sums

    def _blocks(self) -> Iterator[tuple[slice, slice]]:
        """Yield blocks of nodes with their links, small enough for the processor's cache."""
        nodes, links = len(self.first), len(self.askers)
        step = max(1, BLOCK * nodes // links)
        for start in range(0, nodes, step):
            stop = min(start + step, nodes)
            last = links if stop == nodes else int(self.first[stop])
            yield slice(start, stop), slice(int(self.first[start]), last)
