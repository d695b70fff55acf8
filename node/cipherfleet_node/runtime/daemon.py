"""The daemon of a node: it connects the agent to the sensor, the disk, the network and the clock.

One thread runs the loop: it takes an event from a queue, passes it to the agent and carries out the
effects. Other threads only put events into the queue: the MQTT client and the sampler. The threads
of the pools compute obfuscators.
"""

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
from cipherfleet_node.runtime.assembly import (
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
    CheckedMembership,
    check_membership,
    complete_promotion,
    is_due,
    promote,
    read_membership,
    store_membership,
)
from .mqtt import Arrived, Link, LinkDown, LinkRefused, LinkUp, Sent
from .obfuscator_pools import Pools, release_interpreter_during_powers
from .round_trips import RoundTrips
from .sampler import Sampled, Sampler
from .self_test import check_exchanges
from .spans import Spans, resident_mib
from .store import Store, read_state
from .systemd import ServiceManager

log = logging.getLogger(__name__)

MAX_EVENTS = 4096  # in the queue; further messages are dropped, and the rounds ask again
HEALTH_EVERY_S = 5.0
TIMED_ROUNDS = 9  # the health report has their median duration
LEAVE_WITHIN_S = 5.0
IDLE_S = 1.0  # the longest wait for an event, so that signals and the watchdog are served
SPOILED_ROUNDS = 3  # consecutive rounds, after which the log has a remedy
FRESH_KEYS = f"{KEYS_FOLDER}.next"
SPANS_FILE = "spans.jsonl"
ESTIMATES_FILE = "estimates.jsonl"


def simulation_warnings(simulation: Simulation) -> Iterator[str]:
    """Yield a warning for each setting of *simulation* that is on: its effect and its purpose."""
    if simulation.seed is not None:
        yield (
            "SIMULATION SETTINGS ARE ON: simulation.seed makes every random number repeatable, so "
            "this node protects nothing; use it for trials only"
        )
    if simulation.trace_estimates:
        yield (
            "simulation.trace_estimates is on: the estimate of every round is written to "
            f"logs/{ESTIMATES_FILE}, for the plot of the run; keep that file private"
        )


class Daemon:
    """Run one node until it has finished, must stop or restart, or cannot go on."""

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
        self.restart_requested = False  # the next round has other neighbours
        self._version = bundle.membership.version if bundle.membership else 0
        self.rejected: Counter[str] = Counter()
        self.surplus: Counter[str] = Counter()
        self._silent = 0  # neighbours without an answer in the latest round
        self._missed = 0  # answers that did not come, since the start
        self._round_s: deque[float] = deque(maxlen=TIMED_ROUNDS)
        self._spoiled = 0  # consecutive rounds whose sealed answers did not open together
        self._health_at = self._alive_at = 0.0
        self._reports = 0  # number of health reports since the start
        logs = bundle.folder / LOGS_FOLDER
        self._spans = Spans(logs / SPANS_FILE)
        self._round_trips = RoundTrips(self._spans)
        self._latest_query: Sent | None = None
        self._heartbeat = Heartbeat(bundle.folder, patience_s(self._config))
        self._closed_at = self._began
        self._manager = manager or ServiceManager()
        self._sampler = Sampler(bundle.sensor, self._config.sensor.timeout_s, self._enqueue)
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
        """The first round of a node without a saved state."""
        membership = self._bundle.membership
        return membership.message.from_round if membership else 0

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
        """Return the saved state with a new epoch, or a first state if none was saved."""
        config, saved = self._config, self._store.load()
        # From the clock, a node that has lost its state gets a higher epoch than it had before.
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
                "to another objective; remove the folder 'state' to start without it"
            )
        if not saved.continuous:
            log.warning("the latest state is damaged, continuing from the generation before it")
        if saved.parameters != parameters:
            log.warning("the settings have changed: queries of earlier rounds are not answered")
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
            self._enqueue,
            self._bundle.tls,
        )

    # -- running --------------------------------------------------------------------------------

    def stop(self) -> None:
        """End the loop after the present event; safe to call from a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Run to the end; raises CipherfleetError for a problem that needs the operator."""
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
            while not (self._stopping.is_set() or self._finished or self.restart_requested):
                self._step()
        finally:
            self._shut_down()

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
            self._report_alive(now)

    def _await_event(self, now: float, nap: float) -> object:
        """Return the next event; raises queue.Empty after *nap* seconds.

        The wait before the broker acknowledges the query counts as phase `acknowledge`, since no
        neighbour can answer before.
        """
        with self._spans.during("wait"):
            try:
                return self._events.get(timeout=nap)
            finally:
                if self._latest_query is not None:
                    waited = self._latest_query.unacknowledged_s(now, time.monotonic())
                    self._spans.move("wait", "acknowledge", waited)

    def _report_alive(self, now: float) -> None:
        """Report to systemd, the health check and the operator that this node is alive."""
        self._link.resubscribe_if_due(now)
        if now >= self._alive_at and self._link.is_alive(now):
            self._alive_at = now + min(self._manager.watchdog_s or math.inf, BEAT_EVERY_S)
            self._manager.alive()
            self._heartbeat.beat(now, self._agent.round_number, self._closed_at)
        self._report_health(now)

    def _shut_down(self) -> None:
        if not self.restart_requested:  # at a restart the process goes on
            self._manager.stopping()
        config = self._config
        if not self._finished:  # the presence `finished` stays retained
            self._send(Presence(config.fleet, config.node, self._agent.state.epoch, "disconnected"))
        self._report_health(math.inf)  # the final counts
        self._link.stop(LEAVE_WITHIN_S)
        self._pools.close()
        self._sampler.close()
        self._spans.flush(now=True)
        self._heartbeat.stop()
        self._store.close()

    def _enqueue(self, event: object) -> None:
        """Add an event, from any thread; a full queue drops it, and the rounds ask again."""
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
                self._health_at = 0.0  # send a health report at once
                self._handle(Connected())
            case LinkDown(clash):
                if clash:
                    raise IdentityClash(
                        "another client connects repeatedly with the identity of "
                        f"{self._config.node!r}: a second device runs from a copy of its card"
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
            # A hostile broker chooses the text of a topic, so only known names are logged.
            sender = topics.sender_of(arrived.topic)
            self._reject(sender if sender in self._verifiers else "a stranger", error.reason)
            return
        if isinstance(message, Membership):
            self._take_membership(message, arrived.payload)
        else:
            self._round_trips.arrived(message, arrived.at)
            self._handle(MessageReceived(message, arrived.retained))

    # -- membership updates ---------------------------------------------------------------------

    def _take_membership(self, message: Membership, payload: bytes) -> None:
        """Store a newer membership of the operator; the rounds before it go on."""
        if message.epoch <= self._version:
            if message.epoch < self._version:
                self._reject(OPERATOR, "stale_membership")
            return  # it is retained, so it comes again with every connection
        folder = self._bundle.folder
        try:
            membership = check_membership(message, self._config)
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
        store_membership(folder, payload)
        self._version = message.epoch
        log.info("the neighbours change at round %d", message.from_round)
        self._accept_both_identities(membership)
        revoked = frozenset[str]()
        if message.from_round <= self._agent.round_number:
            revoked = frozenset(self._bundle.neighbours.keys() - membership.neighbours.keys())
        for name in revoked:  # its messages are refused from now on, also in the open round
            del self._verifiers[name]
            log.info("round %d: %s is not a neighbour any more", self._agent.round_number, name)
        self._handle(MembershipPending(message.from_round, revoked))

    def _expect_membership(self) -> None:
        """Announce to the agent a membership that was stored before this start and is pending."""
        pending = read_membership(self._bundle.folder, self._config, NEXT)
        if pending is not None:
            self._version = max(self._version, pending.version)
            self._accept_both_identities(pending)
            self._handle(MembershipPending(pending.message.from_round))

    def _accept_both_identities(self, pending: CheckedMembership) -> None:
        """Accept the old and the new identity: a neighbour may change it before this node does."""
        for name, keys in pending.neighbours.items():
            if name in self._bundle.neighbours:
                before = self._bundle.neighbours[name].identity
                self._verifiers[name] = wire.Either(before, keys.identity)

    def _claim_again(self) -> None:
        """Publish the claim of new keys that the operator has requested and not yet accepted."""
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
            self._spans.restart(now)  # a round may open now: earlier time does not belong to it
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
                    self._enqueue(reading)
            case RoundClosed():
                self._close_round(effect)
            case Rejected(sender, reason):
                self._reject(sender, reason)
            case Surplus(_, reason):
                self.surplus[reason] += 1
            case Switch():
                self.restart_requested = True
            case Stop():
                self._finished = True

    def _send(self, message: Message) -> None:
        payload = wire.encode(message, self._bundle.keys.identity)
        before, retain = time.monotonic(), isinstance(message, Presence)
        sent = self._link.publish(wire.topic_of(message), payload, retain=retain)
        if sent is not None:
            self._round_trips.sent(message, before, time.monotonic())
            if isinstance(message, Query):
                self._latest_query = sent

    def _close_round(self, closed: RoundClosed) -> None:
        now, pools = time.monotonic(), self._pools.figures()
        # One event may close a round and open the next: count no time twice.
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
            acknowledged_ms=self._latest_query.acknowledged_ms if self._latest_query else None,
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
                "round %d: for %d rounds the answers of %s have not opened together: one of these "
                "nodes has a wrong seal of another one, or a damaged key; run `cipherfleet-node "
                "check-config` on each of them and compare seal and seals, then get the bundle "
                "again where they differ",
                closed.number,
                self._spoiled,
                ", ".join(closed.spoiled),
            )
        if closed.silent:
            log.warning("round %d: no answer of %s", closed.number, ", ".join(closed.silent))
        if self._config.simulation.trace_estimates:
            self._trace_estimate(closed)

    def _trace_estimate(self, closed: RoundClosed) -> None:
        file = self._bundle.folder / LOGS_FOLDER / ESTIMATES_FILE
        file.touch(mode=0o600)
        with file.open("a") as stream:
            line = {"round": closed.number, "estimate": closed.estimate.tolist()}
            stream.write(json.dumps(line) + "\n")

    def _reject(self, sender: str, reason: str) -> None:
        self.rejected[reason] += 1
        times = self.rejected[reason]
        if times & (times - 1) == 0:  # only the 1st, 2nd, 4th, 8th ...: a flood must not fill logs
            log.warning("dropped a message of %s: %s (%d so far)", sender, reason, times)

    def _report_health(self, now: float) -> None:
        if now < self._health_at:
            return
        self._health_at = now + HEALTH_EVERY_S
        self._reports += 1
        health = self._health()
        self._send(health)
        self._manager.status(f"{health.phase}, round {health.round}")
        self._spans.flush()

    def _health(self) -> Health:
        """Return a report in which nothing is computed from a reading, the estimate or a key."""
        config, pools, agent = self._config, self._pools.figures(), self._agent
        times = sorted(self._round_s)
        return Health(
            config.fleet,
            config.node,
            agent.state.epoch,
            self._reports,
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

    If necessary it enrols first. When its neighbours change, it restarts within this process.
    """
    manager = ServiceManager()  # one for all daemons: it removes its address from the environment
    complete_promotion(folder)
    config = load_node_config(folder)
    if needs_enrolment(folder, config) and not enrol(folder, config, stopping, manager):
        return
    while not stopping.is_set():
        saved = read_state(folder)
        if is_due(folder, config, saved.round if saved else 0):
            promote(folder, config)
        daemon = Daemon(read_bundle(folder), stopping, manager)
        daemon.run()
        if not daemon.restart_requested:
            return
        log.info("restarting with other neighbours")


def node_summary(folder: Path, *, with_estimate: bool) -> dict[str, object]:
    """Return the output of `show-state`; the estimate is private and included on request only."""
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
