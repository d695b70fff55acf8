"""The encrypted exchange: the interface and the code of both kinds, and the pairwise kind.

In every round a node i must learn its coupling term sum_j a_ij (q_j - q_i), where q are quantised
estimates. It must not learn q_j, and its neighbours must not learn q_i. The pairwise exchange:

    query    i -> all:  Enc_i(-q_i)
    answer   j -> i:    Enc_i(H_ji (q_j - q_i) + e_ji), re-randomised
    opening  i:         sum_j H_ij M_ij (H_ji (q_j - q_i) + e_ji), one decryption

* Enc_i is encryption under the Paillier key of i. Only i can decrypt, and what it decrypts it must
  not be able to take apart.
* H_ij and H_ji are the half weights: private, odd integers of HALF_WEIGHT_BITS bits, chosen at
  random for each round by i and by j. Neither end knows the coupling weight of their edge,
  a_ij = H_ij H_ji M_ij * UNIT, which is the same in both directions.
* M_ij is the public Metropolis integer of the edge. It keeps the sum of all weights of a node below
  one, whatever the half weights are.
* e_ji is the dither: uniform on H_ji consecutive integers. Without it every slot of an answer would
  be a multiple of H_ji. With it every odd half weight of the right length explains an answer.
* Re-randomised means that the answerer multiplies by an obfuscator r^n. Without it the key's owner
  could extract the randomness of the answer and compute H_ji.

An answer has two factors: one from the query, and one that is known before the query comes
(`prepare`). A prepared factor holds an obfuscator and is used for one answer only.

Half weights and dither come from the seed of the round, so a repeated answer has the same
plaintext. An answerer gives an answer to one query of a round only; `answerer.py` explains why.

Source: docs/explanation/cryptography.md#pairwise-exchange.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Protocol

from gmpy2 import mpz

from cipherfleet_node.errors import RemoteProtocolError

from .messages import Query
from .packing import HALF_WEIGHT_BITS, HALF_WEIGHTS, METROPOLIS_BITS, Layout
from .paillier import PrivateKey, PublicKey, check_ciphertexts, encrypt, scale
from .quantiser import VALUE_BITS
from .randomness import RoundRandomness

# One unit of an opened slot, in resolutions: the weights count h = H / 2^12 and m = M / 2^6.
UNIT = 2.0 ** -(2 * HALF_WEIGHT_BITS + METROPOLIS_BITS)

TakeObfuscator = Callable[[], mpz]
Timed = Callable[[str], AbstractContextManager[None]]  # measures the duration of a named phase


def untimed(_phase: str) -> AbstractContextManager[None]:
    """Measure nothing: the default for *timed*."""
    return nullcontext()


@dataclass(frozen=True, repr=False)
class Opening:
    """The ciphertexts of one answer, and the exponent H_ij M_ij that they are raised to."""

    exponent: int
    ciphertexts: Sequence[mpz]


class Blinding(Protocol):
    """A supply of obfuscators r^n mod n^2. Each is returned once."""

    def own(self) -> mpz:
        """Return an obfuscator for the node's own key."""

    def towards(self, neighbour: str) -> mpz:
        """Return an obfuscator for the key of *neighbour*."""


@dataclass(frozen=True)
class Edge:
    """The public values of an edge: the neighbour's key, and the Metropolis integer M_ij."""

    key: PublicKey
    metropolis: int


class Exchange(Protocol):
    """The operations of a node in an exchange, as asker and as answerer."""

    @property
    def sealed(self) -> bool:
        """True if answers open only together; a query then names the roster of those asked."""

    @property
    def least(self) -> int:
        """The smallest number of neighbours that may be asked: two if sealed, otherwise one."""

    @property
    def mean_metropolis(self) -> float:
        """The mean of M_ij 2^-6 over the neighbours; 0 without neighbours."""

    @property
    def can_listen(self) -> bool:
        """True if the answers to each neighbour hide each other without this node's answer."""

    def roster(self, asked: Iterable[str]) -> list[str]:
        """Return the roster of a query for *asked*: sorted if sealed, empty if pairwise.

        It is empty as well if they are too few to hide each other.
        """

    def query(self, quantised: Sequence[int]) -> list[bytes]:
        """Return the ciphertexts of a query for all neighbours."""

    def check(self, query: Query) -> None:
        """Raise RemoteProtocolError for invalid ciphertexts, without a modular exponentiation."""

    def prepare(
        self, neighbour: str, quantised: Sequence[int], randomness: RoundRandomness
    ) -> list[mpz]:
        """Return the factor of an answer that does not depend on the query; for one answer."""

    def is_addressed(self, query: Query) -> bool:
        """True if *query* asks this node.

        Raises RemoteProtocolError for an invalid roster or number of ciphertexts.
        """

    def answer(
        self, query: Query, randomness: RoundRandomness, prepared: Sequence[mpz]
    ) -> list[bytes]:
        """Return the ciphertexts of the answer to *query*.

        Raises RemoteProtocolError if the ciphertexts of *query* are invalid.
        """

    def blank(self, query: Query) -> list[bytes]:
        """Return the ciphertexts of an answer that adds nothing to the sum.

        Raises RemoteProtocolError if the ciphertexts of *query* are invalid.
        """

    def accept(self, answer: Sequence[bytes]) -> list[mpz]:
        """Return the ciphertexts of an answer; raises RemoteProtocolError for invalid ones."""

    def open(
        self,
        answers: Mapping[str, Sequence[mpz]],
        randomness: RoundRandomness,
        timed: Timed = untimed,
    ) -> list[int]:
        """Return the combined coupling term of *answers*, shape (d,), in units of UNIT resolutions.

        *randomness* is that of the round. Raises RemoteProtocolError("out_of_range") if the
        plaintext cannot come from valid answers.
        """


class Packed:
    """The common part of both exchanges: the query, and the packed ciphertexts of each key."""

    half_weights: ClassVar[int]  # the number of half weights applied under encryption

    def __init__(
        self, key: PrivateKey, edges: Mapping[str, Edge], dimension: int, blinding: Blinding
    ) -> None:
        self._key, self._edges, self._blinding = key, edges, blinding
        self._layout = Layout(key.public.bits, dimension, self.half_weights)
        self._layouts = {
            name: Layout(edge.key.bits, dimension, self.half_weights)
            for name, edge in edges.items()
        }

    @property
    def mean_metropolis(self) -> float:
        """The mean of M_ij 2^-6 over the neighbours; 0 without neighbours."""
        return mean_metropolis([edge.metropolis for edge in self._edges.values()])

    def query(self, quantised: Sequence[int]) -> list[bytes]:
        """Return Enc(-q) under the node's own key."""
        return make_query(self._key.public, self._layout, quantised, self._blinding.own)

    def check_count(self, query: Query) -> None:
        """Check the number of the ciphertexts alone."""
        _check_count(self._layouts[query.sender], query.ciphertexts)

    def check(self, query: Query) -> None:
        """Check the number and the lengths of the ciphertexts, and that each is a unit mod n^2."""
        key, layout = self._edges[query.sender].key, self._layouts[query.sender]
        read_ciphertexts(key, layout, query.ciphertexts)

    def accept(self, answer: Sequence[bytes]) -> list[mpz]:
        """Return the ciphertexts of an answer under the node's own key."""
        return read_ciphertexts(self._key.public, self._layout, answer)

    def blank(self, query: Query) -> list[bytes]:
        """Return encryptions of the masks alone, of zero if there are none."""
        self.check(query)
        key, layout = self._edges[query.sender].key, self._layouts[query.sender]
        take = self._blinding.towards
        return [
            _to_bytes(encrypt(key, int(mask), take(query.sender)), layout)
            for mask in self._masks(query)
        ]

    def _masks(self, query: Query) -> Sequence[mpz]:
        """Return what is added to each plaintext of an answer to *query*."""
        return [mpz(0)] * len(query.ciphertexts)


class Pairwise(Packed):
    """The pairwise exchange: every answer can be opened by itself.

    Source: docs/explanation/cryptography.md#pairwise-exchange.
    """

    sealed = False
    half_weights = HALF_WEIGHTS["pairwise"]
    least = 1
    can_listen = True  # pairwise answers do not hide each other

    def roster(self, asked: Iterable[str]) -> list[str]:
        """Return an empty roster: the query is for every neighbour."""
        del asked
        return []

    def prepare(
        self, neighbour: str, quantised: Sequence[int], randomness: RoundRandomness
    ) -> list[mpz]:
        """Return Enc(H q + e) under the key of *neighbour*."""
        layout = self._layouts[neighbour]
        weight = half_weight(randomness, neighbour)
        noise = dither(randomness, neighbour, weight, layout.dimension)
        return prepare_answer(
            self._edges[neighbour].key,
            layout,
            quantised,
            weight,
            noise,
            lambda: self._blinding.towards(neighbour),
        )

    def is_addressed(self, query: Query) -> bool:
        """Return True; raises RemoteProtocolError if a pairwise query names a roster."""
        self.check_count(query)
        if query.roster:
            raise RemoteProtocolError(
                "roster", f"{query.sender!r} names a roster, which a pairwise query has not"
            )
        return True

    def answer(
        self, query: Query, randomness: RoundRandomness, prepared: Sequence[mpz]
    ) -> list[bytes]:
        """Return the query raised to the half weight, times *prepared*."""
        asker = query.sender
        key, layout = self._edges[asker].key, self._layouts[asker]
        ciphertexts = read_ciphertexts(key, layout, query.ciphertexts)
        return make_answer(key, layout, ciphertexts, half_weight(randomness, asker), prepared)

    def open(
        self,
        answers: Mapping[str, Sequence[mpz]],
        randomness: RoundRandomness,
        timed: Timed = untimed,
    ) -> list[int]:
        """Open all answers, each raised to its exponent H_ij M_ij, with one decryption."""
        openings = {
            name: Opening(half_weight(randomness, name) * self._edges[name].metropolis, ciphertexts)
            for name, ciphertexts in answers.items()
        }
        return open_answers(self._key, self._layout, openings, timed=timed)


def metropolis(degree: int, other_degree: int) -> int:
    """Return M_ij = floor(2^6 / (1 + max degree)).

    Rounding down keeps the sum over the neighbours of a node below 2^6.
    """
    return (1 << METROPOLIS_BITS) // (1 + max(degree, other_degree))


def mean_metropolis(integers: Sequence[int]) -> float:
    """Return the mean of M_ij 2^-6; 0 without neighbours."""
    return sum(integers) / (len(integers) << METROPOLIS_BITS) if integers else 0.0


def half_weight(randomness: RoundRandomness, neighbour: str) -> int:
    """Return H towards *neighbour*, uniform on the odd numbers of exactly HALF_WEIGHT_BITS bits.

    It is odd so that the dither hides it. Its length is fixed so that the duration of a modular
    exponentiation does not depend on it.
    """
    (choice,) = randomness.integers_below(
        1 << (HALF_WEIGHT_BITS - 2), f"half-weight/{neighbour}", 1
    )
    return (1 << (HALF_WEIGHT_BITS - 1)) + 2 * choice + 1


def dither(randomness: RoundRandomness, neighbour: str, weight: int, count: int) -> list[int]:
    """Return *count* numbers, uniform on the H integers -(H-1)/2 .. (H-1)/2, with H = *weight*.

    Source: docs/explanation/cryptography.md#dither;
    checked by test_every_odd_half_weight_explains_an_answer.
    """
    chosen = randomness.integers_below(weight, f"dither/{neighbour}", count)
    return [entry - (weight - 1) // 2 for entry in chosen]


def make_query(
    key: PublicKey, layout: Layout, quantised: Sequence[int], take: TakeObfuscator
) -> list[bytes]:
    """Return the ciphertexts of -q under the asker's own *key*."""
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
    """Return encryptions of H own + e under the asker's key *theirs*, with fresh obfuscators.

    *weight* is H and *noise* is the dither e, shape (d,). Without an obfuscator the key's owner
    could extract the randomness of the answer and compute H.
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
    """Return the ciphertexts of H (q_j - q_i) + e under the key of the asker i.

    *query* are ciphertexts that `read_ciphertexts` has checked. *prepared* comes from
    `prepare_answer` and must be used for this answer only.
    """
    return [
        _to_bytes(scale(theirs, c, weight) * factor % theirs.n_squared, layout)
        for c, factor in zip(query, prepared, strict=True)
    ]


def read_ciphertexts(key: PublicKey, layout: Layout, data: Sequence[bytes]) -> list[mpz]:
    """Return the ciphertexts under *key* in *data*; raises RemoteProtocolError for invalid ones."""
    _check_count(layout, data)
    if any(len(item) != layout.ciphertext_bytes for item in data):
        raise RemoteProtocolError(
            "ciphertext_length", f"a ciphertext must have {layout.ciphertext_bytes} bytes"
        )
    ciphertexts = [mpz(int.from_bytes(item, "big")) for item in data]
    check_ciphertexts(key, ciphertexts)
    return ciphertexts


def _check_count(layout: Layout, data: Sequence[bytes]) -> None:
    if len(data) != layout.ciphertexts:
        raise RemoteProtocolError(
            "ciphertext_count", f"{len(data)} ciphertexts came, expected {layout.ciphertexts}"
        )


def open_answers(
    key: PrivateKey,
    layout: Layout,
    answers: Mapping[str, Opening],
    reach: int | None = None,
    timed: Timed = untimed,
) -> list[int]:
    """Return the sum of all *answers*, each times its exponent, shape (d,).

    The bound is |sum| <= reach 2^44; *reach* is by default the sum of the exponents. Raises
    RemoteProtocolError("out_of_range") if a slot exceeds the bound, which valid answers never do.
    """
    openings = list(answers.values())
    exponents = [opening.exponent for opening in openings]
    columns = zip(*(opening.ciphertexts for opening in openings), strict=True)
    with timed("combine"):
        combined = [key.combine(column, exponents) for column in columns]
    with timed("decrypt"):
        plaintexts = [key.decrypt_residues(residues) for residues in combined]
    reach = sum(exponents) if reach is None else reach
    bound = reach << (HALF_WEIGHT_BITS + VALUE_BITS)
    return layout.unpack(plaintexts, key.public.n, bound)


def _to_bytes(ciphertext: mpz, layout: Layout) -> bytes:
    return int(ciphertext).to_bytes(layout.ciphertext_bytes, "big")
