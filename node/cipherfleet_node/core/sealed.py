"""The sealed exchange: a node learns the weighted sum over its neighbours, nothing of one alone.

    query    i -> all:  Enc_i(-q_i), the roster S of those asked
    answer   j -> i:    Enc_i(M_ij (H_j (q_j - q_i) + e_ji) + R_j), re-randomised
    opening  i:         H_i times the sum of all answers, one decryption

H_i is one half weight per node and round, applied in the clear, so that slots are narrower than in
the pairwise exchange; M_ij is applied by the answerer, for only plain sums let the masks cancel:

    R_j = sum_{m in S, m > j} F(s_jm) - sum_{m in S, m < j} F(s_jm)  mod n_i

F is a pseudo-random function to Z_n, keyed by the secret s_jm that the co-neighbours j and m share.
Over a whole roster the masks cancel, any part of them is uniform. Source: ALGORITHM section 4;
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
from .paillier import PrivateKey
from .randomness import Draws

LEAST_ROSTER = 2  # a sum over one neighbour hides nothing
_SPARE_BITS = 128  # beyond the modulus: the bias of a mask is below 2^-128
_OF_THE_NODE = ""  # the label of a half weight that serves all neighbours


@dataclass(frozen=True, repr=False)
class Seal:
    """What a node needs to mask its answers. Private because of the secrets."""

    fleet: str
    node: str
    rosters: Mapping[str, frozenset[str]]  # the neighbours of each neighbour
    secrets: Mapping[str, bytes]  # shared with each co-neighbour, 32 bytes
    leaves_open: bool = False  # a node of one neighbour is answered without a mask

    def roster(self, there: Iterable[str]) -> list[str]:
        """All who are *there*, if they are enough to hide each other."""
        names = sorted(there)
        leaf = self.leaves_open and len(self.rosters) == 1
        return names if len(names) >= LEAST_ROSTER or leaf else []

    def masks(self, query: Query, modulus: mpz) -> list[mpz]:
        """R_j for each ciphertext of *query*, 0 <= R_j < *modulus*.

        Bound to the digest of the query: who shows its neighbours different queries, or the same
        with different rosters, gets answers whose masks do not cancel.
        """
        digest, totals = query.digest, [mpz(0)] * len(query.ciphertexts)
        for other in query.roster:
            if other != self.node:
                sign = 1 if other > self.node else -1
                for index, total in enumerate(totals):
                    label = f"{self.fleet}\0{query.sender}\0{index}\0".encode() + digest
                    totals[index] = total + sign * mask(self.secrets[other], label, modulus)
        return [total % modulus for total in totals]

    def check(self, query: Query) -> bool:
        """Whether this node is asked; raises RemoteProtocolError("roster") for a roster to refuse.

        A roster is in order, of the asker's own neighbours, and of two at least.
        """
        asker, roster = query.sender, query.roster
        known = self.rosters[asker]
        if roster != sorted(set(roster) & known):
            raise RemoteProtocolError("roster", f"{asker!r} names a roster not of its neighbours")
        leaf = self.leaves_open and len(known) == 1
        if 0 < len(roster) < LEAST_ROSTER and not leaf:
            raise RemoteProtocolError("roster", f"{asker!r} names a roster of one")
        return self.node in roster


def mask(secret: bytes, label: bytes, modulus: mpz) -> mpz:
    """F: uniform on 0 .. *modulus*-1 to whoever lacks the 32-byte *secret*."""
    wide = modulus.bit_length() + _SPARE_BITS
    expanded = hashlib.shake_256(secret + b"cipherfleet/v1/mask\0" + label).digest(-(-wide // 8))
    return mpz(int.from_bytes(expanded, "big")) % modulus


class Sealed(Packed):
    """The exchange of ALGORITHM section 4, `sealed`: answers open only together."""

    sealed = True
    half_weights = 1

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

    def roster(self, there: Iterable[str]) -> list[str]:
        """All who are *there*, if they are enough to hide each other."""
        return self._seal.roster(there)

    def prepare(self, neighbour: str, quantised: Sequence[int], draws: Draws) -> list[mpz]:
        """Enc(M (H q + e)) under *neighbour*'s key."""
        edge, layout, weight = self._edges[neighbour], self._layouts[neighbour], own_weight(draws)
        noise = dither(draws, neighbour, weight, layout.dimension)
        return prepare_answer(
            edge.key,
            layout,
            quantised,
            edge.metropolis * weight,
            [edge.metropolis * e for e in noise],
            lambda: self._blinding.towards(neighbour),
        )

    def answer(self, query: Query, draws: Draws, prepared: Sequence[mpz]) -> list[bytes]:
        """The query, raised to M H, times what was prepared, times the mask."""
        edge, layout = self._edges[query.sender], self._layouts[query.sender]
        key = edge.key
        ciphertexts = read_ciphertexts(key, layout, query.ciphertexts)
        masked = [
            bracket * (1 + key.n * mask) % key.n_squared
            for bracket, mask in zip(prepared, self._seal.masks(query, key.n), strict=True)
        ]
        return make_answer(key, layout, ciphertexts, edge.metropolis * own_weight(draws), masked)

    def asked(self, query: Query) -> bool:
        """Whether *query* wants an answer of this node; RemoteProtocolError for a bad roster."""
        return self._seal.check(query)

    def open(
        self, answers: Mapping[str, Sequence[mpz]], draws: Draws, timed: Timed = untimed
    ) -> list[int]:
        """H_i times the sum, from one decryption of the product of all answers."""
        openings = {name: Opening(1, ciphertexts) for name, ciphertexts in answers.items()}
        reach = sum(self._edges[name].metropolis for name in answers)
        weight = own_weight(draws)
        opened = open_answers(self._key, self._layout, openings, reach, timed)
        return [weight * v for v in opened]


def own_weight(draws: Draws) -> int:
    """H_i: the node's one half weight of a round."""
    return half_weight(draws, _OF_THE_NODE)
