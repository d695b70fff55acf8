"""`cipherfleet attack`: one attack on one system, or all attacks on all systems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import track

from cipherfleet_lab.problems import five_nodes

from .catalogue import ATTACKS, load_system
from .names import GraphName, Guard
from .result import AttackResult, percent
from .subjects import GRAPHS, AttackCase
from .table import QUICK_TRIALS, ROWS, TRIALS, AttackTable, Row, attack_table, plot_table

TABLE_FILE, FIGURE_FILE = "attacks.md", "attacks.png"


@dataclass(frozen=True)
class AttackOptions:
    """The options of the command line."""

    on: str | None
    off: Sequence[Guard]
    graph: GraphName
    trials: int | None
    seed: int
    key_bits: int
    quick: bool
    out: Path | None


def attack_one(name: str, options: AttackOptions) -> dict[str, Any]:
    """Run the attack *name*. Raises UsageError if it does not apply to the system."""
    if options.out is not None:
        raise click.UsageError("--out is for `attack all`, which has a table to write")
    case = _case(options)
    finding = ATTACKS[name].run(case)
    if finding is None:
        raise click.UsageError(
            f"{name}: the attack does not apply to {case.subject.title}; `cipherfleet attack all` "
            "shows to which systems it applies"
        )
    adversary = ATTACKS[name].adversary
    return {"adversary": adversary, "graph": options.graph, "seed": case.seed, **finding.to_json()}


def attack_all(options: AttackOptions, progress: Console) -> dict[str, Any]:
    """Run every attack on every system, or on the one in *options*; write files if requested."""
    rows: Sequence[Row] = ROWS
    if options.on is not None or options.off:
        case = _case(options)
        rows = [(case.system, tuple(case.off))]
    watched = track(rows, "attacks", console=progress, disable=not progress.is_terminal)
    table = attack_table(options.seed, _trials(options), watched, GRAPHS[options.graph])
    result = {**table.to_json(), "graph": options.graph, "markdown": table.markdown()}
    if options.out is not None:
        result["out"] = str(options.out)
        _write(table, options.out)
    return result


def show_one(result: dict[str, Any], console: Console) -> None:
    """Print the result of one attack."""
    fields = {key: result[key] for key in AttackResult.__dataclass_fields__}
    finding = AttackResult(**fields)
    chance = percent(finding.chance) + (" error" if finding.measure == "error" else " found")
    value = percent(finding.value) + (" error" if finding.measure == "error" else " found")
    lines = {
        "attack": f"{finding.attack}, by {result['adversary']}",
        "system": f"{finding.system}, {finding.trials} trials from seed {result['seed']}",
        "sought": finding.sought,
        "saw": finding.saw,
        "knew": finding.knew,
        "guess": f"{chance}: {finding.guess}",
        "result": f"{value}: {finding.verdict}" + (f" ({finding.note})" if finding.note else ""),
    }
    for name, text in lines.items():
        console.print(f"{name:<8}{text}", markup=False, highlight=False, soft_wrap=True)


def show_all(result: dict[str, Any], console: Console) -> None:
    """Print the table as Markdown, and the folder of the files."""
    console.print(result["markdown"], markup=False, highlight=False, soft_wrap=True)
    if "out" in result:
        files = f"table and figure: {result['out']}"
        console.print(files, markup=False, highlight=False, soft_wrap=True)


def _case(options: AttackOptions) -> AttackCase:
    system = options.on or "pairwise"
    guards = load_system(system).guards
    unknown = [guard for guard in options.off if guard not in guards]
    if unknown:
        has = ", ".join(guards) or "none"
        raise click.UsageError(f"{system} has no guard {unknown[0]!r}; it has: {has}")
    problem = replace(five_nodes(), edges=GRAPHS[options.graph])
    off, trials = frozenset(options.off), _trials(options)
    return AttackCase(
        system=system,
        off=off,
        trials=trials,
        seed=options.seed,
        bits=options.key_bits,
        problem=problem,
    )


def _trials(options: AttackOptions) -> int:
    return options.trials or (QUICK_TRIALS if options.quick else TRIALS)


def _write(table: AttackTable, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TABLE_FILE).write_text(table.page(), encoding="utf-8")
    plot_table(table, folder / FIGURE_FILE)
