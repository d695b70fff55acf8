"""What an encrypted exchange costs, against the reference library used as its documents say.

One asker, *degree* neighbours, vectors of *dimension* whole numbers. `online` is what a node does
while its neighbours wait: pools are full and answers prepared. `all` has everything inside the
timing, obfuscators and preparing too. The naive exchange encrypts each coordinate by itself,
towards each neighbour anew; it is given whole numbers and a weight of a half weight's size, which
is kinder to it than the float numbers of its documents.
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
from cipherfleet_node.core.randomness import SEED_BYTES, Draws
from cipherfleet_node.core.topics import query_topic
from cipherfleet_node.keys.fixed_base import ROWS
from cipherfleet_node.keys.key_files import NodeKeys, generate_keys
from cipherfleet_node.keys.obfuscators import Full, OwnByCrt, OwnByTables, Source, Uniform
from cipherfleet_node.settings.sections import Crypto

from .interleaved import KIND, Case, Contest, Effort, versions
from .sampling import race

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
    """A Paillier library, used as its documents say, on vectors of whole numbers."""

    name: str

    def query(self, values: Sequence[int]) -> Any:
        """Each value by itself, as it is sent."""

    def answer(self, query: Any, own: Sequence[int], weight: int) -> Any:
        """(asked + own) * weight for each coordinate, blinded again, as it is sent."""

    def open(self, answer: Any) -> list[int]:
        """The plaintexts of what was sent."""


MakeLibraries = Callable[[NodeKeys], Sequence[Library]]


class Phe:
    """The reference library: EncryptedNumber per coordinate, JSON as in its documents."""

    name = PHE

    def __init__(self, keys: NodeKeys) -> None:
        key = keys.paillier
        self._public = phe.PaillierPublicKey(int(key.public.n))
        self._private = phe.PaillierPrivateKey(self._public, int(key.p), int(key.q))

    def query(self, values: Sequence[int]) -> str:
        """Encrypted numbers, in JSON."""
        return self.write([self._public.encrypt(value) for value in values])

    def answer(self, query: str, own: Sequence[int], weight: int) -> str:
        """`ciphertext()` blinds what it returns, while writing."""
        asked = self.read(query)
        return self.write([(c + entry) * weight for c, entry in zip(asked, own, strict=True)])

    def open(self, answer: str) -> list[int]:
        """One decryption per coordinate."""
        return [self._private.decrypt(c) for c in self.read(answer)]

    def write(self, numbers: Iterable[Any]) -> str:
        """The form of phe's documents."""
        values = [(str(number.ciphertext()), number.exponent) for number in numbers]
        return json.dumps({"public_key": {"n": self._public.n}, "values": values})

    def read(self, text: str) -> list[Any]:
        """The encrypted numbers in *text*."""
        received = json.loads(text)
        public = phe.PaillierPublicKey(n=int(received["public_key"]["n"]))
        return [phe.EncryptedNumber(public, int(c), int(e)) for c, e in received["values"]]


# -- the exchange --------------------------------------------------------------------------------


class Workshop:
    """The keys of one size, and the sources of obfuscators for them, built when asked for.

    All neighbours answer under the asker's key, and no other key takes part.
    """

    def __init__(self, bits: int) -> None:
        self.bits, self.keys = bits, generate_keys(bits)
        self._limit = Crypto().table_kib * 1024

    @cached_property
    def own(self) -> dict[str, Source]:
        """Ways to an obfuscator for one's own key."""
        generators = self.keys.generators
        assert generators is not None
        table = OwnByTables(self.keys.paillier, generators, self._limit)
        return {OWN_TABLE: table, OWN_CRT: OwnByCrt(self.keys.paillier)}

    @cached_property
    def towards(self) -> dict[str, Source]:
        """Ways to an obfuscator for a neighbour's key."""
        public = self.keys.paillier.public
        full = Full(public, self._limit)
        for _ in range(ROWS):  # its first ones are uniform, and become its table
            full.make()
        return {UNIFORM: Uniform(public), FULL: full}


class FilledPool:
    """Obfuscators made beforehand, each handed out once; one key, so one pool."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._pool: deque[mpz] = deque()

    def fill(self, count: int) -> None:
        """Make up to *count*."""
        while len(self._pool) < count:
            self._pool.append(self._source.make())

    def own(self) -> mpz:
        """The next one."""
        return self._pool.popleft()

    def towards(self, _neighbour: str) -> mpz:
        """The next one."""
        return self._pool.popleft()


@dataclass(frozen=True)
class OnTheSpot:
    """Obfuscators made when they are needed."""

    sources: tuple[Source, Source]  # for the own key, and for a neighbour's

    def own(self) -> mpz:
        """A new one."""
        return self.sources[0].make()

    def towards(self, _neighbour: str) -> mpz:
        """A new one."""
        return self.sources[1].make()


class Scene:
    """An asker and its neighbours, with their values and draws, and what must come out."""

    def __init__(self, keys: NodeKeys, dimension: int, degree: int) -> None:
        self.keys, self.dimension = keys, dimension
        self.draws = Draws(os.urandom(SEED_BYTES))
        self.asked = _values(self.draws, dimension)
        self.neighbours = [f"neighbour-{place}" for place in range(degree)]
        self.their_draws = {name: Draws(os.urandom(SEED_BYTES)) for name in self.neighbours}
        self.theirs = {name: _values(draws, dimension) for name, draws in self.their_draws.items()}
        self.edge = Edge(keys.paillier.public, exchange.metropolis(degree, degree))

    def weight(self, neighbour: str) -> int:
        """The half weight of *neighbour*; the naive exchange's whole weight."""
        return exchange.half_weight(self.their_draws[neighbour], _ASKER)

    def exponent(self, neighbour: str) -> int:
        """What the asker raises *neighbour*'s answer to."""
        return exchange.half_weight(self.draws, neighbour) * self.edge.metropolis

    @cached_property
    def expected(self) -> list[int]:
        """sum_j H_ij M_ij (H_ji (q_j - q_i) + e_ji), in plain."""
        return _sum(self._term(name) for name in self.neighbours)

    def _term(self, name: str) -> list[int]:
        weight, exponent = self.weight(name), self.exponent(name)
        noise = exchange.dither(self.their_draws[name], _ASKER, weight, self.dimension)
        return [
            exponent * (weight * (own - asked) + e)
            for own, asked, e in zip(self.theirs[name], self.asked, noise, strict=True)
        ]

    @cached_property
    def expected_naively(self) -> list[int]:
        """sum_j H_ji (q_j - q_i), in plain."""
        return _sum(
            [
                self.weight(name) * (own - asked)
                for own, asked in zip(self.theirs[name], self.asked, strict=True)
            ]
            for name in self.neighbours
        )


class Packed:
    """Our exchange on a scene, step by step."""

    def __init__(self, scene: Scene, blinding: Blinding) -> None:
        key = scene.keys.paillier
        self._scene = scene
        edges = dict.fromkeys(scene.neighbours, scene.edge)
        self._asker = Pairwise(key, edges, scene.dimension, blinding)
        self._neighbour = Pairwise(key, {_ASKER: scene.edge}, scene.dimension, blinding)

    def query(self) -> list[bytes]:
        """What the asker sends."""
        return self._asker.query(self._scene.asked)

    def prepare(self) -> dict[str, list[mpz]]:
        """What all neighbours have ready."""
        return {name: self._prepare(name) for name in self._scene.neighbours}

    def _prepare(self, name: str) -> list[mpz]:
        return self._neighbour.prepare(
            _ASKER, self._scene.theirs[name], self._scene.their_draws[name]
        )

    def answer(
        self, query: Sequence[bytes], prepared: Mapping[str, Sequence[mpz]]
    ) -> dict[str, list[bytes]]:
        """What all neighbours send."""
        draws, asked = self._scene.their_draws, message_of(query)
        return {
            name: self._neighbour.answer(asked, draws[name], brackets)
            for name, brackets in prepared.items()
        }

    def accept(self, answers: Mapping[str, Sequence[bytes]]) -> dict[str, list[mpz]]:
        """The answers, checked."""
        return {name: self._asker.accept(answer) for name, answer in answers.items()}

    def open(self, accepted: Mapping[str, Sequence[mpz]]) -> list[int]:
        """The coupling term."""
        return self._asker.open(accepted, self._scene.draws)

    def online(self, prepared: Mapping[str, Sequence[mpz]]) -> list[int]:
        """All that neighbours wait for."""
        return self.open(self.accept(self.answer(self.query(), prepared)))


def message_of(query: Sequence[bytes]) -> Query:
    """The asker's message with the ciphertexts of *query*."""
    return Query(_FLEET, _ASKER, 1, 1, 0, [], bytes(8), bytes(8), list(query))


def _values(draws: Draws, count: int) -> list[int]:
    half = 1 << (VALUE_BITS - 1)
    return [entry - half + 1 for entry in draws.below(2 * half - 1, "bench/values", count)]


def _equals(expected: object) -> Callable[[object], bool]:
    return lambda result: result == expected


def _sum(terms: Iterable[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip(*terms, strict=True)]


# -- cases ---------------------------------------------------------------------------------------


def online_case(shop: Workshop, scene: Scene) -> Case:
    """Our exchange as neighbours wait for it."""
    pool = FilledPool(shop.own[OWN_TABLE])
    packed, prepared = Packed(scene, pool), dict[str, list[mpz]]()
    ciphertexts = Layout(shop.bits, scene.dimension).ciphertexts

    def fill() -> None:
        pool.fill((1 + len(scene.neighbours)) * ciphertexts)
        prepared.update(packed.prepare())

    return Case(ONLINE, lambda: packed.online(prepared), _equals(scene.expected), fill)


def all_inside(own: str, towards: str) -> str:
    """The name of a case with everything inside the timing."""
    return f"all: {own}, {towards}"


def all_case(shop: Workshop, scene: Scene, own: str, towards: str) -> Case:
    """Our exchange with everything inside, obfuscators from the sources *own* and *towards*."""
    packed = Packed(scene, OnTheSpot((shop.own[own], shop.towards[towards])))
    return Case(
        all_inside(own, towards),
        lambda: packed.online(packed.prepare()),
        _equals(scene.expected),
    )


def naive_case(library: Library, scene: Scene) -> Case:
    """The exchange as *library*'s documents suggest it: each number by itself."""
    negated = [-entry for entry in scene.asked]
    towards = [(scene.theirs[name], scene.weight(name)) for name in scene.neighbours]

    def run() -> list[int]:
        return _sum(
            library.open(library.answer(library.query(negated), own, weight))
            for own, weight in towards
        )

    return Case(library.name, run, _equals(scene.expected_naively))


# -- contests ------------------------------------------------------------------------------------


def exchanges(
    shop: Workshop, rivals: Sequence[Library], dimension: int, degree: int, effort: Effort
) -> Contest:
    """Our exchange against the naive ones."""
    scene = Scene(shop.keys, dimension, degree)
    ours = [online_case(shop, scene)]
    ours += [all_case(shop, scene, own, towards) for own in shop.own for towards in shop.towards]
    reference = Phe(shop.keys)
    naive = [naive_case(library, scene) for library in (reference, *rivals)]
    ms, checked = race([naive[0], *ours, *naive[1:]], effort)
    pairs = [(PHE, case.name) for case in ours] + [(rival.name, ONLINE) for rival in rivals]
    return Contest(
        EXCHANGE, shop.bits, ms, checked, pairs, dimension, degree, _bytes(scene, reference)
    )


def _bytes(scene: Scene, reference: Phe) -> dict[str, int]:
    """What a query and an answer take."""
    asked = reference.query(scene.asked)
    answered = reference.answer(asked, scene.asked, 1)
    ciphertexts = [bytes(scene.edge.key.bits // 4)] * Layout(
        scene.edge.key.bits, scene.dimension
    ).ciphertexts
    envelopes = _messages(ciphertexts, scene.keys.identity)
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


def parts(shop: Workshop, dimension: int, degree: int, effort: Effort) -> Contest:
    """Where the time of our own exchange goes."""
    cases = part_cases(shop, Scene(shop.keys, dimension, degree))
    ms, checked = race(cases, effort)
    return Contest(PARTS, shop.bits, ms, checked, (), dimension, degree)


def part_cases(shop: Workshop, scene: Scene) -> list[Case]:
    """The steps of our own exchange, each with what the step before it leaves."""
    pool, degree = FilledPool(shop.own[OWN_TABLE]), len(scene.neighbours)
    count = Layout(shop.bits, scene.dimension).ciphertexts
    packed = Packed(scene, pool)
    pool.fill(count * (1 + degree))
    prepared, query = packed.prepare(), packed.query()
    answers = packed.answer(query, prepared)
    accepted = packed.accept(answers)
    exponents = [scene.exponent(name) for name in accepted]
    columns = list(zip(*accepted.values(), strict=True))
    key = shop.keys.paillier

    def decrypt() -> list[mpz]:
        return [key.decrypt_combined(column, exponents) for column in columns]

    def opens(made: Mapping[str, Sequence[mpz]]) -> bool:
        return packed.open(made) == scene.expected

    return [
        Case("query", packed.query, lambda q: len(q) == count, lambda: pool.fill(count)),
        Case(
            "prepare",
            packed.prepare,
            lambda made: opens(packed.accept(packed.answer(query, made))),
            lambda: pool.fill(count * degree),
        ),
        Case(
            "answer",
            lambda: packed.answer(query, prepared),
            lambda made: opens(packed.accept(made)),
        ),
        Case("accept", lambda: packed.accept(answers), opens),
        Case("open", lambda: packed.open(accepted), _equals(scene.expected)),
        Case("decrypt", decrypt, _equals(decrypt())),
        *_envelope_cases(shop.keys.identity, query),
    ]


def _envelope_cases(identity: Ed25519PrivateKey, query: Sequence[bytes]) -> list[Case]:
    verifiers, topic = {_ASKER: identity.public_key()}, query_topic(_FLEET, _ASKER)

    def verify(envelope: bytes) -> Any:
        return wire.decode(envelope, topic, _FLEET, verifiers)

    def is_right(told: Any) -> bool:
        return bool(told.ciphertexts == query)

    signed = wire.encode(message_of(query), identity)
    return [
        Case(
            "sign",
            lambda: wire.encode(message_of(query), identity),
            lambda made: is_right(verify(made)),
        ),
        Case("verify", lambda: verify(signed), is_right),
    ]


def own_encryptions(shop: Workshop, rivals: Sequence[Library], effort: Effort) -> Contest:
    """A number under one's own key, obfuscator included, against the reference's encryption."""
    key, number = shop.keys.paillier, 123_456_789
    reference = Phe(shop.keys)
    public = phe.PaillierPublicKey(int(key.public.n))

    def ours(name: str, source: Source) -> Case:
        return Case(
            name,
            lambda: encrypt(key.public, mpz(number), source.make()),
            lambda c: key.decrypt(c) == number,
        )

    def theirs(library: Library) -> Case:
        return Case(
            library.name,
            lambda: library.query([number]),
            lambda sent: library.open(sent) == [number],
        )

    plain = Case(
        PHE,
        lambda: public.encrypt(number),
        lambda c: reference.open(reference.write([c])) == [number],
    )
    sources = [ours(name, source) for name, source in shop.own.items()]
    ms, checked = race([plain, *sources, *map(theirs, rivals)], effort)
    pairs = [(PHE, name) for name in (*shop.own, *(rival.name for rival in rivals))]
    return Contest(OWN, shop.bits, ms, checked, pairs)


def neighbour_obfuscators(shop: Workshop, effort: Effort) -> Contest:
    """The two ways to blind an answer."""
    key = shop.keys.paillier
    cases = [
        Case(name, source.make, lambda c: key.decrypt(c) == 0)
        for name, source in shop.towards.items()
    ]
    ms, checked = race(cases, effort)
    return Contest(NEIGHBOUR, shop.bits, ms, checked, [(UNIFORM, FULL)])


def decryptions(shop: Workshop, degree: int, effort: Effort) -> Contest:
    """One decryption of a combination, against one decryption per answer."""
    key, make = shop.keys.paillier, shop.own[OWN_TABLE].make
    terms = range(1, degree + 1)
    answers = [encrypt(key.public, mpz(term), make()) for term in terms]
    exponents = [(1 << 17) + 2 * term + 1 for term in terms]
    expected = sum(e * term for e, term in zip(exponents, terms, strict=True))

    def apart() -> mpz:
        opened = [key.decrypt(answer) for answer in answers]
        return sum((e * m for e, m in zip(exponents, opened, strict=True)), mpz(0))

    cases = [
        Case(APART, apart, _equals(expected)),
        Case(TOGETHER, lambda: key.decrypt_combined(answers, exponents), _equals(expected)),
    ]
    ms, checked = race(cases, effort)
    return Contest(DECRYPTION, shop.bits, ms, checked, [(APART, TOGETHER)], degree=degree)


# -- the whole -----------------------------------------------------------------------------------


EVERY_CONTEST: Sequence[Callable[..., Contest]] = (
    own_encryptions,
    neighbour_obfuscators,
    decryptions,
    parts,
    exchanges,
)


Job = tuple[int, Callable[..., Contest], tuple[int, ...]]
Follow = Callable[[Sequence[Job]], Iterable[Job]]


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    key_bits: Sequence[int] = (2048,)
    dimensions: Sequence[int] = (1, 8, 32)
    degrees: Sequence[int] = (1, 4)
    effort: Effort = field(default_factory=Effort)
    contests: Sequence[Callable[..., Contest]] = EVERY_CONTEST

    @property
    def jobs(self) -> list[Job]:
        """Key size, contest, and the contest's own numbers."""
        return [
            (bits, contest, numbers)
            for bits in self.key_bits
            for contest in self.contests
            for numbers in self._numbers(contest)
        ]

    def _numbers(self, contest: Callable[..., Contest]) -> list[tuple[int, ...]]:
        if contest in (parts, exchanges):
            return [(d, degree) for d in self.dimensions for degree in self.degrees]
        if contest is decryptions:
            return [(degree,) for degree in self.degrees if degree > 1]
        return [()]


def measure(
    plan: Plan, follow: Follow = iter, make_rivals: MakeLibraries = lambda _keys: ()
) -> list[Contest]:
    """Run *plan*; *follow* sees its jobs as they are begun. Raises WrongResult."""
    contests: list[Contest] = []
    shop: Workshop | None = None
    rivals: Sequence[Library] = ()
    for bits, contest, numbers in follow(plan.jobs):
        if shop is None or shop.bits != bits:
            shop = Workshop(bits)
            rivals = make_rivals(shop.keys)
        against = (rivals,) if contest in (exchanges, own_encryptions) else ()
        contests.append(contest(shop, *against, *numbers, plan.effort))
    return contests


def report(contests: Sequence[Contest], where: Mapping[str, Any], *packages: str) -> dict[str, Any]:
    """The object that `--json` prints; *packages* are those of the rivals that took part."""
    return {
        "benchmark": "crypto",
        "kind": KIND,
        "clock": "process CPU time",
        "machine": dict(where),
        "versions": versions("phe", *packages),
        "contests": [contest.to_json() for contest in contests],
    }
