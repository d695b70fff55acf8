"""The known-answer test at the start finds every way in which the arithmetic may break."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gmpy2
import pytest
from gmpy2 import mpz

from cipherfleet_lab.simulation.toy_keys import toy_key
from cipherfleet_node.core import exchange, paillier
from cipherfleet_node.core.paillier import PrivateKey, PublicKey
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.runtime import self_test
from cipherfleet_node.runtime.self_test import check_exchanges

OWN = toy_key(0)
NEIGHBOURS = {"a": toy_key(1).public, "b": toy_key(2).public}


def test_good_keys_pass() -> None:
    check_exchanges(OWN, NEIGHBOURS)


def breaks(real: Callable[..., Any], change: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda *args, **keywords: change(real(*args, **keywords))


@pytest.mark.parametrize(
    ("owner", "name", "change"),
    [
        (exchange, "scale", lambda c: c + 1),
        (exchange, "encrypt", lambda c: c * 2),
        (paillier, "powmod", lambda c: c ^ 1),
        (gmpy2, "pack", lambda m: m + 1),
        (gmpy2, "unpack", lambda slots: slots[::-1]),
    ],
)
def test_broken_arithmetic_is_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, change: Any
) -> None:
    monkeypatch.setattr(owner, name, breaks(getattr(owner, name), change))
    with pytest.raises(ConfigError, match="known-answer exchange fails with this node's own key"):
        check_exchanges(OWN, NEIGHBOURS)


def test_a_wrong_decryption_is_refused_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    real = PrivateKey.decrypt_residues
    monkeypatch.setattr(
        PrivateKey, "decrypt_residues", lambda self, c: (real(self, c) + 1) % self.public.n
    )
    with pytest.raises(ConfigError, match="own key"):
        check_exchanges(OWN, NEIGHBOURS)


def test_a_wrong_obfuscator_of_the_own_key_is_refused_at_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = PrivateKey.obfuscator
    monkeypatch.setattr(PrivateKey, "obfuscator", lambda self, a, b: real(self, a, b) + 1)
    with pytest.raises(ConfigError, match="own key"):
        check_exchanges(OWN, NEIGHBOURS)


def test_arithmetic_that_fails_on_one_neighbours_key_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, bad = paillier.scale, NEIGHBOURS["b"]

    def wrong(key: PublicKey, c: mpz, factor: int) -> mpz:
        made = real(key, c, factor)
        return (made + key.n) % key.n_squared if key == bad else made

    monkeypatch.setattr(exchange, "scale", wrong)
    with pytest.raises(ConfigError, match="fails with the key of 'b'"):
        check_exchanges(OWN, NEIGHBOURS)


@pytest.mark.parametrize("change", [lambda c: c ^ 1, lambda c: c * c, lambda _: mpz(1)])
def test_a_wrong_full_power_under_a_neighbours_key_is_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[mpz], mpz]
) -> None:
    """Python's integers check gmpy2's power, although they do not compute it themselves."""
    real, bad = gmpy2.powmod, NEIGHBOURS["b"]

    def wrong(base: mpz, exponent: mpz, modulus: mpz) -> mpz:
        made = real(base, exponent, modulus)
        return change(made) % modulus if modulus == bad.n_squared else made

    monkeypatch.setattr(self_test, "powmod", wrong)
    with pytest.raises(ConfigError, match="fails with the key of 'b'"):
        check_exchanges(OWN, NEIGHBOURS)


def test_an_answer_that_is_not_blinded_is_refused_at_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A missing re-randomisation decrypts rightly: only the neighbours' check sees it."""

    real: Callable[..., list[mpz]] = exchange.prepare_answer

    def unblinded(*args: Any) -> list[mpz]:
        return real(*args[:-1], lambda: mpz(1))

    monkeypatch.setattr(exchange, "prepare_answer", unblinded)
    with pytest.raises(ConfigError, match="fails with the key of 'a'"):
        check_exchanges(OWN, NEIGHBOURS)


def test_a_key_whose_factors_are_not_prime_is_refused_at_start() -> None:
    p = toy_key(0).p
    composite = gmpy2.next_prime(mpz(3) << 126) * gmpy2.next_prime(mpz(3) << 127)
    with pytest.raises(ConfigError, match="own key"):
        check_exchanges(PrivateKey(p, composite), {})
