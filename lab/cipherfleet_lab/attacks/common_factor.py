"""Arithmetic on the slots of an answer: H (q_j - q_i)_l + e_l for the entries l.

Without dither the half weight H divides all slots. Their greatest common divisor is H itself with
probability 1/zeta(d): 61 % at d = 2, 92 % at d = 4, 99.6 % at d = 8. The known range of H does
the rest: of the odd divisors with twelve bits the largest is the likeliest, since larger chance
factors of the differences are rarer. Checked by test_the_common_factor_needs_the_known_range.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from .edge import HALF_WEIGHTS, NEIGHBOURS, Kind, Seen, ask
from .finding import Finding
from .guards import Guard, told


def weight_by_gcd(slots: Sequence[int]) -> int | None:
    """The largest possible half weight that divides all *slots*; None if there is none."""
    common = math.gcd(*slots)
    return next((h for h in reversed(HALF_WEIGHTS) if common and common % h == 0), None)


def weight_by_remainders(slots: Sequence[int]) -> int:
    """The half weight to whose multiples all *slots* are nearest, as a share of its half range.

    It bears noise narrower than the half weight, which the common factor does not.
    """

    def distance(h: int) -> float:
        return max(min(slot % h, -slot % h) for slot in slots) / h

    return min(HALF_WEIGHTS, key=distance)
