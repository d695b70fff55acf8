"""The daemon of a node: it connects the agent to the sensor, the disk, the network and the clock.

One thread runs the loop: it takes an event from a queue, passes it to the agent and carries out the
effects. Other threads only put events into the queue: the MQTT client and the sampler. The threads
of the pools compute obfuscators.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cipherfleet_node.core import topics, wire
from cipherfleet_node.core.events import (
    Connected,
    Disconnected,
    Effect,
    Event,
    MessageReceived,
    Publish,
    Rejected,
    Restart,
    RoundClosed,
    Save,
    Started,
    Stop,
    Surplus,
    TakeReading,
    TimerFired,
)
from cipherfleet_node.core.messages import Claim, Membership, Message, Presence
from cipherfleet_node.core.round import Phase
from cipherfleet_node.errors import BrokerUnreachable, IdentityClash, WireError
from cipherfleet_node.settings.node_yaml import load_node_config
from cipherfleet_node.settings.sections import NodeConfig, Simulation

from .assembly import make_agent, make_link, make_verifiers, obfuscator_sources, patience_s
from .bundle import Bundle, read_bundle
from .enrolment import enrol, needs_enrolment
from .event_queue import EventQueue
from .heartbeat import BEAT_EVERY_S, Heartbeat
from .membership import complete_promotion, is_due, promote, read_membership
from .membership_updates import MembershipUpdates
from .mqtt import Arrived, LinkDown, LinkRefused, LinkUp
from .obfuscator_pools import Pools, release_interpreter_during_powers
from .sampler import Sampled, Sampler
from .self_test import check_exchanges
from .store import Store, read_state
from .systemd import ServiceManager
from .telemetry import ESTIMATES_FILE, Telemetry

log = logging.getLogger(__name__)

LEAVE_WITHIN_S = 5.0
IDLE_S = 1.0  # the longest wait for an event, so that signals and the watchdog are served


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


def neighbour_warning(config: NodeConfig) -> str | None:
    """Return a warning if the node has too few neighbours to compute anything."""
    remedy = "until the operator adds one (cipherfleet provision update)"
    if not config.neighbours:
        return f"this node has no neighbours: it waits {remedy}"
    if config.is_idle_leaf:
        only = config.neighbours[0].id
        return (
            f"this node has one neighbour only, {only}: a sealed sum over one hides nothing, so it "
            f"keeps its estimate {remedy}"
        )
    return None


class Daemon:
    """Run one node until it has finished, must stop or restart, or cannot go on."""

    def __init__(
        self,
        bundle: Bundle,
        stopping: threading.Event | None = None,
        manager: ServiceManager | None = None,
    ) -> None:
        began = time.monotonic()
        self._bundle, self._config = bundle, bundle.config
        self._store = Store(bundle.folder)  # first: it refuses a second daemon in this folder
        self._events = EventQueue()
        self._stopping = stopping or threading.Event()
        self._finished = False
        self.restart_requested = False  # the next round has other neighbours
        self._alive_at = 0.0
        self._telemetry = Telemetry(bundle.folder, self._config, began)
        # Without neighbours no round is due: the operator may add some days later.
        patience = patience_s(self._config) if bundle.neighbours else math.inf
        self._heartbeat = Heartbeat(bundle.folder, patience)
        self._manager = manager or ServiceManager()
        self._sampler = Sampler(bundle.sensor, self._config.sensor.timeout_s, self._enqueue)
        check_exchanges(bundle.keys.paillier, bundle.neighbours_paillier)
        crypto = self._config.crypto
        self._pools = Pools(obfuscator_sources(bundle), crypto.pool, crypto.pool_threads)
        self._verifiers = make_verifiers(bundle)
        self._updates = MembershipUpdates(
            bundle, self._verifiers, self._telemetry.reject, self._publish_claim
        )
        self._agent = make_agent(bundle, self._store, self._pools, self._telemetry.spans)
        self._link = make_link(bundle, self._agent.state.epoch, self._enqueue)

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
        if (too_few := neighbour_warning(self._config)) is not None:
            log.warning(too_few)
        self._pools.start()
        self._sampler.start()
        try:
            self._handle(Started())
            if (pending := self._updates.pending()) is not None:
                self._handle(pending)
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
        with self._telemetry.spans.during("tend"):
            self._report_alive(now)

    def _await_event(self, now: float, nap: float) -> object:
        """Return the next event; raises queue.Empty after *nap* seconds."""
        with self._telemetry.spans.during("wait"):
            try:
                return self._events.get(timeout=nap)
            finally:
                self._telemetry.record_wait(now, time.monotonic())

    def _report_alive(self, now: float) -> None:
        """Report to systemd, the health check and the operator that this node is alive."""
        self._link.resubscribe_if_due(now)
        if now >= self._alive_at and self._link.is_alive(now):
            self._alive_at = now + min(self._manager.watchdog_s or math.inf, BEAT_EVERY_S)
            self._manager.alive()
            self._heartbeat.beat(now, self._agent.round_number, self._telemetry.closed_at)
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
        self._telemetry.spans.flush(now=True)
        self._heartbeat.stop()
        self._store.close()

    def _enqueue(self, event: object) -> None:
        """Add an event, from any thread; count a message for which there is no room."""
        if not self._events.put(event):
            assert isinstance(event, Arrived)  # no other event is dropped
            self._telemetry.reject(self._name_sender(event.topic), "queue_full")

    # -- events in ------------------------------------------------------------------------------

    def _dispatch(self, event: object) -> None:
        match event:
            case Arrived():
                self._receive(event)
            case LinkUp():
                log.info("connected to the broker")
                self._updates.claim_again()
                self._telemetry.request_health()
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
                self._telemetry.spans.add("sample", self._agent.round_number, began, ended)
                reading = self._sampler.accept(event)
                if reading is not None:
                    self._handle(reading)

    def _receive(self, arrived: Arrived) -> None:
        fleet = self._config.fleet
        try:
            with self._telemetry.spans.during("receive"):
                message = wire.decode(
                    arrived.payload,
                    arrived.topic,
                    fleet,
                    self._verifiers,
                    retained=arrived.retained,
                )
        except WireError as error:
            self._telemetry.reject(self._name_sender(arrived.topic), error.reason)
            return
        if isinstance(message, Membership):
            opened = self._agent.round_number
            pending = self._updates.take(message, arrived.payload, opened)
            if pending is not None:
                self._handle(pending)
        else:
            self._telemetry.round_trips.arrived(message, arrived.at)
            self._handle(MessageReceived(message, arrived.retained))

    def _name_sender(self, topic: str) -> str:
        """Return the sender on *topic* for the log, if it is known: a broker may write anything."""
        sender = topics.sender_of(topic)
        return sender if sender in self._verifiers else "a stranger"

    def _handle(self, event: Event) -> None:
        now = time.monotonic()
        if self._agent.phase is not Phase.COLLECTING:
            self._telemetry.spans.restart(
                now
            )  # a round may open now: earlier time does not belong to it
        with self._telemetry.spans.during("agent"):
            for effect in self._agent.handle(event, now):
                self._carry_out(effect)

    # -- effects out ----------------------------------------------------------------------------

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Save(state):
                with self._telemetry.spans.span("save", state.round):
                    self._store.save(state)
            case Publish(message):
                with self._telemetry.spans.span("publish", self._agent.round_number):
                    self._send(message)
            case TakeReading():
                reading = self._sampler.request(time.monotonic())
                if reading is not None:
                    self._enqueue(reading)
            case RoundClosed():
                self._telemetry.close_round(effect, self._pools.figures(), self._link)
            case Rejected(sender, reason):
                self._telemetry.reject(sender, reason)
            case Surplus(_, reason):
                self._telemetry.surplus[reason] += 1
            case Restart():
                self.restart_requested = True
            case Stop():
                self._finished = True

    def _send(self, message: Message) -> None:
        payload = wire.encode(message, self._bundle.keys.identity)
        before, retain = time.monotonic(), isinstance(message, Presence)
        sent = self._link.publish(wire.topic_of(message), payload, retain=retain)
        if sent is not None:
            self._telemetry.record_sent(message, sent, before)

    def _publish_claim(self, claim: Claim, payload: bytes) -> None:
        self._link.publish(wire.topic_of(claim), payload, retain=True)

    def _report_health(self, now: float) -> None:
        if not self._telemetry.is_health_due(now):
            return
        health = self._telemetry.report_health(now, self._agent, self._pools.figures())
        self._send(health)
        self._manager.status(f"{health.phase}, round {health.round}")
        self._telemetry.spans.flush()


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
        if is_due(folder, config, _next_round(folder, config)):
            promote(folder, config)
        daemon = Daemon(read_bundle(folder), stopping, manager)
        daemon.run()
        if not daemon.restart_requested:
            return
        log.info("restarting with other neighbours")


def _next_round(folder: Path, config: NodeConfig) -> int:
    """Return the round that the node opens next; without neighbours no round is too early."""
    membership, saved = read_membership(folder, config), read_state(folder)
    if membership is not None and not membership.neighbours:
        return 2**63
    return saved.round if saved else 0


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
