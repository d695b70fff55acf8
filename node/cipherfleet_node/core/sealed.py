"""The sealed exchange: a node learns the weighted sum over its neighbours, not the single terms.

    query    i -> all:  Enc_i(-q_i), and the roster S of the neighbours asked
    answer   j -> i:    Enc_i(M_ij (H_j (q_j - q_i) + e_ji) + R_j), re-randomised
    opening  i:         H_i times the sum of all answers, one decryption

H_i is the half weight of node i: one per node and round. The asker applies its own half weight to
the decrypted sum, so a slot needs room for one half weight only. The answerer applies the
Metropolis integer M_ij, because the masks R_j cancel only in a plain sum:

    R_j = sum_{m in S, m > j} F(s_jm) - sum_{m in S, m < j} F(s_jm)  mod n_i

Two neighbours j and m of the same asker are co-neighbours. They share the 32-byte secret s_jm,
which the asker does not know. F is a pseudo-random function to Z_n that is keyed by this secret.
Each F(s_jm) is added by one of the two and subtracted by the other. So the masks of a whole roster
sum to zero, and the masks of any part of it are uniform: an answer that is opened without all
others shows nothing.

The input of F contains the digest of the query, that is its round, its roster and its
ciphertexts. Co-neighbours that have received different queries therefore use different masks, and
their answers do not open. This prevents an asker from sending different queries or rosters to
different neighbours, and from combining answers of different rounds.

A roster has at least LEAST_ROSTER members, because a sum over one neighbour hides nothing. The
setting `crypto.leaves: open` permits one exception: a node with a single neighbour asks it alone
and without a mask.

Source: docs/explanation/cryptography.md#sealed-exchange;
checked by test_masks_cancel_over_any_roster and test_any_part_of_the_masks_is_uniform.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gmpy2 import mpz

from cipherfleet_node.errors import RemoteProtocolError

from .exchange import (
    Blinding,
    Edge,
    Opening,
    Packed,
    Timed,
    dither,
    half_weight,
    make_answer,
    open_answers,
    prepare_answer,
    read_ciphertexts,
    untimed,
)
from .messages import Query
from .packing import HALF_WEIGHTS
from .paillier import PrivateKey
from .randomness import RoundRandomness

LEAST_ROSTER = 2  # a sum over one neighbour hides nothing
_SPARE_BITS = 128  # more bits than the modulus has: the bias of a mask is below 2^-128
_OF_THE_NODE = ""  # the label of the half weight that is the same for all neighbours


@dataclass(frozen=True, repr=False)
class Seal:
    """The masks and the rules for rosters of one node. Private because of the secrets."""

    fleet: str
    node: str
    rosters: Mapping[str, frozenset[str]]  # the neighbours of each neighbour
    secrets: Mapping[str, bytes]  # shared with each co-neighbour, 32 bytes
    leaves_open: bool = False  # a node with one neighbour is answered without a mask

    @property
    def least(self) -> int:
        """The smallest number of neighbours in a roster of this node."""
        return 1 if self.leaves_open and len(self.rosters) == 1 else LEAST_ROSTER

    def roster(self, asked: Iterable[str]) -> list[str]:
        """Return the neighbours *asked*, sorted; none if they are too few."""
        names = sorted(asked)
        return names if len(names) >= self.least else []

    @property
    def can_listen(self) -> bool:
        """True if every neighbour has LEAST_ROSTER neighbours besides this node."""
        return all(len(known) > LEAST_ROSTER for known in self.rosters.values())

    def masks(self, query: Query, modulus: mpz) -> list[mpz]:
        """Return R_j for each ciphertext of *query*, 0 <= R_j < *modulus*."""
        digest, totals = query.digest, [mpz(0)] * len(query.ciphertexts)
        for other in query.roster:
            if other != self.node:
                sign = 1 if other > self.node else -1
                for index, total in enumerate(totals):
                    label = f"{self.fleet}\0{query.sender}\0{index}\0".encode() + digest
                    totals[index] = total + sign * mask(self.secrets[other], label, modulus)
        return [total % modulus for total in totals]

    def check(self, query: Query) -> bool:
        """True if *query* asks this node; raises RemoteProtocolError("roster") if invalid.

        A valid roster is sorted, names neighbours of the asker only, and has at least LEAST_ROSTER
        members or none.
        """
        asker, roster = query.sender, query.roster
        known = self.rosters[asker]
        if roster != sorted(set(roster) & known):
            raise RemoteProtocolError(
                "roster", f"the roster of {asker!r} must be a sorted list of its neighbours"
            )
        is_open_leaf = self.leaves_open and len(known) == 1
        if 0 < len(roster) < LEAST_ROSTER and not is_open_leaf:
            raise RemoteProtocolError("roster", f"the roster of {asker!r} has one member only")
        return self.node in roster


def mask(secret: bytes, label: bytes, modulus: mpz) -> mpz:
    """Return F(secret, label): without the 32-byte *secret* it looks uniform on 0 .. modulus-1."""
    wide = modulus.bit_length() + _SPARE_BITS
    expanded = hashlib.shake_256(secret + b"cipherfleet/v2/mask\0" + label).digest(-(-wide // 8))
    return mpz(int.from_bytes(expanded, "big")) % modulus


class Sealed(Packed):
    """The sealed exchange: answers open only together.

    Source: docs/explanation/cryptography.md#sealed-exchange.
    """

    sealed = True
    half_weights = HALF_WEIGHTS["sealed"]

    def __init__(
        self,
        key: PrivateKey,
        edges: Mapping[str, Edge],
        dimension: int,
        blinding: Blinding,
        seal: Seal,
    ) -> None:
        super().__init__(key, edges, dimension, blinding)
        self._seal = seal

    @property
    def least(self) -> int:
        """The smallest number of neighbours in a roster of this node."""
        return self._seal.least

    @property
    def can_listen(self) -> bool:
        """True if the answers to each neighbour hide each other without this node's answer."""
        return self._seal.can_listen

    def roster(self, asked: Iterable[str]) -> list[str]:
        """Return the neighbours *asked*, sorted; none if they are too few."""
        return self._seal.roster(asked)

    def prepare(
        self, neighbour: str, quantised: Sequence[int], randomness: RoundRandomness
    ) -> list[mpz]:
        """Return Enc(M (H q + e)) under the key of *neighbour*."""
        edge, layout, weight = (
            self._edges[neighbour],
            self._layouts[neighbour],
            own_weight(randomness),
        )
        noise = dither(randomness, neighbour, weight, layout.dimension)
        return prepare_answer(
            edge.key,
            layout,
            quantised,
            edge.metropolis * weight,
            [edge.metropolis * e for e in noise],
            lambda: self._blinding.towards(neighbour),
        )

    def answer(
        self, query: Query, randomness: RoundRandomness, prepared: Sequence[mpz]
    ) -> list[bytes]:
        """Return the query raised to M H, times *prepared*, times the encrypted mask."""
        edge, layout = self._edges[query.sender], self._layouts[query.sender]
        key = edge.key
        ciphertexts = read_ciphertexts(key, layout, query.ciphertexts)
        masked = [
            factor * (1 + key.n * mask) % key.n_squared
            for factor, mask in zip(prepared, self._masks(query), strict=True)
        ]
        return make_answer(
            key, layout, ciphertexts, edge.metropolis * own_weight(randomness), masked
        )

    def _masks(self, query: Query) -> Sequence[mpz]:
        return self._seal.masks(query, self._edges[query.sender].key.n)

    def is_addressed(self, query: Query) -> bool:
        """True if *query* asks this node; raises RemoteProtocolError for an invalid query."""
        self.check_count(query)
        return self._seal.check(query)

    def open(
        self,
        answers: Mapping[str, Sequence[mpz]],
        randomness: RoundRandomness,
        timed: Timed = untimed,
    ) -> list[int]:
        """Return H_i times the sum, from one decryption of the product of all answers."""
        openings = {name: Opening(1, ciphertexts) for name, ciphertexts in answers.items()}
        reach = sum(self._edges[name].metropolis for name in answers)
        weight = own_weight(randomness)
        opened = open_answers(self._key, self._layout, openings, reach, timed)
        return [weight * v for v in opened]


def own_weight(randomness: RoundRandomness) -> int:
    """Return H_i, the only half weight of the node in the round of *randomness*."""
    return half_weight(randomness, _OF_THE_NODE)
