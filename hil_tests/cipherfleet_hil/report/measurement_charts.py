"""The charts of a report: of one measurement, and of several that differ only in sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from msgspec.structs import replace

from cipherfleet_hil.measurement.document import Benchmark, Figure, Labels, Measurement
from cipherfleet_hil.measuring.cases import CASE_DESCRIPTIONS

from .charts import Series, Stack, compare_predictions, histogram, line_chart, stacked_bars
from .inline_svg import COLOURS

SIZES = {
    "key_bits": "key size, bits",
    "dimension": "d, dimension of the estimate",
    "degree": "n, number of neighbours",
}
_SIZED = {*SIZES, "dimensions", "degrees", "cases", "nodes", "edges"}
MOST_HISTOGRAMS, MOST_BARS = 18, 40
_WHOLE = "round"  # the phase that contains all others


def _figure(caption: str, chart: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{chart}</figure>"


def draw_charts(document: Measurement) -> Iterator[str]:
    """Yield all charts of a measurement."""
    body = document.cipherfleet
    if body.nodes:
        yield from _phases(document)
    for key in SIZES:
        yield from _draw_against_size(body.kind, body.figures, key)
    yield from _predictions(document)
    yield from _histograms(document)


def combine_charts(documents: Sequence[tuple[str, Measurement]]) -> str:
    """Draw charts over sizes that are in separate documents of the same machine and settings."""
    families: dict[tuple[str, ...], list[Measurement]] = {}
    for _, each in documents:
        families.setdefault(_comparable_settings(each), []).append(each)
    return "".join(_draw_over_sizes(family) for family in families.values() if len(family) > 1)


def _comparable_settings(document: Measurement) -> tuple[str, ...]:
    """Return what must be equal in such documents: the machine, and all settings except sizes."""
    body = document.cipherfleet
    states = (target.environment.before for target in body.targets)
    settings = [f"{name}={value}" for name, value in body.settings.items() if name not in _SIZED]
    return (
        body.kind,
        body.what,
        *sorted({state.board or state.cpu for state in states}),
        *settings,
    )


def _draw_over_sizes(family: Sequence[Measurement]) -> str:
    figures = [each for document in family for each in _label_with_sizes(document)]
    if len({(_case_name(each), *_size_values(each.labels)) for each in figures}) < len(figures):
        return ""  # one size was measured twice: no single value to draw
    kind, what = family[0].cipherfleet.kind, family[0].cipherfleet.what
    drawn = "".join(chart for key in SIZES for chart in _draw_against_size(kind, figures, key))
    if not drawn:
        return ""
    invalid = sum(not each.cipherfleet.verdict.valid for each in family)
    text = f"NOT VALID: {invalid} of these {len(family)} measurements"
    warning = f'<div class="validity bad"><strong>{text}</strong></div>' if invalid else ""
    title = f"{kind}: {what}, {len(family)} measurements together"
    return f"<section><h2>{escape(title)}</h2>{warning}{drawn}</section>"


def _label_with_sizes(document: Measurement) -> list[Figure]:
    """Return the figures; those without own size labels get the sizes of the fleet."""
    settings = document.cipherfleet.settings
    body = {name: value for name, value in settings.items() if isinstance(value, int) and value > 0}
    sizes: Labels = {key: body[key] for key in SIZES if key in body}
    if {"nodes", "edges"} <= body.keys():
        sizes.setdefault("degree", round(2 * body["edges"] / body["nodes"], 2))
    return [replace(each, labels={**sizes, **each.labels}) for each in document.cipherfleet.figures]


def _draw_against_size(kind: str, figures: Sequence[Figure], key: str) -> Iterator[str]:
    """Draw medians against the size *key*, with the other sizes at their largest."""
    measured = [each for each in figures if each.p50 and key in each.labels]
    others = [other for other in SIZES if other != key]
    fixed = {other: _largest(measured, other) for other in others}
    chosen = [
        each
        for each in measured
        if all(each.labels.get(other, fixed[other]) == fixed[other] for other in others)
    ]
    series = [each for each in _series(chosen, key) if len(each.points) > 1]
    if series:
        at = ", ".join(
            _describe_size(other, value) for other, value in fixed.items() if value is not None
        )
        caption = f"{kind}: median against {SIZES[key]}" + f" ({at})" * bool(at)
        yield _figure(caption, line_chart(series, SIZES[key], caption))


def _describe_size(key: str, value: float) -> str:
    texts = {"key_bits": f"{value:g} bits", "dimension": f"d={value:g}", "degree": f"n={value:g}"}
    return texts[key]


def _largest(figures: Sequence[Figure], key: str) -> float | None:
    return max((float(each.labels[key]) for each in figures if key in each.labels), default=None)


def _series(figures: Sequence[Figure], key: str) -> list[Series]:
    """Return one line per set of figures that differ only in *key*, slowest first."""
    found: dict[str, list[tuple[float, float]]] = {}
    for each in figures:
        assert each.p50 is not None
        found.setdefault(_case_name(each), []).append((float(each.labels[key]), each.p50))
    cases = [*CASE_DESCRIPTIONS]
    made = [
        Series(name, sorted(points), cases.index(name) if name in cases else place)
        for place, (name, points) in enumerate(found.items())
    ]
    return sorted(made, key=lambda each: -each.points[-1][1])


def _case_name(each: Figure | Benchmark) -> str:
    """Return the case or phase of a figure, without its sizes."""
    return str(each.labels.get("case") or each.labels.get("phase") or each.name)


def _histograms(document: Measurement) -> Iterator[str]:
    """Draw the samples of each case at its largest sizes."""
    largest: dict[str, Benchmark] = {}
    for each in document.benchmarks:
        case = _case_name(each)
        best = largest.get(case)
        if best is None or _size_values(each.labels) >= _size_values(best.labels):
            largest[case] = each
    shown = list(largest.values())[:MOST_HISTOGRAMS]
    kind = document.cipherfleet.kind
    yield f"<h3>{kind}: distribution of the samples (line: median)</h3>"
    drawn = [
        _figure(
            f"{kind}: {each.name}",
            histogram(each.samples, f"samples of {each.name}"),
        )
        for each in shown
    ]
    yield f'<div class="small">{"".join(drawn)}</div>'
    if len(largest) > len(shown):
        yield f'<p class="soft">{len(largest) - len(shown)} more cases are in the document.</p>'


def _size_values(labels: Labels) -> list[float]:
    return [float(labels.get(key, 0)) for key in SIZES]


def _phases(document: Measurement) -> Iterator[str]:
    bars = [
        Stack(node.name, [(name, each.p50) for name, each in node.phases.items() if each.p50])
        for node in document.cipherfleet.nodes
    ]
    bars = [Stack(bar.name, [part for part in bar.parts if part[0] != _WHOLE]) for bar in bars]
    bars = _limit_phases([bar for bar in bars if bar.parts])
    if not bars:
        return
    slowest = sorted(bars, key=lambda bar: -sum(value for _, value in bar.parts))[:MOST_BARS]
    some = f", the slowest {MOST_BARS} of {len(bars)} nodes" if len(bars) > MOST_BARS else ""
    kind = document.cipherfleet.kind
    caption = f"{kind}: phases of a round, median of each (medians need not add up){some}"
    yield _figure(caption, stacked_bars([bar for bar in bars if bar in slowest], caption))


def _limit_phases(bars: Sequence[Stack]) -> list[Stack]:
    """Reduce to as many phases as there are colours, by adding up the shortest ones."""
    totals: Counter[str] = Counter()
    for bar in bars:
        totals.update(dict(bar.parts))
    if len(totals) <= COLOURS:
        return list(bars)
    kept = [name for name, _ in totals.most_common(COLOURS - 1)]
    rest = f"{len(totals) - len(kept)} others"
    return [Stack(bar.name, _merge_rest(dict(bar.parts), kept, rest)) for bar in bars]


def _merge_rest(
    parts: Mapping[str, float], kept: Sequence[str], rest: str
) -> list[tuple[str, float]]:
    other = sum(value for name, value in parts.items() if name not in kept)
    return [*((name, parts[name]) for name in kept if name in parts), (rest, other)]


def _predictions(document: Measurement) -> Iterator[str]:
    body = document.cipherfleet
    measured = {each.name: each.p50 for each in body.figures}
    rows = [
        (name, predicted, median)
        for name, predicted in body.predicted.items()
        if predicted > 0 and (median := measured.get(name))
    ]
    if rows:
        caption = f"{body.kind}: predicted and measured times (right: measured / predicted)"
        yield _figure(caption, compare_predictions(rows, caption))
