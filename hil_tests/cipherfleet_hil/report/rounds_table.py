"""A measurement of rounds as people read it on a terminal."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cipherfleet_hil.measurement.document import Figure, Measurement, NodeFigures
from cipherfleet_hil.measurement.round_figures import ROUND
from cipherfleet_hil.report.terminal import ms, verdict_lines


def show_rounds(document: Measurement, console: Console | None = None) -> None:
    """Title, verdict, phases and costs of every node."""
    console = console or Console()
    told = document.cipherfleet
    console.print(f"[bold]{told.kind}: {escape(told.title)}[/], {told.measured_at}")
    for target in told.targets:
        state = target.environment.before
        where = f"{target.name}: {target.kind}, {state.board or state.cpu}, {state.cores} cores"
        console.print(escape(where), highlight=False)
    measured = {figure.name: figure.p50 for figure in told.figures}
    for name, seconds in told.predicted.items():
        console.print(
            f"{escape(name)}: predicted {ms(seconds)} ms, measured {ms(measured[name])} ms (p50)",
            highlight=False,
        )
    console.print(_phases(told.nodes))
    console.print(_costs(told.nodes))
    for line in verdict_lines(told.verdict):
        console.print(line, highlight=False)


def _phases(nodes: list[NodeFigures]) -> Table:
    """A row for each phase, a column for each node: p50 / p95 in ms."""
    table = Table(title="phases of a round, ms: p50 / p95", box=SIMPLE)
    table.add_column("phase")
    for node in nodes:
        table.add_column(f"{node.name} ({node.target})", justify="right")
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
    return "-" if figure is None else f"{ms(figure.p50)} / {ms(figure.p95)}"


def _costs(nodes: list[NodeFigures]) -> Table:
    table = Table(title="what it takes", box=SIMPLE)
    table.add_column("")
    for node in nodes:
        table.add_column(node.name, justify="right")
    for name in nodes[0].counts:
        table.add_row(name.replace("_", " "), *(f"{node.counts[name]:g}" for node in nodes))
    return table
