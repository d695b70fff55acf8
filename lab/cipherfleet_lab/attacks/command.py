"""`cipherfleet attack`: one attack on one system, or all on all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import track

from cipherfleet_lab.problems import five_nodes

from .catalogue import ATTACKS
from .names import GraphName, Guard
from .result import Finding, percent
from .subjects import GRAPHS, SUBJECTS, Case
from .table import QUICK_TRIALS, ROWS, TRIALS, AttackTable, Row, attack_table, plot_table

TABLE_FILE, FIGURE_FILE = "attacks.md", "attacks.png"


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    on: str | None
    off: Sequence[Guard]
    graph: GraphName
    trials: int | None
    seed: int
    key_bits: int
    quick: bool
    out: Path | None


def attack_one(name: str, options: Options) -> dict[str, Any]:
    """What the attack *name* came to; raises UsageError where there is nothing to attack."""
    if options.out is not None:
        raise click.UsageError("--out is for `attack all`, which has a table to write")
    case = _case(options)
    finding = ATTACKS[name].run(case)
    if finding is None:
        raise click.UsageError(
            f"{name}: {case.subject.title} has nothing of the kind; `cipherfleet attack all` "
            "shows which systems have"
        )
    adversary = ATTACKS[name].adversary
    return {"adversary": adversary, "graph": options.graph, "seed": case.seed, **finding.told()}


def attack_all(options: Options, progress: Console) -> dict[str, Any]:
    """Every attack on every system, or on the one that *options* name; files where they say."""
    rows: Sequence[Row] = ROWS
    if options.on is not None or options.off:
        case = _case(options)
        rows = [(case.subject.name, tuple(case.off))]
    watched = track(rows, "attacks", console=progress, disable=not progress.is_terminal)
    table = attack_table(options.seed, _trials(options), watched, GRAPHS[options.graph])
    told = {**table.told(), "graph": options.graph, "markdown": table.markdown()}
    if options.out is not None:
        told["out"] = str(options.out)
        _write(table, options.out)
    return told


def show_one(told: dict[str, Any], console: Console) -> None:
    """The finding in words."""
    fields = {key: told[key] for key in Finding.__dataclass_fields__}
    finding = Finding(**fields)
    chance = percent(finding.chance) + (" error" if finding.measure == "error" else " found")
    value = percent(finding.value) + (" error" if finding.measure == "error" else " found")
    lines = {
        "attack": f"{finding.attack}, by {told['adversary']}",
        "system": f"{finding.system}, {finding.trials} trials from seed {told['seed']}",
        "sought": finding.sought,
        "saw": finding.saw,
        "knew": finding.knew,
        "guess": f"{chance}: {finding.guess}",
        "result": f"{value}: {finding.verdict}" + (f" ({finding.note})" if finding.note else ""),
    }
    for name, text in lines.items():
        console.print(f"{name:<8}{text}", markup=False, highlight=False, soft_wrap=True)


def show_all(told: dict[str, Any], console: Console) -> None:
    """The table as Markdown, and where the files are."""
    console.print(told["markdown"], markup=False, highlight=False, soft_wrap=True)
    if "out" in told:
        files = f"table and figure: {told['out']}"
        console.print(files, markup=False, highlight=False, soft_wrap=True)


def _case(options: Options) -> Case:
    subject = SUBJECTS[options.on or "pairwise"]
    unknown = [guard for guard in options.off if guard not in subject.guards]
    if unknown:
        has = ", ".join(subject.guards) or "none"
        raise click.UsageError(f"{subject.name} has no guard {unknown[0]!r}; it has: {has}")
    problem = replace(five_nodes(), edges=GRAPHS[options.graph])
    off, trials = frozenset(options.off), _trials(options)
    return Case(subject, off, trials, options.seed, options.key_bits, problem)


def _trials(options: Options) -> int:
    return options.trials or (QUICK_TRIALS if options.quick else TRIALS)


def _write(table: AttackTable, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TABLE_FILE).write_text(table.page(), encoding="utf-8")
    plot_table(table, folder / FIGURE_FILE)
