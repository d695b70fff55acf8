"""The protocol of one node as a state machine without I/O. Events go in, effects come out.

Everything that changes the phase of a node is in this file. `collector.py` collects the answers of
the open round, `answerer.py` gives the answers that others await, and `neighbours.py` holds what is
known of each neighbour. `round.py` holds the table of the phases and the deadlines of one round.
`exchange.py` and `sealed.py` make and open the ciphertexts.

**Events and effects.** The caller passes an event and the monotonic time to `Agent.handle`, which
is a generator of effects. The caller carries out each effect before it takes the next one. The code
after `yield Save(...)` therefore runs only when the state is on the disk, and no message can leave
before the state that it belongs to is durable ("save, then send").

**Rounds.** A node runs rounds 0, 1, 2, ... There is no common clock: a query and an answer belong
together when they carry the same round number. To open round k, the node quantises its estimate,
encrypts it, saves the round and publishes one query for all its neighbours. Each neighbour answers
with its part of the coupling term. When every awaited answer is in, the node decrypts their
combination once, computes the next estimate and closes the round. A node answers queries of the
latest HISTORY_ROUNDS rounds that it has opened. It holds the latest query of each neighbour for a
later round until it opens that round.

**Attempts.** If a member of a sealed roster departs or lets its deadline pass, the node starts
another attempt of the round: it publishes the same ciphertexts with a higher attempt number and a
roster without that member. `collector.py` says why the answers to earlier attempts are never
opened, and `answerer.py` why a node answers only one query of each neighbour and round.

**Deadlines.** The node awaits an answer for `answer_timeout_s`, and twice as long from a neighbour
last seen in the round before, since that neighbour may be waiting out a deadline of its own. It
repeats its query RESENDS_PER_TIMEOUT times per timeout. Without a connection to the broker no
deadline passes; after a reconnection the deadlines begin again and the query is sent again. A
round closes when no answer is awaited any more and at least one neighbour has answered.

**Liveness.** A neighbour is *present* if its answers are to be awaited. It becomes *silent* when
its deadline passes, and it *departs* when its presence message says so or the broker publishes its
last will. Neither is awaited until it is heard again, so a silent neighbour costs one deadline and
not one per round. The node reports its own condition in its presence: `ready` when it connects and
when it opens a round, `alert` while the sensor has not given enough readings for a gradient,
`waiting` while its round is open and no answer is awaited, and `finished` after its last round.

**Falling behind.** A node jumps ahead when its present neighbours are two or more rounds ahead (see
`jump_target`). It goes on by one round when no answer is awaited, none has come, and a neighbour
that has spoken on this connection is ahead. Such a neighbour has skipped the round.

**Restarts.** The saved record of a round holds its quantised estimate, seed and query. A restarted
node repeats the open round byte for byte. If only the generation before is readable, the node does
not know what it sent last. It then goes on with a round number that it cannot have used, because
two different estimates under one round number would show the half weights (see `state.py`).

**The end.** A finished node answers its neighbours until all have finished or departed. It stays at
most LINGER_TIMEOUTS answer timeouts after the latest query that it answered, or the latest presence
message of a neighbour.

**Other neighbours.** `MembershipPending` says from which round on the operator has changed the
neighbours. The node does not open that round. It saves its state and requests a `Restart`. A node
without neighbours opens no round. It waits for a membership, and restarts with it at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import assert_never

import msgspec
import numpy as np

from cipherfleet_node.core.events import (
    Connected,
    Disconnected,
    Effect,
    Event,
    MembershipPending,
    MessageReceived,
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
from cipherfleet_node.errors import RemoteProtocolError

from .answerer import Answerer
from .collector import Collector
from .exchange import UNIT
from .messages import Answer, Message, Presence, PresenceState, Query
from .neighbours import UNSEEN, NeighbourTable
from .optimiser import descend
from .quantiser import dequantise, quantise, randomise_start
from .randomness import FloatVector, RoundRandomness
from .round import Phase, Round, Trigger, jump_target, next_phase
from .sample import Sample
from .state import HISTORY_ROUNDS, RoundRecord, State

LINGER_TIMEOUTS = 3.0  # a finished node stays for so many answer timeouts


class Agent:
    """Run the rounds of one node.

    `handle` takes an event and returns effects. `timer` is the time at which the caller must pass
    in `TimerFired`. The agent has no clock and no source of randomness of its own.
    """

    def __init__(self, setup: Setup, state: State) -> None:
        self._setup, self._state = setup, state
        self._phase = Phase.STARTING
        self.neighbours = NeighbourTable(setup.neighbours)
        self.answerer = Answerer(setup)
        self.collector = Collector(setup, self.neighbours)
        self._connected = False
        self._announced: PresenceState | None = None
        self._reading_awaited = False
        self._opened = 0.0  # monotonic time of the open round's first attempt
        self._not_before = 0.0  # the next round must not open before, for fleets with a period
        self._deadline = 0.0  # while starting: end of the wait; when finished: time to stop
        self._boundary: int | None = None  # the first round of the pending membership

    # -- observed by the caller -----------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """The phase that the node is in."""
        return self._phase

    @property
    def round_number(self) -> int:
        """The number of the open round, or of the next one if none is open."""
        return self._state.round

    @property
    def state(self) -> State:
        """The state as `Save` would write it now. Private as a whole."""
        return self._state

    def timer(self) -> float | None:
        """Return the monotonic time at which `TimerFired` must be passed in, or None."""
        if self._phase is Phase.FINISHED:
            return self._deadline
        if self._phase is Phase.STARTING:
            readable = self._reading_awaited or self._setup.objective.ready
            return self._deadline if readable else min(self._deadline, self._not_before)
        if not self._connected:
            return None
        if self._phase is Phase.READING:
            return None if self._reading_awaited else self._not_before
        return self.collector.current.next_time() if self.collector.current else None

    def handle(self, event: Event, now: float) -> Iterator[Effect]:
        """Process one event at monotonic time *now*.

        The caller must take every effect, in order, and carry it out before it takes the next one.
        """
        match event:
            case Started():
                yield from self._start(now)
            case Connected():
                yield from self._connect(now)
            case Disconnected():
                self._connected = False
            case MessageReceived(message, retained):
                try:
                    yield from self._receive(message, now, live=not retained)
                except RemoteProtocolError as error:
                    yield Rejected(message.sender, error.reason)
            case ReadingTaken(samples):
                yield from self._read(samples, now)
            case TimerFired():
                yield from self._on_timer(now)
            case MembershipPending(from_round, revoked):
                self._boundary = from_round
                for name in revoked:
                    yield from self._drop_neighbour(name, now)
                yield from self._restart_if_idle()
            case _:
                assert_never(event)

    # -- starting -------------------------------------------------------------------------------

    def _start(self, now: float) -> Iterator[Effect]:
        self._deadline = now + self._setup.algorithm.start_timeout_s
        yield Save(self._state)
        yield from self._take_reading()

    def _connect(self, now: float) -> Iterator[Effect]:
        self._connected = True
        self.neighbours.begin_connection()
        self._announced = None
        idle: PresenceState = "ready" if self._setup.neighbours else "waiting"
        yield from self._announce("finished" if self._phase is Phase.FINISHED else idle)
        if self._phase is Phase.COLLECTING and self._state.open_record:
            self.collector.begin(self._state.open_record, now)
            yield Publish(self._query(self._state.open_record))
            yield from self._reask_without_silent(now)
        yield from self._proceed(now)

    def _read(self, samples: Sequence[Sample], now: float) -> Iterator[Effect]:
        self._reading_awaited = False
        self._setup.objective.absorb(samples)
        if not self._setup.objective.ready:
            self._not_before = now + self._setup.algorithm.answer_timeout_s
            yield from self._announce("alert")
        yield from self._proceed(now)

    def _take_reading(self) -> Iterator[Effect]:
        self._reading_awaited = True
        yield TakeReading()

    def _announce(self, state: PresenceState) -> Iterator[Effect]:
        if self._connected and state != self._announced:
            self._announced = state
            setup = self._setup
            yield Publish(Presence(setup.fleet, setup.node, self._state.epoch, state))

    # -- moving on ------------------------------------------------------------------------------

    def _proceed(self, now: float) -> Iterator[Effect]:
        """Open the next round, or finish, unless something that it needs is still missing."""
        if self._phase not in (Phase.STARTING, Phase.READING) or not self._connected:
            return
        if self._reading_awaited or now < self._not_before:
            return
        if not self._setup.objective.ready:
            yield from self._take_reading()
            return
        if self._has_run_all_rounds():
            yield from self._finish(now)
        elif self._phase is Phase.STARTING and not self._may_start(now):
            return
        elif self._phase is Phase.STARTING and self._can_repeat():
            yield from self._repeat(now)
        else:
            yield from self._open(now)

    @property
    def _is_at_boundary(self) -> bool:
        if self._boundary is None:
            return False
        return self._state.round >= self._boundary or not self._setup.neighbours

    def _restart_if_idle(self) -> Iterator[Effect]:
        """Restart at once between rounds, or in a round in which no answer is awaited."""
        is_idle = self._phase in (Phase.STARTING, Phase.READING) or (
            self._phase is Phase.COLLECTING and not self.collector.is_awaiting
        )
        if self._is_at_boundary and is_idle:
            yield Save(self._state)
            yield Restart()

    def _may_start(self, now: float) -> bool:
        if not self._setup.neighbours:
            return False
        first = self._setup.first_round
        is_new = not self._state.records or self._state.round < first
        if first and is_new and self.neighbours.latest_round < first:
            # The neighbours do not know this node before they come to its first round.
            return self.neighbours.latest_round == UNSEEN and now >= self._deadline
        if self._can_repeat() or now >= self._deadline:
            return True
        # A node without saved rounds must first learn in which round its neighbours are.
        knows_rounds = bool(self._state.records) or self.neighbours.are_present_live
        return knows_rounds and self.neighbours.are_all_present

    def _can_repeat(self) -> bool:
        return self._state.continuous and self._state.open_record is not None

    def _has_run_all_rounds(self) -> bool:
        rounds = self._setup.algorithm.rounds
        return rounds is not None and self._state.round >= rounds

    def _open(self, now: float) -> Iterator[Effect]:
        """Quantise, encrypt, save and send; then answer the held queries of this round."""
        has_jumped = self._jump_if_behind()
        if self._has_run_all_rounds():
            yield from self._finish(now)
            return
        if self._is_at_boundary:
            yield Save(self._state)
            yield Restart()
            return
        setup, k = self._setup, self._state.round
        randomness = RoundRandomness(setup.new_seed(k))
        estimate = self._estimate(randomness)
        with setup.trace.span("quantise", k):
            quantised = quantise(estimate, setup.resolution, randomness)
        with setup.trace.span("encrypt", k):
            query = setup.exchange.query(quantised)
        present = self.neighbours.present
        roster = setup.exchange.roster(n for n in present if self.collector.remembers(n, k))
        record = RoundRecord(k, quantised, randomness.seed, query, 0, roster)
        self._update(
            estimate=estimate.tolist(),
            records=[*self._state.records, record][-HISTORY_ROUNDS:],
            continuous=True,
        )
        self.answerer.forget_old_rounds(self._state)
        self._phase = next_phase(self._phase, Trigger.OPEN)
        yield Save(self._state)
        if has_jumped:
            yield Save(self._state)  # a second time, so that both generations have the new number
        self._opened = now
        if setup.algorithm.period_s is not None:
            self._not_before = now + setup.algorithm.period_s
        self.collector.begin(record, now)
        yield Publish(self._query(record))
        yield from self._announce("ready")
        yield from self._take_reading()
        yield from self._answer_held(now)
        self.answerer.prepare(record, randomness, self.neighbours.present)

    def _repeat(self, now: float) -> Iterator[Effect]:
        """Send again, byte for byte, the query of the round that was open at the last stop."""
        record = self._state.open_record
        assert record is not None
        self._phase = next_phase(self._phase, Trigger.REPEAT)
        self._opened = now
        self.collector.begin(record, now)
        yield Publish(self._query(record))
        yield from self._take_reading()
        yield from self._answer_held(now)
        yield from self._reask_without_silent(now)
        yield from self._abandon_if_behind(now)

    def _estimate(self, randomness: RoundRandomness) -> FloatVector:
        if self._state.estimate is None:
            start = self._setup.objective.start()
            return randomise_start(start, self._setup.resolution, randomness)
        return np.array(self._state.estimate)

    def _jump_if_behind(self) -> bool:
        target = jump_target(self._state.round, self.neighbours.present_rounds())
        if target is None:
            return False
        # A node whose latest state is lost may have sent queries up to one round ahead of them.
        self._update(round=target if self._state.continuous else target + 2)
        return True

    def _abandon_if_behind(self, now: float) -> Iterator[Effect]:
        if self._phase is not Phase.COLLECTING:
            return
        if jump_target(self._state.round, self.neighbours.present_rounds()) is not None:
            yield from self._abandon_round(now)

    def _abandon_round(self, now: float) -> Iterator[Effect]:
        """Leave the open round without a result, and open a later one."""
        self._phase = next_phase(self._phase, Trigger.JUMP)
        self.collector.end()
        self._reading_awaited = False
        yield from self._open(now)

    # -- asking again ---------------------------------------------------------------------------

    def _reask_without_silent(self, now: float) -> Iterator[Effect]:
        """Start another attempt without the members of the roster that are not awaited any more."""
        record, roster = self._state.open_record, self.collector.remaining_roster()
        if record is None or roster is None:
            return
        narrower = msgspec.structs.replace(record, attempt=record.attempt + 1, roster=roster)
        self._phase = next_phase(self._phase, Trigger.ASK_AGAIN)
        self._update(records=[*self._state.records[:-1], narrower])
        yield Save(self._state)
        self.collector.begin(narrower, now)
        yield Publish(self._query(narrower))

    def _query(self, record: RoundRecord) -> Query:
        setup, state = self._setup, self._state
        return Query(
            fleet=setup.fleet,
            sender=setup.node,
            epoch=state.epoch,
            round=record.number,
            attempt=record.attempt,
            roster=record.roster,
            parameters=setup.parameters,
            key=setup.key_tag,
            ciphertexts=record.query,
        )

    def _receive(self, message: Message, now: float, *, live: bool) -> Iterator[Effect]:
        sender = message.sender
        self._check_receiver(message)
        self._check_epoch(sender, message.epoch)
        if live:
            self.neighbours.mark_live(sender)
        match message:
            case Query():
                yield from self._mark_alive(sender, now)
                yield from self._receive_query(message, now)
            case Answer():
                yield from self._mark_alive(sender, now)
                yield from self._receive_answer(message, now)
            case Presence():
                yield from self._receive_presence(message, now)

    def _check_receiver(self, message: Message) -> None:
        # A broker may deliver messages of topics that this node has not subscribed to.
        if isinstance(message, Answer) and message.receiver != self._setup.node:
            raise RemoteProtocolError("other_receiver", "an answer was meant for another node")
        if not isinstance(message, Query | Answer | Presence):
            raise RemoteProtocolError("other_receiver", "a message was meant for the operator")

    def _check_epoch(self, sender: str, epoch: int) -> None:
        known = self._state.epochs.get(sender, 0)
        if epoch < known:
            raise RemoteProtocolError("stale_epoch", f"{sender!r} sent from an earlier start")
        if epoch > known:
            self.neighbours.begin_epoch(sender)
            self.answerer.forget_held(sender)
            self._update(epochs={**self._state.epochs, sender: epoch})

    def _mark_alive(self, sender: str, now: float) -> Iterator[Effect]:
        """Mark *sender* as present; if it was not, show it in which round this node is."""
        if not self.neighbours.mark_present(sender):
            return
        self.collector.expect(sender, now)
        if self._state.records:
            yield Publish(self._query(self._state.records[-1]))  # carries our round number
        else:
            self._announced = None
            yield from self._announce("ready")

    def _receive_presence(self, message: Presence, now: float) -> Iterator[Effect]:
        sender = message.sender
        if message.state in ("lost", "disconnected"):
            yield from self._drop_neighbour(sender, now)
            yield from self._stop_if_served(now)
        elif message.state != "init":
            self.neighbours.arrive(sender, finished=message.state == "finished")
            yield from self._mark_alive(sender, now)
            self.collector.close_idle_round()
            yield from self._close_if_complete(now)
            yield from self._stop_if_served(now)
            yield from self._proceed(now)

    def _drop_neighbour(self, name: str, now: float) -> Iterator[Effect]:
        """Mark *name* as departed, and go on with the open round without it."""
        self.neighbours.depart(name)
        self.collector.stop_waiting_for(name)
        yield from self._reask_without_silent(now)
        yield from self._close_if_complete(now)

    # -- queries and answers --------------------------------------------------------------------

    def _receive_query(self, query: Query, now: float) -> Iterator[Effect]:
        sender, setup = query.sender, self._setup
        if query.parameters != setup.parameters:
            raise RemoteProtocolError("parameters", f"{sender!r} runs under other parameters")
        if query.key != setup.neighbours[sender]:
            raise RemoteProtocolError("other_key", f"{sender!r} uses a key that is not pinned")
        setup.exchange.is_addressed(query)  # raises for an invalid roster, also of a later round
        self.neighbours.record_round(sender, query.round)
        self.collector.close_idle_round()
        opened = self._state.records[-1].number if self._state.records else -1
        if query.round > opened or self._phase is Phase.STARTING:
            self.answerer.hold(query)
            current = self.collector.current
            if current and not self.collector.remembers(sender, current.number):
                current.stop_waiting_for(sender)
                yield from self._reask_without_silent(now)
            yield from self._abandon_if_behind(now)
            yield from self._close_if_complete(now)
            yield from self._proceed(now)
        else:
            yield from self._answer(query, now)
            yield from self._close_if_complete(now)

    def _answer_held(self, now: float) -> Iterator[Effect]:
        for query in self.answerer.release(self._state.round):
            try:
                yield from self._answer(query, now)
            except RemoteProtocolError as error:
                yield Rejected(query.sender, error.reason)

    def _answer(self, query: Query, now: float) -> Iterator[Effect]:
        yield from self.answerer.answer(query, self._state)
        yield from self._stop_if_served(now)

    def _receive_answer(self, answer: Answer, now: float) -> Iterator[Effect]:
        current, record = self.collector.current, self._state.open_record
        if current is None or record is None or answer.round != current.number:
            is_early = answer.round >= self._state.round
            yield Surplus(answer.sender, "early_answer" if is_early else "late_answer")
            return
        surplus = self.collector.receive(answer, self._query(record))
        if surplus:
            yield surplus
        else:
            yield from self._close_if_complete(now)

    # -- closing --------------------------------------------------------------------------------

    def _close_if_complete(self, now: float) -> Iterator[Effect]:
        if self._phase is Phase.COLLECTING and self.collector.is_complete:
            yield from self._close(now)

    def _close(self, now: float) -> Iterator[Effect]:
        """Open the answers, compute the next estimate and go on to the next round."""
        setup, record = self._setup, self._state.open_record
        assert record is not None
        k = record.number
        randomness, estimate = RoundRandomness(record.seed), np.array(self._state.estimate)
        term = self.collector.open_answers(randomness)
        for name in term.out_of_range:
            yield Rejected(name, "out_of_range")
        if term.included:  # without a coupling term the node would move to its own optimum
            coupling = dequantise(term.combined, setup.resolution * UNIT)
            with setup.trace.span("gradient", k):
                gradient = setup.objective.gradient(estimate, randomness)
            with setup.trace.span("update", k):
                estimate = descend(estimate, coupling, gradient, k, setup.algorithm, randomness)
        self._update(estimate=estimate.tolist(), round=k + 1)
        self._phase = next_phase(self._phase, Trigger.CLOSE)
        self.collector.end()
        silent = tuple(sorted(setup.neighbours.keys() - term.included))
        spoiled = term.out_of_range if setup.exchange.sealed else ()
        yield RoundClosed(k, self._opened, silent, estimate, spoiled)
        yield from self._proceed(now)

    # -- time -----------------------------------------------------------------------------------

    def _on_timer(self, now: float) -> Iterator[Effect]:
        if self._phase is Phase.FINISHED:
            if now >= self._deadline:
                yield Stop()
        elif self._phase is Phase.COLLECTING:
            yield from self._on_timer_collecting(now)
        else:
            yield from self._proceed(now)
            if self._phase is Phase.STARTING and now >= self._deadline:
                # There is no reading or no broker yet. Try again later, without a limit.
                self._deadline = now + self._setup.algorithm.answer_timeout_s

    def _on_timer_collecting(self, now: float) -> Iterator[Effect]:
        if self.collector.current is None or not self._connected:
            return
        self.collector.stop_waiting_for_overdue(now)
        yield from self._reask_without_silent(now)
        current = self.collector.current
        if current.complete:
            yield from self._close(now)
        elif self._is_left_alone(current, now):
            yield from self._finish(now)
        elif not current.deadlines and self.neighbours.is_live_neighbour_beyond(current.number):
            # That neighbour has skipped this round, for example after damage to its state. The
            # node advances by one round at a time: the generation of its state before the latest
            # is then at most one round behind it.
            self._update(round=current.number + 1)
            yield from self._abandon_round(now)
        elif now >= current.resend_at:
            if not current.deadlines:
                yield from self._announce("waiting")
            current.note_resend(now)
            yield Publish(self._query(self._state.records[-1]))

    def _is_left_alone(self, current: Round, now: float) -> bool:
        """True if every neighbour has finished and none stays any longer to answer this node."""
        linger_s = LINGER_TIMEOUTS * self._setup.algorithm.answer_timeout_s
        is_alone = self.neighbours.have_all_finished and not current.deadlines
        return is_alone and now >= current.opened + linger_s

    # -- the end --------------------------------------------------------------------------------

    def _finish(self, now: float) -> Iterator[Effect]:
        self._phase = next_phase(self._phase, Trigger.FINISH)
        self.collector.end()
        self._deadline = now + LINGER_TIMEOUTS * self._setup.algorithm.answer_timeout_s
        yield Save(self._state)
        yield from self._announce("finished")
        yield from self._answer_held(now)
        yield from self._stop_if_served(now)

    def _stop_if_served(self, now: float) -> Iterator[Effect]:
        """Stop a finished node if every neighbour has finished or departed; else stay longer.

        It is not enough to have answered every neighbour: a broker may deliver the presence
        `disconnected` before the answer.
        """
        if self._phase is not Phase.FINISHED:
            return
        if self.neighbours.have_all_left:
            yield Stop()
        else:
            self._deadline = now + LINGER_TIMEOUTS * self._setup.algorithm.answer_timeout_s

    def _update(self, **changes: object) -> None:
        self._state = msgspec.structs.replace(self._state, **changes)
