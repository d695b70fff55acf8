"""The lab's fleet in one process, with weak keys that are fast to use, and the shapes of graphs."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from gmpy2 import mpz

from cipherfleet_lab.simulation import memory_fleet
from cipherfleet_lab.simulation.toy_keys import shared_secret, toy_key
from cipherfleet_node.core.agent import Agent
from cipherfleet_node.core.events import Effect, MessageReceived, Publish, Rejected, Surplus
from cipherfleet_node.core.messages import Answer, Message
from cipherfleet_node.core.paillier import encrypt
from cipherfleet_node.core.randomness import FloatVector, Seeds, seeds_of
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.core.state import RoundRecord, State
from cipherfleet_node.settings.sections import Algorithm, Column, ObjectiveSection

FLEET = "toy"
TIMEOUT = 5.0  # the base deadline of `fleet_of`, in seconds
FIELDS = ("u", "v")
OBJECTIVE = ObjectiveSection(kind="average", values=[Column(field=name) for name in FIELDS])

Edges = list[tuple[str, str]]
Tap = Callable[[str, str, Message], Message | None]


def toy_secret(a: str, b: str) -> bytes:
    """What *a* and *b* share in the fleet `toy`; the same both ways."""
    return shared_secret(FLEET, a, b)


@dataclass
class MemoryFleet(memory_fleet.MemoryFleet):
    """With toy keys, or in plaintext if not *encrypted*."""

    name: str = FLEET
    encrypted: bool = True
    # Seeds that depend on the state and the draw alone, as in the daemons; otherwise also on the
    # round in which the state was reached, so that the reference iteration can repeat them.
    by_state: bool = False

    def __post_init__(self) -> None:
        names = sorted({name for edge in self.edges for name in edge})
        if self.encrypted:
            self.keys = {name: toy_key(index) for index, name in enumerate(names)}
        super().__post_init__()

    def seeds(self, name: str) -> Seeds:
        if not self.by_state:
            return super().seeds(name)
        return seeds_of(hashlib.sha256(f"secret {self.seed} {name}".encode()).digest())

    def round_seed(self, name: str, k: int) -> bytes:
        return hashlib.sha256(f"{self.seed} {name} {k}".encode()).digest()


# -- graphs ---------------------------------------------------------------------------------------


def names(n: int) -> list[str]:
    return [f"n{index:02}" for index in range(n)]


def ring(n: int) -> Edges:
    return [(a, b) for a, b in zip(names(n), names(n)[1:] + names(n)[:1], strict=True)]


def line(n: int) -> Edges:
    return list(itertools.pairwise(names(n)))


def star(n: int) -> Edges:
    return [("n00", name) for name in names(n)[1:]]


def complete(n: int) -> Edges:
    return list(itertools.combinations(names(n), 2))


def degree_four(n: int) -> Edges:
    """A ring in which each node has the two nearest neighbours on both sides."""
    ids = names(n)
    return [(ids[place], ids[(place + step) % n]) for place in range(n) for step in (1, 2)]


def grid(n: int) -> Edges:
    """Two rows."""
    half = n // 2
    rows = names(n)[:half], names(n)[half : 2 * half]
    rungs = list(zip(*rows, strict=True))
    return [*itertools.pairwise(rows[0]), *itertools.pairwise(rows[1]), *rungs]


def random_graph(n: int, seed: int) -> Edges:
    """A random tree and some more edges."""
    chance = random.Random(seed)
    tree = {(chance.choice(names(n)[:place]), name) for place, name in enumerate(names(n)) if place}
    more = {pair for pair in complete(n) if chance.random() < 0.2}
    return sorted(tree | more)


SHAPES: dict[str, Callable[[int], Edges]] = {
    "ring": ring,
    "line": line,
    "star": star,
    "complete": complete,
    "grid": grid,
}


# -- fleets ---------------------------------------------------------------------------------------


def reading(name: str) -> Sample:
    chance = random.Random(name)
    return Sample({field: chance.uniform(-5, 5) for field in FIELDS})


def mean_reading(n: int) -> FloatVector:
    """The mean of the readings of the first *n* nodes, shape (2,)."""
    values = [list(reading(name).values.values()) for name in names(n)]
    return np.asarray(np.mean(values, axis=0), dtype=np.float64)


def fleet_of(
    edges: Edges, rounds: int | None = 8, period_s: float | None = None, **changes: Any
) -> MemoryFleet:
    """Make a fleet that computes the average of two figures per node."""
    everyone = sorted({name for edge in edges for name in edge})
    samples: dict[str, Sequence[Sample]] = {name: [reading(name)] for name in everyone}
    algorithm = Algorithm(rounds=rounds, period_s=period_s, answer_timeout_s=TIMEOUT)
    settings: dict[str, Any] = {"leaves_open": True, **changes}
    return MemoryFleet(edges, samples, OBJECTIVE, algorithm, **settings)


def start_all(fleet: MemoryFleet) -> None:
    for name in fleet.seats:
        fleet.start(name)


def run_until(
    fleet: MemoryFleet, is_reached: Callable[[], bool], within_s: float = 10_000.0
) -> None:
    """Process one event after another until *is_reached*; AssertionError after *within_s*."""
    end = fleet.now + within_s
    while not is_reached():
        assert fleet.now < end, "the fleet did not get there"
        fleet.advance(fleet._heap[0][0])


def finish(fleet: MemoryFleet, within_s: float = 2_000.0) -> None:
    """Run until all nodes have stopped; AssertionError if one is still running."""
    fleet.advance(fleet.now + within_s)
    running = [name for name, seat in fleet.seats.items() if not seat.stopped]
    assert not running, f"still running at {fleet.now:.1f} s: {running}"


def reused_rounds(fleet: MemoryFleet) -> list[tuple[object, ...]]:
    """The rounds of a node that cover two queries or two rosters."""
    queries = [place for place, digests in fleet.queries.items() if len(digests) > 1]
    return [*queries, *(place for place, rosters in fleet.rosters.items() if len(rosters) > 1)]


def rounds_of(fleet: MemoryFleet, name: str) -> list[int]:
    return [closed.number for closed in fleet.seats[name].reported]


def coupled_of(fleet: MemoryFleet, name: str) -> int:
    """The number of coupled rounds; the saved state does not know of the latest one yet."""
    agent = fleet.seats[name].agent
    return agent.state.coupled if agent is not None else saved_of(fleet, name).coupled


def saved_of(fleet: MemoryFleet, name: str) -> State:
    saved = fleet.seats[name].saved
    assert saved is not None
    return saved


def record_of(fleet: MemoryFleet, name: str, k: int) -> RoundRecord:
    """The record of round *k* in the saved state of *name*."""
    record = saved_of(fleet, name).record(k)
    assert record is not None
    return record


def agent_of(fleet: MemoryFleet, name: str) -> Agent:
    agent = fleet.seats[name].agent
    assert agent is not None
    return agent


# -- single agents --------------------------------------------------------------------------------


def deliver(
    fleet: MemoryFleet, name: str, message: Message, *, retained: bool = False
) -> list[Effect]:
    """Return what the agent of *name* does with *message*; the effects are not carried out."""
    event = MessageReceived(message, retained)
    return list(agent_of(fleet, name).handle(event, fleet.now))


def sent(effects: list[Effect]) -> list[Message]:
    return [effect.message for effect in effects if isinstance(effect, Publish)]


def rejections(effects: list[Effect]) -> list[str]:
    return [effect.reason for effect in effects if isinstance(effect, Rejected)]


def surpluses(effects: list[Effect]) -> list[str]:
    return [effect.reason for effect in effects if isinstance(effect, Surplus)]


# -- faults of links ------------------------------------------------------------------------------


def drop(matching: Callable[[str, str, Message], bool]) -> Tap:
    """A tap that loses the messages for which *matching* (sender, receiver, message) is true."""
    return lambda sender, receiver, message: (
        None if matching(sender, receiver, message) else message
    )


def garbling(
    fleet: MemoryFleet,
    sender: str,
    receiver: str | None = None,
    spoils: Callable[[int], bool] = lambda _k: True,
) -> Tap:
    """A tap that replaces answers of *sender* by an encryption of nonsense.

    Those to *receiver*, or to all, in the rounds that it *spoils*.
    """

    def tap(who: str, to: str, message: Message) -> Message:
        is_theirs = who == sender and receiver in (None, to)
        if is_theirs and isinstance(message, Answer) and spoils(message.round):
            key = fleet.keys[to]
            c = encrypt(key.public, mpz(3) ** 300, key.obfuscator(mpz(7), mpz(9)))
            return msgspec.structs.replace(message, ciphertexts=[c.to_bytes(128, "big")])
        return message

    return tap
