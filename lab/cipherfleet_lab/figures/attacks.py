"""Who leaks what: every attack on every system."""

from __future__ import annotations

from cipherfleet_lab.attacks.result import percent
from cipherfleet_lab.attacks.table import (
    QUICK_TRIALS,
    SIGNS,
    TRIALS,
    AttackTable,
    attack_table,
    draw_table,
    figure_size,
)

from .study import Effort, Result, Study, Table


def _run(effort: Effort) -> Result:
    table = attack_table(effort.seed, QUICK_TRIALS if effort.quick else TRIALS)
    head, *rows = table.rows()
    attacks = [(attack.name, attack.adversary, attack.text) for attack in table.attacks]
    return Result(
        finding=_finding(table),
        text=(
            f"{SIGNS} Five nodes on a ring with one chord, {table.trials} trials: rounds of one "
            "edge with real Paillier (toy keys, d = 4) for what looks at ciphertexts, runs of 300 "
            "rounds for the rest; the articles' attenuation, spread 1. `cipherfleet attack NAME "
            "--on SYSTEM` says of one cell what the adversary saw, knew, and would have guessed."
        ),
        tables=[Table(head, rows), Table(["attack", "adversary", "what it finds"], attacks)],
        numbers=table.told(),
        draw=lambda figure: draw_table(figure, table),
        size=figure_size(table),
    )


def _finding(table: AttackTable) -> str:
    def number(system: str, attack: str) -> str:
        return percent(table.findings[system, attack].value)

    return (
        f"Of the article's exchange a listener reads {number('pairwise', 'wiretap')} of the "
        f"estimates; all neighbours together know a gradient to {number('pairwise', 'one-round')} "
        f"in one round and to {number('pairwise', 'telescoping')} over 300, without one of them to "
        f"{number('pairwise', 'telescoping-but-one')}. Sealed, the last two are "
        f"{number('sealed', 'telescoping')} and {number('sealed', 'telescoping-but-one')}. Of "
        f"descent in clear anybody knows gradients to {number('dsgd', 'observer')} at once."
    )


STUDY = Study("attacks", "Who leaks what", _run)
