from __future__ import annotations

import random

import pytest
from gmpy2 import mpz, powmod
from hypothesis import given
from hypothesis import strategies as st

from cipherfleet_node.keys.fixed_base import ROWS, Comb, FixedBase, choose_group, table_bytes

MODULUS = mpz(2) ** 521 - 1
FIXED = {group: FixedBase(mpz(3), 300, MODULUS, group) for group in (1, 2, 4, 8)}


@pytest.mark.parametrize("group", FIXED)
@given(exponent=st.integers(0, 2**300 - 1))
def test_a_fixed_base_power_equals_the_plain_power(group: int, exponent: int) -> None:
    assert FIXED[group].power(exponent) == powmod(3, exponent, MODULUS)


@given(st.integers(0, 2**32))
def test_choices_select_independent_exponents(seed: int) -> None:
    chance = random.Random(seed)
    bases = [mpz(chance.randrange(2, int(MODULUS))) for _ in range(16)]
    comb = Comb(bases, 5, MODULUS, 8)
    exponents = [chance.randrange(32) for _ in bases]
    choices = bytes(
        sum((exponents[8 * table + place] >> level & 1) << place for place in range(8))
        for level in reversed(range(5))
        for table in range(2)
    )
    assert len(choices) == comb.choice_bytes
    expected = mpz(1)
    for base, exponent in zip(bases, exponents, strict=True):
        expected = expected * powmod(base, exponent, MODULUS) % MODULUS
    assert comb.power(choices) == expected


def test_tables_are_kept_within_the_memory_they_are_given() -> None:
    for limit in (10_000, 100_000, 1_000_000, 10_000_000):
        group = choose_group(512, limit)
        assert group == 1 or table_bytes(512, group) <= limit
    assert choose_group(512, 2 * 2**20) == 8
    assert table_bytes(512, 8) < 1.2 * 2**20
    assert ROWS % 8 == 0
