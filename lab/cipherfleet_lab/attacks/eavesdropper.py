"""Whoever hears the wire: estimates and gradients, as far as they travel in clear."""

from __future__ import annotations

import numpy as np

from .finding import Finding, error_by_round, relative_error
from .subjects import SETTLED, Case

HEARD = 50  # rounds over which what is heard is averaged
_NOTHING = "sizes and times of ciphertexts"
_KNEW = "the system, the graph, the mean stepsizes"


def eavesdropper(case: Case) -> Finding:
    """The last estimates, or the first where nodes start at values of their own."""
    wire = case.subject.wire
    rounds = slice(-HEARD, None) if case.subject.descends else slice(0, 1)
    truth = np.array([log.estimates[:-1][rounds].mean(axis=0) for log in case.logs])
    found = np.zeros_like(truth)
    if wire is not None:
        found = np.array([wire(log).states[rounds].mean(axis=0) for log in case.logs])
    return Finding(
        "eavesdropper", case.name,
        "estimates" if case.subject.descends else "the nodes' own values",
        _NOTHING if wire is None else "all that is sent", _KNEW, "error",
        relative_error(found, truth, np.zeros_like(truth)), 1.0, "zero", case.trials,
        f"means over {HEARD} rounds" if case.subject.descends else "",
    )  # fmt: skip


def observer(case: Case) -> Finding | None:
    """Gradients, each from the step of one round."""
    if not case.subject.descends:
        return None
    wire, found, truth = case.subject.wire, [], []
    for log in case.logs:
        if wire is None:
            true = log.gradients[SETTLED]
            seen = np.zeros_like(true)
        else:
            reading = wire(log)
            seen = reading.steps[SETTLED] / reading.scales[SETTLED, None, None]
            true = log.gradients[reading.first :][SETTLED]
        found.append(seen[: len(true)])
        truth.append(true[: len(seen)])
    told, right = np.concatenate(found), np.concatenate(truth)
    return Finding(
        "observer", case.name, "gradients, round by round",
        _NOTHING if wire is None else "all that is sent", _KNEW, "error",
        error_by_round(told, right, np.zeros_like(right)), 1.0, "zero", case.trials,
    )  # fmt: skip


def key_holder(case: Case) -> Finding | None:
    """The sum of all estimates, where somebody opens it."""
    if any(log.served is None for log in case.logs):
        return None
    found = np.array([log.served for log in case.logs])
    truth = np.array([log.estimates[:-1].sum(axis=1) for log in case.logs])
    return Finding(
        "key-holder", case.name, "the sum of all estimates, round by round",
        "every sum, decrypted", "its own key", "error",
        relative_error(found, truth, np.zeros_like(truth)), 1.0, "zero", case.trials,
    )  # fmt: skip
