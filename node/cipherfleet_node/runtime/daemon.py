"""The daemon of a node: it connects the agent to the sensor, the disk, the network and the clock.

One thread runs the loop: it takes an event from a queue, passes it to the agent and carries out the
effects. Other threads only put events into the queue: the MQTT client and the sampler. The threads
of the pools compute obfuscators.

All of it is in one file: the loop, the events that come in and the effects that go out share the
same parts, and their order decides what a crash leaves.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from contextlib import suppress

from cipherfleet_node.core import topics, wire
from cipherfleet_node.core.events import (
    Connected,
    Disconnected,
    Effect,
    Event,
    LateCoupling,
    MessageReceived,
    Note,
    Publish,
    ReadingTaken,
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
from cipherfleet_node.core.messages import Claim, Membership, Message, Presence, Reply
from cipherfleet_node.core.round import Phase
from cipherfleet_node.errors import (
    BrokerUnreachable,
    IdentityClash,
    NothingExchanged,
    WireError,
)

from .answer_outputs import AnswerOutputs
from .assembly import (
    make_agent,
    make_limits,
    make_link,
    make_verifiers,
    obfuscator_sources,
    patience_s,
    raise_epoch,
)
from .bundle import Bundle
from .epochs import answer_to, new_epoch
from .event_queue import EventQueue
from .heartbeat import BEAT_EVERY_S, Heartbeat
from .kept_window import KeptWindow
from .membership_updates import MembershipUpdates
from .metrics_output import MetricsOutput
from .mqtt import Arrived, LinkDown, LinkRefused, LinkUp
from .obfuscator_pools import Pools, release_interpreter_during_powers
from .outbox import Outbox
from .own_presence import Conclusion, OwnPresence
from .sampler import Sampled, Sampler
from .self_test import check_exchanges
from .start_warnings import start_warnings
from .store import Store
from .systemd import ServiceManager
from .telemetry import Telemetry

log = logging.getLogger(__name__)

LEAVE_WITHIN_S = 5.0
CLOSE_WITHIN_S = 2.0  # after a signal to stop, for the round that is open
IDLE_S = 1.0  # the longest wait for an event, so that signals and the watchdog are served


class Daemon:
    """Run one node until it has finished, must stop or restart, or cannot go on."""

    def __init__(
        self,
        bundle: Bundle,
        stopping: threading.Event | None = None,
        manager: ServiceManager | None = None,
        epoch: int | None = None,
    ) -> None:
        """Prepare the node of *bundle*; *epoch* is that of this start, None: a new one."""
        began = time.monotonic()
        self._bundle, self._config = bundle, bundle.config
        self._store = Store(bundle.folder)  # first: it refuses a second daemon in this folder
        self._events = EventQueue()
        self._stopping = stopping or threading.Event()
        self._finished = False
        self._gave_up = False
        self.restart_requested = False  # with other neighbours, or with `next_epoch`
        self.next_epoch: int | None = None  # of the requested restart; None: a new one
        self._alive_at = 0.0
        # Without neighbours no round is due: the operator may add some days later.
        patience = patience_s(self._config) if bundle.neighbours else math.inf
        self._telemetry = Telemetry(bundle.folder, self._config, began, patience)
        self._heartbeat = Heartbeat(bundle.folder, patience)
        self._manager = manager or ServiceManager()
        self._sampler = Sampler(bundle.sensor, self._config.source.timeout_s, self._enqueue)
        check_exchanges(bundle.keys.paillier, bundle.neighbours_paillier)
        crypto = self._config.crypto
        self._pools = Pools(obfuscator_sources(bundle), crypto.pool, crypto.pool_threads)
        self._verifiers, self._limits = make_verifiers(bundle), make_limits(bundle)
        self._updates = MembershipUpdates(
            bundle, self._verifiers, self._telemetry.reject, self._publish_claim
        )
        self._window = KeptWindow(bundle, began, time.time())  # before the agent asks for readings
        saved = self._store.load()
        self._agent = make_agent(
            bundle, self._store, saved, self._pools, self._telemetry.spans, epoch
        )
        self._own = OwnPresence(saved.epoch if saved else 0, self._agent.state.epoch)
        self._has_clashed = False
        self._presence: Presence | None = None  # the latest that was sent
        self._outbox = Outbox(self._store, self._telemetry.spans, self._send)
        self._metrics = MetricsOutput(self._config)
        self._answers = AnswerOutputs(bundle, began, self._metrics.sinks)
        self._link = make_link(bundle, self._agent.state.epoch, self._enqueue)

    # -- running --------------------------------------------------------------------------------

    def stop(self) -> None:
        """End the loop after the present event; safe to call from a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Run to the end; raises CipherfleetError for a problem that needs the operator."""
        release_interpreter_during_powers()
        for warning in start_warnings(self._config):
            log.warning(warning)
        self._pools.start()
        self._sampler.start()
        try:
            self._handle(Started())
            if (pending := self._updates.pending()) is not None:
                self._handle(pending)
            self._store.record_start(self._bundle.keys.public.fingerprint)
            self._link.start()
            self._manager.ready()
            self._telemetry.spans.begin_loop()
            while not (self._stopping.is_set() or self._finished or self.restart_requested):
                self._step()
            if self._stopping.is_set():
                self._close_open_round()
            self._outbox.flush()
        finally:
            self._shut_down()
        if self._gave_up:
            raise NothingExchanged(
                f"{self._config.node}: has coupled {self._agent.state.coupled} of "
                f"{self._config.algorithm.rounds} rounds and gives up, since no neighbour answers",
                remedy="start the nodes that its log names (`no answer of`), then this one",
            )

    def _close_open_round(self) -> None:
        """Go on until the open round is closed: its answers have gone out to the neighbours.

        It takes CLOSE_WITHIN_S at most. The closed round is saved, so it is not repeated.
        """
        deadline = time.monotonic() + CLOSE_WITHIN_S
        while self._agent.phase is Phase.COLLECTING and time.monotonic() < deadline:
            if self._finished or self.restart_requested:
                return
            self._step()
        if self._agent.phase is Phase.READING and not self.restart_requested:
            self._outbox.save(self._agent.state)

    def _step(self) -> None:
        wake = self._agent.timer()
        if self._events.is_empty or self._outbox.is_due(time.monotonic()):
            self._outbox.flush()
        now = time.monotonic()
        due = min(self._sampler.deadline, math.inf if wake is None else wake)
        nap = min(max(due - now, 0.0), IDLE_S)
        with suppress(queue.Empty):
            self._dispatch(self._await_event(now, nap))
        now = time.monotonic()
        if (overdue := self._sampler.overdue(now)) is not None:
            self._take_in(overdue)
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
            self._heartbeat.beat(
                now,
                self._agent.round_number,
                self._telemetry.closed_at,
                self._telemetry.unanswered.duration_s(now),
            )
        self._report_health(now)
        self._window.save_if_due(now, time.time())
        self._answers.tend(now, self._agent)

    def _shut_down(self) -> None:
        if self._own.has_spoken and not self._has_clashed:
            self._say_goodbye()
        self._link.stop(0.0 if self._has_clashed else LEAVE_WITHIN_S)
        if not (self.restart_requested or self._has_clashed):  # else the process goes on
            self._manager.stopping()
        self._pools.close()
        self._sampler.close()
        self._answers.close()
        self._metrics.close()
        self._telemetry.spans.flush(now=True)
        self._telemetry.collection.close()
        self._heartbeat.stop()
        self._window.save(time.monotonic(), time.time())
        self._store.close()

    def _say_goodbye(self) -> None:
        config = self._config
        if not self._finished:  # the presence `finished` stays retained
            self._send(Presence(config.fleet, config.node, self._agent.state.epoch, "disconnected"))
        self._report_health(math.inf)  # the final counts

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
                self._connect()
            case LinkDown():
                log.warning("connection to the broker lost; reconnecting")
                self._handle(Disconnected())
            case LinkRefused(reason):
                raise BrokerUnreachable(reason)
            case Sampled(began=began, ended=ended):
                self._telemetry.spans.add("sample", self._agent.round_number, began, ended)
                reading = self._sampler.accept(event)
                if reading is not None:
                    self._take_in(reading)

    def _take_in(self, reading: ReadingTaken) -> None:
        self._answers.read(reading.samples)
        if reading.samples:
            self._telemetry.read_at = time.monotonic()
        self._handle(reading)

    def _connect(self) -> None:
        log.info("connected to the broker")
        self._telemetry.connections += 1
        if self.next_epoch is not None:
            return
        self._own.has_spoken = True
        self._updates.claim_again()
        self._telemetry.request_health()
        self._handle(Connected())

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
                    limits=self._limits,
                )
        except WireError as error:
            self._reject_undecoded(arrived, error.reason)
            return
        if isinstance(message, Membership):
            opened = self._agent.round_number
            pending = self._updates.take(message, arrived.payload, opened)
            if pending is not None:
                self._handle(pending)
        elif message.sender == self._config.node:
            self._receive_own(message, is_live=not arrived.retained)
        else:
            self._telemetry.hear(message, arrived.at, is_live=not arrived.retained)
            if isinstance(message, Reply) and self._agent.awaits_one_answer:
                self._outbox.flush()
            self._handle(MessageReceived(message, arrived.retained))

    def _name_sender(self, topic: str) -> str:
        """Return the sender on *topic* for the log, if it is known: a broker may write anything."""
        sender = topics.sender_of(topic)
        known = self._verifiers.keys() - {self._config.node}
        return sender if sender in known else "a stranger"

    def _reject_undecoded(self, arrived: Arrived, reason: str) -> None:
        own = topics.presence_topic(self._config.fleet, self._config.node)
        if arrived.topic == own and not self._own.has_spoken:
            return  # signed with the keys that this node had before
        self._telemetry.reject(self._name_sender(arrived.topic), reason)

    def _receive_own(self, message: Message, *, is_live: bool) -> None:
        """Compare a presence of this node with the epoch of this start; see own_presence.py.

        Raises IdentityClash if a device with this identity was there first.
        """
        if isinstance(message, Presence):
            self._conclude(message, is_live=is_live)
        else:  # a node does not subscribe to its own queries and answers
            self._telemetry.reject(message.sender, "other_receiver")

    def _conclude(self, own: Presence, *, is_live: bool) -> None:
        node, conclusion = self._config.node, self._own.judge(own.epoch)
        if conclusion is Conclusion.WAS_FIRST:
            self._has_clashed = True
            raise IdentityClash(
                f"another device with the identity of {node!r} was there first: this one runs from "
                "a copy of its card",
                remedy="switch off one of them, and get a bundle of its own for the second device",
            )
        if conclusion is Conclusion.STARTED_LATER:
            log.warning(
                "another device was started later with the identity of this node, from a copy of "
                "its card: it must be switched off; this node goes on"
            )
            self._restart_with(answer_to(own.epoch))
        elif conclusion is Conclusion.STATE_IS_OLD:
            log.warning("the saved state does not know the latest start of this node")
            self._restart_with(new_epoch(max(own.epoch, self._own.epoch), time.time()))
        elif is_live and own.epoch == self._own.epoch and own.state == "lost" and self._presence:
            # The will of a connection that this node has left: its neighbours take it for gone.
            self._send(self._presence)

    def _restart_with(self, epoch: int) -> None:
        """Request a restart with *epoch*, which is saved before any message carries it."""
        if not self.restart_requested:
            self._outbox.save(raise_epoch(self._agent.state, epoch))
            self.next_epoch, self.restart_requested = epoch, True

    def _handle(self, event: Event) -> None:
        if self.next_epoch is not None:
            return  # the agent must not save or send with the former epoch any more
        now = time.monotonic()
        if self._agent.phase is not Phase.COLLECTING:
            # A round may open now: earlier time does not belong to it.
            self._telemetry.spans.restart(now)
        with self._telemetry.spans.during("agent"):
            for effect in self._agent.handle(event, now):
                self._carry_out(effect)
                if isinstance(effect, RoundClosed) and self._stopping.is_set():
                    return  # the next round would only be left open

    # -- effects out ----------------------------------------------------------------------------

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Save(state):
                self._outbox.save(state)
            case Note(entry):
                self._outbox.note(entry)
            case Publish(message):
                self._outbox.put(message, time.monotonic())
            case TakeReading():
                is_urgent = not self._bundle.objective.ready
                self._sampler.request(time.monotonic(), is_urgent=is_urgent)
            case RoundClosed():
                self._telemetry.close_round(effect, self._pools.figures(), self._link)
                if effect.is_coupled:
                    self._answers.couple()
            case LateCoupling(number):
                log.info("round %d is coupled after all: its last answer has come", number)
            case Rejected(sender, reason):
                self._telemetry.reject(sender, reason)
            case Surplus(_, reason):
                self._telemetry.surplus[reason] += 1
            case Restart():
                self.restart_requested = True
            case Stop(is_complete):
                self._finished = True
                self._gave_up = not is_complete

    def _send(self, message: Message) -> None:
        with self._telemetry.spans.span("publish", self._agent.round_number):
            self._publish(message)

    def _publish(self, message: Message) -> None:
        payload = wire.encode(message, self._bundle.keys.identity)
        if retain := isinstance(message, Presence):
            self._presence = message
        before = time.monotonic()
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
        if self._metrics.is_on:
            self._metrics.show(now, self._telemetry.figures(health, self._agent, self._link))
        if self._agent.needs_operator:
            self._telemetry.warn_that_no_round_is_known()
        alone = f", NO ANSWER FOR {health.unanswered_s} s" if health.unanswered_s else ""
        self._manager.status(f"{health.phase}, round {health.round}{alone}")
        self._telemetry.spans.flush()
