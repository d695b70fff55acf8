"""Study: average consensus, in which all nodes must reach the exact mean of their starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cipherfleet_lab import problems
from cipherfleet_lab.baselines import Consensus
from cipherfleet_lab.measures import mean_squared_error
from cipherfleet_lab.systems import Array, Log, Problem
from cipherfleet_node.settings.sections import Stepsize
from cipherfleet_provisioning.topology.section import Topology

from .drawing import line_style
from .seeds import FINE, fleet
from .study import Result, Study, StudyEffort, Table

NODES, ROUNDS, SEEDS = 50, 1500, 5
GRAPHS = {
    "complete": Topology(kind="complete"),
    "random regular, degree 4": Topology(kind="random_regular", degree=4, seed=1),
    "geometric, 6 nearest": Topology(kind="geometric", neighbours=6, seed=1),
    "torus": Topology(kind="torus"),
    "ring": Topology(kind="ring"),
}
ACCURACY = 1e-4


def root_error(log: Log, problem: Problem) -> Array:
    """Return the root mean square over nodes and entries of the distance to the mean."""
    error: Array = np.sqrt(mean_squared_error(log, problem) / problem.dimension)
    return error


def _run(effort: StudyEffort) -> Result:
    rounds, seeds = effort.rounds(ROUNDS), effort.seeds(SEEDS)
    starts = np.random.default_rng(effort.seed).normal(size=(NODES, 2))
    found: dict[str, tuple[Array, Array]] = {}
    for name, graph in GRAPHS.items():
        problem = problems.averages(starts, problems.build_edges(graph, NODES))
        sealed = fleet(Stepsize())
        runs = [root_error(sealed.run(problem, rounds, seed), problem) for seed in seeds]
        clear = root_error(Consensus().run(problem, rounds, 0), problem)
        found[name] = np.median(runs, axis=0), clear
    rows = [
        (name, _first_below(sealed), _first_below(clear), float(sealed[-1]) / FINE)
        for name, (sealed, clear) in found.items()
    ]
    settled = [row[3] for row in rows if isinstance(row[1], int) and row[0] != "ring"]
    most = f"{max(settled):.2f}" if settled else "more than one"
    return Result(
        finding=(
            f"On graphs that mix within {rounds} rounds the sealed fleet ends at most {most} "
            "resolutions from the mean. Half weights make it slower than plain averaging."
        ),
        text=(
            f"{NODES} nodes start at normal values of deviation 1, without an objective; "
            f"sealed exchange at resolution 2^-24 without attenuation, medians over "
            f"{len(seeds)} runs; the thin lines are plain averaging with Metropolis weights. "
            "The mean coupling weight is 0.5625 of Metropolis's. "
            "Dither is independent at both ends of an edge, so that the nodes' mean itself "
            "drifts, in "
            "proportion to the square root of the rounds."
        ),
        tables=[
            Table(
                [
                    "graph",
                    f"rounds to {ACCURACY:g}, sealed",
                    "plain averaging",
                    f"resolutions from the mean after {rounds} rounds, sealed",
                ],
                rows,
            )
        ],
        numbers={
            "rounds": rounds,
            "graphs": {
                name: {"sealed_rounds": sealed, "plain_rounds": clear, "resolutions_off": floor}
                for name, sealed, clear, floor in rows
            },
        },
        draw=lambda figure: _draw(figure, found),
        size=(7.2, 3.6),
    )


def _first_below(errors: Array) -> int | str:
    below = np.flatnonzero(errors <= ACCURACY)
    return int(below[0]) if below.size else "more"


def _draw(figure: Any, found: Mapping[str, tuple[Array, Array]]) -> None:
    axes = figure.subplots()
    for place, (name, (sealed, clear)) in enumerate(found.items()):
        axes.plot(sealed, label=name, **line_style(place))
        axes.plot(
            np.where(clear > FINE / 30, clear, np.nan), lw=0.7, color=line_style(place)["color"]
        )
    axes.axhline(FINE, color="#777777", lw=0.8)
    axes.text(0.01, FINE * 1.3, "one resolution", transform=axes.get_yaxis_transform())
    axes.set(yscale="log", xlabel="round", title="Distance to the mean, per entry")
    axes.set_xscale("symlog", linthresh=10, linscale=0.5)
    axes.set_xlim(0, None)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title="graph")


STUDY = Study("consensus", "Average consensus: the exact answer", _run)
