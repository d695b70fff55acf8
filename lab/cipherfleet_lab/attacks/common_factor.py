"""Attacks on the slots of an answer: H (q_j - q_i)_l + e_l for the entries l.

Without dither the half weight H divides all slots. Their greatest common divisor is H itself with
probability 1/zeta(d): 61 % at d = 2, 92 % at d = 4, 99.6 % at d = 8. The known range of H resolves
the other cases: of the odd divisors with twelve bits the largest is the most likely, because large
common factors of the differences are rare. Checked by test_the_common_factor_needs_the_known_range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .one_exchange import HALF_WEIGHTS, AskerView, measure_success
from .result import AttackResult
from .subjects import AttackCase

DIMENSION = 4
_GUESS = "one of the 1,024 half weights at random"


def weight_by_gcd(slots: Sequence[int]) -> int | None:
    """Return the largest possible half weight that divides all *slots*; None if there is none."""
    common = math.gcd(*slots)
    return next((h for h in reversed(HALF_WEIGHTS) if common and common % h == 0), None)


def weight_by_remainders(slots: Sequence[int]) -> int:
    """Return the half weight to whose multiples all *slots* are nearest, relative to its size.

    It tolerates noise smaller than the half weight; the common factor does not.
    """

    def distance(h: int) -> float:
        return max(min(slot % h, -slot % h) for slot in slots) / h

    return min(HALF_WEIGHTS, key=distance)


def common_factor(case: AttackCase) -> AttackResult | None:
    """The neighbour's estimate from the common factor of one answer's slots."""
    return attack_answers(
        case, "common-factor", "the slots of one answer, or of the sum if it opens only so",
        "the range of half weights", lambda seen, name: weight_by_gcd(seen.best_slots(name)),
    )  # fmt: skip


def divisor(case: AttackCase) -> AttackResult | None:
    """The same by trial of every half weight, which tolerates a little noise."""
    return attack_answers(
        case, "divisor", "the slots of one answer, or of the sum if it opens only so",
        "the range of half weights", lambda seen, name: weight_by_remainders(seen.best_slots(name)),
    )  # fmt: skip


def attack_answers(
    case: AttackCase, attack: str, saw: str, knew: str, find: Callable[[AskerView, str], int | None]
) -> AttackResult | None:
    """Count how often *find* gives the state in real exchanges; None if the system has none."""
    kind = case.subject.kind
    if kind is None:
        return None
    rounds = [f"{case.seed} {trial}" for trial in range(case.trials)]
    tried = measure_success(find, kind, case.off, rounds, DIMENSION, case.bits)
    return AttackResult(
        attack=attack,
        system=case.name,
        sought="a neighbour's estimate",
        saw=saw,
        knew=f"its own key and estimate, {knew}",
        measure="fraction",
        value=tried.states,
        chance=1 / len(HALF_WEIGHTS),
        guess=_GUESS,
        trials=case.trials,
        note=(
            f"{case.bits}-bit keys, d = {DIMENSION}; the half weight in {100 * tried.weights:.0f} %"
        ),
    )
