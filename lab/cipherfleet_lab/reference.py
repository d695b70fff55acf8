"""The plaintext reference iteration; the encrypted fleet must equal it up to quantisation error.

Each method is one loop over rounds in real arithmetic, without encryption and messages. It is
written from docs/explanation/algorithm.md and not from the node's modules. It shares only the
random choices and the user's objectives with the fleet, so that both round, weight and step alike.

    q_i = Q(x_i)
    c_i = sum_j a_ij (q_j - q_i) + dither        a_ij = m_ij h_ij h_ji
    x_i <- x_i + gamma_k c_i - Lambda_i g_i(x_i)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from cipherfleet_node.core.randomness import RoundRandomness
from cipherfleet_node.settings.sections import Algorithm, Stepsize

Array = npt.NDArray[np.float64]
Seeds = Callable[[str, int], bytes]
# (answerer, asker, round, H) -> e, shape (d,): the answerer adds e to H (q_j - q_i)
Dither = Callable[[str, str, int, int], Sequence[int]]

_START_NOISE = 16.0  # resolutions
_METROPOLIS_STEPS = 64
_WEIGHT_SCALE = 4096


class HasGradient(Protocol):
    """The part of a node's objective that the iteration uses."""

    def start(self) -> Array:
        """Return the first estimate, shape (d,)."""

    def gradient(self, x: Array, randomness: RoundRandomness) -> Array:
        """Return a stochastic gradient at *x*, shape (d,)."""


class HasCurvature(HasGradient, Protocol):
    """The part of a node's objective that the exact iteration uses."""

    def curvature(self) -> float:
        """Return the largest eigenvalue of the second derivative."""


class HasBound(HasCurvature, Protocol):
    """The part of a node's objective that the metrics diagonal and newton use."""

    def curvature_bound(self) -> Array:
        """Return a matrix H, shape (d, d), that bounds the second derivative."""


class NormalEquations:
    """The objective |s - s_i|^2 / 2 of method statistics; *phi* has shape (N, d) and *y* (N,).

    From docs/explanation/algorithm.md#statistics: s_i has the upper triangle of Phi'Phi / N +
    penalty I, row by row, and then Phi'y / N.
    """

    def __init__(self, phi: Array, y: Array, penalty: float = 0.0) -> None:
        count, d = phi.shape
        matrix = phi.T @ phi / count + penalty * np.eye(d)
        above = [matrix[row, column] for row in range(d) for column in range(row, d)]
        self.own = np.array([*above, *(phi.T @ y / count)])

    def start(self) -> Array:
        """Return zero, shape (d (d + 3) / 2,)."""
        return np.zeros(self.own.size)

    def gradient(self, x: Array, randomness: RoundRandomness) -> Array:
        """Return the gradient x - s_i, shape (d,)."""
        del randomness
        result: Array = x - self.own
        return result

    def curvature(self) -> float:
        """Return the only eigenvalue of the second derivative, one."""
        return 1.0


def solve_equations(statistics: Array, d: int) -> Array:
    """Return the solution of the equations whose *statistics* these are, shape (d,)."""
    entries, matrix = iter(statistics), np.zeros((d, d))
    for row in range(d):
        for column in range(row, d):
            matrix[row, column] = matrix[column, row] = next(entries)
    solution: Array = np.linalg.solve(matrix, np.array([*entries]))
    return solution


def iterate(
    edges: Iterable[tuple[str, str]],
    objectives: Mapping[str, HasGradient],
    algorithm: Algorithm,
    resolution: float,
    seeds: Seeds,
    rounds: int,
    dither: Dither | None = None,
    *,
    sealed: bool = False,
) -> Array:
    """Return all estimates before each round and after the last one, shape (rounds + 1, n, d).

    Nodes are in the order of their names. Without *dither* the result equals the fleet's up to
    quantisation error, with the protocol's dither it equals it exactly. In a *sealed* fleet a node
    has one half weight per round for all its edges.
    """
    links = sorted({(a, b) for edge in edges for a, b in (edge, edge[::-1])})
    names = sorted(objectives)
    x = first_estimates(objectives, resolution, seeds)
    history = [np.array([x[name] for name in names])]
    for k in range(rounds):
        randomness = {name: RoundRandomness(seeds(name, k)) for name in names}
        q = {name: round_at_random(x[name] / resolution, randomness[name]) for name in names}
        coupling = couple(q, links, randomness, k, dither, sealed=sealed)
        gamma = attenuation(algorithm, k)
        fresh = {}
        for name in names:
            steps = stepsizes(algorithm.stepsize, k, x[name].size, randomness[name])
            gradient = objectives[name].gradient(x[name], randomness[name])
            fresh[name] = x[name] + gamma * resolution * coupling[name] - steps * gradient
        x = fresh
        history.append(np.array([x[name] for name in names]))
    return np.array(history)


def iterate_exact(
    edges: Iterable[tuple[str, str]],
    objectives: Mapping[str, HasCurvature],
    algorithm: Algorithm,
    resolution: float,
    seeds: Seeds,
    rounds: int,
    dither: Dither | None = None,
    *,
    scale: float | Literal["agree"],
    sealed: bool = False,
) -> Array:
    """Return all estimates of the exact method, as `iterate` does; *scale* is c0, or "agree".

    From docs/explanation/algorithm.md#exact-iteration:

        u_i = x_i - Lambda_i (g_i(x_i) + y_i);  q_i = Q(u_i)      Lambda_i as in `Lambdas`
        x_i <- q_i + c_i;  y_i <- y_i - 3 c0 c_i

    To agree on c0, six rounds average log2 L_i first; all nodes take the largest result.
    """
    links = sorted({(a, b) for edge in edges for a, b in (edge, edge[::-1])})
    names = sorted(objectives)
    x = first_estimates(objectives, resolution, seeds)
    w = {name: np.zeros_like(x[name]) for name in names}
    for name in names:
        w[name][0] = math.log2(objectives[name].curvature())
        if algorithm.metric != "step":
            w[name][0] -= 2.0  # a quarter
    c0 = None if scale == "agree" else scale
    y = {name: np.zeros_like(x[name]) for name in names}
    spread = algorithm.stepsize.spread
    lambdas = {name: Lambdas(algorithm, objectives[name]) for name in names}
    history = [np.array([x[name] for name in names])]
    for k in range(rounds):
        randomness = {name: RoundRandomness(seeds(name, k)) for name in names}
        averages = scale == "agree" and k < 6
        if c0 is None and not averages:
            c0 = 2.0 ** (max(round(8.0 * (math.log2(0.6) + w[name][0])) for name in names) / 8)
        q = {}
        for name in names:
            u = w[name]
            if c0 is not None:
                factors = (
                    1.0 - spread + 2.0 * spread * randomness[name].uniform("stepsize", x[name].size)
                )
                gradient = objectives[name].gradient(x[name], randomness[name])
                matrix = lambdas[name].next(x[name], gradient, factors, c0)
                u = x[name] - matrix @ (gradient + y[name])
            q[name] = round_at_random(u / resolution, randomness[name])
        coupling = couple(q, links, randomness, k, dither, sealed=sealed)
        for name in names:
            if c0 is None:
                w[name] = resolution * (q[name] + coupling[name])
                continue
            x[name] = resolution * (q[name] + coupling[name])
            y[name] = y[name] - 3.0 * c0 * resolution * coupling[name]
        history.append(np.array([x[name] for name in names]))
    return np.array(history)


class Lambdas:
    """The matrices Lambda_i of one node, from docs/explanation/algorithm.md#metrics."""

    def __init__(self, algorithm: Algorithm, objective: HasCurvature) -> None:
        self._metric, self._objective = algorithm.metric, objective
        self._bound = cast("HasBound", objective)
        self._shorter = 1.0 + max(algorithm.stepsize.spread, 0.5)
        self._before: tuple[Array, Array] | None = None
        self._moved: Array | float = 0.0
        self._turned: Array | float = 0.0

    def next(self, x: Array, gradient: Array, factors: Array, c0: float) -> Array:
        """Return Lambda_i of the next round, shape (d, d)."""
        random = np.diag(factors)
        if self._metric == "newton":
            root = self._newton_root(c0)
            product: Array = root @ random @ root
            return product
        if self._metric == "diagonal":
            w = self._weights(x, gradient)
            h = self._bound.curvature_bound()
            largest = np.linalg.eigvalsh(np.sqrt(np.outer(w, w)) * h)[-1]
            entries = np.minimum(1.5 * w / largest, 1.0 / c0)
        else:
            entries = np.full(x.size, min(1.5 / self._objective.curvature(), 1.0 / c0))
        diagonal: Array = np.diag(entries / self._shorter) @ random
        return diagonal

    def _newton_root(self, c0: float) -> Array:
        values, vectors = np.linalg.eigh(self._bound.curvature_bound())
        lengths = 1.0 / np.maximum(np.abs(values) / 1.5, c0) / self._shorter
        root: Array = vectors @ np.diag(np.sqrt(lengths)) @ vectors.T
        return root

    def _weights(self, x: Array, gradient: Array) -> Array:
        if self._before is None:
            self._before = x, gradient
            return np.ones_like(x)
        moved, turned = x - self._before[0], gradient - self._before[1]
        self._before = x, gradient
        self._moved = 0.95 * self._moved + 0.05 * moved**2
        self._turned = 0.95 * self._turned + 0.05 * turned**2
        ratio = np.sqrt(self._moved / self._turned)
        return np.asarray(np.maximum(ratio / ratio.max(), 0.01), np.float64)


def first_estimates(
    objectives: Mapping[str, HasGradient], resolution: float, seeds: Seeds
) -> dict[str, Array]:
    """Return the first estimate of every node: its objective's, plus noise."""
    x = {}
    for name in sorted(objectives):
        noise = RoundRandomness(seeds(name, 0))
        start = np.asarray(objectives[name].start(), dtype=np.float64)
        spread = 2.0 * noise.uniform("start", start.size) - 1.0
        x[name] = start + _START_NOISE * resolution * spread
    return x


def couple(
    q: Mapping[str, Array],
    links: Sequence[tuple[str, str]],
    randomness: Mapping[str, RoundRandomness],
    k: int,
    dither: Dither | None,
    *,
    sealed: bool,
) -> dict[str, Array]:
    """Return the coupling term of every node in round *k*, in resolutions."""
    degree = {name: sum(a == name for a, _ in links) for name in q}
    half = {(a, b): odd_half_weight(randomness[a], "" if sealed else b) for a, b in links}
    terms = {name: np.zeros_like(values) for name, values in q.items()}
    for i, j in links:
        m = _METROPOLIS_STEPS // (1 + max(degree[i], degree[j])) / _METROPOLIS_STEPS
        theirs = half[j, i] * (q[j] - q[i])
        if dither is not None:
            theirs = theirs + np.asarray(dither(j, i, k, half[j, i]), dtype=np.float64)
        terms[i] += m * half[i, j] / _WEIGHT_SCALE * theirs / _WEIGHT_SCALE
    return terms


def round_at_random(scaled: Array, randomness: RoundRandomness) -> Array:
    """Round each entry to an integer: up with the probability of its fractional part, else down."""
    below = np.floor(scaled)
    # Round up if u >= 1 - fraction, which equals floor(x + u).
    return below + (randomness.uniform("quantise", scaled.size) >= 1.0 - (scaled - below))


def odd_half_weight(randomness: RoundRandomness, neighbour: str) -> int:
    """Return an odd half weight of exactly twelve bits: one of 2049, 2051, ... 4095."""
    return range(2049, 4096, 2)[randomness.integers_below(1024, f"half-weight/{neighbour}", 1)[0]]


def attenuation(algorithm: Algorithm, k: int) -> float:
    """Return the attenuation factor gamma_k."""
    if algorithm.attenuation == "none":
        return 1.0
    assert not isinstance(algorithm.attenuation, str)
    return 1.0 / (1.0 + algorithm.attenuation.scale * math.pow(k, algorithm.attenuation.exponent))


def stepsizes(stepsize: Stepsize, k: int, dimension: int, randomness: RoundRandomness) -> Array:
    """Return the diagonal of Lambda_i, mean lambda_k, shape (d,), for the uniform law."""
    if stepsize.law != "uniform":
        raise ValueError(f"stepsize.law is {stepsize.law!r}, the reference supports only 'uniform'")
    mean = stepsize.initial / (1.0 + stepsize.decay * math.pow(k, stepsize.exponent))
    low, high = mean * (1.0 - stepsize.spread), mean * (1.0 + stepsize.spread)
    return low + (high - low) * randomness.uniform("stepsize", dimension)
