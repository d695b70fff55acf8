"""A fleet of real agents with symbolic ciphertexts, in which a search decides every event.

**Time.** Messages take no time unless a fault delays them. Time passes only when no message is
under way: then the earliest timer fires. The period of the rounds is a quarter of a deadline.

**Order.** Messages are delivered in the order in which they were published. Every other order is a
fault of kind `reorder`. So a schedule is a list of faults, each with the step at which it happens.

**Faults.** `late` withholds a message until it is released or the faults end. `drop` loses a
message, `duplicate` delivers it now and once more later, and `reorder` delivers another one first.
`will` shows one neighbour the last will of a node that is there. `crash` ends a process, possibly
in the middle of an event, and says which memory the next start finds. `cut` ends a connection.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from cipherfleet_node.core.events import (
    Connected,
    Disconnected,
    Effect,
    Event,
    MessageReceived,
    Note,
    Publish,
    ReadingTaken,
    Rejected,
    Save,
    Started,
    TakeReading,
    TimerFired,
)
from cipherfleet_node.core.messages import Answer, Message, Presence, Query

from .copies import clone
from .knowledge import Knowledge
from .model_nodes import (
    DEADLINE_S,
    Graph,
    Memory,
    ModelNode,
    Saved,
    new_nodes,
    start_agent,
    will_of,
)
from .symbolic_exchange import term_of

SPIN = 200  # timers that fire without any time passing
DOWN_S = (0.0, 2.5 * DEADLINE_S)  # how long a crash or a cut may last


class Flight(NamedTuple):
    """A message under way."""

    sender: str
    receiver: str
    message: Message
    is_retained: bool = False


class Violation(NamedTuple):
    """A broken invariant; `invariants.KINDS` explains the kinds."""

    kind: str
    node: str
    detail: str = ""


class Action(NamedTuple):
    """One step of a schedule: `step` does what comes next, anything else is a fault."""

    kind: str
    node: str = ""
    other: str = ""  # a neighbour, or the sender of another message
    place: int = 0  # of a withheld message, or of effects until the process dies
    memory: Memory = "saved"
    down_s: float = 0.0
    message: str = ""  # kind of the message that is withheld, dropped or repeated; for the reader


STEP = Action("step")


@dataclass
class World:
    """All nodes and messages. `fork` returns a copy that can go on by itself."""

    nodes: dict[str, ModelNode]
    flights: list[Flight] = field(default_factory=list)
    withheld: list[Flight] = field(default_factory=list)
    presence: dict[str, Presence] = field(default_factory=dict)  # retained by the broker
    wills: frozenset[tuple[str, str]] = frozenset()  # spoken although the node was there
    now: float = 0.0
    spins: int = 0
    knowledge: dict[str, Knowledge] = field(default_factory=dict)  # by asker
    queries: dict[tuple[str, int], frozenset[tuple[bytes, str]]] = field(default_factory=dict)
    answered: dict[tuple[str, str, int], frozenset[bytes]] = field(default_factory=dict)
    rounds: dict[bytes, int] = field(default_factory=dict)  # by digest of the query
    rejected: frozenset[tuple[str, str]] = frozenset()  # node and reason
    violations: frozenset[Violation] = frozenset()
    steps: int = 0
    owned: set[str] = field(default_factory=set)  # nodes that no other world shares

    def fork(self) -> World:
        """Return a copy. This world must not be changed any more."""
        other = copy.copy(self)
        for name in ("nodes", "presence", "knowledge", "queries", "answered", "rounds"):
            setattr(other, name, dict(getattr(self, name)))
        other.flights, other.withheld = list(self.flights), list(self.withheld)
        other.owned = set()
        return other

    def fingerprint(self) -> int:
        """Return a hash of all that the future depends on, and of what the askers know."""
        known = tuple((name, k.print) for name, k in sorted(self.knowledge.items()))
        history = (frozenset(self.queries.items()), frozenset(self.answered.items()))
        nodes = tuple(node.fingerprint() for node in self.nodes.values())
        messages = tuple(tuple(_print(f) for f in fs) for fs in (self.flights, self.withheld))
        return hash((nodes, messages, self.now, known, history, self.wills))

    # -- steps ----------------------------------------------------------------------------------

    def apply(self, action: Action) -> None:
        """Carry out one action of a schedule."""
        self.steps += 1
        getattr(self, f"_{action.kind}")(action)

    def _step(self, _: Action) -> None:
        if self.flights:
            self._deliver(self.flights.pop(0))
        else:
            self._tick()

    def _reorder(self, action: Action) -> None:
        link = (action.other, action.node)
        index = next(i for i, f in enumerate(self.flights) if (f.sender, f.receiver) == link)
        self._deliver(self.flights.pop(index))

    def _late(self, _: Action) -> None:
        self.withheld.append(self.flights.pop(0))

    def _drop(self, _: Action) -> None:
        self.flights.pop(0)

    def _duplicate(self, _: Action) -> None:
        self.withheld.append(self.flights[0])
        self._deliver(self.flights.pop(0))

    def _release(self, action: Action) -> None:
        self._deliver(self.withheld.pop(action.place))

    def _will(self, action: Action) -> None:
        will = will_of(self.presence[action.node])
        self.wills |= {(action.node, action.other)}
        self._deliver(Flight(action.node, action.other, will))

    def _unwill(self, action: Action) -> None:
        self.wills -= {(action.node, action.other)}
        message = self.presence[action.node]
        self._deliver(Flight(action.node, action.other, message))

    def _crash(self, action: Action) -> None:
        node = self.own(action.node)
        node.memory, node.down_until = action.memory, self.now + action.down_s
        node.effects_left = action.place
        if not action.place:
            self._die(node)

    def _cut(self, action: Action) -> None:
        self._handle(action.node, Disconnected())
        node = self.own(action.node)
        node.is_connected, node.down_until = False, self.now + action.down_s

    def _tick(self) -> None:
        at, name = min(self._timers(), default=(self.now + DEADLINE_S, ""))
        self.spins = 0 if at > self.now else self.spins + 1
        self.now = max(self.now, at)
        if not name:
            self._violate("deadlock", "")
            return
        node = self.nodes[name]
        is_cut = node.down_until is not None and node.effects_left is None
        if node.agent is None:
            self.start(name)
        elif is_cut and (node.down_until or 0.0) <= self.now:
            self._connect(name)
        else:
            self._handle(name, TimerFired())
        if self.spins > SPIN:
            self._violate("spin", name)

    def _timers(self) -> Iterator[tuple[float, str]]:
        for name, node in self.nodes.items():
            is_dying = node.effects_left is not None
            timer = node.agent.timer() if node.agent else None
            if timer is not None:
                yield timer, name
            if node.down_until is not None and not (is_dying and node.agent):
                yield node.down_until, name

    # -- nodes ----------------------------------------------------------------------------------

    def own(self, name: str) -> ModelNode:
        """Return the node, copied before if another world shares it."""
        if name not in self.owned:
            node = copy.copy(self.nodes[name])
            node.agent = clone(node.agent)
            self.nodes[name] = node
            self.owned.add(name)
        self.nodes[name].print = None
        return self.nodes[name]

    def start(self, name: str) -> None:
        """Start a process of the node and connect it."""
        start_agent(self.own(name), list(self.nodes), self.now)
        self._handle(name, Started())
        self._connect(name)

    def _connect(self, name: str) -> None:
        node = self.own(name)
        if node.agent is None:
            return
        node.is_connected, node.down_until = True, None
        self._handle(name, Connected())
        for other in node.neighbours:
            if other in self.presence:
                self.flights.append(Flight(other, name, self.presence[other], True))

    def _die(self, node: ModelNode) -> None:
        node.agent, node.is_connected, node.effects_left = None, False, None
        node.stopped_at = self.now
        if node.name in self.presence:
            self._publish(node, will_of(self.presence[node.name]))

    def _deliver(self, flight: Flight) -> None:
        if self.nodes[flight.receiver].is_connected:
            self._handle(flight.receiver, MessageReceived(flight.message, flight.is_retained))

    def _handle(self, name: str, event: Event) -> None:
        node = self.own(name)
        events = deque([event])
        try:
            while events and node.agent is not None:
                self._run(node, events)
        except Exception as error:  # an agent must not fail on any schedule
            self._violate("exception", name, f"{type(error).__name__}: {error}")
            node.down_until = self.now + DEADLINE_S
            self._die(node)

    def _run(self, node: ModelNode, events: deque[Event]) -> None:
        assert node.agent is not None
        for effect in node.agent.handle(events.popleft(), self.now):
            self._note_opened(node)
            if node.effects_left == 0:
                self._die(node)
                return
            if node.effects_left is not None:
                node.effects_left -= 1
            if isinstance(effect, TakeReading):
                events.append(ReadingTaken(()))
            else:
                self._carry_out(node, effect)
        self._note_opened(node)

    def _note_opened(self, node: ModelNode) -> None:
        """Note what the agent has opened since the last effect."""
        if node.exchange.has_opened_part:
            node.exchange.has_opened_part = False
            self._violate("opened_in_part", node.name)
        if node.exchange.opened:
            node.coupled_at = self.now
            node.exchange.opened.clear()

    def _carry_out(self, node: ModelNode, effect: Effect) -> None:
        match effect:
            case Save(state):
                node.previous = node.saved
                node.note_counted(state)
                node.saved = Saved(msgspec.msgpack.encode(state), node.counted)
                node.durable = state
            case Note(entry):
                node.note(entry)
            case Publish(message):
                if not node.has_saved(message):
                    self._violate("unsaved", node.name, message.KIND)
                self._note(message)
                if node.is_connected:
                    self._publish(node, message)
            case Rejected(_, reason):
                self.rejected |= {(node.name, reason)}
                if reason == "out_of_range":
                    self._violate("spoiled", node.name)

    def _publish(self, node: ModelNode, message: Message) -> None:
        receiver = getattr(message, "receiver", None)
        if isinstance(message, Presence):
            self.presence[node.name] = message
        for other in [receiver] if receiver else node.neighbours:
            self.flights.append(Flight(node.name, other, message))

    # -- history --------------------------------------------------------------------------------

    def _note(self, message: Message) -> None:
        match message:
            case Query():
                self._note_query(message)
            case Answer():
                self._note_answer(message)

    def _note_query(self, query: Query) -> None:
        key = query.sender, query.round
        sent = (b"".join(query.ciphertexts), " ".join(query.roster))
        before = self.queries.get(key, frozenset())
        self.rounds[query.digest] = query.round
        if sent in before:
            return
        self.queries[key] = before | {sent}
        if any(ciphertexts != sent[0] for ciphertexts, _ in before):
            self._violate("two_queries", query.sender, f"round {query.round}")
        elif before:
            self._violate("two_rosters", query.sender, f"round {query.round}")

    def _note_answer(self, answer: Answer) -> None:
        key = answer.sender, answer.receiver, answer.round
        before = self.answered.get(key, frozenset())
        self.answered[key] = before | {answer.query}
        if before - {answer.query}:
            detail = f"to {answer.receiver}, round {answer.round}"
            self._violate("two_answers", answer.sender, detail)
        self._learn(answer)

    def _learn(self, answer: Answer) -> None:
        before = self.knowledge.get(answer.receiver, Knowledge())
        self.knowledge[answer.receiver], findings = before.with_answer(term_of(answer))
        for kind, name in findings:
            self._violate(kind, answer.receiver, f"of {name}")

    def _violate(self, kind: str, node: str, detail: str = "") -> None:
        self.violations |= {Violation(kind, node, detail)}


def new_world(graph: Graph, *, sealed: bool) -> World:
    """Return a fleet on *graph* whose nodes have all just been started."""
    world = World(new_nodes(graph, sealed=sealed))
    world.owned = set(graph)
    for name in sorted(graph):
        world.start(name)
    return world


def _print(flight: Flight) -> Any:
    return flight.sender, flight.receiver, msgspec.msgpack.encode(flight.message)
