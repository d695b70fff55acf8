"""One exchange to measure: packed as in the node, and naive with python-paillier (phe).

One asker has *degree* neighbours; vectors have *dimension* integers. The naive exchange encrypts
each coordinate separately, and again for each neighbour, as phe's documentation does. It gets
integers and a weight of the size of a half weight, which is faster than the float numbers of phe's
documentation.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import phe
from gmpy2 import mpz

from cipherfleet_node.core import exchange
from cipherfleet_node.core.exchange import Blinding, Edge, Pairwise
from cipherfleet_node.core.messages import Query
from cipherfleet_node.core.quantiser import VALUE_BITS
from cipherfleet_node.core.randomness import SEED_BYTES, RoundRandomness
from cipherfleet_node.keys.fixed_base import ROWS
from cipherfleet_node.keys.key_files import NodeKeys, generate_keys
from cipherfleet_node.keys.obfuscators import Full, OwnByCrt, OwnByTables, Source, Uniform
from cipherfleet_node.settings.sections import Crypto

PHE = "phe"
OWN_TABLE, OWN_CRT = "table", "CRT"
UNIFORM, FULL = "uniform", "full"
ASKER, FLEET = "asker", "bench"


class Library(Protocol):
    """A Paillier library on vectors of integers, used as its documentation says."""

    name: str

    def query(self, values: Sequence[int]) -> Any:
        """Encrypt and serialise each value separately."""

    def answer(self, query: Any, own: Sequence[int], weight: int) -> Any:
        """Return (asked + own) * weight for each coordinate, blinded again and serialised."""

    def open(self, answer: Any) -> list[int]:
        """Decrypt an answer to its plaintexts."""


class Phe:
    """The reference library: one EncryptedNumber per coordinate, JSON as in its documentation."""

    name = PHE

    def __init__(self, keys: NodeKeys) -> None:
        key = keys.paillier
        self._public = phe.PaillierPublicKey(int(key.public.n))
        self._private = phe.PaillierPrivateKey(self._public, int(key.p), int(key.q))

    def query(self, values: Sequence[int]) -> str:
        return self.write([self._public.encrypt(value) for value in values])

    def answer(self, query: str, own: Sequence[int], weight: int) -> str:
        """Return the answer; `ciphertext()` blinds each number when it is written."""
        asked = self.read(query)
        return self.write([(c + entry) * weight for c, entry in zip(asked, own, strict=True)])

    def open(self, answer: str) -> list[int]:
        return [self._private.decrypt(c) for c in self.read(answer)]

    def write(self, numbers: Iterable[Any]) -> str:
        """Serialise *numbers* as in phe's documentation."""
        values = [(str(number.ciphertext()), number.exponent) for number in numbers]
        return json.dumps({"public_key": {"n": self._public.n}, "values": values})

    def read(self, text: str) -> list[Any]:
        """Parse the encrypted numbers in *text*."""
        received = json.loads(text)
        public = phe.PaillierPublicKey(n=int(received["public_key"]["n"]))
        return [phe.EncryptedNumber(public, int(c), int(e)) for c, e in received["values"]]


# -- the exchange --------------------------------------------------------------------------------


class KeyMaterial:
    """The keys of one size, and sources of obfuscators for them, built on first use.

    All neighbours answer under the asker's key; no other key takes part.
    """

    def __init__(self, bits: int) -> None:
        self.bits, self.keys = bits, generate_keys(bits)
        self._limit = Crypto().table_kib * 1024

    @cached_property
    def own_sources(self) -> dict[str, Source]:
        """The sources of obfuscators for the own key."""
        generators = self.keys.generators
        assert generators is not None
        table = OwnByTables(self.keys.paillier, generators, self._limit)
        return {OWN_TABLE: table, OWN_CRT: OwnByCrt(self.keys.paillier)}

    @cached_property
    def neighbour_sources(self) -> dict[str, Source]:
        """The sources of obfuscators for a neighbour's key."""
        public = self.keys.paillier.public
        full = Full(public, self._limit)
        for _ in range(ROWS):  # the first ones are uniform and become the table
            full.make()
        return {UNIFORM: Uniform(public), FULL: full}


class FilledPool:
    """A Blinding with obfuscators made beforehand, each used once; one key needs one pool."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._pool: deque[mpz] = deque()

    def fill(self, count: int) -> None:
        """Fill the pool to *count* obfuscators."""
        while len(self._pool) < count:
            self._pool.append(self._source.make())

    def own(self) -> mpz:
        return self._pool.popleft()

    def towards(self, _neighbour: str) -> mpz:
        return self._pool.popleft()


@dataclass(frozen=True)
class UnpooledBlinding:
    """A Blinding that makes each obfuscator when it is needed."""

    sources: tuple[Source, Source]  # for the own key and for a neighbour's key

    def own(self) -> mpz:
        return self.sources[0].make()

    def towards(self, _neighbour: str) -> mpz:
        return self.sources[1].make()


class AskerScenario:
    """An asker and its neighbours, with their values, random choices and expected results."""

    def __init__(self, keys: NodeKeys, dimension: int, degree: int) -> None:
        self.keys, self.dimension = keys, dimension
        self.randomness = RoundRandomness(os.urandom(SEED_BYTES))
        self.asker_values = _values(self.randomness, dimension)
        self.neighbours = [f"neighbour-{place}" for place in range(degree)]
        self.neighbour_randomness = {
            name: RoundRandomness(os.urandom(SEED_BYTES)) for name in self.neighbours
        }
        self.neighbour_values = {
            name: _values(randomness, dimension)
            for name, randomness in self.neighbour_randomness.items()
        }
        self.edge = Edge(keys.paillier.public, exchange.metropolis(degree, degree))

    def weight(self, neighbour: str) -> int:
        """Return *neighbour*'s half weight; it is the naive exchange's whole weight."""
        return exchange.half_weight(self.neighbour_randomness[neighbour], ASKER)

    def exponent(self, neighbour: str) -> int:
        """Return the exponent that the asker applies to *neighbour*'s answer."""
        return exchange.half_weight(self.randomness, neighbour) * self.edge.metropolis

    @cached_property
    def expected(self) -> list[int]:
        """The plaintext result: sum_j H_ij M_ij (H_ji (q_j - q_i) + e_ji)."""
        return add_vectors(self._term(name) for name in self.neighbours)

    def _term(self, name: str) -> list[int]:
        weight, exponent = self.weight(name), self.exponent(name)
        noise = exchange.dither(self.neighbour_randomness[name], ASKER, weight, self.dimension)
        return [
            exponent * (weight * (own - asked) + e)
            for own, asked, e in zip(
                self.neighbour_values[name], self.asker_values, noise, strict=True
            )
        ]

    @cached_property
    def expected_naive(self) -> list[int]:
        """The plaintext result of the naive exchange: sum_j H_ji (q_j - q_i)."""
        return add_vectors(
            [
                self.weight(name) * (own - asked)
                for own, asked in zip(self.neighbour_values[name], self.asker_values, strict=True)
            ]
            for name in self.neighbours
        )


class PackedExchange:
    """The packed exchange on a scenario, step by step."""

    def __init__(self, scenario: AskerScenario, blinding: Blinding) -> None:
        key = scenario.keys.paillier
        self._scenario = scenario
        edges = dict.fromkeys(scenario.neighbours, scenario.edge)
        self._asker = Pairwise(key, edges, scenario.dimension, blinding)
        self._neighbour = Pairwise(key, {ASKER: scenario.edge}, scenario.dimension, blinding)

    def query(self) -> list[bytes]:
        """Return the ciphertexts of the asker's query."""
        return self._asker.query(self._scenario.asker_values)

    def prepare(self) -> dict[str, list[mpz]]:
        """Prepare the answers of all neighbours."""
        return {name: self._prepare(name) for name in self._scenario.neighbours}

    def _prepare(self, name: str) -> list[mpz]:
        return self._neighbour.prepare(
            ASKER, self._scenario.neighbour_values[name], self._scenario.neighbour_randomness[name]
        )

    def answer(
        self, query: Sequence[bytes], prepared: Mapping[str, Sequence[mpz]]
    ) -> dict[str, list[bytes]]:
        """Return the ciphertexts of all neighbours' answers."""
        randomness, asked = self._scenario.neighbour_randomness, make_query_message(query)
        return {
            name: self._neighbour.answer(asked, randomness[name], brackets)
            for name, brackets in prepared.items()
        }

    def accept(self, answers: Mapping[str, Sequence[bytes]]) -> dict[str, list[mpz]]:
        """Check and parse the answers."""
        return {name: self._asker.accept(answer) for name, answer in answers.items()}

    def open(self, accepted: Mapping[str, Sequence[mpz]]) -> list[int]:
        return self._asker.open(accepted, self._scenario.randomness)

    def online(self, prepared: Mapping[str, Sequence[mpz]]) -> list[int]:
        """Run everything for which neighbours wait: query, answers, opening."""
        return self.open(self.accept(self.answer(self.query(), prepared)))


def make_query_message(query: Sequence[bytes]) -> Query:
    """Return the asker's query message with these ciphertexts."""
    return Query(
        fleet=FLEET,
        sender=ASKER,
        epoch=1,
        round=1,
        roster=[],
        uncounted=[],
        unbalanced=False,
        scale=None,
        settled=0,
        parameters=bytes(8),
        key=bytes(8),
        ciphertexts=list(query),
    )


def _values(randomness: RoundRandomness, count: int) -> list[int]:
    half = 1 << (VALUE_BITS - 1)
    return [
        entry - half + 1 for entry in randomness.integers_below(2 * half - 1, "bench/values", count)
    ]


def add_vectors(terms: Iterable[Sequence[int]]) -> list[int]:
    """Return the sum of *terms*, entry by entry."""
    return [sum(column) for column in zip(*terms, strict=True)]
