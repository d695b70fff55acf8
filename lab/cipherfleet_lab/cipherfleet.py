"""The cipherfleet exchanges as Systems of the lab: the vector engine with a full log.

Nothing is encrypted: the log contains the integers that a node would decrypt. Each guard can be
switched off, to show its effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal

import numpy as np

from cipherfleet_analysis.exact_run import ExactMethod
from cipherfleet_analysis.gradients import Gradients, OneByOne
from cipherfleet_analysis.random_choices import FleetRandomness, SeededRandomness
from cipherfleet_analysis.simulation import Links, SimulatedRound, first_estimates, run
from cipherfleet_node.core import exact
from cipherfleet_node.core.optimiser import attenuation_factor, mean_stepsize
from cipherfleet_node.core.packing import HALF_WEIGHT_BITS
from cipherfleet_node.settings.sections import AGREE, Algorithm, Scale, resolution_of

from .shields import FleetShield
from .systems import Array, Log, Problem

# E[h], h uniform on the odd numbers of HALF_WEIGHT_BITS bits over 2^HALF_WEIGHT_BITS.
MEAN_HALF_WEIGHT = 0.75


@dataclass(frozen=True)
class Cipherfleet:
    """The algorithm of cipherfleet; *algorithm* has method, stepsizes, attenuation, resolution.

    The exact method takes gradients over whole windows, and of the stepsizes only their spread and
    law. With `algorithm.shield` its duals begin at the shares of the first generation.

    The guards: `algorithm.stepsize.spread` sets random stepsizes; `algorithm.attenuation` "none"
    switches attenuation off; *dither* hides the half weights; *start_noise* makes the start random
    at the scale of the resolution; *half_weights* None makes them random in each round.

    The log's `opened` and `sums` are the integers that a node decrypts, counted in resolutions:
    H_ji (q_j - q_i) + e_ji of each neighbour (unless masked), and
    sum_j M_ij H_ij (H_ji (q_j - q_i) + e_ji). In a sealed exchange the sum is without H_ij, which i
    applies afterwards.
    """

    exchange: Literal["pairwise", "sealed"] = "sealed"
    algorithm: Algorithm = field(default_factory=Algorithm)
    dither: bool = True
    start_noise: bool = True
    half_weights: int | None = None  # a fixed H for all nodes, odd, of HALF_WEIGHT_BITS bits
    masks: bool = True  # of the sealed exchange: without masks each answer can be opened

    @property
    def name(self) -> str:
        """The name for tables, with the guards that are off."""
        off = {"dither": self.dither, "start noise": self.start_noise}
        off["private half weights"] = self.half_weights is None
        off["masks"] = self.masks
        guards = [f"no {guard}" for guard, on in off.items() if not on]
        method = ["exact"] if self.algorithm.method == "exact" else []
        shield = self.algorithm.shield
        method += [] if shield == "none" else [f"{shield} shield"]
        return ", ".join([f"cipherfleet {self.exchange}", *method, *guards])

    def run(self, problem: Problem, rounds: int, seed: int) -> Log:
        """Run *rounds* rounds from problem.start; the same seed gives the same log."""
        links = Links.between(np.array(problem.edges), problem.nodes)
        randomness = self._make_randomness(seed)
        start = first_estimates(problem.start, self.algorithm, randomness)
        method, shield = _exact_method(problem, self.algorithm), None
        if method is not None and self.algorithm.shield != "none":
            shield = FleetShield(problem, self.algorithm, _number(method.scale), seed)
            method = _with_shield(method, shield)
        passed = list(
            islice(
                run(
                    links,
                    start,
                    _gradients(problem, method, shield, seed),
                    self.algorithm,
                    randomness,
                    sealed=self.exchange == "sealed",
                    opened=self.exchange == "pairwise" or not self.masks,
                    method=method,
                ),
                rounds,
            )
        )
        estimates = np.array([start, *(each.estimates for each in passed)])
        couplings = _stack_rounds([each.couplings for each in passed], start)
        return Log(
            system=self.name,
            estimates=estimates,
            gradients=_stack_rounds([each.gradients for each in passed], start),
            opened=_collect_opened(links, passed),
            sums=_stack_rounds([each.sums for each in passed], start),
            couplings=couplings,
            half_weights=_own_weights(links, randomness.values),
            stepsizes=_public_stepsizes(self.algorithm, method, rounds),
            attenuations=_attenuations(self.algorithm, method, rounds),
            weights=self._mixing(links, problem.nodes),
            resolution=resolution_of(self.algorithm),
            shared=None if method is None else estimates[1:] - couplings,
            dual_rate=None if method is None else exact.BETA * _number(method.scale),
            own_steps=None if method is None else _own_steps(method),
            first_duals=None if method is None else method.first_duals,
            added_curvatures=None if shield is None else shield.added_curvatures(),
        )

    def _make_randomness(self, seed: int) -> _Unguarded:
        return _Unguarded(seed, self)

    def _mixing(self, links: Links, nodes: int) -> Array:
        """Return I - L for the mean weights, shape (n, n)."""
        h = MEAN_HALF_WEIGHT
        if self.half_weights is not None:
            h = self.half_weights / 2.0**HALF_WEIGHT_BITS
        mixing = np.zeros((nodes, nodes))
        mixing[links.askers, links.answerers] = h * h * links.factors
        return mixing + np.diag(1.0 - mixing.sum(axis=1))


class _Unguarded(SeededRandomness):
    """Random choices from a seed, without the guards that a system has switched off."""

    def __init__(self, seed: int, system: Cipherfleet) -> None:
        super().__init__(seed)
        self._system = system
        self.values: list[Array] = []  # half weights of each round

    def start(self, shape: tuple[int, int]) -> Array:
        values = super().start(shape)
        return values if self._system.start_noise else np.full(shape, 0.5)

    def half_weights(self, k: int, links: int) -> Array:
        values, fixed = super().half_weights(k, links), self._system.half_weights
        self.values.append(values if fixed is None else np.full(links, float(fixed)))
        return self.values[-1]

    def dither(self, k: int, links: slice, weights: Array, dimension: int) -> Array:
        values = super().dither(k, links, weights, dimension)
        return values if self._system.dither else np.zeros_like(values)


def _exact_method(problem: Problem, algorithm: Algorithm) -> ExactMethod | None:
    """Return the exact method on *problem*, or None for the article's.

    Plain averaging has no gradients, and is the same in both. Without a number as scale, it is the
    problem's: the fleet's agreement on one is left out.
    """
    if algorithm.method != "exact" or problem.whole is None:
        return None
    if problem.bounds is None:
        raise ValueError(f"{problem.name} has no curvatures, which the exact method needs")
    scale = problem.scale if algorithm.scale == AGREE else algorithm.scale
    curvatures = np.asarray(np.linalg.eigvalsh(problem.bounds)[:, -1], np.float64)
    return ExactMethod(scale, curvatures, algorithm.stepsize.spread)


def _with_shield(method: ExactMethod, shield: FleetShield) -> ExactMethod:
    method = replace(method, first_duals=shield.first_duals())
    return replace(method, curvatures=shield.curvatures()) if shield.is_quadratic else method


def _gradients(
    problem: Problem, method: ExactMethod | None, shield: FleetShield | None, seed: int
) -> Gradients:
    if method is None:
        return _StochasticGradients(problem, np.random.default_rng([seed, 1]))
    if shield is not None and shield.is_quadratic:
        return OneByOne(shield.objectives)
    assert problem.whole is not None
    return _WholeGradients(problem.whole)


def _own_steps(method: ExactMethod) -> Array:
    """Return p_i of every node, shape (n,)."""
    scale, spread = _number(method.scale), method.spread
    return np.array([exact.mean_step(own, scale, spread) for own in method.curvatures])


def _public_stepsizes(algorithm: Algorithm, method: ExactMethod | None, rounds: int) -> Array:
    """Return lambda_k, or what p_i is at most: other nodes know no more of it."""
    if method is None:
        return np.array([mean_stepsize(algorithm.stepsize, k) for k in range(rounds)])
    return np.full(rounds, exact.mean_step(0.0, _number(method.scale), method.spread))


def _number(scale: Scale) -> float:
    assert scale != AGREE, "the lab runs the exact method with a number"
    return scale


def _attenuations(algorithm: Algorithm, method: ExactMethod | None, rounds: int) -> Array:
    if method is not None:
        return np.ones(rounds)
    return np.array([attenuation_factor(algorithm.attenuation, k) for k in range(rounds)])


@dataclass(frozen=True)
class _WholeGradients:
    """Gradients over whole windows, for the exact method."""

    whole: Callable[[Array], Array]

    def evaluate(self, x: Array, k: int, randomness: FleetRandomness) -> Array:
        """Return the gradients of all nodes."""
        del k, randomness
        return self.whole(x)


@dataclass(frozen=True)
class _StochasticGradients:
    """Stochastic gradients of a problem, from one generator."""

    problem: Problem
    randomness: np.random.Generator

    def evaluate(self, x: Array, k: int, randomness: FleetRandomness) -> Array:
        """Return the gradients of all nodes."""
        del k, randomness
        return self.problem.all_gradients(x, self.randomness)


def _stack_rounds(rounds: Sequence[Array], like: Array) -> Array:
    return np.array(rounds).reshape(len(rounds), *like.shape)


def _own_weights(links: Links, values: Sequence[Array]) -> dict[tuple[int, int], Array]:
    """Return (i, j) -> (rounds,).

    In a sealed fleet a node has one half weight for all neighbours.
    """
    askers = links.askers
    columns = np.array([row if len(row) == len(askers) else row[askers] for row in values])
    ends = zip(askers.tolist(), links.answerers.tolist(), strict=True)
    return dict(zip(ends, columns.reshape(len(values), len(askers)).T, strict=True))


def _collect_opened(links: Links, passed: Sequence[SimulatedRound]) -> dict[tuple[int, int], Array]:
    """Return (i, j) -> (rounds, d); empty if no answer can be opened by itself."""
    answers = [each.opened for each in passed if each.opened is not None]
    if not answers:
        return {}
    by_link = np.array(answers).swapaxes(0, 1)
    ends = zip(links.askers.tolist(), links.answerers.tolist(), strict=True)
    return dict(zip(ends, by_link, strict=True))
