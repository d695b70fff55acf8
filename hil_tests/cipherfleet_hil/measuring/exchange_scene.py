"""Benchmark of one encrypted exchange against python-paillier (phe) used as documented.

One asker has *degree* neighbours; vectors have *dimension* integers. The case `online` is the work
of a node while its neighbours wait: pools are full and answers are prepared. The case `all` times
everything, obfuscators and preparation too. The naive exchange encrypts each coordinate separately,
and again for each neighbour. It gets integers and a weight of the size of a half weight, which is
faster than the float numbers of phe's documentation.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import phe
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gmpy2 import mpz

from cipherfleet_node.core import exchange, wire
from cipherfleet_node.core.exchange import Blinding, Edge, Pairwise
from cipherfleet_node.core.messages import TAG_BYTES, Answer, Query
from cipherfleet_node.core.packing import Layout
from cipherfleet_node.core.paillier import encrypt
from cipherfleet_node.core.quantiser import VALUE_BITS
from cipherfleet_node.core.randomness import SEED_BYTES, RoundRandomness
from cipherfleet_node.core.topics import query_topic
from cipherfleet_node.keys.fixed_base import ROWS
from cipherfleet_node.keys.key_files import NodeKeys, generate_keys
from cipherfleet_node.keys.obfuscators import Full, OwnByCrt, OwnByTables, Source, Uniform
from cipherfleet_node.settings.sections import Crypto

from .interleaved import HOST_KIND, Effort, InterleavedComparison, TimedCase, versions
from .sampling import run_interleaved

KEY_SIZES = (1024, 2048, 3072, 4096)
PHE, ONLINE = "phe", "online"
EXCHANGE, OWN, NEIGHBOUR, DECRYPTION, PARTS = (
    "exchange",
    "own-key encryption",
    "obfuscator for a neighbour",
    "decryption",
    "parts of an exchange",
)
OWN_TABLE, OWN_CRT = "table", "CRT"
UNIFORM, FULL = "uniform", "full"
APART, TOGETHER = "apart", "combined"
PHE_JSON, CIPHERTEXTS, MESSAGES = "phe JSON", "ciphertexts", "signed messages"
_ASKER, _FLEET = "asker", "bench"


class Library(Protocol):
    """A Paillier library on vectors of integers, used as its documentation says."""

    name: str

    def query(self, values: Sequence[int]) -> Any:
        """Encrypt and serialise each value separately."""

    def answer(self, query: Any, own: Sequence[int], weight: int) -> Any:
        """Return (asked + own) * weight for each coordinate, blinded again and serialised."""

    def open(self, answer: Any) -> list[int]:
        """Decrypt an answer to its plaintexts."""


MakeLibraries = Callable[[NodeKeys], Sequence[Library]]


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
    def own(self) -> dict[str, Source]:
        """The sources of obfuscators for the own key."""
        generators = self.keys.generators
        assert generators is not None
        table = OwnByTables(self.keys.paillier, generators, self._limit)
        return {OWN_TABLE: table, OWN_CRT: OwnByCrt(self.keys.paillier)}

    @cached_property
    def towards(self) -> dict[str, Source]:
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
        self.asked = _values(self.randomness, dimension)
        self.neighbours = [f"neighbour-{place}" for place in range(degree)]
        self.their_randomness = {
            name: RoundRandomness(os.urandom(SEED_BYTES)) for name in self.neighbours
        }
        self.theirs = {
            name: _values(randomness, dimension)
            for name, randomness in self.their_randomness.items()
        }
        self.edge = Edge(keys.paillier.public, exchange.metropolis(degree, degree))

    def weight(self, neighbour: str) -> int:
        """Return *neighbour*'s half weight; it is the naive exchange's whole weight."""
        return exchange.half_weight(self.their_randomness[neighbour], _ASKER)

    def exponent(self, neighbour: str) -> int:
        """Return the exponent that the asker applies to *neighbour*'s answer."""
        return exchange.half_weight(self.randomness, neighbour) * self.edge.metropolis

    @cached_property
    def expected(self) -> list[int]:
        """The plaintext result: sum_j H_ij M_ij (H_ji (q_j - q_i) + e_ji)."""
        return _sum(self._term(name) for name in self.neighbours)

    def _term(self, name: str) -> list[int]:
        weight, exponent = self.weight(name), self.exponent(name)
        noise = exchange.dither(self.their_randomness[name], _ASKER, weight, self.dimension)
        return [
            exponent * (weight * (own - asked) + e)
            for own, asked, e in zip(self.theirs[name], self.asked, noise, strict=True)
        ]

    @cached_property
    def expected_naively(self) -> list[int]:
        """The plaintext result of the naive exchange: sum_j H_ji (q_j - q_i)."""
        return _sum(
            [
                self.weight(name) * (own - asked)
                for own, asked in zip(self.theirs[name], self.asked, strict=True)
            ]
            for name in self.neighbours
        )


class PackedExchange:
    """The packed exchange on a scenario, step by step."""

    def __init__(self, scenario: AskerScenario, blinding: Blinding) -> None:
        key = scenario.keys.paillier
        self._scene = scenario
        edges = dict.fromkeys(scenario.neighbours, scenario.edge)
        self._asker = Pairwise(key, edges, scenario.dimension, blinding)
        self._neighbour = Pairwise(key, {_ASKER: scenario.edge}, scenario.dimension, blinding)

    def query(self) -> list[bytes]:
        """Return the ciphertexts of the asker's query."""
        return self._asker.query(self._scene.asked)

    def prepare(self) -> dict[str, list[mpz]]:
        """Prepare the answers of all neighbours."""
        return {name: self._prepare(name) for name in self._scene.neighbours}

    def _prepare(self, name: str) -> list[mpz]:
        return self._neighbour.prepare(
            _ASKER, self._scene.theirs[name], self._scene.their_randomness[name]
        )

    def answer(
        self, query: Sequence[bytes], prepared: Mapping[str, Sequence[mpz]]
    ) -> dict[str, list[bytes]]:
        """Return the ciphertexts of all neighbours' answers."""
        randomness, asked = self._scene.their_randomness, make_query_message(query)
        return {
            name: self._neighbour.answer(asked, randomness[name], brackets)
            for name, brackets in prepared.items()
        }

    def accept(self, answers: Mapping[str, Sequence[bytes]]) -> dict[str, list[mpz]]:
        """Check and parse the answers."""
        return {name: self._asker.accept(answer) for name, answer in answers.items()}

    def open(self, accepted: Mapping[str, Sequence[mpz]]) -> list[int]:
        return self._asker.open(accepted, self._scene.randomness)

    def online(self, prepared: Mapping[str, Sequence[mpz]]) -> list[int]:
        """Run everything for which neighbours wait: query, answers, opening."""
        return self.open(self.accept(self.answer(self.query(), prepared)))


def make_query_message(query: Sequence[bytes]) -> Query:
    """Return the asker's query message with these ciphertexts."""
    return Query(_FLEET, _ASKER, 1, 1, 0, [], bytes(8), bytes(8), list(query))


def _values(randomness: RoundRandomness, count: int) -> list[int]:
    half = 1 << (VALUE_BITS - 1)
    return [
        entry - half + 1 for entry in randomness.integers_below(2 * half - 1, "bench/values", count)
    ]


def _equals(expected: object) -> Callable[[object], bool]:
    return lambda result: result == expected


def _sum(terms: Iterable[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip(*terms, strict=True)]


# -- cases ---------------------------------------------------------------------------------------


def make_online_case(material: KeyMaterial, scenario: AskerScenario) -> TimedCase:
    """Return the case `online`: the part of the exchange for which neighbours wait."""
    pool = FilledPool(material.own[OWN_TABLE])
    packed, prepared = PackedExchange(scenario, pool), dict[str, list[mpz]]()
    ciphertexts = Layout(material.bits, scenario.dimension).ciphertexts

    def fill() -> None:
        pool.fill((1 + len(scenario.neighbours)) * ciphertexts)
        prepared.update(packed.prepare())

    return TimedCase(ONLINE, lambda: packed.online(prepared), _equals(scenario.expected), fill)


def all_inside_name(own: str, towards: str) -> str:
    """Return the name of a case that times everything."""
    return f"all: {own}, {towards}"


def make_all_inside_case(
    material: KeyMaterial, scenario: AskerScenario, own: str, towards: str
) -> TimedCase:
    """Return a case that times everything; *own* and *towards* name the obfuscators' sources."""
    packed = PackedExchange(
        scenario, UnpooledBlinding((material.own[own], material.towards[towards]))
    )
    return TimedCase(
        all_inside_name(own, towards),
        lambda: packed.online(packed.prepare()),
        _equals(scenario.expected),
    )


def make_naive_case(library: Library, scenario: AskerScenario) -> TimedCase:
    """Return the naive exchange: *library* encrypts each number separately."""
    negated = [-entry for entry in scenario.asked]
    towards = [(scenario.theirs[name], scenario.weight(name)) for name in scenario.neighbours]

    def run() -> list[int]:
        return _sum(
            library.open(library.answer(library.query(negated), own, weight))
            for own, weight in towards
        )

    return TimedCase(library.name, run, _equals(scenario.expected_naively))


# -- interleaved comparisons ---------------------------------------------------------------------


def compare_exchanges(
    material: KeyMaterial, libraries: Sequence[Library], dimension: int, degree: int, effort: Effort
) -> InterleavedComparison:
    """Compare the packed exchange with the naive ones."""
    scenario = AskerScenario(material.keys, dimension, degree)
    ours = [make_online_case(material, scenario)]
    ours += [
        make_all_inside_case(material, scenario, own, towards)
        for own in material.own
        for towards in material.towards
    ]
    reference = Phe(material.keys)
    naive = [make_naive_case(library, scenario) for library in (reference, *libraries)]
    ms, checked = run_interleaved([naive[0], *ours, *naive[1:]], effort)
    pairs = [(PHE, case.name) for case in ours] + [(rival.name, ONLINE) for rival in libraries]
    return InterleavedComparison(
        EXCHANGE, material.bits, ms, checked, pairs, dimension, degree, _bytes(scenario, reference)
    )


def _bytes(scenario: AskerScenario, reference: Phe) -> dict[str, int]:
    """Return the sizes of a query and an answer, in bytes."""
    asked = reference.query(scenario.asked)
    answered = reference.answer(asked, scenario.asked, 1)
    ciphertexts = [bytes(scenario.edge.key.bits // 4)] * Layout(
        scenario.edge.key.bits, scenario.dimension
    ).ciphertexts
    envelopes = _messages(ciphertexts, scenario.keys.identity)
    return {
        PHE_JSON: len(asked) + len(answered),
        CIPHERTEXTS: 2 * sum(map(len, ciphertexts)),
        MESSAGES: sum(map(len, envelopes)),
    }


def _messages(ciphertexts: list[bytes], identity: Ed25519PrivateKey) -> tuple[bytes, bytes]:
    tag = bytes(TAG_BYTES)
    query = Query(_FLEET, _ASKER, 1, 1, 0, [], tag, tag, ciphertexts)
    answer = Answer(_FLEET, _ASKER, 1, _ASKER, 1, 0, query.digest, ciphertexts)
    return wire.encode(query, identity), wire.encode(answer, identity)


def measure_parts(
    material: KeyMaterial, dimension: int, degree: int, effort: Effort
) -> InterleavedComparison:
    """Time the steps of the packed exchange."""
    cases = make_part_cases(material, AskerScenario(material.keys, dimension, degree))
    ms, checked = run_interleaved(cases, effort)
    return InterleavedComparison(PARTS, material.bits, ms, checked, (), dimension, degree)


def make_part_cases(material: KeyMaterial, scenario: AskerScenario) -> list[TimedCase]:
    """Return one case per step of the packed exchange, with the previous step's result as input."""
    pool, degree = FilledPool(material.own[OWN_TABLE]), len(scenario.neighbours)
    count = Layout(material.bits, scenario.dimension).ciphertexts
    packed = PackedExchange(scenario, pool)
    pool.fill(count * (1 + degree))
    prepared, query = packed.prepare(), packed.query()
    answers = packed.answer(query, prepared)
    accepted = packed.accept(answers)
    exponents = [scenario.exponent(name) for name in accepted]
    columns = list(zip(*accepted.values(), strict=True))
    key = material.keys.paillier

    def decrypt() -> list[mpz]:
        return [key.decrypt_combined(column, exponents) for column in columns]

    def opens(made: Mapping[str, Sequence[mpz]]) -> bool:
        return packed.open(made) == scenario.expected

    return [
        TimedCase("query", packed.query, lambda q: len(q) == count, lambda: pool.fill(count)),
        TimedCase(
            "prepare",
            packed.prepare,
            lambda made: opens(packed.accept(packed.answer(query, made))),
            lambda: pool.fill(count * degree),
        ),
        TimedCase(
            "answer",
            lambda: packed.answer(query, prepared),
            lambda made: opens(packed.accept(made)),
        ),
        TimedCase("accept", lambda: packed.accept(answers), opens),
        TimedCase("open", lambda: packed.open(accepted), _equals(scenario.expected)),
        TimedCase("decrypt", decrypt, _equals(decrypt())),
        *_envelope_cases(material.keys.identity, query),
    ]


def _envelope_cases(identity: Ed25519PrivateKey, query: Sequence[bytes]) -> list[TimedCase]:
    verifiers, topic = {_ASKER: identity.public_key()}, query_topic(_FLEET, _ASKER)

    def verify(envelope: bytes) -> Any:
        return wire.decode(envelope, topic, _FLEET, verifiers)

    def is_right(result: Any) -> bool:
        return bool(result.ciphertexts == query)

    signed = wire.encode(make_query_message(query), identity)
    return [
        TimedCase(
            "sign",
            lambda: wire.encode(make_query_message(query), identity),
            lambda made: is_right(verify(made)),
        ),
        TimedCase("verify", lambda: verify(signed), is_right),
    ]


def compare_own_encryptions(
    material: KeyMaterial, libraries: Sequence[Library], effort: Effort
) -> InterleavedComparison:
    """Compare own-key encryption, obfuscator included, with the reference's encryption."""
    key, number = material.keys.paillier, 123_456_789
    reference = Phe(material.keys)
    public = phe.PaillierPublicKey(int(key.public.n))

    def ours(name: str, source: Source) -> TimedCase:
        return TimedCase(
            name,
            lambda: encrypt(key.public, mpz(number), source.make()),
            lambda c: key.decrypt(c) == number,
        )

    def theirs(library: Library) -> TimedCase:
        return TimedCase(
            library.name,
            lambda: library.query([number]),
            lambda sent: library.open(sent) == [number],
        )

    plain = TimedCase(
        PHE,
        lambda: public.encrypt(number),
        lambda c: reference.open(reference.write([c])) == [number],
    )
    sources = [ours(name, source) for name, source in material.own.items()]
    ms, checked = run_interleaved([plain, *sources, *map(theirs, libraries)], effort)
    pairs = [(PHE, name) for name in (*material.own, *(rival.name for rival in libraries))]
    return InterleavedComparison(OWN, material.bits, ms, checked, pairs)


def compare_neighbour_obfuscators(material: KeyMaterial, effort: Effort) -> InterleavedComparison:
    """Compare the two sources of obfuscators for answers."""
    key = material.keys.paillier
    cases = [
        TimedCase(name, source.make, lambda c: key.decrypt(c) == 0)
        for name, source in material.towards.items()
    ]
    ms, checked = run_interleaved(cases, effort)
    return InterleavedComparison(NEIGHBOUR, material.bits, ms, checked, [(UNIFORM, FULL)])


def compare_decryptions(
    material: KeyMaterial, degree: int, effort: Effort
) -> InterleavedComparison:
    """Compare one decryption of a combination with one decryption per answer."""
    key, make = material.keys.paillier, material.own[OWN_TABLE].make
    terms = range(1, degree + 1)
    answers = [encrypt(key.public, mpz(term), make()) for term in terms]
    exponents = [(1 << 17) + 2 * term + 1 for term in terms]
    expected = sum(e * term for e, term in zip(exponents, terms, strict=True))

    def apart() -> mpz:
        opened = [key.decrypt(answer) for answer in answers]
        return sum((e * m for e, m in zip(exponents, opened, strict=True)), mpz(0))

    cases = [
        TimedCase(APART, apart, _equals(expected)),
        TimedCase(TOGETHER, lambda: key.decrypt_combined(answers, exponents), _equals(expected)),
    ]
    ms, checked = run_interleaved(cases, effort)
    return InterleavedComparison(
        DECRYPTION, material.bits, ms, checked, [(APART, TOGETHER)], degree=degree
    )


# -- plans and reports ---------------------------------------------------------------------------


ALL_COMPARISONS: Sequence[Callable[..., InterleavedComparison]] = (
    compare_own_encryptions,
    compare_neighbour_obfuscators,
    compare_decryptions,
    measure_parts,
    compare_exchanges,
)


Job = tuple[int, Callable[..., InterleavedComparison], tuple[int, ...]]
Follow = Callable[[Sequence[Job]], Iterable[Job]]


@dataclass(frozen=True)
class RatioPlan:
    """The comparisons and sizes to measure."""

    key_bits: Sequence[int] = (2048,)
    dimensions: Sequence[int] = (1, 8, 32)
    degrees: Sequence[int] = (1, 4)
    effort: Effort = field(default_factory=Effort)
    comparisons: Sequence[Callable[..., InterleavedComparison]] = ALL_COMPARISONS

    @property
    def jobs(self) -> list[Job]:
        """Triples of key size, comparison, and the comparison's own sizes."""
        return [
            (bits, compare, numbers)
            for bits in self.key_bits
            for compare in self.comparisons
            for numbers in self._numbers(compare)
        ]

    def _numbers(self, compare: Callable[..., InterleavedComparison]) -> list[tuple[int, ...]]:
        if compare in (measure_parts, compare_exchanges):
            return [(d, degree) for d in self.dimensions for degree in self.degrees]
        if compare is compare_decryptions:
            return [(degree,) for degree in self.degrees if degree > 1]
        return [()]


def measure(
    plan: RatioPlan, follow: Follow = iter, connect_libraries: MakeLibraries = lambda _keys: ()
) -> list[InterleavedComparison]:
    """Run *plan*. *follow* wraps the iteration over the jobs. Raises WrongResult."""
    comparisons: list[InterleavedComparison] = []
    material: KeyMaterial | None = None
    libraries: Sequence[Library] = ()
    for bits, compare, numbers in follow(plan.jobs):
        if material is None or material.bits != bits:
            material = KeyMaterial(bits)
            libraries = connect_libraries(material.keys)
        against = (libraries,) if compare in (compare_exchanges, compare_own_encryptions) else ()
        comparisons.append(compare(material, *against, *numbers, plan.effort))
    return comparisons


def report(
    comparisons: Sequence[InterleavedComparison], where: Mapping[str, Any], *packages: str
) -> dict[str, Any]:
    """Return the object that `--json` prints; *packages* are those of the compared libraries."""
    return {
        "benchmark": "crypto",
        "kind": HOST_KIND,
        "clock": "process CPU time",
        "machine": dict(where),
        "versions": versions("phe", *packages),
        "contests": [comparison.to_json() for comparison in comparisons],
    }
