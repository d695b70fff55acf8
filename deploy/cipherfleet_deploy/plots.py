"""Pictures of a run, for people who would rather look than read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cipherfleet_node.draws import FloatVector

from .results import Trajectory

SHOWN_ENTRIES = 8  # of the estimate: more lines than that say nothing


def plot_run(trajectory: Trajectory, optimum: FloatVector | None, title: str, file: Path) -> None:
    """Estimates against rounds, and their error against the centralised answer, into *file*."""
    from matplotlib.figure import Figure  # noqa: PLC0415  # 0.4 s that --help must not wait for

    figure = Figure(figsize=(9, 7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    _plot_estimates(above, trajectory, optimum)
    _plot_error(below, trajectory, optimum)
    figure.suptitle(title)
    figure.savefig(file, dpi=120)


def _plot_estimates(axes: Any, trajectory: Trajectory, optimum: FloatVector | None) -> None:
    estimates = trajectory.estimates
    rounds = np.arange(1, len(estimates) + 1)
    for entry in range(min(estimates.shape[2], SHOWN_ENTRIES)):
        colour = f"C{entry}"
        axes.plot(rounds, estimates[:, :, entry], color=colour, linewidth=0.7, alpha=0.6)
        axes.plot([], [], color=colour, label=f"x[{entry}]")
        if optimum is not None:
            axes.axhline(optimum[entry], color=colour, linestyle="--", linewidth=1)
    axes.set_ylabel(
        "estimate, one line per node" + (" (dashed: optimum)" if optimum is not None else "")
    )
    axes.legend(loc="upper right", fontsize="small", ncols=2)


def _plot_error(axes: Any, trajectory: Trajectory, optimum: FloatVector | None) -> None:
    estimates = trajectory.estimates
    rounds = np.arange(1, len(estimates) + 1)
    mean = np.nanmean(estimates, axis=1, keepdims=True)
    spread = np.sqrt(np.nanmean(np.sum((estimates - mean) ** 2, axis=2), axis=1))
    size = np.linalg.norm(optimum if optimum is not None else mean[-1, 0])
    axes.semilogy(rounds, spread / size, color="C1", label="disagreement")
    if optimum is not None:
        error = np.sqrt(np.nanmean(np.sum((estimates - optimum) ** 2, axis=2), axis=1))
        axes.semilogy(
            rounds, error / size, color="C0", label="error against the centralised answer"
        )
    axes.set_xlabel("round")
    axes.set_ylabel("relative to the answer")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(loc="upper right", fontsize="small")
