"""One HTML page of measurements that needs nothing but itself, and a summary in Markdown.

The kind of a measurement stands in every title, and what is not valid is said before any figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from cipherfleet_hil.measurement.document import LEAST_SAMPLES, Figure, Measurement, Target
from cipherfleet_hil.measurement.environment import Environment
from cipherfleet_hil.measuring.cases import SAYS
from cipherfleet_hil.measuring.exchange_scene import PHE
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import SAFE_KEY_BITS

from .charts import time_text
from .measurement_charts import charts, together
from .terminal import naive_medians, order_of, ratio_to_naive

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
        file.parent.mkdir(parents=True, exist_ok=True)
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
        f"<h1>{escape(title)}</h1>{_contents(documents)}{together(documents)}{body}{_legend()}</body></html>\n"
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
        *charts(document),
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
        f"{_cases(told.figures)}"
    )


def _cases(figures: Sequence[Figure]) -> str:
    """What the words of the cases mean."""
    cases = {str(each.labels.get("case")) for each in figures}
    told = [
        f"<b>{escape(case)}</b>: {escape(says)}" for case, says in SAYS.items() if case in cases
    ]
    return f'<p class="soft">{"; ".join(told)}.</p>' if told else ""


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
