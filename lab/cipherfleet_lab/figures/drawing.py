"""The style of figures: colours that colour-blind readers can distinguish, one text size."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

from cipherfleet_lab.systems import Array

# Okabe and Ito's; every line has a dash pattern of its own as well.
BLACK, BLUE, RED, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY, GREY = "#CC79A7", "#E69F00", "#56B4E9", "#777777"
COLOURS = (BLACK, BLUE, RED, GREEN, PURPLE, ORANGE, SKY, GREY)
DASHES: tuple[Any, ...] = (
    "-",
    "-",
    (0, (6, 2)),
    (0, (2, 1)),
    (0, (6, 2, 1, 2)),
    (0, (9, 2)),
    (0, (1, 1)),
    (0, (4, 1, 1, 1, 1, 1)),
)
FOOTER = 0.16  # inches for the command
POINTS = 80  # points per line over rounds
SETTINGS: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "svg.hashsalt": "cipherfleet",  # equal figures give equal files
}


def shown_rounds(rounds: int) -> npt.NDArray[np.intp]:
    """Return up to POINTS rounds from 1 to *rounds*, evenly spaced on a logarithmic scale."""
    spread = np.unique(np.round(np.geomspace(1, rounds, POINTS)).astype(np.intp))
    result: npt.NDArray[np.intp] = spread
    return result


def line_style(place: int) -> dict[str, Any]:
    """Return colour and dashes of the line at *place* in a legend."""
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[place % len(DASHES)]}


def line_with_band(axes: Any, x: Any, runs: Array, label: str, place: int) -> None:
    """Draw the median over *runs*, shape (runs, points), and the band with eight of ten runs."""
    axes.plot(x, np.median(runs, axis=0), label=label, zorder=3, **line_style(place))
    if len(runs) > 2:
        low, high = np.quantile(runs, [0.1, 0.9], axis=0)
        axes.fill_between(x, low, high, color=line_style(place)["color"], alpha=0.15, linewidth=0)


def powers_of_two(axes: Any, exponents: Sequence[int]) -> None:
    """Set ticks 2^e on a logarithmic horizontal axis."""
    axes.set_xscale("log", base=2)
    axes.set_xticks([2.0**e for e in exponents], [f"$2^{{{e}}}$" for e in exponents])
    axes.minorticks_off()


def legend_below(figure: Any, axes: Any, columns: int) -> None:
    """Add one legend for all panels below them."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def draw_svg(draw: Any, size: tuple[float, float], command: str) -> bytes:
    """Return the SVG of *draw* with its command; equal numbers give equal bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(SETTINGS):
        width, height = size
        figure = Figure(figsize=(width, height + FOOTER), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=(height, FOOTER))
        draw(parts[0])
        parts[1].text(0.995, 0.5, command, ha="right", va="center", fontsize=6, color=GREY)
        file = BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    lines = [_shorten_coordinates(line.rstrip()) for line in file.getvalue().splitlines()]
    return b"\n".join(lines) + b"\n"


def _shorten_coordinates(line: bytes) -> bytes:
    """Shorten coordinates to hundredths of a point; this makes the file half as large."""
    return re.sub(rb"(\.\d\d)\d+", rb"\1", line) if line.startswith(b"L ") else line
