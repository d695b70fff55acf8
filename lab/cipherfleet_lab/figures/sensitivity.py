"""Study: sensitivity to the schedule: law, spread and size of stepsizes, attenuation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cipherfleet_deploy.local.results import stays_below
from cipherfleet_lab import problems
from cipherfleet_lab.measures import relative_error
from cipherfleet_lab.systems import Problem
from cipherfleet_node.settings.sections import Attenuation, Stepsize

from .drawing import line_style
from .seeds import ARTICLES, NONE, Schedule, exact_fleet, fleet, measure_end
from .study import Result, Study, StudyEffort, Table

ROUNDS, SEEDS = 1000, 5
Law = Literal["uniform", "normal", "log-normal"]
LAWS: tuple[Law, ...] = ("uniform", "normal", "log-normal")
SPREADS = (0.0, 0.25, 0.5, 0.75, 1.0)
FIRST_STEPS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
SCALES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
FACTORS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0)  # of c0
CLOSE = 1e-4
DIVERGED = 10.0  # relative error; that of the start is one
Lines = dict[str, list[float]]


@dataclass(frozen=True)
class Measured:
    """Relative errors, or rounds, of each line of a panel."""

    by_spread: Lines
    by_step: Lines
    by_scale: Lines
    by_exact_spread: Lines
    by_curvature: Lines


def _run(effort: StudyEffort) -> Result:
    rounds, seeds = effort.rounds(ROUNDS), effort.seeds(SEEDS)
    found = _measure(problems.intel_lab(), rounds, seeds)
    exact = [e for errors in found.by_exact_spread.values() for e in errors]
    plain = [e for name, errors in found.by_spread.items() if "no att" in name for e in errors]
    return Result(
        finding=(
            f"Without attenuation the error is {min(plain):.4f} .. {max(plain):.4f} for every law "
            "and spread of the stepsizes. The error depends on their mean and on the amount of "
            f"attenuation. The exact method's error is at most {max(exact):.0e} for every law and "
            "spread."
        ),
        text=_text(rounds, len(seeds)),
        tables=[
            _table("spread", SPREADS, found.by_spread, "Law and spread"),
            _table("initial", FIRST_STEPS, found.by_step, "First mean stepsize"),
            _table("s", SCALES, found.by_scale, "Attenuation"),
            _table("spread", SPREADS, found.by_exact_spread, "Law and spread, exact method"),
            _table("c0 over its usual value", FACTORS, found.by_curvature, "Scale, exact method"),
        ],
        numbers={
            "rounds": rounds,
            "spread": {"values": SPREADS, **found.by_spread},
            "initial": {"values": FIRST_STEPS, **found.by_step},
            "scale": {"values": SCALES, **found.by_scale},
            "exact_spread": {"values": SPREADS, **found.by_exact_spread},
            "exact_scale": {"values": FACTORS, **found.by_curvature},
        },
        draw=lambda figure: _draw(figure, found),
        size=(8.6, 4.6),
    )


def _text(rounds: int, runs: int) -> str:
    return (
        "50 motes of the Intel lab, geometric graph, sealed exchange, resolution 2^-24, "
        f"relative error after {rounds} rounds, medians over {runs} runs. lambda_k = "
        "0.5/(1 + 0.05 k), except where the first step varies: initial/(1 + decay k). Spread 1 "
        "means a deviation of lambda_k/sqrt(3) under every law. gamma_k = 1/(1 + s k^u), the "
        "articles' being s = 0.1, u = 0.81. The exact method has "
        "resolution 2^-32. Errors above 1 are left out of the figure."
    )


def _measure(problem: Problem, rounds: int, seeds: Sequence[int]) -> Measured:
    base = problems.LAB_STEPSIZE

    def error(stepsize: Stepsize, attenuation: Schedule) -> float:
        way = fleet(stepsize, attenuation)
        return measure_end(way, problem, rounds, seeds, relative_error)

    def exact_error(law: Law, spread: float) -> float:
        way = exact_fleet(Stepsize(spread=spread, law=law))
        return measure_end(way, problem, rounds, seeds, relative_error)

    def make_stepsize(law: Law, spread: float) -> Stepsize:
        return Stepsize(base.initial, base.decay, base.exponent, spread, law)

    schedules: dict[str, Schedule] = {"no attenuation": NONE, "attenuated": ARTICLES}
    return Measured(
        by_spread={
            f"{law}, {name}": [error(make_stepsize(law, spread), attenuation) for spread in SPREADS]
            for name, attenuation in schedules.items()
            for law in LAWS
        },
        by_step={
            f"{name}, decay {decay}": [
                error(Stepsize(first, decay, 1.0, 1.0), attenuation) for first in FIRST_STEPS
            ]
            for name, attenuation in schedules.items()
            for decay in (0.01, 0.05)
        },
        by_scale={
            f"u = {u}": [
                error(make_stepsize("uniform", 1.0), Attenuation(scale, u)) for scale in SCALES
            ]
            for u in (0.6, 0.81, 1.0)
        },
        by_exact_spread={
            f"{law}, exact": [exact_error(law, spread) for spread in SPREADS] for law in LAWS
        },
        by_curvature={"rounds to 1e-4": [_rounds_to(problem, each, rounds) for each in FACTORS]},
    )


def _rounds_to(problem: Problem, factor: float, rounds: int) -> float:
    """Return the rounds to CLOSE with a scale c0 of *factor* times the usual one."""
    log = exact_fleet(scale=factor * problem.scale).run(problem, rounds, 1)
    reached = stays_below(relative_error(log, problem)[1:].tolist(), CLOSE)
    return math.inf if reached is None else reached


def _table(key: str, values: Sequence[float], lines: Lines, title: str) -> Table:
    columns = zip(*lines.values(), strict=True)
    rows = [
        (f"{value:g}", *(_shown(error) for error in errors))
        for value, errors in zip(values, columns, strict=True)
    ]
    return Table([key, *lines], rows, title)


def _shown(figure: float) -> float | str:
    if isinstance(figure, int):  # a number of rounds
        return f"{figure}"
    return "diverged" if figure >= DIVERGED else figure


def _draw(figure: Any, found: Measured) -> None:
    panels = figure.subplots(1, 3, sharey=True)
    for axes, values, lines in (
        (panels[0], SPREADS, found.by_spread | found.by_exact_spread),
        (panels[1], FIRST_STEPS, found.by_step),
        (panels[2], SCALES, found.by_scale),
    ):
        for place, (name, errors) in enumerate(lines.items()):
            shown = [e if e < DIVERGED else float("nan") for e in errors]
            axes.plot(values, shown, marker="o", ms=3, label=name, **line_style(place + 1))
        axes.set(yscale="log")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16))
    panels[0].set(xlabel="spread", title="Law and spread")
    panels[1].set(xscale="log", xlabel="first mean stepsize", title="Stepsize")
    panels[2].set_xscale("symlog", linthresh=1e-3, linscale=0.5)
    panels[2].set_xlim(left=0)
    panels[2].set_xticks([0, 1e-3, 1e-2, 1e-1], ["0", "$10^{-3}$", "$10^{-2}$", "$10^{-1}$"])
    panels[0].set_ylim(top=1.0)
    panels[2].set(xlabel="attenuation scale s", title="Attenuation $1/(1 + s k^u)$")


STUDY = Study("sensitivity", "Sensitivity to the schedule", _run, True)
