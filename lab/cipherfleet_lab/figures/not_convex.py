"""A problem that is not convex: the fleet comes to a stationary point, as plain descent does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cipherfleet_lab import problems
from cipherfleet_lab.baselines import Dsgd, GradientTracking
from cipherfleet_lab.measures import stationarity
from cipherfleet_lab.systems import Array, System
from cipherfleet_node.config import Stepsize

from .drawing import legend_below, line_with_band, shown_rounds
from .runs import ARTICLES, NONE, fleet, over_rounds
from .study import Effort, Result, Study, Table

ROUNDS, SEEDS, MINIBATCH = 2000, 10, 5
LEAST_SHOWN = 1e-6  # of what goes on to the rounding of sums
ATTENUATED = "sealed, the articles' attenuation"
STEPSIZE = Stepsize(initial=1.0, decay=0.02, spread=1.0)


def systems() -> dict[str, System]:
    """Matched mean stepsizes; gradient tracking has its own."""
    return {
        "DSGD": Dsgd(STEPSIZE),
        "sealed, no attenuation": fleet(STEPSIZE, NONE),
        ATTENUATED: fleet(STEPSIZE, ARTICLES),
        "gradient tracking": GradientTracking(0.2),
    }


def _run(effort: Effort) -> Result:
    rounds, seeds = shown_rounds(effort.rounds(ROUNDS)), effort.seeds(SEEDS)
    kinds = {
        "exact gradients": problems.non_convex(),
        f"{MINIBATCH} of 20 readings": problems.non_convex(minibatch=MINIBATCH),
    }
    found = {
        kind: {
            name: over_rounds(system, problem, rounds, seeds, stationarity)
            for name, system in systems().items()
        }
        for kind, problem in kinds.items()
    }
    last = {
        kind: {name: float(np.median(runs[:, -1])) for name, runs in lines.items()}
        for kind, lines in found.items()
    }
    exact = last["exact gradients"]
    return Result(
        finding=(
            f"After {rounds[-1]} rounds with exact gradients |grad F| plus disagreement is "
            f"{exact['sealed, no attenuation']:.2g} for the sealed fleet and {exact['DSGD']:.2g} "
            f"for DSGD, {exact[ATTENUATED]:.2g} "
            "with the articles' attenuation."
        ),
        text=(
            "Ten nodes, each on a ring with its four nearest, fit a line to 20 readings of which "
            "about a quarter are 1 to 6 too high, with Geman and McClure's bounded loss; F curves "
            "downwards at the start. There is no one optimum: what is shown is the length of F's "
            "gradient at the nodes' mean plus the root mean square of their distances to it, zero "
            f"only where all agree on a stationary point. lambda_k = {STEPSIZE.initial:g}/"
            f"(1 + {STEPSIZE.decay:g} k), spread 1 for the encrypted nodes; gradient tracking with "
            f"0.2. Medians over {len(seeds)} runs."
        ),
        tables=[
            Table(
                ["system", *last],
                [(name, *(last[kind][name] for kind in last)) for name in exact],
                f"|grad F| at the mean plus disagreement after {rounds[-1]} rounds",
            )
        ],
        numbers={"rounds": int(rounds[-1]), "stationarity": last},
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
    panels[0].set_ylim(bottom=LEAST_SHOWN)
    panels[0].set_ylabel("|grad F| + disagreement")
    legend_below(figure, panels[0], 2)


STUDY = Study("not-convex", "A problem that is not convex", _run)
