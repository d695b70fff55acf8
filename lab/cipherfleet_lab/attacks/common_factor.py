"""Arithmetic on the slots of an answer: H (q_j - q_i)_l + e_l for the entries l.

Without dither the half weight H divides all slots. Their greatest common divisor is H itself with
probability 1/zeta(d): 61 % at d = 2, 92 % at d = 4, 99.6 % at d = 8. The known range of H does
the rest: of the odd divisors with twelve bits the largest is the likeliest, since larger chance
factors of the differences are rarer. Checked by test_the_common_factor_needs_the_known_range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .one_exchange import HALF_WEIGHTS, Seen, trials_of
from .result import Finding
from .subjects import Case

DIMENSION = 4
_GUESS = "one of the 1,024 half weights at random"


def weight_by_gcd(slots: Sequence[int]) -> int | None:
    """The largest possible half weight that divides all *slots*; None if there is none."""
    common = math.gcd(*slots)
    return next((h for h in reversed(HALF_WEIGHTS) if common and common % h == 0), None)


def weight_by_remainders(slots: Sequence[int]) -> int:
    """The half weight to whose multiples all *slots* are nearest, as a share of its size.

    It bears noise narrower than the half weight, which the common factor does not.
    """

    def distance(h: int) -> float:
        return max(min(slot % h, -slot % h) for slot in slots) / h

    return min(HALF_WEIGHTS, key=distance)


def common_factor(case: Case) -> Finding | None:
    """The neighbour's estimate from the common factor of one answer's slots."""
    return on_answers(
        case, "common-factor", "the slots of one answer, or of the sum if it opens only so",
        "the range of half weights", lambda seen, name: weight_by_gcd(seen.best(name)),
    )  # fmt: skip


def divisor(case: Case) -> Finding | None:
    """The same by trial of every half weight, which bears a little noise."""
    return on_answers(
        case, "divisor", "the slots of one answer, or of the sum if it opens only so",
        "the range of half weights", lambda seen, name: weight_by_remainders(seen.best(name)),
    )  # fmt: skip


def on_answers(
    case: Case, attack: str, saw: str, knew: str, find: Callable[[Seen, str], int | None]
) -> Finding | None:
    """How often *find* gives the state, over real exchanges; None where there are none to run."""
    kind = case.subject.kind
    if kind is None:
        return None
    rounds = [f"{case.seed} {trial}" for trial in range(case.trials)]
    tried = trials_of(find, kind, case.off, rounds, DIMENSION, case.bits)
    return Finding(
        attack, case.name, "a neighbour's estimate", saw, f"its own key and estimate, {knew}",
        "fraction", tried.states, 1 / len(HALF_WEIGHTS), _GUESS, case.trials,
        f"{case.bits}-bit keys, d = {DIMENSION}; the half weight in {100 * tried.weights:.0f} %",
    )  # fmt: skip
