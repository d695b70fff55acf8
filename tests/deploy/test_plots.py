"""The plot of a run is drawn for every kind of result, without a warning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cipherfleet_deploy.local.plots import SHOWN_ENTRIES, plot_run
from cipherfleet_deploy.local.results import FloatArray, Trajectory


def approach(rounds: int, nodes: int, dimension: int) -> tuple[FloatArray, FloatArray]:
    """Estimates of shape (rounds, nodes, d) that approach an optimum of shape (d,)."""
    chance = np.random.default_rng(1)
    optimum = chance.normal(size=dimension)
    starts = chance.normal(size=(nodes, dimension))
    shrinking = 0.9 ** np.arange(rounds)[:, None, None]
    return optimum + shrinking * (starts - optimum), optimum


def picture(file: Path, estimates: FloatArray, optimum: FloatArray | None) -> tuple[int, int]:
    """The width and height of the PNG that is drawn."""
    plot_run(Trajectory(estimates), optimum, "lab: 5 nodes", file)
    data = file.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


@pytest.mark.parametrize("dimension", [1, 40])
@pytest.mark.parametrize("known", [True, False], ids=["optimum known", "optimum out of sight"])
def test_a_picture_is_made(dimension: int, known: bool, tmp_path: Path) -> None:
    estimates, optimum = approach(30, 5, dimension)
    size = picture(tmp_path / "plot.png", estimates, optimum if known else None)
    assert size == (1080, 840)


def broken() -> FloatArray:
    estimates, _ = approach(30, 5, 3)
    estimates[10:15] = np.nan  # no node closed these rounds
    estimates[::4, 2] = np.nan
    estimates[:, 4] = np.nan
    return estimates


@pytest.mark.parametrize(
    "estimates",
    [
        broken(),
        approach(1, 2, 1)[0],
        np.zeros((5, 3, 2)),
        np.ones((5, 3, 2)),
        np.full((5, 3, 2), np.nan),
    ],
    ids=["gaps", "one round", "all zero", "all equal", "nothing known"],
)
def test_a_picture_is_made_of_gaps_zeros_and_agreement(
    estimates: FloatArray, tmp_path: Path
) -> None:
    zero = np.zeros(estimates.shape[2])
    assert picture(tmp_path / "without.png", estimates, None) == (1080, 840)
    assert picture(tmp_path / "with.png", estimates, zero) == (1080, 840)


def test_the_lines_are_the_estimates_the_errors_and_the_optimum() -> None:
    from matplotlib.figure import Figure

    from cipherfleet_deploy.local.plots import _plot_error, _plot_estimates

    estimates, optimum = approach(30, 5, 2)
    above, below = Figure().subplots(2, 1)
    _plot_estimates(above, estimates, optimum)
    drawn = [line.get_ydata() for line in above.get_lines() if len(line.get_xdata()) == 30]
    assert sorted(map(tuple, drawn)) == sorted(
        tuple(estimates[:, node, entry]) for node in range(5) for entry in range(2)
    )
    dashed = [line.get_ydata()[0] for line in above.get_lines() if line.get_linestyle() == "--"]
    assert dashed == list(optimum)
    _plot_error(below, estimates, optimum)
    figures = {line.get_label(): line.get_ydata() for line in below.get_lines()}
    error = np.sqrt(np.mean(np.sum((estimates - optimum) ** 2, axis=2), axis=1))
    assert figures["error against the centralised answer"] == pytest.approx(
        error / np.linalg.norm(optimum)
    )
    spread = estimates - estimates.mean(axis=1, keepdims=True)
    assert figures["disagreement"] == pytest.approx(
        np.sqrt(np.mean(np.sum(spread**2, axis=2), axis=1)) / np.linalg.norm(optimum)
    )


def test_of_many_entries_the_first_are_shown_and_the_picture_says_so() -> None:
    from matplotlib.figure import Figure

    from cipherfleet_deploy.local.plots import _plot_estimates

    axes = Figure().subplots()
    _plot_estimates(axes, approach(4, 2, 40)[0], None)
    legend = axes.get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == SHOWN_ENTRIES
    assert "entries 0 to 7 of 40" in axes.get_title(loc="left")
