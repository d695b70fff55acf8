"""The exchange in plaintext, pairwise or sealed: the same integers as in the ciphertexts.

Simulations use it to save the modular powers, benchmarks to compare with. On one machine the
estimates are bit-identical to those of the encrypted exchanges.
Checked by test_without_encryption_the_estimates_are_the_same_bit_for_bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from gmpy2 import mpz

from cipherfleet_node.core.exchange import (
    Timed,
    dither,
    half_weight,
    mean_metropolis,
    untimed,
)
from cipherfleet_node.core.messages import Query
from cipherfleet_node.core.randomness import FloatVector, RoundRandomness
from cipherfleet_node.core.sealed import Seal, own_weight
from cipherfleet_node.errors import RemoteProtocolError

ENTRY_BYTES = 9  # enough for a signed integer below 2^63


@dataclass(frozen=True)
class PlaintextExchange:
    """An Exchange in plaintext.

    Pairwise, or sealed if there is a *seal*, of which it uses the rosters.
    """

    metropolis: Mapping[str, int]  # M_ij, by neighbour
    seal: Seal | None = None

    @property
    def sealed(self) -> bool:
        """True if a query names a roster and a node has one half weight for all neighbours."""
        return self.seal is not None

    @property
    def least(self) -> int:
        """Do the same as the encrypted exchange."""
        return self.seal.least if self.seal else 1

    @property
    def can_listen(self) -> bool:
        """Do the same as the encrypted exchange."""
        return self.seal is None or self.seal.can_listen

    @property
    def mean_metropolis(self) -> float:
        """Do the same as the encrypted exchange."""
        return mean_metropolis(list(self.metropolis.values()))

    def roster(self, asked: Iterable[str]) -> list[str]:
        """Do the same as the encrypted exchange."""
        return self.seal.roster(asked) if self.seal else []

    def query(self, quantised: Sequence[int]) -> list[bytes]:
        return [_to_bytes(-entry) for entry in quantised]

    def check(self, query: Query) -> None:
        """Raise RemoteProtocolError if an entry cannot be parsed."""
        self.accept(query.ciphertexts)

    def prepare(
        self, neighbour: str, quantised: Sequence[int], randomness: RoundRandomness
    ) -> list[mpz]:
        """Return H q + e; sealed: multiplied by M."""
        weight, factor = self._weight(neighbour, randomness), self._factor(neighbour)
        noise = dither(randomness, neighbour, weight, len(quantised))
        return [
            mpz(factor * (weight * entry + e)) for entry, e in zip(quantised, noise, strict=True)
        ]

    def is_addressed(self, query: Query) -> bool:
        """Do the same as the encrypted exchange."""
        return self.seal.check(query) if self.seal else True

    def answer(
        self, query: Query, randomness: RoundRandomness, prepared: Sequence[mpz]
    ) -> list[bytes]:
        """Return H (q - asked) + e, serialised; sealed: multiplied by M."""
        weight = self._factor(query.sender) * self._weight(query.sender, randomness)
        asked = self.accept(query.ciphertexts)
        return [_to_bytes(int(p + weight * a)) for p, a in zip(prepared, asked, strict=True)]

    def blank(self, query: Query) -> list[bytes]:
        """Return zeros."""
        return [_to_bytes(0)] * len(self.accept(query.ciphertexts))

    def accept(self, answer: Sequence[bytes]) -> list[mpz]:
        if any(len(entry) != ENTRY_BYTES for entry in answer):
            raise RemoteProtocolError(
                "ciphertext_length", f"an entry must have {ENTRY_BYTES} bytes"
            )
        return [mpz(int.from_bytes(entry, "big", signed=True)) for entry in answer]

    def open(
        self,
        answers: Mapping[str, Sequence[mpz]],
        randomness: RoundRandomness,
        timed: Timed = untimed,
    ) -> list[int]:
        """Return the sum of all answers, weighted by H_ij M_ij; sealed: by H_i."""
        del timed
        if self.seal:
            exponents = dict.fromkeys(answers, own_weight(randomness))
        else:
            exponents = {
                name: half_weight(randomness, name) * self.metropolis[name] for name in answers
            }
        columns = zip(*answers.values(), strict=True)
        weights = [exponents[name] for name in answers]
        return [int(sum(w * v for w, v in zip(weights, column, strict=True))) for column in columns]

    def _weight(self, neighbour: str, randomness: RoundRandomness) -> int:
        return own_weight(randomness) if self.seal else half_weight(randomness, neighbour)

    def _factor(self, neighbour: str) -> int:
        """Return the factor that the answerer applies: M if sealed, otherwise 1."""
        return self.metropolis[neighbour] if self.seal else 1


def read_integers(ciphertexts: Sequence[bytes]) -> FloatVector:
    """Return the integers of a message, shape (d,); they are exact in floating point."""
    return np.array([float(int.from_bytes(c, "big", signed=True)) for c in ciphertexts])


def _to_bytes(entry: int) -> bytes:
    return entry.to_bytes(ENTRY_BYTES, "big", signed=True)
