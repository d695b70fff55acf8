"""The charts of a report. All times are in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .inline_svg import COLOURS, SOFT, empty_figure, inline, page_style, tooltip

WIDTH = 760
_ROW, _KEY = 24, 19  # pixels per bar, and per name in a legend
_LONGEST = 40  # characters of a name in a chart; the tooltip has the whole name
_FAR = 3.0  # samples this many interquartile ranges beyond the quartiles are only counted (Tukey)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """A line.

    Its name, its points by ascending x, and its number, which sets its colour and dashes.
    """

    name: str
    points: Sequence[tuple[float, float]]
    number: int


@dataclass(frozen=True)
class Stack:
    """A bar: its name, and its parts."""

    name: str
    parts: Sequence[tuple[str, float]]


def time_text(seconds: float) -> str:
    """Format with three digits and a unit: '2.13 ms'.

    From a thousand seconds on with all digits.
    """
    if seconds >= 999.5:
        return f"{seconds:,.0f} s"
    return str(_seconds_format().format_data(float(f"{seconds:.3g}")))


def _seconds_format() -> Any:
    from matplotlib.ticker import EngFormatter  # slow: only commands that draw pay for it

    return EngFormatter("s")


@page_style()
def histogram(samples: Sequence[float], label: str) -> str:
    """Draw a histogram with the median; samples that are far out are only counted."""
    from matplotlib.ticker import AutoLocator

    values = np.sort(np.asarray(samples, dtype=float))
    shown = _without_outliers(values)
    text = f"{len(values)} samples"
    if len(shown) < len(values):
        text += f", {len(values) - len(shown)} beyond (to {time_text(float(values[-1]))})"
    figure, axes = empty_figure(300, 150)
    span = AutoLocator().nonsingular(shown[0], shown[-1])
    counts, _, drawn = axes.hist(shown, bins="rice", range=span, rwidth=0.94)
    for count, bar in zip(counts, drawn, strict=True):
        bar.set(gid=tooltip(f"{count:.0f} samples"), visible=count > 0)
    axes.axvline(np.median(values), color="C1")
    axes.set_xlim(*span)
    axes.xaxis.set_major_formatter(_seconds_format())
    axes.locator_params(nbins=3)
    axes.locator_params("y", integer=True)
    axes.grid(visible=False, axis="x")
    figure.supxlabel(text, x=0.03, ha="left", color=SOFT, size=11)
    return inline(figure, label)


def _without_outliers(values: Floats) -> Floats:
    """Return those of the sorted *values* that are not far out."""
    quarter, three = np.percentile(values, [25, 75])
    reach = max(_FAR * float(three - quarter), 0.01 * float(three))
    near: Floats = values[(values >= quarter - reach) & (values <= three + reach)]
    return near


@page_style()
def line_chart(series: Sequence[Series], x_label: str, label: str) -> str:
    """Draw times against a size.

    Both axes are logarithmic, the legend is in the order of *series*.
    """
    figure, axes = empty_figure(WIDTH, 60 + max(220, _KEY * len(series)))
    axes.set(xscale="log", yscale="log", xlabel=x_label)
    sizes = sorted({x for each in series for x, _ in each.points})
    axes.set_xticks(
        sizes, [f"{size:g}" for size in sizes]
    )  # before plotting: otherwise powers of ten are shown
    for each in series:
        look = {"color": f"C{each.number % COLOURS}", "ls": ("-", "--")[each.number // COLOURS % 2]}
        axes.plot(
            *np.transpose(each.points), **look, label=_shorten(each.name), gid=tooltip(each.name)
        )
        for x, y in each.points:
            _dot(axes, x, y, look["color"], f"{each.name}: {time_text(y)} at {x:g}")
    axes.margins(y=0, tight=False)
    axes.yaxis.set_major_formatter(_seconds_format())
    axes.minorticks_off()
    axes.grid(visible=False, axis="x")
    figure.legend(handles=axes.lines, loc="outside right upper", labelcolor="linecolor")
    return inline(figure, label)


@page_style()
def stacked_bars(bars: Sequence[Stack], label: str) -> str:
    """Draw stacked bars, one below the other, on one axis from zero."""
    names = list(
        dict.fromkeys(name for bar in bars for name, _ in bar.parts)
    )  # the same order in every bar
    figure, axes = empty_figure(WIDTH, 40 + max(_ROW * len(bars), _KEY * len(names)))
    ends = np.zeros(len(bars))
    for number, name in enumerate(names):
        values = [dict(bar.parts).get(name, 0.0) for bar in bars]
        look = {"color": f"C{number % COLOURS}", "label": name}
        drawn = axes.barh(range(len(bars)), values, 0.66, ends, **look)
        for bar, part, value in zip(bars, drawn, values, strict=True):
            part.set(gid=tooltip(f"{bar.name}, {name}: {time_text(value)}"), visible=value > 0)
        ends += values
    axes.bar_label(drawn, [time_text(end) for end in ends], padding=5, color=SOFT)
    _rows(axes, [bar.name for bar in bars])
    figure.legend(handles=axes.containers, loc="outside right upper")
    return inline(figure, label)


@page_style()
def compare_predictions(rows: Sequence[tuple[str, float, float]], label: str) -> str:
    """Draw predicted and measured times, one row per name, on one logarithmic axis."""
    figure, axes = empty_figure(WIDTH, 46 + _ROW * max(2, len(rows)))
    axes.set_xscale("log")
    at_the_right = {"x": 1.02, "transform": axes.get_yaxis_transform(), "va": "center"}
    for row, (name, *times) in enumerate(rows):
        axes.plot(times, [row, row], color=SOFT, lw=1)
        for number, (what, time) in enumerate(zip(("predicted", "measured"), times, strict=True)):
            _dot(axes, time, row, f"C{number}", f"{name}, {what}: {time_text(time)}", what)
        axes.text(y=row, s=f"{times[1] / times[0]:.2f}x", color=SOFT, **at_the_right)
    axes.margins(x=0, tight=False)
    axes.minorticks_off()
    _rows(axes, [name for name, _, _ in rows])
    figure.legend(handles=axes.patches[:2], loc="outside right upper")
    return inline(figure, label)


def _dot(axes: Any, x: float, y: float, colour: str, text: str, label: str = "") -> None:
    """Draw a dot that is round on any axes, with the tooltip *text*."""
    from matplotlib.patches import Circle
    from matplotlib.transforms import ScaledTranslation

    place = axes.figure.dpi_scale_trans + ScaledTranslation(x, y, axes.transData)
    look = {"color": colour, "lw": 0, "label": label, "zorder": 3, "gid": tooltip(text)}
    axes.add_patch(Circle((0, 0), 0.05, transform=place, **look))


def _rows(axes: Any, names: Sequence[str]) -> None:
    """Label one row per name, the first on top, with times along the axis."""
    axes.set_yticks(range(len(names)), [_shorten(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(_seconds_format())
    axes.grid(visible=False, axis="y")


def _shorten(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
