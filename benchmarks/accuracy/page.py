"""The result of the benchmark as tables: on a terminal, and as a page of docs/results."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from .result import LEVELS, AccuracyResult, Cost, Gate, MethodResult

COMMAND = "python benchmarks/to_accuracy.py --gate --page to-accuracy.md"
HEAD = ("method", *(f"to {level}" for level in LEVELS))
CELLS = "rounds / wall s / CPU s / kB sent per node"
DEPLOYED = (
    "Deployed, a SuperNode without a message looks for one every 3 s, and starts a process per "
    "message. The simulation does neither, and has no network and no process per node."
)
SIGNS = (
    f"Each cell: {CELLS}. `~`: extrapolated. `>`: a lower bound, since the level was not reached "
    "in so many rounds. Both are explained below."
)


def show(result: AccuracyResult, console: Console) -> None:
    """Print the tables."""
    table = Table(title=f"{_setting(result)}; {CELLS}", box=SIMPLE)
    for heading in HEAD:
        table.add_column(heading)
    for method in result.methods:
        table.add_row(*_row(method, result.nodes))
    console.print(table)
    for gate in result.gates:
        console.print(_gate(gate), highlight=False)
    for name, reason in result.not_run.items():
        console.print(f"{name}: {reason}", highlight=False)


def page(result: AccuracyResult) -> str:
    """Return the page in Markdown."""
    rows = [_row(method, result.nodes) for method in result.methods]
    settings = [
        [each.title, each.settings, each.hides, each.processes, f"{each.rounds_run}",
         f"{each.last_error:.2g}"]
        for each in result.methods
    ]  # fmt: skip
    parts = [
        "# To accuracy",
        _finding(result),
        f"{_setting(result)[0].upper()}{_setting(result)[1:]}. {_machine(result)} All methods ran "
        "in one command, one after the other. The error is the root mean square over nodes of the "
        "distance to the centralised answer, relative to that answer. Wall time and CPU time are "
        "those of the nodes from the start of their processes on, without the making of keys and "
        "without the broker.",
        SIGNS,
        _markdown(HEAD, rows),
        _flower_note(result),
        "A figure is extrapolated where the level was not reached in the rounds that ran. The "
        "number of rounds is then that of a simulation without encryption, which has at most "
        f"{result.simulated_rounds:,} rounds. The other figures are those of the run, continued at "
        "the pace of its second half. A lower bound has the figures of all simulated rounds.",
        _markdown(
            ["method", "settings", "hides", "processes", "rounds that ran", "last error"], settings
        ),
        "\n".join(f"* {_gate(gate)}" for gate in result.gates),
        "\n".join(f"* {name}: {reason}" for name, reason in result.not_run.items()),
        f"Made by `{COMMAND}{_flower_options(result)}`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _flower_note(result: AccuracyResult) -> str:
    if not _has_flower(result):
        return ""
    return (
        "Flower has a server, and its figures include it, from the start of the SuperLink on, with "
        "`flwr run`. The server learns the model after each round, with SecAgg+, too. Without "
        "SecAgg+ it sees every node's update in clear. A step is the best constant one for this "
        f"problem. The server looks for replies every 0.1 s, in place of Flower's 3 s. {DEPLOYED} "
        "SecAgg+ has the finest quantiser that its modulus allows. In a calculation with Flower's "
        "default, 2^22 levels, the error does not stay below 1e-6."
    )


def _has_flower(result: AccuracyResult) -> bool:
    return any(method.name.startswith("flower") for method in result.methods)


def _flower_options(result: AccuracyResult) -> str:
    return " --flower-python PATH" if _has_flower(result) else ""


def _finding(result: AccuracyResult) -> str:
    exact = result.method("exact")
    if exact is None:
        return "The exact method did not run."
    levels = ", ".join(
        f"{cost.level} after {cost.rounds} rounds and {cost.wall_s:.0f} s"
        for cost in exact.costs
        if cost.kind == "measured"
    )
    ratios = ". ".join(_gate(gate) for gate in result.gates)
    return f"The exact method reaches {levels}. {ratios}."


def _setting(result: AccuracyResult) -> str:
    return (
        f"{result.nodes} motes of the Intel lab, least squares in {result.dimension} entries, "
        f"{result.edges} edges, {result.key_bits}-bit keys"
    )


def _machine(result: AccuracyResult) -> str:
    machine = result.machine
    return f"{machine.cpu}, {machine.cores} cores, load {machine.load_before:.1f} at the start."


def _row(method: MethodResult, nodes: int) -> list[str]:
    return [method.title, *(_cell(cost, nodes) for cost in method.costs)]


def _cell(cost: Cost, nodes: int) -> str:
    sign = {"measured": "", "extrapolated": "~ ", "lower bound": "> "}[cost.kind]
    figures = (f"{cost.rounds:,}", *map(_short, (cost.wall_s, cost.cpu_s)))
    return sign + " / ".join([*figures, _short(cost.bytes / nodes / 1000)])


def _short(figure: float) -> str:
    return f"{figure:.1f}" if figure < 100 else f"{figure:,.0f}"


def _gate(gate: Gate) -> str:
    what = {"bytes": "bytes", "wall_s": "wall time"}[gate.figure]
    kind = "" if gate.kind == "measured" else f" ({gate.kind})"
    return (
        f"To {gate.level} the exact method needs {gate.ratio:.2g} of the {what} of "
        f"{gate.against}{kind}, limit {gate.limit:g}: {'FAILED' if gate.has_failed else 'passed'}"
    )


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
