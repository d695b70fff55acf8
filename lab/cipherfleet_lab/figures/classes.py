"""Logistic regression: two classes that every node sees in a mixture of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cipherfleet_lab import problems
from cipherfleet_lab.measures import relative_error
from cipherfleet_lab.systems import Array

from .drawing import legend_below, line_with_band, shown_rounds
from .not_convex import STEPSIZE, systems
from .runs import over_rounds
from .study import Effort, Result, Study, Table

ROUNDS, SEEDS, MINIBATCH = 2000, 10, 5


def _run(effort: Effort) -> Result:
    rounds, seeds = shown_rounds(effort.rounds(ROUNDS)), effort.seeds(SEEDS)
    kinds = {
        "exact gradients": problems.logistic(),
        f"{MINIBATCH} of 20 readings": problems.logistic(minibatch=MINIBATCH),
    }
    found = {
        kind: {
            name: over_rounds(system, problem, rounds, seeds, relative_error)
            for name, system in systems().items()
        }
        for kind, problem in kinds.items()
    }
    last = {
        kind: {name: float(np.median(runs[:, -1])) for name, runs in lines.items()}
        for kind, lines in found.items()
    }
    exact, drawn = last.values()
    return Result(
        finding=(
            f"After {rounds[-1]} rounds the sealed fleet's error is "
            f"{exact['sealed, no attenuation']:.3f} with exact gradients (DSGD's "
            f"{exact['DSGD']:.3f}) and {drawn['sealed, no attenuation']:.3f} with {MINIBATCH} of "
            f"20 readings in each (DSGD's {drawn['DSGD']:.3f})."
        ),
        text=(
            "Ten nodes, each on a ring with its four nearest, 20 readings of three regressors and "
            "a bias, made up from a seed; penalty 0.05/2 |x|^2. lambda_k = "
            f"{STEPSIZE.initial:g}/(1 + {STEPSIZE.decay:g} k), spread 1 for the encrypted nodes; "
            "gradient tracking with 0.2. Relative error, root mean square over nodes, medians over "
            f"{len(seeds)} runs."
        ),
        tables=[
            Table(
                ["system", *last],
                [(name, *(last[kind][name] for kind in last)) for name in drawn],
                f"Relative error after {rounds[-1]} rounds",
            )
        ],
        numbers={"rounds": int(rounds[-1]), "relative_error": last},
        draw=lambda figure: _draw(figure, rounds, found),
        size=(7.2, 3.8),
    )


def _draw(
    figure: Any, rounds: npt.NDArray[np.intp], found: Mapping[str, Mapping[str, Array]]
) -> None:
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, (kind, lines) in zip(panels, found.items(), strict=True):
        for place, (name, runs) in enumerate(lines.items()):
            line_with_band(axes, rounds, runs, name, place)
        axes.set(xscale="log", yscale="log", xlabel="round", title=kind[0].upper() + kind[1:])
    panels[0].set_ylim(bottom=1e-4)
    panels[0].set_ylabel("relative error")
    legend_below(figure, panels[0], 2)


STUDY = Study("logistic", "Logistic regression", _run)
