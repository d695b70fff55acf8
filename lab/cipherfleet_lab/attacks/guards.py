"""The guards of the exchange, and a round's random choices with some guards switched off.

Guards that are random choices are switched off here, so that the node's own code runs unchanged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from cipherfleet_node.core.randomness import FloatVector, RoundRandomness

from .names import GUARDS, Guard


@dataclass(frozen=True, repr=False)
class GuardedRandomness(RoundRandomness):
    """Random choices of one node in one round; guards that are off give the middle of the range."""

    off: Collection[Guard] = ()

    def uniform(self, label: str, count: int) -> FloatVector:
        """Without the guard `stepsizes`, every stepsize is the mean."""
        drawn = super().uniform(label, count)
        return 0.0 * drawn + 0.5 if label == "stepsize" and "stepsizes" in self.off else drawn

    def integers_below(self, bound: int, label: str, count: int) -> list[int]:
        """Without their guards, dither is zero and half weights are equal."""
        kind = label.split("/", maxsplit=1)[0]
        if (kind == "dither" and "dither" in self.off) or (
            kind == "half-weight" and "half-weights" in self.off
        ):
            return [(bound - 1) // 2] * count
        return super().integers_below(bound, label, count)


def describe_guards(off: Iterable[Guard]) -> str:
    """Return the suffix of a system's name for the guards that are off."""
    names = ", ".join(guard for guard in GUARDS if guard in off)
    return f" without {names}" if names else ""
