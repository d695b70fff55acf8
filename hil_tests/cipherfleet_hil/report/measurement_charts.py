"""Which charts a report has: of one measurement, and of several that differ in their sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from msgspec.structs import replace

from cipherfleet_hil.measurement.document import Benchmark, Figure, Labels, Measurement
from cipherfleet_hil.measuring.cases import SAYS

from .charts import Series, Stack, beside, histogram, lines, stacks
from .inline_svg import COLOURS

SIZES = {
    "key_bits": "bits of the key",
    "dimension": "d, entries of an estimate",
    "degree": "n, neighbours",
}
_SIZED = {*SIZES, "dimensions", "degrees", "cases", "nodes", "edges"}
MOST_HISTOGRAMS, MOST_BARS = 18, 40
_WHOLE = "round"  # the phase that holds all others


def _figure(caption: str, chart: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{chart}</figure>"


def charts(document: Measurement) -> Iterator[str]:
    """All that a measurement has to show."""
    told = document.cipherfleet
    if told.nodes:
        yield from _phases(document)
    for key in SIZES:
        yield from _against(told.kind, told.figures, key)
    yield from _predictions(document)
    yield from _histograms(document)


def together(documents: Sequence[tuple[str, Measurement]]) -> str:
    """Charts over sizes that were measured one by one: one machine, different benchmarks."""
    families: dict[tuple[str, ...], list[Measurement]] = {}
    for _, each in documents:
        families.setdefault(_family(each), []).append(each)
    return "".join(_over_sizes(family) for family in families.values() if len(family) > 1)


def _family(document: Measurement) -> tuple[str, ...]:
    """What must be alike: the machine, and all settings that are no sizes."""
    told = document.cipherfleet
    states = (target.environment.before for target in told.targets)
    settings = [f"{name}={value}" for name, value in told.settings.items() if name not in _SIZED]
    return (
        told.kind,
        told.what,
        *sorted({state.board or state.cpu for state in states}),
        *settings,
    )


def _over_sizes(family: Sequence[Measurement]) -> str:
    figures = [each for document in family for each in _with_sizes(document)]
    if len({(_case(each), *_size(each.labels)) for each in figures}) < len(figures):
        return ""  # the same measured twice: which of them would be the point?
    kind, what = family[0].cipherfleet.kind, family[0].cipherfleet.what
    drawn = "".join(chart for key in SIZES for chart in _against(kind, figures, key))
    if not drawn:
        return ""
    doubtful = sum(not each.cipherfleet.verdict.valid for each in family)
    told = f"NOT VALID: {doubtful} of these {len(family)}"
    doubt = f'<div class="verdict bad"><strong>{told}</strong></div>' if doubtful else ""
    title = f"{kind}: {what}, {len(family)} measurements together"
    return f"<section><h2>{escape(title)}</h2>{doubt}{drawn}</section>"


def _with_sizes(document: Measurement) -> list[Figure]:
    """The figures, labelled with the sizes of a fleet where they have none of their own."""
    settings = document.cipherfleet.settings
    told = {name: value for name, value in settings.items() if isinstance(value, int) and value > 0}
    sizes: Labels = {key: told[key] for key in SIZES if key in told}
    if {"nodes", "edges"} <= told.keys():
        sizes.setdefault("degree", round(2 * told["edges"] / told["nodes"], 2))
    return [replace(each, labels={**sizes, **each.labels}) for each in document.cipherfleet.figures]


def _against(kind: str, figures: Sequence[Figure], key: str) -> Iterator[str]:
    """Medians against the size *key*, the other sizes at their largest."""
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
        at = ", ".join(_at(other, value) for other, value in fixed.items() if value is not None)
        caption = f"{kind}: median against {SIZES[key]}" + f" ({at})" * bool(at)
        yield _figure(caption, lines(series, SIZES[key], caption))


def _at(key: str, value: float) -> str:
    texts = {"key_bits": f"{value:g} bits", "dimension": f"d={value:g}", "degree": f"n={value:g}"}
    return texts[key]


def _largest(figures: Sequence[Figure], key: str) -> float | None:
    return max((float(each.labels[key]) for each in figures if key in each.labels), default=None)


def _series(figures: Sequence[Figure], key: str) -> list[Series]:
    """A line for all figures that are alike but for *key*, slowest first."""
    found: dict[str, list[tuple[float, float]]] = {}
    for each in figures:
        assert each.p50 is not None
        found.setdefault(_case(each), []).append((float(each.labels[key]), each.p50))
    cases = [*SAYS]
    made = [
        Series(name, sorted(points), cases.index(name) if name in cases else place)
        for place, (name, points) in enumerate(found.items())
    ]
    return sorted(made, key=lambda each: -each.points[-1][1])


def _case(each: Figure | Benchmark) -> str:
    """What it is a figure of, at whatever size."""
    return str(each.labels.get("case") or each.labels.get("phase") or each.name)


def _histograms(document: Measurement) -> Iterator[str]:
    """The samples of each case at its largest sizes."""
    largest: dict[str, Benchmark] = {}
    for each in document.benchmarks:
        case = _case(each)
        best = largest.get(case)
        if best is None or _size(each.labels) >= _size(best.labels):
            largest[case] = each
    shown = list(largest.values())[:MOST_HISTOGRAMS]
    kind = document.cipherfleet.kind
    yield f"<h3>{kind}: how the samples are spread (line: median)</h3>"
    drawn = [
        _figure(
            f"{kind}: {each.name}",
            histogram(each.samples, f"samples of {each.name}"),
        )
        for each in shown
    ]
    yield f'<div class="small">{"".join(drawn)}</div>'
    if len(largest) > len(shown):
        yield f'<p class="soft">{len(largest) - len(shown)} more are in the document.</p>'


def _size(labels: Labels) -> list[float]:
    return [float(labels.get(key, 0)) for key in SIZES]


def _phases(document: Measurement) -> Iterator[str]:
    bars = [
        Stack(node.name, [(name, each.p50) for name, each in node.phases.items() if each.p50])
        for node in document.cipherfleet.nodes
    ]
    bars = [Stack(bar.name, [part for part in bar.parts if part[0] != _WHOLE]) for bar in bars]
    bars = _few_phases([bar for bar in bars if bar.parts])
    if not bars:
        return
    slowest = sorted(bars, key=lambda bar: -sum(value for _, value in bar.parts))[:MOST_BARS]
    some = f", the slowest {MOST_BARS} of {len(bars)} nodes" if len(bars) > MOST_BARS else ""
    kind = document.cipherfleet.kind
    caption = f"{kind}: phases of a round, median of each (which need not add up){some}"
    yield _figure(caption, stacks([bar for bar in bars if bar in slowest], caption))


def _few_phases(bars: Sequence[Stack]) -> list[Stack]:
    """As many phases as there are colours: the shortest are added up."""
    totals: Counter[str] = Counter()
    for bar in bars:
        totals.update(dict(bar.parts))
    if len(totals) <= COLOURS:
        return list(bars)
    kept = [name for name, _ in totals.most_common(COLOURS - 1)]
    rest = f"{len(totals) - len(kept)} others"
    return [Stack(bar.name, _merged(dict(bar.parts), kept, rest)) for bar in bars]


def _merged(parts: Mapping[str, float], kept: Sequence[str], rest: str) -> list[tuple[str, float]]:
    other = sum(value for name, value in parts.items() if name not in kept)
    return [*((name, parts[name]) for name in kept if name in parts), (rest, other)]


def _predictions(document: Measurement) -> Iterator[str]:
    told = document.cipherfleet
    measured = {each.name: each.p50 for each in told.figures}
    rows = [
        (name, predicted, median)
        for name, predicted in told.predicted.items()
        if predicted > 0 and (median := measured.get(name))
    ]
    if rows:
        caption = f"{told.kind}: predicted and measured (measured over predicted, at the right)"
        yield _figure(caption, beside(rows, caption))
