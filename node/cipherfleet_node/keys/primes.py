"""Primes p for which all prime factors of p-1 are known, and so a generator of the units mod p.

p = u r + 1, where r is a random prime of nearly all the bits and u is a small even number that is
easy to factor. p-1 therefore has a large prime factor. Otherwise p is as random as r and u are.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import gmpy2
from gmpy2 import mpz, powmod

COFACTOR_BITS = 36  # enough values of u to find a prime, and small enough to factor quickly
_SMALL_PRIMES = gmpy2.primorial(1 << 12)


@dataclass(frozen=True, repr=False)
class FactoredPrime:
    """A prime, the distinct prime factors of prime - 1, and a generator mod prime."""

    prime: mpz
    factors: tuple[mpz, ...]
    generator: mpz

    def fits(self) -> bool:
        """True if the factors are all prime factors of prime - 1, and the generator is one."""
        rest = self.prime - 1
        for factor in self.factors:
            if factor < 2 or not gmpy2.is_prime(factor) or rest % factor:
                return False
            while rest % factor == 0:
                rest //= factor
        return rest == 1 and _is_generator(self.generator, self.prime, self.factors)


def draw_factored_prime(bits: int) -> FactoredPrime:
    """Return a random prime of exactly *bits* >= 128 bits whose two highest bits are set.

    The product of two such primes of equal size has exactly twice as many bits.
    """
    r = gmpy2.next_prime(
        mpz(secrets.randbits(bits - COFACTOR_BITS) | 1 << (bits - COFACTOR_BITS - 1))
    )
    low, high = (mpz(3) << (bits - 2)) // r + 1, (mpz(1) << bits) // r
    while True:
        u = (low + secrets.randbelow(int(high - low))) & ~mpz(1)
        p = u * r + 1
        if gmpy2.bit_length(p) != bits or not gmpy2.bit_test(p, bits - 2):
            continue
        if gmpy2.gcd(p, _SMALL_PRIMES) == 1 and gmpy2.is_prime(p, 40):
            factors = (*_small_factors(u), r)
            return FactoredPrime(p, factors, _draw_generator(p, factors))


def _small_factors(number: mpz) -> list[mpz]:
    """Return the distinct prime factors of a number of at most about 40 bits (trial division)."""
    factors, divisor = [], mpz(2)
    while divisor * divisor <= number:
        if number % divisor == 0:
            factors.append(divisor)
            while number % divisor == 0:
                number //= divisor
        divisor = gmpy2.next_prime(divisor)
    return factors + ([number] if number > 1 else [])


def _draw_generator(prime: mpz, factors: tuple[mpz, ...]) -> mpz:
    while True:
        candidate = mpz(secrets.randbelow(int(prime) - 3) + 2)
        if _is_generator(candidate, prime, factors):
            return candidate


def _is_generator(candidate: mpz, prime: mpz, factors: tuple[mpz, ...]) -> bool:
    """True if *candidate* is in no proper subgroup of the units mod *prime*."""
    if not 1 < candidate < prime:
        return False
    return all(powmod(candidate, (prime - 1) // factor, prime) != 1 for factor in factors)
