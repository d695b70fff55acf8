"""Validity checks: reasons to reject a measurement, and caveats.

The limits are constants of this module, and every reason states its limit. A figure from a machine
that was throttled, had under-voltage or ran other work is still recorded, but is marked not valid.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from statistics import median

from .document import LEAST_SAMPLES, Benchmark, Kind, Target, Validity
from .environment import Environment

LEAST_PROCESSES = 5  # because memory layout, hash seeds and keys differ between processes
OTHER_LOAD = 0.05  # share of the machine's CPU time that other processes may use
STEAL = 0.02  # share of the machine's CPU time that the hypervisor may take
WAITED = 0.05  # share of a run's time without a CPU: the timed code never waits
CLOCK_MOVED = 0.05
SWAPPED_PAGES = 25
SPREAD = 0.10  # limit of `spread`, of the processes' medians
SPREAD_S = 10e-6  # a smaller difference does not matter for a round
HOT_C = 80.0  # boards begin to throttle here
_FIXED_GOVERNORS = {"performance", "userspace"}
_MAD_TO_SIGMA = 1.4826  # for a normal distribution
# vcgencmd get_throttled: bits of the present; the bits 16 places higher are for the time since
# boot.
_BITS = {0: "under-voltage", 1: "a capped clock", 2: "throttled", 3: "the soft heat limit"}


def assess(
    targets: Sequence[Target],
    benchmarks: Sequence[Benchmark],
    percentiles: Collection[str] = (),
    random: Collection[str] = (),
    least_processes: int = LEAST_PROCESSES,
) -> Validity:
    """Decide whether a measurement is valid.

    *percentiles* (such as "p95") were requested. Benchmarks in *random* take a random time, for
    example a search for primes; their spread is not checked.
    """
    reasons = [reason for target in targets for reason in invalidating_reasons(target, benchmarks)]
    reasons += invalidating_sample_reasons(benchmarks, percentiles, random, least_processes)
    notes = [note for target in targets for note in caveats(target)]
    return Validity(valid=not reasons, reasons=reasons, notes=notes)


# -- machines ------------------------------------------------------------------------------------


def invalidating_reasons(target: Target, benchmarks: Sequence[Benchmark] = ()) -> Iterator[str]:
    """Yield the reasons to reject what was measured on *target*."""
    before, after = target.environment.before, target.environment.after
    clocks = _clocks(target, benchmarks) or _reported_clocks(before, after)
    for reason in (
        *_throttling(before, after),
        *_moved_clock(clocks),
        *_other_load(before, after),
        *_swapping(before, after),
        *_quota(before, after, target.kind),
        *_waiting(target, benchmarks),
    ):
        yield f"{target.name}: {reason}"


def _throttling(before: Environment, after: Environment) -> Iterator[str]:
    was, is_ = before.throttled or 0, after.throttled or 0
    for bit, name in _BITS.items():
        if (was | is_) >> bit & 1:
            yield f"{name} during the measurement (vcgencmd get_throttled: 0x{was | is_:x})"
        elif (is_ & ~was) >> (bit + 16) & 1:
            yield (
                f"{name} for part of the measurement (vcgencmd get_throttled: 0x{was:x}, then "
                f"0x{is_:x})"
            )
    if (before.under_voltage or after.under_voltage) and not (was | is_) & 1:
        yield "under-voltage (the supply monitor's alarm)"
    events = (after.throttle_events or 0) - (before.throttle_events or 0)
    if events > 0:
        yield f"throttled {events} times (the processor's count)"


def _clocks(target: Target, benchmarks: Sequence[Benchmark]) -> list[int]:
    """Return the clocks that the processes read while they were busy, in Hz."""
    keys = ("clock_hz_least", "clock_hz_most")
    return [int(hz) for key in keys for hz in _run_values(target, benchmarks, key)]


def _run_values(target: Target, benchmarks: Sequence[Benchmark], key: str) -> list[float]:
    return [
        float(run.metadata[key])
        for benchmark in benchmarks
        for run in benchmark.runs
        if key in run.metadata and run.metadata.get("target", target.name) == target.name
    ]


def _reported_clocks(before: Environment, after: Environment) -> list[int]:
    both = (before, after)
    found = [each.firmware_clock_hz for each in both if each.firmware_clock_hz is not None]
    return found or [each.clock.now for each in both if each.clock is not None]


def _moved_clock(clocks: Sequence[int]) -> Iterator[str]:
    if clocks and min(clocks) < (1 - CLOCK_MOVED) * max(clocks):
        least, most = (round(hz / 1e6) for hz in (min(clocks), max(clocks)))
        yield (
            f"the clock moved between {least} and {most} MHz, by more than {CLOCK_MOVED:.0%}: "
            "set the governor to performance, and cool the board"
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
            "stop them and measure again"
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
        text = ", ".join(f"{pages} {way}" for way, pages in moved.items())
        yield f"pages were swapped ({text}; at most {SWAPPED_PAGES}): free memory first"


def _quota(before: Environment, after: Environment, kind: Kind) -> Iterator[str]:
    if before.quota is None or after.quota is None or kind == "emulated":
        return  # an emulated device is slow because of its quota
    times = after.quota.periods_throttled - before.quota.periods_throttled
    if times > 0:
        yield f"the control group's CPU quota was used up {times} times"


def _waiting(target: Target, benchmarks: Sequence[Benchmark]) -> Iterator[str]:
    shares = _run_values(target, benchmarks, "cpu_share")
    if shares and target.kind != "emulated" and min(shares) < 1 - WAITED:
        yield (
            f"a process had a CPU for only {min(shares):.0%} of the timed runs, "
            f"at least {1 - WAITED:.0%} are needed: another process ran"
        )


def caveats(target: Target) -> Iterator[str]:
    """Yield what a reader must know of *target* although it does not invalidate the measurement."""
    before, after = target.environment.before, target.environment.after
    for note in (*_clock_caveats(before), *_past_caveats(before, after), *_heat_caveats(after)):
        yield f"{target.name}: {note}"
    if after.virtual:
        yield f"{target.name}: a virtual machine: others may share its processor unnoticed"


def _clock_caveats(before: Environment) -> Iterator[str]:
    if before.governor is None:
        yield "the machine does not report its clock, so a change of the clock cannot be seen"
    elif not set(before.governor.split(", ")) <= _FIXED_GOVERNORS:
        yield f"governor {before.governor}: the clock may move; the governor performance fixes it"


def _past_caveats(before: Environment, after: Environment) -> Iterator[str]:
    both = (before.throttled or 0) & (after.throttled or 0)
    names = [name for bit, name in _BITS.items() if both >> (bit + 16) & 1]
    if names:
        yield f"since boot, before the measurement: {', '.join(names)}; a repetition cannot be seen"


def _heat_caveats(after: Environment) -> Iterator[str]:
    if after.temperature_c is not None and after.temperature_c >= HOT_C:
        yield f"{after.temperature_c:.0f} °C at the end, at most {HOT_C:.0f} °C: cool the machine"


# -- samples -------------------------------------------------------------------------------------


def spread(benchmark: Benchmark) -> float:
    """Return 1.4826 times the MAD of the processes' medians, over their median.

    MAD is the median absolute deviation. For a normal distribution, 1.4826 MAD is the standard
    deviation.
    """
    medians = [median(run.values) for run in benchmark.runs]
    middle = median(medians)
    return _MAD_TO_SIGMA * median(abs(each - middle) for each in medians) / middle


def _is_spread_too_wide(benchmark: Benchmark) -> bool:
    width = spread(benchmark)
    return width > SPREAD and width * median(benchmark.samples) > SPREAD_S


def invalidating_sample_reasons(
    benchmarks: Sequence[Benchmark],
    percentiles: Collection[str] = (),
    random: Collection[str] = (),
    least_processes: int = LEAST_PROCESSES,
) -> Iterator[str]:
    """Yield the reasons to reject the samples themselves."""
    processes = min(len(benchmark.runs) for benchmark in benchmarks)
    if processes < least_processes:
        yield f"only {processes} processes, at least {least_processes} are needed"
    wide = {
        b.name: spread(b) for b in benchmarks if b.name not in random and _is_spread_too_wide(b)
    }
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
                f"{key} was requested and needs {LEAST_SAMPLES[key]} samples; {len(few)} of "
                f"{len(benchmarks)} benchmarks have fewer, {least.name!r} only "
                f"{len(least.samples)}: measure longer"
            )
