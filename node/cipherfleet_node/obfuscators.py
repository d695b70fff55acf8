"""Where obfuscators r^n mod n^2 come from: four ways, none of which shows anything of r.

The key's owner knows the group's order and is quicker; for a neighbour's key nothing is known of
it, and its owner may have built it to pry. Sources are made ready step by step, so that whoever
fills a pool can stop between the steps. Randomness is the operating system's.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Protocol

from gmpy2 import mpz, powmod

from .comb import ROWS, Comb, FixedBase, group_for
from .paillier import PrivateKey, PublicKey

# Uniform exponents with this many bits more than the group's order are uniform to 2^-64.
_EXCESS_BITS = 128


class Source(Protocol):
    """Makes obfuscators for one key."""

    def prepare(self) -> Iterator[None]:
        """Build what makes `make` quick, step by step; `make` works at any time."""

    def make(self) -> mpz:
        """A fresh obfuscator."""


class OwnByCrt:
    """For one's own key: s^p mod p^2 and s^q mod q^2, joined. Exactly uniform."""

    def __init__(self, key: PrivateKey) -> None:
        self._key = key

    def prepare(self) -> Iterator[None]:
        """Nothing to build."""
        return iter(())

    def make(self) -> mpz:
        """Two half-size powers."""
        return self._key.obfuscator(_uniform_below(self._key.p), _uniform_below(self._key.q))


class OwnByTables:
    """For one's own key with known generators of the numbers mod p and q. Exactly uniform.

    g^p generates the p-th residues mod p^2, a cyclic group of order p-1; its powers with an
    exponent uniform on 0 .. p-2 are uniform on it. Source: CRYPTO decision 3.
    """

    def __init__(self, key: PrivateKey, generators: tuple[mpz, mpz], limit_bytes: int) -> None:
        self._key, self._generators, self._limit = key, generators, limit_bytes
        self._tables: tuple[FixedBase, FixedBase] | None = None

    def prepare(self) -> Iterator[None]:
        """Two tables; milliseconds."""
        tables = []
        for prime, generator in zip((self._key.p, self._key.q), self._generators, strict=True):
            square, bits = prime * prime, prime.bit_length()
            group = group_for(bits // 4, self._limit // 2)
            tables.append(FixedBase(powmod(generator, prime, square), bits, square, group))
            yield
        self._tables = (tables[0], tables[1])

    def make(self) -> mpz:
        """Two powers from the tables, or without them before they are built."""
        if self._tables is None:
            return OwnByCrt(self._key).make()
        x_p = self._tables[0].power(secrets.randbelow(int(self._key.p) - 1))
        x_q = self._tables[1].power(secrets.randbelow(int(self._key.q) - 1))
        return self._key.join(x_p, x_q)


class Uniform:
    """For a neighbour's key: r^n for r uniform. Exactly uniform, and slow."""

    def __init__(self, key: PublicKey) -> None:
        self._key = key

    def prepare(self) -> Iterator[None]:
        """Nothing to build."""
        return iter(())

    def make(self) -> mpz:
        """One full power."""
        return powmod(_uniform_below(self._key.n), self._key.n, self._key.n_squared)


class Full:
    """For a neighbour's key: products of powers of 64 obfuscators that were made uniformly.

    Exponents are uniform with 128 bits more in total than the group has: by the leftover hash lemma
    the product is uniform to about 2^-32 *whatever the structure of the group*. Powers of a single
    base stay in one cyclic subgroup, which a key owner can make small: with a common factor of p-1
    and q-1 it reads the half weight from it.
    Checked by test_an_owner_with_a_common_factor_reads_the_half_weight_from_a_single_base.
    """

    def __init__(self, key: PublicKey, limit_bytes: int) -> None:
        self._key, self._limit = key, limit_bytes
        self._uniform = Uniform(key)
        self._comb: Comb | None = None

    def prepare(self) -> Iterator[None]:
        """64 full powers, and the table of their products."""
        bases = []
        for _ in range(ROWS):
            bases.append(self._uniform.make())
            yield
        bits = -(-(self._key.bits + _EXCESS_BITS) // ROWS)
        group = group_for(self._key.bits // 4, self._limit)
        self._comb = Comb(bases, bits, self._key.n_squared, group)

    def make(self) -> mpz:
        """One product from the table; a full power before it is built."""
        if self._comb is None:
            return self._uniform.make()
        return self._comb.power(
            self._comb.choices_from(secrets.token_bytes(self._comb.choice_bytes))
        )


def _uniform_below(bound: mpz) -> mpz:
    """Uniform on 1 .. bound-1."""
    return mpz(secrets.randbelow(int(bound) - 1) + 1)
