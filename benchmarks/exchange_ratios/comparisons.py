"""The comparisons of one exchange: with phe and other Paillier libraries, and part by part.

The cases are those of `cipherfleet bench crypto`. Here they run interleaved in one process, so that
the ratio of two times is stable where the times are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import phe
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gmpy2 import mpz

from cipherfleet_hil.measurement.environment import versions
from cipherfleet_hil.measuring.cases import (
    ONLINE,
    make_all_inside_case,
    make_naive_case,
    make_online_case,
    make_part_cases,
)
from cipherfleet_hil.measuring.exchange_scene import (
    ASKER,
    FLEET,
    FULL,
    OWN_TABLE,
    PHE,
    UNIFORM,
    AskerScenario,
    KeyMaterial,
    Library,
    Phe,
)
from cipherfleet_hil.measuring.sampling import Effort, TimedCase
from cipherfleet_node.core import wire
from cipherfleet_node.core.messages import TAG_BYTES, Answer, Query
from cipherfleet_node.core.packing import Layout
from cipherfleet_node.core.paillier import encrypt
from cipherfleet_node.keys.key_files import NodeKeys
from cipherfleet_node.keys.obfuscators import Source

from .interleaved import InterleavedComparison, run_interleaved

KEY_SIZES = (1024, 2048, 3072, 4096)
EXCHANGE, OWN, NEIGHBOUR, DECRYPTION, PARTS = (
    "exchange",
    "own-key encryption",
    "obfuscator for a neighbour",
    "decryption",
    "parts of an exchange",
)
APART, TOGETHER = "apart", "combined"
PHE_JSON, CIPHERTEXTS, MESSAGES = "phe JSON", "ciphertexts", "signed messages"
HOST_KIND = "host"  # the figures are those of this machine, never those of a device

MakeLibraries = Callable[[NodeKeys], Sequence[Library]]


def compare_exchanges(
    material: KeyMaterial, libraries: Sequence[Library], dimension: int, degree: int, effort: Effort
) -> InterleavedComparison:
    """Compare the packed exchange with the naive ones."""
    scenario = AskerScenario(material.keys, dimension, degree)
    ours = [make_online_case(material, scenario)]
    ours += [
        make_all_inside_case(material, scenario, own, towards)
        for own in material.own_sources
        for towards in material.neighbour_sources
    ]
    reference = Phe(material.keys)
    naive = [make_naive_case(library, scenario) for library in (reference, *libraries)]
    ms, checked = run_interleaved([naive[0], *ours, *naive[1:]], effort)
    pairs = [(PHE, case.name) for case in ours] + [(library.name, ONLINE) for library in libraries]
    return InterleavedComparison(
        kind=EXCHANGE,
        key_bits=material.bits,
        ms=ms,
        checked=checked,
        pairs=pairs,
        dimension=dimension,
        degree=degree,
        bytes=_bytes(scenario, reference),
    )


def _bytes(scenario: AskerScenario, reference: Phe) -> dict[str, int]:
    """Return the sizes of a query and an answer, in bytes."""
    asked = reference.query(scenario.asker_values)
    answered = reference.answer(asked, scenario.asker_values, 1)
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
    query = Query(
        fleet=FLEET,
        sender=ASKER,
        epoch=1,
        round=1,
        roster=[],
        uncounted=[],
        unbalanced=False,
        scale=None,
        settled=0,
        parameters=tag,
        key=tag,
        ciphertexts=ciphertexts,
    )
    answer = Answer(
        fleet=FLEET,
        sender=ASKER,
        epoch=1,
        receiver=ASKER,
        round=1,
        waited_ms=0,
        query=query.digest,
        ciphertexts=ciphertexts,
    )
    return wire.encode(query, identity), wire.encode(answer, identity)


def measure_parts(
    material: KeyMaterial, dimension: int, degree: int, effort: Effort
) -> InterleavedComparison:
    """Time the steps of the packed exchange."""
    cases = make_part_cases(material, AskerScenario(material.keys, dimension, degree))
    ms, checked = run_interleaved(cases, effort)
    return InterleavedComparison(
        kind=PARTS,
        key_bits=material.bits,
        ms=ms,
        checked=checked,
        pairs=(),
        dimension=dimension,
        degree=degree,
    )


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
    sources = [ours(name, source) for name, source in material.own_sources.items()]
    ms, checked = run_interleaved([plain, *sources, *map(theirs, libraries)], effort)
    pairs = [
        (PHE, name) for name in (*material.own_sources, *(library.name for library in libraries))
    ]
    return InterleavedComparison(
        kind=OWN, key_bits=material.bits, ms=ms, checked=checked, pairs=pairs
    )


def compare_neighbour_obfuscators(material: KeyMaterial, effort: Effort) -> InterleavedComparison:
    """Compare the two sources of obfuscators for answers."""
    key = material.keys.paillier
    cases = [
        TimedCase(name, source.make, lambda c: key.decrypt(c) == 0)
        for name, source in material.neighbour_sources.items()
    ]
    ms, checked = run_interleaved(cases, effort)
    return InterleavedComparison(
        kind=NEIGHBOUR, key_bits=material.bits, ms=ms, checked=checked, pairs=[(UNIFORM, FULL)]
    )


def compare_decryptions(
    material: KeyMaterial, degree: int, effort: Effort
) -> InterleavedComparison:
    """Compare one decryption of a combination with one decryption per answer."""
    key, make = material.keys.paillier, material.own_sources[OWN_TABLE].make
    terms = range(1, degree + 1)
    answers = [encrypt(key.public, mpz(term), make()) for term in terms]
    exponents = [(1 << 17) + 2 * term + 1 for term in terms]
    expected = sum(e * term for e, term in zip(exponents, terms, strict=True))

    def apart() -> mpz:
        opened = [key.decrypt(answer) for answer in answers]
        return sum((e * m for e, m in zip(exponents, opened, strict=True)), mpz(0))

    cases = [
        TimedCase(APART, apart, lambda result: bool(result == expected)),
        TimedCase(
            TOGETHER,
            lambda: key.decrypt_combined(answers, exponents),
            lambda result: bool(result == expected),
        ),
    ]
    ms, checked = run_interleaved(cases, effort)
    return InterleavedComparison(
        kind=DECRYPTION,
        key_bits=material.bits,
        ms=ms,
        checked=checked,
        pairs=[(APART, TOGETHER)],
        degree=degree,
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
    effort: Effort = field(default_factory=lambda: Effort(4.0, 3))  # CPU seconds
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
        "versions": versions() | {package: version(package) for package in packages},
        "comparisons": [comparison.to_json() for comparison in comparisons],
    }
