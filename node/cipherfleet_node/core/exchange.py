"""The encrypted exchange: what every kind of it has in common, and the pairwise one.

    query    i -> all:  Enc_i(-q_i)
    answer   j -> i:    Enc_i(H_ji (q_j - q_i) + e_ji), re-randomised
    opening  i:         sum_j H_ij M_ij (H_ji (q_j - q_i) + e_ji), one decryption

H_ij, H_ji are the private half weights (odd, HALF_WEIGHT_BITS bits), M_ij the public Metropolis
integer, e_ji the dither. The coupling weight is a_ij = H_ij H_ji M_ij * UNIT, the same both ways.
Source: ALGORITHM section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Protocol

from gmpy2 import mpz

from cipherfleet_node.errors import RemoteProtocolError

from .messages import Query
from .packing import HALF_WEIGHT_BITS, METROPOLIS_BITS, Layout
from .paillier import PrivateKey, PublicKey, check_ciphertexts, encrypt, scale
from .quantiser import VALUE_BITS
from .randomness import Draws

# What one unit of an opened slot weighs, in resolutions: h = H / 2^12, m = M / 2^6.
UNIT = 2.0 ** -(2 * HALF_WEIGHT_BITS + METROPOLIS_BITS)

TakeObfuscator = Callable[[], mpz]
Timed = Callable[[str], AbstractContextManager[None]]  # takes the time of a phase


def untimed(_phase: str) -> AbstractContextManager[None]:
    """Nobody wants to know how long it takes."""
    return nullcontext()


@dataclass(frozen=True, repr=False)
class Opening:
    """One answer as its receiver holds it: whose, under which exponent H_ij M_ij it counts."""

    exponent: int
    ciphertexts: Sequence[mpz]


class Blinding(Protocol):
    """Obfuscators r^n mod n^2, each handed out once."""

    def own(self) -> mpz:
        """One for the node's own key."""

    def towards(self, neighbour: str) -> mpz:
        """One for *neighbour*'s key."""


@dataclass(frozen=True)
class Edge:
    """What is public of a neighbour: its key, and M_ij."""

    key: PublicKey
    metropolis: int


class Exchange(Protocol):
    """How a node learns its coupling term; `open` gives units of UNIT resolutions."""

    @property
    def sealed(self) -> bool:
        """Whether answers open only together: a query then names the roster of those asked."""

    def roster(self, there: Iterable[str]) -> list[str]:
        """Whom to ask of the neighbours *there*, if answers open only together; in order.

        Nobody if they would be too few.
        """

    def query(self, quantised: Sequence[int]) -> list[bytes]:
        """What is asked of all neighbours in a round."""

    def check(self, query: Query) -> None:
        """Raise RemoteProtocolError unless *query* can be answered; takes no power."""

    def prepare(self, neighbour: str, quantised: Sequence[int], draws: Draws) -> list[mpz]:
        """What can be worked out of an answer before the query comes; used for one answer."""

    def asked(self, query: Query) -> bool:
        """Whether *query* wants this node's answer; raises RemoteProtocolError for a bad roster."""

    def answer(self, query: Query, draws: Draws, prepared: Sequence[mpz]) -> list[bytes]:
        """The answer to *query*; raises RemoteProtocolError for a bad one."""

    def accept(self, answer: Sequence[bytes]) -> list[mpz]:
        """The checked ciphertexts of an answer; raises RemoteProtocolError for a bad one."""

    def open(
        self, answers: Mapping[str, Sequence[mpz]], draws: Draws, timed: Timed = untimed
    ) -> list[int]:
        """The combined coupling term of *answers*, shape (d,), in the round of *draws*."""


class Packed:
    """What both exchanges do alike: the query, and ciphertexts packed for each key."""

    half_weights: ClassVar[int]  # how many are applied under encryption

    def __init__(
        self, key: PrivateKey, edges: Mapping[str, Edge], dimension: int, blinding: Blinding
    ) -> None:
        self._key, self._edges, self._blinding = key, edges, blinding
        self._layout = Layout(key.public.bits, dimension, self.half_weights)
        self._layouts = {
            name: Layout(edge.key.bits, dimension, self.half_weights)
            for name, edge in edges.items()
        }

    def query(self, quantised: Sequence[int]) -> list[bytes]:
        """Enc(-q) under the node's own key."""
        return make_query(self._key.public, self._layout, quantised, self._blinding.own)

    def check(self, query: Query) -> None:
        """The count, the lengths and each ciphertext."""
        key, layout = self._edges[query.sender].key, self._layouts[query.sender]
        read_ciphertexts(key, layout, query.ciphertexts)

    def accept(self, answer: Sequence[bytes]) -> list[mpz]:
        """The ciphertexts under the node's own key."""
        return read_ciphertexts(self._key.public, self._layout, answer)


class Pairwise(Packed):
    """The exchange of ALGORITHM section 4, `pairwise`: every answer can be opened by itself."""

    sealed = False
    half_weights = 2

    def roster(self, there: Iterable[str]) -> list[str]:
        """Nobody: whoever answers is welcome."""
        del there
        return []

    def prepare(self, neighbour: str, quantised: Sequence[int], draws: Draws) -> list[mpz]:
        """Enc(H q + e) under *neighbour*'s key."""
        layout = self._layouts[neighbour]
        weight = half_weight(draws, neighbour)
        noise = dither(draws, neighbour, weight, layout.dimension)
        return prepare_answer(
            self._edges[neighbour].key,
            layout,
            quantised,
            weight,
            noise,
            lambda: self._blinding.towards(neighbour),
        )

    def asked(self, query: Query) -> bool:
        """Always: a pairwise query names nobody."""
        if query.roster:
            raise RemoteProtocolError("roster", f"{query.sender!r} names a roster: not pairwise")
        return True

    def answer(self, query: Query, draws: Draws, prepared: Sequence[mpz]) -> list[bytes]:
        """The query, raised to the half weight, times what was prepared."""
        asker = query.sender
        key, layout = self._edges[asker].key, self._layouts[asker]
        ciphertexts = read_ciphertexts(key, layout, query.ciphertexts)
        return make_answer(key, layout, ciphertexts, half_weight(draws, asker), prepared)

    def open(
        self, answers: Mapping[str, Sequence[mpz]], draws: Draws, timed: Timed = untimed
    ) -> list[int]:
        """One decryption for all answers, each under its exponent H_ij M_ij."""
        openings = {
            name: Opening(half_weight(draws, name) * self._edges[name].metropolis, ciphertexts)
            for name, ciphertexts in answers.items()
        }
        return open_answers(self._key, self._layout, openings, timed=timed)


def metropolis(degree: int, other_degree: int) -> int:
    """floor(2^6 / (1 + max degree)): rounding down keeps the sum over neighbours below 2^6."""
    return (1 << METROPOLIS_BITS) // (1 + max(degree, other_degree))


def half_weight(draws: Draws, neighbour: str) -> int:
    """H towards *neighbour*, uniform on the odd numbers of exactly HALF_WEIGHT_BITS bits.

    Odd, so that dither hides it; of fixed length, so that the time of a power does not tell it.
    """
    (choice,) = draws.below(1 << (HALF_WEIGHT_BITS - 2), f"half-weight/{neighbour}", 1)
    return (1 << (HALF_WEIGHT_BITS - 1)) + 2 * choice + 1


def dither(draws: Draws, neighbour: str, weight: int, count: int) -> list[int]:
    """*count* numbers uniform on the *weight* integers -(H-1)/2 .. (H-1)/2.

    Source: ALGORITHM section 4; checked by test_every_odd_half_weight_explains_an_answer.
    """
    chosen = draws.below(weight, f"dither/{neighbour}", count)
    return [entry - (weight - 1) // 2 for entry in chosen]


def make_query(
    key: PublicKey, layout: Layout, quantised: Sequence[int], take: TakeObfuscator
) -> list[bytes]:
    """The ciphertexts of -q under one's own *key*."""
    plaintexts = layout.pack([-entry for entry in quantised])
    return [_to_bytes(encrypt(key, plaintext, take()), layout) for plaintext in plaintexts]


def prepare_answer(
    theirs: PublicKey,
    layout: Layout,
    own: Sequence[int],
    weight: int,
    noise: Sequence[int],
    take: TakeObfuscator,
) -> list[mpz]:
    """Blinded encryptions of H own + e under the asker's key: all of an answer but the query.

    *noise* is the dither e, shape (d,). Without the obfuscators the key's owner would extract the
    randomness of the answer and find H: they are not optional.
    """
    shifts = layout.pack([weight * entry + e for entry, e in zip(own, noise, strict=True)])
    return [encrypt(theirs, shift, take()) for shift in shifts]


def make_answer(
    theirs: PublicKey,
    layout: Layout,
    query: Sequence[mpz],
    weight: int,
    prepared: Sequence[mpz],
) -> list[bytes]:
    """The ciphertexts of H (own - asked) + e under the asker's key.

    *query* has been checked by read_ciphertexts; *prepared* is used once, for this query only.
    """
    return [
        _to_bytes(scale(theirs, c, weight) * bracket % theirs.n_squared, layout)
        for c, bracket in zip(query, prepared, strict=True)
    ]


def read_ciphertexts(key: PublicKey, layout: Layout, data: Sequence[bytes]) -> list[mpz]:
    """The ciphertexts under *key* in *data*, each checked; raises RemoteProtocolError."""
    if len(data) != layout.ciphertexts:
        raise RemoteProtocolError(
            "ciphertext_count", f"{len(data)} ciphertexts came, expected {layout.ciphertexts}"
        )
    if any(len(item) != layout.ciphertext_bytes for item in data):
        raise RemoteProtocolError(
            "ciphertext_length", f"a ciphertext has not the {layout.ciphertext_bytes} bytes it must"
        )
    ciphertexts = [mpz(int.from_bytes(item, "big")) for item in data]
    check_ciphertexts(key, ciphertexts)
    return ciphertexts


def open_answers(
    key: PrivateKey,
    layout: Layout,
    answers: Mapping[str, Opening],
    reach: int | None = None,
    timed: Timed = untimed,
) -> list[int]:
    """The sum of all *answers*, each times its exponent, shape (d,).

    *reach* bounds it: |sum| <= reach 2^44, by default the sum of the exponents. Raises
    RemoteProtocolError("out_of_range") when a slot exceeds what the protocol can produce.
    """
    openings = list(answers.values())
    exponents = [opening.exponent for opening in openings]
    columns = zip(*(opening.ciphertexts for opening in openings), strict=True)
    with timed("combine"):
        combined = [key.combine(column, exponents) for column in columns]
    with timed("decrypt"):
        plaintexts = [key.decrypt_halves(halves) for halves in combined]
    reach = sum(exponents) if reach is None else reach
    bound = reach << (HALF_WEIGHT_BITS + VALUE_BITS)
    return layout.unpack(plaintexts, key.public.n, bound)


def _to_bytes(ciphertext: mpz, layout: Layout) -> bytes:
    return int(ciphertext).to_bytes(layout.ciphertext_bytes, "big")
