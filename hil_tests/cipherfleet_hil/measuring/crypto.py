"""Measure what the parts of an exchange take: independent processes on one machine, in turn."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cipherfleet_hil.measurement.document import (
    Benchmark,
    Kind,
    Measurement,
    Run,
    States,
    Target,
    benchmark,
    measurement,
)
from cipherfleet_hil.measurement.environment import Environment, environment
from cipherfleet_hil.measurement.validity import LEAST_PROCESSES, judge
from cipherfleet_hil.targets.target import KeptTarget
from cipherfleet_node.errors import CipherfleetError

from .cases import RANDOM, name_of
from .interleaved import Effort
from .sampling import ClockName
from .worker import Samples

WORKER_WITHIN_S = 3600.0  # 4096 bits on the slowest board

Worker = Callable[[Sequence[str]], str]  # arguments of the worker to what it prints
Follow = Callable[[Sequence[tuple[int, int]]], Iterable[tuple[int, int]]]


class MeasuringFailed(CipherfleetError):
    """A worker came to no end: its own line says why."""


@dataclass(frozen=True)
class Plan:
    """What to measure, and how long."""

    key_bits: Sequence[int] = (2048,)
    dimensions: Sequence[int] = (1, 8, 32)
    degrees: Sequence[int] = (1, 4)
    processes: int = LEAST_PROCESSES
    effort: Effort = field(default_factory=lambda: Effort(14.0, 1))  # of a process
    clock: ClockName = "wall"
    percentiles: Sequence[str] = ("p50",)
    cases: Sequence[str] = ()  # only those of these names

    @property
    def jobs(self) -> list[tuple[int, int]]:
        """Process and key size: sizes take turns, so that a drift meets all of them."""
        return [(process, bits) for process in range(self.processes) for bits in self.key_bits]

    @property
    def settings(self) -> dict[str, Any]:
        """What must be alike in two documents that are compared."""
        return {
            "key_bits": list(self.key_bits),
            "dimensions": list(self.dimensions),
            "degrees": list(self.degrees),
            "cases": list(self.cases) or "all",
            "clock": self.clock,
        }

    def words(self, bits: int) -> list[str]:
        """The worker's arguments for a process at *bits*."""
        words = ["crypto", "--bits", str(bits), "--clock", self.clock]
        words += ["--seconds", str(self.effort.seconds), "--laps", str(self.effort.laps)]
        for flag, values in (
            ("--dimension", self.dimensions), ("--degree", self.degrees), ("--case", self.cases)
        ):  # fmt: skip
            words += [word for value in values for word in (flag, str(value))]
        return words


@dataclass(frozen=True)
class Place:
    """A machine that workers run on."""

    name: str
    kind: Kind
    worker: Worker
    state: Callable[[], Environment]


def here() -> Place:
    """The machine that this runs on: a device if its firmware names a board, else a host."""
    kind: Kind = "device" if environment().is_board else "host"
    return Place("local", kind, run_worker, lambda: environment([os.getpid()]))


def place_of(target: KeptTarget) -> Place:
    """A machine of a bench, which is held meanwhile."""

    def worker(words: Sequence[str]) -> str:
        return target.run(
            target.module("cipherfleet_hil.measuring.worker", *words), WORKER_WITHIN_S
        )

    return Place(target.name, target.kind, worker, target.environment)


def run_worker(words: Sequence[str]) -> str:
    """What a worker on this machine prints; raises MeasuringFailed."""
    command = [sys.executable, "-m", "cipherfleet_hil.measuring.worker", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        told = done.stderr.strip().splitlines()
        raise MeasuringFailed(
            f"the worker ({' '.join(words[:3])}) ended with {done.returncode}: "
            f"{told[-1] if told else 'it said nothing'}"
        )
    return done.stdout


def measure_crypto(plan: Plan, place: Place, command: str, follow: Follow = iter) -> Measurement:
    """Run *plan* at *place*; *follow* sees its jobs as they are begun. Raises MeasuringFailed."""
    before = place.state()
    runs: dict[str, list[Run]] = defaultdict(list)
    labels: dict[str, Mapping[str, Any]] = {}
    for process, bits in follow(plan.jobs):
        for each in msgspec.json.decode(place.worker(plan.words(bits)), type=Samples).cases:
            name = name_of(each.labels)
            labels[name] = each.labels
            metadata = {**each.run.metadata, "process": process, "target": place.name}
            runs[name].append(msgspec.structs.replace(each.run, metadata=metadata))
    target = Target(
        name=place.name,
        kind=place.kind,
        environment=States(before=before, after=place.state()),
    )
    benchmarks = [benchmark(name, dict(labels[name]), runs[name]) for name in labels]
    return _document(plan, target, benchmarks, command)


def _document(plan: Plan, target: Target, benchmarks: list[Benchmark], command: str) -> Measurement:
    state = target.environment.before
    sizes = ", ".join(map(str, plan.key_bits))
    random = {each.name for each in benchmarks if each.labels["case"] in RANDOM}
    return measurement(
        what="crypto",
        kind=target.kind,
        title=f"the encrypted exchange at {sizes} bits on {state.board or state.cpu}",
        command=command,
        settings=plan.settings,
        targets=[target],
        verdict=judge([target], benchmarks, plan.percentiles, random),
        benchmarks=benchmarks,
        effort={
            "processes": plan.processes,
            "seconds": plan.effort.seconds,
            "laps": plan.effort.laps,
            "percentiles": list(plan.percentiles),
        },
    )
