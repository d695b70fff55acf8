"""Study: every attack on every system."""

from __future__ import annotations

import msgspec

from cipherfleet_lab.attacks.catalogue import ATTACKS
from cipherfleet_lab.attacks.result import percent
from cipherfleet_lab.attacks.round_table import HEAD, run_pairs
from cipherfleet_lab.attacks.table import (
    QUICK_TRIALS,
    SIGNS,
    TRIALS,
    AttackTable,
    attack_table,
    draw_table,
    figure_size,
)

from .study import Result, Study, StudyEffort, Table


def _run(effort: StudyEffort) -> Result:
    table = attack_table(effort.seed, QUICK_TRIALS if effort.quick else TRIALS)
    pairs = list(run_pairs(effort.seed, table.trials))
    head, *rows = table.rows()
    attacks = [(a.name, a.adversary, a.text) for a in ATTACKS.values() if a.name != "leakage-true"]
    findings = [*table.findings.values(), *(f for pair in pairs for f in (pair.off, pair.on))]
    return Result(
        finding=_finding(table),
        text=(
            f"{SIGNS} Five nodes on a ring with one chord, {table.trials} trials. For attacks on "
            "ciphertexts a trial is one round of one edge with real Paillier (toy keys, d = 4), "
            "for the others a run of 300 rounds; the articles' attenuation, spread 1. `cipherfleet "
            "attack NAME --on SYSTEM` prints for one cell what the adversary saw, knew, and would "
            "have guessed. The second table has the attacks on rounds, on fleets of the node's own "
            "agents, each without the guard against it and with all guards."
        ),
        tables=[
            Table(head, rows),
            Table(HEAD, [pair.row() for pair in pairs]),
            Table(["attack", "adversary", "what it finds or does"], attacks),
        ],
        numbers={
            "seed": table.seed,
            "trials": table.trials,
            "findings": msgspec.to_builtins(findings),
        },
        draw=lambda figure: draw_table(figure, table),
        size=figure_size(table),
    )


def _finding(table: AttackTable) -> str:
    def number(system: str, attack: str) -> str:
        return percent(table.findings[system, attack].value)

    return (
        f"In the article's exchange an eavesdropper reads {number('pairwise', 'wiretap')} of the "
        f"estimates. All neighbours together find a gradient with an error of "
        f"{number('pairwise', 'one-round')} in one round and {number('pairwise', 'telescoping')} "
        f"over 300 rounds, all but one with {number('pairwise', 'telescoping-but-one')}. In the "
        f"sealed exchange the last two errors are {number('sealed', 'telescoping')} and "
        f"{number('sealed', 'telescoping-but-one')}. In plaintext descent an eavesdropper finds "
        f"gradients with an error of {number('dsgd', 'observer')} in one round."
    )


STUDY = Study("attacks", "Leakage under all attacks", _run)
