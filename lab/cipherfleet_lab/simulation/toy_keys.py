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
from cipherfleet_node.core.paillier import PrivateKey

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

    Without *rerandomise* every obfuscator for a neighbour is 1: its answers keep the randomness of
    the query.
    """

    def __init__(
        self, own: PrivateKey, edges: Mapping[str, Edge], seed: str, *, rerandomise: bool = True
    ) -> None:
        self._own, self._edges, self._rng = own, edges, random.Random(seed)
        self._rerandomise = rerandomise
        self.taken: Counter[str] = Counter()

    def own(self) -> mpz:
        """Return an obfuscator for the node's own key."""
        self.taken["own"] += 1
        s_p, s_q = (mpz(self._rng.randrange(1, int(prime))) for prime in (self._own.p, self._own.q))
        return self._own.obfuscator(s_p, s_q)

    def towards(self, neighbour: str) -> mpz:
        """Return an obfuscator for *neighbour*'s key."""
        self.taken[neighbour] += 1
        if not self._rerandomise:
            return mpz(1)
        key = self._edges[neighbour].key
        return gmpy2.powmod(self._rng.randrange(1, int(key.n)), key.n, key.n_squared)
