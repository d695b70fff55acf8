"""Attacks by a coalition of neighbours on a node's gradient, from one round and from many.

The article's method: x_i(k+1) = x_i(k) + gamma_k c_i - Lambda_i g_i. A coalition that knows the
flow gamma_k c_i knows the step Lambda_i g_i, with its random stepsizes. The steps of many rounds
telescope, and the random stepsizes average out.

The exact method: the flows sum to the dual y_i, which ends at -g_i. The coalition needs no
stepsizes: it adds up what it knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cipherfleet_lab.systems import Array, Log

from .result import AttackResult, percent, relative_error
from .subjects import SETTLED, AttackCase

_SAW = "what all its neighbours received"
_KNEW = "their own estimates and half weights, the graph, the mean stepsizes"


def one_round(case: AttackCase) -> AttackResult | None:
    """A node's gradient from its step in one round."""
    if not case.subject.descends:
        return None
    by_node = [_steps(case, node) for node in range(case.solved_problem.nodes)]
    errors = [relative_error(found, true, np.zeros_like(true)) for found, true in by_node]
    result, right = (np.concatenate(part) for part in zip(*by_node, strict=True))
    return AttackResult(
        attack="one-round",
        system=case.name,
        sought="a node's gradient, round by round",
        saw=_SAW,
        knew=_KNEW,
        measure="error",
        value=relative_error(result, right, np.zeros_like(right)),
        chance=1.0,
        guess="zero",
        trials=case.trials,
        note=between(errors, "node"),
        worst_off=min(errors),
    )


def _steps(case: AttackCase, node: int) -> tuple[Array, Array]:
    """Return found and true gradients of *node* in the settled rounds of all runs."""
    found, truth = [], []
    for log in case.logs:
        reading = case.read(log, case.neighbours(node), node, many=False)
        seen = reading.gradients(SETTLED)[:, 0]
        true = log.gradients[reading.first :, node][SETTLED]
        found.append(seen[: len(true)])
        truth.append(true[: len(seen)])
    return np.concatenate(found), np.concatenate(truth)


def telescoping(case: AttackCase) -> AttackResult | None:
    """A node's gradient from many rounds, over which random stepsizes average out."""
    if not case.subject.descends:
        return None
    coalitions = [(node, case.neighbours(node)) for node in range(case.solved_problem.nodes)]
    pairs = gradient_pairs(case, coalitions)
    errors = [coalition_error(pairs, [k]) for k in range(len(coalitions))]
    return AttackResult(
        attack="telescoping",
        system=case.name,
        sought=_sought(case),
        saw=_SAW,
        knew=_KNEW,
        measure="error",
        value=coalition_error(pairs),
        chance=1.0,
        guess="zero",
        trials=case.trials,
        note=between(errors, "node"),
        worst_off=min(errors),
    )


def _sought(case: AttackCase) -> str:
    if case.subject.method == "exact":
        return "a node's gradient at the optimum"
    return "a node's gradient, on average over rounds"


def telescoping_but_one(case: AttackCase) -> AttackResult | None:
    """The same without the help of one neighbour."""
    if not case.subject.descends:
        return None
    coalitions = list(coalitions_without_one(case))
    pairs = gradient_pairs(case, coalitions)
    errors = [coalition_error(pairs, [k]) for k in range(len(coalitions))]
    is_beside = [is_beside_colluder(case, node, inside) for node, inside in coalitions]
    note = []
    for known, words in ((True, "a colluder is"), (False, "no colluder is")):
        chosen = [k for k, near in enumerate(is_beside) if near == known]
        if chosen:
            note.append(f"{percent(coalition_error(pairs, chosen))} where {words} beside that one")
    return AttackResult(
        attack="telescoping-but-one",
        system=case.name,
        sought=_sought(case),
        saw="what all its neighbours but one received",
        knew=_KNEW,
        measure="error",
        value=coalition_error(pairs),
        chance=1.0,
        guess="zero",
        trials=case.trials,
        note="; ".join([between(errors, "coalition"), *note]),
        worst_off=min(errors),
    )


def telescoping_by_partners(case: AttackCase) -> AttackResult | None:
    """A shielded node's gradient, if all its partners collude as well: they know its shares."""
    if not case.subject.descends or case.logs[0].first_duals is None:
        return None
    coalitions = [(node, case.neighbours(node)) for node in range(case.solved_problem.nodes)]
    pairs = gradient_pairs(case, coalitions, with_shares=True)
    errors = [coalition_error(pairs, [k]) for k in range(len(coalitions))]
    return AttackResult(
        attack="telescoping-partners",
        system=case.name,
        sought=_sought(case),
        saw=_SAW,
        knew=f"{_KNEW}, the shares of all other nodes",
        measure="error",
        value=coalition_error(pairs),
        chance=1.0,
        guess="zero",
        trials=case.trials,
        note=between(errors, "node"),
        worst_off=min(errors),
    )


def between(errors: Sequence[float], what: str) -> str:
    """Return the least and the largest of *errors*, in words."""
    return f"between {percent(min(errors))} and {percent(max(errors))} by {what}"


Coalition = tuple[int, Sequence[int]]  # a node, and the members of the coalition


def coalitions_without_one(case: AttackCase) -> Iterator[Coalition]:
    """Yield every node with all its neighbours except one, for each of them."""
    for node in range(case.solved_problem.nodes):
        near = case.neighbours(node)
        for honest in near:
            yield node, [other for other in near if other != honest]


def is_beside_colluder(case: AttackCase, node: int, inside: Sequence[int]) -> bool:
    """True if the honest neighbour of *node* is itself a neighbour of a colluder."""
    (honest,) = set(case.neighbours(node)) - set(inside)
    return bool(set(case.neighbours(honest)) & set(inside))


def gradient_pairs(
    case: AttackCase, coalitions: Sequence[Coalition], *, with_shares: bool = False
) -> Array:
    """Return the mean gradients that *coalitions* find and the true ones.

    The shape is (2, runs, coalitions, d). *with_shares* they know where the node's dual began.
    """
    pairs = []
    for log in case.logs:
        for node, inside in coalitions:
            found, true = mean_gradients(case, log, node, inside)
            if with_shares and log.first_duals is not None:
                found = found - log.first_duals[node]
            pairs.append((found, true))
    return np.array(pairs).swapaxes(0, 1).reshape(2, len(case.logs), len(coalitions), -1)


def coalition_error(pairs: Array, chosen: Sequence[int] | slice = slice(None)) -> float:
    """Return the relative error of the *chosen* coalitions' gradients in all runs."""
    found, truth = (part.reshape(-1, part.shape[-1]) for part in pairs[:, :, chosen])
    return relative_error(found, truth, np.zeros_like(truth))


def mean_gradients(
    case: AttackCase, log: Log, node: int, inside: Sequence[int]
) -> tuple[Array, Array]:
    """Return the found and true mean gradient of *node* over the settled rounds, by stepsize.

    In the exact method both are those of the last round, which is the optimum's.
    """
    reading = case.read(log, inside, node, many=True)
    if reading.duals is not None:
        return -reading.duals[-1, 0], log.gradients[-1, node]
    gradients = log.gradients[reading.first :, node][SETTLED]
    scales, steps = reading.scales[SETTLED], reading.steps[SETTLED, 0]
    last = min(len(gradients), len(steps))
    true: Array = scales[:last] @ gradients[:last] / scales[:last].sum()
    return steps[:last].sum(axis=0) / scales[:last].sum(), true
