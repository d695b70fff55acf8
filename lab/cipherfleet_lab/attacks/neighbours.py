"""Attacks by one or two neighbours on a node's estimate: in one round, and over many.

They apply to encrypted systems; the other systems send the estimate, or an equivalent, in
plaintext.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from cipherfleet_lab.cipherfleet import MEAN_HALF_WEIGHT
from cipherfleet_lab.systems import Array, Log, Problem

from .coalition import (
    DEVIATION,
    link_factor,
    observe_differences,
    observe_sums,
    opened_difference,
    unit_of_sums,
)
from .result import AttackResult, error_by_round, relative_error
from .subjects import AttackCase

STANDING = 50  # number of rounds over which an attack averages
_PAIRED = "its own estimate, half weights' law"


def direction(case: AttackCase) -> AttackResult | None:
    """A neighbour's estimate from one round: the exact direction, the approximate distance."""
    if case.subject.kind is None:
        return None
    found, truth = (np.concatenate(part) for part in zip(*_differences(case), strict=True))
    cosine = (found * truth).sum(axis=2) / (
        np.linalg.norm(found, axis=2) * np.linalg.norm(truth, axis=2)
    )
    return AttackResult(
        attack="direction",
        system=case.name,
        sought="the difference to a neighbour's estimate",
        saw=_describe_received(case),
        knew=_PAIRED,
        measure="error",
        value=error_by_round(found, truth, np.zeros_like(truth)),
        chance=1.0,
        guess="the same estimate as its own",
        trials=case.trials,
        note=f"median cosine to the true direction {np.median(cosine):.4f}",
    )


def triangulation(case: AttackCase) -> AttackResult | None:
    """A neighbour's estimate from many rounds in which the estimates move little."""
    if case.subject.kind is None:
        return None
    pairs = [
        (f[-STANDING:].mean(axis=0), t[-STANDING:].mean(axis=0)) for f, t in _differences(case)
    ]
    found, truth = (np.array(part) for part in zip(*pairs, strict=True))
    return AttackResult(
        attack="triangulation",
        system=case.name,
        sought="the difference to a neighbour's estimate, on average",
        saw=f"{_describe_received(case)}, of {STANDING} rounds",
        knew=_PAIRED,
        measure="error",
        value=relative_error(found, truth, np.zeros_like(truth)),
        chance=1.0,
        guess="the same estimate as its own",
        trials=case.trials,
    )


def triangulation_by_two(case: AttackCase) -> AttackResult | None:
    """A node's estimate from one round of two neighbours: the crossing of two lines."""
    if case.subject.kind is None:
        return None
    found, truth, guess = [], [], []
    for log in case.logs:
        for node in range(case.solved_problem.nodes):
            for pair in combinations(case.solved_problem.neighbours(node), 2):
                look = observe_differences if log.opened else observe_sums
                found.append(look(log, case.solved_problem, pair, node).states[case.watched])
                truth.append(log.points[:, node][case.watched])
                guess.append(log.points[:, list(pair)].mean(axis=1)[case.watched])
    return AttackResult(
        attack="triangulation-two",
        system=case.name,
        sought="a node's estimate",
        saw="its answers to both" if _answers_open_singly(case) else "the sums that both received",
        knew="their own estimates and half weights",
        measure="error",
        value=error_by_round(*(np.array(part).swapaxes(0, 1) for part in (found, truth, guess))),
        chance=1.0,
        guess="the mean of their own estimates",
        trials=case.trials,
    )


def _differences(case: AttackCase) -> Iterator[tuple[Array, Array]]:
    """Yield, per run, the inferred and the true differences over every link.

    Both have shape (rounds, links, d).
    """
    links = [(i, j) for a, b in case.solved_problem.edges for i, j in ((a, b), (b, a))]
    for log in case.logs:
        found = [_infer_difference(log, case.solved_problem, asker, node) for asker, node in links]
        truth = [log.points[:, node] - log.points[:, asker] for asker, node in links]
        yield np.stack(found, axis=1)[case.watched], np.stack(truth, axis=1)[case.watched]


def _infer_difference(log: Log, problem: Problem, asker: int, node: int) -> Array:
    """Infer x_node - x_asker: an answer over the mean half weight, or the best share of a sum."""
    if log.opened:
        return opened_difference(log, asker, node) / MEAN_HALF_WEIGHT
    assert log.sums is not None
    factors = np.array([link_factor(problem, asker, near) for near in problem.neighbours(asker)])
    square = (MEAN_HALF_WEIGHT**2 + DEVIATION**2) * (factors**2).sum()
    share = MEAN_HALF_WEIGHT * link_factor(problem, asker, node) / square
    result: Array = share * unit_of_sums(log) * log.sums[:, asker]
    return result


def _describe_received(case: AttackCase) -> str:
    return (
        "the neighbour's answer"
        if _answers_open_singly(case)
        else "the sum over all its neighbours"
    )


def _answers_open_singly(case: AttackCase) -> bool:
    return case.subject.kind == "pairwise" or "masks" in case.off
