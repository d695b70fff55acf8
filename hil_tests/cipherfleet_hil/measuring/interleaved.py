"""Interleaved comparisons in one process, reported as ratios of times from the same pass.

In one pass every case runs once. Clocks and temperature drift between passes, but hardly within
one: the ratio of two times of the same pass is stable where the times are not. Limits therefore
apply to ratios. Times are the CPU time of the process, of all threads together; for a case that
uses one thread and never waits, this equals the wall time.
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

HOST_KIND = "host"  # the figures are those of this machine, never those of a device


class WrongResult(CipherfleetError):
    """A case computed a wrong result, so that its time is meaningless."""

    exit_code: ClassVar[int] = 5


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class TimedCase:
    """A computation to time, with a check of its result."""

    name: str
    run: Callable[[], Any]  # the timed computation
    is_right: Callable[[Any], bool]  # compares the result with the plaintext result
    fill: Callable[[], None] = _nothing  # prepares a run, before the clock starts


@dataclass(frozen=True)
class Effort:
    """The length of a measurement: at least *seconds* and at least *passes* passes."""

    seconds: float = 4.0
    passes: int = 3

    def is_spent(self, passes: int, seconds: float) -> bool:
        return passes >= self.passes and seconds >= self.seconds


@dataclass(frozen=True)
class RatioSpread:
    """Statistics of the ratios of all passes."""

    median: float
    minimum: float
    p10: float
    p90: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> RatioSpread:
        p10, median, p90 = np.percentile(ratios, [10, 50, 90])
        return cls(float(median), float(min(ratios)), float(p10), float(p90))


@dataclass(frozen=True)
class InterleavedComparison:
    """The result of cases that ran interleaved."""

    kind: str
    key_bits: int
    ms: Mapping[str, Sequence[float]]  # by case, one time per pass
    checked: int  # number of results that were checked, all correct
    pairs: Sequence[tuple[str, str]] = ()  # (slow, fast): the ratios of interest
    dimension: int | None = None
    degree: int | None = None
    bytes: Mapping[str, int] = field(
        default_factory=dict
    )  # size of a query and an answer on the wire

    @property
    def passes(self) -> int:
        return len(next(iter(self.ms.values())))

    def ratio(self, slow: str, fast: str) -> RatioSpread:
        """Return the ratios of the times of *slow* and *fast*, pass by pass."""
        return RatioSpread.of([s / f for s, f in zip(self.ms[slow], self.ms[fast], strict=True)])

    def to_json(self) -> dict[str, Any]:
        """Return the object that the report holds under `contests`."""
        return {
            "contest": self.kind,
            "key_bits": self.key_bits,
            "unsafe": self.key_bits < SAFE_KEY_BITS,
            "dimension": self.dimension,
            "degree": self.degree,
            "laps": self.passes,
            "checked": self.checked,
            "ms": {name: _times(times) for name, times in self.ms.items()},
            "ratios": [
                {"slow": slow, "fast": fast, **_rounded(vars(self.ratio(slow, fast)))}
                for slow, fast in self.pairs
            ],
            "bytes": dict(self.bytes),
        }


# -- the machine ---------------------------------------------------------------------------------


def describe_machine() -> dict[str, Any]:
    """Describe the machine to which the figures belong."""
    return {
        "cpu": environment.cpu_model(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of cipherfleet, of the number libraries and of *packages*."""
    return environment.versions() | {
        package: importlib.metadata.version(package) for package in packages
    }


def _times(times: Sequence[float]) -> dict[str, float]:
    return _rounded({"median": float(np.median(times)), "minimum": min(times)})


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in figures.items()}
