"""Paillier's cryptosystem over gmpy2, without encodings and without implicit re-randomisation.

The generator is g = n + 1, so (1 + n)^m = 1 + n m mod n^2. Obfuscators r^n mod n^2 are arguments.
Source: Paillier, EUROCRYPT 1999; checked against phe by test_phe_decrypts_ours_and_we_decrypt_phes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import gmpy2
from gmpy2 import mpz, powmod, powmod_sec

from cipherfleet_node.errors import RemoteProtocolError

Residues = tuple[mpz, mpz]  # a ciphertext mod p^2 and mod q^2; only the key's owner computes them

_SMALL_FACTOR_LIMIT = 1 << 16
_SMALL_PRIMES = gmpy2.primorial(_SMALL_FACTOR_LIMIT)


@dataclass(frozen=True)
class PublicKey:
    """A Paillier modulus n of exactly *bits* bits."""

    n: mpz
    bits: int = field(init=False)
    n_squared: mpz = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", mpz(self.n))
        object.__setattr__(self, "bits", gmpy2.bit_length(self.n))
        object.__setattr__(self, "n_squared", self.n * self.n)

    def __repr__(self) -> str:
        return f"<PublicKey {self.bits} bits {self.fingerprint.hex()[:16]}>"

    @property
    def fingerprint(self) -> bytes:
        """The SHA-256 of `to_bytes`, 32 bytes."""
        return hashlib.sha256(self.to_bytes()).digest()

    def to_bytes(self) -> bytes:
        """Return the modulus, big-endian, without leading zeros."""
        return int(self.n).to_bytes((self.bits + 7) // 8, "big")


@dataclass(frozen=True, repr=False)
class PrivateKey:
    """The two primes of a key, and the values that decryption needs, computed once."""

    p: mpz
    q: mpz
    constant_time: bool = False  # use exponentiation whose duration does not depend on the exponent

    def __post_init__(self) -> None:
        p, q = mpz(self.p), mpz(self.q)
        n = p * q
        derived = {
            "p": p,
            "q": q,
            "public": PublicKey(n),
            "_p_squared": p * p,
            "_q_squared": q * q,
            "_h_p": gmpy2.invert(_l_function(powmod(n + 1, p - 1, p * p), p), p),
            "_h_q": gmpy2.invert(_l_function(powmod(n + 1, q - 1, q * q), q), q),
            "_p_inverse": gmpy2.invert(p, q),
            "_p_squared_inverse": gmpy2.invert(p * p, q * q),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    public: PublicKey = field(init=False)
    _p_squared: mpz = field(init=False)
    _q_squared: mpz = field(init=False)
    _h_p: mpz = field(init=False)
    _h_q: mpz = field(init=False)
    _p_inverse: mpz = field(init=False)
    _p_squared_inverse: mpz = field(init=False)

    def __repr__(self) -> str:
        return f"<PrivateKey of {self.public!r}>"

    def obfuscator(self, s_p: mpz, s_q: mpz) -> mpz:
        """Return an obfuscator r^n mod n^2, at the lower cost that the key's owner has.

        It is uniform if *s_p* is uniform on 1..p-1 and *s_q* on 1..q-1: s^p mod p^2 runs through
        the p-th residues mod p^2, of which r^n mod p^2 is one, and the same holds for q. Source:
        docs/explanation/cryptography.md#own-key-obfuscators; checked by
        test_the_owners_obfuscator_is_an_nth_residue.
        """
        x_p = self._private_power(s_p, self.p, self._p_squared)
        x_q = self._private_power(s_q, self.q, self._q_squared)
        return self.join(x_p, x_q)

    def join(self, x_p: mpz, x_q: mpz) -> mpz:
        """Return the number mod n^2 that is x_p mod p^2 and x_q mod q^2 (Chinese remainders)."""
        return x_p + self._p_squared * ((x_q - x_p) * self._p_squared_inverse % self._q_squared)

    def decrypt(self, ciphertext: mpz) -> mpz:
        """Return the plaintext, in 0 .. n-1."""
        return self.decrypt_combined([ciphertext], [1])

    def decrypt_combined(self, ciphertexts: Sequence[mpz], exponents: Sequence[int]) -> mpz:
        """Return the plaintext of prod c_j^e_j, with one decryption for all ciphertexts."""
        return self.decrypt_residues(self.combine(ciphertexts, exponents))

    def combine(self, ciphertexts: Sequence[mpz], exponents: Sequence[int]) -> Residues:
        """Return prod c_j^e_j mod p^2 and mod q^2: two products of half the size cost less."""
        return (
            _product(ciphertexts, exponents, self._p_squared),
            _product(ciphertexts, exponents, self._q_squared),
        )

    def decrypt_residues(self, residues: Residues) -> mpz:
        """Return the plaintext of a ciphertext that `combine` has returned."""
        m_p = self._half(residues[0], self.p, self._p_squared, self._h_p)
        m_q = self._half(residues[1], self.q, self._q_squared, self._h_q)
        return m_p + self.p * ((m_q - m_p) * self._p_inverse % self.q)

    def _half(self, product: mpz, prime: mpz, square: mpz, h: mpz) -> mpz:
        return _l_function(self._private_power(product, prime - 1, square), prime) * h % prime

    def _private_power(self, base: mpz, exponent: mpz, modulus: mpz) -> mpz:
        power = powmod_sec if self.constant_time else powmod
        return power(base, exponent, modulus)


def encrypt(key: PublicKey, plaintext: mpz, obfuscator: mpz) -> mpz:
    """Return (1 + n m) r^n mod n^2, for a signed or reduced *plaintext* m and *obfuscator* r^n."""
    return (1 + key.n * (plaintext % key.n)) * obfuscator % key.n_squared


def scale(key: PublicKey, c: mpz, factor: int) -> mpz:
    """Return a ciphertext of factor * m, where *c* is a ciphertext of m.

    It is not re-randomised: it must not be sent before it is multiplied by an obfuscator.
    """
    return powmod(c, factor, key.n_squared)


def check_ciphertexts(key: PublicKey, ciphertexts: Sequence[mpz]) -> None:
    """Raise RemoteProtocolError unless each is a unit mod n^2 in 1 .. n^2-1.

    One greatest common divisor is enough: the product is a unit exactly if every factor is one.
    """
    product = mpz(1)
    for ciphertext in ciphertexts:
        if not 0 < ciphertext < key.n_squared:
            raise RemoteProtocolError("ciphertext_range", "a ciphertext is not within 1 .. n^2-1")
        product = product * ciphertext % key.n
    if gmpy2.gcd(product, key.n) != 1:
        raise RemoteProtocolError("ciphertext_not_unit", "a ciphertext shares a factor with n")


def faults_of_modulus(n: int, bits: int) -> Iterable[str]:
    """Yield every visible fault of *n* as a Paillier modulus of *bits* bits.

    Without the factors it cannot be checked that n has exactly two large prime factors.
    """
    modulus = mpz(n)
    if gmpy2.bit_length(modulus) != bits:
        yield f"has {gmpy2.bit_length(modulus)} bits, not {bits}"
    if modulus < 2:
        return
    if gmpy2.gcd(modulus, _SMALL_PRIMES) != 1:
        yield f"has a factor below {_SMALL_FACTOR_LIMIT}"
    if gmpy2.is_prime(modulus):
        yield "is prime"
    if gmpy2.is_power(modulus):
        yield "is a perfect power"


def _product(ciphertexts: Sequence[mpz], exponents: Sequence[int], modulus: mpz) -> mpz:
    product = mpz(1)
    for ciphertext, exponent in zip(ciphertexts, exponents, strict=True):
        product = product * powmod(ciphertext % modulus, exponent, modulus) % modulus
    return product


def _l_function(x: mpz, prime: mpz) -> mpz:
    return (x - 1) // prime
