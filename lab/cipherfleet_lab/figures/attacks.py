"""Study: every attack on every system."""

from __future__ import annotations

import msgspec

from cipherfleet_lab.attacks.catalogue import ATTACKS
from cipherfleet_lab.attacks.result import percent
from cipherfleet_lab.attacks.round_table import HEAD, PAIRS, QUICK_PAIRS, run_pairs
from cipherfleet_lab.attacks.second_moments import MOTES
from cipherfleet_lab.attacks.subjects import TRIALS_PER_FLEET
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
    chosen = QUICK_PAIRS if effort.quick else PAIRS
    pairs = list(run_pairs(effort.seed, table.trials, chosen))
    head, *rows = table.rows()
    attacks = [
        (a.name, a.adversary, a.text, "yes" if a.depends_on_method else "no")
        for a in ATTACKS.values()
        if a.name != "leakage-true"
    ]
    findings = [*table.findings.values(), *(f for pair in pairs for f in (pair.off, pair.on))]
    return Result(
        finding=_finding(table),
        text=(
            f"{SIGNS} Five nodes on a ring with one chord, {table.trials} trials. For attacks on "
            "ciphertexts a trial is one round of one edge with real Paillier (toy keys, d = 4), "
            "for the others a run of 300 rounds, spread 1. The rows `pairwise` and `sealed` run "
            "the article's method with the articles' attenuation and noise on every gradient. The "
            "rows `pairwise-exact` and `sealed-exact` run the exact method, over whole windows, "
            "so without noise, the rows `-shielded` with `shield: linear` and shares of 16, and "
            "the rows `-quadratic` with `shield: quadratic`, which has these shares too; "
            "attacks on differences see its rounds 5 to 35, since later ones "
            f"show none. `second-moments` runs on {MOTES} motes of the Intel lab, with one fleet "
            f"for {TRIALS_PER_FLEET} trials; its coalition knows every flow, also in a sealed "
            "exchange. `cipherfleet attack NAME --on SYSTEM` prints for one cell what the "
            "adversary saw, knew, and would have guessed. The second table has the attacks on "
            "rounds, on fleets of the node's own agents and with both methods, each without the "
            "guard against it and with all guards. The third table says which attacks depend on "
            "`algorithm.method`. Where a coalition of all neighbours is to be feared, set "
            "`algorithm.shield: linear`, or `quadratic` if the features are private as well, or "
            "choose a topology in which each node has a neighbour "
            "that does not collude."
        ),
        tables=[
            Table(head, rows),
            Table(HEAD, [pair.row() for pair in pairs]),
            Table(
                ["attack", "adversary", "what it finds or does", "depends on the method"], attacks
            ),
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

    def error(system: str, attack: str = "telescoping") -> float:
        found = table.findings[system, attack]
        return found.value if found.worst_off is None else found.worst_off

    return (
        f"In the article's exchange an eavesdropper reads {number('pairwise', 'wiretap')} of the "
        f"estimates. All neighbours together find a gradient with an error of "
        f"{number('pairwise', 'one-round')} in one round and {number('pairwise', 'telescoping')} "
        f"over 300 rounds, all but one with {number('pairwise', 'telescoping-but-one')}. In the "
        f"sealed exchange the last two errors are {number('sealed', 'telescoping')} and "
        f"{number('sealed', 'telescoping-but-one')}. With the exact method all neighbours "
        f"together find the gradient at the optimum with a relative error of "
        f"{error('pairwise-exact'):.0e}, and in the sealed exchange with one of "
        f"{error('sealed-exact'):.0e} if they collude with all that they ask; all but one find it "
        f"with {number('pairwise-exact', 'telescoping-but-one')} and "
        f"{number('sealed-exact', 'telescoping-but-one')}. With the shield all neighbours have an "
        f"error of {number('pairwise-shielded', 'telescoping')}, unless all partners collude as "
        f"well: then {error('pairwise-shielded', 'telescoping-partners'):.0e}. They find a node's "
        f"second derivative with an error of {number('pairwise-shielded', 'second-moments')}, and "
        "with the quadratic shield with one of "
        f"{number('pairwise-quadratic', 'second-moments')}. In plaintext descent an eavesdropper "
        f"finds gradients with an error of {number('dsgd', 'observer')} in "
        "one round."
    )


STUDY = Study("attacks", "Leakage under all attacks", _run)
