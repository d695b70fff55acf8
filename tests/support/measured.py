"""Measurements for tests: recorded machines, and random samples."""

from __future__ import annotations

import os
from collections.abc import Sequence
from random import Random
from typing import Any

from msgspec.structs import replace

from cipherfleet_hil.measurement.document import (
    Benchmark,
    Figure,
    Kind,
    Labels,
    Measurement,
    NodeFigures,
    Run,
    States,
    Target,
    benchmark,
    figure,
    measurement,
)
from cipherfleet_hil.measurement.environment import Clock, Environment
from cipherfleet_hil.measurement.machine_load import Cpu, Memory, Quota
from cipherfleet_hil.measurement.validity import assess
from cipherfleet_hil.measuring.rounds import MOST_UNACCOUNTED

# A board at rest, its clock held.
BOARD = Environment(
    taken_at="2026-05-01T10:00:00+00:00",
    uptime_s=1000.0,
    board="Raspberry Pi 4 Model B Rev 1.4",
    is_board=True,
    cpu="Cortex-A72",
    architecture="aarch64",
    cores=4,
    virtual=False,
    kernel="6.6.31+rpt-rpi-v8",
    governor="performance",
    clock=Clock(now=1_800_000_000, least=600_000_000, most=1_800_000_000),
    firmware_clock_hz=1_800_457_088,
    throttled=0,
    throttle_events=None,
    under_voltage=False,
    core_volts=0.86,
    temperature_c=48.3,
    load_1min=0.1,
    cpu_time=Cpu(total_s=4000.0, busy_s=200.0, steal_s=0.0, own_s=0.5),
    memory=Memory(
        total_kib=3_884_000, available_kib=3_500_000, swap_used_kib=0, swapped_in=0, swapped_out=0
    ),
    quota=Quota(cpus=None, periods_throttled=0, throttled_s=0.0),
    clock_source="arch_sys_counter",
    versions={"cipherfleet": "0.1.0", "gmp": "6.3.0"},
    revision=None,
)
# After 100 s in which the measurement kept one of four cores busy, and others next to nothing.
LATER = replace(
    BOARD,
    taken_at="2026-05-01T10:01:40+00:00",
    uptime_s=1100.0,
    cpu_time=Cpu(total_s=4400.0, busy_s=304.0, steal_s=0.0, own_s=100.5),
)


def machine(kind: Kind = "device", before: Environment = BOARD, **after: Any) -> Target:
    """A target that changed as *after* says while it was measured."""
    states = States(before=before, after=replace(LATER, **after))
    return Target(name="pi", kind=kind, environment=states)


def samples(
    rng: Random, middle: float, processes: int = 5, count: int = 20, between: float = 0.01
) -> list[Run]:
    """Times around *middle* seconds; the medians of processes differ by *between*."""
    runs = []
    for _ in range(processes):
        own = middle * (1 + between * rng.gauss(0, 1))
        runs.append(Run(values=[own * (1 + rng.expovariate(100)) for _ in range(count)]))
    return runs


def benchmarks(seed: int = 1, times: float = 1.0, **how: Any) -> list[Benchmark]:
    """A benchmark of 2 ms, and one of 20 ms at two sizes, all *times* as long."""
    rng = Random(seed)
    sizes: list[tuple[float, Labels]] = [
        (2e-3, {"case": "online", "key_bits": 2048, "dimension": 8, "degree": 4}),
        (2e-2, {"case": "phe", "key_bits": 2048, "dimension": 8, "degree": 4}),
        (8e-2, {"case": "phe", "key_bits": 2048, "dimension": 32, "degree": 4}),
    ]
    return [
        benchmark(
            f"{labels['case']}, d={labels['dimension']}",
            labels,
            samples(rng, times * middle, **how),
        )
        for middle, labels in sizes
    ]


def document(
    made: Sequence[Benchmark] | None = None, target: Target | None = None, **result: Any
) -> Measurement:
    """A measurement with its verdict."""
    made, target = list(made or benchmarks()), target or machine()
    return measurement(
        what=result.pop("what", "crypto"),
        kind=target.kind,
        title=result.pop("title", "the encrypted exchange on a board"),
        command="cipherfleet bench crypto",
        settings=result.pop("settings", {"key_bits": [2048], "clock": "wall"}),
        targets=[target],
        verdict=assess([target], made),
        benchmarks=made,
        **result,
    )


def rounds(nodes: int = 3, target: Target | None = None) -> Measurement:
    """A measurement of rounds, with phases of every node and predictions."""
    rng = Random(2)
    middles = {"encrypt": 1e-3, "wait": 8e-3, "answer": 2e-3, "decrypt": 2.3e-3, "round": 14e-3}
    made = [
        benchmark(
            f"{phase}, n={degree}",
            {"phase": phase, "key_bits": 2048, "dimension": 4, "degree": degree},
            samples(rng, middle * (1 + degree / 8)),
        )
        for phase, middle in middles.items()
        for degree in (2, 4)
    ]

    def phases() -> dict[str, Figure]:
        return {
            phase: figure(phase, {}, [middle * rng.uniform(0.9, 1.1) for _ in range(20)])
            for phase, middle in middles.items()
        }

    counts = {"rounds": 20.0, "network_share": 0.1234, "bytes_sent_per_round": 2646.0}
    return document(
        made,
        target or machine("emulated"),
        what="rounds",
        title=f"{nodes} nodes on a ring",
        nodes=[
            NodeFigures(name=f"node{n}", target="pi", phases=phases(), counts=counts)
            for n in range(nodes)
        ],
        predicted={"round, n=2": 15e-3, "decrypt, n=4": 4e-3},
    )


def most_unaccounted() -> float:
    """The share of a round's time that may be in no phase: more if this machine is busy.

    Between two phases a busy machine may take the processor away. Such a measurement calls itself
    not valid.
    """
    is_busy = os.getloadavg()[0] > 2 * (os.cpu_count() or 1)
    return 0.5 if is_busy else MOST_UNACCOUNTED
