"""Simulate a fleet's rounds without encryption, with arrays over all nodes.

The mathematics is the fleet's (docs/explanation/algorithm.md#iteration), with the dither. With the
random choices of a fleet the simulation gives the estimates of that fleet, apart from the rounding
of sums: checked by test_the_simulation_equals_the_reference_for_the_same_draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np
import numpy.typing as npt

from cipherfleet_node.core.exchange import UNIT, metropolis
from cipherfleet_node.core.objective import Objective
from cipherfleet_node.core.optimiser import attenuation_factor, mean_stepsize
from cipherfleet_node.core.packing import METROPOLIS_BITS
from cipherfleet_node.core.quantiser import START_NOISE
from cipherfleet_node.settings.sections import Algorithm, ObjectiveSection, resolution_of
from cipherfleet_provisioning.topology.graph import Graph

from .exact_run import ExactMethod, ExactRun, Places, exact_method
from .gradients import Gradients, gradients_of
from .random_choices import Array, FleetRandomness

BLOCK = 1 << 15  # links per block of the exchange


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


def run_objectives(
    links: Links,
    objectives: Sequence[Objective],
    algorithm: Algorithm,
    section: ObjectiveSection,
    randomness: FleetRandomness,
    *,
    sealed: bool,
) -> Iterator[SimulatedRound]:
    """Yield rounds without end of nodes with these *objectives*, from their first estimates."""
    starts = np.array([objective.start() for objective in objectives])
    return run(
        links,
        first_estimates(starts, algorithm, randomness),
        gradients_of(objectives, section),
        algorithm,
        randomness,
        sealed=sealed,
        method=exact_method(objectives, algorithm, section),
    )


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
    exact_run = None if method is None else ExactRun(method, x)
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
