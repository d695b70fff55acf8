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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from .exact import BETA
from .randomness import RoundRandomness
from .window import FloatMatrix

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

    def quadratic(self, participants: Iterable[int], dimension: int) -> FloatMatrix:
        """Return Q_i in units of c0, symmetric, shape (d, d) with d = *dimension*.

        The largest size of its eigenvalues is about the same in all dimensions. The matrices of all
        participants sum to zero up to rounding.
        """
        upper = np.triu_indices(dimension)
        total = np.zeros(len(upper[0]))
        for other in sorted(set(participants) & self.partners.keys()):
            drawn = _drawn(self.partners[other], b"quadratic", total.size)
            share = np.array([d >> _FRACTION_BITS - _EXACT_BITS for d in drawn], np.float64)
            total += share if self.index < other else -share
        deviation = QUADRATIC * (4.0 / dimension / max(self.mean_partners, 1.0)) ** 0.5
        matrix = np.zeros((dimension, dimension))
        matrix[upper] = total * 2.0**-_EXACT_BITS * deviation
        result: FloatMatrix = matrix + np.triu(matrix, 1).T
        return result

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
