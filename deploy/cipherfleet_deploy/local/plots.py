"""Plots of a run: the estimates of all nodes, and their error, against the rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cipherfleet_node.core.randomness import FloatVector

from .results import FloatArray, Trajectory

SHOWN_ENTRIES = 8  # of the estimate: more lines in one plot are unreadable


def plot_run(trajectory: Trajectory, optimum: FloatVector | None, title: str, file: Path) -> None:
    """Plot the estimates and their error, each against the rounds, into *file*.

    The error is relative to *optimum*, the centralised answer, where it is known.
    """
    from matplotlib.figure import Figure  # takes 0.4 s, and --help must not wait for it

    figure = Figure(figsize=(9, 7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    _plot_estimates(above, trajectory.estimates, optimum)
    _plot_error(below, trajectory.estimates, optimum)
    rounds = len(trajectory.estimates)
    below.set_xlim(1, max(rounds, 2))
    figure.suptitle(title)
    figure.savefig(file, dpi=120)


def _plot_estimates(axes: Any, estimates: FloatArray, optimum: FloatVector | None) -> None:
    rounds, dimension = np.arange(1, len(estimates) + 1), estimates.shape[2]
    for entry in range(min(dimension, SHOWN_ENTRIES)):
        colour = f"C{entry}"
        axes.plot(rounds, estimates[:, :, entry], ".-", color=colour, lw=0.7, ms=1.5, alpha=0.6)
        axes.plot([], [], color=colour, label=f"x[{entry}]")
        if optimum is not None:
            axes.axhline(optimum[entry], color=colour, linestyle="--", linewidth=1)
    shown = (
        f", entries 0 to {SHOWN_ENTRIES - 1} of {dimension}" if dimension > SHOWN_ENTRIES else ""
    )
    dashed = "; dashed: the centralised answer" if optimum is not None else ""
    axes.set_title(f"estimate, one line per node{shown}{dashed}", fontsize="medium", loc="left")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small", frameon=False)


def _plot_error(axes: Any, estimates: FloatArray, optimum: FloatVector | None) -> None:
    mean = _mean_over_nodes(estimates)
    answer = mean[-1] if optimum is None else optimum
    size = float(np.linalg.norm(answer))
    relative = np.isfinite(size) and size > 0
    figures = {"disagreement": mean[:, None]}
    if optimum is not None:
        figures["error against the centralised answer"] = optimum
    axes.set_yscale("log")
    # The first line is broad and pale: both lines are visible where they coincide.
    styles = (
        {"color": "C1", "lw": 4, "alpha": 0.5, "marker": "."},
        {"color": "C0", "marker": ".", "ms": 3},
    )
    for style, (name, centre) in zip(styles, figures.items(), strict=False):
        squares = np.sum((estimates - centre) ** 2, axis=2, keepdims=True)
        distance = np.sqrt(_mean_over_nodes(squares)[:, 0]) / (size if relative else 1.0)
        # A logarithmic axis cannot show zero: nodes that agree to the last bit leave a gap.
        shown = np.where(distance > 0, distance, np.nan)
        axes.plot(np.arange(1, len(shown) + 1), shown, label=name, **style)
    axes.set_xlabel("round")
    unit = "relative to the answer" if relative else "distance"
    axes.set_title(f"root mean square over nodes, {unit}", fontsize="medium", loc="left")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(loc="best", fontsize="small")


def _mean_over_nodes(values: FloatArray) -> FloatArray:
    """Return the mean over the nodes with a value, of shape (rounds, d).

    It is NaN for a round that no node has closed.
    """
    count = np.sum(~np.isnan(values), axis=1)
    mean: FloatArray = np.where(count > 0, np.nansum(values, axis=1) / np.maximum(count, 1), np.nan)
    return mean
