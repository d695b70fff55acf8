"""Separation of sealed sums into the terms of the single neighbours, over many rounds.

In every round a sealed sum mixes the same few differences of estimates with half weights that are
random, independent and not normal. That is the model of independent component analysis. One asker
that follows the protocol can use it alone:

1. The mean sum is subtracted. What is left has one direction for each neighbour.
2. A multiple of the covariance with the previous round is subtracted from the covariance, since
   half weights are new in each round and estimates are not. The result whitens the sums.
3. The directions are those in which the fourth moments are extreme.
4. The mean sum gives the sign and the size of each direction.

A draw belongs to a state: a node that stands still repeats its half weight, so there is nothing to
separate. This is the guard `draws`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np

from cipherfleet_lab.simulation.plaintext_exchange import read_integers
from cipherfleet_lab.systems import Array
from cipherfleet_node.core.exchange import metropolis
from cipherfleet_node.core.messages import Answer, Message, Query
from cipherfleet_node.core.packing import HALF_WEIGHT_BITS
from cipherfleet_node.settings.sections import Stepsize

from .result import AttackResult, percent
from .round_fleet import RoundFleet, RoundScene, circulant
from .subjects import AttackCase

ASKER = "n0"
MEAN, DEVIATION = 0.75 * 2**HALF_WEIGHT_BITS, 2**HALF_WEIGHT_BITS / (2.0 * np.sqrt(12.0))
RHOS = (0.0, 0.5, 0.7)  # multiples of the covariance with the previous round
ITERATIONS = 300
STANDING_ROUNDS, FROM, FIRST = 160, 5, 25  # the neighbours stand still from round FROM on
NODES, LEAST_DIMENSION = 6, 8


@dataclass(frozen=True)
class Errors:
    """Errors of the differences to single neighbours, relative to these differences."""

    median: float
    least: float
    guess: float  # median error of the mean sum, shared equally

    @classmethod
    def of(cls, examined: list[tuple[Array, Array]]) -> Errors:
        """Return the errors of all askers together."""
        found, guessed = (np.concatenate(part) for part in zip(*examined, strict=True))
        return cls(float(np.median(found)), float(found.min()), float(np.median(guessed)))


@dataclass
class Sums:
    """The sealed sums of one asker, and the differences behind them."""

    sums: list[Array] = field(default_factory=list)  # each (d,)
    differences: list[Array] = field(default_factory=list)  # each (neighbours, d)
    own: list[Array] = field(default_factory=list)


@dataclass
class Listener:
    """Collects the complete sums of every asker of a fleet, in the order of its rounds."""

    fleet: RoundFleet
    kept: dict[str, Sums] = field(default_factory=lambda: defaultdict(Sums))
    _open: dict[bytes, dict[str, tuple[Array, Array]]] = field(default_factory=dict)
    _queries: dict[bytes, Query] = field(default_factory=dict)

    def note(self, message: Message) -> None:
        """Keep what belongs to a full sum."""
        if isinstance(message, Query) and message.roster and message.digest not in self._queries:
            self._queries[message.digest] = message
            self._open[message.digest] = {}
        elif isinstance(message, Answer) and message.query in self._open:
            answers = self._open[message.query]
            answers[message.sender] = (read_integers(message.ciphertexts), self._estimate(message))
            if len(answers) == len(self.fleet.neighbours[message.receiver]):
                self._complete(self._open.pop(message.query), self._queries[message.query])

    def _estimate(self, message: Answer) -> Array:
        quantised = self.fleet.record(message.sender, message.round).quantised
        return np.array(quantised, dtype=float)

    def _complete(self, answers: dict[str, tuple[Array, Array]], query: Query) -> None:
        own, kept = -read_integers(query.ciphertexts), self.kept[query.sender]
        ordered = [answers[name] for name in sorted(answers)]
        kept.sums.append(np.sum([term for term, _ in ordered], axis=0))
        kept.differences.append(np.array([estimate - own for _, estimate in ordered]))
        kept.own.append(own)


# -- the method ---------------------------------------------------------------------------------


def separate(sums: Array, sources: int, rho: float) -> Array:
    """Return the *sources* differences M_j (x_j - x_i) that *sums*, shape (rounds, d), mix."""
    mean = sums.mean(axis=0)
    centred = sums - mean
    lagged = centred[1:].T @ centred[:-1] / len(centred)
    covariance = centred.T @ centred / len(centred) - rho * (lagged + lagged.T) / 2.0
    values, vectors = np.linalg.eigh(covariance)
    scales = np.sqrt(np.maximum(values[-sources:], 1e-30))
    white = centred @ vectors[:, -sources:] / scales
    turned = _extreme_fourth_moments(white)
    directions = (vectors[:, -sources:] * scales) @ turned.T  # columns: sigma M_j (x_j - x_i)
    factors = np.linalg.lstsq(directions, mean, rcond=1e-6)[0]
    result: Array = (directions * factors).T / MEAN
    return result


def _extreme_fourth_moments(white: Array) -> Array:
    """Return an orthogonal matrix whose rows are the directions (FastICA, all rows together)."""
    count = white.shape[1]
    rows = np.linalg.qr(np.random.default_rng(1).normal(size=(count, count)))[0]
    for _ in range(ITERATIONS):
        moved = ((white @ rows.T) ** 3).T @ white / len(white) - 3.0 * rows
        left, _values, right = np.linalg.svd(moved)
        rows = left @ right
    result: Array = rows
    return result


def errors_of(found: Array, truth: Array) -> Array:
    """Return the relative error of each difference, in the order of *found* that fits best."""
    sizes = np.linalg.norm(truth, axis=1)
    candidates = [
        np.linalg.norm(found[list(order)] - truth, axis=1) / sizes
        for order in permutations(range(len(truth)))
    ]
    return min(candidates, key=lambda errors: float(np.sum(errors)))


def examine(kept: Sums, rounds: slice, factor: int) -> tuple[Array, Array]:
    """Return the errors of the single differences, and those of the sum as a guess for each.

    *factor* is the Metropolis integer of every edge.
    """
    differences = np.array(kept.differences[rounds])
    truth = factor * differences.mean(axis=0)
    count, sums = len(truth), _without_own_move(kept, rounds, factor)
    tried = [errors_of(separate(sums, count, rho), truth) for rho in RHOS]
    best = min(tried, key=lambda errors: float(np.median(errors)))
    guess = np.repeat(sums.mean(axis=0)[None] / (MEAN * count), count, axis=0)
    return best, errors_of(guess, truth)


def _without_own_move(kept: Sums, rounds: slice, factor: int) -> Array:
    """Return the sums as they would be, by the mean half weight, had the asker not moved."""
    own, sums = np.array(kept.own[rounds]), np.array(kept.sums[rounds])
    count = len(kept.differences[0])
    result: Array = sums + MEAN * factor * count * (own - own.mean(axis=0))
    return result


# -- the runs -----------------------------------------------------------------------------------


def scene(degree: int, spread: float = 0.0) -> RoundScene:
    """Return fleets of a regular graph, with stepsizes that do not decay."""
    stepsize = Stepsize(initial=0.3, decay=0.0, spread=spread)
    dimension = max(4 * degree, LEAST_DIMENSION)
    return RoundScene(circulant(NODES, degree), dimension=dimension, stepsize=stepsize)


def listen(fleet: RoundFleet, rounds: int, *, standing: bool) -> Listener:
    """Run *fleet*; if *standing*, the broker soon drops all answers except the asker's."""
    listener = Listener(fleet)

    def tap(_sender: str, receiver: str, message: Message) -> Message | None:
        is_dropped = standing and isinstance(message, Answer) and message.round >= FROM
        if is_dropped and receiver != ASKER:
            return None
        listener.note(message)
        return message

    fleet.tap = tap
    fleet.begin()
    fleet.run_rounds(rounds, [ASKER] if standing else list(fleet.seats))
    return listener


def separate_running_fleet(
    degree: int, spread: float, until: list[int], seed: int = 1
) -> list[Errors]:
    """Let every node of a fleet separate its sums while the fleet runs, without an attacker.

    Return the errors after each number of rounds in *until*, which rises.
    """
    case = AttackCase(system="sealed", seed=seed)
    listener = listen(scene(degree, spread).fleet(case, 0), until[-1], standing=False)
    factor, kept = metropolis(degree, degree), listener.kept.values()
    return [Errors.of([examine(each, slice(FIRST, k), factor) for each in kept]) for k in until]


def separation(case: AttackCase) -> AttackResult | None:
    """Single differences from many sums; the broker makes the neighbours stand still."""
    if case.subject.kind != "sealed":
        return None
    degree = 2
    found, guessed = [], []
    for trial in range(case.fleets):
        listener = listen(scene(degree).fleet(case, trial), STANDING_ROUNDS, standing=True)
        errors, guess = examine(
            listener.kept[ASKER], slice(FIRST, None), metropolis(degree, degree)
        )
        found.append(errors)
        guessed.append(guess)
    errors, guess = np.concatenate(found), np.concatenate(guessed)
    value = float(np.sqrt(np.mean(errors**2) / np.mean(guess**2)))
    return AttackResult(
        attack="separation",
        system=case.name,
        sought="the difference to a neighbour's estimate",
        saw=f"the sums of {STANDING_ROUNDS} rounds in which its two neighbours stand still",
        knew="its own estimates, the half weights' law",
        measure="error",
        value=value,
        chance=1.0,
        guess="the mean sum, shared equally",
        trials=len(errors),
        note=f"relative to the difference {percent(float(np.median(errors)))} (median)",
    )
