"""A fleet of the real agents in one process, over in-memory links with faults, on virtual time.

The run is a function of the seed. Nothing here is secret: the seed gives all keys. Encryption does
not change the estimates. The file is long, since clock, links and disks of all nodes share one
queue of events.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from cipherfleet_node.conformance.scenario_node import NoTrace
from cipherfleet_node.core import exchange
from cipherfleet_node.core.agent import Agent
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
    Restart,
    RoundClosed,
    Save,
    Setup,
    Started,
    Stop,
    Surplus,
    TakeReading,
    TimerFired,
)
from cipherfleet_node.core.messages import Message, Presence, Query, Reply
from cipherfleet_node.core.paillier import PrivateKey
from cipherfleet_node.core.perturbation import Perturbation
from cipherfleet_node.core.randomness import FloatVector, Seeds, numbered, simulated_seed
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.core.sealed import Seal, Sealed
from cipherfleet_node.core.shield import Shield
from cipherfleet_node.core.state import State, after_damage, after_loss, first_state, note_answered
from cipherfleet_node.core.statistics import make_node_objective
from cipherfleet_node.settings.sections import Algorithm, ObjectiveSection, Role, exact_scale_of

from .plaintext_exchange import PlaintextExchange
from .toy_keys import SeededBlinding, shared_secret

START_OF_TAG = 8  # number of bytes of a key's fingerprint
PARAMETERS = b"the same"  # a digest that is equal in all nodes


@dataclass
class Faults:
    """Faults of the links; probabilities per delivery."""

    drop: float = 0.0
    duplicate: float = 0.0
    delay_s: tuple[float, float] = (0.001, 0.01)


@dataclass
class Seat:
    """The state of a node that survives when its agent dies, and its records."""

    samples: Sequence[Sample]  # first reading after a start
    later: Iterator[Sequence[Sample]] = field(default_factory=lambda: iter(()))  # later readings
    saved: State | None = None
    previous: State | None = None  # the previous generation
    agent: Agent | None = None
    blinding: SeededBlinding | None = None
    unread: Sequence[Sample] = ()
    reported: list[RoundClosed] = field(default_factory=list)
    closed_at: list[float] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    surplus: Counter[str] = field(default_factory=Counter)
    stopped: bool = False
    switched: bool = False
    connected: bool = True
    epoch: int = 0
    has_lost_state: bool = False
    stopped_at: float = 0.0
    next_timer: float | None = None  # for which a TimerFired is on its way
    effects_left: int | None = None  # effects of the next event until the process dies


@dataclass
class MemoryFleet:
    """A fleet of agents on a graph; `run` ends when all agents have stopped.

    *samples* are each node's first reading, *later* its readings before the next rounds. Without
    *keys* nothing is encrypted; the estimates are equal.
    """

    edges: Iterable[tuple[str, str]]
    samples: Mapping[str, Sequence[Sample]]
    objective: ObjectiveSection
    algorithm: Algorithm
    faults: Faults = field(default_factory=Faults)
    seed: int = 0
    resolution: float = 2.0**-32
    tap: Callable[[str, str, Message], Message | None] | None = None  # sender, receiver, message
    sealed: bool = False
    leaves_open: bool = False
    first_rounds: Mapping[str, int] = field(
        default_factory=dict
    )  # first round of nodes that join later
    later: Mapping[str, Sequence[Sequence[Sample]]] = field(default_factory=dict)
    keys: Mapping[str, PrivateKey] = field(default_factory=dict)
    name: str = "memory"
    followers: Collection[str] = ()
    # Rounds between generations, of the roll call and of the averaging; None: no shield.
    generations: tuple[int, int, int] | None = None
    own_accuracy: float | None = None  # at which a node has settled without `until`
    perturbations: Mapping[str, Perturbation] = field(default_factory=dict)  # noise on the result

    def __post_init__(self) -> None:
        self.neighbours: dict[str, list[str]] = defaultdict(list)
        for a, b in self.edges:
            self.neighbours[a].append(b)
            self.neighbours[b].append(a)
        names = sorted(self.neighbours)
        self.seats = {
            name: Seat(self.samples[name], iter(self.later.get(name, ()))) for name in names
        }
        self.now = 0.0
        self.presence: dict[str, Presence] = {}
        self.queries: dict[tuple[str, int], set[bytes]] = defaultdict(set)
        self.rosters: dict[tuple[str, int], set[str]] = defaultdict(set)
        self._heap: list[tuple[float, int, str, int, Event]] = []
        self._order = itertools.count()
        self._rng = random.Random(f"links {self.seed}")

    # -- running --------------------------------------------------------------------------------

    def run(self, until_s: float = 10_000.0, events: int = 2_000_000) -> None:
        """Start all agents and run until they have stopped.

        AssertionError if a limit is reached.
        """
        for name in self.seats:
            self.start(name)
        self.advance(until_s, events)
        waiting = [name for name, seat in self.seats.items() if not seat.stopped]
        assert not waiting, f"still running at {self.now:.1f} s: {waiting}"

    def advance(self, until_s: float, events: int = 2_000_000) -> None:
        """Process all events up to virtual time *until_s*."""
        if self._has_ended():
            return
        for _ in range(events):
            if not self._heap or self._heap[0][0] > until_s:
                self.now = max(self.now, until_s)
                return
            self.now, _, name, epoch, event = heapq.heappop(self._heap)
            seat = self.seats[name]
            if seat.agent is not None and epoch == seat.epoch:
                self._deliver(name, event)
                if seat.stopped and self._has_ended():
                    return
        raise AssertionError("the fleet did not finish within the limit of events")

    def _has_ended(self) -> bool:
        return all(seat.stopped for seat in self.seats.values())

    def start(self, name: str) -> None:
        """Start a new process for *name*, with its saved state."""
        seat = self.seats[name]
        seat.epoch += 1
        seat.effects_left = seat.next_timer = None
        seat.unread = seat.samples
        first = self.first_rounds.get(name, 0)
        draw = 1000 * (seat.epoch - 1)
        new = msgspec.structs.replace(first_state(self.name, name, b"", 0, draw), round=first)
        if seat.has_lost_state:
            new = after_loss(new, draw)
        saved = seat.saved or new
        seat.saved = msgspec.structs.replace(saved, epoch=seat.epoch)
        role: Role = "follower" if name in self.followers else "member"
        objective = make_node_objective(
            self.algorithm, self.objective, role, self.perturbations.get(name)
        )
        seat.agent = self.make_agent(
            Setup(
                fleet=self.name,
                node=name,
                key_tag=self._tag(name),
                neighbours={other: self._tag(other) for other in self.neighbours[name]},
                exchange=self._exchange(name, objective.dimension),
                algorithm=self.algorithm,
                resolution=self.resolution,
                objective=objective,
                parameters=PARAMETERS,
                seeds=self.seeds(name),
                trace=NoTrace(),
                identities={other: other.encode() for other in self.neighbours[name]},
                first_round=first,
                exact_scale=exact_scale_of(self.algorithm, self.objective),
                own_accuracy=self.own_accuracy,
                diameter=len(self.seats) - 1,
                away_s=self.now - seat.stopped_at,
                shield=self._shield(name),
            ),
            seat.saved,
        )
        self._deliver(name, Started())
        self.connect(name)

    def _shield(self, name: str) -> Shield | None:
        """Return the shield of *name*; all nodes are partners of each other."""
        if self.generations is None:
            return None
        names = sorted(self.neighbours)
        partners = {
            index: shared_secret(f"{self.name} shield", name, other)
            for index, other in enumerate(names)
            if other != name
        }
        members = hashlib.sha256(" ".join(names).encode()).digest()
        own, mean = names.index(name), float(len(partners))
        size, is_quadratic = self.algorithm.shares, self.algorithm.shield == "quadratic"
        return Shield(own, *self.generations, members, mean, partners, size, is_quadratic)

    def make_agent(self, setup: Setup, state: State) -> Agent:
        """Return the agent of a process that starts; attacks replace parts of it."""
        return Agent(setup, state)

    def _tag(self, name: str) -> bytes:
        key = self.keys.get(name)
        fingerprint = key.public.fingerprint if key else hashlib.sha256(name.encode()).digest()
        return fingerprint[:START_OF_TAG]

    def _exchange(self, name: str, dimension: int) -> exchange.Exchange:
        factors = {
            other: exchange.metropolis(len(self.neighbours[name]), len(self.neighbours[other]))
            for other in self.neighbours[name]
        }
        seal = self._seal(name) if self.sealed else None
        if not self.keys:
            return PlaintextExchange(factors, seal)
        key, seat = self.keys[name], self.seats[name]
        edges = {other: exchange.Edge(self.keys[other].public, m) for other, m in factors.items()}
        seat.blinding = SeededBlinding(key, edges, f"blinding {self.seed} {name} {seat.epoch}")
        if seal is None:
            return exchange.Pairwise(key, edges, dimension, seat.blinding)
        return Sealed(key, edges, dimension, seat.blinding, seal)

    def _seal(self, name: str) -> Seal:
        rosters = {other: frozenset(self.neighbours[other]) for other in self.neighbours[name]}
        near = frozenset().union(*rosters.values()) - {name}
        secrets = {other: shared_secret(self.name, name, other) for other in near}
        return Seal(self.name, name, rosters, secrets, self.leaves_open)

    def kill(self, name: str, *, last_will: bool = True) -> None:
        """Kill the process; with *last_will* the broker publishes its will."""
        seat = self.seats[name]
        seat.agent, seat.stopped_at = None, self.now
        if last_will:
            self._publish(name, Presence(self.name, name, seat.epoch, "lost"))

    def kill_within(self, name: str, effects: int) -> None:
        """Kill the process after *effects* more effects, possibly between a save and a send."""
        self.seats[name].effects_left = effects

    def lose_state(self, name: str) -> None:
        """Replace the dead node's disk; only the clock keeps its epochs increasing."""
        assert self.seats[name].agent is None
        self.seats[name].saved = self.seats[name].previous = None
        self.seats[name].has_lost_state = True

    def damage_state(self, name: str) -> None:
        """Damage the dead node's latest generation, as if its checksum failed."""
        seat = self.seats[name]
        assert seat.agent is None
        seat.saved = after_damage(seat.previous) if seat.previous is not None else None

    def cut(self, name: str) -> None:
        """Disconnect the node from its broker; it notices, its neighbours do not."""
        self._deliver(name, Disconnected())
        self.seats[name].connected = False

    def connect(self, name: str) -> None:
        """Connect the node to its broker, which delivers its retained messages."""
        self.seats[name].connected = True
        self._deliver(name, Connected())
        for other in self.neighbours[name]:
            if other in self.presence:
                self._post(other, name, self.presence[other], retained=True)

    def round_seed(self, name: str, k: int) -> bytes:
        """Return the seed that the daemons of a fleet of this name and seed use."""
        return simulated_seed(self.seed, self.name, name, k)

    def seeds(self, name: str) -> Seeds:
        """Return the seeds of the draws of *name*."""
        return lambda draw: numbered(self.round_seed(name, draw.since), draw.number)

    # -- results --------------------------------------------------------------------------------

    def estimates(self) -> FloatVector:
        """Return the estimates, shape (n, d), nodes in the order of their names."""
        return np.array([seat.saved.estimate for seat in self.seats.values() if seat.saved])

    def silent(self) -> int:
        """Return the number of answers without which rounds were closed."""
        return sum(len(r.silent) for seat in self.seats.values() for r in seat.reported)

    def rejected(self) -> Counter[str]:
        """Return the number of rejected messages, by reason."""
        return sum((seat.rejected for seat in self.seats.values()), Counter())

    # -- links ----------------------------------------------------------------------------------

    def _deliver(self, name: str, event: Event) -> None:
        seat = self.seats[name]
        agent = seat.agent
        if agent is None or seat.stopped:
            return
        if isinstance(event, TimerFired):
            seat.next_timer, timer = None, agent.timer()
            if timer is None:
                return
            if timer > self.now:  # it has been moved since
                self._wake(name, timer)
                return
        if isinstance(event, MessageReceived) and not seat.connected:
            return
        for effect in agent.handle(event, self.now):
            if seat.effects_left is not None:
                if seat.effects_left == 0:
                    self.kill(name)
                    return
                seat.effects_left -= 1
            self._carry_out(name, effect)
        timer = agent.timer()
        if timer is not None and not seat.stopped:
            self._wake(name, timer)

    def _wake(self, name: str, timer: float) -> None:
        """Let the timer of *name* fire, unless it will already be looked at by then."""
        seat, at = self.seats[name], max(timer, self.now)
        if seat.next_timer is None or at < seat.next_timer:
            seat.next_timer = at
            self._push(at, name, TimerFired())

    def _carry_out(self, name: str, effect: Effect) -> None:
        seat = self.seats[name]
        match effect:
            case Save(state):
                # Encode to bytes, as on a disk: only saved data survives.
                seat.previous = seat.saved
                seat.saved = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=State)
            case Note(entry):
                assert seat.saved is not None
                seat.saved = note_answered(seat.saved, entry)
                seat.previous = seat.previous and note_answered(seat.previous, entry)
            case Publish(message):
                self._publish(name, message)
            case TakeReading():
                fresh, seat.unread = seat.unread, next(seat.later, ())
                self._push(self.now, name, ReadingTaken(fresh))
            case RoundClosed():
                seat.reported.append(effect)
                seat.closed_at.append(self.now)
            case Rejected(_, reason):
                seat.rejected[reason] += 1
            case Surplus(_, reason):
                seat.surplus[reason] += 1
            case Stop() | Restart():
                seat.stopped, seat.switched = True, isinstance(effect, Restart)

    def _publish(self, sender: str, message: Message) -> None:
        if not self.seats[sender].connected:
            return
        match message:
            case Reply(receiver=receiver):
                self._post(sender, receiver, message)
            case Query():
                self.queries[sender, message.round].add(b"".join(message.ciphertexts))
                self.rosters[sender, message.round].add(" ".join(message.roster))
                for receiver in self.neighbours[sender]:
                    self._post(sender, receiver, message)
            case Presence():
                self.presence[sender] = message
                for receiver in self.neighbours[sender]:
                    self._post(sender, receiver, message)

    def _post(
        self, sender: str, receiver: str, message: Message, *, retained: bool = False
    ) -> None:
        if self.tap is not None:
            tapped = self.tap(sender, receiver, message)
            if tapped is None:
                return
            message = tapped
        faulty = not isinstance(
            message, Presence
        )  # the broker retains and repeats presence messages
        if faulty and self._rng.random() < self.faults.drop:
            return
        copies = 2 if faulty and self._rng.random() < self.faults.duplicate else 1
        for _ in range(copies):
            delay = self._rng.uniform(*self.faults.delay_s)
            if isinstance(message, Presence) and message.state == "lost":
                delay = self.faults.delay_s[
                    1
                ]  # a broker publishes the will after all other messages
            self._push(self.now + delay, receiver, MessageReceived(message, retained))

    def _push(self, at: float, name: str, event: Event) -> None:
        epoch = self.seats[name].epoch
        heapq.heappush(self._heap, (at, next(self._order), name, epoch, event))
