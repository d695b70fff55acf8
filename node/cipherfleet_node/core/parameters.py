"""The digest of the settings that must be equal on all nodes of a fleet.

If they differed, the nodes would converge to another point than the fleet's optimum, or would read
each other's numbers on another scale. Every query carries the beginning of the digest. Law and
spread of the stepsizes and the time limits are not covered: each node may choose its own.

The bytes do not depend on a language or a library. Source: node/PROTOCOL.md#parameters; checked by
test_parameters_vectors_hold.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from cipherfleet_node.settings.sections import (
    AGREE,
    Algorithm,
    Attenuation,
    Drift,
    Generations,
    Method,
    Scale,
    ShieldName,
    Stepsize,
    resolution_of,
)

from .drift import BOUND
from .exact import BETA
from .messages import TAG_BYTES
from .packing import HALF_WEIGHT_BITS, METROPOLIS_BITS
from .quantiser import VALUE_BITS
from .wire import WIRE_VERSION

DOMAIN = "cipherfleet/v2/parameters"


@dataclass(frozen=True)
class SharedParameters:
    """The settings that must be equal on all nodes; the widths are in bits."""

    exchange: str  # pairwise or sealed
    dimension: int
    resolution: float  # in the objective's units
    initial: float  # of the mean stepsizes initial / (1 + decay k^exponent)
    decay: float
    exponent: float
    attenuation: tuple[float, float] | None = None  # scale and exponent; None: none
    exact_scale: float | None = None  # c0 of the exact iteration, 0 if the fleet agrees on it
    exact_method: Method = "exact"  # exact, or statistics: what the iteration is used for
    schedule: tuple[int, int, int] | None = None  # of generations: G, D and W; None: no shield
    shield: ShieldName = "none"
    shares: float = 0.0  # of the shield, in units of c0
    drift_window: int | None = None  # readings in a mean residual; None: none is exchanged
    wire_version: int = WIRE_VERSION
    value_bits: int = VALUE_BITS
    half_weight_bits: int = HALF_WEIGHT_BITS
    metropolis_bits: int = METROPOLIS_BITS

    @property
    def encoded(self) -> bytes:
        """The bytes that are hashed."""
        widths = (self.value_bits, self.half_weight_bits, self.metropolis_bits)
        kind, reals = ("none", (0.0, 0.0))
        if self.exact_scale is not None:
            kind, reals = self.exact_method, (self.exact_scale, BETA)
        elif self.attenuation is not None:
            kind, reals = "power", self.attenuation
        shield = b""
        if self.schedule is not None:
            shield = _name(self.shield) + _integers(*self.schedule) + _reals(self.shares)
        window = self.drift_window
        drift = b"" if window is None else _name("drift") + _integers(window) + _reals(BOUND)
        return b"".join(
            (
                _name(DOMAIN),
                _integers(self.wire_version),
                _name(self.exchange),
                _integers(self.dimension, *widths),
                _reals(self.resolution, self.initial, self.decay, self.exponent),
                _name(kind),
                _reals(*reals),
                shield,
                drift,
            )
        )

    @property
    def tag(self) -> bytes:
        """The first TAG_BYTES of the SHA-256 of `encoded`, as in queries."""
        return hashlib.sha256(self.encoded).digest()[:TAG_BYTES]


def shared_parameters(
    algorithm: Algorithm,
    exchange: str,
    dimension: int,
    exact_scale: Scale | None = None,
    generations: Generations | None = None,
    drift: Drift | None = None,
) -> SharedParameters:
    """Return the parameters of a node with these settings; *dimension* is that of the estimate.

    *generations* is None without a shield. The list of participants is not covered: nodes with
    different lists exchange estimates, but take part in no common generation.
    """
    step, given = algorithm.stepsize, algorithm.attenuation
    reals = (given.scale, given.exponent) if isinstance(given, Attenuation) else None
    if exact_scale is not None:
        step, reals = Stepsize(initial=1.0, decay=0.0, exponent=0.0), None  # private: not covered
    rounds = None
    if generations is not None:
        rounds = generations.every, generations.roll_call, generations.averaging
    return SharedParameters(
        exchange=exchange,
        dimension=dimension,
        resolution=resolution_of(algorithm),
        initial=step.initial,
        decay=step.decay,
        exponent=step.exponent,
        attenuation=reals,
        exact_scale=0.0 if exact_scale == AGREE else exact_scale,
        exact_method="statistics" if algorithm.method == "statistics" else "exact",
        schedule=rounds,
        shield=algorithm.shield if rounds is not None else "none",
        shares=algorithm.shares if rounds is not None else 0.0,
        drift_window=None if drift is None else drift.window,
    )


def _name(text: str) -> bytes:
    return text.encode() + b"\0"


def _integers(*numbers: int) -> bytes:
    """Return 8 bytes for each of *numbers*, big endian."""
    return struct.pack(f">{len(numbers)}Q", *numbers)


def _reals(*numbers: float) -> bytes:
    """Return the IEEE-754 binary64 of each of *numbers*, big endian; -0.0 is written as 0.0."""
    return struct.pack(f">{len(numbers)}d", *(number + 0.0 for number in numbers))
