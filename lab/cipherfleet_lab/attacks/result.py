"""What an attack came to: a number, the same number for a guess without it, and a verdict."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Verdict = Literal["recovered", "partly", "nothing beyond chance"]

EXACT = 1e-9  # an error that is the rounding of sums
SMALL, LARGE = 1e-4, 10.0  # beyond these the digits say nothing more
RECOVERED_ERROR = 0.1  # of the guess's own error
NO_BETTER_ERROR = 0.8
UNEVEN = 0.5  # of the error on average: a node that fares so much worse is told of
RECOVERED_FRACTION = 0.95
_DEVIATIONS = 3.0  # of the number of lucky guesses


@dataclass(frozen=True)
class Finding:
    """One attack on one system.

    error:    root mean square distance from the truth, as a share of the guess's: the guess has 1
    fraction: of *trials* that gave the truth exactly; *chance* is the guess's own fraction
    """

    attack: str
    system: str
    sought: str  # what the adversary is after
    saw: str  # what it received
    knew: str  # what it knows anyway
    measure: Literal["error", "fraction"]
    value: float
    chance: float  # the same measure without the attack
    guess: str  # what that guess is
    trials: int
    note: str = ""
    worst_off: float | None = None  # the error of the node that is recovered best

    @property
    def verdict(self) -> Verdict:
        """Whether the adversary got what it was after, said of one number by fixed limits.

        error:    recovered up to RECOVERED_ERROR, nothing from NO_BETTER_ERROR of chance on, unless
                  there is a node of which more is found
        fraction: recovered from RECOVERED_FRACTION on, nothing up to three deviations over chance
        """
        if self.measure == "error":
            if self.value <= RECOVERED_ERROR * self.chance:
                return "recovered"
            least = self.value if self.worst_off is None else min(self.value, self.worst_off)
            return "partly" if least < NO_BETTER_ERROR * self.chance else "nothing beyond chance"
        lucky = self.chance + _DEVIATIONS * math.sqrt(self.chance / self.trials)
        if self.value <= lucky:
            return "nothing beyond chance"
        return "recovered" if self.value >= RECOVERED_FRACTION else "partly"

    @property
    def number(self) -> str:
        """The value as a table shows it."""
        if self.measure == "fraction":
            return f"{100 * self.value:.0f} % found"
        if self.value <= EXACT:
            return "exact"
        return f"± {percent(self.value)}" + self._of_worst_off()

    @property
    def short(self) -> str:
        """The value in per cent, in a few signs; a star where the verdict is the worst off's."""
        star = "*" if self._alone != self.verdict else ""
        number = "0 %" if self.value <= EXACT else percent(self.value)
        return number.replace(" ", "").removesuffix("%") + star

    def _of_worst_off(self) -> str:
        """The second number, where it says what the first does not."""
        if self.worst_off is None:
            return ""
        tells = self.worst_off < UNEVEN * self.value or self._alone != self.verdict
        return f", {percent(self.worst_off)}" if tells else ""

    @property
    def _alone(self) -> Verdict:
        """The verdict if no node fared worse than others."""
        return replace(self, worst_off=None).verdict

    def told(self) -> dict[str, Any]:
        """All of it, as JSON holds it."""
        return {**asdict(self), "verdict": self.verdict}


def percent(share: float) -> str:
    """*share* in per cent, with the digits that matter."""
    if 0 < share < SMALL:
        return "< 0.01 %"
    if share >= LARGE:
        return "> 1000 %"
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def relative_error(found: Array, truth: Array, guess: Array) -> float:
    """Root mean square distance of *found* from *truth*, over that of *guess*; any one shape."""
    return float(np.linalg.norm(found - truth) / np.linalg.norm(guess - truth))


def error_by_round(found: Array, truth: Array, guess: Array) -> float:
    """As relative_error, every round (the first axis) counted alike, however much it moved."""
    axes = tuple(range(1, found.ndim))
    off, size = ((found - truth) ** 2).sum(axis=axes), ((guess - truth) ** 2).sum(axis=axes)
    return float(np.sqrt(np.mean(off / size)))
