"""`cipherfleet attack`: one attack on one system, or all attacks on all systems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import track

from cipherfleet_lab.problems import five_nodes

from .catalogue import ATTACKS, load_system
from .names import GraphName, Guard
from .result import AttackResult, percent
from .round_table import PAIRS, PairResult, markdown, pairs_on, run_pairs
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


class SingleAttackResult(AttackResult, frozen=True):
    """The result of one attack as `--json` prints it: these keys, then those of AttackResult."""

    # Fields that are not keyword-only are printed before those of the base class.
    adversary: str
    graph: GraphName
    seed: int  # of the first trial


class AttackTableResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `attack all`: `--json` prints these keys in this order."""

    seed: int
    trials: int
    findings: tuple[AttackResult, ...]  # one for each system and each attack that applies to it
    graph: GraphName
    markdown: str  # the table
    out: str | msgspec.UnsetType = msgspec.UNSET  # the folder of table and figure; left out without


def attack_one(name: str, options: AttackOptions) -> SingleAttackResult:
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
    return SingleAttackResult(
        adversary=ATTACKS[name].adversary,
        graph=options.graph,
        seed=case.seed,
        **msgspec.structs.asdict(finding),
    )


def attack_all(options: AttackOptions, progress: Console) -> AttackTableResult:
    """Run every attack on every system, or on the one in *options*; write files if requested."""
    rows: Sequence[Row] = ROWS
    if options.on is not None or options.off:
        case = _case(options)
        rows = [(case.system, tuple(case.off))]
    watched = track(rows, "attacks", console=progress, disable=not progress.is_terminal)
    table = attack_table(options.seed, _trials(options), watched, GRAPHS[options.graph])
    pairs = PAIRS if options.on is None and not options.off else pairs_on(case.system, case.off)
    watched_pairs = track(pairs, "rounds", console=progress, disable=not progress.is_terminal)
    results = list(run_pairs(options.seed, _trials(options), watched_pairs))
    if options.out is not None:
        _write(table, results, options.out)
    return AttackTableResult(
        seed=table.seed,
        trials=table.trials,
        findings=(*table.findings.values(), *(f for r in results for f in (r.off, r.on))),
        graph=options.graph,
        markdown="\n".join(filter(None, [table.markdown(), markdown(results)])),
        out=msgspec.UNSET if options.out is None else str(options.out),
    )


def show_one(result: SingleAttackResult, console: Console) -> None:
    """Print the result of one attack."""
    chance = percent(result.chance) + (" error" if result.measure == "error" else " found")
    value = percent(result.value) + (" error" if result.measure == "error" else " found")
    lines = {
        "attack": f"{result.attack}, by {result.adversary}",
        "system": f"{result.system}, {result.trials} trials from seed {result.seed}",
        "sought": result.sought,
        "saw": result.saw,
        "knew": result.knew,
        "guess": f"{chance}: {result.guess}",
        "result": f"{value}: {result.verdict}" + (f" ({result.note})" if result.note else ""),
    }
    for name, text in lines.items():
        console.print(f"{name:<8}{text}", markup=False, highlight=False, soft_wrap=True)


def show_all(result: AttackTableResult, console: Console) -> None:
    """Print the table as Markdown, and the folder of the files."""
    console.print(result.markdown, markup=False, highlight=False, soft_wrap=True)
    if result.out is not msgspec.UNSET:
        files = f"table and figure: {result.out}"
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


def _write(table: AttackTable, results: Sequence[PairResult], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    page = "\n".join(filter(None, [table.page(), markdown(results)]))
    (folder / TABLE_FILE).write_text(page, encoding="utf-8")
    plot_table(table, folder / FIGURE_FILE)
