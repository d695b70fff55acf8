"""Whether a measurement means what it says: reasons against it, and notes.

Limits are stated here and told with every reason. A figure taken on a machine that was throttled,
short of power or busy with something else is still written down, and called not valid.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from statistics import median

from .document import LEAST_SAMPLES, Benchmark, Kind, Target, Verdict
from .environment import Environment

LEAST_PROCESSES = 5  # memory layout, hash seeds and keys differ between processes
OTHER_LOAD = 0.05  # of the machine's CPU time, by processes that are not measured
STEAL = 0.02  # of the machine's CPU time, by the hypervisor
WAITED = 0.05  # of the time of runs, for a CPU: what is timed computes without a pause
CLOCK_MOVED = 0.05
SWAPPED_PAGES = 25
SPREAD = 0.10  # of the processes' medians: see `spread`
SPREAD_S = 10e-6  # less than that is nothing beside a round, whatever it is a part of
HOT_C = 80.0  # where boards begin to slow down
_FIXED_GOVERNORS = {"performance", "userspace"}
_MAD_TO_SIGMA = 1.4826  # of a normal distribution
# vcgencmd get_throttled: now; 16 bits higher the same since the start of the machine.
_BITS = {0: "under-voltage", 1: "a capped clock", 2: "throttled", 3: "the soft heat limit"}


def judge(
    targets: Sequence[Target],
    benchmarks: Sequence[Benchmark],
    percentiles: Collection[str] = (),
    random: Collection[str] = (),
    least_processes: int = LEAST_PROCESSES,
) -> Verdict:
    """The verdict on a measurement.

    *percentiles* (such as "p95") are asked for; benchmarks in *random* take a random time, such as
    a search for primes, and are not judged by their spread.
    """
    reasons = [told for target in targets for told in doubts(target, benchmarks)]
    reasons += doubtful_samples(benchmarks, percentiles, random, least_processes)
    notes = [told for target in targets for told in remarks(target)]
    return Verdict(valid=not reasons, reasons=reasons, notes=notes)


# -- machines ------------------------------------------------------------------------------------


def doubts(target: Target, benchmarks: Sequence[Benchmark] = ()) -> Iterator[str]:
    """Reasons against what was measured on *target*."""
    before, after = target.environment.before, target.environment.after
    clocks = _clocks(target, benchmarks) or _told_clocks(before, after)
    for told in (
        *_throttling(before, after),
        *_moved_clock(clocks),
        *_other_load(before, after),
        *_swapping(before, after),
        *_quota(before, after, target.kind),
        *_waiting(target, benchmarks),
    ):
        yield f"{target.name}: {told}"


def _throttling(before: Environment, after: Environment) -> Iterator[str]:
    was, is_ = before.throttled or 0, after.throttled or 0
    for bit, name in _BITS.items():
        if (was | is_) >> bit & 1:
            yield f"{name} while it was measured (vcgencmd get_throttled: 0x{was | is_:x})"
        elif (is_ & ~was) >> (bit + 16) & 1:
            yield f"{name} for a while (vcgencmd get_throttled: 0x{was:x}, then 0x{is_:x})"
    told = (before.throttled or 0) | (after.throttled or 0)
    if (before.under_voltage or after.under_voltage) and not told & 1:
        yield "under-voltage (the supply monitor's alarm)"
    events = (after.throttle_events or 0) - (before.throttle_events or 0)
    if events > 0:
        yield f"throttled {events} times (the processor's count)"


def _clocks(target: Target, benchmarks: Sequence[Benchmark]) -> list[int]:
    """What the processes read while they were busy, Hz."""
    keys = ("clock_hz_least", "clock_hz_most")
    return [int(hz) for key in keys for hz in _of_runs(target, benchmarks, key)]


def _of_runs(target: Target, benchmarks: Sequence[Benchmark], key: str) -> list[float]:
    return [
        float(run.metadata[key])
        for benchmark in benchmarks
        for run in benchmark.runs
        if key in run.metadata and run.metadata.get("target", target.name) == target.name
    ]


def _told_clocks(before: Environment, after: Environment) -> list[int]:
    both = (before, after)
    told = [each.firmware_clock_hz for each in both if each.firmware_clock_hz is not None]
    return told or [each.clock.now for each in both if each.clock is not None]


def _moved_clock(clocks: Sequence[int]) -> Iterator[str]:
    if clocks and min(clocks) < (1 - CLOCK_MOVED) * max(clocks):
        least, most = (round(hz / 1e6) for hz in (min(clocks), max(clocks)))
        yield (
            f"the clock moved between {least} and {most} MHz, by more than {CLOCK_MOVED:.0%}: "
            "fix the governor (performance), cool the board"
        )


def _other_load(before: Environment, after: Environment) -> Iterator[str]:
    then, now = before.cpu_time, after.cpu_time
    total = now.total_s - then.total_s
    if total <= 0:
        return
    others = (now.busy_s - then.busy_s - (now.own_s - then.own_s)) / total
    if others > OTHER_LOAD:
        yield (
            f"other processes took {others:.0%} of the CPU time, more than {OTHER_LOAD:.0%}: "
            "stop them, and measure again"
        )
    stolen = (now.steal_s - then.steal_s) / total
    if stolen > STEAL:
        yield f"the hypervisor took {stolen:.0%} of the CPU time (steal), more than {STEAL:.0%}"


def _swapping(before: Environment, after: Environment) -> Iterator[str]:
    moved = {
        "in": after.memory.swapped_in - before.memory.swapped_in,
        "out": after.memory.swapped_out - before.memory.swapped_out,
    }
    if max(moved.values()) > SWAPPED_PAGES:
        told = ", ".join(f"{pages} {way}" for way, pages in moved.items())
        yield f"pages were swapped ({told}; at most {SWAPPED_PAGES}): free memory first"


def _quota(before: Environment, after: Environment, kind: Kind) -> Iterator[str]:
    if before.quota is None or after.quota is None or kind == "emulated":
        return  # an emulated device is slow by its very quota
    times = after.quota.periods_throttled - before.quota.periods_throttled
    if times > 0:
        yield f"the control group's CPU quota was used up {times} times"


def _waiting(target: Target, benchmarks: Sequence[Benchmark]) -> Iterator[str]:
    shares = _of_runs(target, benchmarks, "cpu_share")
    if shares and target.kind != "emulated" and min(shares) < 1 - WAITED:
        yield (
            f"a process had a CPU for only {min(shares):.0%} of what was timed, "
            f"at least {1 - WAITED:.0%} are needed: something else ran"
        )


def remarks(target: Target) -> Iterator[str]:
    """What is worth knowing of *target*, and no reason to doubt."""
    before, after = target.environment.before, target.environment.after
    for told in (*_about_clock(before), *_about_past(before, after), *_about_heat(after)):
        yield f"{target.name}: {told}"
    if after.virtual:
        yield f"{target.name}: a virtual machine: others may share its processor unseen"


def _about_clock(before: Environment) -> Iterator[str]:
    if before.governor is None:
        yield "it does not tell its clock, so nobody knows whether that moved"
    elif not set(before.governor.split(", ")) <= _FIXED_GOVERNORS:
        yield f"governor {before.governor}: the clock may move; performance holds it"


def _about_past(before: Environment, after: Environment) -> Iterator[str]:
    both = (before.throttled or 0) & (after.throttled or 0)
    names = [name for bit, name in _BITS.items() if both >> (bit + 16) & 1]
    if names:
        yield f"since its start, before this: {', '.join(names)}; whether again is not told"


def _about_heat(after: Environment) -> Iterator[str]:
    if after.temperature_c is not None and after.temperature_c >= HOT_C:
        yield f"{after.temperature_c:.0f} °C at the end: cool it"


# -- samples -------------------------------------------------------------------------------------


def spread(benchmark: Benchmark) -> float:
    """How far the medians of processes lie apart: 1.4826 times their MAD, over their median.

    MAD is the median absolute deviation; for a normal distribution this is the standard deviation.
    """
    medians = [median(run.values) for run in benchmark.runs]
    middle = median(medians)
    return _MAD_TO_SIGMA * median(abs(each - middle) for each in medians) / middle


def _is_wide(benchmark: Benchmark) -> bool:
    width = spread(benchmark)
    return width > SPREAD and width * median(benchmark.samples) > SPREAD_S


def doubtful_samples(
    benchmarks: Sequence[Benchmark],
    percentiles: Collection[str] = (),
    random: Collection[str] = (),
    least_processes: int = LEAST_PROCESSES,
) -> Iterator[str]:
    """Reasons against the samples themselves."""
    processes = min(len(benchmark.runs) for benchmark in benchmarks)
    if processes < least_processes:
        yield f"only {processes} processes, at least {least_processes} are needed"
    wide = {b.name: spread(b) for b in benchmarks if b.name not in random and _is_wide(b)}
    if wide:
        worst = max(wide, key=lambda name: wide[name])
        yield (
            f"the processes disagree on {len(wide)} of {len(benchmarks)} benchmarks, most on "
            f"{worst!r}: spread {wide[worst]:.0%}, at most {SPREAD:.0%}"
        )
    for key in sorted(percentiles):
        few = [b for b in benchmarks if len(b.samples) < LEAST_SAMPLES[key]]
        if few:
            least = min(few, key=lambda b: len(b.samples))
            yield (
                f"{key} was asked for and needs {LEAST_SAMPLES[key]} samples; {len(few)} of "
                f"{len(benchmarks)} benchmarks have fewer, {least.name!r} only "
                f"{len(least.samples)}: measure longer"
            )
