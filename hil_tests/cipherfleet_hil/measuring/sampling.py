"""Samples of cases that take turns within one process, each result checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import median
from typing import Literal

from .interleaved import Case, Effort, WrongResult

ClockName = Literal["wall", "cpu"]
CLOCKS: dict[ClockName, Callable[[], int]] = {
    "wall": time.perf_counter_ns,
    "cpu": time.process_time_ns,
}
_TURN_S = 0.03  # a short case is repeated for this long within its turn
_MOST_REPEATS = 25
_WARMS_ITSELF_S = 0.25  # a run of this length is no colder than the next


@dataclass
class Taken:
    """Times of one case in one process, seconds."""

    values: list[float] = field(default_factory=list)
    warmups: list[float] = field(default_factory=list)


@dataclass
class Sampler:
    """Runs cases, checks every result, and adds up how long it had a CPU."""

    clock: ClockName = "wall"
    runs: int = 0
    wall_ns: int = 0
    cpu_ns: int = 0

    @property
    def cpu_share(self) -> float:
        """Of the time of all runs, the part in which this process computed."""
        return min(1.0, self.cpu_ns / self.wall_ns) if self.wall_ns else 1.0

    def turn(self, case: Case, taken: Taken, *, is_first: bool) -> None:
        """Samples of *case*: its first run in a turn only warms up, unless it is a long one."""
        first = self._run(case)
        if first >= (_WARMS_ITSELF_S if is_first else _TURN_S):
            taken.values.append(first)
            return
        taken.warmups.append(first)
        spent = 0.0
        for _ in range(_MOST_REPEATS):
            taken.values.append(self._run(case))
            spent += taken.values[-1]
            if spent >= _TURN_S:
                return

    def _run(self, case: Case) -> float:
        case.fill()
        self.runs += 1
        read = CLOCKS[self.clock]
        wall, cpu, began = time.perf_counter_ns(), time.process_time_ns(), read()
        result = case.run()
        elapsed = read() - began
        self.cpu_ns += time.process_time_ns() - cpu
        self.wall_ns += time.perf_counter_ns() - wall
        if not case.is_right(result):
            raise WrongResult(f"{case.name}: the result differs from the plain answer")
        return round(max(elapsed, 1) / 1e9, 9)


def race(cases: Sequence[Case], effort: Effort) -> tuple[dict[str, list[float]], int]:
    """Times in ms by case, one per lap: A, B, A, B, ...; and how many results were checked.

    They are CPU times, and so is the effort. Raises WrongResult.
    """
    sampler = Sampler("cpu")
    laps: list[list[float]] = []
    began = time.process_time()
    while not effort.is_spent(len(laps), time.process_time() - began):
        laps.append([_lap_ms(sampler, case) for case in cases])
    by_case = zip(*laps, strict=True)
    times = {case.name: list(told) for case, told in zip(cases, by_case, strict=True)}
    return times, sampler.runs


def _lap_ms(sampler: Sampler, case: Case) -> float:
    taken = Taken()
    sampler.turn(case, taken, is_first=False)
    return 1e3 * median(taken.values)


def _nothing() -> None:
    pass


def sample(
    cases: Sequence[Case],
    effort: Effort,
    sampler: Sampler,
    chance: Random,
    after_lap: Callable[[], None] = _nothing,
) -> list[Taken]:
    """Times of *cases* in their order; in each lap every case has its turn, in an order by chance.

    Raises WrongResult.
    """
    taken = [Taken() for _ in cases]
    order = list(range(len(cases)))
    laps, began = 0, time.monotonic()
    while not effort.is_spent(laps, time.monotonic() - began):
        chance.shuffle(order)
        for place in order:
            sampler.turn(cases[place], taken[place], is_first=laps == 0)
        laps += 1
        after_lap()
    return taken
