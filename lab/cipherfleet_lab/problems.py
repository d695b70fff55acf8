"""The problems of the lab: published or reproducible data, equal for all compared systems.

This file and a seed reproduce every problem. Gradients are exact unless noise or a minibatch is
requested; stochastic gradients are unbiased and have bounded variance.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cipherfleet_deploy.data_folders import example_folder
from cipherfleet_node.settings.sections import Stepsize
from cipherfleet_provisioning.topology.build import build_graph
from cipherfleet_provisioning.topology.section import Topology

from .systems import USUAL_SCALE, Array, Gradient, Problem

Edges = Sequence[tuple[int, int]]
Generator = np.random.Generator

NEWTON_STEPS = 60  # Newton steps for convex problems in a few dimensions; ten are usually enough

# -- five nodes: the article's setting, our data -------------------------------------------------

FIVE_EDGES: Edges = ((0, 1), (1, 2), (2, 3), (3, 4), (0, 4), (0, 2))  # a ring with one chord
# f_i(x) = 1/2 (x - y_i)' A_i (x - y_i)
FIVE_CURVATURES = np.array(
    [
        [[2.0, 0.3], [0.3, 1.0]],
        [[1.0, 0.0], [0.0, 2.0]],
        [[1.5, -0.4], [-0.4, 1.2]],
        [[0.6, 0.1], [0.1, 0.8]],
        [[1.2, 0.2], [0.2, 1.6]],
    ]
)
FIVE_CENTRES = np.array([[1.0, 2.0], [-1.0, 0.5], [3.0, -1.0], [0.0, -2.0], [2.0, 1.0]])
FIVE_STEPSIZE = Stepsize(initial=0.2, decay=0.1, exponent=1.0, spread=1.0)
FIVE_NOISE = 0.1  # standard deviation of every entry of a stochastic gradient
# For the 50 motes; the project's first measurements used these stepsizes.
LAB_STEPSIZE = Stepsize(initial=0.5, decay=0.05, exponent=1.0, spread=0.0)
LAB_MOTES = 50
LAB_GRAPH = Topology(kind="geometric", neighbours=6, seed=1)


def five_nodes(noise: float = FIVE_NOISE) -> Problem:
    """Return five quadratic objectives in two dimensions; all data is in this file, start zero."""
    pulls = np.einsum("nij,nj->ni", FIVE_CURVATURES, FIVE_CENTRES)
    optimum = np.linalg.solve(FIVE_CURVATURES.sum(axis=0), pulls.sum(axis=0))

    def one(node: int) -> Gradient:
        def gradient(x: Array, rng: Generator) -> Array:
            exact: Array = FIVE_CURVATURES[node] @ x - pulls[node]
            return exact + noise * rng.standard_normal(x.shape)

        return gradient

    def together(x: Array, rng: Generator) -> Array:
        exact: Array = np.einsum("nij,nj->ni", FIVE_CURVATURES, x) - pulls
        return exact + noise * rng.standard_normal(x.shape)

    def objective(x: Array) -> float:
        away = x - FIVE_CENTRES
        return float(np.einsum("ni,nij,nj->", away, FIVE_CURVATURES, away)) / 2 / len(away)

    return Problem(
        name="five nodes",
        edges=FIVE_EDGES,
        gradients=[one(node) for node in range(5)],
        start=np.zeros((5, 2)),
        objective=objective,
        optimum=optimum,
        vectorised=together,
        slope=lambda x: FIVE_CURVATURES.mean(axis=0) @ x - pulls.mean(axis=0),
        whole=lambda x: np.einsum("nij,nj->ni", FIVE_CURVATURES, x) - pulls,
        bounds=FIVE_CURVATURES,
    )


# -- consensus ----------------------------------------------------------------------------------


def averages(values: Array, edges: Edges) -> Problem:
    """Return average consensus: f_i = 0, the nodes start at *values*, (n, d).

    The answer is the mean.
    """
    mean = values.mean(axis=0)

    def nothing(x: Array, rng: Generator) -> Array:
        del rng
        return np.zeros_like(x)

    return Problem(
        name="average consensus",
        edges=edges,
        gradients=[nothing] * len(values),
        start=np.array(values, np.float64),
        objective=lambda x: float(np.sum((x - mean) ** 2)) / 2,
        optimum=mean,
        vectorised=nothing,
        slope=np.zeros_like,
    )


# -- regressions --------------------------------------------------------------------------------


@dataclass(frozen=True)
class RegressionLoss:
    """A loss of predictions z against targets y, entry by entry."""

    value: Callable[[Array, Array], Array]
    slope: Callable[[Array, Array], Array]  # dl/dz
    curvature: Callable[[Array, Array], Array]  # d2l/dz2
    steepest: float  # the largest curvature at any z and y


SQUARED = RegressionLoss(
    lambda z, y: (z - y) ** 2 / 2,
    lambda z, y: z - y,
    lambda z, _: np.ones_like(z),
    1.0,
)
LOGISTIC = RegressionLoss(  # y in {0, 1}
    lambda z, y: np.logaddexp(0.0, z) - y * z,
    lambda z, y: _sigmoid(z) - y,
    lambda z, _: _sigmoid(z) * _sigmoid(-z),
    0.25,
)
# Geman and McClure's: bounded, so that an outlier stops pulling; not convex beyond 1/sqrt(3).
BOUNDED = RegressionLoss(
    lambda z, y: (z - y) ** 2 / (1 + (z - y) ** 2) / 2,
    lambda z, y: (z - y) / (1 + (z - y) ** 2) ** 2,
    lambda z, y: (1 - 3 * (z - y) ** 2) / (1 + (z - y) ** 2) ** 3,
    1.0,
)


def _sigmoid(z: Array) -> Array:
    result: Array = 0.5 * (1.0 + np.tanh(0.5 * z))
    return result


@dataclass(frozen=True)
class Readings:
    """All nodes' readings: f_i(x) = mean over its rows of loss(phi . x, y) + penalty/2 |x|^2.

    phi has shape (n, rows, d), targets (n, rows).
    """

    phi: Array
    targets: Array
    loss: RegressionLoss
    penalty: float = 0.0
    minibatch: int | None = None  # rows per gradient, sampled with replacement; None: all

    def gradients(self, x: Array, rng: Generator) -> Array:
        """Return g_i(x_i) of all nodes, shape (n, d)."""
        if self.minibatch is None:
            return self._slopes(self.phi, self.targets, x)
        n, rows = self.targets.shape
        chosen = np.floor(rows * rng.random((n, self.minibatch))).astype(int)
        nodes = np.arange(n)[:, None]
        return self._slopes(self.phi[nodes, chosen], self.targets[nodes, chosen], x)

    def whole_gradients(self, x: Array) -> Array:
        """Return g_i(x_i) of all nodes over all their rows, shape (n, d)."""
        return self._slopes(self.phi, self.targets, x)

    def bounds(self) -> Array:
        """Return a bound on every node's second derivative at any x, shape (n, d, d)."""
        moments = np.einsum("nri,nrj->nij", self.phi, self.phi) / self.targets.shape[1]
        bounds: Array = self.loss.steepest * moments + self.penalty * np.eye(self.phi.shape[2])
        return bounds

    def make_gradient(self, node: int) -> Gradient:
        """Return the gradient function g_i of one node."""
        own = Readings(
            self.phi[node : node + 1],
            self.targets[node : node + 1],
            self.loss,
            self.penalty,
            self.minibatch,
        )
        return lambda x, rng: own.gradients(x[None], rng)[0]

    def objective(self, x: Array) -> float:
        """Return F at x, shape (d,)."""
        losses = self.loss.value(self.phi @ x, self.targets)
        return float(losses.mean() + self.penalty / 2 * (x @ x))

    def slope(self, x: Array) -> Array:
        """Return the gradient of F at x, shape (d,)."""
        everywhere = np.broadcast_to(x, (len(self.phi), x.size))
        mean: Array = self._slopes(self.phi, self.targets, everywhere).mean(axis=0)
        return mean

    def curvature(self, x: Array) -> Array:
        """Return the second derivative of F at x, shape (d, d)."""
        curved = self.loss.curvature(self.phi @ x, self.targets) / self.targets.size
        second: Array = np.einsum("nr,nri,nrj->ij", curved, self.phi, self.phi)
        return second + self.penalty * np.eye(x.size)

    def minimum(self) -> Array:
        """Return the minimiser of F for convex losses, by Newton's method from zero."""
        x = np.zeros(self.phi.shape[2])
        for _ in range(NEWTON_STEPS):
            step = np.linalg.solve(self.curvature(x), self.slope(x))
            x = x - step
            if np.abs(step).max() <= 4.0 * np.spacing(np.abs(x).max()):  # rounding alone is left
                break
        return x

    def _slopes(self, phi: Array, targets: Array, x: Array) -> Array:
        slopes = self.loss.slope(np.matmul(phi, x[:, :, None])[:, :, 0], targets)
        pull: Array = np.matmul(slopes[:, None, :], phi)[:, 0, :] / targets.shape[1]
        return pull + self.penalty * x


def regression(
    name: str, readings: Readings, edges: Edges, start: Array, optimum: Array | None
) -> Problem:
    """Return the regression problem on all *readings*."""
    n = len(readings.phi)
    return Problem(
        name=name,
        edges=edges,
        gradients=[readings.make_gradient(node) for node in range(n)],
        start=start,
        objective=readings.objective,
        optimum=optimum,
        vectorised=readings.gradients,
        slope=readings.slope,
        whole=readings.whole_gradients,
        bounds=readings.bounds(),
        scale=USUAL_SCALE * readings.loss.steepest,
    )


def intel_lab(
    graph: Topology = LAB_GRAPH, minibatch: int | None = None, motes: int = LAB_MOTES
) -> Problem:
    """Return least squares in four dimensions on 144 readings of each of the 50 Intel lab motes.

    With fewer *motes* it takes every fifth, for example.
    The known optimum is [-0.1525029, -0.9587575, -0.1015940, -0.2449960], checked by
    test_the_lab_problem_has_the_known_answer. Data: examples/intel_lab/README.md.
    """
    phi, targets = lab_readings(example_folder("intel_lab") / "intel_lab.csv")
    chosen = np.arange(motes) * LAB_MOTES // motes
    phi, targets = phi[chosen], targets[chosen]
    readings = Readings(phi, targets, SQUARED, minibatch=minibatch)
    start = np.zeros((len(phi), phi.shape[2]))
    return regression(
        "Intel lab", readings, build_edges(graph, len(phi)), start, readings.minimum()
    )


def lab_readings(file: Path) -> tuple[Array, Array]:
    """Read the regressors, shape (50, 144, 4), and targets, shape (50, 144), of *file*."""
    with file.open(newline="") as lines:
        rows = [[float(cell) for cell in row] for row in list(csv.reader(lines))[1:]]
    sensor, hour, temperature, humidity = np.array(rows).T
    angle = 2.0 * np.pi * hour / 24.0
    phi = np.stack(
        [np.ones_like(hour), (temperature - 20.0) / 5.0, np.sin(angle), np.cos(angle)], axis=1
    )
    nodes = len(np.unique(sensor))
    order = np.lexsort((hour, sensor))
    return (
        phi[order].reshape(nodes, -1, 4),
        ((humidity[order] - 40.0) / 10.0).reshape(nodes, -1),
    )


def logistic(
    nodes: int = 10, rows: int = 20, minibatch: int | None = None, seed: int = 1
) -> Problem:
    """Return logistic regression: two classes, three regressors, bias last, a mixture per node."""
    rng = np.random.default_rng(seed)
    truth = np.array([1.5, -1.0, 0.5, 0.3])
    centres = rng.normal(0.0, 0.8, (nodes, 1, 3))
    phi = np.concatenate(
        [centres + rng.standard_normal((nodes, rows, 3)), np.ones((nodes, rows, 1))], axis=2
    )
    targets = (rng.random((nodes, rows)) < _sigmoid(phi @ truth)).astype(np.float64)
    readings = Readings(phi, targets, LOGISTIC, penalty=0.05, minibatch=minibatch)
    return regression(
        "logistic", readings, ring_with_chords(nodes), np.zeros((nodes, 4)), readings.minimum()
    )


def non_convex(
    nodes: int = 10, rows: int = 20, minibatch: int | None = None, seed: int = 1
) -> Problem:
    """Return a line fit with a bounded, non-convex loss; a quarter of the readings are outliers.

    There is no known optimum: use measures.stationarity.
    """
    readings = non_convex_readings(nodes, rows, minibatch, seed)
    start = np.tile([2.0, 1.0], (nodes, 1))
    return regression("non-convex", readings, ring_with_chords(nodes), start, None)


def non_convex_readings(
    nodes: int = 10, rows: int = 20, minibatch: int | None = None, seed: int = 1
) -> Readings:
    """Return the readings of `non_convex`; outliers are 1 to 6 too high."""
    rng = np.random.default_rng(seed)
    abscissa = rng.uniform(-1.0, 1.0, (nodes, rows))
    phi = np.stack([np.ones_like(abscissa), abscissa], axis=2)
    targets = phi @ np.array([0.5, -1.0]) + 0.1 * rng.standard_normal((nodes, rows))
    wrong = rng.random((nodes, rows)) < 0.25
    targets = np.where(wrong, targets + rng.uniform(1.0, 6.0, (nodes, rows)), targets)
    return Readings(phi, targets, BOUNDED, minibatch=minibatch)


# -- graphs -------------------------------------------------------------------------------------


def build_edges(graph: Topology, nodes: int) -> Edges:
    """Return the edges of any topology of fleet.yaml, with nodes by number."""
    names = [f"n{node}" for node in range(nodes)]
    place = {name: node for node, name in enumerate(names)}
    return [(place[a], place[b]) for a, b in build_graph(graph, names).edges]


def ring_with_chords(nodes: int) -> Edges:
    """Return a ring in which each node is also linked to the node after the next."""
    near = {(i, (i + step) % nodes) for i in range(nodes) for step in (1, 2)}
    return sorted({(min(edge), max(edge)) for edge in near if edge[0] != edge[1]})
