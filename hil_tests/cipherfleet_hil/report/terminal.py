"""Measurements and comparisons as tables on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from cipherfleet_deploy.column_widths import columns_that_fit, left_out_note
from cipherfleet_deploy.progress import Lines
from cipherfleet_hil.measurement.compare import CompareResult, Ratio
from cipherfleet_hil.measurement.document import LEAST_SAMPLES, Figure, Measurement, Validity
from cipherfleet_hil.measuring.cases import ALL, CASE_DESCRIPTIONS, ONLINE
from cipherfleet_hil.measuring.exchange_scene import PHE
from cipherfleet_node.settings.sections import SAFE_KEY_BITS

T = TypeVar("T")
PERCENTILES = tuple(LEAST_SAMPLES)
LEAST = ("samples", "p90", "p99", "p95")  # left out first on a narrow terminal
GAP = 2  # characters between two columns
Naive = Mapping[tuple[str, str, str], float | None]


def track_progress(what: str, console: Console) -> Callable[[Sequence[T]], Iterable[T]]:
    """Return an iteration over jobs, named *what*, that shows its progress on *console*.

    It is a bar on a terminal and lines elsewhere. Both are drawn only between two jobs: the CPU
    time of a drawing thread would count as measured.
    """

    def follow(jobs: Sequence[T]) -> Iterator[T]:
        lines = Lines(console)
        lines.begin(f"{what}: 0 of {len(jobs)}")
        hidden = not console.is_terminal
        for done, job in enumerate(
            track(jobs, what, console=console, disable=hidden, auto_refresh=False), 1
        ):
            yield job
            lines.update(partial("{}: {} of {}".format, what, done, len(jobs)))

    return follow


def show(document: Measurement, console: Console | None = None) -> None:
    """Print title, figures and validity."""
    console = console or Console()
    body = document.cipherfleet
    console.print(f"[bold]{body.kind}: {escape(body.title)}[/], {body.measured_at}")
    console.print(f"{body.kind} figures of {_where(document)}", highlight=False)
    for bits in sorted(bits for bits in _key_sizes(body.figures) if bits < SAFE_KEY_BITS):
        console.print(f"{bits}! keys of {bits} bits are UNSAFE: for comparisons only")
    columns = _columns(body.figures)
    kept = columns_that_fit(columns, LEAST, console.width - 2, GAP)
    console.print(_table({name: columns[name] for name in kept}))
    least = ", ".join(f"{key} {count}" for key, count in LEAST_SAMPLES.items())
    legend = f"n: neighbours; samples that a percentile needs: {least}"
    console.print(legend, style="dim", highlight=False)
    if note := left_out_note(columns, kept):
        console.print(note, style="dim", highlight=False)
    for line in validity_lines(body.verdict):
        console.print(line, highlight=False)


def validity_lines(validity: Validity) -> Iterator[str]:
    """Yield the validity, its reasons and its notes, in rich's markup."""
    yield "[bold green]VALID" if validity.valid else "[bold red]NOT VALID"
    yield from (f"  [red]because[/] {escape(reason)}" for reason in validity.reasons)
    yield from (f"  [dim]note: {escape(note)}" for note in validity.notes)


def format_ms(seconds: float | None) -> str:
    """Format seconds as milliseconds with three digits; None as a dash."""
    if seconds is None:
        return "-"
    return f"{1e3 * seconds:,.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


def _where(document: Measurement) -> str:
    states = [target.environment.before for target in document.cipherfleet.targets]
    return "; ".join(f"{each.board or each.cpu}, {each.cores} cores" for each in states)


def _key_sizes(figures: Iterable[Figure]) -> set[int]:
    return {int(each.labels["key_bits"]) for each in figures if "key_bits" in each.labels}


def _columns(figures: Sequence[Figure]) -> dict[str, list[str]]:
    """Return the texts below each heading, with a row for each figure."""
    naive = naive_medians(figures)
    rows = []
    last = None
    for each in sorted(figures, key=case_order):
        case = str(each.labels.get("case", each.name))
        found = [format_ms(getattr(each, key)) for key in PERCENTILES]
        sizes = _sizes(each)
        ratio = ratio_to_naive(each, naive)
        rows.append(["" if case == last else case, *sizes, str(each.n), *found, ratio])
        last = case
    headings = ("case", "key", "d", "n", "samples", *PERCENTILES, f"{PHE} /")
    return {name: [row[k] for row in rows] for k, name in enumerate(headings)}


def _table(columns: Mapping[str, Sequence[str]]) -> Table:
    table = Table(title="milliseconds", box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name, justify="left" if name == "case" else "right", no_wrap=True)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def case_order(each: Figure) -> int:
    """Return a sort key: cases in the order of a round, others after them."""
    cases = [*CASE_DESCRIPTIONS]
    case = str(each.labels.get("case", each.name))
    return cases.index(case) if case in cases else len(cases)


def _sizes(each: Figure) -> tuple[str, str, str]:
    bits = each.labels.get("key_bits")
    unsafe = "!" if isinstance(bits, int) and bits < SAFE_KEY_BITS else ""
    d, n = (str(each.labels.get(key, "")) for key in ("dimension", "degree"))
    return f"{bits or ''}{unsafe}", d, n


def naive_medians(figures: Iterable[Figure]) -> Naive:
    """Return the medians of the naive exchange, by sizes."""
    return {_sizes(each): each.p50 for each in figures if each.labels.get("case") == PHE}


def ratio_to_naive(each: Figure, naive: Naive) -> str:
    """Return the naive exchange's time over that of *each*; '' if it is not a whole exchange."""
    reference = naive.get(_sizes(each))
    if each.labels.get("case") not in (ONLINE, ALL) or not (reference and each.p50):
        return ""
    return f"{reference / each.p50:.3g}x"


# -- comparisons ---------------------------------------------------------------------------------


def show_comparison(
    result: CompareResult, console: Console, *, compares_invalid: bool = False
) -> None:
    """Print ratios with their intervals, the slowest first, and the conclusion.

    There is no conclusion from measurements that are not valid, unless *compares_invalid*.
    """
    table = Table(title=f"{result.kind}: B over A", box=SIMPLE, pad_edge=False)
    table.add_column("benchmark")
    for heading in ("ratio", "interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    rows = sorted(result.benchmarks, key=lambda each: -each.ratio * each.significant)
    for each in (result.overall, *rows):
        interval = f"{each.low:.3f} to {min(each.high, 999):.3f}"
        table.add_row(each.name, f"{each.ratio:.3f}", interval, _conclusion(each))
    console.print(table)
    for note in result.notes:
        console.print(f"  [dim]differs: {escape(note)}", highlight=False)
    for reason in result.reasons:
        console.print(f"  [bold red]NOT VALID[/] {escape(reason)}", highlight=False)
    if not (result.valid or compares_invalid):
        return
    limit = f"{100 * result.fail_above:.3g} %"
    console.print(
        f"[red]slower by more than {limit}" if result.failed else f"not slower by more than {limit}"
    )


def _conclusion(each: Ratio) -> str:
    if not each.significant:
        return "[dim]not significant"
    if each.fails:
        return "[bold red]slower"
    return "slower, within the limit" if each.ratio > 1 else "[green]faster"
