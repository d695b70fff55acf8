"""Sources of obfuscators r^n mod n^2: two for the node's own key, two for a neighbour's key.

The owner of a key knows the order of the group, so its own obfuscators cost less. Nothing is known
about the group of a neighbour's key, and its owner may have chosen the key to spy on the answerer.
All randomness comes from the operating system. Any thread may call `make`.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from gmpy2 import mpz, powmod

from cipherfleet_node.core.paillier import PrivateKey, PublicKey

from .fixed_base import ROWS, Comb, FixedBase, choose_group

# A uniform exponent with so many bits more than the group's order is uniform up to 2^-64.
_EXCESS_BITS = 128


class Source(Protocol):
    """A source of obfuscators for one key."""

    def make(self) -> mpz:
        """Return an obfuscator that was never returned before."""


class OwnByCrt:
    """For the node's own key: s^p mod p^2 and s^q mod q^2, combined. Exactly uniform."""

    def __init__(self, key: PrivateKey) -> None:
        self._key = key

    def make(self) -> mpz:
        """Return a new obfuscator, from two exponentiations of half the size."""
        return self._key.obfuscator(_draw_below(self._key.p), _draw_below(self._key.q))


class OwnByTables:
    """For the node's own key, with known generators of the units mod p and q. Exactly uniform.

    If g is a generator mod p, g^p generates the p-th residues mod p^2, a cyclic group of order p-1.
    Its powers are uniform on this group if the exponent is uniform on 0 .. p-2.
    Source: docs/explanation/cryptography.md#own-key-obfuscators.
    """

    def __init__(self, key: PrivateKey, generators: tuple[mpz, mpz], limit_bytes: int) -> None:
        self._key = key
        self._table_p = _residue_table(key.p, generators[0], limit_bytes // 2)
        self._table_q = _residue_table(key.q, generators[1], limit_bytes // 2)

    def make(self) -> mpz:
        """Return a new obfuscator, from two powers that the tables give."""
        x_p = self._table_p.power(secrets.randbelow(int(self._key.p) - 1))
        x_q = self._table_q.power(secrets.randbelow(int(self._key.q) - 1))
        return self._key.join(x_p, x_q)


def _residue_table(prime: mpz, generator: mpz, limit_bytes: int) -> FixedBase:
    square, bits = prime * prime, prime.bit_length()
    group = choose_group(bits // 4, limit_bytes)
    return FixedBase(powmod(generator, prime, square), bits, square, group)


class Uniform:
    """For a neighbour's key: r^n for a uniform r. Exactly uniform, and slow."""

    def __init__(self, key: PublicKey) -> None:
        self._key = key

    def make(self) -> mpz:
        """Return a new obfuscator, from one exponentiation of full size."""
        return powmod(_draw_below(self._key.n), self._key.n, self._key.n_squared)


class Full:
    """For a neighbour's key: products of powers of 64 uniform obfuscators, the bases.

    The exponents are uniform and have 128 bits more in total than the order of the group. By the
    leftover hash lemma, given the bases, every product is uniform up to about 2^-32 in the group of
    any n with two prime factors, also if p-1 and q-1 have a common factor.

    Without *bases* of an earlier start, the first 64 obfuscators are the bases. They are returned
    as well, once each, so all obfuscators together are nearly independent. They must not be kept on
    a disk. Instead, 64 further products, which are never returned, are passed to *keep* once: they
    are the *bases* of later starts.

    The powers of one base alone would not be enough. They are in one cyclic subgroup, and the owner
    of a key with a common factor of p-1 and q-1 can read the half weight from it. A modulus n with
    dozens of prime factors is not covered (DECISIONS.md).
    Checked by test_an_owner_with_a_common_factor_reads_the_half_weight_from_a_single_base.
    """

    def __init__(
        self,
        key: PublicKey,
        limit_bytes: int,
        bases: Sequence[mpz] | None = None,
        keep: Callable[[Sequence[mpz]], None] | None = None,
    ) -> None:
        """Use *bases*, 64 uniform n-th residues that were never obfuscators, or compute them.

        *keep* is called at most once, in a thread that calls `make`, and not if *bases* are given.
        """
        self._key, self._limit = key, limit_bytes
        self._uniform = Uniform(key)
        self._bases: list[mpz] = list(bases or ())
        self._comb: Comb | None = None
        self._keep = None if bases else keep
        self._to_keep: list[mpz] = []
        self._keeping = threading.Lock()

    def make(self) -> mpz:
        """Return a product from the table, or a power of full size while bases are missing."""
        if len(self._bases) < ROWS:
            made = self._uniform.make()
            self._bases.append(made)
            if len(self._bases) >= ROWS:
                self._comb = self._table()
            return made
        if self._comb is None:
            self._comb = self._table()
        if self._keep is not None:
            self._prepare_to_keep(self._comb)
        return _product(self._comb)

    def _prepare_to_keep(self, comb: Comb) -> None:
        """Compute one more base for later starts; pass the bases on once they are complete."""
        with self._keeping:
            if self._keep is None:
                return
            self._to_keep.append(_product(comb))
            if len(self._to_keep) == ROWS:
                self._keep(self._to_keep)
                self._keep, self._to_keep = None, []

    def _table(self) -> Comb:
        bits = -(-(self._key.bits + _EXCESS_BITS) // ROWS)
        group = choose_group(self._key.bits // 4, self._limit)
        return Comb(self._bases[:ROWS], bits, self._key.n_squared, group)


def _product(comb: Comb) -> mpz:
    return comb.power(comb.make_choices(secrets.token_bytes(comb.choice_bytes)))


def _draw_below(bound: mpz) -> mpz:
    """Return a random number that is uniform on 1 .. bound-1."""
    return mpz(secrets.randbelow(int(bound) - 1) + 1)
