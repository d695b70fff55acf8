"""Two measurements beside each other: whether the second is slower, and not by chance alone.

The figure is the ratio of medians, B over A. How much it would vary by chance is found by drawing
processes anew, with replacement, and then samples within each: a hierarchical bootstrap, since the
samples of one process are alike in what makes processes differ. The interval is Student's, with the
bootstrap's standard error and as many degrees of freedom as processes allow. With m benchmarks each
interval has the level 1 - 0.05 / m (Bonferroni), so that the chance of any false alarm among them
is 5 % at most; the overall figure, the geometric mean of all ratios, is one more test at 5 %.

What changed between two measurements and is not in the samples, such as another room temperature,
no interval knows of: the limit is there for that, and the verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from cipherfleet_node.errors import ConfigError

from .document import Benchmark, Measurement

Array = npt.NDArray[np.float64]
LEVEL = 0.95
RESAMPLES = 1000
_SEED = 2604_21381  # the same documents, the same interval
_MOST_DRAWN = 200  # samples per process: beyond that they say nothing more of its median


@dataclass(frozen=True)
class Ratio:
    """How many times longer B takes than A, with its interval."""

    name: str
    ratio: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out 1."""
        return self.low > 1 or self.high < 1

    def is_slower(self, limit: float) -> bool:
        """Whether B is slower by more than *limit* (0.05: 5 %), and not by chance."""
        return self.significant and self.ratio > 1 + limit

    def to_json(self, limit: float) -> dict[str, Any]:
        """The object under `benchmarks` of the result."""
        return {**asdict(self), "significant": self.significant, "fails": self.is_slower(limit)}


@dataclass(frozen=True)
class Comparison:
    """What came of it."""

    kind: str
    limit: float
    benchmarks: Sequence[Ratio]
    overall: Ratio
    notes: Sequence[str]  # what else differs
    doubts: Sequence[str]  # reasons against A or B

    @property
    def failed(self) -> bool:
        """Whether anything is slower by more than the limit, significantly."""
        return any(each.is_slower(self.limit) for each in (*self.benchmarks, self.overall))

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "kind": self.kind,
            "fail_above": self.limit,
            "level": LEVEL,
            "failed": self.failed,
            "valid": not self.doubts,
            "reasons": list(self.doubts),
            "notes": list(self.notes),
            "overall": self.overall.to_json(self.limit),
            "benchmarks": [each.to_json(self.limit) for each in self.benchmarks],
        }


def compare(a: Measurement, b: Measurement, limit: float) -> Comparison:
    """B against A; raises ConfigError where they are not comparable."""
    differences = list(what_differs(a, b))
    if differences:
        raise ConfigError(
            f"these two cannot be compared: {'; '.join(differences)}; measure both alike"
        )
    others = {each.name: each for each in b.benchmarks}
    pairs = [(each, others[each.name]) for each in a.benchmarks]
    shifts, errors, overall_error = _bootstrap(pairs)
    freedom = _freedom(pairs)
    wide = _student(1 - (1 - LEVEL) / len(pairs), freedom)
    return Comparison(
        a.cipherfleet.kind,
        limit,
        [
            _ratio(first.name, shift, wide * error)
            for (first, _), shift, error in zip(pairs, shifts, errors, strict=True)
        ],
        _ratio("overall", float(np.mean(shifts)), _student(LEVEL, freedom) * overall_error),
        list(_notes(a, b)),
        list(_doubts(a.cipherfleet.verdict.reasons, b.cipherfleet.verdict.reasons)),
    )


def _doubts(of_a: Sequence[str], of_b: Sequence[str]) -> Iterator[str]:
    """Each reason once, with the measurements that it speaks against."""
    for reason in dict.fromkeys([*of_a, *of_b]):
        names = [name for name, reasons in (("A", of_a), ("B", of_b)) if reason in reasons]
        yield f"{' and '.join(names)}: {reason}"


def _ratio(name: str, shift: float, half_width: float) -> Ratio:
    low, high = shift - half_width, min(shift + half_width, 700.0)  # e^710 is no float
    return Ratio(name, math.exp(shift), math.exp(low), math.exp(high))


# -- what may be compared ------------------------------------------------------------------------


def what_differs(a: Measurement, b: Measurement) -> Iterator[str]:
    """All that keeps *a* and *b* from being compared."""
    first, second = a.cipherfleet, b.cipherfleet
    if first.what != second.what:
        yield f"A is of {first.what}, B of {second.what}"
        return
    if first.kind != second.kind:
        yield f"kind is {first.kind} in A, {second.kind} in B"
    for key in sorted(first.settings.keys() | second.settings.keys()):
        ours, theirs = first.settings.get(key), second.settings.get(key)
        if ours != theirs:
            yield f"settings.{key} is {ours} in A, {theirs} in B"
    names = [{each.name for each in document.benchmarks} for document in (a, b)]
    for place, only in (("A", names[0] - names[1]), ("B", names[1] - names[0])):
        if only:
            yield f"only {place} has {', '.join(map(repr, sorted(only)[:3]))}"


def _notes(a: Measurement, b: Measurement) -> Iterator[str]:
    """What differs, and may be the very thing that is compared."""
    for first, second in zip(a.cipherfleet.targets, b.cipherfleet.targets, strict=False):
        ours, theirs = first.environment.before, second.environment.before
        for name in ("board", "cpu", "cores", "kernel", "governor", "revision"):
            if getattr(ours, name) != getattr(theirs, name):
                yield f"{name}: {getattr(ours, name)} in A, {getattr(theirs, name)} in B"
        for name in sorted(ours.versions.keys() | theirs.versions.keys()):
            if ours.versions.get(name) != theirs.versions.get(name):
                yield f"{name}: {ours.versions.get(name)} in A, {theirs.versions.get(name)} in B"


# -- chance --------------------------------------------------------------------------------------


def _bootstrap(
    pairs: Sequence[tuple[Benchmark, Benchmark]],
) -> tuple[list[float], list[float], float]:
    """Logarithms of the ratios, their standard errors, and that of their mean."""
    chance = np.random.default_rng(_SEED)
    sides = [[pair[side] for pair in pairs] for side in (0, 1)]
    drawn = [_drawn_processes(benchmarks, chance) for benchmarks in sides]
    middles = [
        np.stack([_medians(each, processes, chance) for each in benchmarks])
        for benchmarks, processes in zip(sides, drawn, strict=True)
    ]
    # Drawing k of k with replacement understates the variance between processes by (k - 1) / k.
    fewest = min(len(each.runs) for pair in pairs for each in pair)
    correction = math.sqrt(fewest / (fewest - 1)) if fewest > 1 else math.inf
    logs = np.log(middles[1]) - np.log(middles[0])  # (benchmarks, RESAMPLES)
    shifts = [math.log(np.median(b.samples) / np.median(a.samples)) for a, b in pairs]
    errors = [_times(correction, float(np.std(row))) for row in logs]
    return shifts, errors, _times(correction, float(np.std(logs.mean(axis=0))))


def _times(correction: float, error: float) -> float:
    """One process tells nothing of how processes differ, even where its samples are all alike."""
    return math.inf if math.isinf(correction) else correction * error


def _drawn_processes(benchmarks: Sequence[Benchmark], chance: np.random.Generator) -> Array:
    """Which processes are drawn, as fractions: the same for all benchmarks that they ran."""
    most = max(len(each.runs) for each in benchmarks)
    return chance.random((RESAMPLES, most))


def _medians(each: Benchmark, drawn: Array, chance: np.random.Generator) -> Array:
    """The median of each resample, shape (RESAMPLES,)."""
    count = len(each.runs)
    processes = (drawn[:, :count] * count).astype(int)
    sizes = np.array([len(run.values) for run in each.runs])
    padded = np.zeros((count, int(sizes.max())))
    for place, run in enumerate(each.runs):
        padded[place, : len(run.values)] = run.values
    width = min(int(np.median(sizes)), _MOST_DRAWN)
    places = chance.random((RESAMPLES, count, width)) * sizes[processes][:, :, None]
    samples = padded[processes[:, :, None], places.astype(int)]
    medians: Array = np.median(samples.reshape(RESAMPLES, -1), axis=1)
    return medians


def _freedom(pairs: Sequence[tuple[Benchmark, Benchmark]]) -> int:
    return max(1, min(len(a.runs) + len(b.runs) - 2 for a, b in pairs))


def _student(level: float, freedom: int) -> float:
    """The two-sided quantile of Student's distribution: the expansion in 1 / *freedom*.

    Within 1 % from 6 degrees of freedom on, at the levels used here.
    Source: Abramowitz and Stegun, 26.7.5; checked by test_the_quantiles_are_students.
    """
    z, v = NormalDist().inv_cdf((1 + level) / 2), float(freedom)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / v ** (place + 1) for place, term in enumerate(terms))
