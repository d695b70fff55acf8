"""Attacks by an eavesdropper and a key holder on plaintext messages."""

from __future__ import annotations

import numpy as np

from .result import AttackResult, error_by_round, relative_error
from .subjects import SETTLED, AttackCase

HEARD = 50  # rounds over which the eavesdropper averages
_SAW = "all that is sent"
_KNEW = "the system, the graph, the mean stepsizes"


def eavesdropper(case: AttackCase) -> AttackResult | None:
    """The last estimates; for consensus the first ones, which are the nodes' own values."""
    wire = case.subject.wire
    if wire is None:
        return None
    rounds = slice(-HEARD, None) if case.subject.descends else slice(0, 1)
    truth = np.array([log.estimates[:-1][rounds].mean(axis=0) for log in case.logs])
    found = np.array([wire(log).states[rounds].mean(axis=0) for log in case.logs])
    return AttackResult(
        "eavesdropper", case.name,
        "estimates" if case.subject.descends else "the nodes' own values", _SAW, _KNEW, "error",
        relative_error(found, truth, np.zeros_like(truth)), 1.0, "zero", case.trials,
        f"means over {HEARD} rounds" if case.subject.descends else "",
    )  # fmt: skip


def observer(case: AttackCase) -> AttackResult | None:
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
    result, right = np.concatenate(found), np.concatenate(truth)
    return AttackResult(
        "observer", case.name, "gradients, round by round", _SAW, _KNEW, "error",
        error_by_round(result, right, np.zeros_like(right)), 1.0, "zero", case.trials,
    )  # fmt: skip


def key_holder(case: AttackCase) -> AttackResult | None:
    """The sum of all estimates, if a key holder decrypts it."""
    if any(log.served is None for log in case.logs):
        return None
    found = np.array([log.served for log in case.logs])
    truth = np.array([log.estimates[:-1].sum(axis=1) for log in case.logs])
    return AttackResult(
        "key-holder", case.name, "the sum of all estimates, round by round",
        "every sum, decrypted", "its own key", "error",
        relative_error(found, truth, np.zeros_like(truth)), 1.0, "zero", case.trials,
    )  # fmt: skip
