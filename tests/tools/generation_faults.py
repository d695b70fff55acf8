"""Runs whole fleets through generations under random faults, and checks the sums of the duals.

    python -m tests.tools.generation_faults --schedules 1000

A schedule draws a graph, an exchange and faults: lost messages, crashes with and without the state,
crashes between a save and a message, old copies of a state, a partition, a node that dies in
every averaging, and one that does not answer some of its neighbours. Schedules of odd numbers have
the quadratic shield. The real agents run over links
in memory, without encryption and without dither, so every sum is exact. Then the faults end, and
the fleet runs through HEALING generations.

Checked are, with the exit code 1 otherwise:
* no vector is applied whose sum over the participants is not the sum of their ledgers at the first
  round (a *broken* generation);
* after the healing all nodes have applied the same generation, and the parts of their ledgers from
  before it sum to zero exactly;
* no node is left without its gradient, and the quadratic shields of all nodes sum to zero;
* with --long, in which the rounds of a generation are those that provisioning plans, all estimates
  are within ACCURACY of the optimum.
A generation that some of its participants apply and others do not is counted as *split*.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
import numpy as np
import pytest

from cipherfleet_lab.simulation.memory_fleet import Faults
from cipherfleet_node.core import progress
from cipherfleet_node.core.generations import Generations, indices
from cipherfleet_node.core.messages import Answer, GenerationNote, Message
from cipherfleet_node.core.shield import Shield
from cipherfleet_node.core.state import Change, Pending, State
from cipherfleet_node.settings.sections import Algorithm, Stepsize
from cipherfleet_provisioning.generations import plan_schedule
from cipherfleet_provisioning.topology.graph import Graph
from tests.support.exact_fleets import SCALE, SQUARES, D, objectives_of, optimum, readings
from tests.support.memory_fleet import Edges, MemoryFleet, random_graph

HEALING = 3  # generations without faults
FAULTY = 3  # generations with faults
ACCURACY = 1e-6
WITHIN_S = 20_000.0  # virtual time of one schedule

Vector = tuple[int, ...]


@dataclass
class Watched:
    """What all nodes of one fleet did in generations, by the name of the generation."""

    listed: dict[bytes, list[int]] = field(default_factory=dict)
    ledgers: dict[bytes, dict[int, Vector]] = field(default_factory=dict)  # at the first round
    vectors: dict[bytes, dict[int, Vector]] = field(default_factory=dict)  # at the vote
    applied: dict[bytes, set[int]] = field(default_factory=dict)

    def broken(self) -> list[bytes]:
        """The generations that were applied although the sums differ."""
        return [name for name in self.applied if not self._is_sound(name)]

    def split(self) -> list[bytes]:
        """The generations that some participants have applied, and others have not."""
        return [name for name, who in self.applied.items() if set(self.listed[name]) - who]

    def _is_sound(self, name: bytes) -> bool:
        listed = self.listed[name]
        vectors, ledgers = self.vectors.get(name, {}), self.ledgers[name]
        if not all(index in vectors and index in ledgers for index in listed):
            return False
        return _sum(vectors[i] for i in listed) == _sum(ledgers[i] for i in listed)


def _sum(vectors: Iterator[Vector]) -> Vector:
    return tuple(sum(column) for column in zip(*vectors, strict=True))


@contextmanager
def watching() -> Iterator[Watched]:
    """Record what every node does in generations, and leave the dither out."""
    watched = Watched()
    begun, checked, applied = Generations._begun, Generations._checked, Generations._with
    left = Generations._without

    def begin(self: Generations, shield: Shield, state: State, *more: Any) -> State:
        after = begun(self, shield, state, *more)
        pending = after.generation.pending
        if pending is not None:
            watched.listed[pending.name] = indices(pending.listed)
            ledger = tuple(progress.ledger_of(state, D))
            watched.ledgers.setdefault(pending.name, {})[shield.index] = ledger
            note_vote(shield, pending)
        return after

    def check(self: Generations, shield: Shield, state: State) -> State:
        after = checked(self, shield, state)
        if after.generation.pending is not None:
            note_vote(shield, after.generation.pending)
        return after

    def note_vote(shield: Shield, pending: Pending) -> None:
        if shield.index in indices(pending.votes):
            vector = tuple(int(entry) for entry in pending.vector)
            watched.vectors.setdefault(pending.name, {})[shield.index] = vector

    def apply(self: Generations, state: State, pending: Pending) -> State:
        shield = self._setup.shield
        assert shield is not None
        watched.applied.setdefault(pending.name, set()).add(shield.index)
        return applied(self, state, pending)

    def leave(self: Generations, shield: Shield, state: State, latest: GenerationNote) -> State:
        after = left(self, shield, state, latest)
        pending = after.generation.pending
        if pending is not None and pending.number > latest.number and after is not state:
            # What the ledger loses, the vector loses as well.
            own = watched.ledgers[pending.name]
            kept = [int(entry) for entry in after.ledger] or [0] * D
            lost = [a - b for a, b in zip(progress.ledger_of(state, D), kept, strict=True)]
            before = own[shield.index]
            own[shield.index] = tuple(a - b for a, b in zip(before, lost, strict=True))
        return after

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Generations, "_without", leave)
        patch.setattr(Generations, "_begun", begin)
        patch.setattr(Generations, "_checked", check)
        patch.setattr(Generations, "_with", apply)
        where = "cipherfleet_lab.simulation.plaintext_exchange.dither"
        patch.setattr(where, lambda *_: [0] * D)
        yield watched


@dataclass
class Schedule:
    """One fleet, and the faults that befall it."""

    seed: int
    sealed: bool
    edges: Edges
    plan: tuple[int, int, int]  # rounds between generations, of the roll call, of the averaging
    loss: float
    looper: str | None
    sides: set[str]  # cut off from the others for a while
    unanswered: set[tuple[str, str]]  # links whose first node never answers the second

    @classmethod
    def draw(cls, seed: int, *, is_long: bool = False) -> Schedule:
        """Any schedule, by *seed* alone."""
        chance = random.Random(f"generations {seed}")
        edges = _graph(chance)
        graph = nx.Graph(edges)
        roll_call = 2 * (nx.diameter(graph) + 2)
        averaging = chance.choice([1, 4, 8])
        every = averaging + 3 * roll_call + 12
        if is_long:
            planned = plan_schedule(Graph(tuple(graph), tuple(edges)))
            every, roll_call, averaging = planned.every, planned.roll_call, planned.averaging
        everyone = sorted(graph)
        sides = set(chance.sample(everyone, len(everyone) // 2)) if chance.random() < 0.3 else set()
        looper = chance.choice(everyone) if chance.random() < 0.2 else None
        loss = chance.choice([0.0, 0.0, 0.01, 0.05])
        sealed, plan = chance.random() < 0.5, (every, roll_call, averaging)
        unanswered = _unanswered(graph, chance) if chance.random() < 0.3 else set()
        return cls(seed, sealed, edges, plan, loss, looper, sides, unanswered)


def _graph(chance: random.Random) -> Edges:
    """A connected graph of 4 to 8 nodes in which nobody has a single neighbour."""
    while True:
        edges = random_graph(chance.randint(4, 8), chance.randrange(2**32))
        degrees = Counter(name for edge in edges for name in edge)
        if min(degrees.values()) >= 2:
            return edges


def _unanswered(graph: nx.Graph, chance: random.Random) -> set[tuple[str, str]]:
    """The links from one node to all of its neighbours, or to some."""
    mute = chance.choice(sorted(graph))
    others = sorted(graph.neighbors(mute))
    return {(mute, other) for other in chance.sample(others, chance.randint(1, len(others)))}


@dataclass
class Outcome:
    """What came of one schedule."""

    seed: int
    applied: int = 0
    broken: int = 0
    split: int = 0
    error: float = 0.0  # the largest of a node at the end, relative to the optimum
    problems: list[str] = field(default_factory=list)


def run(seed: int, *, is_long: bool = False) -> Outcome:
    """Run the schedule of *seed*."""
    schedule, outcome = Schedule.draw(seed, is_long=is_long), Outcome(seed)
    with watching() as watched:
        fleet = _fleet(schedule)
        _faulty(fleet, schedule)
        _heal(fleet, schedule)
    outcome.applied = len(watched.applied)
    outcome.broken, outcome.split = len(watched.broken()), len(watched.split())
    outcome.problems, outcome.error = list(problems_of(fleet)), _error(fleet)
    if is_long and outcome.error > ACCURACY:
        outcome.problems.append(f"an error of {outcome.error:.1e}")
    return outcome


def _error(fleet: MemoryFleet) -> float:
    best = optimum(list(objectives_of(dict(fleet.samples)).values()))
    last = np.array([seat.reported[-1].estimate for seat in fleet.seats.values()])
    return float(np.linalg.norm(last - best, axis=1).max() / np.linalg.norm(best))


def _fleet(schedule: Schedule) -> MemoryFleet:
    algorithm = Algorithm(
        rounds=100_000,
        scale=SCALE,
        stepsize=Stepsize(spread=1.0),
        shield="quadratic" if schedule.seed % 2 else "linear",
        answer_timeout_s=2.0,
    )
    fleet = MemoryFleet(
        schedule.edges,
        readings(schedule.edges),
        SQUARES,
        algorithm,
        faults=Faults(drop=schedule.loss),
        seed=schedule.seed,
        sealed=schedule.sealed,
        encrypted=False,
        generations=schedule.plan,
    )
    for name in fleet.seats:
        fleet.start(name)
    return fleet


def _round(fleet: MemoryFleet) -> int:
    """The latest round that any node has open."""
    return max(seat.agent.round_number for seat in fleet.seats.values() if seat.agent)


def _faulty(fleet: MemoryFleet, schedule: Schedule) -> None:
    """Run through FAULTY generations with faults."""
    chance = random.Random(f"faults {schedule.seed}")
    every, roll_call, averaging = schedule.plan
    end, down = roll_call + FAULTY * every, dict[str, float]()
    cut = sorted(chance.sample(range(end), 2)) if schedule.sides else [0, 0]
    while _round(fleet) < end and fleet.now < WITHIN_S / 2:
        k = _round(fleet)
        is_cut = cut[0] <= k < cut[1]
        fleet.tap = _losing(schedule.sides if is_cut else set(), schedule.unanswered)
        _crash(fleet, chance, down)
        is_averaging = k >= roll_call and (k - roll_call) % every < averaging + 2
        if schedule.looper and is_averaging and chance.random() < 0.2:
            _kill(fleet, schedule.looper, down, fleet.now + chance.uniform(0.1, 3.0))
        fleet.advance(fleet.now + chance.uniform(0.01, 0.1))
        for name in [name for name, at in down.items() if at <= fleet.now]:
            del down[name]
            fleet.start(name)
    for name in down:
        fleet.start(name)


def _crash(fleet: MemoryFleet, chance: random.Random, down: dict[str, float]) -> None:
    """Now and then, kill one node in one of several ways."""
    if chance.random() > 0.01 or len(down) > 1:
        return
    name = chance.choice([n for n in fleet.seats if n not in down])
    back = fleet.now + chance.choice([0.05, 1.0, 10.0, 60.0])
    match chance.randrange(4):
        case 0:
            _kill(fleet, name, down, back)
        case 1:  # somewhere between a save and a message
            fleet.kill_within(name, chance.randint(0, 5))
            fleet.advance(fleet.now + 0.05)
            _kill(fleet, name, down, back)
        case 2:
            _kill(fleet, name, down, back)
            fleet.lose_state(name)
        case _:
            _kill(fleet, name, down, back)
            fleet.damage_state(name)


def _kill(fleet: MemoryFleet, name: str, down: dict[str, float], back: float) -> None:
    if name not in down:
        if fleet.seats[name].agent is not None:
            fleet.kill(name)
        down[name] = back


def _losing(side: set[str], unanswered: set[tuple[str, str]]) -> Any:
    """A tap that lets nothing pass between *side* and the others, and no answer on *unanswered*."""

    def tap(sender: str, receiver: str, message: Message) -> Message | None:
        is_lost = isinstance(message, Answer) and (sender, receiver) in unanswered
        return message if (sender in side) == (receiver in side) and not is_lost else None

    return tap


def _heal(fleet: MemoryFleet, schedule: Schedule) -> None:
    """Run through HEALING generations, and a little more, without faults."""
    fleet.tap, fleet.faults = None, Faults()
    every, roll_call, _ = schedule.plan
    begun = max(_round(fleet) - roll_call, 0) // every + 2  # the next that begins without faults
    end = roll_call + (begun + HEALING - 1) * every - roll_call - 2
    while fleet.now < 2 * WITHIN_S:
        rounds = [seat.agent.round_number for seat in fleet.seats.values() if seat.agent]
        if min(rounds) >= end:
            return
        fleet.advance(fleet.now + 0.05)


def problems_of(fleet: MemoryFleet) -> Iterator[str]:
    """Yield what is wrong with the latest generation of a fleet that has healed."""
    states = {n: seat.agent.state for n, seat in fleet.seats.items() if seat.agent}
    if len({(s.generation.number, s.generation.name) for s in states.values()}) > 1:
        yield f"different generations: {sorted(s.generation.number for s in states.values())}"
    if followers := [n for n, s in states.items() if s.follows]:
        yield f"without their gradients: {followers}"
    quadratic = [s.generation.quadratic for s in states.values()]
    lengths = {len(each) for each in quadratic}
    if len(lengths) > 1 or np.abs(np.sum(quadratic, axis=0)).max(initial=0.0) > 1e-12:
        yield f"quadratic shields of {sorted(lengths)} entries that do not sum to zero"
    base = [0] * D
    for state in states.values():
        ledger = progress.ledger_of(state, D)
        flows = [int(entry) for entry in state.generation.flows] or [0] * D
        left = _left(state.generation.change)
        base = [b + x - z + c for b, x, z, c in zip(base, ledger, flows, left, strict=True)]
    if any(base):
        yield f"the parts from before the latest generation sum to {base}"


def _left(change: Change | None) -> list[int]:
    """What is still to be added to the ledger."""
    if change is None:
        return [0] * D
    made = [int(entry) for entry in change.made] or [0] * D
    return [int(t) - m for t, m in zip(change.total, made, strict=True)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first schedule")
    parser.add_argument("--long", action="store_true", help="check the estimates as well")
    options = parser.parse_args(arguments)
    total, bad, began, worst = Counter[str](), 0, time.monotonic(), 0.0
    for seed in range(options.first, options.first + options.schedules):
        outcome = run(seed, is_long=options.long)
        worst = max(worst, outcome.error)
        total["applied"] += outcome.applied
        total["broken"] += outcome.broken
        total["split"] += outcome.split
        bad += bool(outcome.broken or outcome.problems)
        if outcome.broken or outcome.problems:
            print(f"schedule {seed}: {outcome.broken} broken, {'; '.join(outcome.problems)}")
        if (seed + 1) % 50 == 0:
            print(
                f"{seed + 1 - options.first} schedules, {dict(total)}, {bad} bad, "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
    print(f"{options.schedules} schedules: {dict(total)}, {bad} bad")
    if options.long:
        print(f"largest error at the end: {worst:.1e}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
