"""A fleet of the nodes of scenarios on virtual time, which records what goes in and what comes out.

Every message takes DELAY_S, unless *path* decides otherwise. All keys follow from the names.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cipherfleet_lab.simulation.toy_keys import toy_key
from cipherfleet_node.conformance.scenario import (
    Connect,
    Delivery,
    Disconnect,
    Kill,
    NeighbourSetup,
    NodeSetup,
    Outcome,
    Published,
    ReadingWanted,
    ScenarioEvent,
    SensorReading,
    Start,
    Step,
    Stopped,
    Timer,
)
from cipherfleet_node.conformance.scenario_node import ScenarioNode
from cipherfleet_node.core import topics, wire
from cipherfleet_node.core.messages import Presence
from cipherfleet_node.keys.key_files import shared_secret
from cipherfleet_node.settings.sections import (
    Algorithm,
    Column,
    ExchangeName,
    ObjectiveSection,
    Stepsize,
)

FLEET = "toy"
DELAY_S = 2.0**-6
ROOT = 65_537
OBJECTIVE = ObjectiveSection(kind="mean", values=[Column(field="u"), Column(field="v")])
STEPSIZE = Stepsize(initial=0.25, decay=0.125, exponent=1.0)

# The receiver, topic and bytes of a message; returns how long each copy of it takes.
Path = Callable[[str, str, bytes], Sequence[float]]
# The same; returns the bytes that are delivered instead.
Alter = Callable[[str, str, bytes], bytes]


def secret_of(label: str) -> bytes:
    """Return 32 bytes for *label*, always the same."""
    return hashlib.sha256(f"cipherfleet vectors {label}".encode()).digest()


def identity_of(name: str) -> Ed25519PrivateKey:
    """Return the signing key of *name*."""
    return Ed25519PrivateKey.from_private_bytes(secret_of(f"identity {name}"))


def seal_of(name: str) -> X25519PrivateKey:
    """Return the sealing key of *name*."""
    return X25519PrivateKey.from_private_bytes(secret_of(f"seal {name}"))


def setups_of(
    edges: Iterable[tuple[str, str]], exchange: ExchangeName, algorithm: Algorithm
) -> dict[str, NodeSetup]:
    """Return the setup of every node on the graph of *edges*."""
    around: dict[str, set[str]] = defaultdict(set)
    for a, b in edges:
        around[a].add(b)
        around[b].add(a)
    return {name: _setup_of(name, around, exchange, algorithm) for name in sorted(around)}


def _setup_of(
    name: str, around: Mapping[str, set[str]], exchange: ExchangeName, algorithm: Algorithm
) -> NodeSetup:
    key = toy_key(f"vectors {name}")
    near = sorted(set().union(*(around[other] for other in around[name])) - {name})
    secrets = {
        other: shared_secret(seal_of(name), seal_of(other).public_key(), FLEET) for other in near
    }
    return NodeSetup(
        fleet=FLEET,
        node=name,
        exchange=exchange,
        p=str(key.p),
        q=str(key.q),
        identity=secret_of(f"identity {name}").hex(),
        neighbours=[_neighbour_of(other, around) for other in sorted(around[name])],
        secrets={o: s.hex() for o, s in secrets.items()} if exchange == "sealed" else {},
        algorithm=algorithm,
        objective=OBJECTIVE,
        epoch=1,
        draw=0,
        draw_secret=secret_of(f"draws {name}").hex(),
        root=str(ROOT),
    )


def _neighbour_of(name: str, around: Mapping[str, set[str]]) -> NeighbourSetup:
    return NeighbourSetup(
        id=name,
        neighbours=sorted(around[name]),
        n=str(toy_key(f"vectors {name}").public.n),
        identity=identity_of(name).public_key().public_bytes_raw().hex(),
    )


@dataclass
class Seat:
    """A node, and what has been recorded of it."""

    node: ScenarioNode
    epoch: int
    steps: list[Step] = field(default_factory=list)
    timer: float | None = None
    connected: bool = False
    stopped: bool = False


class RecordedFleet:
    """Run the nodes of *setups*; `steps` has what went into each and came out."""

    def __init__(self, setups: Mapping[str, NodeSetup], *, with_states: bool = False) -> None:
        self.setups, self.now = setups, 0.0
        self.seats = {
            name: Seat(ScenarioNode(setup, with_states=with_states), setup.epoch)
            for name, setup in setups.items()
        }
        self.path: Path = lambda *_: [DELAY_S]
        self.alter: Alter = lambda _receiver, _topic, data: data
        self._retained: dict[str, tuple[str, str]] = {}  # sender and data, by topic
        self._heap: list[tuple[float, int, str, ScenarioEvent]] = []
        self._order = itertools.count()

    def steps(self, name: str) -> list[Step]:
        """Return what has been recorded of *name*."""
        return self.seats[name].steps

    def opened(self, name: str) -> int:
        """Return the number of the latest round that *name* has opened, -1 before the first."""
        agent = self.seats[name].node.agent
        return agent.state.records[-1].number if agent and agent.state.records else -1

    # -- what happens to nodes ------------------------------------------------------------------

    def start(self, *names: str) -> None:
        """Start the processes of *names* and connect them."""
        for name in names:
            self.handle(name, Start(self.now))
            self.connect(name)

    def connect(self, name: str) -> None:
        """Connect *name*; the broker delivers what it has retained."""
        self.seats[name].connected = True
        self.handle(name, Connect(self.now))
        for topic, (sender, data) in sorted(self._retained.items()):
            if sender in self._around(name):
                self._push(self.now + DELAY_S, name, Delivery(self.now, topic, data, retained=True))

    def cut(self, name: str) -> None:
        """Disconnect *name* from the broker."""
        self.seats[name].connected = False
        self.handle(name, Disconnect(self.now))

    def kill(self, name: str, *, with_will: bool = True) -> None:
        """End the process of *name*; *with_will* the broker publishes its last will."""
        seat = self.seats[name]
        seat.connected = False
        if with_will:
            self.publish_lost(name)
        seat.epoch += 1
        self.handle(name, Kill(self.now, seat.epoch))

    def publish_lost(self, name: str) -> None:
        """Publish the last will of *name*, as a broker can at any time."""
        lost = Presence(FLEET, name, self.seats[name].epoch, "lost")
        topic, data = topics.presence_topic(FLEET, name), wire.encode(lost, identity_of(name)).hex()
        self._publish(name, Published(topic, data, retain=True))

    def inject(self, name: str, topic: str, data: bytes, *, retained: bool = False) -> None:
        """Let the broker deliver *data* to *name* now."""
        self.handle(name, Delivery(self.now, topic, data.hex(), retained))

    # -- time -----------------------------------------------------------------------------------

    def run(self, until_s: float) -> None:
        """Process all events up to the virtual time *until_s*."""
        while self._heap and self._heap[0][0] <= until_s:
            self.now, _, name, event = heapq.heappop(self._heap)
            seat = self.seats[name]
            if isinstance(event, Timer) and (seat.timer is None or seat.timer > self.now):
                continue
            if isinstance(event, Delivery) and not seat.connected:
                continue
            self.handle(name, _at(event, self.now))
        self.now = until_s

    def handle(self, name: str, event: ScenarioEvent) -> Outcome:
        """Pass *event* to *name*, and carry out what follows."""
        seat = self.seats[name]
        if seat.stopped and not isinstance(event, Start):
            return Outcome([], None)
        outcome = seat.node.handle(event)
        seat.steps.append(Step(event, outcome))
        seat.timer = outcome.timer
        for effect in outcome.effects:
            match effect:
                case Published():
                    self._publish(name, effect)
                case ReadingWanted():
                    self._push(self.now, name, SensorReading(self.now, samples_of(name)))
                case Stopped():
                    seat.stopped, seat.timer = True, None
        if seat.timer is not None:
            self._push(max(seat.timer, self.now), name, Timer(self.now))
        return outcome

    def _publish(self, sender: str, message: Published) -> None:
        if message.retain:
            self._retained[message.topic] = sender, message.data
        _, _, fleet, kind, *names = message.topic.split("/")
        receivers = [names[0]] if kind == "a" else self._around(sender)
        assert fleet == FLEET
        for receiver in receivers:
            data = self.alter(receiver, message.topic, bytes.fromhex(message.data))
            for delay in self.path(receiver, message.topic, data):
                event = Delivery(self.now, message.topic, data.hex())
                self._push(self.now + delay, receiver, event)

    def _around(self, name: str) -> list[str]:
        return [each.id for each in self.setups[name].neighbours]

    def _push(self, at: float, name: str, event: ScenarioEvent) -> None:
        heapq.heappush(self._heap, (at, next(self._order), name, event))


def samples_of(name: str) -> list[dict[str, float]]:
    """Return the reading of *name*, the same at every time."""
    data = secret_of(f"reading {name}")
    return [{"u": data[0] / 32.0 - 4.0, "v": data[1] / 32.0 - 4.0}]


def _at(event: ScenarioEvent, now: float) -> ScenarioEvent:
    match event:
        case Delivery(_, topic, data, retained):
            return Delivery(now, topic, data, retained)
        case SensorReading(_, samples):
            return SensorReading(now, samples)
        case _:
            return type(event)(now) if isinstance(event, Timer) else event
