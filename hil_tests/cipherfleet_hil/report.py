"""One HTML page of measurements that needs nothing but itself, and a summary in Markdown.

The kind of a measurement stands in every title, and what is not valid is said before any figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from msgspec.structs import replace

from cipherfleet_node.config import SAFE_KEY_BITS
from cipherfleet_node.errors import ConfigError

from .charts import COLOURS, Series, Stack, beside, histogram, lines, stacks, time_text
from .crypto_cases import SAYS
from .environment import Environment
from .exchange_cost import PHE
from .measurement import LEAST_SAMPLES, Benchmark, Figure, Labels, Measurement, Target
from .measurement_tables import naive_medians, order_of, ratio_to_naive

SIZES = {
    "key_bits": "bits of the key",
    "dimension": "d, entries of an estimate",
    "degree": "n, neighbours",
}
_SIZED = {*SIZES, "dimensions", "degrees", "cases", "nodes", "edges"}
MOST_HISTOGRAMS, MOST_BARS = 18, 40
_WHOLE = "round"  # the phase that holds all others
_STYLE_FILE = Path(__file__).parent / "report.css"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # a browser fetches nothing at all


def write_report(documents: Sequence[tuple[str, Measurement]], file: Path) -> Path:
    """The page into *file*, the summary beside it, whose path is returned. Raises ConfigError."""
    summary = file.with_suffix(".md")
    if summary == file:
        raise ConfigError(
            f"{file}: is the name of the summary, give the page one that ends in .html"
        )
    try:
        file.write_text(page(documents), encoding="utf-8")
        summary.write_text(markdown(documents), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from None
    return summary


def page(documents: Sequence[tuple[str, Measurement]]) -> str:
    """The HTML page of *documents*, each with the name of its file."""
    kinds = ", ".join(dict.fromkeys(each.cipherfleet.kind for _, each in documents))
    title = f"Measured latency ({kinds})"
    body = "".join(_section(name, each, place) for place, (name, each) in enumerate(documents))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE_FILE.read_text()}</style></head><body>"
        f"<h1>{escape(title)}</h1>{_contents(documents)}{_together(documents)}{body}{_legend()}</body></html>\n"
    )


def _contents(documents: Sequence[tuple[str, Measurement]]) -> str:
    """A row for each document, with its verdict."""
    rows = [
        f'<tr><td class="words"><a href="#m{place}">{escape(_title(each))}</a></td>'
        f'<td class="words">{escape(name)}</td><td>{_date(each)}</td>'
        f"<td{_bad(each)}>{_word(each)}</td></tr>"
        for place, (name, each) in enumerate(documents)
    ]
    head = (
        '<tr><th>measurement</th><th class="words">file</th><th>measured</th><th>verdict</th></tr>'
    )
    return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'


def _word(document: Measurement) -> str:
    return "VALID" if document.cipherfleet.verdict.valid else "NOT VALID"


def _date(document: Measurement) -> str:
    return escape(document.cipherfleet.measured_at.replace("T", " ").replace("+00:00", " UTC"))


def _bad(document: Measurement) -> str:
    return "" if document.cipherfleet.verdict.valid else ' class="bad"'


def _title(document: Measurement) -> str:
    told = document.cipherfleet
    return f"{told.kind}: {told.title}"


def _section(name: str, document: Measurement, place: int) -> str:
    told = document.cipherfleet
    parts = [
        f'<section id="m{place}"><h2>{escape(_title(document))}</h2>',
        f'<p class="soft">{_date(document)}, {escape(name)}<br>'
        f"<code>{escape(told.command)}</code></p>",
        _verdict(document),
        *_charts(document),
        _figures(document),
        _nodes(document),
        *(_machine(document, target) for target in told.targets),
        "</section>",
    ]
    return "".join(parts)


def _verdict(document: Measurement) -> str:
    verdict = document.cipherfleet.verdict
    reasons = [f"<li>{escape(reason)}</li>" for reason in verdict.reasons]
    notes = [f'<li class="soft">note: {escape(note)}</li>' for note in verdict.notes]
    bad = "" if verdict.valid else " bad"
    told = f"<ul>{''.join([*reasons, *notes])}</ul>" if reasons or notes else ""
    return f'<div class="verdict{bad}"><strong>{_word(document)}</strong>{told}</div>'


def _figure(caption: str, chart: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{chart}</figure>"


# -- charts --------------------------------------------------------------------------------------


def _charts(document: Measurement) -> Iterator[str]:
    told = document.cipherfleet
    if told.nodes:
        yield from _phases(document)
    for key in SIZES:
        yield from _against(told.kind, told.figures, key)
    yield from _predictions(document)
    yield from _histograms(document)


def _together(documents: Sequence[tuple[str, Measurement]]) -> str:
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
    charts = "".join(chart for key in SIZES for chart in _against(kind, figures, key))
    if not charts:
        return ""
    doubtful = sum(not each.cipherfleet.verdict.valid for each in family)
    told = f"NOT VALID: {doubtful} of these {len(family)}"
    doubt = f'<div class="verdict bad"><strong>{told}</strong></div>' if doubtful else ""
    title = f"{kind}: {what}, {len(family)} measurements together"
    return f"<section><h2>{escape(title)}</h2>{doubt}{charts}</section>"


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
    charts = [
        _figure(
            f"{kind}: {each.name}",
            histogram(each.samples, f"samples of {each.name}"),
        )
        for each in shown
    ]
    yield f'<div class="small">{"".join(charts)}</div>'
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


# -- tables --------------------------------------------------------------------------------------


def _figures(document: Measurement) -> str:
    told = document.cipherfleet
    naive = naive_medians(told.figures)
    heads = "".join(f"<th>{key}</th>" for key in ("samples", *LEAST_SAMPLES))
    rows = [
        f"<tr><td>{escape(each.name)}{_unsafe(each)}</td><td>{each.n}</td>"
        + "".join(f"<td>{_cell(each, key)}</td>" for key in LEAST_SAMPLES)
        + f"<td>{ratio_to_naive(each, naive)}</td></tr>"
        for each in sorted(told.figures, key=order_of)
    ]
    last = f"<th>{PHE} /</th>" if naive else "<th></th>"
    return (
        f'<h3>{told.kind}: figures</h3><div class="wide"><table>'
        f"<tr><th>benchmark</th>{heads}{last}</tr>{''.join(rows)}</table></div>"
    )


def _unsafe(each: Figure) -> str:
    bits = each.labels.get("key_bits")
    return " (UNSAFE key)" if isinstance(bits, int) and bits < SAFE_KEY_BITS else ""


def _cell(each: Figure, key: str) -> str:
    value = getattr(each, key)
    if value is None:
        return f'<span class="soft">n &lt; {each.needs.get(key, LEAST_SAMPLES[key])}</span>'
    return escape(_amount(value, each.unit))


def _amount(value: float, unit: str) -> str:
    return time_text(value) if unit == "second" else f"{value:,.4g} {unit}"


def _nodes(document: Measurement) -> str:
    """What was counted at each node."""
    told = document.cipherfleet
    names = list(dict.fromkeys(name for node in told.nodes for name in node.counts))
    if not names:
        return ""
    heads = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in names)
    rows = [
        f"<tr><td>{escape(node.name)}</td>"
        + "".join(f"<td>{_count(node.counts.get(name))}</td>" for name in names)
        + "</tr>"
        for node in told.nodes
    ]
    return (
        f"<h3>{told.kind}: counted at each node</h3>"
        f'<div class="wide"><table class="counts"><tr><th>node</th>{heads}</tr>{"".join(rows)}'
        "</table></div>"
    )


def _count(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.3g}"


def _machine(document: Measurement, target: Target) -> str:
    before, after = _state(target.environment.before), _state(target.environment.after)
    same = '<span class="soft">the same</span>'
    told = [name for name in before if before[name] is not None or after[name] is not None]
    rows = [
        f'<tr><td>{escape(name)}</td><td class="words">{escape(before[name] or "not told")}</td>'
        f'<td class="words">{_after(before[name], after[name]) or same}</td></tr>'
        for name in told
    ]
    head = '<tr><th></th><th class="words">before</th><th class="words">after</th></tr>'
    silent = ", ".join(name for name in before if name not in told)
    missing = f'<p class="soft">It does not tell: {escape(silent)}.</p>' if silent else ""
    return (
        f"<h3>{document.cipherfleet.kind}: the machine {escape(target.name)} ({target.kind})</h3>"
        f'<div class="wide"><table class="state">{head}{"".join(rows)}</table></div>{missing}'
    )


def _after(before: str | None, after: str | None) -> str:
    return "" if after == before else escape(after or "not told")


def _state(state: Environment) -> dict[str, str | None]:
    """What people want to know of a machine; None where it does not tell."""
    clock, memory, quota = state.clock, state.memory, state.quota
    free, total, swap = (
        f"{kib / 1024:,.0f}"
        for kib in (memory.available_kib, memory.total_kib, memory.swap_used_kib)
    )
    return {
        "board": state.board,
        "processor": f"{state.cpu}, {state.cores} cores, {state.architecture}",
        "virtual": "yes" if state.virtual else "no",
        "kernel": state.kernel,
        "governor": state.governor,
        "clock": f"{clock.now / 1e6:,.0f} MHz" if clock else None,
        "firmware's clock": _scaled(state.firmware_clock_hz, 1e6, "MHz"),
        "throttled": f"0x{state.throttled:x}" if state.throttled is not None else None,
        "throttle events": _scaled(state.throttle_events, 1, ""),
        "temperature": _scaled(state.temperature_c, 1, "°C"),
        "core": _scaled(state.core_volts, 1, "V"),
        "load, 1 min": f"{state.load_1min:.2f}",
        "memory available": f"{free} of {total} MiB",
        "swap used": f"{swap} MiB",
        "CPU quota": f"{quota.cpus:g} CPUs" if quota and quota.cpus else "none",
        "clock source": state.clock_source,
        "versions": ", ".join(f"{name} {version}" for name, version in state.versions.items()),
        "revision": state.revision,
    }


def _scaled(value: float | None, size: float, unit: str) -> str | None:
    return None if value is None else f"{value / size:,.4g} {unit}".strip()


def _legend() -> str:
    least = ", ".join(f"{key} {count}" for key, count in LEAST_SAMPLES.items())
    return (
        '<p class="soft">Kinds: <b>device</b> is a board itself, <b>emulated</b> a container with '
        "a board's limits on another machine, <b>host</b> a machine as it is. Figures of one kind "
        f"say nothing of another. Samples that a percentile needs: {least}.</p>"
    )


# -- summary -------------------------------------------------------------------------------------


def markdown(documents: Sequence[tuple[str, Measurement]]) -> str:
    """The figures of *documents* in Markdown."""
    return "\n".join(line for name, each in documents for line in _summary(name, each)) + "\n"


def _summary(name: str, document: Measurement) -> Iterator[str]:
    told = document.cipherfleet
    yield f"## {_inline(_title(document))}\n"
    yield f"{told.measured_at}, `{name}`: **{_word(document)}**\n"
    yield from (f"* because {_inline(reason)}" for reason in told.verdict.reasons)
    yield from (f"* note: {_inline(note)}" for note in told.verdict.notes)
    yield f"\n| {told.kind} | samples | {' | '.join(LEAST_SAMPLES)} |"
    yield "|---|--:|" + "--:|" * len(LEAST_SAMPLES)
    for each in told.figures:
        values = [getattr(each, key) for key in LEAST_SAMPLES]
        cells = ["-" if value is None else _amount(value, each.unit) for value in values]
        yield f"| {_inline(each.name)}{_unsafe(each)} | {each.n} | {' | '.join(cells)} |"
    yield ""


def _inline(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
