"""How an agent of the model is set up, and what survives when its process dies.

This is the only module of the model that knows the fields of `Setup` and `State`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np

from cipherfleet_node.core.agent import Agent
from cipherfleet_node.core.events import Setup
from cipherfleet_node.core.messages import Answer, Message, Presence, PresenceState, Query
from cipherfleet_node.core.randomness import FloatVector, seeds_of
from cipherfleet_node.core.sealed import Seal
from cipherfleet_node.core.state import (
    AnsweredQuery,
    State,
    after_damage,
    after_loss,
    first_state,
    note_answered,
)
from cipherfleet_node.settings.sections import Algorithm

from .copies import fingerprint
from .symbolic_exchange import STEP, SymbolicExchange

FLEET = "model"
PARAMETERS = b"the same"
RESOLUTION = 2.0**-24
DEADLINE_S = 1.0
ALGORITHM = Algorithm(answer_timeout_s=DEADLINE_S, start_timeout_s=2.0, period_s=0.25)

Graph = Mapping[str, Sequence[str]]
# The state that a restart finds: the latest; the one before, since the latest is damaged; an old
# copy that the node recognises as one; none; or an old copy that it does not recognise.
Memory = Literal["saved", "damaged", "copy", "lost", "unnoticed"]
MEMORIES: tuple[Memory, ...] = ("saved", "damaged", "copy", "lost")


class Still:
    """An objective without a gradient: only coupling terms move an estimate."""

    dimension = 1
    fields: frozenset[str] = frozenset()
    ready = True

    def __init__(self, place: int) -> None:
        # In the middle of a step: neither the noise of the start nor the rounding leaves it.
        self._start = (1000 * place * STEP + STEP // 2) * RESOLUTION

    def absorb(self, samples: object) -> None:
        del samples

    def start(self) -> FloatVector:
        return np.array([self._start])

    def gradient(self, x: FloatVector, randomness: object) -> FloatVector:
        del randomness
        return np.zeros_like(x)


class NoTrace:
    """A Trace that measures nothing."""

    def span(self, phase: str, round_number: int) -> AbstractContextManager[None]:
        del phase, round_number
        return nullcontext()


@dataclass(frozen=True)
class Saved:
    """A generation of the state, and the edge-rounds that it has counted: neighbour and round."""

    state: bytes
    counted: frozenset[tuple[str, int]]

    def noting(self, entry: AnsweredQuery) -> Saved:
        """Return this generation with *entry*."""
        state = note_answered(decode(self), entry)
        return Saved(msgspec.msgpack.encode(state), self.counted)


@dataclass
class ModelNode:
    """One node: its process, if it runs, and what survives it."""

    name: str
    neighbours: Sequence[str]
    exchange: SymbolicExchange
    agent: Agent | None = None
    saved: Saved | None = None
    previous: Saved | None = None
    epoch: int = 0
    is_connected: bool = False
    down_until: float | None = None  # when its process starts again, or its connection returns
    effects_left: int | None = None  # of the next event, until the process dies
    memory: Memory = "saved"  # what the next start finds
    durable: State | None = None  # what its process saved last
    counted: frozenset[tuple[str, int]] = frozenset()
    stopped_at: float = 0.0
    coupled_at: float = -1.0  # when it opened a sum last
    print: Any = field(default=None, compare=False)  # its fingerprint, until it changes

    @property
    def round_number(self) -> int:
        """The open round, or the next one; of the saved state if the process does not run."""
        if self.agent is not None:
            return self.agent.round_number
        return decode(self.saved).round if self.saved else 0

    def note(self, entry: AnsweredQuery) -> None:
        """Keep *entry* in both generations. An old copy does not have it."""
        if self.durable is not None:
            self.durable = note_answered(self.durable, entry)
        if self.saved is not None:
            self.saved = self.saved.noting(entry)
        if self.previous is not None:
            self.previous = self.previous.noting(entry)

    def has_saved(self, message: Message) -> bool:
        """True if the saved state would repeat *message*, or refuse another one in its place."""
        records = self.durable.records if self.durable else []
        match message:
            case Query():
                sent = message.ciphertexts, message.roster
                return any((r.query, r.roster) == sent for r in records)
            case Answer():
                answered = (r.answered for r in records if r.number == message.round)
                return any(message.query == a.get(message.receiver) for a in answered)
        return True

    def note_counted(self, state: State) -> None:
        """Note which edge-rounds *state* has counted; of older rounds what was noted stays."""
        kept = {record.number for record in state.records}
        counted = {
            (n, r.number) for r in state.records if r.outcome == "coupled" for n in r.counted
        }
        self.counted = frozenset({(n, k) for n, k in self.counted if k not in kept} | counted)

    def fingerprint(self) -> Any:
        """Return a hashable value that is equal for equal nodes."""
        if self.print is None:
            rest = (self.saved, self.previous, self.epoch, self.is_connected, self.down_until)
            faults = (self.effects_left, self.memory, self.counted)
            self.print = hash((rest, faults, fingerprint(self.agent) if self.agent else None))
        return self.print


def decode(saved: Saved) -> State:
    """Return the state of a generation."""
    return msgspec.msgpack.decode(saved.state, type=State)


def new_nodes(graph: Graph, *, sealed: bool) -> dict[str, ModelNode]:
    """Return the nodes of *graph*; none of them runs yet."""
    return {
        name: ModelNode(name, graph[name], SymbolicExchange(name, _seal(name, graph, sealed)))
        for name in sorted(graph)
    }


def _seal(name: str, graph: Graph, sealed: bool) -> Seal | None:
    rosters = {other: frozenset(graph[other]) for other in graph[name]}
    return Seal(FLEET, name, rosters, {}) if sealed else None


def start_agent(node: ModelNode, order: Sequence[str], now: float) -> None:
    """Start a process of *node* with what its memory has kept."""
    node.epoch += 1
    state = _remember(node)
    node.saved = Saved(msgspec.msgpack.encode(state), node.counted)
    node.memory, node.down_until, node.effects_left = "saved", None, None
    node.durable = state
    node.agent = Agent(_setup(node, order, now), state)


def _remember(node: ModelNode) -> State:
    """Return the state of the next start, and set what it has counted."""
    generation = node.saved if node.memory == "saved" else node.previous
    draw = 1000 * node.epoch  # stands for a random number
    if node.memory == "lost" or generation is None:
        node.previous, node.counted = None, frozenset()
        first = first_state(FLEET, node.name, PARAMETERS, node.epoch, draw)
        return first if node.epoch == 1 else after_loss(first, draw)
    node.counted = generation.counted
    state = decode(generation)
    if node.memory == "damaged":
        state = after_damage(state)
    elif node.memory == "copy":
        state = after_loss(state, draw)
    return msgspec.structs.replace(state, epoch=node.epoch)


def _setup(node: ModelNode, order: Sequence[str], now: float) -> Setup:
    return Setup(
        fleet=FLEET,
        node=node.name,
        key_tag=tag(node.name),
        neighbours={other: tag(other) for other in node.neighbours},
        exchange=node.exchange,
        algorithm=ALGORITHM,
        resolution=RESOLUTION,
        objective=Still(1 + order.index(node.name)),
        parameters=PARAMETERS,
        seeds=seeds_of(node.name.encode()),
        trace=NoTrace(),
        identities={other: tag(other) for other in node.neighbours},
        away_s=now - node.stopped_at,
    )


def tag(name: str) -> bytes:
    """Return the key tag of a node."""
    return hashlib.sha256(name.encode()).digest()[:8]


def will_of(presence: Presence) -> Presence:
    """Return the last will of the connection on which *presence* was published."""
    state: PresenceState = "lost"
    return msgspec.structs.replace(presence, state=state)
