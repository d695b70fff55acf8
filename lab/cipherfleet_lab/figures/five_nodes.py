"""Study: five nodes with quadratic objectives, the encrypted algorithm against plain descent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cipherfleet_lab import problems
from cipherfleet_lab.baselines import Dsgd
from cipherfleet_lab.measures import mean_squared_error, objective
from cipherfleet_lab.systems import Array, Problem, System

from .drawing import legend_below, line_with_band, shown_rounds
from .seeds import ARTICLES, NONE, exact_fleet, fleet
from .study import Result, Study, StudyEffort, Table

ROUNDS, SEEDS = 1000, 20
STEPSIZE = problems.FIVE_STEPSIZE
EXACT = "sealed, exact method"
LEAST_SHOWN = 1e-16  # the square of 1e-8; smaller values are rounding errors of sums


def systems() -> dict[str, System]:
    """Return matched systems: equal graph, stochastic gradients and mean stepsizes."""
    return {
        "DSGD (plaintext)": Dsgd(STEPSIZE),
        "sealed, no attenuation": fleet(STEPSIZE, NONE),
        "pairwise, no attenuation": fleet(STEPSIZE, NONE, exchange="pairwise"),
        "sealed, the articles' attenuation": fleet(STEPSIZE, ARTICLES),
        "pairwise, the articles' attenuation": fleet(STEPSIZE, ARTICLES, exchange="pairwise"),
        EXACT: exact_fleet(),
        "pairwise, exact method": exact_fleet(exchange="pairwise"),
    }


def run_courses(
    system: System, problem: Problem, rounds: npt.NDArray[np.intp], seeds: range
) -> tuple[Array, Array]:
    """Return the nodes' mean objective and mean squared error, each of shape (seeds, rounds)."""
    logs = [system.run(problem, int(rounds[-1]), seed) for seed in seeds]
    worth = np.array([objective(log, problem, rounds.tolist()) for log in logs])
    return worth, np.array([mean_squared_error(log, problem)[rounds] for log in logs])


def _run(effort: StudyEffort) -> Result:
    problem, seeds = problems.five_nodes(), effort.seeds(SEEDS)
    rounds = shown_rounds(effort.rounds(ROUNDS))
    found = {name: run_courses(s, problem, rounds, seeds) for name, s in systems().items()}
    assert problem.optimum is not None
    best = problem.objective(problem.optimum)
    plain = found["DSGD (plaintext)"][0][:, -1]
    apart = {name: worth[:, -1] / plain - 1 for name, (worth, _) in found.items()}
    rows = [
        (
            name,
            float(np.median(worth[:, -1])),
            f"{np.abs(apart[name]).max():.3%}",
            float(np.median(worth[:, -1] - best)),
            float(np.median(squared[:, -1])),
        )
        for name, (worth, squared) in found.items()
    ]
    worst = max(np.abs(gap).max() for name, gap in apart.items() if "no att" in name)
    attenuated = max(np.abs(gap).max() for name, gap in apart.items() if "articles" in name)
    return Result(
        finding=(
            f"After {rounds[-1]} rounds the nodes' objective is within {worst:.2%} of DSGD's in "
            f"each of {len(seeds)} runs without attenuation, within {attenuated:.1%} with the "
            "articles' attenuation, at the same mean stepsizes. The exact method's mean squared "
            f"error is {np.median(found[EXACT][1][:, -1]):.0e}."
        ),
        text=_settings(len(seeds), best, problem.optimum),
        tables=[
            Table(
                [
                    "system",
                    "objective, mean over nodes of F(x_i)",
                    "apart from DSGD, worst run",
                    "above the least value of F",
                    "mean squared error",
                ],
                rows,
                f"After {rounds[-1]} rounds, medians over {len(seeds)} runs",
            ),
            Table(
                ["node", "A_i", "y_i", "neighbours"],
                [
                    (
                        node,
                        f"{problems.FIVE_CURVATURES[node].tolist()}",
                        f"{problems.FIVE_CENTRES[node].tolist()}",
                        ", ".join(map(str, problem.neighbours(node))),
                    )
                    for node in range(5)
                ],
                "The data: f_i(x) = 1/2 (x - y_i)' A_i (x - y_i)",
            ),
        ],
        numbers={
            "optimum": problem.optimum.tolist(),
            "least_objective": best,
            "apart_from_dsgd": {name: float(np.abs(gap).max()) for name, gap in apart.items()},
            "mean_squared_error": {row[0]: row[4] for row in rows},
            "rounds": int(rounds[-1]),
            "seeds": len(seeds),
        },
        draw=lambda figure: _draw(figure, rounds, found, best),
        size=(7.2, 3.9),
    )


def _settings(runs: int, best: float, optimum: Array) -> str:
    return (
        f"Five nodes on a ring with one chord; {runs} runs. lambda_k = {STEPSIZE.initial} / "
        f"(1 + {STEPSIZE.decay} k), stepsizes of the encrypted nodes uniform on 0 .. 2 lambda_k "
        f"(spread {STEPSIZE.spread:g}), gradients with independent normal noise of deviation "
        f"{problems.FIVE_NOISE:g} per entry, resolution 2^-24, start zero. The articles' "
        "attenuation is gamma_k = 1/(1 + 0.1 k^0.81). The exact method takes gradients over whole "
        "windows, here without noise, and resolution 2^-32; it has no stepsizes to choose. The "
        "articles give no data, graph or "
        "stepsizes for their five nodes: these are chosen here. F is least at "
        f"({optimum[0]:.6f}, {optimum[1]:.6f}), where it is {best:.6f}; the objective is "
        "evaluated at "
        "every node's own estimate, so that it includes disagreement. The remaining gap of the "
        "attenuated runs is disagreement, of the order of lambda_k/gamma_k."
    )


def _draw(
    figure: Any,
    rounds: npt.NDArray[np.intp],
    found: Mapping[str, tuple[Array, Array]],
    best: float,
) -> None:
    left, right = figure.subplots(1, 2, sharex=True)
    for place, (name, (worth, squared)) in enumerate(found.items()):
        line_with_band(left, rounds, worth - best, name, place)
        line_with_band(right, rounds, squared, name, place)
    left.set(title="Objective above its least value, mean over nodes")
    right.set(title="Mean squared error of the estimates")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="round")
        axes.set_ylim(bottom=LEAST_SHOWN)
    legend_below(figure, left, 2)


STUDY = Study("five-nodes", "Five nodes: tracking plain descent", _run)
