"""Interleaved comparisons in one process, reported as ratios of times from the same pass.

In one pass every case runs once. Clocks and temperature drift between passes, but hardly within
one: the ratio of two times of the same pass is stable where the times are not. Limits therefore
apply to ratios. Times are the CPU time of the process, of all threads together; for a case that
uses one thread and never waits, this equals the wall time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from cipherfleet_hil.measuring.sampling import CaseSampler, CaseTimes, Effort, TimedCase
from cipherfleet_node.settings.sections import SAFE_KEY_BITS


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


@dataclass(frozen=True, kw_only=True)
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
        """Return the object that the report holds under `comparisons`."""
        return {
            "comparison": self.kind,
            "key_bits": self.key_bits,
            "unsafe": self.key_bits < SAFE_KEY_BITS,
            "dimension": self.dimension,
            "degree": self.degree,
            "passes": self.passes,
            "checked": self.checked,
            "ms": {name: _times(times) for name, times in self.ms.items()},
            "ratios": [
                {"slow": slow, "fast": fast, **_round_figures(vars(self.ratio(slow, fast)))}
                for slow, fast in self.pairs
            ],
            "bytes": dict(self.bytes),
        }


def run_interleaved(
    cases: Sequence[TimedCase], effort: Effort
) -> tuple[dict[str, list[float]], int]:
    """Run *cases* pass by pass (A, B, A, B, ...); return ms per case and pass, and results checked.

    The times and the effort are CPU times. Raises WrongResult.
    """
    sampler = CaseSampler("cpu")
    passes: list[list[float]] = []
    began = time.process_time()
    while not effort.is_spent(len(passes), time.process_time() - began):
        passes.append([_pass_ms(sampler, case) for case in cases])
    by_case = zip(*passes, strict=True)
    times = {case.name: list(result) for case, result in zip(cases, by_case, strict=True)}
    return times, sampler.runs


def _pass_ms(sampler: CaseSampler, case: TimedCase) -> float:
    taken = CaseTimes()
    sampler.sample_slot(case, taken, is_first=False)
    return 1e3 * median(taken.values)


def _times(times: Sequence[float]) -> dict[str, float]:
    return _round_figures({"median": float(np.median(times)), "minimum": min(times)})


def _round_figures(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in figures.items()}
