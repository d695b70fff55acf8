"""Time the parts of an exchange in independent processes, one after another on one machine."""

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
from cipherfleet_hil.measurement.environment import Environment, read_environment
from cipherfleet_hil.measurement.validity import LEAST_PROCESSES, assess
from cipherfleet_hil.targets.target import LeasedTarget
from cipherfleet_node.errors import CipherfleetError

from .cases import RANDOM, benchmark_name
from .sampling import ClockName, Effort
from .worker import Samples

WORKER_WITHIN_S = 3600.0  # enough for 4096 bits on the slowest board

Worker = Callable[[Sequence[str]], str]  # maps arguments of the worker to its output
Follow = Callable[[Sequence[tuple[int, int]]], Iterable[tuple[int, int]]]


class MeasuringFailed(CipherfleetError):
    """A worker failed; the text quotes its last line."""


@dataclass(frozen=True)
class CryptoPlan:
    """The cases and sizes to measure, and the effort."""

    key_bits: Sequence[int] = (2048,)
    dimensions: Sequence[int] = (1, 8, 32)
    degrees: Sequence[int] = (1, 4)
    processes: int = LEAST_PROCESSES
    effort: Effort = field(default_factory=lambda: Effort(14.0, 1))  # per process
    clock: ClockName = "wall"
    percentiles: Sequence[str] = ("p50",)
    cases: Sequence[str] = ()  # names; empty means all

    @property
    def jobs(self) -> list[tuple[int, int]]:
        """Pairs of process and key size.

        The sizes alternate, so that a drift affects all of them.
        """
        return [(process, bits) for process in range(self.processes) for bits in self.key_bits]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that must be equal in two documents that are compared."""
        return {
            "key_bits": list(self.key_bits),
            "dimensions": list(self.dimensions),
            "degrees": list(self.degrees),
            "cases": list(self.cases) or "all",
            "clock": self.clock,
        }

    def worker_arguments(self, bits: int) -> list[str]:
        """Return the worker's arguments for a process at key size *bits*."""
        arguments = ["crypto", "--bits", str(bits), "--clock", self.clock]
        arguments += ["--seconds", str(self.effort.seconds), "--passes", str(self.effort.passes)]
        for flag, values in (
            ("--dimension", self.dimensions), ("--degree", self.degrees), ("--case", self.cases)
        ):  # fmt: skip
            arguments += [word for value in values for word in (flag, str(value))]
        return arguments


@dataclass(frozen=True)
class WorkerHost:
    """A machine on which workers run."""

    name: str
    kind: Kind
    worker: Worker
    state: Callable[[], Environment]


def this_machine() -> WorkerHost:
    """Return this machine: kind `device` if its firmware names a board, otherwise `host`."""
    kind: Kind = "device" if read_environment().is_board else "host"
    return WorkerHost("local", kind, run_worker, lambda: read_environment([os.getpid()]))


def make_worker_host(target: LeasedTarget) -> WorkerHost:
    """Return *target* as a worker host; the caller holds its lease."""

    def worker(arguments: Sequence[str]) -> str:
        return target.run(
            target.module("cipherfleet_hil.measuring.worker", *arguments), WORKER_WITHIN_S
        )

    return WorkerHost(target.name, target.kind, worker, target.environment)


def run_worker(arguments: Sequence[str]) -> str:
    """Run a worker on this machine and return its output. Raises MeasuringFailed."""
    command = [sys.executable, "-m", "cipherfleet_hil.measuring.worker", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        error_lines = done.stderr.strip().splitlines()
        raise MeasuringFailed(
            f"the worker ({' '.join(arguments[:3])}) ended with {done.returncode}: "
            f"{error_lines[-1] if error_lines else 'no error text'}"
        )
    return done.stdout


def measure_crypto(
    plan: CryptoPlan, host: WorkerHost, command: str, follow: Follow = iter
) -> Measurement:
    """Run *plan* on *host*. *follow* wraps the iteration over the jobs. Raises MeasuringFailed."""
    before = host.state()
    runs: dict[str, list[Run]] = defaultdict(list)
    labels: dict[str, Mapping[str, Any]] = {}
    for process, bits in follow(plan.jobs):
        for each in msgspec.json.decode(
            host.worker(plan.worker_arguments(bits)), type=Samples
        ).cases:
            name = benchmark_name(each.labels)
            labels[name] = each.labels
            metadata = {**each.run.metadata, "process": process, "target": host.name}
            runs[name].append(msgspec.structs.replace(each.run, metadata=metadata))
    target = Target(
        name=host.name,
        kind=host.kind,
        environment=States(before=before, after=host.state()),
    )
    benchmarks = [benchmark(name, dict(labels[name]), runs[name]) for name in labels]
    return _document(plan, target, benchmarks, command)


def _document(
    plan: CryptoPlan, target: Target, benchmarks: list[Benchmark], command: str
) -> Measurement:
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
        verdict=assess([target], benchmarks, plan.percentiles, random),
        benchmarks=benchmarks,
        effort={
            "processes": plan.processes,
            "seconds": plan.effort.seconds,
            "passes": plan.effort.passes,
            "percentiles": list(plan.percentiles),
        },
    )
