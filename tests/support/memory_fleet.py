"""The lab's fleet in one process, with weak keys that are fast to use."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

import gmpy2
from gmpy2 import mpz

from cipherfleet_lab.simulation import memory_fleet
from cipherfleet_lab.simulation.memory_fleet import shared_secret
from cipherfleet_node.core.paillier import PrivateKey

FLEET = "toy"
TOY_KEY_BITS = 512  # eight slots: fast enough for thousands of rounds


def toy_key(index: int) -> PrivateKey:
    """A 512-bit key, always the same one for *index*."""
    chance = random.Random(f"toy key {index}")
    while True:
        p, q = (gmpy2.next_prime(mpz(chance.getrandbits(256) | 3 << 254)) for _ in range(2))
        if p != q and gmpy2.bit_length(p * q) == TOY_KEY_BITS:
            return PrivateKey(p, q)


def toy_secret(a: str, b: str) -> bytes:
    """What *a* and *b* share; the same both ways."""
    return shared_secret(FLEET, a, b)


@dataclass
class MemoryFleet(memory_fleet.MemoryFleet):
    """With toy keys."""

    name: str = FLEET

    def __post_init__(self) -> None:
        names = sorted({name for edge in self.edges for name in edge})
        self.keys = {name: toy_key(index) for index, name in enumerate(names)}
        super().__post_init__()

    def round_seed(self, name: str, k: int) -> bytes:
        return hashlib.sha256(f"{self.seed} {name} {k}".encode()).digest()
