"""Samples of interleaved cases within one process; every result is checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar, Literal

from cipherfleet_node.errors import CipherfleetError

ClockName = Literal["wall", "cpu"]
CLOCKS: dict[ClockName, Callable[[], int]] = {
    "wall": time.perf_counter_ns,
    "cpu": time.process_time_ns,
}
_SLOT_S = 0.03  # a short case is repeated for this long within its slot
_MOST_REPEATS = 25
_LONG_RUN_S = 0.25  # a first run of this length needs no warm-up run before it


class WrongResult(CipherfleetError):
    """A case computed a wrong result, so that its time is meaningless."""

    exit_code: ClassVar[int] = 5


def _do_nothing() -> None:
    pass


@dataclass(frozen=True)
class TimedCase:
    """A computation to time, with a check of its result."""

    name: str
    run: Callable[[], Any]  # the timed computation
    is_right: Callable[[Any], bool]  # compares the result with the plaintext result
    fill: Callable[[], None] = _do_nothing  # prepares a run, before the clock starts


@dataclass(frozen=True)
class Effort:
    """The length of a measurement: at least *seconds* and at least *passes* passes."""

    seconds: float
    passes: int

    def is_spent(self, passes: int, seconds: float) -> bool:
        return passes >= self.passes and seconds >= self.seconds


@dataclass
class CaseTimes:
    """Times of one case in one process, in seconds."""

    values: list[float] = field(default_factory=list)
    warmups: list[float] = field(default_factory=list)


@dataclass
class CaseSampler:
    """Runs cases, checks every result, and adds up CPU time and wall time."""

    clock: ClockName = "wall"
    runs: int = 0
    wall_ns: int = 0
    cpu_ns: int = 0

    @property
    def cpu_share(self) -> float:
        """The share of the time of all runs during which this process had a CPU."""
        return min(1.0, self.cpu_ns / self.wall_ns) if self.wall_ns else 1.0

    def sample_slot(self, case: TimedCase, taken: CaseTimes, *, is_first: bool) -> None:
        """Sample *case* for one slot; a short first run counts as warm-up only."""
        first = self._run(case)
        if first >= (_LONG_RUN_S if is_first else _SLOT_S):
            taken.values.append(first)
            return
        taken.warmups.append(first)
        spent = 0.0
        for _ in range(_MOST_REPEATS):
            taken.values.append(self._run(case))
            spent += taken.values[-1]
            if spent >= _SLOT_S:
                return

    def _run(self, case: TimedCase) -> float:
        case.fill()
        self.runs += 1
        read = CLOCKS[self.clock]
        wall, cpu, began = time.perf_counter_ns(), time.process_time_ns(), read()
        result = case.run()
        elapsed = read() - began
        self.cpu_ns += time.process_time_ns() - cpu
        self.wall_ns += time.perf_counter_ns() - wall
        if not case.is_right(result):
            raise WrongResult(f"{case.name}: the result differs from the plaintext result")
        return round(max(elapsed, 1) / 1e9, 9)


def sample(
    cases: Sequence[TimedCase],
    effort: Effort,
    sampler: CaseSampler,
    rng: Random,
    after_pass: Callable[[], None] = _do_nothing,
) -> list[CaseTimes]:
    """Return the times of *cases*, in the order of *cases*.

    In each pass every case has one slot; the order of the slots is random. Raises WrongResult.
    """
    taken = [CaseTimes() for _ in cases]
    order = list(range(len(cases)))
    passes, began = 0, time.monotonic()
    while not effort.is_spent(passes, time.monotonic() - began):
        rng.shuffle(order)
        for place in order:
            sampler.sample_slot(cases[place], taken[place], is_first=passes == 0)
        passes += 1
        after_pass()
    return taken
