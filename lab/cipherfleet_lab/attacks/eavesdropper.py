"""Whoever hears the wire: estimates and gradients, as far as they travel in clear."""

from __future__ import annotations

import numpy as np

from .result import Finding, error_by_round, relative_error
from .subjects import SETTLED, Case

HEARD = 50  # rounds over which what is heard is averaged
_SAW = "all that is sent"
_KNEW = "the system, the graph, the mean stepsizes"


def eavesdropper(case: Case) -> Finding | None:
    """The last estimates, or the first where nodes start at values of their own."""
    wire = case.subject.wire
    if wire is None:
        return None
    rounds = slice(-HEARD, None) if case.subject.descends else slice(0, 1)
    truth = np.array([log.estimates[:-1][rounds].mean(axis=0) for log in case.logs])
    found = np.array([wire(log).states[rounds].mean(axis=0) for log in case.logs])
    return Finding(
        "eavesdropper", case.name,
        "estimates" if case.subject.descends else "the nodes' own values", _SAW, _KNEW, "error",
        relative_error(found, truth, np.zeros_like(truth)), 1.0, "zero", case.trials,
        f"means over {HEARD} rounds" if case.subject.descends else "",
    )  # fmt: skip


def observer(case: Case) -> Finding | None:
    """Gradients, each from the step of one round."""
    wire, found, truth = case.subject.wire, [], []
    if wire is None or not case.subject.descends:
        return None
    for log in case.logs:
        reading = wire(log)
        seen = reading.steps[SETTLED] / reading.scales[SETTLED, None, None]
        true = log.gradients[reading.first :][SETTLED]
        found.append(seen[: len(true)])
        truth.append(true[: len(seen)])
    told, right = np.concatenate(found), np.concatenate(truth)
    return Finding(
        "observer", case.name, "gradients, round by round", _SAW, _KNEW, "error",
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
