"""Charts as inline SVG, drawn with the colours of the page that they stand on.

All times are in seconds. Nothing is fetched: text is the page's own, colours are its variables.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

WIDTH = 760
COLOURS = 8
_CHARACTER = 7.2  # a generous width of one, at 12 px
_LONGEST = 40  # of a name in a chart; its tip has all of it
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_FAR = 3.0  # times the interquartile range beyond the quartiles: only counted, not drawn (Tukey)

Point = tuple[float, float]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """A line: its name, its points by ascending x, and its number, which decides its look."""

    name: str
    points: Sequence[Point]
    number: int


@dataclass(frozen=True)
class Stack:
    """A bar: its name, and the parts that it is made of."""

    name: str
    parts: Sequence[tuple[str, float]]


def time_text(seconds: float) -> str:
    """Three digits and a unit: '2.13 ms'."""
    for size, unit in _UNITS:
        if seconds >= 0.9995 * size or unit == "ns":
            number = seconds / size
            digits = f"{number:.3g}" if number < 999.5 else f"{number:,.0f}"
            return f"{digits} {unit}"
    raise AssertionError(seconds)


# -- building blocks -----------------------------------------------------------------------------


def _svg(height: float, parts: Iterable[str], label: str, width: float = WIDTH) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" '
        f'role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _box(x: float, y: float, width: float, height: float, kind: str, tip: str) -> str:
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" '
        f'height="{height:.1f}"><title>{escape(tip)}</title></rect>'
    )


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _width_of(texts: Iterable[str]) -> float:
    return _CHARACTER * max((len(text) for text in texts), default=0)


def _nice_step(span: float, most: int) -> float:
    """The smallest 1, 2 or 5 times a power of ten that divides *span* into at most *most*."""
    least = span / most
    power = math.pow(10, math.floor(math.log10(least)))
    return power * next(step for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    if high <= low:
        return [low]
    step = _nice_step(high - low, most)
    first = math.ceil(low / step - 1e-9)
    return [step * count for count in range(first, math.floor(high / step + 1e-9) + 1)]


def _powers(low: float, high: float) -> list[float]:
    """Powers of ten from the one below *low* to the one above *high*."""
    return [
        10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high) - 1e-9) + 1)
    ]


def _apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions as near to *wanted* as they can be, *gap* apart, within low to high."""
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    placed = [0.0] * len(wanted)
    below = low - gap
    for place in order:
        below = placed[place] = max(wanted[place], below + gap)
    above = high + gap
    for place in reversed(order):
        above = placed[place] = min(placed[place], above - gap)
    return placed


# -- histogram -----------------------------------------------------------------------------------


def histogram(samples: Sequence[float], label: str, width: float = 300) -> str:
    """How often which time was seen, with the median; what is far out is only counted."""
    values = np.sort(np.asarray(samples, dtype=float))
    shown = _near(values)
    counts, edges = np.histogram(shown, bins=_bins(shown))
    left, right, top, bottom, height = 34.0, width - 12, 8.0, 112.0, 146.0
    low, high, most = float(edges[0]), float(edges[-1]), int(max(counts))

    def x(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    def y(count: float) -> float:
        return bottom - (bottom - top) * count / most

    ticks = [tick for tick in _ticks(low, high, 4) if low <= tick <= high]
    middle = float(np.median(values))
    told = f"{len(values)} samples"
    if len(shown) < len(values):
        told += f", {len(values) - len(shown)} beyond (to {time_text(float(values[-1]))})"
    parts = [
        *(_line(left, y(t), right, y(t), "grid") for t in _whole_ticks(most)),
        *(_text(left - 5, y(t) + 4, f"{t}", "end") for t in _whole_ticks(most)),
        *(
            _box(x(a) + 0.5, y(c), x(b) - x(a) - 1, bottom - y(c), "fill0", f"{c} samples")
            for c, a, b in zip(counts.tolist(), edges, edges[1:], strict=False)
            if c
        ),
        _line(left, bottom, right, bottom, "axis"),
        _line(x(middle), top, x(middle), bottom, "mark"),
        *_time_axis([(x(tick), tick) for tick in ticks], bottom + 15, left, right),
        _text(left - 20, height - 3, told, "start", "soft"),
    ]
    return _svg(height, parts, label, width)


def _near(values: Floats) -> Floats:
    """Those of sorted *values* that are not far out."""
    quarter, three = np.percentile(values, [25, 75])
    reach = max(_FAR * float(three - quarter), 0.01 * float(three))
    near: Floats = values[(values >= quarter - reach) & (values <= three + reach)]
    return near


def _bins(shown: Floats) -> int | Sequence[float]:
    """Freedman and Diaconis' number of bins, 5 to 30; one for samples that are all alike."""
    low, high = float(shown[0]), float(shown[-1])
    if high <= low:
        return [0.95 * low, 1.05 * low]
    quarter, three = np.percentile(shown, [25, 75])
    width = 2 * float(three - quarter) / len(shown) ** (1 / 3)
    return int(np.clip(math.ceil((high - low) / width) if width > 0 else 30, 5, 30))


def _whole_ticks(most: int) -> list[int]:
    return sorted({0, math.ceil(most / 2), most})


def _time_axis(
    ticks: Sequence[tuple[float, float]], y: float, left: float, right: float
) -> list[str]:
    """The labels of *ticks* (place, seconds); those without room are left out."""
    parts: list[str] = []
    free_from = -math.inf
    for place, seconds in ticks:
        text = time_text(seconds) if seconds > 0 else "0"
        half = _width_of([text]) / 2
        middle = min(max(place, left - 20 + half), right + 10 - half)
        if middle - half >= free_from:
            parts.append(_text(middle, y, text, "middle"))
            free_from = middle + half + 6
    return parts


# -- lines ---------------------------------------------------------------------------------------


def lines(series: Sequence[Series], x_label: str, label: str) -> str:
    """Times against a size, both axes logarithmic, each line named at its end."""
    xs = sorted({x for each in series for x, _ in each.points})
    ys = [y for each in series for _, y in each.points]
    powers = _powers(min(ys), max(ys))
    names = _width_of(_short(each.name) for each in series)
    left, right, top = 58.0, WIDTH - names - 18, 12.0
    bottom = top + max(210.0, 17.0 * len(series))

    def x(value: float) -> float:
        span = math.log(xs[-1] / xs[0]) or 1.0
        return left + 14 + (right - left - 24) * math.log(value / xs[0]) / span

    def y(value: float) -> float:
        span = math.log(powers[-1] / powers[0]) or 1.0
        return bottom - (bottom - top) * math.log(value / powers[0]) / span

    parts = [_line(left, y(power), right, y(power), "grid") for power in powers]
    parts += [_text(left - 6, y(power) + 4, time_text(power), "end") for power in powers]
    parts.append(_line(left, bottom, right, bottom, "axis"))
    parts += [_text(x(value), bottom + 17, f"{value:g}", "middle") for value in xs]
    parts.append(_text((left + right) / 2, bottom + 36, x_label, "middle", "soft"))
    ends = _apart([y(each.points[-1][1]) for each in series], 15, top, bottom)
    for each, end in zip(series, ends, strict=True):
        colour, dashed = each.number % COLOURS, " dashed" * (each.number // COLOURS % 2)
        points = [(x(a), y(b)) for a, b in each.points]
        way = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline class="stroke{colour}{dashed}" points="{way}"/>')
        parts += [
            f'<circle class="fill{colour}" cx="{a:.1f}" cy="{b:.1f}" r="3.5"><title>'
            f"{escape(each.name)}: {time_text(value)} at {size:g}</title></circle>"
            for (a, b), (size, value) in zip(points, each.points, strict=True)
        ]
        parts.append(
            _line(points[-1][0] + 5, points[-1][1], right + 8, end, f"lead stroke{colour}")
        )
        parts.append(_text(right + 12, end + 4, _short(each.name), "start", f"name{colour}"))
    return _svg(bottom + 44, parts, label)


# -- stacks --------------------------------------------------------------------------------------


def stacks(bars: Sequence[Stack], label: str) -> str:
    """Bars made of parts, one below the other, on one axis from zero."""
    names = list(dict.fromkeys(name for bar in bars for name, _ in bar.parts))  # in every bar so
    colour = {name: place % COLOURS for place, name in enumerate(names)}
    key, top = _legend(names)
    left = max(40.0, _width_of(_short(bar.name) for bar in bars) + 14)
    right, step = WIDTH - 80.0, 24.0
    longest = max(sum(value for _, value in bar.parts) for bar in bars)
    bottom = top + step * len(bars)
    scale = (right - left) / longest
    ticks = _ticks(0.0, longest)
    parts = [*key, *(_line(left + scale * t, top, left + scale * t, bottom, "grid") for t in ticks)]
    parts += _time_axis([(left + scale * t, t) for t in ticks], bottom + 16, left, right)
    for place, bar in enumerate(bars):
        y, at = top + step * place, left
        parts.append(_text(left - 8, y + 16, _short(bar.name), "end"))
        for name, value in sorted(bar.parts, key=lambda part: names.index(part[0])):
            tip = f"{bar.name}, {name}: {time_text(value)}"
            parts.append(_box(at, y + 4, scale * value, step - 8, f"fill{colour[name]}", tip))
            at += scale * value
        total = sum(value for _, value in bar.parts)
        parts.append(_text(at + 6, y + 16, time_text(total), "start", "soft"))
    parts.append(_line(left, top, left, bottom, "axis"))
    return _svg(bottom + 26, parts, label)


def _legend(names: Sequence[str]) -> tuple[list[str], float]:
    """Patches with names, in rows as wide as the chart, and the height they take."""
    parts: list[str] = []
    x, y = 4.0, 14.0
    for place, name in enumerate(names):
        width = 26 + _width_of([name])
        if x + width > WIDTH:
            x, y = 4.0, y + 18
        parts.append(_box(x, y - 9, 10, 10, f"fill{place % COLOURS}", name))
        parts.append(_text(x + 15, y, name))
        x += width
    return parts, y + 12


# -- predicted -----------------------------------------------------------------------------------


def beside(rows: Sequence[tuple[str, float, float]], label: str) -> str:
    """Predicted and measured times, a row for each name, on one logarithmic axis."""
    powers = _powers(min(min(pair) for _, *pair in rows), max(max(pair) for _, *pair in rows))
    key, top = _legend(["predicted", "measured"])
    left = max(40.0, _width_of(_short(name) for name, _, _ in rows) + 14)
    right, step = WIDTH - 70.0, 24.0
    bottom = top + step * len(rows)

    def x(value: float) -> float:
        span = math.log(powers[-1] / powers[0]) or 1.0
        return left + (right - left) * math.log(value / powers[0]) / span

    parts = [*key, *(_line(x(power), top, x(power), bottom, "grid") for power in powers)]
    parts += _time_axis([(x(power), power) for power in powers], bottom + 16, left, right)
    for place, (name, predicted, measured) in enumerate(rows):
        y = top + step * (place + 0.5)
        parts.append(_text(left - 8, y + 4, _short(name), "end"))
        parts.append(_line(x(predicted), y, x(measured), y, "axis"))
        for colour, (what, value) in enumerate((("predicted", predicted), ("measured", measured))):
            tip = f"{name}, {what}: {time_text(value)}"
            parts.append(
                f'<circle class="fill{colour}" cx="{x(value):.1f}" cy="{y:.1f}" r="5">'
                f"<title>{escape(tip)}</title></circle>"
            )
        parts.append(_text(right + 12, y + 4, f"{measured / predicted:.2f}x", "start", "soft"))
    return _svg(bottom + 26, parts, label)
