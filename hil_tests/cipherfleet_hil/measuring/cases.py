"""The cases of `bench crypto`: a node's computations, in and beside a round, and naive phe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gmpy2 import mpz

from cipherfleet_hil.measurement.document import Labels
from cipherfleet_node.core import wire
from cipherfleet_node.core.packing import Layout
from cipherfleet_node.core.paillier import encrypt
from cipherfleet_node.core.topics import query_topic
from cipherfleet_node.keys.key_files import NodeKeys, generate_keys

from .exchange_scene import (
    ASKER,
    FLEET,
    FULL,
    OWN_TABLE,
    PHE,
    AskerScenario,
    FilledPool,
    KeyMaterial,
    Library,
    PackedExchange,
    Phe,
    UnpooledBlinding,
    add_vectors,
    make_query_message,
)
from .sampling import TimedCase

KEYGEN = "keygen"
ONLINE = "online"  # what a node computes while its neighbours wait: pools full, answers prepared
ALL = "all inside"  # everything timed, obfuscators and preparation too
BY_DIMENSION = ("query", "sign", "verify")  # cases that do not depend on the degree
BY_DIMENSION_AND_DEGREE = ("prepare", "answer", "decrypt")
RANDOM = (KEYGEN,)  # a search for primes: its time is random on any machine
CASE_DESCRIPTIONS = {
    KEYGEN: "generate a node's keys",
    "refill own: table": "make an obfuscator for the own key, from tables",
    "refill own: CRT": "the same without tables, by the Chinese remainder theorem",
    "refill: uniform": "make a uniform obfuscator for a neighbour: a full power",
    "refill: full": "the same from tables (rerandomise: full, the default)",
    "query": "encrypt the own estimate with obfuscators from the pool",
    "sign": "write and sign a query",
    "verify": "read and verify a query",
    "prepare": "prepare n answers before a query arrives",
    "answer": "answer n queries",
    "decrypt": "combine n answers, and decrypt",
    ONLINE: "query, n answers, opening: everything for which neighbours wait",
    ALL: "the same, with obfuscators and preparation",
    PHE: "the naive exchange: phe used as documented",
}


@dataclass(frozen=True)
class SizedCase:
    """A case with its labels: name and sizes."""

    case: TimedCase
    labels: Labels

    @property
    def name(self) -> str:
        """The name of its benchmark, unique in a document."""
        return benchmark_name(self.labels)


def benchmark_name(labels: Labels) -> str:
    """Return a case's benchmark name, for example 'answer, 2048 bits, d=8, n=4'."""
    words = [str(labels["case"]), f"{labels['key_bits']} bits"]
    sizes = (("d", "dimension"), ("n", "degree"))
    return ", ".join(words + [f"{sign}={labels[key]}" for sign, key in sizes if key in labels])


def make_sized_cases(
    bits: int, dimensions: Sequence[int], degrees: Sequence[int], only: Sequence[str] = ()
) -> list[SizedCase]:
    """Create all cases at a key size, or those named in *only*, with their keys and tables."""
    return [each for each in _cases(bits, dimensions, degrees) if _is_wanted(each, only)]


def _is_wanted(each: SizedCase, only: Sequence[str]) -> bool:
    return not only or each.labels["case"] in only


def _cases(bits: int, dimensions: Sequence[int], degrees: Sequence[int]) -> Iterator[SizedCase]:
    material = KeyMaterial(bits)
    yield _label_case(make_keygen_case(bits), bits)
    for case in make_refill_cases(material):
        yield _label_case(case, bits)
    reference = Phe(material.keys)
    for d in dimensions:
        for n in degrees:
            scenario = AskerScenario(material.keys, d, n)
            parts = {case.name: case for case in make_part_cases(material, scenario)}
            if n == degrees[0]:
                yield from (_label_case(parts[name], bits, d) for name in BY_DIMENSION)
            yield from (_label_case(parts[name], bits, d, n) for name in BY_DIMENSION_AND_DEGREE)
            yield _label_case(make_online_case(material, scenario), bits, d, n)
            yield _label_case(
                make_all_inside_case(material, scenario, OWN_TABLE, FULL), bits, d, n, ALL
            )
            yield _label_case(make_naive_case(reference, scenario), bits, d, n)


def _label_case(
    case: TimedCase,
    bits: int,
    dimension: int | None = None,
    degree: int | None = None,
    name: str | None = None,
) -> SizedCase:
    labels: Labels = {"case": name or case.name, "key_bits": bits}
    if dimension is not None:
        labels["dimension"] = dimension
    if degree is not None:
        labels["degree"] = degree
    return SizedCase(case, labels)


def make_online_case(material: KeyMaterial, scenario: AskerScenario) -> TimedCase:
    """Return the case `online`: the part of the exchange for which neighbours wait."""
    pool = FilledPool(material.own_sources[OWN_TABLE])
    packed, prepared = PackedExchange(scenario, pool), dict[str, list[mpz]]()
    ciphertexts = Layout(material.bits, scenario.dimension).ciphertexts

    def fill() -> None:
        pool.fill((1 + len(scenario.neighbours)) * ciphertexts)
        prepared.update(packed.prepare())

    return TimedCase(ONLINE, lambda: packed.online(prepared), _make_check(scenario.expected), fill)


def all_inside_name(own: str, towards: str) -> str:
    """Return the name of a case that times everything."""
    return f"all: {own}, {towards}"


def make_all_inside_case(
    material: KeyMaterial, scenario: AskerScenario, own: str, towards: str
) -> TimedCase:
    """Return a case that times everything; *own* and *towards* name the obfuscators' sources."""
    packed = PackedExchange(
        scenario, UnpooledBlinding((material.own_sources[own], material.neighbour_sources[towards]))
    )
    return TimedCase(
        all_inside_name(own, towards),
        lambda: packed.online(packed.prepare()),
        _make_check(scenario.expected),
    )


def make_naive_case(library: Library, scenario: AskerScenario) -> TimedCase:
    """Return the naive exchange: *library* encrypts each number separately."""
    negated = [-entry for entry in scenario.asker_values]
    towards = [
        (scenario.neighbour_values[name], scenario.weight(name)) for name in scenario.neighbours
    ]

    def run() -> list[int]:
        return add_vectors(
            library.open(library.answer(library.query(negated), own, weight))
            for own, weight in towards
        )

    return TimedCase(library.name, run, _make_check(scenario.expected_naive))


def make_part_cases(material: KeyMaterial, scenario: AskerScenario) -> list[TimedCase]:
    """Return one case per step of the packed exchange, with the previous step's result as input."""
    pool, degree = FilledPool(material.own_sources[OWN_TABLE]), len(scenario.neighbours)
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
        TimedCase("open", lambda: packed.open(accepted), _make_check(scenario.expected)),
        TimedCase("decrypt", decrypt, _make_check(decrypt())),
        *_envelope_cases(material.keys.identity, query),
    ]


def _envelope_cases(identity: Ed25519PrivateKey, query: Sequence[bytes]) -> list[TimedCase]:
    verifiers, topic = {ASKER: identity.public_key()}, query_topic(FLEET, ASKER)

    def verify(envelope: bytes) -> Any:
        return wire.decode(envelope, topic, FLEET, verifiers)

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


def _make_check(expected: object) -> Callable[[object], bool]:
    return lambda result: result == expected


def make_keygen_case(bits: int) -> TimedCase:
    """Return the case of generating all keys of a node, checked by a decryption."""

    def is_right(keys: NodeKeys) -> bool:
        key, number = keys.paillier, mpz(123_456_789)
        assert key.public.bits == bits
        return bool(key.decrypt(encrypt(key.public, number, mpz(1))) == number)

    return TimedCase(KEYGEN, lambda: generate_keys(bits), is_right)


def make_refill_cases(material: KeyMaterial) -> list[TimedCase]:
    """Return one case per source that makes one obfuscator, checked: it must encrypt 0."""
    key = material.keys.paillier
    sources = {f"refill own: {name}": source for name, source in material.own_sources.items()}
    sources |= {f"refill: {name}": source for name, source in material.neighbour_sources.items()}
    return [
        TimedCase(name, source.make, lambda made: bool(key.decrypt(made) == 0))
        for name, source in sources.items()
    ]
