"""Who leaks what: every attack on every system."""

from __future__ import annotations

from cipherfleet_lab.attacks.finding import percent
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
    def error(system: str, attack: str) -> str:
        return percent(table.findings[system, attack].value)

    return (
        "In one round the article's exchange shows nothing to an eavesdropper and a gradient to "
        f"{error('pairwise', 'one-round')} to all neighbours together; over 300 rounds they know "
        f"it to {error('pairwise', 'telescoping')}, without one of them to "
        f"{error('pairwise', 'telescoping-but-one')}. Sealed, that is "
        f"{error('sealed', 'telescoping')} and {error('sealed', 'telescoping-but-one')}; in "
        f"descent in clear {error('dsgd', 'observer')} for anybody, at once."
    )


STUDY = Study("attacks", "Who leaks what", _run)
