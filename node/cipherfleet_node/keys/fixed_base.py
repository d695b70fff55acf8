"""Products of powers of fixed bases, computed from tables.

The bases are divided into groups of up to eight. A table has the product of every subset of a
group. The exponents are processed bit by bit, the highest bit first: square the result, then
multiply it by one entry of each table (Lim and Lee, CRYPTO '94; Straus 1964).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gmpy2 import mpz

MAX_GROUP = 8  # one byte selects a subset of a group
ROWS = 64  # number of bases, or of slices of one exponent


class Comb:
    """Tables for prod_i base_i^(e_i), where every exponent e_i has *bits* bits."""

    def __init__(self, bases: Sequence[mpz], bits: int, modulus: mpz, group: int) -> None:
        self.bits, self._modulus, self._group = bits, modulus, group
        self._tables = [
            _subset_products(bases[start : start + group], modulus)
            for start in range(0, len(bases), group)
        ]

    @property
    def choice_bytes(self) -> int:
        """The number of bytes that `power` reads: one per group and bit of the exponents."""
        return self.bits * len(self._tables)

    def make_choices(self, random_bytes: bytes) -> bytes:
        """Return uniform choices from uniform bytes: each is reduced to the bits of a group."""
        mask = (1 << self._group) - 1
        return random_bytes if mask == 255 else bytes(byte & mask for byte in random_bytes)

    def power(self, choices: bytes) -> mpz:
        """Return the product that *choices* selects. Each of its bytes must be below 2^group.

        If the choices are uniform, every exponent e_i is uniform on 0 .. 2^bits - 1.
        """
        modulus, tables = self._modulus, self._tables
        result, width = mpz(1), len(tables)
        for start in range(0, len(choices), width):
            result = result * result % modulus
            for table, choice in zip(tables, choices[start : start + width], strict=True):
                result = result * table[choice] % modulus
        return result


class FixedBase:
    """Tables for g^e with one base g and any e of up to *bits* bits.

    The exponent is divided into ROWS slices, so the bases are g^(2^(slice * i)).
    Checked by test_a_fixed_base_power_equals_the_plain_power.
    """

    def __init__(self, base: mpz, bits: int, modulus: mpz, group: int = MAX_GROUP) -> None:
        self._slice, self._group = -(-bits // ROWS), group
        bases = [mpz(base)]
        for _ in range(ROWS - 1):
            power = bases[-1]
            for _ in range(self._slice):
                power = power * power % modulus
            bases.append(power)
        self._comb = Comb(bases, self._slice, modulus, group)

    def power(self, exponent: int) -> mpz:
        """Return base^exponent, for 0 <= exponent < 2^bits."""
        data = int(exponent).to_bytes(ROWS * self._slice // 8, "little")
        rows = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        levels = rows.reshape(ROWS, self._slice).T[::-1]  # the highest bit of every slice first
        groups = levels.reshape(self._slice, ROWS // self._group, self._group)
        choices = np.packbits(groups, axis=2, bitorder="little")
        return self._comb.power(choices.tobytes())


def choose_group(entry_bytes: int, limit_bytes: int) -> int:
    """Return the largest group (8, 4, 2 or 1) whose tables over ROWS bases fit *limit_bytes*."""
    for group in (8, 4, 2):
        if table_bytes(entry_bytes, group) <= limit_bytes:
            return group
    return 1


def table_bytes(entry_bytes: int, group: int) -> int:
    """Return the approximate memory of a Comb over ROWS bases; an object has 40 bytes more."""
    return (ROWS // group << group) * (entry_bytes + 40)


def _subset_products(bases: Sequence[mpz], modulus: mpz) -> list[mpz]:
    """Return a list whose entry s is the product of the bases whose bits are set in s."""
    products = [mpz(1)]
    for base in bases:
        products += [product * base % modulus for product in products]
    return products
