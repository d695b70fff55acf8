"""One self-contained HTML page of measurements, and a summary in Markdown.

Every title states the kind of the measurement. A measurement that is not valid is marked before its
figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import msgspec

from cipherfleet_hil.measurement.document import LEAST_SAMPLES, Figure, Measurement, Target
from cipherfleet_hil.measurement.environment import Environment
from cipherfleet_hil.measuring.cases import CASE_DESCRIPTIONS
from cipherfleet_hil.measuring.exchange_scene import PHE
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import SAFE_KEY_BITS

from .charts import time_text
from .measurement_charts import combine_charts, draw_charts
from .terminal import case_order, naive_medians, ratio_to_naive

_STYLE_FILE = Path(__file__).parent / "report.css"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # a browser loads no other resource


class ReportResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `bench report`: `--json` prints these keys in this order."""

    report: str  # the HTML page
    summary: str  # the Markdown file
    valid: dict[str, bool]  # by measurement


def write_report(documents: Sequence[tuple[str, Measurement]], file: Path) -> Path:
    """Write the page to *file* and the summary beside it; return its path. Raises ConfigError."""
    summary = file.with_suffix(".md")
    if summary == file:
        raise ConfigError(
            f"{file}: is the name of the summary", remedy="give the page a name that ends in .html"
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page(documents), encoding="utf-8")
        summary.write_text(markdown(documents), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from None
    return summary


def page(documents: Sequence[tuple[str, Measurement]]) -> str:
    """Return the HTML page of *documents*, each given with the name of its file."""
    kinds = ", ".join(dict.fromkeys(each.cipherfleet.kind for _, each in documents))
    title = f"Measured latency ({kinds})"
    body = "".join(_section(name, each, place) for place, (name, each) in enumerate(documents))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE_FILE.read_text()}</style></head><body>"
        f"<h1>{escape(title)}</h1>{_contents(documents)}{combine_charts(documents)}{body}{_legend()}</body></html>\n"
    )


def _contents(documents: Sequence[tuple[str, Measurement]]) -> str:
    """Return the table of contents: a row per document, with its validity."""
    rows = [
        f'<tr><td class="words"><a href="#m{place}">{escape(_title(each))}</a></td>'
        f'<td class="words">{escape(name)}</td><td>{_date(each)}</td>'
        f"<td{_validity_class(each)}>{_validity_word(each)}</td></tr>"
        for place, (name, each) in enumerate(documents)
    ]
    head = (
        '<tr><th>measurement</th><th class="words">file</th><th>measured</th><th>validity</th></tr>'
    )
    return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'


def _validity_word(document: Measurement) -> str:
    return "VALID" if document.cipherfleet.verdict.valid else "NOT VALID"


def _date(document: Measurement) -> str:
    return escape(document.cipherfleet.measured_at.replace("T", " ").replace("+00:00", " UTC"))


def _validity_class(document: Measurement) -> str:
    return "" if document.cipherfleet.verdict.valid else ' class="bad"'


def _title(document: Measurement) -> str:
    body = document.cipherfleet
    return f"{body.kind}: {body.title}"


def _section(name: str, document: Measurement, place: int) -> str:
    body = document.cipherfleet
    parts = [
        f'<section id="m{place}"><h2>{escape(_title(document))}</h2>',
        f'<p class="soft">{_date(document)}, {escape(name)}<br>'
        f"<code>{escape(body.command)}</code></p>",
        _validity(document),
        *draw_charts(document),
        _figures(document),
        _nodes(document),
        *(_machine(document, target) for target in body.targets),
        "</section>",
    ]
    return "".join(parts)


def _validity(document: Measurement) -> str:
    validity = document.cipherfleet.verdict
    reasons = [f"<li>{escape(reason)}</li>" for reason in validity.reasons]
    notes = [f'<li class="soft">note: {escape(note)}</li>' for note in validity.notes]
    bad = "" if validity.valid else " bad"
    text = f"<ul>{''.join([*reasons, *notes])}</ul>" if reasons or notes else ""
    return f'<div class="validity{bad}"><strong>{_validity_word(document)}</strong>{text}</div>'


# -- tables --------------------------------------------------------------------------------------


def _figures(document: Measurement) -> str:
    body = document.cipherfleet
    naive = naive_medians(body.figures)
    heads = "".join(f"<th>{key}</th>" for key in ("samples", *LEAST_SAMPLES))
    rows = [
        f"<tr><td>{escape(each.name)}{_unsafe_suffix(each)}</td><td>{each.n}</td>"
        + "".join(f"<td>{_cell(each, key)}</td>" for key in LEAST_SAMPLES)
        + f"<td>{ratio_to_naive(each, naive)}</td></tr>"
        for each in sorted(body.figures, key=case_order)
    ]
    last = f"<th>{PHE} /</th>" if naive else "<th></th>"
    return (
        f'<h3>{body.kind}: figures</h3><div class="wide"><table>'
        f"<tr><th>benchmark</th>{heads}{last}</tr>{''.join(rows)}</table></div>"
        f"{_cases(body.figures)}"
    )


def _cases(figures: Sequence[Figure]) -> str:
    """Return the descriptions of the cases in *figures*."""
    cases = {str(each.labels.get("case")) for each in figures}
    found = [
        f"<b>{escape(case)}</b>: {escape(says)}"
        for case, says in CASE_DESCRIPTIONS.items()
        if case in cases
    ]
    return f'<p class="soft">{"; ".join(found)}.</p>' if found else ""


def _unsafe_suffix(each: Figure) -> str:
    bits = each.labels.get("key_bits")
    return " (UNSAFE key)" if isinstance(bits, int) and bits < SAFE_KEY_BITS else ""


def _cell(each: Figure, key: str) -> str:
    value = getattr(each, key)
    if value is None:
        return f'<span class="soft">n &lt; {each.needs.get(key, LEAST_SAMPLES[key])}</span>'
    return escape(_format_amount(value, each.unit))


def _format_amount(value: float, unit: str) -> str:
    return time_text(value) if unit == "second" else f"{value:,.4g} {unit}"


def _nodes(document: Measurement) -> str:
    """Return the table of counters and costs per node."""
    body = document.cipherfleet
    names = list(dict.fromkeys(name for node in body.nodes for name in node.counts))
    if not names:
        return ""
    heads = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in names)
    rows = [
        f"<tr><td>{escape(node.name)}</td>"
        + "".join(f"<td>{_count(node.counts.get(name))}</td>" for name in names)
        + "</tr>"
        for node in body.nodes
    ]
    return (
        f"<h3>{body.kind}: counters of each node</h3>"
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
    found = [name for name in before if before[name] is not None or after[name] is not None]
    rows = [
        f"<tr><td>{escape(name)}</td>"
        f'<td class="words">{escape(before[name] or "not reported")}</td>'
        f'<td class="words">{_changed_value(before[name], after[name]) or same}</td></tr>'
        for name in found
    ]
    head = '<tr><th></th><th class="words">before</th><th class="words">after</th></tr>'
    silent = ", ".join(name for name in before if name not in found)
    missing = (
        f'<p class="soft">Not reported by the machine: {escape(silent)}.</p>' if silent else ""
    )
    return (
        f"<h3>{document.cipherfleet.kind}: the machine {escape(target.name)} ({target.kind})</h3>"
        f'<div class="wide"><table class="state">{head}{"".join(rows)}</table></div>{missing}'
    )


def _changed_value(before: str | None, after: str | None) -> str:
    return "" if after == before else escape(after or "not reported")


def _state(state: Environment) -> dict[str, str | None]:
    """Return the rows of the machine's table; None for values that it does not report."""
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
        "firmware's clock": _format_scaled(state.firmware_clock_hz, 1e6, "MHz"),
        "throttled": f"0x{state.throttled:x}" if state.throttled is not None else None,
        "throttle events": _format_scaled(state.throttle_events, 1, ""),
        "temperature": _format_scaled(state.temperature_c, 1, "°C"),
        "core": _format_scaled(state.core_volts, 1, "V"),
        "load, 1 min": f"{state.load_1min:.2f}",
        "memory available": f"{free} of {total} MiB",
        "swap used": f"{swap} MiB",
        "CPU quota": f"{quota.cpus:g} CPUs" if quota and quota.cpus else "none",
        "clock source": state.clock_source,
        "versions": ", ".join(f"{name} {version}" for name, version in state.versions.items()),
        "revision": state.revision,
    }


def _format_scaled(value: float | None, size: float, unit: str) -> str | None:
    return None if value is None else f"{value / size:,.4g} {unit}".strip()


def _legend() -> str:
    least = ", ".join(f"{key} {count}" for key, count in LEAST_SAMPLES.items())
    return (
        '<p class="soft">Kinds: <b>device</b> is a board, <b>emulated</b> is a container with the '
        "limits of a board on another machine, <b>host</b> is any other machine. Figures of one "
        f"kind do not apply to another kind. Samples that a percentile needs: {least}.</p>"
    )


# -- summary -------------------------------------------------------------------------------------


def markdown(documents: Sequence[tuple[str, Measurement]]) -> str:
    """Return the figures of *documents* in Markdown."""
    return "\n".join(line for name, each in documents for line in _summary(name, each)) + "\n"


def _summary(name: str, document: Measurement) -> Iterator[str]:
    body = document.cipherfleet
    yield f"## {_inline(_title(document))}\n"
    yield f"{body.measured_at}, `{name}`: **{_validity_word(document)}**\n"
    yield from (f"* because {_inline(reason)}" for reason in body.verdict.reasons)
    yield from (f"* note: {_inline(note)}" for note in body.verdict.notes)
    yield f"\n| {body.kind} | samples | {' | '.join(LEAST_SAMPLES)} |"
    yield "|---|--:|" + "--:|" * len(LEAST_SAMPLES)
    for each in body.figures:
        values = [getattr(each, key) for key in LEAST_SAMPLES]
        cells = ["-" if value is None else _format_amount(value, each.unit) for value in values]
        yield f"| {_inline(each.name)}{_unsafe_suffix(each)} | {each.n} | {' | '.join(cells)} |"
    yield ""


def _inline(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
