"""Contests: cases that take turns in one process, and the ratios of their times in the same lap.

Machines are noisy and grow warm: a ratio between two times of one lap stands where the times
themselves drift, so ratios are what is reported and held against limits. Times are the process's
CPU time, all threads together; a case that waits for nobody and uses one thread loses nothing.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from cipherfleet_hil.measurement import environment
from cipherfleet_node.errors import CipherfleetError
from cipherfleet_node.settings.sections import SAFE_KEY_BITS

KIND = "host"  # figures of this machine, never of a device that it might stand for


class WrongResult(CipherfleetError):
    """A case computed something else than the plain answer: its time means nothing."""

    exit_code: ClassVar[int] = 5


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Case:
    """One way of doing something."""

    name: str
    run: Callable[[], Any]  # what is timed
    is_right: Callable[[Any], bool]  # whether a result is the plain answer
    fill: Callable[[], None] = _nothing  # what is ready before the clock starts


@dataclass(frozen=True)
class Effort:
    """How long a contest goes on: until *seconds* of CPU time are spent, at least *laps* laps."""

    seconds: float = 4.0
    laps: int = 3

    def is_spent(self, laps: int, seconds: float) -> bool:
        """Whether it was enough."""
        return laps >= self.laps and seconds >= self.seconds


@dataclass(frozen=True)
class Spread:
    """The ratios of all laps."""

    median: float
    minimum: float
    p10: float
    p90: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Spread:
        """The figures of *ratios*."""
        p10, median, p90 = np.percentile(ratios, [10, 50, 90])
        return cls(float(median), float(min(ratios)), float(p10), float(p90))


@dataclass(frozen=True)
class Contest:
    """What came of some cases that ran in turn."""

    kind: str
    key_bits: int
    ms: Mapping[str, Sequence[float]]  # by case, one time per lap
    checked: int  # results that were compared with the plain answer, and were right
    pairs: Sequence[tuple[str, str]] = ()  # (slow, fast): the ratios of interest
    dimension: int | None = None
    degree: int | None = None
    bytes: Mapping[str, int] = field(default_factory=dict)  # on the wire, query and answer

    @property
    def laps(self) -> int:
        """How many times each case had its turn."""
        return len(next(iter(self.ms.values())))

    def ratio(self, slow: str, fast: str) -> Spread:
        """How many times longer *slow* takes than *fast*, lap by lap."""
        return Spread.of([s / f for s, f in zip(self.ms[slow], self.ms[fast], strict=True)])

    def to_json(self) -> dict[str, Any]:
        """The object under `contests` of the report."""
        return {
            "contest": self.kind,
            "key_bits": self.key_bits,
            "unsafe": self.key_bits < SAFE_KEY_BITS,
            "dimension": self.dimension,
            "degree": self.degree,
            "laps": self.laps,
            "checked": self.checked,
            "ms": {name: _times(times) for name, times in self.ms.items()},
            "ratios": [
                {"slow": slow, "fast": fast, **_rounded(vars(self.ratio(slow, fast)))}
                for slow, fast in self.pairs
            ],
            "bytes": dict(self.bytes),
        }


# -- where it was measured -----------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What the figures belong to."""
    return {
        "cpu": environment.cpu_model(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def versions(*packages: str) -> dict[str, str]:
    """Ours, the number libraries', and those of *packages*."""
    return environment.versions() | {
        package: importlib.metadata.version(package) for package in packages
    }


def _times(times: Sequence[float]) -> dict[str, float]:
    return _rounded({"median": float(np.median(times)), "minimum": min(times)})


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in figures.items()}
