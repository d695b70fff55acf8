"""Our own node under a scenario: the agent and the wire, driven by events and without any I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, assert_never

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from gmpy2 import mpz, powmod

from cipherfleet_node.core import events, topics, wire
from cipherfleet_node.core.agent import Agent
from cipherfleet_node.core.exchange import Edge, Exchange, Pairwise, metropolis
from cipherfleet_node.core.limits import size_limits
from cipherfleet_node.core.messages import TAG_BYTES, Presence
from cipherfleet_node.core.objective import Objective
from cipherfleet_node.core.packing import Layout
from cipherfleet_node.core.paillier import PrivateKey, PublicKey
from cipherfleet_node.core.parameters import shared_parameters
from cipherfleet_node.core.randomness import seeds_of
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.core.sealed import Seal, Sealed
from cipherfleet_node.core.state import State, after_loss, first_state, note_answered
from cipherfleet_node.core.statistics import make_node_objective
from cipherfleet_node.errors import WireError
from cipherfleet_node.settings.sections import exact_scale_of, resolution_of

from .scenario import (
    Closed,
    Connect,
    Counted,
    CoupledLate,
    Delivery,
    Disconnect,
    Kill,
    NodeSetup,
    Outcome,
    Published,
    ReadingWanted,
    RestartWanted,
    Saved,
    ScenarioEffect,
    ScenarioEvent,
    SensorReading,
    Start,
    Stopped,
    Timer,
)


class NoTrace:
    """A Trace that measures nothing."""

    def span(self, phase: str, round_number: int) -> AbstractContextManager[None]:
        """Return a context manager without effect."""
        del phase, round_number
        return nullcontext()


class OneRoot:
    """A Blinding whose obfuscators all have the same root. It protects nothing."""

    def __init__(self, own: PublicKey, edges: Mapping[str, Edge], root: int) -> None:
        self._own, self._edges, self._root = own, edges, root

    def own(self) -> mpz:
        """Return root^n mod n^2 for the node's own key."""
        return powmod(self._root, self._own.n, self._own.n_squared)

    def towards(self, neighbour: str) -> mpz:
        """Return root^n mod n^2 for the key of *neighbour*."""
        key = self._edges[neighbour].key
        return powmod(self._root, key.n, key.n_squared)


class ScenarioNode:
    """A node that takes the events of a scenario, one by one."""

    def __init__(self, setup: NodeSetup, *, with_states: bool = False) -> None:
        self._setup, self._with_states = setup, with_states
        self._signer = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(setup.identity))
        self._verifiers: dict[str, wire.Verifier] = {
            each.id: Ed25519PublicKey.from_public_bytes(bytes.fromhex(each.identity))
            for each in setup.neighbours
        }
        self._limits = _limits(setup)
        self._epoch = setup.epoch
        self._saved: State | None = None
        self.agent: Agent | None = None

    def handle(self, event: ScenarioEvent) -> Outcome:
        """Process *event* and return what follows from it."""
        effects = list(self._effects(event))
        return Outcome(effects, self.agent.timer() if self.agent else None)

    def _effects(self, event: ScenarioEvent) -> Iterator[ScenarioEffect]:
        if isinstance(event, Kill):
            self.agent, self._epoch = None, event.epoch
            return
        if isinstance(event, Start):
            self.agent = self._make_agent()
        try:
            inner = self._translate(event)
        except WireError as error:
            assert isinstance(event, Delivery)
            yield Counted(topics.sender_of(event.topic), error.reason, as_fault=True)
            return
        if self.agent is not None:
            for effect in self.agent.handle(inner, event.at):
                yield self._report(effect)

    def _translate(self, event: ScenarioEvent) -> events.Event:
        match event:
            case Start():
                return events.Started()
            case Connect():
                return events.Connected()
            case Disconnect():
                return events.Disconnected()
            case Delivery(_, topic, data, retained):
                message = wire.decode(
                    bytes.fromhex(data),
                    topic,
                    self._setup.fleet,
                    self._verifiers,
                    retained=retained,
                    limits=self._limits,
                )
                return events.MessageReceived(message, retained)
            case SensorReading(_, samples):
                return events.ReadingTaken([Sample(dict(values)) for values in samples])
            case Timer():
                return events.TimerFired()
            case Kill():
                raise TypeError("a kill is no event of the agent")
            case _:
                assert_never(event)

    def _report(self, effect: events.Effect) -> ScenarioEffect:  # noqa: PLR0911  # one per effect
        match effect:
            case events.Save(state):
                return self._save(state)
            case events.Note(entry):
                assert self._saved is not None
                return self._save(note_answered(self._saved, entry))
            case events.Publish(message):
                data = wire.encode(message, self._signer).hex()
                return Published(wire.topic_of(message), data, isinstance(message, Presence))
            case events.TakeReading():
                return ReadingWanted()
            case events.RoundClosed():
                return _closed(effect)
            case events.LateCoupling(number):
                return CoupledLate(number)
            case events.Rejected(sender, reason):
                return Counted(sender, reason, as_fault=True)
            case events.Surplus(sender, reason):
                return Counted(sender, reason, as_fault=False)
            case events.Restart():
                return RestartWanted()
            case events.Stop(is_complete):
                return Stopped(is_complete)
            case _:
                assert_never(effect)

    def _save(self, state: State) -> Saved:
        self._saved = state
        return Saved(_readable(state) if self._with_states else None)

    # -- the agent ------------------------------------------------------------------------------

    def _make_agent(self) -> Agent:
        setup = self._setup
        objective = make_node_objective(setup.algorithm, setup.objective)
        key = PrivateKey(mpz(setup.p), mpz(setup.q))
        scale = exact_scale_of(setup.algorithm, setup.objective)
        parameters = shared_parameters(
            setup.algorithm, setup.exchange, objective.dimension, scale
        ).tag
        keys = {each.id: PublicKey(mpz(each.n)) for each in setup.neighbours}
        inner = events.Setup(
            fleet=setup.fleet,
            node=setup.node,
            key_tag=_tag(key.public.to_bytes()),
            neighbours={name: _tag(public.to_bytes()) for name, public in keys.items()},
            exchange=self._make_exchange(key, keys, objective),
            algorithm=setup.algorithm,
            resolution=resolution_of(setup.algorithm),
            objective=objective,
            parameters=parameters,
            seeds=seeds_of(bytes.fromhex(setup.draw_secret)),
            trace=NoTrace(),
            identities={each.id: _tag(bytes.fromhex(each.identity)) for each in setup.neighbours},
            exact_scale=scale,
        )
        state = self._saved or first_state(setup.fleet, setup.node, parameters, 0, setup.draw)
        if self._saved is None and setup.has_lost_round:
            state = after_loss(state, setup.draw)
        return Agent(inner, msgspec.structs.replace(state, epoch=self._epoch))

    def _make_exchange(
        self, key: PrivateKey, keys: Mapping[str, PublicKey], objective: Objective
    ) -> Exchange:
        setup = self._setup
        degree = len(setup.neighbours)
        edges = {
            each.id: Edge(keys[each.id], metropolis(degree, len(each.neighbours)))
            for each in setup.neighbours
        }
        blinding = OneRoot(key.public, edges, int(setup.root))
        if setup.exchange == "pairwise":
            return Pairwise(key, edges, objective.dimension, blinding)
        rosters = {each.id: frozenset(each.neighbours) for each in setup.neighbours}
        secrets = {name: bytes.fromhex(secret) for name, secret in setup.secrets.items()}
        seal = Seal(setup.fleet, setup.node, rosters, secrets)
        return Sealed(key, edges, objective.dimension, blinding, seal)


def _limits(setup: NodeSetup) -> Mapping[str, int]:
    bits = (int(setup.p) * int(setup.q)).bit_length()
    dimension = make_node_objective(setup.algorithm, setup.objective).dimension
    return size_limits(Layout.of(setup.exchange, bits, dimension))


def _tag(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()[:TAG_BYTES]


def _closed(effect: events.RoundClosed) -> Closed:
    return Closed(
        number=effect.number,
        coupled=effect.is_coupled,
        silent=list(effect.silent),
        spoiled=list(effect.spoiled),
        left_out=list(effect.left_out),
        estimate=effect.estimate.tolist(),
    )


def _readable(value: Any) -> Any:
    """Return *value* with every bytes as hexadecimal text, keys of maps included."""
    match value:
        case bytes():
            return value.hex()
        case list():
            return [_readable(each) for each in value]
        case dict():
            return {_readable(key): _readable(each) for key, each in value.items()}
        case msgspec.Struct():
            return {name: _readable(getattr(value, name)) for name in value.__struct_fields__}
        case _:
            return value
