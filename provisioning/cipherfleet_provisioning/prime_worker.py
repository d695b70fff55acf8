"""Generate Paillier keys on request, one per line of standard input, until that is closed.

A request is a number: how many obfuscators under the new key are wanted beside it. They become the
bases of the neighbours' tables. The command is `python -m cipherfleet_provisioning.prime_worker
BITS`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import msgspec
from gmpy2 import mpz

from cipherfleet_node.keys.key_files import NodeKeys, generate_keys
from cipherfleet_node.keys.obfuscators import OwnByTables
from cipherfleet_node.keys.primes import FactoredPrime

Primes = tuple[FactoredPrime, FactoredPrime]
TABLE_BYTES = 2 << 20  # of the tables that compute the obfuscators: the largest groups at 2048 bits


@dataclass(frozen=True, repr=False)
class MadePrimes:
    """The primes of a key, and uniform n-th residues under it that are used nowhere else."""

    primes: Primes
    obfuscators: list[mpz]


class _Prime(msgspec.Struct):
    prime: str
    factors: list[str]
    generator: str


class _Line(msgspec.Struct):
    primes: list[_Prime]
    obfuscators: list[str]


def main(bits: int) -> None:
    """Answer requests until standard input is closed or this process is ended."""
    for request in sys.stdin.buffer:
        sys.stdout.buffer.write(_encode(make_primes(bits, int(request))) + b"\n")
        sys.stdout.buffer.flush()


def make_primes(bits: int, count: int) -> MadePrimes:
    """Generate the primes of a key of *bits* bits, and *count* obfuscators under it."""
    keys = generate_keys(bits)
    assert keys.primes is not None
    return MadePrimes(keys.primes, _obfuscators(keys, count))


def _encode(made: MadePrimes) -> bytes:
    primes = [
        _Prime(_text(p.prime), [*map(_text, p.factors)], _text(p.generator)) for p in made.primes
    ]
    return msgspec.json.encode(_Line(primes, [*map(_text, made.obfuscators)]))


def _obfuscators(keys: NodeKeys, count: int) -> list[mpz]:
    if not count:
        return []
    assert keys.generators is not None
    source = OwnByTables(keys.paillier, keys.generators, TABLE_BYTES)
    return [source.make() for _ in range(count)]


def read_line(line: bytes) -> MadePrimes:
    """Return what is in one line of a worker's output."""
    read = msgspec.json.decode(line, type=_Line)
    p, q = (
        FactoredPrime(
            _number(each.prime), tuple(map(_number, each.factors)), _number(each.generator)
        )
        for each in read.primes
    )
    return MadePrimes((p, q), [*map(_number, read.obfuscators)])


def _text(number: mpz) -> str:
    return f"{number:x}"


def _number(text: str) -> mpz:
    return mpz(text, 16)


if __name__ == "__main__":
    main(int(sys.argv[1]))
