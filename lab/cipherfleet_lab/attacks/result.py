"""The result of an attack: a number, the same number for a guess, and an outcome."""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
AttackOutcome = Literal[
    "recovered", "partly", "nothing beyond chance", "all harmed", "some harmed", "no harm"
]

EXACT = 1e-9  # errors up to this are rounding errors of sums
SMALL, LARGE = 1e-4, 10.0  # outside of this range the digits carry no information
RECOVERED_ERROR = 0.1  # share of the guess's error
NO_BETTER_ERROR = 0.8
UNEVEN = 0.5  # share of the average error: a node below it is reported separately
RECOVERED_FRACTION = 0.95
_DEVIATIONS = 3.0  # standard deviations of the number of lucky guesses


class AttackResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one attack on one system.

    error:    root mean square distance from the truth, over that of the guess, which has 1
    fraction: share of the *trials* that found the exact truth; *chance* is the guess's share
    harm:     share of the other nodes (*trials* of them) that the attack has harmed
    """

    attack: str
    system: str
    sought: str  # the quantity that the adversary wants
    saw: str  # what the adversary received
    knew: str  # public or own knowledge of the adversary
    measure: Literal["error", "fraction", "harm"]
    value: float
    chance: float  # the same measure without the attack
    guess: str  # description of the guess
    trials: int
    note: str = ""
    worst_off: float | None = None  # the smallest error of any node
    verdict: AttackOutcome = "nothing beyond chance"  # follows from the figures above

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "verdict", self._judge(self.worst_off))

    def _judge(self, worst_off: float | None) -> AttackOutcome:
        """Return the outcome of the attack, by fixed limits.

        error:    recovered up to RECOVERED_ERROR, nothing from NO_BETTER_ERROR of chance on, unless
                  one node's error is below that
        fraction: recovered from RECOVERED_FRACTION on, nothing up to three deviations over chance
        harm:     all from RECOVERED_FRACTION on, none for zero
        """
        if self.measure == "harm":
            if self.value == 0.0:
                return "no harm"
            return "all harmed" if self.value >= RECOVERED_FRACTION else "some harmed"
        if self.measure == "error":
            if self.value <= RECOVERED_ERROR * self.chance:
                return "recovered"
            least = self.value if worst_off is None else min(self.value, worst_off)
            return "partly" if least < NO_BETTER_ERROR * self.chance else "nothing beyond chance"
        limit = self.chance + _DEVIATIONS * math.sqrt(self.chance / self.trials)
        if self.value <= limit:
            return "nothing beyond chance"
        return "recovered" if self.value >= RECOVERED_FRACTION else "partly"

    @property
    def number(self) -> str:
        """The value, formatted for a table."""
        if self.measure != "error":
            return f"{percent(self.value)} {'found' if self.measure == 'fraction' else 'harmed'}"
        if self.value <= EXACT:
            return "exact"
        return f"± {percent(self.value)}" + self._worst_off_suffix()

    @property
    def short(self) -> str:
        """The value in per cent, short; a star if the outcome is that of the most exposed node."""
        star = "*" if self._average_outcome != self.verdict else ""
        number = "0 %" if self.value <= EXACT else percent(self.value)
        return number.replace(" ", "").removesuffix("%") + star

    def _worst_off_suffix(self) -> str:
        """Return the error of the most exposed node, if it differs enough to be shown."""
        if self.worst_off is None:
            return ""
        is_shown = self.worst_off < UNEVEN * self.value or self._average_outcome != self.verdict
        return f", {percent(self.worst_off)}" if is_shown else ""

    @property
    def _average_outcome(self) -> AttackOutcome:
        """The outcome of the average error, without the most exposed node."""
        return self._judge(None)


def percent(share: float) -> str:
    """Format *share* in per cent with two significant digits."""
    if 0 < share < SMALL:
        return "< 0.01 %"
    if share >= LARGE:
        return "> 1000 %"
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def relative_error(found: Array, truth: Array, guess: Array) -> float:
    """Return the RMS distance of *found* from *truth* over that of *guess*; all have one shape."""
    return float(np.linalg.norm(found - truth) / np.linalg.norm(guess - truth))


def error_by_round(found: Array, truth: Array, guess: Array) -> float:
    """Return the relative error with equal weight for every round (the first axis)."""
    axes = tuple(range(1, found.ndim))
    squared_error, squared_guess = (
        ((found - truth) ** 2).sum(axis=axes),
        ((guess - truth) ** 2).sum(axis=axes),
    )
    return float(np.sqrt(np.mean(squared_error / squared_guess)))
