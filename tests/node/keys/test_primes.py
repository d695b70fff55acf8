"""Primes with a factored predecessor, and the key files that hold them."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gmpy2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from gmpy2 import mpz

from cipherfleet_node.core.paillier import PrivateKey
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.keys.key_files import NodeKeys, generate_keys, read_keys, write_keys
from cipherfleet_node.keys.obfuscators import OwnByTables
from cipherfleet_node.keys.primes import COFACTOR_BITS, FactoredPrime, draw_factored_prime
from cipherfleet_node.settings.sections import Crypto

BITS = 256
CRYPTO = Crypto(key_bits=2 * BITS, allow_weak_keys=True)


@cache
def drawn() -> tuple[FactoredPrime, ...]:
    return tuple(draw_factored_prime(BITS) for _ in range(40))


def is_complete(prime: mpz, factors: tuple[mpz, ...]) -> bool:
    """Whether nothing but powers of *factors* makes prime - 1."""
    rest = prime - 1
    for factor in factors:
        rest = gmpy2.remove(rest, factor)[0]
    return bool(rest == 1)


def test_the_factors_of_the_predecessor_are_prime_distinct_and_complete() -> None:
    for found in drawn():
        assert gmpy2.is_prime(found.prime)
        assert all(gmpy2.is_prime(factor) for factor in found.factors)
        assert len(set(found.factors)) == len(found.factors)
        assert is_complete(found.prime, found.factors)
        assert not is_complete(found.prime, found.factors[:-1])


def test_the_generator_generates() -> None:
    """Its order, taken down by every prime factor as far as possible, is all of prime - 1."""
    for found in drawn():
        order = found.prime - 1
        for factor in found.factors:
            while order % factor == 0:
                if gmpy2.powmod(found.generator, order // factor, found.prime) != 1:
                    break
                order //= factor
        assert order == found.prime - 1


def test_on_tiny_primes_fits_tells_exactly_the_generators() -> None:
    """Against counting the powers, for every candidate."""
    for prime, factors in ((23, (2, 11)), (31, (2, 3, 5)), (61, (2, 3, 5)), (257, (2,))):
        for g in range(prime + 2):
            generates = len({pow(g, e, prime) for e in range(prime - 1)}) == prime - 1
            in_range = 1 < g < prime
            parts = tuple(mpz(factor) for factor in factors)
            assert FactoredPrime(mpz(prime), parts, mpz(g)).fits() == (generates and in_range)


@pytest.mark.parametrize("bits", [128, 136, 192, 512])
def test_primes_have_the_asked_bits_and_products_exactly_twice_as_many(bits: int) -> None:
    primes = [draw_factored_prime(bits).prime for _ in range(6)]
    assert all(prime >> (bits - 2) == 3 for prime in primes)
    assert all((p * q).bit_length() == 2 * bits for p in primes for q in primes)


def test_the_predecessor_keeps_a_large_prime_factor() -> None:
    """Or the prime could be found from the modulus by powers with smooth exponents."""
    assert all(max(found.factors).bit_length() == BITS - COFACTOR_BITS for found in drawn())


def test_no_two_draws_share_anything() -> None:
    for numbers in (
        {found.prime for found in drawn()},
        {max(found.factors) for found in drawn()},
        {found.generator for found in drawn()},
    ):
        assert len(numbers) == len(drawn())


def test_primes_are_spread_over_their_whole_range() -> None:
    """The two highest bits are set, the next three are not always the same."""
    tops = {int(found.prime >> (BITS - 5)) for found in drawn()}
    assert len(tops) >= 6  # of eight; forty draws miss three of them once in ten million times


def change(found: FactoredPrime, **fields: Any) -> FactoredPrime:
    return FactoredPrime(**{**vars(found), **fields})


@cache
def one() -> FactoredPrime:
    """A prime whose predecessor has several odd factors."""
    return next(found for found in drawn() if len(found.factors) >= 4)


DAMAGES: dict[str, Callable[[FactoredPrime], FactoredPrime]] = {
    "no factors": lambda f: change(f, factors=()),
    "the small ones only": lambda f: change(f, factors=f.factors[:-1]),
    "the largest only": lambda f: change(f, factors=f.factors[-1:]),
    "two missing": lambda f: change(f, factors=f.factors[1:]),
    "one in the middle missing": lambda f: change(f, factors=f.factors[:1] + f.factors[2:]),
    "one twice": lambda f: change(f, factors=(f.factors[0], *f.factors)),
    "two joined": lambda f: change(
        f, factors=(*f.factors[:-2], math.prod(f.factors[-2:], start=mpz(1)))
    ),
    "all in one": lambda f: change(f, factors=(f.prime - 1,)),
    "a prime that does not divide": lambda f: change(f, factors=(*f.factors, mpz(2**61 - 1))),
    "one": lambda f: change(f, factors=(mpz(1), *f.factors)),
    "zero": lambda f: change(f, factors=(mpz(0), *f.factors)),
    "a generator of a half": lambda f: change(f, generator=f.generator**2 % f.prime),
    "a generator of a large part": lambda f: change(
        f, generator=gmpy2.powmod(f.generator, f.factors[1], f.prime)
    ),
    "a generator of the small part": lambda f: change(
        f, generator=gmpy2.powmod(f.generator, f.factors[-1], f.prime)
    ),
    "one as generator": lambda f: change(f, generator=mpz(1)),
    "minus one as generator": lambda f: change(f, generator=f.prime - 1),
    "zero as generator": lambda f: change(f, generator=mpz(0)),
    "a generator that is not reduced": lambda f: change(f, generator=f.generator + f.prime),
    "another prime's": lambda f: change(
        next(o for o in drawn() if o.prime != f.prime), prime=f.prime
    ),
}


def test_a_drawn_prime_fits() -> None:
    assert all(found.fits() for found in drawn())


@pytest.mark.parametrize("damage", DAMAGES)
def test_wrong_factors_and_wrong_generators_do_not_fit(damage: str) -> None:
    assert not DAMAGES[damage](one()).fits()


def test_a_prime_does_not_show_itself() -> None:
    found = one()
    for number in (found.prime, found.generator, *found.factors[-1:]):
        assert str(number) not in repr(found)


# -- in key files ---------------------------------------------------------------------------------


def keys_of(p: FactoredPrime, q: FactoredPrime) -> NodeKeys:
    identity = Ed25519PrivateKey.from_private_bytes(b"i" * 32)
    seal = X25519PrivateKey.from_private_bytes(b"s" * 32)
    return NodeKeys(PrivateKey(p.prime, q.prime), identity, seal, (p, q))


def others() -> FactoredPrime:
    return next(found for found in drawn() if found.prime != one().prime)


def complaint(folder: Path) -> str:
    with pytest.raises(ConfigError) as refused:
        read_keys(folder, CRYPTO)
    return str(refused.value)


def rewrite(folder: Path, primes: Any) -> None:
    file = folder / "keys" / "paillier.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"primes": primes}))


def test_written_primes_are_read_back_and_serve(tmp_path: Path) -> None:
    keys = keys_of(one(), others())
    write_keys(tmp_path, keys)
    read = read_keys(tmp_path, CRYPTO)
    assert read.primes == keys.primes
    assert read.generators == (one().generator, others().generator)
    assert read.paillier.decrypt(OwnByTables(read.paillier, read.generators, 10**6).make()) == 0


def test_generated_keys_hold_the_factors_of_their_own_primes(tmp_path: Path) -> None:
    keys = generate_keys(2 * BITS)
    assert keys.primes is not None
    assert [prime.prime for prime in keys.primes] == [keys.paillier.p, keys.paillier.q]
    assert all(prime.fits() for prime in keys.primes)
    write_keys(tmp_path, keys)
    assert read_keys(tmp_path, CRYPTO).primes == keys.primes


def test_a_key_file_without_primes_still_serves(tmp_path: Path) -> None:
    plain = keys_of(one(), others())
    write_keys(tmp_path, NodeKeys(plain.paillier, plain.identity, plain.seal))
    read = read_keys(tmp_path, CRYPTO)
    assert read.primes is read.generators is None


@pytest.mark.parametrize("side", ["p", "q"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_key_file_with_tampered_primes_is_refused(tmp_path: Path, damage: str, side: str) -> None:
    damaged = DAMAGES[damage](one())
    keys = keys_of(damaged, others()) if side == "p" else keys_of(others(), damaged)
    write_keys(tmp_path, keys)
    text = complaint(tmp_path)
    # Zero is written as no digits at all, which is no number.
    assert "primes does not belong to p and q; get the bundle again" in text or "zero" in damage
    assert "paillier.json: " in text
    encoded = base64.urlsafe_b64encode(int(one().generator).to_bytes(BITS // 8, "big")).decode()
    for secret in (str(one().generator), str(one().prime), encoded.rstrip("=")):
        assert secret not in text


def test_a_key_file_with_its_primes_the_wrong_way_round_is_refused(tmp_path: Path) -> None:
    keys = keys_of(one(), others())
    write_keys(tmp_path, NodeKeys(keys.paillier, keys.identity, keys.seal, (others(), one())))
    assert "primes does not belong to p and q; get the bundle again" in complaint(tmp_path)


@pytest.mark.parametrize(
    "primes",
    [
        [],
        {},
        "text",
        5,
        True,
        [{"factors": ["Ag"], "generator": "Ag"}],
        [{"factors": ["Ag"], "generator": "Ag"}] * 3,
        [5, 6],
        ["text", "text"],
        [[], []],
        [{}, {}],
        [{"factors": None, "generator": "Ag"}] * 2,
        [{"factors": 5, "generator": "Ag"}] * 2,
        [{"factors": [5], "generator": "Ag"}] * 2,
        [{"factors": ["%"], "generator": "Ag"}] * 2,
        [{"factors": ["Ag"]}] * 2,
        [{"factors": ["Ag"], "generator": None}] * 2,
        [{"factors": {"Ag": 1}, "generator": "Ag"}] * 2,
    ],
)
def test_a_key_file_whose_primes_are_something_else_is_refused(tmp_path: Path, primes: Any) -> None:
    write_keys(tmp_path, keys_of(one(), others()))
    rewrite(tmp_path, primes)
    assert "paillier.json: " in complaint(tmp_path)


@pytest.mark.parametrize("constant_time", [True, False])
def test_constant_time_is_as_configured(tmp_path: Path, constant_time: bool) -> None:
    write_keys(tmp_path, keys_of(one(), others()))
    crypto = Crypto(key_bits=2 * BITS, allow_weak_keys=True, constant_time=constant_time)
    assert read_keys(tmp_path, crypto).paillier.constant_time is constant_time
