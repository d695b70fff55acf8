"""The shield: shares that hide the dual of a node from all its neighbours together.

All neighbours of a node together (sealed: with their neighbours) know every flow into its dual. At
rest the dual is -g_i(x*), so without a shield they know the node's gradient at the optimum. With
the shield the dual begins at a private share. The shares of all participants sum to zero:

    xi_i = sum_j sign(i, j) s_ij,  over the partners j of i that take part in the generation

s_ij are nearly normal numbers, in whole units of the ledger, that only i and j know. The node with
the smaller index adds them, the other one subtracts them. The optimum does not move, and no message
is needed. The shares of another generation, or of other participants, are other numbers.

The quadratic shield has symmetric matrices in the place of these vectors; see `quadratic.py`.

Source: docs/explanation/generations.md; checked by test_shares_sum_to_zero_for_any_participants and
test_quadratic_shares_sum_to_zero_for_any_participants.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .exact import BETA
from .randomness import RoundRandomness

QUADRATIC = 0.2  # deviation of an entry of Q_i in units of c0, with four dimensions
_UNIFORM = 12  # their sum has the variance 1
_FRACTION_BITS = 48
_EXACT_BITS = 40  # of a quadratic share: sums of partners' shares are exact in binary64


@dataclass(frozen=True, repr=False)
class Shield:
    """What a node needs for generations: the public schedule, and secrets shared with partners.

    Rounds g * every, for g = 1, 2, ..., begin generations.
    """

    index: int  # of this node in the fleet's list of participants
    every: int  # G, rounds from one generation to the next
    roll_call: int  # D, rounds before a generation in which its participants are listed
    averaging: int  # W, rounds in which the imbalance is averaged; 0 in the first generation
    members: bytes  # digest of the fleet's list of participants, with their keys and partners
    mean_partners: float  # of a node, over the fleet
    partners: Mapping[int, bytes]  # a secret of 32 bytes shared with each partner, by its index
    size: float = 1.0  # deviation of an entry of xi_i, in units of the scale of curvature c0
    is_quadratic: bool = False  # the curvature has a shield as well

    def shares(
        self, name: bytes, participants: Iterable[int], dimension: int, unit: float
    ) -> list[int]:
        """Return xi_i as integers in units of the ledger, shape (dimension,).

        *name* is that of the generation. *unit* is that of an opened slot, in the objective's
        units. The dual is the ledger times unit, BETA and c0, so c0 does not occur here.
        """
        partners = set(participants) & self.partners.keys()
        return self._sum(b"hidden" + name, partners, dimension, unit)

    def added_shares(
        self,
        name: bytes,
        participants: Iterable[int],
        fresh: Iterable[int],
        dimension: int,
        unit: float,
    ) -> list[int]:
        """Return the same for the pairs in which one of the two is *fresh*, with other numbers."""
        partners = set(participants) & self.partners.keys()
        if self.index not in (new := set(fresh)):
            partners &= new
        return self._sum(b"added" + name, partners, dimension, unit)

    def quadratic(
        self, participants: Iterable[int], dimension: int, scale: float
    ) -> Sequence[float]:
        """Return the upper triangle of c0 Q_i, row by row; *scale* is c0, *dimension* is d.

        The largest size of the eigenvalues of Q_i is about the same in all dimensions. The matrices
        of all participants sum to zero up to rounding. A pair has the same share for ever, unless
        its size changes with c0 or with the number of partners: then it has another one. The same
        share in two sizes would show what it hides.
        """
        counted = counted_partners(self.mean_partners)
        label = b"quadratic" + struct.pack(">dQ", scale, counted)
        total = np.zeros(dimension * (dimension + 1) // 2)
        for other in sorted(set(participants) & self.partners.keys()):
            drawn = _drawn(self.partners[other], label, total.size)
            share = np.array([d >> _FRACTION_BITS - _EXACT_BITS for d in drawn], np.float64)
            total += share if self.index < other else -share
        deviation = scale * quadratic_deviation(dimension) / counted**0.5
        entries: list[float] = (total * 2.0**-_EXACT_BITS * deviation).tolist()
        return entries

    def _sum(self, label: bytes, partners: Iterable[int], dimension: int, unit: float) -> list[int]:
        size = round(self.size / (BETA * unit * max(self.mean_partners, 1.0) ** 0.5))
        total = [0] * dimension
        for other in sorted(partners):
            sign = 1 if self.index < other else -1
            drawn = _drawn(self.partners[other], label, dimension)
            # both ends round the same number
            total = [
                t + sign * (size * d >> _FRACTION_BITS) for t, d in zip(total, drawn, strict=True)
            ]
        return total


def quadratic_deviation(dimension: int) -> float:
    """Return the deviation of an entry of Q_i, in units of c0, shape (d, d), d = *dimension*."""
    return float(QUADRATIC * (4.0 / dimension) ** 0.5)


def counted_partners(mean_partners: float) -> int:
    """Return the power of two, at least 1, that is nearest to *mean_partners* by its logarithm.

    Without logarithms it is the same on every processor.
    """
    counted = 1
    while mean_partners * mean_partners > 2 * counted * counted:
        counted *= 2
    return counted


def _drawn(secret: bytes, label: bytes, dimension: int) -> list[int]:
    """Return numbers that only the two holders of *secret* know, in units of 2^-_FRACTION_BITS.

    Each is a sum of twelve uniform integers less its mean: nearly normal, with deviation one, and
    the same on every processor.
    """
    seed = hmac.digest(secret, b"cipherfleet/v2/share\0" + label, "sha256")
    uniform = RoundRandomness(seed).integers_below(
        1 << _FRACTION_BITS, "share", _UNIFORM * dimension
    )
    return [
        sum(uniform[_UNIFORM * i : _UNIFORM * (i + 1)]) - (_UNIFORM << _FRACTION_BITS) // 2
        for i in range(dimension)
    ]
