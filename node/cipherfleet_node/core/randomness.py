"""The random choices of a node, expanded from one secret seed for each draw.

**A draw belongs to a state.** The seed is a pseudo-random function of the node's secret, of its
state and of the counter `draw`; it does not depend on the round. Rounding, half weights, dither,
stepsizes and minibatches are all expanded from this seed, each under its own label. While the state
of a node is unchanged, its numbers are therefore unchanged too: a node that stands still shows the
same numbers again, and a neighbour learns nothing new from them. After a crash, or from an older
copy of its state, a node repeats a round exactly. `agent.py` says when the counter rises.

Obfuscators do not come from this seed: they must never be repeatable.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatVector = npt.NDArray[np.float64]
SEED_BYTES = 32
_INTEGER_BYTES = 16  # taken modulo the bound: the bias of a 16-bit bound is below 2^-111


@dataclass(frozen=True)
class Draw:
    """What the seed of a round depends on."""

    fingerprint: bytes  # of the state; see state_fingerprint
    number: int  # the counter `draw`
    since: int  # the first round with this state; used by simulations only


Seeds = Callable[[Draw], bytes]


def state_fingerprint(estimate: Sequence[float], kick: float, ledger: Sequence[str] = ()) -> bytes:
    """Return the SHA-256 of a state: the estimate, the size of the kick, and the ledger."""
    values = np.array([*estimate, kick], dtype=">f8").tobytes()
    entries = " ".join(ledger).encode()
    return hashlib.sha256(b"cipherfleet/v2/state\0" + values + entries).digest()


def seeds_of(secret: bytes) -> Seeds:
    """Return the seeds of a node with this *secret*: HMAC-SHA256 of fingerprint and number.

    The principle is that of RFC 6979 for nonces. Checked by test_a_draw_belongs_to_a_state.
    """

    def seed(draw: Draw) -> bytes:
        data = b"cipherfleet/v2/draw\0" + draw.fingerprint + draw.number.to_bytes(8, "big")
        return hmac.digest(secret, data, "sha256")

    return seed


@dataclass(frozen=True, repr=False)
class RoundRandomness:
    """The random choices of one node with one draw, each under its own label."""

    seed: bytes

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES:
            raise ValueError(f"a round's seed has {SEED_BYTES} bytes, not {len(self.seed)}")

    def second(self) -> RoundRandomness:
        """Return the choices for the vector that is averaged beside the estimate."""
        return RoundRandomness(hashlib.sha256(b"cipherfleet/v2/averaged\0" + self.seed).digest())

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


def simulated_seeds(seed: int, fleet: str, node: str) -> Seeds:
    """Return repeatable seeds by the first round of each state; see `simulated_seed`."""
    return lambda draw: numbered(simulated_seed(seed, fleet, node, draw.since), draw.number)


def numbered(seed: bytes, number: int) -> bytes:
    """Return *seed* for draw 0, and another one for each other *number*."""
    return hashlib.sha256(seed + number.to_bytes(8, "big")).digest() if number else seed
