"""Study: attenuation against none on the Intel lab fleet, at fine and coarse resolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cipherfleet_lab import problems
from cipherfleet_lab.baselines import GradientTracking
from cipherfleet_lab.measures import relative_error
from cipherfleet_lab.systems import Array, System
from cipherfleet_node.settings.sections import Stepsize
from cipherfleet_provisioning.topology.section import Topology

from .drawing import line_style, line_with_band, powers_of_two, shown_rounds
from .seeds import ARTICLES, FINE, NONE, Schedule, fleet, measure_end, measure_rounds
from .study import Result, Study, StudyEffort, Table

ROUNDS, SEEDS = 1000, 10
FIRST = (0.073, 0.008)  # the project's first measurements: 50 motes, geometric graph, 186 edges
COARSE = 2.0**-2
EXPONENTS = (-24, -20, -16, -12, -10, -8, -6, -5, -4, -3, -2, -1, 0)
SCHEDULES: Mapping[str, Schedule] = {"no attenuation": NONE, "the articles' attenuation": ARTICLES}
TRACKING_STEP = 0.06  # longer ones diverge on the sparsest of the graphs
GRAPHS = (
    *(Topology(kind="geometric", neighbours=6, seed=seed) for seed in range(1, 6)),
    Topology(kind="random_regular", degree=8, seed=1),
    Topology(kind="erdos_renyi", probability=0.15, seed=1),
    Topology(kind="small_world", neighbours=8, probability=0.2, seed=1),
    Topology(kind="torus"),
)


def lab_stepsize(spread: float) -> Stepsize:
    """Return the stepsizes lambda_k = 0.5/(1 + 0.05 k) with this *spread*."""
    base = problems.LAB_STEPSIZE
    return Stepsize(base.initial, base.decay, base.exponent, spread)


def table_row(graph: Topology, rounds: int, seeds: range) -> tuple[int, list[float]]:
    """Return edges and errors: attenuated with spread 0, 0.5, 1; plain with 0, 1; tracking."""
    problem = problems.intel_lab(graph)
    ways: list[System] = [
        *(fleet(lab_stepsize(spread), ARTICLES) for spread in (0.0, 0.5, 1.0)),
        *(fleet(lab_stepsize(spread), NONE) for spread in (0.0, 1.0)),
        GradientTracking(TRACKING_STEP),
    ]
    errors = [measure_end(way, problem, rounds, seeds, relative_error) for way in ways]
    return len(problem.edges), errors


def _run(effort: StudyEffort) -> Result:
    seeds, rounds = effort.seeds(SEEDS), effort.rounds(ROUNDS)
    graphs = GRAPHS[:2] if effort.quick else GRAPHS
    rows = [(_graph_name(g), *table_row(g, rounds, seeds[:3])) for g in graphs]
    lines = _lines(shown_rounds(rounds), seeds)
    exponents = EXPONENTS[::4] if effort.quick else EXPONENTS
    by_resolution = _errors_by_resolution(exponents, rounds, seeds[:5])
    near = [name for name, _, errors in rows if _is_within_factor_two(errors)]
    attenuated = [errors[2] for _, _, errors in rows]
    plain = [errors[3] for _, _, errors in rows]
    crossing = _crossing_resolution(exponents, by_resolution)
    return Result(
        finding=(
            f"After {rounds} rounds on {len(rows)} graphs the error is "
            f"{min(attenuated):.3f} .. {max(attenuated):.3f} with the articles' attenuation and "
            f"{min(plain):.4f} .. {max(plain):.4f} without. Attenuation reduces the error only if "
            "the "
            f"resolution is coarser than about {crossing}."
        ),
        text=(
            "50 motes of the Intel lab, least squares in four entries, sealed exchange, "
            "lambda_k = 0.5/(1 + 0.05 k); relative error, root mean square over nodes. The figure: "
            f"geometric graph of {rows[0][1]} edges, spread 1. The table: resolution 2^-24, "
            f"medians over {len(seeds[:3])} runs; gradient tracking in plaintext with the constant "
            f"stepsize {TRACKING_STEP:g}. The project's first measurement, on a graph "
            f"of its own, was {FIRST[0]} with attenuation and {FIRST[1]} without: {len(near)} of "
            f"{len(rows)} graphs are within a factor of two of both."
        ),
        tables=[_table(rows, rounds), _resolution_table(exponents, by_resolution, rounds)],
        numbers={
            "rounds": rounds,
            "within_a_factor_of_two": near,
            "graphs": [{"graph": g, "edges": e, "errors": errors} for g, e, errors in rows],
            "by_resolution": {
                name: dict(zip(map(str, exponents), errors, strict=True))
                for name, errors in by_resolution.items()
            },
        },
        draw=lambda figure: _draw(figure, shown_rounds(rounds), lines, exponents, by_resolution),
        size=(7.2, 3.9),
    )


def _is_within_factor_two(errors: Sequence[float]) -> bool:
    """True if all errors are within a factor of two of the first measurements."""
    expected = [FIRST[0]] * 3 + [FIRST[1]] * 2
    return all(0.5 <= e / first <= 2 for e, first in zip(errors, expected, strict=False))


def _graph_name(graph: Topology) -> str:
    detail = {
        "geometric": f"{graph.neighbours} nearest, seed {graph.seed}",
        "random_regular": f"degree {graph.degree}",
        "erdos_renyi": f"probability {graph.probability}",
        "small_world": f"{graph.neighbours} neighbours, {graph.probability} rewired",
    }.get(graph.kind or "")
    return f"{(graph.kind or '').replace('_', ' ')}" + (f", {detail}" if detail else "")


def _lines(rounds: npt.NDArray[np.intp], seeds: range) -> dict[str, Array]:
    problem = problems.intel_lab()
    return {
        f"{name}, $\\delta = {tex}$": measure_rounds(
            fleet(lab_stepsize(1.0), attenuation, resolution),
            problem,
            rounds,
            seeds,
            relative_error,
        )
        for resolution, tex in ((FINE, "2^{-24}"), (COARSE, "2^{-2}"))
        for name, attenuation in SCHEDULES.items()
    }


def _errors_by_resolution(
    exponents: Sequence[int], rounds: int, seeds: range
) -> dict[str, list[float]]:
    problem = problems.intel_lab()
    return {
        name: [
            measure_end(
                fleet(lab_stepsize(1.0), attenuation, 2.0**e),
                problem,
                rounds,
                seeds,
                relative_error,
            )
            for e in exponents
        ]
        for name, attenuation in SCHEDULES.items()
    }


def _crossing_resolution(
    exponents: Sequence[int], by_resolution: Mapping[str, Sequence[float]]
) -> str:
    """Return the coarsest resolution at which no attenuation has the smaller error."""
    plain, attenuated = by_resolution.values()
    better = [e for e, p, a in zip(exponents, plain, attenuated, strict=True) if p < a]
    return f"2^{max(better)}" if better else f"2^{min(exponents)}"


def _table(rows: Sequence[tuple[str, int, list[float]]], rounds: int) -> Table:
    head = [
        "graph",
        "edges",
        "attenuated, spread 0",
        "spread 0.5",
        "spread 1",
        "not attenuated, spread 0",
        "spread 1",
        "gradient tracking",
    ]
    return Table(
        head,
        [(name, edges, *errors) for name, edges, errors in rows],
        f"Relative error after {rounds} rounds",
    )


def _resolution_table(
    exponents: Sequence[int], by_resolution: Mapping[str, Sequence[float]], rounds: int
) -> Table:
    columns = zip(exponents, *by_resolution.values(), strict=True)
    return Table(
        ["resolution", *by_resolution],
        [(f"2^{e}", *errors) for e, *errors in columns],
        f"Relative error after {rounds} rounds, by resolution",
    )


def _draw(
    figure: Any,
    rounds: npt.NDArray[np.intp],
    lines: Mapping[str, Array],
    exponents: Sequence[int],
    by_resolution: Mapping[str, Sequence[float]],
) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    for place, (name, runs) in enumerate(lines.items()):
        line_with_band(left, rounds, runs, name, place + 1)
    for place, (name, errors) in enumerate(by_resolution.items()):
        right.plot(
            [2.0**e for e in exponents],
            errors,
            marker="o",
            ms=3,
            label=name,
            **line_style(place + 1),
        )
    left.set(xscale="log", yscale="log", xlabel="round", title="Relative error")
    right.set(xlabel="resolution $\\delta$", title=f"Relative error after {rounds[-1]} rounds")
    powers_of_two(right, [-24, -20, -16, -12, -8, -4, 0])
    left.legend(loc="lower left")
    right.legend(loc="upper left")


STUDY = Study("attenuation", "Attenuation against none, at coarse and fine resolution", _run, True)
