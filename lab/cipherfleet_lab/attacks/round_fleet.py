"""A fleet of the node's own agents, without some of their rules, on links that an attacker rules.

Most attacks on rounds need no ciphertexts: the fleet exchanges the integers that a node would
decrypt. `encrypted` fleets use real Paillier with toy keys. Time is virtual.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from cipherfleet_lab.simulation.memory_fleet import Faults, MemoryFleet
from cipherfleet_lab.simulation.toy_keys import toy_key
from cipherfleet_node.core.agent import Agent
from cipherfleet_node.core.events import Event, MessageReceived, Setup
from cipherfleet_node.core.messages import Message
from cipherfleet_node.core.randomness import FloatVector, Seeds, seeds_of
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.core.state import RoundRecord, State
from cipherfleet_node.errors import HeadroomExceeded
from cipherfleet_node.settings.sections import Algorithm, Column, ObjectiveSection, Stepsize

from .guards import make_agent
from .names import Guard
from .subjects import AttackCase

DIMENSION = 4
DEADLINE_S = 1.0
SPAN = 4.0  # the readings are uniform on -SPAN .. SPAN
ENDLESS = 10**6  # rounds
Links = list[tuple[str, str]]


@dataclass
class RoundFleet(MemoryFleet):
    """A MemoryFleet without the guards *off*; `ended` are the nodes whose process has ended."""

    off: Collection[Guard] = ()
    dimension: int = DIMENSION

    def __post_init__(self) -> None:
        self.ended: set[str] = set()
        super().__post_init__()

    def make_agent(self, setup: Setup, state: State) -> Agent:
        """Return an agent without the guards that are off."""
        return make_agent(setup, state, self.off)

    def seeds(self, name: str) -> Seeds:
        """Return seeds that depend on the state, as a daemon's do: attacks look for equal ones."""
        return seeds_of(hashlib.sha256(f"secret {self.seed} {name}".encode()).digest())

    def begin(self) -> None:
        """Start the processes of all nodes, with their saved states."""
        for name in self.seats:
            self.start(name)

    def run_rounds(self, rounds: int, names: Collection[str], limit_s: float = 1e6) -> None:
        """Go on until each of *names* has closed so many rounds or has ended, or to *limit_s*."""

        def is_there(name: str) -> bool:
            seat = self.seats[name]
            assert not seat.stopped, f"{name} has given up: rounds must not be held for so long"
            return name in self.ended or len(seat.reported) >= rounds

        while not all(map(is_there, names)) and self.now < limit_s:
            self.advance(self.now + DEADLINE_S / 4)

    def send(
        self, receiver: str, message: Message, after_s: float, *, retained: bool = False
    ) -> None:
        """Deliver *message* to *receiver* as the broker, *after_s* seconds from now."""
        self._push(self.now + after_s, receiver, MessageReceived(message, retained))

    def durations(self, name: str, first: int) -> FloatVector:
        """Return the duration of each round of *name* from the round of index *first* on."""
        return np.diff(np.array(self.seats[name].closed_at[first:]))

    def estimate(self, name: str) -> FloatVector:
        """Return the latest saved estimate of *name*, shape (d,)."""
        saved = self.seats[name].saved
        assert saved is not None
        return np.array(saved.estimate)

    def record(self, name: str, number: int) -> RoundRecord:
        """Return the saved record of round *number*, which *name* has answered or asked in."""
        saved = self.seats[name].saved
        record = saved.record(number) if saved else None
        assert record is not None, "a round is saved before it is answered"
        return record

    def _deliver(self, name: str, event: Event) -> None:
        try:
            super()._deliver(name, event)
        except HeadroomExceeded:  # nothing catches it in a daemon either: the process ends
            self.ended.add(name)
            self.seats[name].agent = None


@dataclass(frozen=True)
class RoundScene:
    """The settings of the fleets of one attack."""

    links: Links
    dimension: int = DIMENSION
    stepsize: Stepsize = field(default_factory=Stepsize)
    faults: Faults = field(default_factory=Faults)
    encrypted: bool = False

    def without(self, node: str) -> RoundScene:
        """Return the same fleets without *node*."""
        return replace(self, links=[link for link in self.links if node not in link])

    @property
    def names(self) -> list[str]:
        """The names of the nodes, sorted."""
        return sorted({name for link in self.links for name in link})

    def fleet(self, case: AttackCase, trial: int) -> RoundFleet:
        """Return the fleet of *trial*; the same seed gives the same run."""
        seed, names = case.seed * 1000 + trial, self.names
        fields = [f"v{index}" for index in range(self.dimension)]
        return RoundFleet(
            self.links,
            {name: [_reading(f"{seed} {name}", fields)] for name in names},
            ObjectiveSection(kind="mean", values=[Column(field=name) for name in fields]),
            Algorithm(
                rounds=ENDLESS,
                method=case.subject.method,
                answer_timeout_s=DEADLINE_S,
                stepsize=self.stepsize,
            ),
            faults=self.faults,
            seed=seed,
            sealed=case.subject.kind == "sealed",
            keys={name: toy_key(name) for name in names} if self.encrypted else {},
            name="attacked",
            off=case.off,
            dimension=self.dimension,
        )


def _reading(label: str, fields: list[str]) -> Sample:
    drawn = random.Random(label)
    return Sample({name: drawn.uniform(-SPAN, SPAN) for name in fields})


def circulant(nodes: int, degree: int) -> Links:
    """Return a ring of *nodes* in which each has *degree* neighbours, the nearest ones."""
    reach = range(1, degree // 2 + 1)
    pairs = {tuple(sorted((i, (i + step) % nodes))) for i in range(nodes) for step in reach}
    if degree % 2:
        pairs |= {(i, i + nodes // 2) for i in range(nodes // 2)}
    return [(f"n{a}", f"n{b}") for a, b in sorted(pairs)]


def complete(nodes: int) -> Links:
    """Return all pairs of *nodes*."""
    return [(f"n{a}", f"n{b}") for a, b in combinations(range(nodes), 2)]
