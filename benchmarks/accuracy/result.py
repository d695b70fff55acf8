"""The result of the benchmark, and how the cost of a level follows from a measured course.

`--json` prints an AccuracyResult. Errors are root mean squares over nodes of |x_i - x*| / |x*|,
where x* is the centralised answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from cipherfleet_deploy.local.results import stays_below
from cipherfleet_hil.measurement.environment import MachineSummary

LEVELS = ("1e-2", "1e-3", "1e-4", "1e-6")
Kind = Literal["measured", "extrapolated", "lower bound"]
Gateable = Literal["bytes", "wall_s"]


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What a method has cost when its error stays below *level*, over all nodes together.

    measured:     the run came there
    extrapolated: a simulation without encryption came there after *rounds*; the other figures are
                  those of the run, continued at the cost of its later rounds
    lower bound:  neither came there in *rounds*; the other figures are those of so many rounds
    """

    level: str  # one of LEVELS
    kind: Kind
    rounds: int
    bytes: (
        float  # sent: ciphertexts, or numbers; with the messages around them, where there are any
    )
    cpu_s: float
    wall_s: float  # from the start of the processes on, without the making of keys


class MethodResult(msgspec.Struct, frozen=True, kw_only=True):
    """One method: what it is, what it hides, and its cost by level."""

    name: str
    title: str
    settings: str
    hides: str  # what it keeps from the other parties
    processes: str
    rounds_run: int
    last_error: float  # after the last round that ran
    costs: tuple[Cost, ...]  # one for each of LEVELS

    def cost(self, level: str) -> Cost:
        """Return the cost of *level*."""
        return next(cost for cost in self.costs if cost.level == level)


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """A limit on the exact method's cost over that of another method, at one level."""

    against: str
    level: str
    figure: Gateable
    ratio: float
    limit: float
    kind: Kind  # of the other method's figure

    @property
    def has_failed(self) -> bool:
        """True if the ratio is above its limit."""
        return not self.ratio <= self.limit


class AccuracyResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of the benchmark: `--json` prints these keys in this order."""

    machine: MachineSummary
    nodes: int
    edges: int
    dimension: int
    key_bits: int
    simulated_rounds: int  # of the simulations behind figures that are not measured
    methods: tuple[MethodResult, ...]
    not_run: dict[str, str]  # by system: why it has no figures
    gates: tuple[Gate, ...]

    def method(self, name: str) -> MethodResult | None:
        """Return the result of the method *name*, or None if it did not run."""
        return next((each for each in self.methods if each.name == name), None)


@dataclass(frozen=True)
class Course:
    """A measured run; entry k is the state after round k, summed since the start."""

    errors: Sequence[float]
    sent: Sequence[float]  # bytes
    cpu_s: Sequence[float]
    wall_s: Sequence[float]

    @property
    def rounds(self) -> int:
        """The number of rounds that ran."""
        return len(self.errors)


def costs(course: Course, simulated: Sequence[float]) -> tuple[Cost, ...]:
    """Return the cost of every level; *simulated* are the errors after the rounds of a simulation.

    A simulation that is no longer than the course adds nothing: levels beyond are lower bounds.
    """
    return tuple(_cost(level, course, simulated) for level in LEVELS)


def _cost(level: str, course: Course, simulated: Sequence[float]) -> Cost:
    reached = stays_below(course.errors, float(level))
    kind: Kind = "measured"
    if reached is None:
        reached = stays_below(simulated, float(level))
        kind = "extrapolated"
    if reached is None:
        reached, kind = max(len(simulated), course.rounds), "lower bound"
    sent, cpu_s, wall_s = (
        at_round(figure, reached) for figure in (course.sent, course.cpu_s, course.wall_s)
    )
    return Cost(level=level, kind=kind, rounds=reached, bytes=sent, cpu_s=cpu_s, wall_s=wall_s)


def at_round(figure: Sequence[float], rounds: int) -> float:
    """Return *figure* after so many rounds; beyond its end at the pace of its second half."""
    if rounds <= len(figure):
        return round(figure[rounds - 1], 3)
    half = len(figure) // 2
    before = figure[half - 1] if half else 0.0
    pace = (figure[-1] - before) / (len(figure) - half)
    return round(figure[-1] + pace * (rounds - len(figure)), 3)
