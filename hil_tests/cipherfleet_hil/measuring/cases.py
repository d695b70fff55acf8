"""The cases of `bench crypto`: what a node computes in a round and beside it, and naive phe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gmpy2 import mpz

from cipherfleet_hil.measurement.document import Labels
from cipherfleet_node.core.paillier import encrypt
from cipherfleet_node.keys.key_files import NodeKeys, generate_keys

from .exchange_scene import (
    FULL,
    ONLINE,
    OWN_TABLE,
    PHE,
    Phe,
    Scene,
    Workshop,
    all_case,
    naive_case,
    online_case,
    part_cases,
)
from .interleaved import Case

KEYGEN = "keygen"
ALL = "all inside"
OF_DIMENSION = ("query", "sign", "verify")  # of a node, whatever its degree
OF_BOTH = ("prepare", "answer", "decrypt")
RANDOM = (KEYGEN,)  # a search for primes: its time is random, whatever the machine does
SAYS = {
    KEYGEN: "a node's keys",
    "refill own: table": "an obfuscator for the own key's pool, from its tables",
    "refill own: CRT": "the same without tables, by Chinese remainders",
    "refill: uniform": "an obfuscator for a neighbour's pool, uniform: a full power",
    "refill: full": "the same from tables (rerandomise: full, the default)",
    "query": "encrypt the own estimate, obfuscators from the pool",
    "sign": "write and sign a query",
    "verify": "read and verify a query",
    "prepare": "what n answers need, before any query is there",
    "answer": "answer n queries",
    "decrypt": "combine n answers, and decrypt",
    ONLINE: "query, n answers, opening: all that neighbours wait for",
    ALL: "the same, with obfuscators and preparing",
    PHE: "the naive exchange: phe as its documents say",
}


@dataclass(frozen=True)
class SizedCase:
    """A case and what it is a case of."""

    case: Case
    labels: Labels

    @property
    def name(self) -> str:
        """No other one has it."""
        return name_of(self.labels)


def name_of(labels: Labels) -> str:
    """'answer, 2048 bits, d=8, n=4' of the labels of a case."""
    words = [str(labels["case"]), f"{labels['key_bits']} bits"]
    sizes = (("d", "dimension"), ("n", "degree"))
    return ", ".join(words + [f"{sign}={labels[key]}" for sign, key in sizes if key in labels])


def sized_cases(
    bits: int, dimensions: Sequence[int], degrees: Sequence[int], only: Sequence[str] = ()
) -> list[SizedCase]:
    """All cases at a key size, or those called *only*; makes keys and tables for them."""
    return [each for each in _cases(bits, dimensions, degrees) if _wanted(each, only)]


def _wanted(each: SizedCase, only: Sequence[str]) -> bool:
    return not only or each.labels["case"] in only


def _cases(bits: int, dimensions: Sequence[int], degrees: Sequence[int]) -> Iterator[SizedCase]:
    shop = Workshop(bits)
    yield _sized(keygen_case(bits), bits)
    for case in refill_cases(shop):
        yield _sized(case, bits)
    reference = Phe(shop.keys)
    for d in dimensions:
        for n in degrees:
            scene = Scene(shop.keys, d, n)
            parts = {case.name: case for case in part_cases(shop, scene)}
            if n == degrees[0]:
                yield from (_sized(parts[name], bits, d) for name in OF_DIMENSION)
            yield from (_sized(parts[name], bits, d, n) for name in OF_BOTH)
            yield _sized(online_case(shop, scene), bits, d, n)
            yield _sized(all_case(shop, scene, OWN_TABLE, FULL), bits, d, n, ALL)
            yield _sized(naive_case(reference, scene), bits, d, n)


def _sized(
    case: Case,
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


def keygen_case(bits: int) -> Case:
    """All keys of a node; they must decrypt what they encrypted."""

    def is_right(keys: NodeKeys) -> bool:
        key, number = keys.paillier, mpz(123_456_789)
        assert key.public.bits == bits
        return bool(key.decrypt(encrypt(key.public, number, mpz(1))) == number)

    return Case(KEYGEN, lambda: generate_keys(bits), is_right)


def refill_cases(shop: Workshop) -> list[Case]:
    """One obfuscator more in a pool, from each source: it must encrypt 0."""
    key = shop.keys.paillier
    sources = {f"refill own: {name}": source for name, source in shop.own.items()}
    sources |= {f"refill: {name}": source for name, source in shop.towards.items()}
    return [
        Case(name, source.make, lambda made: bool(key.decrypt(made) == 0))
        for name, source in sources.items()
    ]
