"""Both exchanges without encryption: the same integers as in ciphertexts, readable by everybody.

For simulations, which save the powers. Estimates are those of the encrypted exchanges, bit for bit
on the same machine: checked by test_without_encryption_the_estimates_are_the_same_bit_for_bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gmpy2 import mpz

from cipherfleet_node.core.exchange import Timed, dither, half_weight, untimed
from cipherfleet_node.core.messages import Query
from cipherfleet_node.core.randomness import Draws
from cipherfleet_node.core.sealed import Seal, own_weight
from cipherfleet_node.errors import RemoteProtocolError

ENTRY_BYTES = 9  # of an integer below 2^63, signed


@dataclass(frozen=True)
class Clear:
    """An Exchange of the node, in clear: sealed with a *seal*, of which only the rosters count."""

    metropolis: Mapping[str, int]  # M_ij, by neighbour
    seal: Seal | None = None

    @property
    def sealed(self) -> bool:
        """Whether a query names a roster, and a node has one half weight for all."""
        return self.seal is not None

    def roster(self, there: Iterable[str]) -> list[str]:
        """As in the exchange that is imitated."""
        return self.seal.roster(there) if self.seal else []

    def query(self, quantised: Sequence[int]) -> list[bytes]:
        """-q."""
        return [_to_bytes(-entry) for entry in quantised]

    def check(self, query: Query) -> None:
        """Every entry can be read."""
        self.accept(query.ciphertexts)

    def prepare(self, neighbour: str, quantised: Sequence[int], draws: Draws) -> list[mpz]:
        """H q + e, sealed times M."""
        weight, factor = self._weight(neighbour, draws), self._factor(neighbour)
        noise = dither(draws, neighbour, weight, len(quantised))
        return [
            mpz(factor * (weight * entry + e)) for entry, e in zip(quantised, noise, strict=True)
        ]

    def asked(self, query: Query) -> bool:
        """As in the exchange that is imitated."""
        return self.seal.check(query) if self.seal else True

    def answer(self, query: Query, draws: Draws, prepared: Sequence[mpz]) -> list[bytes]:
        """H (q - asked) + e, sealed times M."""
        weight = self._factor(query.sender) * self._weight(query.sender, draws)
        asked = self.accept(query.ciphertexts)
        return [_to_bytes(int(p + weight * a)) for p, a in zip(prepared, asked, strict=True)]

    def accept(self, answer: Sequence[bytes]) -> list[mpz]:
        """The integers."""
        if any(len(entry) != ENTRY_BYTES for entry in answer):
            raise RemoteProtocolError("ciphertext_length", f"an entry has not {ENTRY_BYTES} bytes")
        return [mpz(int.from_bytes(entry, "big", signed=True)) for entry in answer]

    def open(
        self, answers: Mapping[str, Sequence[mpz]], draws: Draws, timed: Timed = untimed
    ) -> list[int]:
        """The sum of all answers, under H_ij M_ij, sealed under H_i."""
        del timed
        if self.seal:
            exponents = dict.fromkeys(answers, own_weight(draws))
        else:
            exponents = {name: half_weight(draws, name) * self.metropolis[name] for name in answers}
        columns = zip(*answers.values(), strict=True)
        weights = [exponents[name] for name in answers]
        return [int(sum(w * v for w, v in zip(weights, column, strict=True))) for column in columns]

    def _weight(self, neighbour: str, draws: Draws) -> int:
        return own_weight(draws) if self.seal else half_weight(draws, neighbour)

    def _factor(self, neighbour: str) -> int:
        """What the answerer applies of M: all of it, or nothing."""
        return self.metropolis[neighbour] if self.seal else 1


def _to_bytes(entry: int) -> bytes:
    return entry.to_bytes(ENTRY_BYTES, "big", signed=True)
