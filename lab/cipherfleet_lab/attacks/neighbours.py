"""One or two neighbours of a node that want its estimate: in one round, and over many.

Encrypted systems only: elsewhere the estimate, or what stands for it, travels in clear.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from cipherfleet_lab.cipherfleet import MEAN_HALF_WEIGHT
from cipherfleet_lab.systems import Array, Log, Problem

from .coalition import (
    DEVIATION,
    at_differences,
    at_sums,
    link_factor,
    opened_difference,
    unit_of_sums,
)
from .result import Finding, error_by_round, relative_error
from .subjects import SETTLED, Case

STANDING = 50  # rounds of many
_PAIRED = "its own estimate, half weights' law"


def direction(case: Case) -> Finding | None:
    """Where a neighbour lies, from one round: the direction exactly, the distance roughly."""
    if case.subject.kind is None:
        return None
    found, truth = (np.concatenate(part) for part in zip(*_differences(case), strict=True))
    cosine = (found * truth).sum(axis=2) / (
        np.linalg.norm(found, axis=2) * np.linalg.norm(truth, axis=2)
    )
    return Finding(
        "direction", case.name, "the difference to a neighbour's estimate", _saw(case), _PAIRED,
        "error", error_by_round(found, truth, np.zeros_like(truth)), 1.0,
        "the same estimate as its own", case.trials,
        f"median cosine to the true direction {np.median(cosine):.4f}",
    )  # fmt: skip


def triangulation(case: Case) -> Finding | None:
    """Where a neighbour lies, from many rounds in which the estimates move little."""
    if case.subject.kind is None:
        return None
    pairs = [
        (f[-STANDING:].mean(axis=0), t[-STANDING:].mean(axis=0)) for f, t in _differences(case)
    ]
    found, truth = (np.array(part) for part in zip(*pairs, strict=True))
    return Finding(
        "triangulation", case.name, "the difference to a neighbour's estimate, on average",
        f"{_saw(case)}, of {STANDING} rounds", _PAIRED, "error",
        relative_error(found, truth, np.zeros_like(truth)), 1.0,
        "the same estimate as its own", case.trials,
    )  # fmt: skip


def triangulation_by_two(case: Case) -> Finding | None:
    """Where a node lies, from one round of two neighbours: on two lines, which cross."""
    if case.subject.kind is None:
        return None
    found, truth, guess = [], [], []
    for log in case.logs:
        for node in range(case.solved.nodes):
            for pair in combinations(case.solved.neighbours(node), 2):
                look = at_differences if log.opened else at_sums
                found.append(look(log, case.solved, pair, node).states[SETTLED])
                truth.append(log.estimates[:-1, node][SETTLED])
                guess.append(log.estimates[:-1, list(pair)].mean(axis=1)[SETTLED])
    return Finding(
        "triangulation-two", case.name, "a node's estimate",
        "its answers to both" if _one_by_one(case) else "the sums that both received",
        "their own estimates and half weights", "error",
        error_by_round(*(np.array(part).swapaxes(0, 1) for part in (found, truth, guess))), 1.0,
        "the mean of their own estimates", case.trials,
    )  # fmt: skip


def _differences(case: Case) -> Iterator[tuple[Array, Array]]:
    """Of each run, what every neighbour expects of every difference, and the differences.

    Shapes (rounds, links, d).
    """
    links = [(i, j) for a, b in case.solved.edges for i, j in ((a, b), (b, a))]
    for log in case.logs:
        found = [_expected(log, case.solved, asker, node) for asker, node in links]
        truth = [log.estimates[:-1, node] - log.estimates[:-1, asker] for asker, node in links]
        yield np.stack(found, axis=1)[SETTLED], np.stack(truth, axis=1)[SETTLED]


def _expected(log: Log, problem: Problem, asker: int, node: int) -> Array:
    """x_node - x_asker: one answer over the mean half weight, or its likeliest share of a sum."""
    if log.opened:
        return opened_difference(log, asker, node) / MEAN_HALF_WEIGHT
    assert log.sums is not None
    factors = np.array([link_factor(problem, asker, near) for near in problem.neighbours(asker)])
    square = (MEAN_HALF_WEIGHT**2 + DEVIATION**2) * (factors**2).sum()
    share = MEAN_HALF_WEIGHT * link_factor(problem, asker, node) / square
    result: Array = share * unit_of_sums(log) * log.sums[:, asker]
    return result


def _saw(case: Case) -> str:
    return "the neighbour's answer" if _one_by_one(case) else "the sum over all its neighbours"


def _one_by_one(case: Case) -> bool:
    return case.subject.kind == "pairwise" or "masks" in case.off
