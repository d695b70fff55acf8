"""All attacks on all systems, as a table and as a figure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cipherfleet_lab.problems import FIVE_EDGES, Edges, five_nodes

from .catalogue import ATTACKS, SYSTEMS, Attack
from .names import Guard
from .result import AttackOutcome, AttackResult
from .subjects import AttackCase

TRIALS = 20
QUICK_TRIALS = 3
Row = tuple[str, tuple[Guard, ...]]
_EXCHANGES = tuple(
    exchange + method
    for exchange in ("pairwise", "sealed")
    for method in ("", "-exact", "-shielded", "-quadratic")
)
# Every system, and the pairwise and sealed exchanges without single guards.
ROWS: Sequence[Row] = (
    ("pairwise", ()),
    ("pairwise", ("dither",)),
    ("pairwise", ("rerandomise",)),
    ("pairwise", ("half-weights",)),
    ("pairwise", ("stepsizes",)),
    ("pairwise", ("attenuation",)),
    ("sealed", ()),
    ("sealed", ("masks",)),
    ("pairwise-exact", ()),
    ("pairwise-exact", ("stepsizes",)),
    ("sealed-exact", ()),
    ("sealed-exact", ("masks",)),
    ("pairwise-shielded", ()),
    ("pairwise-shielded", ("shield",)),
    ("sealed-shielded", ()),
    ("pairwise-quadratic", ()),
    ("pairwise-quadratic", ("quadratic",)),
    ("sealed-quadratic", ()),
    *((name, ()) for name in SYSTEMS if name not in _EXCHANGES),
)
# Without leakage-true, which is the same for every system, and the attacks of `round_table.py`.
COLUMNS = [a for a in ATTACKS.values() if a.name != "leakage-true" and not a.is_on_rounds]
SIGNS = (
    "± is the error of the attack, as a share of the error of a guess without it. A second number "
    "is the error of the most exposed node; a star in the figure means that the outcome is that "
    'node\'s. "Found" is the share of trials that found the exact truth; a guess finds it in at '
    "most 0.1 %. Bold: recovered (an error up to 10 %, found in 95 %). Italics: partly "
    "(an error below 80 %). Plain: nothing beyond chance. A dash: the attack does not apply."
)
# Colour-blind readers can distinguish these colours.
_COLOURS: Mapping[AttackOutcome, str] = {
    "recovered": "#e58f65", "partly": "#f6df9f", "nothing beyond chance": "#a9d5ef",
}  # fmt: skip
_EMPTY = "#eeeeee"

Findings = Mapping[tuple[str, str], AttackResult]  # by system and attack


@dataclass(frozen=True)
class AttackTable:
    """The results of every attack (a column) on every system (a row) to which it applies."""

    systems: Sequence[str]
    attacks: Sequence[Attack]
    findings: Findings
    trials: int
    seed: int

    def rows(self) -> list[list[str]]:
        """Return the cells in Markdown, the head first; bold and italics show the outcomes."""
        head = ["system", *(attack.name for attack in self.attacks)]
        cells = [[name, *(self._cell(name, a) for a in self.attacks)] for name in self.systems]
        return [head, *cells]

    def markdown(self) -> str:
        """Return the table in Markdown."""
        head, *cells = self.rows()
        lines = [head, ["---"] * len(head), *cells]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def page(self) -> str:
        """Return a page: the table, with explanations of its columns and signs."""
        columns = [f"* `{a.name}`, by {a.adversary}: {a.text}{_note(a)}" for a in self.attacks]
        return "\n".join(
            [
                "# Leakage under all attacks",
                "",
                SIGNS,
                "",
                self.markdown(),
                "Attacks:",
                "",
                *columns,
                "",
            ]
        )

    def _cell(self, system: str, attack: Attack) -> str:
        finding = self.findings.get((system, attack.name))
        if finding is None:
            return "–"
        mark = {"recovered": "**", "partly": "*", "nothing beyond chance": ""}[finding.verdict]
        return f"{mark}{finding.number}{mark}"


def attack_table(
    seed: int = 1,
    trials: int = TRIALS,
    rows: Iterable[Row] = ROWS,
    edges: Edges = FIVE_EDGES,
) -> AttackTable:
    """Run every attack on every one of *rows*; the same seed gives the same table."""
    systems: list[str] = []
    findings: dict[tuple[str, str], AttackResult] = {}
    for name, off in rows:
        problem = replace(five_nodes(), edges=edges)
        case = AttackCase(
            system=name, off=frozenset(off), trials=trials, seed=seed, problem=problem
        )
        systems.append(case.name)
        findings |= {(case.name, finding.attack): finding for finding in _run_attacks(case)}
    return AttackTable(systems, COLUMNS, findings, trials, seed)


def _note(attack: Attack) -> str:
    return " Depends on the method." if attack.depends_on_method else ""


def _run_attacks(case: AttackCase) -> Iterator[AttackResult]:
    for attack in COLUMNS:
        finding = attack.run(case)
        if finding is not None:
            yield finding


def plot_table(table: AttackTable, file: Path) -> None:
    """Draw the table into *file*."""
    from matplotlib.figure import Figure  # takes 0.4 s, which --help must not wait for

    figure = Figure(figsize=figure_size(table), layout="constrained")
    draw_table(figure, table)
    figure.savefig(file, dpi=120)


def figure_size(table: AttackTable) -> tuple[float, float]:
    """Return the size in inches at which the cells hold their numbers."""
    return 3.5 + 0.55 * len(table.attacks), 2.4 + 0.3 * len(table.systems)


def draw_table(figure: Any, table: AttackTable) -> None:
    """Draw a cell per system and attack on a matplotlib figure, in the colour of its outcome."""
    from matplotlib.patches import Patch, PathPatch
    from matplotlib.path import Path as Outline

    axes = figure.subplots()
    squares: dict[str, list[Any]] = {}  # squares of one colour are one shape, for small files
    for y, system in enumerate(table.systems):
        for x, attack in enumerate(table.attacks):
            finding = table.findings.get((system, attack.name))
            colour = _EMPTY if finding is None else _COLOURS[finding.verdict]
            corners = [(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1), (x, y)]
            squares.setdefault(colour, []).append(Outline(corners, closed=True))
            if finding is not None:
                axes.text(x + 0.5, y + 0.5, finding.short, ha="center", va="center", fontsize=7)
    for colour, outlines in squares.items():
        shape = Outline.make_compound_path(*outlines)
        axes.add_patch(PathPatch(shape, facecolor=colour, edgecolor="white", lw=1.5))
    _label(axes, [_heading(table, attack) for attack in table.attacks], table.systems)
    legend = [Patch(color=colour, label=verdict) for verdict, colour in _COLOURS.items()]
    legend.append(Patch(color=_EMPTY, label="nothing of the kind to attack"))
    axes.set_xlabel("error, or found, in per cent", fontsize=8)
    figure.legend(handles=legend, loc="outside lower center", ncols=4, fontsize=8, frameon=False)


def _heading(table: AttackTable, attack: Attack) -> str:
    measures = {f.measure for f in table.findings.values() if f.attack == attack.name}
    return f"{attack.name} (found)" if measures == {"fraction"} else attack.name


def _label(axes: Any, columns: Sequence[str], rows: Sequence[str]) -> None:
    axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    axes.grid(visible=False)
    axes.xaxis.set_label_position("bottom")
    axes.set_xticks([x + 0.5 for x in range(len(columns))], columns, rotation=40, ha="left")
    axes.set_yticks([y + 0.5 for y in range(len(rows))], rows)
    axes.tick_params(length=0, labelsize=8, top=True, labeltop=True, bottom=False)
    axes.tick_params(labelbottom=False)
    for side in axes.spines.values():
        side.set_visible(False)
