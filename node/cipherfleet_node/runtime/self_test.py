"""Known-answer exchanges at the start, with this node's keys and this machine's arithmetic.

Without them, a faulty build of the number library or faulty memory could produce messages that
decrypt to a plausible but wrong estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from gmpy2 import mpz

from cipherfleet_node.core import exchange
from cipherfleet_node.core.packing import Layout
from cipherfleet_node.core.paillier import PrivateKey, PublicKey
from cipherfleet_node.core.quantiser import VALUE_BITS
from cipherfleet_node.errors import ConfigError, RemoteProtocolError

Key = TypeVar("Key", PrivateKey, PublicKey)

_ASKED = [1 - (1 << (VALUE_BITS - 1)), -1, 0, 12345]  # q of the asker
_OWN = [(1 << (VALUE_BITS - 1)) - 1, 1, 0, -54321]  # q of the answerer; largest difference first
_WEIGHT = 0xD75  # an odd half weight
_DITHER = [-(_WEIGHT - 1) // 2, (_WEIGHT - 1) // 2, 0, 7]
_EXPECTED = [
    _WEIGHT * (own - asked) + e for own, asked, e in zip(_OWN, _ASKED, _DITHER, strict=True)
]
_ROOTS = (mpz(0xC1F4E3), mpz(0x5EED))  # known roots r of the obfuscators; otherwise random


def check_exchanges(own: PrivateKey, neighbours: Mapping[str, PublicKey]) -> None:
    """Run a known exchange with the own key and each neighbour's; raises ConfigError on failure."""
    if not _passes(_own_key_works, own):
        raise ConfigError(
            "the known-answer exchange fails with this node's own key: the key file or this "
            "machine's gmpy2 is damaged",
            remedy="run `cipherfleet-node keygen` or reinstall gmpy2",
        )
    for name, key in neighbours.items():
        if not _passes(_neighbours_key_works, key):
            raise ConfigError(
                f"the known-answer exchange fails with the key of {name!r}: this machine's "
                "gmpy2 is damaged",
                remedy="reinstall it",
            )


def _passes(check: Callable[[Key], bool], key: Key) -> bool:
    try:
        return check(key)
    except (RemoteProtocolError, OverflowError):
        return False  # the result is out of range, or longer than a ciphertext


def _own_key_works(key: PrivateKey) -> bool:
    layout = Layout(key.public.bits, len(_ASKED))
    answers = exchange.read_ciphertexts(key.public, layout, _answer_under(key.public, layout))
    opened = exchange.open_answers(key, layout, {"self": exchange.Opening(1, answers)})
    roots = [key.obfuscator(root % key.p, root % key.q) for root in _ROOTS]
    blinded_zero = all(key.decrypt(obfuscator) == 0 for obfuscator in roots)
    return opened == _EXPECTED and blinded_zero


def _neighbours_key_works(key: PublicKey) -> bool:
    """Check without the private key: the answer must be (1 + n m) (r_1^H r_2)^n.

    Python's own integers compute the expected value.
    """
    layout = Layout(key.bits, len(_ASKED))
    n, n_squared = int(key.n), int(key.n_squared)
    root = pow(int(_ROOTS[0]), _WEIGHT, n) * int(_ROOTS[1]) % n
    blinded = pow(root, n, n_squared)
    expected = [
        (1 + n * (int(plaintext) % n)) * blinded % n_squared for plaintext in layout.pack(_EXPECTED)
    ]
    return [int.from_bytes(item, "big") for item in _answer_under(key, layout)] == expected


def _answer_under(key: PublicKey, layout: Layout) -> list[bytes]:
    obfuscators = [pow(root, key.n, key.n_squared) for root in _ROOTS]
    query = exchange.make_query(key, layout, _ASKED, lambda: obfuscators[0])
    read = exchange.read_ciphertexts(key, layout, query)
    prepared = exchange.prepare_answer(key, layout, _OWN, _WEIGHT, _DITHER, lambda: obfuscators[1])
    return exchange.make_answer(key, layout, read, _WEIGHT, prepared)
