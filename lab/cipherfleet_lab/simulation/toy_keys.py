"""Reproducible keys, shared secrets and obfuscators, for simulations and tests only.

Everything follows from public labels, so nothing here is secret. The node's own code runs on it
unchanged.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping
from functools import cache

import gmpy2
from gmpy2 import mpz

from cipherfleet_node.core.exchange import Edge
from cipherfleet_node.core.paillier import PrivateKey, PublicKey
from cipherfleet_node.keys.fixed_base import MAX_GROUP, Comb

TOY_BITS = 512  # eight slots: fast enough for thousands of rounds, and unsafe


@cache
def toy_key(label: int | str, bits: int = TOY_BITS) -> PrivateKey:
    """Return the key of *bits* bits for *label*, always the same."""
    rng, half = random.Random(f"toy key {label}"), bits // 2
    while True:
        p, q = (gmpy2.next_prime(mpz(rng.getrandbits(half) | 3 << (half - 2))) for _ in "pq")
        if p != q and gmpy2.bit_length(p * q) == bits:
            return PrivateKey(p, q)


def shared_secret(fleet: str, a: str, b: str) -> bytes:
    """Return the secret that *a* and *b* share in *fleet*, the same for both."""
    return hashlib.sha256(f"{fleet} secret {sorted((a, b))}".encode()).digest()


class SeededBlinding:
    """A Blinding with obfuscators from a seeded generator; `taken` counts them by key.

    They are products of eight obfuscators of the key, each to a power below 256. Without
    *rerandomise* every obfuscator for a neighbour is 1: its answers keep the randomness of the
    query.
    """

    def __init__(
        self, own: PrivateKey, edges: Mapping[str, Edge], seed: str, *, rerandomise: bool = True
    ) -> None:
        self._own, self._edges, self._rng = own.public, edges, random.Random(seed)
        self._rerandomise = rerandomise
        self.taken: Counter[str] = Counter()

    def own(self) -> mpz:
        """Return an obfuscator for the node's own key."""
        self.taken["own"] += 1
        return self._obfuscator(self._own)

    def towards(self, neighbour: str) -> mpz:
        """Return an obfuscator for *neighbour*'s key."""
        self.taken[neighbour] += 1
        if not self._rerandomise:
            return mpz(1)
        return self._obfuscator(self._edges[neighbour].key)

    def _obfuscator(self, key: PublicKey) -> mpz:
        products = _products(key)
        return products.power(self._rng.randbytes(products.choice_bytes))


@cache
def _products(key: PublicKey) -> Comb:
    """Return the products of eight obfuscators of *key*: a power of full size costs far more."""
    rng, n = random.Random(f"toy obfuscators {key.n}"), int(key.n)
    bases = [gmpy2.powmod(rng.randrange(1, n), n, key.n_squared) for _ in range(MAX_GROUP)]
    return Comb(bases, 8, key.n_squared, MAX_GROUP)
