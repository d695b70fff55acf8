"""Check that `bench compare` finds work that is 10 % longer, and no difference in equal work.

    python -m tests.tools.slowed_work [--trials 10] [--processes 5]

measures the same work twice, and work that is a tenth longer, each in new processes, and compares
the measurements: nine trials of ten must find the tenth, and one at most may find what is not
there. The three take turns, so that a drift of the machine meets all of them. A command and not a
test: a machine that is busy with other work measures too unevenly to find a tenth. It exits with 1
if too little is found or too much. test_compare.py tries the same on synthetic samples.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from random import Random
from typing import NoReturn

from gmpy2 import mpz, powmod

from cipherfleet_hil.measurement.compare import compare
from cipherfleet_hil.measurement.document import Measurement, Run, benchmark
from cipherfleet_hil.measuring.sampling import CaseSampler, Effort, TimedCase, sample
from tests.support.measured import document

LIMIT = 0.05

POWERS = {"first": 100, "again": 100, "slower": 110}
BASE, EXPONENT, MODULUS = mpz(3) ** 300, mpz(2) ** 60 - 1, mpz(2) ** 512 - 569
LAST = powmod(BASE, EXPONENT, MODULUS)


def work(powers: int) -> mpz:
    """That many powers, each the same."""
    number = mpz(0)
    for _ in range(powers):
        number = powmod(BASE, EXPONENT, MODULUS)
    return number


def samples(powers: int) -> list[float]:
    """Of one process."""
    case = TimedCase("powers", lambda: work(powers), lambda number: bool(number == LAST))
    (taken,) = sample([case], Effort(0.0, 1), CaseSampler("cpu"), Random())
    return taken.values


def in_a_new_process(powers: int) -> list[float]:
    """The samples of a process that is forked for them."""
    read, write = os.pipe()
    if os.fork() == 0:
        _tell(write, powers)
    os.close(write)
    with os.fdopen(read) as stream:
        found: list[float] = json.load(stream)
    os.wait()
    return found


def _tell(write: int, powers: int) -> NoReturn:
    with os.fdopen(write, "w") as stream:
        json.dump(samples(powers), stream)
    os._exit(0)


def trial(processes: int, rng: Random) -> dict[str, Measurement]:
    """All three, in a random order in every turn."""
    runs: dict[str, list[Run]] = {name: [] for name in POWERS}
    for _ in range(processes):
        for name in rng.sample([*POWERS], len(POWERS)):
            runs[name].append(Run(values=in_a_new_process(POWERS[name])))
    return {name: document([benchmark("powers", {}, each)]) for name, each in runs.items()}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--processes", type=int, default=5)
    given = parser.parse_args(arguments)
    found = alarms = 0
    for number in range(given.trials):
        made = trial(given.processes, Random(number))
        found += compare(made["first"], made["slower"], LIMIT).failed
        alarms += compare(made["first"], made["again"], LIMIT).failed
    print(f"a tenth more work was found in {found} of {given.trials} trials")
    print(f"the same work was called slower in {alarms} of {given.trials} trials")
    return int(found < 0.9 * given.trials or alarms > 0.1 * given.trials)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
