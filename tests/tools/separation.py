"""Prints how well sealed sums separate into single neighbours' differences while a fleet runs.

Six nodes on regular graphs, the objective `mean`, stepsizes that do not decay: the best case for an
asker. With 4,000 rounds the table takes about ten minutes. SECURITY.md has it.

    python -m tests.tools.separation --rounds 4000
"""

from __future__ import annotations

import argparse

from cipherfleet_lab.attacks.separation import Errors, separate_running_fleet

DEGREES, SPREADS = (2, 3, 4), (0.0, 1.0)
SHARES = (20, 4, 1)  # the table has the errors after 1/20, 1/4 and all of the rounds
LEAST_ROUNDS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.rounds < LEAST_ROUNDS:
        parser.error(f"--rounds is {options.rounds}, must be at least {LEAST_ROUNDS}")
    until = [options.rounds // share for share in SHARES]
    print("| neighbours | spread |", " | ".join(f"{k} rounds" for k in until), "| the sum |")
    print("|---|---|" + "---|" * (len(until) + 1))
    for degree in DEGREES:
        for spread in SPREADS:
            print(_row(degree, spread, separate_running_fleet(degree, spread, until, options.seed)))


def _row(degree: int, spread: float, errors: list[Errors]) -> str:
    cells = [f"{each.median:.2f} ({each.least:.2f})" for each in errors]
    return f"| {degree} | {spread:g} | {' | '.join(cells)} | {errors[-1].guess:.2f} |"


if __name__ == "__main__":
    main()
