"""The daemon: the only place where the agent meets sensor, disk, network and clock."""

from __future__ import annotations

import json
import logging
import math
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from cipherfleet_node.core import topics, wire
from cipherfleet_node.core.agent import Agent
from cipherfleet_node.core.events import (
    Connected,
    Disconnected,
    Effect,
    Event,
    MembershipPending,
    MessageReceived,
    Publish,
    Rejected,
    RoundClosed,
    Save,
    Setup,
    Started,
    Stop,
    Surplus,
    Switch,
    TakeReading,
    TimerFired,
)
from cipherfleet_node.core.exchange import Edge, Exchange, Pairwise, metropolis
from cipherfleet_node.core.messages import (
    OPERATOR,
    Health,
    Membership,
    Message,
    Presence,
    Query,
)
from cipherfleet_node.core.round import Phase
from cipherfleet_node.core.sealed import Seal, Sealed
from cipherfleet_node.core.state import STATE_VERSION, State, after_damage
from cipherfleet_node.errors import BrokerUnreachable, ConfigError, IdentityClash, WireError
from cipherfleet_node.keys.key_files import KEYS_FOLDER, identity_from_text, read_keys
from cipherfleet_node.runtime.assembly import (  # moved
    client_id,
    key_tag,
    obfuscator_sources,
    parameters_digest,
    patience_s,
    round_seeds,
)
from cipherfleet_node.sensors.thermal import processor_temperature
from cipherfleet_node.settings.node_yaml import LOGS_FOLDER, load_node_config
from cipherfleet_node.settings.sections import NodeConfig, Simulation, resolution_of

from .bundle import Bundle, read_bundle
from .enrolment import certificate_request, enrol, make_claim, make_own_keys, needs_enrolment
from .heartbeat import BEAT_EVERY_S, Heartbeat
from .membership import (
    NEXT,
    Joined,
    check_membership,
    due,
    keep,
    promote,
    read_membership,
    settle,
)
from .mqtt import Arrived, Link, LinkDown, LinkRefused, LinkUp, Sent
from .obfuscator_pools import Pools, release_interpreter_during_powers
from .round_trips import Trips
from .sampler import Sampled, Sampler
from .self_test import check_exchanges
from .spans import Spans, resident_mib
from .store import Store, read_state
from .systemd import ServiceManager

log = logging.getLogger(__name__)

MAX_EVENTS = 4096  # beyond it messages are dropped; the rounds ask again
HEALTH_EVERY_S = 5.0
TIMED_ROUNDS = 9  # whose median is told
LEAVE_WITHIN_S = 5.0
IDLE_S = 1.0  # the longest nap: signals and the watchdog are looked at that often
SPOILED_ROUNDS = 3  # in a row, after which the log tells what to look for
FRESH_KEYS = f"{KEYS_FOLDER}.next"
SPANS_FILE = "spans.jsonl"
ESTIMATES_FILE = "estimates.jsonl"


def simulation_warnings(simulation: Simulation) -> Iterator[str]:
    """Which settings of *simulation* are on, what each does, and what it is for: a line each."""
    if simulation.seed is not None:
        yield (
            "SIMULATION SETTINGS ARE ON: simulation.seed makes every random number repeatable, so "
            "this node protects nothing; it is for trials"
        )
    if simulation.trace_estimates:
        yield (
            "simulation.trace_estimates is on: the estimate of every round is written to "
            f"logs/{ESTIMATES_FILE}, for the plot of the run; keep that file to yourself"
        )


class Daemon:
    """Runs one node until it has finished, is told to stop, or cannot go on."""

    def __init__(
        self,
        bundle: Bundle,
        stopping: threading.Event | None = None,
        manager: ServiceManager | None = None,
    ) -> None:
        self._began = time.monotonic()
        self._bundle, self._config = bundle, bundle.config
        self._store = Store(bundle.folder)
        self._events: queue.Queue[object] = queue.Queue(MAX_EVENTS)
        self._stopping = stopping or threading.Event()
        self._finished = False
        self.switching = False  # the node is to start anew with other neighbours
        self._version = bundle.joined.version if bundle.joined else 0
        self.rejected: Counter[str] = Counter()
        self.surplus: Counter[str] = Counter()
        self._silent = self._missed = 0  # neighbours in the latest round, answers in all
        self._round_s: deque[float] = deque(maxlen=TIMED_ROUNDS)
        self._spoiled = 0  # rounds in a row whose sealed answers did not open together
        self._health_at = self._alive_at = 0.0
        self._told = 0  # how often
        logs = bundle.folder / LOGS_FOLDER
        self._spans = Spans(logs / SPANS_FILE)
        self._trips = Trips(self._spans)
        self._asked: Sent | None = None  # the latest query
        self._heartbeat = Heartbeat(bundle.folder, patience_s(self._config))
        self._closed_at = self._began
        self._manager = manager or ServiceManager()
        self._sampler = Sampler(bundle.sensor, self._config.sensor.timeout_s, self._put)
        check_exchanges(bundle.keys.paillier, bundle.neighbours_paillier)
        crypto = self._config.crypto
        self._pools = Pools(obfuscator_sources(bundle), crypto.pool, crypto.pool_threads)
        self._verifiers: dict[str, wire.Verifier] = {
            name: keys.identity for name, keys in bundle.neighbours.items()
        }
        if self._config.operator is not None:
            self._verifiers[OPERATOR] = identity_from_text(self._config.operator)
        self._agent = self._make_agent()
        self._link = self._make_link()

    def _make_agent(self) -> Agent:
        config, bundle = self._config, self._bundle
        assert config.crypto.exchange is not None
        parameters = parameters_digest(
            config.algorithm, config.crypto.exchange, bundle.objective.dimension
        )
        setup = Setup(
            config.fleet,
            config.node,
            key_tag(bundle.keys.paillier.public),
            {name: key_tag(key) for name, key in bundle.neighbours_paillier.items()},
            self._make_exchange(),
            config.algorithm,
            resolution_of(config.algorithm),
            bundle.objective,
            parameters,
            round_seeds(config),
            self._spans,
            self._first_round,
        )
        return Agent(setup, self._restored(parameters))

    @property
    def _first_round(self) -> int:
        """That of a node which has none of its own yet."""
        joined = self._bundle.joined
        return joined.message.from_round if joined else 0

    def _make_exchange(self) -> Exchange:
        config, bundle = self._config, self._bundle
        keys = bundle.neighbours_paillier
        edges = {
            n.id: Edge(keys[n.id], metropolis(len(config.neighbours), n.degree))
            for n in config.neighbours
        }
        common = bundle.keys.paillier, edges, bundle.objective.dimension, self._pools
        if config.crypto.exchange == "pairwise":
            return Pairwise(*common)
        rosters = {n.id: frozenset(n.neighbours) for n in config.neighbours}
        leaves = config.crypto.leaves == "open"
        return Sealed(*common, Seal(config.fleet, config.node, rosters, bundle.secrets, leaves))

    def _restored(self, parameters: bytes) -> State:
        """The saved state under a new epoch, or a first one."""
        config, saved = self._config, self._store.load()
        # The clock gives a node that lost its state an epoch above those it had before.
        epoch = max(saved.epoch + 1 if saved else 1, int(time.time()))
        if saved is None:
            return State(
                STATE_VERSION,
                config.fleet,
                config.node,
                parameters,
                epoch,
                self._first_round,
                None,
                [],
                {},
                continuous=False,
            )
        dimension = self._bundle.objective.dimension
        if (saved.fleet, saved.node) != (config.fleet, config.node) or (
            saved.estimate is not None and len(saved.estimate) != dimension
        ):
            raise ConfigError(
                f"{self._store.current}: the saved state belongs to {saved.fleet}/{saved.node} or "
                "to another objective; remove the folder 'state' to start anew"
            )
        if not saved.continuous:
            log.warning("the latest state was damaged, going on from the generation before")
        if saved.parameters != parameters:
            log.warning("the settings have changed: earlier rounds are not answered for any more")
            saved = msgspec.structs.replace(after_damage(saved), records=[])
        return msgspec.structs.replace(saved, epoch=epoch, parameters=parameters)

    def _make_link(self) -> Link:
        config, keys = self._config, self._bundle.keys
        lost = Presence(config.fleet, config.node, self._agent.state.epoch, "lost")
        return Link(
            client_id(config, keys),
            config.broker,
            topics.subscriptions(config.fleet, config.node, [n.id for n in config.neighbours]),
            (wire.topic_of(lost), wire.encode(lost, keys.identity)),
            self._put,
            self._bundle.tls,
        )

    # -- running --------------------------------------------------------------------------------

    def stop(self) -> None:
        """End at the next moment between two effects; safe from a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Run to the end; raises what an operator has to know."""
        release_interpreter_during_powers()
        for warning in simulation_warnings(self._config.simulation):
            log.warning(warning)
        if self._config.crypto.allow_weak_keys:
            log.warning("WEAK KEYS ARE ALLOWED: this node protects nothing")
        self._pools.start()
        self._sampler.start()
        try:
            self._handle(Started())
            self._expect_membership()
            self._link.start()
            self._manager.ready()
            while not (self._stopping.is_set() or self._finished or self.switching):
                self._step()
        finally:
            self._leave()

    def _step(self) -> None:
        wake = self._agent.timer()
        now = time.monotonic()
        nap = IDLE_S if wake is None else min(max(wake - now, 0.0), IDLE_S)
        with suppress(queue.Empty):
            self._dispatch(self._await_event(now, nap))
        now = time.monotonic()
        if (overdue := self._sampler.overdue(now)) is not None:
            self._handle(overdue)
        if wake is not None and now >= wake:
            self._handle(TimerFired())
        with self._spans.during("tend"):
            self._tend(now)

    def _await_event(self, now: float, nap: float) -> object:
        """The next event; raises queue.Empty after *nap*.

        Until the broker has the query there is nothing that others could do.
        """
        with self._spans.during("wait"):
            try:
                return self._events.get(timeout=nap)
            finally:
                if self._asked is not None:
                    waited = self._asked.unacknowledged_s(now, time.monotonic())
                    self._spans.move("wait", "acknowledge", waited)

    def _tend(self, now: float) -> None:
        """Tell systemd, the health check and the operator that this node lives."""
        self._link.tend(now)
        if now >= self._alive_at and self._link.moves(now):
            self._alive_at = now + min(self._manager.watchdog_s or math.inf, BEAT_EVERY_S)
            self._manager.alive()
            self._heartbeat.beat(now, self._agent.round_number, self._closed_at)
        self._report_health(now)

    def _leave(self) -> None:
        if not self.switching:  # systemd would end the process, which is to go on
            self._manager.stopping()
        config = self._config
        if not self._finished:  # a finished node's last word stays what it was
            self._send(Presence(config.fleet, config.node, self._agent.state.epoch, "disconnected"))
        self._report_health(math.inf)  # the final counts
        self._link.stop(LEAVE_WITHIN_S)
        self._pools.close()
        self._sampler.close()
        self._spans.flush(now=True)
        self._heartbeat.stop()
        self._store.close()

    def _put(self, event: object) -> None:
        """Called from other threads; a full queue drops messages, the protocol repeats them."""
        try:
            self._events.put_nowait(event)
        except queue.Full:
            self.rejected["queue_full"] += 1

    # -- events in ------------------------------------------------------------------------------

    def _dispatch(self, event: object) -> None:
        match event:
            case Arrived():
                self._receive(event)
            case LinkUp():
                log.info("connected to the broker")
                self._claim_again()
                self._health_at = 0.0  # the operator need not wait to see it
                self._handle(Connected())
            case LinkDown(clash):
                if clash:
                    raise IdentityClash(
                        f"the broker keeps giving the identity of {self._config.node!r} to another "
                        "client: a second device runs from a copy of this node's card"
                    )
                log.warning("connection to the broker lost; reconnecting")
                self._handle(Disconnected())
            case LinkRefused(reason):
                raise BrokerUnreachable(reason)
            case Sampled(began=began, ended=ended):
                self._spans.add("sample", self._agent.round_number, began, ended)
                reading = self._sampler.accept(event)
                if reading is not None:
                    self._handle(reading)

    def _receive(self, arrived: Arrived) -> None:
        fleet = self._config.fleet
        try:
            with self._spans.during("receive"):
                message = wire.decode(arrived.payload, arrived.topic, fleet, self._verifiers)
        except WireError as error:
            # A hostile broker writes into topics what it likes: only known names reach the log.
            sender = topics.sender_of(arrived.topic)
            self._reject(sender if sender in self._verifiers else "a stranger", error.reason)
            return
        if isinstance(message, Membership):
            self._take_membership(message, arrived.payload)
        else:
            self._trips.arrived(message, arrived.at)
            self._handle(MessageReceived(message, arrived.retained))

    # -- other neighbours -----------------------------------------------------------------------

    def _take_membership(self, message: Membership, payload: bytes) -> None:
        """Keep the operator's word, if it is a newer one; the rounds before it go on."""
        if message.epoch <= self._version:
            if message.epoch < self._version:
                self._reject(OPERATOR, "stale_membership")
            return  # retained, it comes again with every connection
        folder = self._bundle.folder
        try:
            joined = check_membership(message, self._config)
        except WireError as error:
            self._reject(OPERATOR, error.reason)
            log.warning("dropped a membership: %s", error)
            return
        if message.rekey:
            self._version = message.epoch
            make_own_keys(folder, self._config, FRESH_KEYS)
            self._claim_again()
            return
        own = self._bundle.keys.public.fingerprint
        if message.fingerprint not in (own, _fresh_fingerprint(folder, self._config)):
            self._reject(OPERATOR, "membership_of_other_keys")
            return
        keep(folder, payload)
        self._version = message.epoch
        log.info("other neighbours from round %d on", message.from_round)
        self._overlap(joined)
        revoked = frozenset[str]()
        if message.from_round <= self._agent.round_number:
            revoked = frozenset(self._bundle.neighbours.keys() - joined.neighbours.keys())
        for name in revoked:  # not heard from now on, whatever the open round still waits for
            del self._verifiers[name]
            log.info("round %d: %s is no neighbour any more", self._agent.round_number, name)
        self._handle(MembershipPending(message.from_round, revoked))

    def _expect_membership(self) -> None:
        """What was kept before the node was started, and does not hold yet."""
        pending = read_membership(self._bundle.folder, self._config, NEXT)
        if pending is not None:
            self._version = max(self._version, pending.version)
            self._overlap(pending)
            self._handle(MembershipPending(pending.message.from_round))

    def _overlap(self, pending: Joined) -> None:
        """A neighbour may come to the round of its new identity before this node does."""
        for name, keys in pending.neighbours.items():
            if name in self._bundle.neighbours:
                before = self._bundle.neighbours[name].identity
                self._verifiers[name] = wire.Either(before, keys.identity)

    def _claim_again(self) -> None:
        """Keys that the operator asked for, and has not taken over yet."""
        folder, config = self._bundle.folder, self._config
        if not (folder / FRESH_KEYS).exists():
            return
        fresh = make_own_keys(folder, config, FRESH_KEYS)
        request = certificate_request(folder, config, FRESH_KEYS)
        claim = make_claim(config, fresh, request, self._bundle.keys.identity)
        payload = wire.encode(claim, fresh.identity)
        self._link.publish(wire.topic_of(claim), payload, retain=True)

    def _handle(self, event: Event) -> None:
        now = time.monotonic()
        if self._agent.phase is not Phase.COLLECTING:
            self._spans.restart(now)  # a round may open now: what was before is none of it
        with self._spans.during("agent"):
            for effect in self._agent.handle(event, now):
                self._carry_out(effect)

    # -- effects out ----------------------------------------------------------------------------

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Save(state):
                with self._spans.span("save", state.round):
                    self._store.save(state)
            case Publish(message):
                with self._spans.span("publish", self._agent.round_number):
                    self._send(message)
            case TakeReading():
                reading = self._sampler.request(time.monotonic())
                if reading is not None:
                    self._put(reading)
            case RoundClosed():
                self._close_round(effect)
            case Rejected(sender, reason):
                self._reject(sender, reason)
            case Surplus(_, reason):
                self.surplus[reason] += 1
            case Switch():
                self.switching = True
            case Stop():
                self._finished = True

    def _send(self, message: Message) -> None:
        payload = wire.encode(message, self._bundle.keys.identity)
        before, retain = time.monotonic(), isinstance(message, Presence)
        sent = self._link.publish(wire.topic_of(message), payload, retain=retain)
        if sent is not None:
            self._trips.sent(message, before, time.monotonic())
            if isinstance(message, Query):
                self._asked = sent

    def _close_round(self, closed: RoundClosed) -> None:
        now, pools = time.monotonic(), self._pools.figures()
        # It may have been opened by the very event that closed the one before.
        opened, self._closed_at = max(closed.opened, self._closed_at), now
        self._round_s.append(now - opened)
        self._silent = len(closed.silent)
        self._missed += self._silent
        self._spans.add(
            "round",
            closed.number,
            opened,
            now,
            phases=self._spans.phases_ms(now),
            silent=len(closed.silent),
            rejected=sum(self.rejected.values()),
            inline=sum(pools.inline.values()),
            pool=min(pools.levels.values()),
            acknowledged_ms=self._asked.acknowledged_ms if self._asked else None,
            bytes_sent=self._link.bytes_sent,
            bytes_received=self._link.bytes_received,
            cpu_s=round(time.process_time(), 4),
            pool_cpu_s=round(pools.cpu_s, 4),
            rss_mib=resident_mib(),
        )
        with self._spans.during("tend"):
            self._spans.flush()
        if closed.number == 0:
            log.info("first round closed %.2f s after the start", now - self._began)
        self._spoiled = self._spoiled + 1 if closed.spoiled else 0
        times, rest = divmod(self._spoiled, SPOILED_ROUNDS)
        if times and not rest and times & (times - 1) == 0:  # after 3, 6, 12 ... rounds
            log.warning(
                "round %d: for %d rounds the answers of %s have not opened together: one of them "
                "has another's seal wrong, or a damaged key; on each of them run `cipherfleet-node "
                "check-config` and compare seal and seals, then get the bundle anew where they "
                "differ",
                closed.number,
                self._spoiled,
                ", ".join(closed.spoiled),
            )
        if closed.silent:
            log.warning("round %d: no answer of %s", closed.number, ", ".join(closed.silent))
        if self._config.simulation.trace_estimates:
            self._trace(closed)

    def _trace(self, closed: RoundClosed) -> None:
        file = self._bundle.folder / LOGS_FOLDER / ESTIMATES_FILE
        file.touch(mode=0o600)
        with file.open("a") as stream:
            line = {"round": closed.number, "estimate": closed.estimate.tolist()}
            stream.write(json.dumps(line) + "\n")

    def _reject(self, sender: str, reason: str) -> None:
        self.rejected[reason] += 1
        times = self.rejected[reason]
        if times & (times - 1) == 0:  # the 1st, 2nd, 4th, 8th ...: a flood must not fill the disk
            log.warning("dropped a message of %s: %s (%d so far)", sender, reason, times)

    def _report_health(self, now: float) -> None:
        if now < self._health_at:
            return
        self._health_at = now + HEALTH_EVERY_S
        self._told += 1
        health = self._health()
        self._send(health)
        self._manager.status(f"{health.phase}, round {health.round}")
        self._spans.flush()

    def _health(self) -> Health:
        """Nothing in it comes from a reading, the estimate or a key."""
        config, pools, agent = self._config, self._pools.figures(), self._agent
        times = sorted(self._round_s)
        return Health(
            config.fleet,
            config.node,
            agent.state.epoch,
            self._told,
            agent.phase.value,
            agent.round_number,
            round(1e6 * times[len(times) // 2]) if times else 0,
            self._silent,
            self._missed,
            dict(self.rejected),
            dict(self.surplus),
            min(pools.levels.values()),
            config.crypto.pool,
            sum(pools.inline.values()),
            processor_temperature(config.sensor),
        )


def _fresh_fingerprint(folder: Path, config: NodeConfig) -> str | None:
    if not (folder / FRESH_KEYS).exists():
        return None
    return read_keys(folder, config.crypto, FRESH_KEYS).public.fingerprint


def run_node(folder: Path, stopping: threading.Event) -> None:
    """Run the node of *folder* until it has finished or *stopping* is set.

    It enrols first if it must, and starts anew, in this process, where its neighbours change.
    """
    manager = ServiceManager()  # one for all daemons: it takes its address out of the environment
    settle(folder)
    config = load_node_config(folder)
    if needs_enrolment(folder, config) and not enrol(folder, config, stopping, manager):
        return
    while not stopping.is_set():
        saved = read_state(folder)
        if due(folder, config, saved.round if saved else 0):
            promote(folder, config)
        daemon = Daemon(read_bundle(folder), stopping, manager)
        daemon.run()
        if not daemon.switching:
            return
        log.info("starting anew with other neighbours")


def node_summary(folder: Path, *, with_estimate: bool) -> dict[str, object]:
    """What `show-state` prints: the estimate only if its owner asks for it."""
    state = read_state(folder)
    if state is None:
        return {"saved": False}
    summary: dict[str, object] = {
        "saved": True,
        "fleet": state.fleet,
        "node": state.node,
        "epoch": state.epoch,
        "round": state.round,
        "continuous": state.continuous,
    }
    if with_estimate:
        summary["estimate"] = state.estimate
    return summary
