"""Known-answer exchanges at the start, with this node's keys and this machine's arithmetic.

Without them, a faulty build of the number library or faulty memory could produce messages that
decrypt to a plausible but wrong estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from gmpy2 import mpz, powmod

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
_STRIDE = (1 << 31) - 1  # a prime: powers up to it cost Python's integers little


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
    public = key.public
    layout = Layout(public.bits, len(_ASKED))
    obfuscators = [powmod(root, public.n, public.n_squared) for root in _ROOTS]
    answers = exchange.read_ciphertexts(public, layout, _answer_under(public, layout, obfuscators))
    opened = exchange.open_answers(key, layout, {"self": exchange.Opening(1, answers)})
    roots = [key.obfuscator(root % key.p, root % key.q) for root in _ROOTS]
    blinded_zero = all(key.decrypt(obfuscator) == 0 for obfuscator in roots)
    return opened == _EXPECTED and blinded_zero


def _neighbours_key_works(key: PublicKey) -> bool:
    """Check without the private key: the answer must be (1 + n m) x^H y for known x and y.

    Python's own integers compute the expected value. A power with exponent n takes them 0.1 s at
    2048 bits, so gmpy2's power x = r^n is checked otherwise: n = a l + b with a small l, and
    Python's integers compute y^l r^b from y = r^a.
    """
    layout = Layout(key.bits, len(_ASKED))
    n, n_squared, root = int(key.n), int(key.n_squared), _ROOTS[0]
    high, low = divmod(n, _STRIDE)
    x, y = (powmod(root, exponent, key.n_squared) for exponent in (key.n, high))
    if pow(int(y), _STRIDE, n_squared) * pow(int(root), low, n_squared) % n_squared != x:
        return False
    blinded = pow(int(x), _WEIGHT, n_squared) * int(y)
    expected = [
        (1 + n * (int(plaintext) % n)) * blinded % n_squared for plaintext in layout.pack(_EXPECTED)
    ]
    answer = _answer_under(key, layout, [x, y])
    return [int.from_bytes(item, "big") for item in answer] == expected


def _answer_under(key: PublicKey, layout: Layout, obfuscators: Sequence[mpz]) -> list[bytes]:
    query = exchange.make_query(key, layout, _ASKED, lambda: obfuscators[0])
    read = exchange.read_ciphertexts(key, layout, query)
    prepared = exchange.prepare_answer(key, layout, _OWN, _WEIGHT, _DITHER, lambda: obfuscators[1])
    return exchange.make_answer(key, layout, read, _WEIGHT, prepared)
