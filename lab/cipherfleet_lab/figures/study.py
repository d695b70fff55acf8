"""The types of a study: effort, result, tables, figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Draw = Callable[[Any], None]  # on a matplotlib figure
Rows = Sequence[Sequence[object]]


@dataclass(frozen=True)
class StudyEffort:
    """The extent of a study: everything, or with *quick* just enough to test the code."""

    quick: bool = False
    seed: int = 1  # seed of the first run; the others follow

    def seeds(self, full: int) -> range:
        """Return the seeds for *full* runs."""
        return range(self.seed, self.seed + (min(full, 2) if self.quick else full))

    def rounds(self, full: int) -> int:
        """Return the number of rounds of one run."""
        return max(full // 20, 20) if self.quick else full


@dataclass(frozen=True)
class Table:
    """A table; floats are written with four digits, other values unchanged."""

    head: Sequence[str]
    rows: Rows
    title: str = ""


@dataclass(frozen=True)
class Result:
    """The result of a study; every number in its sentences was measured in this run."""

    finding: str  # one sentence
    text: str  # settings: problem, schedule, seeds
    tables: Sequence[Table]
    numbers: Mapping[str, Any]  # for --json
    draw: Draw
    size: tuple[float, float] = (7.2, 3.6)  # inches


@dataclass(frozen=True)
class Study:
    """A study; its files have the name *name*."""

    name: str
    title: str
    run: Callable[[StudyEffort], Result]
    shows_readings: bool = False  # uses the Intel lab's readings, which the page acknowledges
