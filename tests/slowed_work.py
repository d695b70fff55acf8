"""Measure the same work again and again, and work that is a tenth longer, each in new processes.

    python tests/slowed_work.py TRIALS PROCESSES

prints a JSON list with an object for every trial: `first`, `again` and `slower`, each a list with
the samples (s of CPU time) of every process. The three take turns, so that a drift of the machine
meets all of them.
"""

from __future__ import annotations

import json
import os
import sys
from random import Random
from typing import NoReturn

from gmpy2 import mpz, powmod

from cipherfleet_hil.contest import Case, Effort
from cipherfleet_hil.sampling import Sampler, sample

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
    case = Case("powers", lambda: work(powers), lambda number: bool(number == LAST))
    (taken,) = sample([case], Effort(0.0, 1), Sampler("cpu"), Random())
    return taken.values


def in_a_new_process(powers: int) -> list[float]:
    """The samples of a process that is forked for them."""
    read, write = os.pipe()
    if os.fork() == 0:
        _tell(write, powers)
    os.close(write)
    with os.fdopen(read) as stream:
        told: list[float] = json.load(stream)
    os.wait()
    return told


def _tell(write: int, powers: int) -> NoReturn:
    with os.fdopen(write, "w") as stream:
        json.dump(samples(powers), stream)
    os._exit(0)


def trial(processes: int, chance: Random) -> dict[str, list[list[float]]]:
    """All three, in an order by chance in every turn."""
    told: dict[str, list[list[float]]] = {name: [] for name in POWERS}
    for _ in range(processes):
        for name in chance.sample([*POWERS], len(POWERS)):
            told[name].append(in_a_new_process(POWERS[name]))
    return told


if __name__ == "__main__":
    trials, processes = map(int, sys.argv[1:])
    json.dump([trial(processes, Random(number)) for number in range(trials)], sys.stdout)
