"""Puts every single fault into one generation of a small fleet, and checks the sums of the duals.

    python -m tests.tools.explore_generations

The fleet has a second generation, with shares that exist already. For each message from its roll
call to its application there is one run in which the message is lost, one in which it comes late,
and several in which its receiver dies then: at once, or in the middle of what it does with the
message, with its state, with the state before, or without one, for a short or a long time. With
--pairs N there are N runs with two such faults, drawn at random. Printed, with the exit code 1, are
the runs after which `generation_faults.py` finds a wrong sum, a node without its gradient or
different generations.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cipherfleet_node.core.messages import Message, Presence
from cipherfleet_node.settings.sections import Algorithm, Stepsize
from tests.support.exact_fleets import SCALE, SQUARES, readings
from tests.support.memory_fleet import Edges, MemoryFleet, complete, ring
from tests.tools.generation_faults import Watched, problems_of, watching

PERIOD_S = 0.1
EVERY, ROLL_CALL, AVERAGING = 40, 6, 2
BEGIN = ROLL_CALL + EVERY - ROLL_CALL - 1  # the round before the roll call of generation 2
END = ROLL_CALL + EVERY + AVERAGING + 10  # the votes are known
HEALED = ROLL_CALL + 4 * EVERY + 25  # two generations without faults
GRAPHS = {"three": complete(3), "ring of four": ring(4)}
LONG_S, SHORT_S = 2.0, 0.02

Kind = Literal["lost", "late", "dies", "dies within", "old state", "no state"]


@dataclass(frozen=True)
class Fault:
    """What happens at the message *place*, counted from the beginning."""

    place: int
    kind: Kind
    down_s: float = 0.0
    effects: int = 0


def faults_at(place: int) -> Iterator[Fault]:
    """Every single fault at one message."""
    yield Fault(place, "lost")
    yield Fault(place, "late")
    for down_s in (SHORT_S, LONG_S):
        yield Fault(place, "dies", down_s)
        yield Fault(place, "old state", down_s)
        yield Fault(place, "no state", down_s)
    for effects in range(3):
        yield Fault(place, "dies within", SHORT_S, effects)


def healthy(edges: Edges, *, sealed: bool) -> MemoryFleet:
    """A fleet before the roll call of its second generation."""
    algorithm = Algorithm(
        rounds=10_000, period_s=PERIOD_S, scale=SCALE, stepsize=Stepsize(spread=1.0),
        answer_timeout_s=1.0,
    )  # fmt: skip
    fleet = MemoryFleet(
        edges, readings(edges), SQUARES, algorithm, sealed=sealed, encrypted=False,
        seed=5, generations=(EVERY, ROLL_CALL, AVERAGING),
    )  # fmt: skip
    for name in fleet.seats:
        fleet.start(name)
    run_until(fleet, BEGIN)
    return fleet


def run_until(fleet: MemoryFleet, round_number: int) -> None:
    """Run until every node that is up has come to *round_number*."""
    while min(s.agent.round_number for s in fleet.seats.values() if s.agent) < round_number:
        assert fleet.now < 1_000.0, "the fleet did not get there"
        fleet.advance(fleet.now + 0.05)


class Injection:
    """The tap that counts messages and brings the faults. Dead nodes come back by `revive`."""

    def __init__(self, fleet: MemoryFleet, faults: Sequence[Fault]) -> None:
        self._fleet, self._faults = fleet, {fault.place: fault for fault in faults}
        self._late: list[tuple[float, str, str, Message]] = []
        self._back: list[tuple[float, str]] = []
        self.count = 0

    def tap(self, sender: str, receiver: str, message: Message) -> Message | None:
        """Pass *message* on, or do what the fault at this place says."""
        if isinstance(message, Presence):
            return message
        fault = self._faults.get(self.count)
        self.count += 1
        if fault is None or self._fleet.seats[receiver].agent is None:
            return message
        if fault.kind == "late":
            self._late.append((self._fleet.now + 1.5, sender, receiver, message))
        if fault.kind in {"lost", "late"}:
            return None
        if fault.kind == "dies within":
            self._fleet.kill_within(receiver, fault.effects)
        else:
            self._kill(receiver, fault)
        self._back.append((self._fleet.now + fault.down_s, receiver))
        return message

    def _kill(self, name: str, fault: Fault) -> None:
        self._fleet.kill(name)
        if fault.kind == "no state":
            self._fleet.lose_state(name)
        if fault.kind == "old state":
            self._fleet.damage_state(name)

    def revive(self) -> None:
        """Start the dead nodes whose time has come, and deliver the late messages."""
        now, fleet = self._fleet.now, self._fleet
        for item in [item for item in self._back if item[0] <= now]:
            self._back.remove(item)
            fleet.seats[item[1]].effects_left = None
            if fleet.seats[item[1]].agent is None:
                fleet.start(item[1])
        for late in [each for each in self._late if each[0] <= now]:
            self._late.remove(late)
            fleet._post(*late[1:])


def run(start: MemoryFleet, faults: Sequence[Fault]) -> tuple[list[str], int]:
    """Return what is wrong after *faults*, and the number of messages up to END."""
    with watching() as watched:
        fleet = copy.deepcopy(start)
        injection = Injection(fleet, faults)
        fleet.tap = injection.tap
        messages = 0
        while True:
            rounds = [seat.agent.round_number for seat in fleet.seats.values() if seat.agent]
            messages = injection.count if max(rounds) < END else messages
            if min(rounds) >= HEALED and len(rounds) == len(fleet.seats):
                break
            assert fleet.now < 1_000.0, "the fleet did not get there"
            fleet.advance(fleet.now + 0.02)
            injection.revive()
    return list(_wrong(fleet, watched)), messages


def _wrong(fleet: MemoryFleet, watched: Watched) -> Iterator[str]:
    if broken := watched.broken():
        yield f"{len(broken)} generations with a wrong sum were applied"
    yield from problems_of(fleet)


def explore(
    graph: str, *, sealed: bool, stride: int = 1, pairs: int = 0, seed: int = 0
) -> tuple[Counter[str], list[str]]:
    """Run every *stride*-th single fault and *pairs* random pairs; return counts and problems."""
    start = healthy(GRAPHS[graph], sealed=sealed)
    wrong, messages = run(start, [])
    assert not wrong, wrong
    singles = list(itertools.chain.from_iterable(map(faults_at, range(messages))))
    chance = random.Random(seed)
    plans = [[fault] for fault in singles[::stride]]
    plans += [chance.sample(singles, 2) for _ in range(pairs)]
    counts, problems = Counter[str](), []
    for plan in plans:
        wrong, _ = run(start, plan)
        counts[" and ".join(fault.kind for fault in plan) if len(plan) == 1 else "pairs"] += 1
        problems += [f"{graph}, {plan}: {each}" for each in wrong]
    return counts, problems


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--stride", type=int, default=1, help="only every so many-th single fault")
    parser.add_argument("--pairs", type=int, default=0, help="runs with two faults")
    parser.add_argument("--seed", type=int, default=0, help="of the pairs")
    options = parser.parse_args(arguments)
    found = []
    for graph, sealed in itertools.product(GRAPHS, (False, True)):
        counts, problems = explore(
            graph, sealed=sealed, stride=options.stride, pairs=options.pairs, seed=options.seed
        )
        kind = "sealed" if sealed else "pairwise"
        print(f"{graph}, {kind}: {dict(counts)}, {len(problems)} problems", flush=True)
        found += problems
    print("\n".join(found[:20]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
