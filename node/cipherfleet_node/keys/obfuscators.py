"""Where obfuscators r^n mod n^2 come from: four ways, none of which shows anything of r.

The key's owner knows the group's order and is quicker; for a neighbour's key nothing is known of
it, and its owner may have built it to pry. Randomness is the operating system's. Any thread may
call `make`.
"""

from __future__ import annotations

import secrets
from typing import Protocol

from gmpy2 import mpz, powmod

from cipherfleet_node.core.paillier import PrivateKey, PublicKey

from .fixed_base import ROWS, Comb, FixedBase, group_for

# Uniform exponents with this many bits more than the group's order are uniform to 2^-64.
_EXCESS_BITS = 128


class Source(Protocol):
    """Makes obfuscators for one key."""

    def make(self) -> mpz:
        """A fresh obfuscator."""


class OwnByCrt:
    """For one's own key: s^p mod p^2 and s^q mod q^2, joined. Exactly uniform."""

    def __init__(self, key: PrivateKey) -> None:
        self._key = key

    def make(self) -> mpz:
        """Two half-size powers."""
        return self._key.obfuscator(_uniform_below(self._key.p), _uniform_below(self._key.q))


class OwnByTables:
    """For one's own key with known generators of the numbers mod p and q. Exactly uniform.

    g^p generates the p-th residues mod p^2, a cyclic group of order p-1; its powers with an
    exponent uniform on 0 .. p-2 are uniform on it. Source: CRYPTO decision 3.
    """

    def __init__(self, key: PrivateKey, generators: tuple[mpz, mpz], limit_bytes: int) -> None:
        self._key = key
        self._table_p = _residue_table(key.p, generators[0], limit_bytes // 2)
        self._table_q = _residue_table(key.q, generators[1], limit_bytes // 2)

    def make(self) -> mpz:
        """Two powers from the tables."""
        x_p = self._table_p.power(secrets.randbelow(int(self._key.p) - 1))
        x_q = self._table_q.power(secrets.randbelow(int(self._key.q) - 1))
        return self._key.join(x_p, x_q)


def _residue_table(prime: mpz, generator: mpz, limit_bytes: int) -> FixedBase:
    square, bits = prime * prime, prime.bit_length()
    group = group_for(bits // 4, limit_bytes)
    return FixedBase(powmod(generator, prime, square), bits, square, group)


class Uniform:
    """For a neighbour's key: r^n for r uniform. Exactly uniform, and slow."""

    def __init__(self, key: PublicKey) -> None:
        self._key = key

    def make(self) -> mpz:
        """One full power."""
        return powmod(_uniform_below(self._key.n), self._key.n, self._key.n_squared)


class Full:
    """For a neighbour's key: products of powers of the first 64 obfuscators, made uniformly.

    Exponents are uniform with 128 bits more in total than the group has: given the bases, by the
    leftover hash lemma, every product is uniform to about 2^-32 in the group of any n of two
    primes, whatever p-1 and q-1 have in common. The bases are therefore handed out themselves,
    once each: all obfuscators together are as good as independent. Powers of a single base stay in
    one cyclic subgroup, which a key owner can make small: with a common factor of p-1 and q-1 it
    reads the half weight from it. An n of dozens of primes is beyond this (DECISIONS).
    Checked by test_an_owner_with_a_common_factor_reads_the_half_weight_from_a_single_base.
    """

    def __init__(self, key: PublicKey, limit_bytes: int) -> None:
        self._key, self._limit = key, limit_bytes
        self._uniform = Uniform(key)
        self._bases: list[mpz] = []
        self._comb: Comb | None = None

    def make(self) -> mpz:
        """A full power the first 64 times, a product from the table afterwards."""
        if self._comb is None:
            made = self._uniform.make()
            self._bases.append(made)
            if len(self._bases) >= ROWS:
                self._comb = self._table()
            return made
        chance = secrets.token_bytes(self._comb.choice_bytes)
        return self._comb.power(self._comb.choices_from(chance))

    def _table(self) -> Comb:
        bits = -(-(self._key.bits + _EXCESS_BITS) // ROWS)
        group = group_for(self._key.bits // 4, self._limit)
        return Comb(self._bases[:ROWS], bits, self._key.n_squared, group)


def _uniform_below(bound: mpz) -> mpz:
    """Uniform on 1 .. bound-1."""
    return mpz(secrets.randbelow(int(bound) - 1) + 1)
