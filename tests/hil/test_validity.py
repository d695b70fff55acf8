"""When a measurement is not valid: boards with recorded faults, samples that are too few."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from cipherfleet_hil.measurement.document import (
    LEAST_SAMPLES,
    Benchmark,
    Run,
    benchmark,
    figure,
)
from cipherfleet_hil.measurement.environment import Clock, Environment
from cipherfleet_hil.measurement.machine_load import Cpu, Memory, Quota
from cipherfleet_hil.measurement.validity import assess, spread
from tests.support.measured import BOARD, LATER, benchmarks, machine, samples


def reasons(before: Environment = BOARD, **after: Any) -> list[str]:
    return assess([machine(before=before, **after)], benchmarks()).reasons


def cpu(**more: float) -> Cpu:
    now = LATER.cpu_time
    return replace(now, **{name: getattr(now, name) + value for name, value in more.items()})


def test_a_cool_and_idle_board_is_valid() -> None:
    validity = assess([machine()], benchmarks())
    assert validity.valid
    assert validity.reasons == validity.notes == []


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (0x0, 0x50005, "pi: under-voltage during the measurement"),
        (0x0, 0x50005, "pi: throttled during the measurement"),
        (
            0x0,
            0x50000,
            "pi: under-voltage for part of the measurement (vcgencmd get_throttled: 0x0, then "
            "0x50000)",
        ),
        (0x50000, 0xD0000, "pi: the soft heat limit for part"),
        (0x0, 0x80008, "pi: the soft heat limit during"),
        (0x2, 0x20000, "pi: a capped clock during"),
    ],
)
def test_what_the_firmware_recorded_is_a_reason(before: int, after: int, expected: str) -> None:
    found = reasons(replace(BOARD, throttled=before), throttled=after)
    assert any(reason.startswith(expected) for reason in found), found


def test_what_happened_before_is_a_note_and_no_reason() -> None:
    past = 0x50000
    validity = assess(
        [machine(before=replace(BOARD, throttled=past), throttled=past)], benchmarks()
    )
    assert validity.valid
    assert validity.notes == [
        "pi: since boot, before the measurement: under-voltage, throttled; a repetition cannot be "
        "seen"
    ]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({"under_voltage": True}, "under-voltage (the supply monitor's alarm)"),
        ({"firmware_clock_hz": 1_500_345_728}, "the clock moved between 1500 and 1800 MHz"),
        ({"cpu_time": cpu(busy_s=40.0)}, "other processes took 11% of the CPU time"),
        ({"cpu_time": cpu(steal_s=12.0)}, "the hypervisor took 3% of the CPU time (steal)"),
        (
            {"memory": replace(LATER.memory, swapped_in=400, swapped_out=3)},
            "pages were swapped (400 in, 3 out; at most 25)",
        ),
        (
            {"quota": Quota(cpus=0.5, periods_throttled=9, throttled_s=1.0)},
            "the control group's CPU quota was used up 9 times",
        ),
    ],
    ids=["voltage", "clock", "others", "steal", "swap", "quota"],
)
def test_a_machine_in_trouble_is_a_reason(after: dict[str, Any], expected: str) -> None:
    (reason,) = reasons(**after)
    assert reason.startswith(f"pi: {expected}")


def test_limits_are_limits() -> None:
    """Just below each of them nothing is said."""
    assert not reasons(
        cpu_time=cpu(busy_s=15.0, steal_s=7.5),
        memory=replace(LATER.memory, swapped_in=25),
        firmware_clock_hz=1_720_000_000,
    )


def test_the_processors_own_count_of_throttling_is_a_reason() -> None:
    before = replace(BOARD, throttle_events=3)
    assert reasons(before, throttle_events=3) == []
    assert reasons(before, throttle_events=5) == ["pi: throttled 2 times (the processor's count)"]


def test_an_emulated_board_is_slow_by_its_quota_and_that_is_no_reason() -> None:
    quota = Quota(cpus=0.5, periods_throttled=900, throttled_s=40.0)
    assert assess([machine("emulated", quota=quota)], benchmarks()).valid


def test_the_clock_that_processes_saw_when_busy_counts_not_that_of_an_idle_board() -> None:
    idle: dict[str, Any] = {
        "firmware_clock_hz": 600_117_184,
        "clock": Clock(now=6, least=6, most=18),
    }
    governed = replace(BOARD, governor="ondemand")

    def seen(*clocks: int) -> list[Benchmark]:
        runs = samples(Random(1), 1e-3)
        noted = [
            replace(run, metadata={"clock_hz_least": hz, "clock_hz_most": 1_800_000_000})
            for run, hz in zip(runs, clocks, strict=True)
        ]
        return [benchmark("online", {}, noted)]

    steady = assess([machine(before=governed, **idle)], seen(*[1_800_000_000] * 5))
    assert steady.valid
    assert steady.notes == [
        "pi: governor ondemand: the clock may move; the governor performance fixes it"
    ]
    moved = assess([machine(before=governed, **idle)], seen(*[1_800_000_000] * 4, 1_400_000_000))
    assert len(moved.reasons) == 1
    assert "between 1400 and 1800 MHz" in moved.reasons[0]


def test_a_process_that_waited_for_a_cpu_is_a_reason() -> None:
    def shared(share: float) -> list[Benchmark]:
        runs = [replace(run, metadata={"cpu_share": share}) for run in samples(Random(1), 1e-3)]
        return [benchmark("online", {}, runs)]

    assert assess([machine()], shared(0.96)).valid
    (reason,) = assess([machine()], shared(0.80)).reasons
    assert reason.startswith("pi: a process had a CPU for only 80% of the timed runs")


def test_a_machine_that_reports_little_is_noted() -> None:
    silent = {"governor": None, "clock": None, "firmware_clock_hz": None, "throttled": None}
    target = machine("host", replace(BOARD, **silent), **silent, virtual=True, quota=None)
    validity = assess([target], benchmarks())
    assert validity.valid
    assert len(validity.notes) == 2
    assert validity.notes[0].startswith("pi: the machine does not report its clock")
    assert validity.notes[1].startswith("pi: a virtual machine")


def test_a_hot_board_is_noted() -> None:
    assert assess([machine(temperature_c=81.2)], benchmarks()).notes == [
        "pi: 81 °C at the end, at most 80 °C: cool the machine"
    ]


def test_too_few_processes_are_a_reason() -> None:
    made = benchmarks(processes=4)
    (reason,) = assess([machine()], made).reasons
    assert reason == "only 4 processes, at least 5 are needed"
    assert assess([machine()], made, least_processes=4).valid


def test_processes_that_disagree_are_a_reason_unless_their_time_is_random() -> None:
    medians = (1.0, 1.0, 1.2, 1.4, 1.6)
    wide = benchmark("wide", {}, [Run(values=[m * 1e-3] * 9) for m in medians])
    assert spread(wide) == pytest.approx(1.4826 * 0.2 / 1.2)
    (reason,) = assess([machine()], [wide, *benchmarks()]).reasons
    assert reason.startswith("the processes disagree on 1 of 4 benchmarks, most on 'wide': ")
    assert assess([machine()], [wide, *benchmarks()], random=["wide"]).valid
    tiny = benchmark("tiny", {}, [Run(values=[m * 1e-5] * 9) for m in medians])
    assert assess([machine()], [tiny]).valid, "a few microseconds are nothing beside a round"


def test_a_percentile_that_was_asked_for_needs_its_samples() -> None:
    made = benchmarks()  # 100 samples each
    assert assess([machine()], made, ["p50", "p95"]).valid
    (reason,) = assess([machine()], made, ["p99"]).reasons
    assert reason.startswith(
        "p99 was requested and needs 299 samples; 3 of 3 benchmarks have fewer"
    )


def test_a_percentile_without_enough_samples_is_not_computed() -> None:
    for key, least in LEAST_SAMPLES.items():
        p = int(key[1:]) / 100
        assert 1 - p**least >= 0.95 > 1 - p ** (least - 1)
    found = figure("any", {}, [float(n) for n in range(1, 60)])
    assert (found.n, found.p50, found.p90, found.p95) == (59, 30.0, 53.2, 56.1)
    assert found.p99 is None
    assert found.needs == {"p99": 299}


def test_memory_is_read_as_a_difference() -> None:
    past = Memory(
        total_kib=1, available_kib=1, swap_used_kib=90, swapped_in=9_000, swapped_out=9_000
    )
    assert not reasons(replace(BOARD, memory=past), memory=past)
