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
        attack="eavesdropper",
        system=case.name,
        sought="estimates" if case.subject.descends else "the nodes' own values",
        saw=_SAW,
        knew=_KNEW,
        measure="error",
        value=relative_error(found, truth, np.zeros_like(truth)),
        chance=1.0,
        guess="zero",
        trials=case.trials,
        note=f"means over {HEARD} rounds" if case.subject.descends else "",
    )


def observer(case: AttackCase) -> AttackResult | None:
    """Gradients, each from the step of one round."""
    wire, found, truth = case.subject.wire, [], []
    if wire is None or not case.subject.descends:
        return None
    for log in case.logs:
        reading = wire(log)
        seen = reading.gradients(SETTLED)
        true = log.gradients[reading.first :][SETTLED]
        found.append(seen[: len(true)])
        truth.append(true[: len(seen)])
    result, right = np.concatenate(found), np.concatenate(truth)
    return AttackResult(
        attack="observer",
        system=case.name,
        sought="gradients, round by round",
        saw=_SAW,
        knew=_KNEW,
        measure="error",
        value=error_by_round(result, right, np.zeros_like(right)),
        chance=1.0,
        guess="zero",
        trials=case.trials,
    )


def key_holder(case: AttackCase) -> AttackResult | None:
    """The sum of all estimates, if a key holder decrypts it."""
    if any(log.served is None for log in case.logs):
        return None
    found = np.array([log.served for log in case.logs])
    truth = np.array([log.estimates[:-1].sum(axis=1) for log in case.logs])
    return AttackResult(
        attack="key-holder",
        system=case.name,
        sought="the sum of all estimates, round by round",
        saw="every sum, decrypted",
        knew="its own key",
        measure="error",
        value=relative_error(found, truth, np.zeros_like(truth)),
        chance=1.0,
        guess="zero",
        trials=case.trials,
    )
