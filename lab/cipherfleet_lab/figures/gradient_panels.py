"""Shared by two studies: matched systems with exact and with stochastic gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cipherfleet_lab.baselines import Dsgd, Extra, GradientTracking, Nids
from cipherfleet_lab.systems import Array, Problem, System
from cipherfleet_node.settings.sections import Stepsize

from .drawing import legend_below, line_with_band, shown_rounds
from .seeds import ARTICLES, NONE, Measure, exact_fleet, fleet, measure_rounds
from .study import StudyEffort

ROUNDS, SEEDS, MINIBATCH = 2000, 10, 5
ATTENUATED = "sealed, the articles' attenuation"
STEPSIZE = Stepsize(initial=1.0, decay=0.02, spread=1.0)
EXACT = "sealed, exact method"
NIDS_STEP, EXTRA_STEP = 1.0, 0.5
SIZE = (7.2, 4.0)


def systems() -> dict[str, System]:
    """Return systems with equal mean stepsizes; gradient tracking has its own."""
    return {
        "DSGD": Dsgd(STEPSIZE),
        "sealed, no attenuation": fleet(STEPSIZE, NONE),
        ATTENUATED: fleet(STEPSIZE, ARTICLES),
        "gradient tracking": GradientTracking(0.2),
    }


def exact_systems() -> dict[str, System]:
    """Return systems that need gradients over whole windows."""
    return {EXACT: exact_fleet(), "NIDS": Nids(NIDS_STEP), "EXTRA": Extra(EXTRA_STEP)}


@dataclass(frozen=True)
class GradientPanels:
    """Runs per kind of gradients and system, shape (seeds, rounds)."""

    rounds: npt.NDArray[np.intp]
    seeds: Sequence[int]
    runs: Mapping[str, Mapping[str, Array]]

    @property
    def last(self) -> dict[str, dict[str, float]]:
        """The medians over seeds after the last round, by kind and system."""
        return {
            kind: {name: float(np.median(runs[:, -1])) for name, runs in lines.items()}
            for kind, lines in self.runs.items()
        }

    def rows(self) -> list[tuple[str, *tuple[float | str, ...]]]:
        """Return a row per system, with the last median of every kind of gradients."""
        names = next(iter(self.last.values()))
        return [(name, *(of.get(name, "–") for of in self.last.values())) for name in names]

    def draw(self, figure: Any, measured: str, least: float) -> None:
        """Draw a panel per kind; *measured* labels the axis, which begins at *least*."""
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        places = {name: place for place, name in enumerate(next(iter(self.runs.values())))}
        for axes, (kind, lines) in zip(panels, self.runs.items(), strict=True):
            for name, runs in lines.items():
                line_with_band(axes, self.rounds, runs, name, places[name])
            axes.set(xscale="log", yscale="log", xlabel="round", title=kind[0].upper() + kind[1:])
        panels[0].set_ylim(bottom=least)
        panels[0].set_ylabel(measured)
        legend_below(figure, panels[0], 2)


def compare(
    effort: StudyEffort, exact: Problem, drawn: Problem, measure: Measure
) -> GradientPanels:
    """Run all systems on the problem with *exact* and with stochastic (*drawn*) gradients."""
    rounds, seeds = shown_rounds(effort.rounds(ROUNDS)), effort.seeds(SEEDS)
    kinds = {"exact gradients": exact, f"{MINIBATCH} of 20 readings": drawn}
    runs = {
        kind: {
            name: measure_rounds(system, problem, rounds, seeds, measure)
            for name, system in (systems() | (exact_systems() if problem is exact else {})).items()
        }
        for kind, problem in kinds.items()
    }
    return GradientPanels(rounds, seeds, runs)
