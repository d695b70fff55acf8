"""The exchange's guards, and a round's draws with some of them switched off.

Guards that live in the draws go off there, so that the node's own code runs unchanged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from cipherfleet_node.core.randomness import Draws, FloatVector

from .names import GUARDS, Guard


@dataclass(frozen=True, repr=False)
class GuardedDraws(Draws):
    """The choices of one node in one round, in the middle of the range where a guard is off."""

    off: Collection[Guard] = ()

    def uniform(self, label: str, count: int) -> FloatVector:
        """Stepsizes at their mean without theirs."""
        drawn = super().uniform(label, count)
        return 0.0 * drawn + 0.5 if label == "stepsize" and "stepsizes" in self.off else drawn

    def below(self, bound: int, label: str, count: int) -> list[int]:
        """Dither zero, half weights equal without theirs."""
        kind = label.split("/", maxsplit=1)[0]
        if (kind == "dither" and "dither" in self.off) or (
            kind == "half-weight" and "half-weights" in self.off
        ):
            return [(bound - 1) // 2] * count
        return super().below(bound, label, count)


def told(off: Iterable[Guard]) -> str:
    """A system's name goes on like this when guards are off."""
    names = ", ".join(guard for guard in GUARDS if guard in off)
    return f" without {names}" if names else ""
