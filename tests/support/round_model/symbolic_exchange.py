"""An exchange without encryption, whose ciphertexts are symbols.

A query carries the asker's quantised estimate q_i. An answer carries a `Term`: all that its
plaintext M (H_j (q_j - q_i) + e_ji) is a function of. In the sealed exchange a term is masked: it
opens only together with the terms of the whole roster of the same query. A sum is the multiset of
its terms. So what an asker could compute from its answers follows from the symbols alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from gmpy2 import mpz

from cipherfleet_node.core.messages import Answer, Query
from cipherfleet_node.core.packing import HALF_WEIGHT_BITS, METROPOLIS_BITS
from cipherfleet_node.core.randomness import RoundRandomness
from cipherfleet_node.core.sealed import Seal
from cipherfleet_node.errors import RemoteProtocolError

UNITS = 1 << (2 * HALF_WEIGHT_BITS + METROPOLIS_BITS)  # units of an opened slot in one resolution
STEP = 64  # every move of an estimate is a multiple of so many resolutions


class Term(msgspec.Struct, frozen=True):
    """The plaintext of one answer, as a symbol.

    Two answers with equal *answerer*, *own* and *draw* have equal half weight and equal dither.
    """

    answerer: str
    own: int  # q_j
    draw: bytes  # tag of the seed of half weight and dither
    asker: str
    asked: int  # q_i
    digest: bytes  # of the query; the masks depend on it
    size: int  # number of members of the roster; 0 if the answer opens alone

    @property
    def version(self) -> tuple[str, int, bytes]:
        """The answerer's numbers in the term: equal versions have equal H_j, q_j and e_ji."""
        return self.answerer, self.own, self.draw

    @property
    def place(self) -> tuple[str, int]:
        """The answerer and its state, whatever the draw: q_j without the last bits."""
        return self.answerer, self.own // STEP


def term_of(answer: Answer) -> Term:
    """Return the term that *answer* carries."""
    return msgspec.msgpack.decode(answer.ciphertexts[0], type=Term)


def asked_of(query: Query) -> int:
    """Return the quantised estimate that *query* carries."""
    return int(query.ciphertexts[0])


class SymbolicExchange:
    """An Exchange of one node; sealed if there is a *seal*, of which it uses the rosters."""

    def __init__(self, node: str, seal: Seal | None) -> None:
        self.node, self.seal = node, seal
        self.opened: list[frozenset[Term]] = []  # sums opened since the caller emptied this list
        self.has_opened_part = False

    @property
    def sealed(self) -> bool:
        return self.seal is not None

    @property
    def least(self) -> int:
        return self.seal.least if self.seal else 1

    @property
    def mean_metropolis(self) -> float:
        return 0.25

    @property
    def can_listen(self) -> bool:
        return False  # a zero has no symbol

    def roster(self, there: Iterable[str]) -> list[str]:
        return self.seal.roster(there) if self.seal else []

    def query(self, quantised: Sequence[int]) -> list[bytes]:
        return [str(quantised[0]).encode()]

    def check(self, query: Query) -> None:
        asked_of(query)

    def is_addressed(self, query: Query) -> bool:
        return self.seal.check(query) if self.seal else True

    def prepare(
        self, neighbour: str, quantised: Sequence[int], randomness: RoundRandomness
    ) -> list[mpz]:
        return _numbers([msgspec.msgpack.encode((neighbour, quantised[0], _tag(randomness)))])

    def answer(
        self, query: Query, randomness: RoundRandomness, prepared: Sequence[mpz]
    ) -> list[bytes]:
        neighbour, own, draw = msgspec.msgpack.decode(self.serialise(prepared)[0])
        assert (neighbour, draw) == (query.sender, _tag(randomness)), "prepared for another answer"
        size = len(query.roster)
        asked = asked_of(query)
        term = Term(self.node, own, draw, query.sender, asked, query.digest, size)
        return [msgspec.msgpack.encode(term)]

    def blank(self, query: Query) -> list[bytes]:
        raise NotImplementedError("no generations in the model of rounds")

    def accept(self, answer: Sequence[bytes]) -> list[mpz]:
        return _numbers(answer)

    def serialise(self, numbers: Sequence[mpz]) -> list[bytes]:
        return [int(n).to_bytes((n.bit_length() + 7) // 8, "big")[1:] for n in numbers]

    def open(
        self, answers: Mapping[str, Sequence[mpz]], randomness: RoundRandomness, timed: Any = None
    ) -> list[int]:
        """Return a number that depends on all terms; raises RemoteProtocolError for a part."""
        del randomness, timed
        data = [self.serialise(answer)[0] for answer in answers.values()]
        terms = frozenset(msgspec.msgpack.decode(item, type=Term) for item in data)
        if not opens(terms):
            self.has_opened_part = True
            raise RemoteProtocolError("out_of_range", "a part of a sealed sum does not open")
        self.opened.append(terms)
        versions = repr(sorted((term.version, term.asked) for term in terms)).encode()
        # Between 5 and 12 steps, so that no term is out of proportion to the others.
        return [(5 + hashlib.sha256(versions).digest()[0] % 8) * STEP * UNITS]


def opens(terms: frozenset[Term]) -> bool:
    """True if the masks of *terms* cancel, or if there are none."""
    if all(term.size == 0 for term in terms):
        return True
    answerers = {term.answerer for term in terms}
    return len({term.digest for term in terms}) == 1 and all(
        term.size == len(answerers) == len(terms) for term in terms
    )


def _tag(randomness: RoundRandomness) -> bytes:
    return hashlib.sha256(randomness.seed).digest()[:8]


def _numbers(items: Sequence[bytes]) -> list[mpz]:
    # The leading byte keeps leading zeros.
    return [mpz(int.from_bytes(b"\1" + item, "big")) for item in items]
