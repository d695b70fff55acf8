"""Compare two measurements and decide if the second is significantly slower than the first.

The figure is the ratio of medians, B over A. A hierarchical bootstrap estimates its random
variation: it samples processes with replacement, and then samples within each process, because the
samples of one process are correlated. The interval is Student's, with the standard error of the
bootstrap; the number of processes gives the degrees of freedom. With m benchmarks each interval has
the level 1 - 0.05 / m (Bonferroni), so that the probability of any false alarm among them is at
most 5 %. The overall figure, the geometric mean of all ratios, is one more test at 5 %.

An interval does not cover changes between the measurements that are not in the samples, for example
another room temperature. The limit and the validity of both measurements allow for those.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist

import msgspec
import numpy as np
import numpy.typing as npt

from cipherfleet_node.errors import ConfigError

from .document import Benchmark, Kind, Measurement

Array = npt.NDArray[np.float64]
LEVEL = 0.95
RESAMPLES = 1000
_SEED = 2604_21381  # fixed, so that the same documents give the same interval
_MOST_SAMPLES = 200  # samples per process: more do not change its median noticeably


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """The time of B over that of A, with its interval."""

    name: str
    ratio: float
    low: float
    high: float
    significant: bool  # the interval does not contain 1
    fails: bool  # significant, and slower by more than the limit


class CompareResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `bench compare`: `--json` prints these keys in this order."""

    kind: Kind
    fail_above: float  # the limit; 0.05: slower by 5 %
    level: float  # of confidence
    failed: bool  # a ratio fails
    valid: bool  # there are no reasons
    reasons: list[str]  # against A or B
    notes: list[str]  # other differences, which may explain the result
    overall: Ratio
    benchmarks: list[Ratio]


def compare(a: Measurement, b: Measurement, limit: float) -> CompareResult:
    """Compare B with A; B fails if it is slower by more than *limit* (0.05: 5 %).

    Raises ConfigError if they are not comparable.
    """
    differences = list(find_differences(a, b))
    if differences:
        raise ConfigError(
            f"A and B cannot be compared: {'; '.join(differences)}",
            remedy="measure both with the same settings",
        )
    others = {each.name: each for each in b.benchmarks}
    pairs = [(each, others[each.name]) for each in a.benchmarks]
    shifts, errors, overall_error = _bootstrap(pairs)
    freedom = _degrees_of_freedom(pairs)
    wide = _student_quantile(1 - (1 - LEVEL) / len(pairs), freedom)
    benchmarks = [
        _ratio(first.name, shift, wide * error, limit)
        for (first, _), shift, error in zip(pairs, shifts, errors, strict=True)
    ]
    half_width = _student_quantile(LEVEL, freedom) * overall_error
    overall = _ratio("overall", float(np.mean(shifts)), half_width, limit)
    reasons = list(_reasons_of_both(a.cipherfleet.verdict.reasons, b.cipherfleet.verdict.reasons))
    return CompareResult(
        kind=a.cipherfleet.kind,
        fail_above=limit,
        level=LEVEL,
        failed=any(each.fails for each in (*benchmarks, overall)),
        valid=not reasons,
        reasons=reasons,
        notes=list(_find_notes(a, b)),
        overall=overall,
        benchmarks=benchmarks,
    )


def _reasons_of_both(of_a: Sequence[str], of_b: Sequence[str]) -> Iterator[str]:
    """Yield each reason once, with the measurements that it invalidates."""
    for reason in dict.fromkeys([*of_a, *of_b]):
        names = [name for name, reasons in (("A", of_a), ("B", of_b)) if reason in reasons]
        yield f"{' and '.join(names)}: {reason}"


def _ratio(name: str, shift: float, half_width: float, limit: float) -> Ratio:
    ratio, low = math.exp(shift), math.exp(shift - half_width)
    high = math.exp(min(shift + half_width, 700.0))  # e^710 overflows a float
    significant = low > 1 or high < 1
    return Ratio(
        name=name,
        ratio=ratio,
        low=low,
        high=high,
        significant=significant,
        fails=significant and ratio > 1 + limit,
    )


# -- comparability -------------------------------------------------------------------------------


def find_differences(a: Measurement, b: Measurement) -> Iterator[str]:
    """Yield the differences for which *a* and *b* cannot be compared."""
    first, second = a.cipherfleet, b.cipherfleet
    if first.what != second.what:
        yield f"A measures {first.what}, B measures {second.what}"
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


def _find_notes(a: Measurement, b: Measurement) -> Iterator[str]:
    """Yield differences that do not prevent a comparison: they may be its subject."""
    for first, second in zip(a.cipherfleet.targets, b.cipherfleet.targets, strict=False):
        ours, theirs = first.environment.before, second.environment.before
        for name in ("board", "cpu", "cores", "kernel", "governor", "revision"):
            if getattr(ours, name) != getattr(theirs, name):
                yield f"{name}: {getattr(ours, name)} in A, {getattr(theirs, name)} in B"
        for name in sorted(ours.versions.keys() | theirs.versions.keys()):
            if ours.versions.get(name) != theirs.versions.get(name):
                yield f"{name}: {ours.versions.get(name)} in A, {theirs.versions.get(name)} in B"


# -- random variation ----------------------------------------------------------------------------


def _bootstrap(
    pairs: Sequence[tuple[Benchmark, Benchmark]],
) -> tuple[list[float], list[float], float]:
    """Return the logarithms of the ratios, their standard errors, and the error of their mean."""
    rng = np.random.default_rng(_SEED)
    sides = [[pair[side] for pair in pairs] for side in (0, 1)]
    drawn = [_sample_processes(benchmarks, rng) for benchmarks in sides]
    middles = [
        np.stack([_medians(each, processes, rng) for each in benchmarks])
        for benchmarks, processes in zip(sides, drawn, strict=True)
    ]
    # Sampling k of k with replacement understates the variance between processes by (k - 1) / k.
    fewest = min(len(each.runs) for pair in pairs for each in pair)
    correction = math.sqrt(fewest / (fewest - 1)) if fewest > 1 else math.inf
    logs = np.log(middles[1]) - np.log(middles[0])  # (benchmarks, RESAMPLES)
    shifts = [math.log(np.median(b.samples) / np.median(a.samples)) for a, b in pairs]
    errors = [_times(correction, float(np.std(row))) for row in logs]
    return shifts, errors, _times(correction, float(np.std(logs.mean(axis=0))))


def _times(correction: float, error: float) -> float:
    """Apply *correction*; with one process the error is infinite, even if its samples are equal."""
    return math.inf if math.isinf(correction) else correction * error


def _sample_processes(benchmarks: Sequence[Benchmark], rng: np.random.Generator) -> Array:
    """Choose processes as fractions of their number, the same for all benchmarks that they ran."""
    most = max(len(each.runs) for each in benchmarks)
    return rng.random((RESAMPLES, most))


def _medians(each: Benchmark, drawn: Array, rng: np.random.Generator) -> Array:
    """Return the median of each resample, shape (RESAMPLES,)."""
    count = len(each.runs)
    processes = (drawn[:, :count] * count).astype(int)
    sizes = np.array([len(run.values) for run in each.runs])
    padded = np.zeros((count, int(sizes.max())))
    for place, run in enumerate(each.runs):
        padded[place, : len(run.values)] = run.values
    width = min(int(np.median(sizes)), _MOST_SAMPLES)
    places = rng.random((RESAMPLES, count, width)) * sizes[processes][:, :, None]
    samples = padded[processes[:, :, None], places.astype(int)]
    medians: Array = np.median(samples.reshape(RESAMPLES, -1), axis=1)
    return medians


def _degrees_of_freedom(pairs: Sequence[tuple[Benchmark, Benchmark]]) -> int:
    return max(1, min(len(a.runs) + len(b.runs) - 2 for a, b in pairs))


def _student_quantile(level: float, freedom: int) -> float:
    """Return the two-sided quantile of Student's distribution, by its expansion in 1 / *freedom*.

    The error is below 1 % from 6 degrees of freedom on, at the levels used here.
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
