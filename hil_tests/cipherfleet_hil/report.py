"""One HTML page of measurements that needs nothing but itself, and a summary in Markdown.

The kind of a measurement stands in every title, and what is not valid is said before any figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from cipherfleet_node.config import SAFE_KEY_BITS
from cipherfleet_node.errors import ConfigError

from .charts import Series, Stack, beside, histogram, lines, stacks, time_text
from .environment import Environment
from .measurement import LEAST_SAMPLES, Figure, Labels, Measurement, Target

SIZES = {
    "key_bits": "bits of the key",
    "dimension": "d, entries of an estimate",
    "degree": "n, neighbours",
}
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
        f"<h1>{escape(title)}</h1>{_contents(documents)}{body}{_legend()}</body></html>\n"
    )


def _contents(documents: Sequence[tuple[str, Measurement]]) -> str:
    """A row for each document, with its verdict."""
    rows = [
        f'<tr><td class="words"><a href="#m{place}">{escape(_title(each))}</a></td>'
        f'<td class="words">{escape(name)}</td><td>{escape(each.cipherfleet.measured_at)}</td>'
        f"<td{_bad(each)}>{_word(each)}</td></tr>"
        for place, (name, each) in enumerate(documents)
    ]
    head = (
        '<tr><th>measurement</th><th class="words">file</th><th>measured</th><th>verdict</th></tr>'
    )
    return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'


def _word(document: Measurement) -> str:
    return "VALID" if document.cipherfleet.verdict.valid else "NOT VALID"


def _bad(document: Measurement) -> str:
    return "" if document.cipherfleet.verdict.valid else ' class="bad"'


def _title(document: Measurement) -> str:
    told = document.cipherfleet
    return f"{told.kind}: {told.title}"


def _section(name: str, document: Measurement, place: int) -> str:
    told = document.cipherfleet
    parts = [
        f'<section id="m{place}"><h2>{escape(_title(document))}</h2>',
        f'<p class="soft">{escape(told.measured_at)}, {escape(name)}<br>'
        f"<code>{escape(told.command)}</code></p>",
        _verdict(document),
        *_charts(document),
        _figures(document),
        *(_machine(document, target) for target in told.targets),
        "</section>",
    ]
    return "".join(parts)


def _verdict(document: Measurement) -> str:
    verdict = document.cipherfleet.verdict
    reasons = [f"<li>{escape(reason)}</li>" for reason in verdict.reasons]
    notes = [f'<li class="soft">{escape(note)}</li>' for note in verdict.notes]
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
    for key, words in SIZES.items():
        yield from _against(document, key, words)
    yield from _predictions(document)
    yield from _histograms(document)


def _against(document: Measurement, key: str, words: str) -> Iterator[str]:
    """Medians against the size *key*, the other sizes at their largest."""
    measured = [each for each in document.cipherfleet.figures if each.p50 and key in each.labels]
    others = [other for other in SIZES if other != key]
    fixed = {other: _largest(measured, other) for other in others}
    chosen = [
        each
        for each in measured
        if all(each.labels.get(other, fixed[other]) == fixed[other] for other in others)
    ]
    series = [each for each in _series(chosen, key) if len(each.points) > 1]
    if series:
        at = ", ".join(f"{other} {value}" for other, value in fixed.items() if value is not None)
        caption = f"{document.cipherfleet.kind}: median against {words}" + (
            f" (at {at})" * bool(at)
        )
        yield _figure(caption, lines(series, words, caption))


def _largest(figures: Sequence[Figure], key: str) -> float | None:
    return max((float(each.labels[key]) for each in figures if key in each.labels), default=None)


def _series(figures: Sequence[Figure], key: str) -> list[Series]:
    """A line for all figures that are alike but for *key*, slowest first."""
    found: dict[str, list[tuple[float, float]]] = {}
    for each in figures:
        rest = {name: label for name, label in each.labels.items() if name not in SIZES}
        assert each.p50 is not None
        name = " ".join(str(label) for label in rest.values()) or each.name
        found.setdefault(name, []).append((float(each.labels[key]), each.p50))
    made = [Series(name, sorted(points)) for name, points in found.items()]
    return sorted(made, key=lambda each: -each.points[-1][1])


def _histograms(document: Measurement) -> Iterator[str]:
    """The samples of each case at its largest sizes."""
    largest: dict[Any, Any] = {}
    for each in document.benchmarks:
        rest = tuple((key, label) for key, label in each.labels.items() if key not in SIZES)
        best = largest.get(rest or each.name)
        if best is None or _size(each.labels) >= _size(best.labels):
            largest[rest or each.name] = each
    shown = list(largest.values())[:MOST_HISTOGRAMS]
    kind = document.cipherfleet.kind
    yield f"<h3>{kind}: how the samples are spread (line: median)</h3>"
    charts = [
        _figure(
            f"{kind}: {each.name} ({len(each.samples)} samples)",
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
        Stack(
            node.name,
            [(name, each.p50) for name, each in node.phases.items() if name != _WHOLE and each.p50],
        )
        for node in document.cipherfleet.nodes
    ]
    bars = [bar for bar in bars if bar.parts]
    if not bars:
        return
    slowest = sorted(bars, key=lambda bar: -sum(value for _, value in bar.parts))[:MOST_BARS]
    some = f", the slowest {MOST_BARS} of {len(bars)} nodes" if len(bars) > MOST_BARS else ""
    caption = f"{document.cipherfleet.kind}: phases of a round, median of each{some}"
    yield _figure(caption, stacks([bar for bar in bars if bar in slowest], caption))


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
    kind = document.cipherfleet.kind
    heads = "".join(f"<th>{key}</th>" for key in ("samples", *LEAST_SAMPLES))
    rows = [
        f"<tr><td>{escape(each.name)}{_unsafe(each)}</td><td>{each.n}</td>"
        + "".join(f"<td>{_cell(each, key)}</td>" for key in LEAST_SAMPLES)
        + "</tr>"
        for each in document.cipherfleet.figures
    ]
    return (
        f"<h3>{kind}: figures</h3>"
        f'<div class="wide"><table><tr><th>benchmark</th>{heads}</tr>{"".join(rows)}</table></div>'
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


def _machine(document: Measurement, target: Target) -> str:
    states = (target.environment.before, target.environment.after)
    same = '<span class="soft">the same</span>'
    rows = [
        f'<tr><td>{escape(name)}</td><td class="words">{escape(before)}</td>'
        f'<td class="words">{same if after == before else escape(after)}</td></tr>'
        for (name, before), (_, after) in zip(*map(_state, states), strict=True)
    ]
    head = '<tr><th></th><th class="words">before</th><th class="words">after</th></tr>'
    return (
        f"<h3>{document.cipherfleet.kind}: the machine {escape(target.name)} ({target.kind})</h3>"
        f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'
    )


def _state(state: Environment) -> list[tuple[str, str]]:
    """What people want to know of a machine."""
    clock, memory, quota = state.clock, state.memory, state.quota
    free, total, swap = (
        f"{kib / 1024:,.0f}"
        for kib in (memory.available_kib, memory.total_kib, memory.swap_used_kib)
    )
    told = {
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
    return [(name, text or "not told") for name, text in told.items()]


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
