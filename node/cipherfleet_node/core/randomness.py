"""All of a round's random choices, expanded from one secret seed.

A round draws 32 bytes from the operating system once and saves them before anything is sent;
rounding, half weights, dither, stepsizes and minibatches are read from that seed under distinct
labels. A node that crashes therefore repeats its round exactly, never another one under the
same number. Blinding factors are not taken from here: they must never be repeatable.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatVector = npt.NDArray[np.float64]
SEED_BYTES = 32
_INTEGER_BYTES = 16  # taken modulo the bound: the bias of a 16-bit bound is below 2^-111


@dataclass(frozen=True, repr=False)
class Draws:
    """The choices of one node in one round."""

    seed: bytes

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES:
            raise ValueError(f"a round's seed has {SEED_BYTES} bytes, not {len(self.seed)}")

    def uniform(self, label: str, count: int) -> FloatVector:
        """*count* independent numbers, uniform on [0, 1), multiples of 2^-53."""
        words = np.frombuffer(self._bytes(label, 8 * count), dtype=">u8")
        return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, label: str, count: int) -> FloatVector:
        """*count* independent standard normal numbers (Box and Muller's transform)."""
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(label + "/radius", count)))
        result: FloatVector = radius * np.cos(2.0 * np.pi * self.uniform(label + "/angle", count))
        return result

    def below(self, bound: int, label: str, count: int) -> list[int]:
        """*count* independent whole numbers, uniform on 0 .. bound-1."""
        data = self._bytes(label, _INTEGER_BYTES * count)
        return [
            int.from_bytes(data[i : i + _INTEGER_BYTES], "big") % bound
            for i in range(0, len(data), _INTEGER_BYTES)
        ]

    def _bytes(self, label: str, length: int) -> bytes:
        # The seed has a fixed length, so seed and label cannot be cut differently.
        return hashlib.shake_256(self.seed + label.encode()).digest(length)


def simulated_seed(seed: int, fleet: str, node: str, round_number: int) -> bytes:
    """The seed of a round that everybody can repeat: for simulations, which protect nothing."""
    label = f"cipherfleet simulation {seed} {fleet} {node} {round_number}"
    return hashlib.sha256(label.encode()).digest()
