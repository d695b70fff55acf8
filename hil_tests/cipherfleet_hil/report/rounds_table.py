"""A measurement of rounds as tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cipherfleet_deploy.column_widths import split_columns
from cipherfleet_hil.measurement.document import Figure, Measurement, NodeFigures
from cipherfleet_hil.measurement.round_figures import ROUND
from cipherfleet_hil.report.terminal import format_ms, validity_lines

PADDING = 2  # characters of a column beside its texts


def show_rounds(document: Measurement, console: Console | None = None) -> None:
    """Print title, phases and costs of every node, and the validity."""
    console = console or Console()
    body = document.cipherfleet
    console.print(f"[bold]{body.kind}: {escape(body.title)}[/], {body.measured_at}")
    for target in body.targets:
        state = target.environment.before
        where = f"{target.name}: {target.kind}, {state.board or state.cpu}, {state.cores} cores"
        console.print(escape(where), highlight=False)
    measured = {figure.name: figure.p50 for figure in body.figures}
    for name, seconds in body.predicted.items():
        console.print(
            f"{escape(name)}: predicted {format_ms(seconds)} ms, measured "
            f"{format_ms(measured[name])} ms (p50)",
            highlight=False,
        )
    for table in (_phases, _costs):
        for nodes in _groups(body.nodes, console.width):
            console.print(table(nodes))
    for line in validity_lines(body.verdict):
        console.print(line, highlight=False)


def _groups(nodes: Sequence[NodeFigures], width: int) -> Iterator[list[NodeFigures]]:
    """Yield the nodes of each table: as many as have room side by side."""
    rows = {name for node in nodes for name in (*node.phases, *node.beside, *node.counts)}
    first = max(len(f"beside: {name}") for name in rows) + PADDING
    each = max(len(_heading(node)) for node in nodes)
    figures = [value for node in nodes for value in (*node.phases.values(), *node.beside.values())]
    each = max(each, *(len(_both(value)) for value in figures)) + PADDING
    by_name = {node.name: node for node in nodes}
    for names in split_columns(list(by_name), first, each, width - PADDING):
        yield [by_name[name] for name in names]


def _heading(node: NodeFigures) -> str:
    return f"{node.name} ({node.target})"


def _phases(nodes: list[NodeFigures]) -> Table:
    """Return a table with a row per phase and a column per node: p50 / p95 in ms."""
    table = Table(title="phases of a round, ms: p50 / p95", box=SIMPLE)
    table.add_column("phase")
    for node in nodes:
        table.add_column(_heading(node), justify="right")
    names = list(dict.fromkeys(name for node in nodes for name in node.phases))
    beside = list(dict.fromkeys(name for node in nodes for name in node.beside))
    for name in names:
        style = "bold" if name == ROUND else None
        table.add_row(name, *(_both(node.phases.get(name)) for node in nodes), style=style)
    table.add_section()
    for name in beside:
        table.add_row(f"beside: {name}", *(_both(node.beside.get(name)) for node in nodes))
    return table


def _both(figure: Figure | None) -> str:
    return "-" if figure is None else f"{format_ms(figure.p50)} / {format_ms(figure.p95)}"


def _costs(nodes: list[NodeFigures]) -> Table:
    table = Table(title="costs and counters", box=SIMPLE)
    table.add_column("")
    for node in nodes:
        table.add_column(node.name, justify="right")
    for name in nodes[0].counts:
        table.add_row(name.replace("_", " "), *(f"{node.counts[name]:g}" for node in nodes))
    return table
