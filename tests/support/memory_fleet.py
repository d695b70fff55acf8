"""The lab's fleet in one process, with weak keys that are fast to use."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cipherfleet_lab.simulation import memory_fleet
from cipherfleet_lab.simulation.toy_keys import shared_secret, toy_key

FLEET = "toy"


def toy_secret(a: str, b: str) -> bytes:
    """What *a* and *b* share in the fleet `toy`; the same both ways."""
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
