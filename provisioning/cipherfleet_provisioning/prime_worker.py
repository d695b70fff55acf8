"""Generate the primes of Paillier keys, one line per key, until the process is ended.

The command is `python -m cipherfleet_provisioning.prime_worker BITS`.
"""

from __future__ import annotations

import sys

import msgspec
from gmpy2 import mpz

from cipherfleet_node.keys.key_files import generate_keys
from cipherfleet_node.keys.primes import FactoredPrime

Primes = tuple[FactoredPrime, FactoredPrime]


class _Prime(msgspec.Struct):
    prime: str
    factors: list[str]
    generator: str


def main(bits: int) -> None:
    """Write primes to standard output until it is closed or this process is ended."""
    while True:
        primes = generate_keys(bits).primes
        assert primes is not None
        sys.stdout.buffer.write(_encode(primes) + b"\n")
        sys.stdout.buffer.flush()


def _encode(primes: Primes) -> bytes:
    return msgspec.json.encode(
        [_Prime(_text(p.prime), [*map(_text, p.factors)], _text(p.generator)) for p in primes]
    )


def read_primes(line: bytes) -> Primes:
    """Return the primes in one line of a worker's output."""
    p, q = (
        FactoredPrime(
            _number(each.prime), tuple(map(_number, each.factors)), _number(each.generator)
        )
        for each in msgspec.json.decode(line, type=list[_Prime])
    )
    return p, q


def _text(number: mpz) -> str:
    return f"{number:x}"


def _number(text: str) -> mpz:
    return mpz(text, 16)


if __name__ == "__main__":
    main(int(sys.argv[1]))
