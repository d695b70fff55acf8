"""A study: what it runs, what it finds, and how that is drawn and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Draw = Callable[[Any], None]  # on a matplotlib figure
Rows = Sequence[Sequence[object]]


@dataclass(frozen=True)
class Effort:
    """How much is run: all of it, or enough for a test of the machinery."""

    quick: bool = False
    seed: int = 1  # of the first run; others follow

    def seeds(self, full: int) -> range:
        """Of *full* runs."""
        return range(self.seed, self.seed + (min(full, 2) if self.quick else full))

    def rounds(self, full: int) -> int:
        """Of one run."""
        return max(full // 20, 20) if self.quick else full


@dataclass(frozen=True)
class Table:
    """Numbers are written with four digits, everything else as it is."""

    head: Sequence[str]
    rows: Rows
    title: str = ""


@dataclass(frozen=True)
class Result:
    """What a study found in this run; no sentence holds a number that was not measured."""

    finding: str  # one sentence
    text: str  # what is shown: problem, schedule, seeds
    tables: Sequence[Table]
    numbers: Mapping[str, Any]  # for --json
    draw: Draw
    size: tuple[float, float] = (7.2, 3.6)  # inches


@dataclass(frozen=True)
class Study:
    """*name* is that of its files."""

    name: str
    title: str
    run: Callable[[Effort], Result]
    shows_readings: bool = False  # of the Intel lab, which are acknowledged then
