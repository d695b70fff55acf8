"""Measure how often the exact method diverges, under each metric, on random problems.

    python -m tests.tools.metric_stability --problems 1000

Each problem has 3 to 15 nodes, 1 to 10 features whose scales lie between 0.1 and 10, a random
graph, and least squares or logistic regression. Local curvatures may be singular. The right scale
c0 is the mean (of logarithms) of the nodes' curvatures, divided by REACH. Every problem runs with
that scale, and with it off by a factor of ten either way, with a random law and a spread of 0, 0.5,
1 or 2. With --usual the right scale is METRIC_SHARE of that.

A run is suspect if it ends farther from the optimum than twice the start, and farther than halfway.
A suspect run is continued for ten times the rounds. If it is still suspect, it has diverged.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from itertools import islice
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from cipherfleet_analysis.exact_run import ExactMethod
from cipherfleet_analysis.gradients import Gradients, Linear
from cipherfleet_analysis.random_choices import FleetRandomness, SeededRandomness
from cipherfleet_analysis.simulation import Links, run
from cipherfleet_node.core.agreement import METRIC_SHARE
from cipherfleet_node.core.exact import REACH
from cipherfleet_node.settings.sections import Algorithm, MetricName, Stepsize

Array = npt.NDArray[np.float64]
Laws = tuple[Any, ...]

METRICS: tuple[MetricName, ...] = get_args(MetricName)
LAWS: Laws = ("uniform", "normal", "log-normal")
SPREADS = (0.0, 0.5, 1.0, 2.0)
OFF = (0.1, 1.0, 10.0)
ROUNDS = 200


@dataclass(frozen=True)
class Logistic:
    """Gradients of logistic regressions; phi has shape (n, rows, d), targets (n, rows)."""

    phi: Array
    targets: Array
    penalty: float

    def evaluate(self, x: Array, k: int, randomness: FleetRandomness) -> Array:
        """Return the gradient of every node, shape (n, d)."""
        del k, randomness
        z = np.einsum("nri,ni->nr", self.phi, x)
        slopes = 0.5 * (1.0 + np.tanh(0.5 * z)) - self.targets
        mean: Array = np.einsum("nri,nr->ni", self.phi, slopes) / self.phi.shape[1]
        return mean + self.penalty * x


@dataclass(frozen=True)
class Case:
    """A random problem."""

    links: Links
    gradients: Gradients
    bounds: Array  # H_i, shape (n, d, d)
    optimum: Array


def random_edges(rng: np.random.Generator, nodes: int) -> Array:
    """Return the edges of a line, a ring, a star, a complete or a random graph."""
    chosen = {
        0: [(i, i + 1) for i in range(nodes - 1)],
        1: [(i, (i + 1) % nodes) for i in range(nodes)],
        2: [(0, i) for i in range(1, nodes)],
        3: [(i, j) for j in range(nodes) for i in range(j)],
    }.get(int(rng.integers(6)))
    if chosen is None:
        chosen = [(int(rng.integers(i)), i) for i in range(1, nodes)]
        pairs = rng.integers(nodes, size=(nodes // 2, 2)).tolist()
        chosen += [(a, b) for a, b in pairs if a != b]
    return np.array(sorted({(min(a, b), max(a, b)) for a, b in chosen}))


def random_case(rng: np.random.Generator) -> Case:
    """Return a random problem; see the head of this module."""
    n, d, rows = int(rng.integers(3, 16)), int(rng.integers(1, 11)), int(rng.integers(4, 40))
    scales, mix = 10.0 ** rng.uniform(-1, 1, d), 0.5 * rng.random() * rng.normal(size=(d, d))
    phi = (rng.normal(size=(n, rows, d)) @ (np.eye(d) + mix) + 0.3 * rng.normal(size=(n, 1, d))) * (
        scales * 10.0 ** rng.uniform(-0.5, 0.5, (n, 1, 1)) ** rng.integers(2)
    )
    z = phi @ (rng.normal(size=d) / scales) + 0.3 * rng.normal(size=(n, 1))
    links = Links.between(random_edges(rng, n).astype(int), n)
    squares = np.einsum("nri,nrj->nij", phi, phi) / rows
    if rng.integers(3):
        y = z + 0.3 * rng.normal(size=z.shape)
        offsets = -np.einsum("nri,nr->ni", phi, y) / rows
        best = np.linalg.lstsq(squares.sum(0), -offsets.sum(0), rcond=None)[0]
        return Case(links, Linear(squares, offsets), squares, best)
    targets = (rng.random(z.shape) < 0.5 * (1.0 + np.tanh(0.5 * z))).astype(float)
    penalty = float(rng.choice([0.01, 0.1]))
    logistic = Logistic(phi, targets, penalty)
    return Case(links, logistic, squares / 4.0 + penalty * np.eye(d), _logistic_optimum(logistic))


def _logistic_optimum(logistic: Logistic) -> Array:
    n, _, d = logistic.phi.shape
    x = np.zeros(d)
    for _ in range(500):  # steps with a fixed bound of the curvature never diverge
        p = 0.5 * (1.0 + np.tanh(0.5 * (logistic.phi @ x)))
        h = np.einsum("nri,nr,nrj->ij", logistic.phi, 0.25 + 0 * p, logistic.phi)
        h = h / logistic.phi.shape[1] + n * logistic.penalty * np.eye(d)
        slope = logistic.evaluate(np.tile(x, (n, 1)), 0, SeededRandomness(0)).sum(0)
        x = x - np.linalg.solve(h, slope)
    return x


def diverges(case: Case, metric: MetricName, scale: float, stepsize: Stepsize, seed: int) -> bool:
    """True if a run of this metric diverges."""
    return _is_suspect(case, metric, scale, stepsize, seed, ROUNDS) and _is_suspect(
        case, metric, scale, stepsize, seed, 10 * ROUNDS
    )


def _is_suspect(
    case: Case, metric: MetricName, scale: float, stepsize: Stepsize, seed: int, rounds: int
) -> bool:
    curvatures = np.asarray(np.linalg.eigvalsh(case.bounds)[:, -1], np.float64)
    method = ExactMethod(scale, curvatures, stepsize.spread, metric=metric, bounds=case.bounds)
    algorithm = Algorithm(
        rounds=rounds, resolution=2.0**-32, method="exact", metric=metric, stepsize=stepsize
    )
    passed = run(
        case.links, np.zeros(case.bounds.shape[:2]), case.gradients, algorithm,
        SeededRandomness(seed), sealed=True, method=method,
    )  # fmt: skip
    with np.errstate(all="ignore"):
        away = [_distance(each.estimates, case.optimum) for each in islice(passed, rounds)]
    start = float(np.linalg.norm(case.optimum))
    return not (away[-1] <= 2.0 * start or away[-1] <= away[rounds // 2])


def _distance(estimates: Array, optimum: Array) -> float:
    return float(np.sqrt(np.mean(np.sum((estimates - optimum) ** 2, axis=1))))


def main() -> None:
    """Print the number of runs, and of runs that diverged, by metric."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--metrics", nargs="+", default=METRICS, choices=METRICS)
    parser.add_argument("--usual", action="store_true")
    asked = parser.parse_args()
    found = {metric: {"runs": 0, "diverged": 0} for metric in asked.metrics}
    for seed in range(asked.first, asked.first + asked.problems):
        rng = np.random.default_rng(seed)
        case = random_case(rng)
        curvatures = np.linalg.eigvalsh(case.bounds)[:, -1]
        right = float(np.exp(np.log(curvatures).mean())) / REACH
        law = LAWS[int(rng.integers(3))]
        stepsize = Stepsize(spread=float(rng.choice(SPREADS)), law=law)
        for metric in asked.metrics:
            part = METRIC_SHARE if asked.usual and metric != "step" else 1.0
            for off in OFF:
                found[metric]["runs"] += 1
                found[metric]["diverged"] += diverges(
                    case, metric, off * part * right, stepsize, seed
                )
        print(json.dumps({"problem": seed, **found}), flush=True)


if __name__ == "__main__":
    main()
