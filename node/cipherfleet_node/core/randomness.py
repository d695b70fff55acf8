"""The random choices of a round, expanded from one secret seed.

A node takes the 32 bytes of a round's seed from the operating system and saves them before it sends
a message of the round. Rounding, half weights, dither, stepsizes and minibatches are all expanded
from this seed, each under its own label. After a crash the node therefore repeats the round exactly
and never sends other values under the same round number. Obfuscators do not come from this seed:
they must never be repeatable.
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
class RoundRandomness:
    """The random choices of one node in one round, each under its own label."""

    seed: bytes

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES:
            raise ValueError(f"a round's seed has {SEED_BYTES} bytes, not {len(self.seed)}")

    def uniform(self, label: str, count: int) -> FloatVector:
        """Return *count* independent numbers, uniform on [0, 1), multiples of 2^-53."""
        words = np.frombuffer(self._bytes(label, 8 * count), dtype=">u8")
        return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, label: str, count: int) -> FloatVector:
        """Return *count* independent standard normal numbers (Box and Muller's transform)."""
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(label + "/radius", count)))
        result: FloatVector = radius * np.cos(2.0 * np.pi * self.uniform(label + "/angle", count))
        return result

    def integers_below(self, bound: int, label: str, count: int) -> list[int]:
        """Return *count* independent whole numbers, uniform on 0 .. bound-1."""
        data = self._bytes(label, _INTEGER_BYTES * count)
        return [
            int.from_bytes(data[i : i + _INTEGER_BYTES], "big") % bound
            for i in range(0, len(data), _INTEGER_BYTES)
        ]

    def _bytes(self, label: str, length: int) -> bytes:
        # The seed has a fixed length, so no other pair of seed and label gives the same input.
        return hashlib.shake_256(self.seed + label.encode()).digest(length)


def simulated_seed(seed: int, fleet: str, node: str, round_number: int) -> bytes:
    """Return a repeatable seed of a round, for simulations. It is public and protects nothing."""
    label = f"cipherfleet simulation {seed} {fleet} {node} {round_number}"
    return hashlib.sha256(label.encode()).digest()
