"""One participant of the algorithm, without I/O: events in, effects out.

The shell hands in events with the monotonic time and carries out each effect before it takes the
next one from the iterator: that is how "save, then send" is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import assert_never

import msgspec
import numpy as np
from gmpy2 import mpz

from cipherfleet_node.core.events import (  # moved
    Connected,
    Disconnected,
    Effect,
    Event,
    MembershipPending,
    MessageReceived,
    Publish,
    ReadingTaken,
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
from cipherfleet_node.errors import RemoteProtocolError

from .exchange import UNIT
from .messages import Answer, Message, Presence, PresenceState, Query
from .neighbours import UNSEEN, Neighbourhood
from .optimiser import descend
from .quantiser import dequantise, quantise, randomise_start
from .randomness import Draws, FloatVector
from .round import Phase, Round, Trigger, jump_target, next_phase
from .sample import Sample
from .state import HISTORY_ROUNDS, RoundRecord, State

RESENDS_PER_TIMEOUT = 2
LINGER_TIMEOUTS = 3.0  # how many answer timeouts a finished node stays for the others


# -- what the agent is made of ------------------------------------------------------------------


# -- events -------------------------------------------------------------------------------------


# -- effects ------------------------------------------------------------------------------------


class Agent:
    """Runs the rounds of one node. `handle` takes events, `timer` tells when to come back."""

    def __init__(self, setup: Setup, state: State) -> None:
        self._setup, self._state = setup, state
        self._phase = Phase.STARTING
        self._round: Round | None = None
        self._answers: dict[str, Sequence[mpz]] = {}  # to the open round's query, checked
        self._prepared: dict[str, list[mpz]] = {}  # for the open round, each used once
        self._neighbours = Neighbourhood(setup.neighbours)
        self._held: dict[str, Query] = {}  # queries for rounds to come, the latest of each
        self._sent: dict[tuple[str, int], tuple[Query, Answer]] = {}  # by asker and round
        self._connected = False
        self._announced: PresenceState | None = None
        self._reading_awaited = False
        self._opened = 0.0  # when the open round was opened, by its first attempt
        self._not_before = 0.0  # when the next round may open, for fleets with a period
        self._deadline = 0.0  # of starting, or of lingering
        self._boundary: int | None = None  # the round that others are to be opened with

    # -- what the shell sees --------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """Where the node stands."""
        return self._phase

    @property
    def round_number(self) -> int:
        """The round being run, or next to open."""
        return self._state.round

    @property
    def state(self) -> State:
        """What would be saved now. Private."""
        return self._state

    def timer(self) -> float | None:
        """Monotonic time at which TimerFired is wanted, or None."""
        if self._phase is Phase.FINISHED:
            return self._deadline
        if self._phase is Phase.STARTING:
            readable = self._reading_awaited or self._setup.objective.ready
            return self._deadline if readable else min(self._deadline, self._not_before)
        if not self._connected:
            return None
        if self._phase is Phase.READING:
            return None if self._reading_awaited else self._not_before
        return self._round.next_time() if self._round else None

    def handle(self, event: Event, now: float) -> Iterator[Effect]:
        """Take in one event; the effects must be carried out in order and to the last."""
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
                yield from self._tick(now)
            case MembershipPending(from_round, revoked):
                self._boundary = from_round
                for name in revoked:
                    yield from self._lose(name, now)
                yield from self._switch_if_idle()
            case _:
                assert_never(event)

    # -- starting -------------------------------------------------------------------------------

    def _start(self, now: float) -> Iterator[Effect]:
        self._deadline = now + self._setup.algorithm.start_timeout_s
        yield Save(self._state)
        yield from self._take_reading()

    def _connect(self, now: float) -> Iterator[Effect]:
        self._connected = True
        self._neighbours.reconnected()
        self._announced = None
        yield from self._announce("finished" if self._phase is Phase.FINISHED else "ready")
        if self._phase is Phase.COLLECTING and self._state.open_record:
            self._begin_collecting(self._state.open_record, now)
            yield Publish(self._query(self._state.open_record))
            yield from self._narrow(now)
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
        """Open the next round if everything for it is there."""
        if self._phase not in (Phase.STARTING, Phase.READING) or not self._connected:
            return
        if self._reading_awaited or now < self._not_before:
            return
        if not self._setup.objective.ready:
            yield from self._take_reading()
            return
        if self._rounds_done():
            yield from self._finish(now)
        elif self._phase is Phase.STARTING and not self._may_start(now):
            return
        elif self._phase is Phase.STARTING and self._repeatable():
            yield from self._repeat(now)
        else:
            yield from self._open(now)

    @property
    def _at_boundary(self) -> bool:
        return self._boundary is not None and self._state.round >= self._boundary

    def _switch_if_idle(self) -> Iterator[Effect]:
        """Between rounds, or in one that nobody answers, there is nothing to finish first."""
        idle = self._phase in (Phase.STARTING, Phase.READING) or (
            self._round is not None and not self._round.deadlines
        )
        if self._at_boundary and idle:
            yield Save(self._state)
            yield Switch()

    def _may_start(self, now: float) -> bool:
        first = self._setup.first_round
        if first and not self._state.records and self._neighbours.farthest < first:
            # Before somebody has come to that round this node is nobody's neighbour.
            return self._neighbours.farthest == UNSEEN and now >= self._deadline
        if self._repeatable() or now >= self._deadline:
            return True
        # Without a memory of its own a node must know first in which round the others are.
        heard = bool(self._state.records) or self._neighbours.all_live
        return heard and self._neighbours.all_there

    def _repeatable(self) -> bool:
        return self._state.continuous and self._state.open_record is not None

    def _rounds_done(self) -> bool:
        rounds = self._setup.algorithm.rounds
        return rounds is not None and self._state.round >= rounds

    def _open(self, now: float) -> Iterator[Effect]:
        """Quantise, encrypt, save, send; then answer those who were early."""
        jumped = self._jump_if_behind()
        if self._rounds_done():
            yield from self._finish(now)
            return
        if self._at_boundary:
            yield Save(self._state)
            yield Switch()
            return
        setup, k = self._setup, self._state.round
        draws = Draws(setup.new_seed(k))
        estimate = self._estimate(draws)
        with setup.trace.span("quantise", k):
            quantised = quantise(estimate, setup.resolution, draws)
        with setup.trace.span("encrypt", k):
            query = setup.exchange.query(quantised)
        roster = setup.exchange.roster(n for n in self._neighbours.present if self._remembers(n, k))
        record = RoundRecord(k, quantised, draws.seed, query, 0, roster)
        self._update(
            estimate=estimate.tolist(),
            records=[*self._state.records, record][-HISTORY_ROUNDS:],
            continuous=True,
        )
        self._forget_old_answers()
        self._phase = next_phase(self._phase, Trigger.OPEN)
        yield Save(self._state)
        if jumped:
            yield Save(self._state)  # both generations must know of the jump
        self._opened = now
        if setup.algorithm.period_s is not None:
            self._not_before = now + setup.algorithm.period_s
        self._begin_collecting(record, now)
        yield Publish(self._query(record))
        yield from self._announce("ready")
        yield from self._take_reading()
        yield from self._answer_held(now)
        self._prepare(record, draws)

    def _repeat(self, now: float) -> Iterator[Effect]:
        """Send the query of the round that was open when the node stopped, byte for byte."""
        record = self._state.open_record
        assert record is not None
        self._phase = next_phase(self._phase, Trigger.REPEAT)
        self._opened = now
        self._begin_collecting(record, now)
        yield Publish(self._query(record))
        yield from self._take_reading()
        yield from self._answer_held(now)
        yield from self._narrow(now)
        yield from self._leave_if_behind(now)

    def _prepare(self, record: RoundRecord, draws: Draws) -> None:
        """While the others work, make all of the answers that does not need their queries."""
        unanswered = (n for n in self._neighbours.present if (n, record.number) not in self._sent)
        with self._setup.trace.span("prepare", record.number):
            for neighbour in unanswered:
                self._prepared[neighbour] = self._setup.exchange.prepare(
                    neighbour, record.quantised, draws
                )

    def _estimate(self, draws: Draws) -> FloatVector:
        if self._state.estimate is None:
            start = self._setup.objective.start()
            return randomise_start(start, self._setup.resolution, draws)
        return np.array(self._state.estimate)

    def _jump_if_behind(self) -> bool:
        target = jump_target(self._state.round, self._neighbours.rounds())
        if target is None:
            return False
        # A node that has lost its memory may have sent anything up to one round ahead of them.
        self._update(round=target if self._state.continuous else target + 2)
        return True

    def _leave_if_behind(self, now: float) -> Iterator[Effect]:
        if self._phase is not Phase.COLLECTING:
            return
        if jump_target(self._state.round, self._neighbours.rounds()) is not None:
            yield from self._leave(now)

    def _leave(self, now: float) -> Iterator[Effect]:
        """Give up the open round for a later one."""
        self._phase = next_phase(self._phase, Trigger.JUMP)
        self._round = None
        self._reading_awaited = False
        yield from self._open(now)

    # -- collecting -----------------------------------------------------------------------------

    def _begin_collecting(self, record: RoundRecord, now: float) -> None:
        timeout = self._setup.algorithm.answer_timeout_s
        current, self._round = (
            self._round,
            Round(record.number, now, timeout / RESENDS_PER_TIMEOUT, record.attempt),
        )
        if current and (current.number, current.attempt) == (record.number, record.attempt):
            self._round.answered = current.answered
        else:
            self._answers = {}
        for neighbour in record.roster or sorted(self._neighbours.present):
            self._expect(neighbour, now)
        self._follow()

    def _expect(self, neighbour: str, now: float) -> None:
        """Wait for *neighbour*, unless it is not asked or has forgotten this round."""
        current, record = self._round, self._state.open_record
        if current is None or record is None:
            return
        asked = neighbour in record.roster or not record.roster
        known = neighbour in self._neighbours.names  # a saved roster may be of an earlier graph
        if not (known and asked and self._remembers(neighbour, current.number)):
            return
        theirs = self._neighbours.round_of(neighbour)
        # Seen in the round before, it may be waiting out a deadline of its own: it gets two.
        deadlines = 2 if theirs == current.number - 1 else 1
        current.expect(neighbour, now + deadlines * self._setup.algorithm.answer_timeout_s)

    def _remembers(self, neighbour: str, round_number: int) -> bool:
        """Whether *neighbour* is not so far ahead that it has forgotten *round_number*."""
        return self._neighbours.round_of(neighbour) < round_number + HISTORY_ROUNDS

    @property
    def _holding(self) -> bool:
        """Whether the open round asks nobody, since too few are there for a sealed exchange.

        The estimate is held. The round closes when anybody has gone beyond it, so that nobody is
        held up, or at a deadline, so that rounds are not run through idly.
        """
        record = self._state.open_record
        return self._setup.exchange.sealed and record is not None and not record.roster

    def _follow(self) -> None:
        """Let a round that asks nobody close when somebody has gone beyond it."""
        current = self._round
        if current and self._holding:
            for neighbour in self._neighbours.beyond(current.number):
                current.receive(neighbour)
                current.deadlines.clear()

    def _narrow(self, now: float) -> Iterator[Effect]:
        """Sealed answers open only together: without one of the roster, ask the others again."""
        current, record = self._round, self._state.open_record
        if current is None or record is None:
            return
        left = [n for n in record.roster if n in current.answered or n in current.deadlines]
        if len(left) == len(record.roster):
            return
        narrower = msgspec.structs.replace(
            record, attempt=record.attempt + 1, roster=self._setup.exchange.roster(left)
        )
        self._phase = next_phase(self._phase, Trigger.ASK_AGAIN)
        self._update(records=[*self._state.records[:-1], narrower])
        yield Save(self._state)
        self._begin_collecting(narrower, now)
        yield Publish(self._query(narrower))

    def _query(self, record: RoundRecord) -> Query:
        setup, state = self._setup, self._state
        return Query(
            setup.fleet,
            setup.node,
            state.epoch,
            record.number,
            record.attempt,
            record.roster,
            setup.parameters,
            setup.key_tag,
            record.query,
        )

    def _receive(self, message: Message, now: float, *, live: bool) -> Iterator[Effect]:
        sender = message.sender
        self._check_receiver(message)
        self._check_epoch(sender, message.epoch)
        if live:
            self._neighbours.spoke(sender)
        match message:
            case Query():
                yield from self._hear(sender, now)
                yield from self._receive_query(message, now)
            case Answer():
                yield from self._hear(sender, now)
                yield from self._receive_answer(message, now)
            case Presence():
                yield from self._receive_presence(message, now)

    def _check_receiver(self, message: Message) -> None:
        # A broker may bring what was never subscribed to, on the very topic it was meant for.
        if isinstance(message, Answer) and message.receiver != self._setup.node:
            raise RemoteProtocolError("other_receiver", "an answer was meant for another node")
        if not isinstance(message, Query | Answer | Presence):
            raise RemoteProtocolError("other_receiver", "a message was meant for the operator")

    def _check_epoch(self, sender: str, epoch: int) -> None:
        known = self._state.epochs.get(sender, 0)
        if epoch < known:
            raise RemoteProtocolError("stale_epoch", f"{sender!r} sent from an earlier start")
        if epoch > known:
            self._neighbours.started_anew(sender)
            self._held.pop(sender, None)
            self._update(epochs={**self._state.epochs, sender: epoch})

    def _hear(self, sender: str, now: float) -> Iterator[Effect]:
        """Signs of life bring a neighbour back among those waited for, and are returned."""
        if not self._neighbours.hear(sender):
            return
        if self._round is not None and sender not in self._round.answered:
            self._expect(sender, now)
        if self._state.records:
            yield Publish(self._query(self._state.records[-1]))  # tells it where we are
        else:
            self._announced = None
            yield from self._announce("ready")

    def _receive_presence(self, message: Presence, now: float) -> Iterator[Effect]:
        sender = message.sender
        if message.state in ("lost", "disconnected"):
            yield from self._lose(sender, now)
            yield from self._stop_if_served(now)
        elif message.state != "init":
            self._neighbours.arrive(sender, finished=message.state == "finished")
            yield from self._hear(sender, now)
            self._follow()
            yield from self._close_if_complete(now)
            yield from self._stop_if_served(now)
            yield from self._proceed(now)

    def _lose(self, name: str, now: float) -> Iterator[Effect]:
        """*name* is gone: the open round does without it."""
        self._neighbours.depart(name)
        if self._round:
            self._round.excuse(name)
        yield from self._narrow(now)
        yield from self._close_if_complete(now)

    # -- queries and answers --------------------------------------------------------------------

    def _receive_query(self, query: Query, now: float) -> Iterator[Effect]:
        sender, setup = query.sender, self._setup
        if query.parameters != setup.parameters:
            raise RemoteProtocolError("parameters", f"{sender!r} runs under other parameters")
        if query.key != setup.neighbours[sender]:
            raise RemoteProtocolError("other_key", f"{sender!r} uses a key that is not its pinned")
        setup.exchange.asked(query)  # a roster that is out of order is not held either
        self._neighbours.claim(sender, query.round)
        self._follow()
        opened = self._state.records[-1].number if self._state.records else -1
        if query.round > opened or self._phase is Phase.STARTING:
            self._hold(query)
            if self._round and not self._remembers(sender, self._round.number):
                self._round.excuse(sender)
                yield from self._narrow(now)
            yield from self._leave_if_behind(now)
            yield from self._close_if_complete(now)
            yield from self._proceed(now)
        else:
            yield from self._answer(query, now)
            yield from self._close_if_complete(now)

    def _hold(self, query: Query) -> None:
        """Keep *query* for its round, unless a later one of its sender is kept already."""
        held = self._held.get(query.sender)
        if held is None or (query.round, query.attempt) >= (held.round, held.attempt):
            self._held[query.sender] = query

    def _answer_held(self, now: float) -> Iterator[Effect]:
        for sender, query in list(self._held.items()):
            if query.round <= self._state.round:
                del self._held[sender]
                try:
                    yield from self._answer(query, now)
                except RemoteProtocolError as error:
                    yield Rejected(sender, error.reason)

    def _answer(self, query: Query, now: float) -> Iterator[Effect]:
        sender, k = query.sender, query.round
        record = next((r for r in self._state.records if r.number == k), None)
        if record is None:
            raise RemoteProtocolError("stale_round", f"{sender!r} asked for a round long closed")
        if not self._setup.exchange.asked(query):
            return
        before, answer = self._sent.get((sender, k), (None, None))
        if before and query.attempt < before.attempt:
            raise RemoteProtocolError("stale_attempt", f"{sender!r} was answered a later attempt")
        if before and query.digest != before.digest and not _narrows(query, before):
            # Two queries of one round would show the half weight: only the first is answered.
            raise RemoteProtocolError("second_query", f"{sender!r} changed its query of round {k}")
        if answer is None or query.digest != answer.query:
            with self._setup.trace.span("answer", k):
                answer = self._make_answer(query, record)
            self._sent[sender, k] = query, answer
        else:
            yield Surplus(sender, "repeated_query")  # the answer may have been lost
        yield Publish(answer)
        yield from self._stop_if_served(now)

    def _make_answer(self, query: Query, record: RoundRecord) -> Answer:
        setup, asker, draws = self._setup, query.sender, Draws(record.seed)
        ready = self._prepared if record.number == self._state.records[-1].number else {}
        if asker not in ready:
            setup.exchange.check(query)  # before any power is taken for it
        prepared = ready.get(asker) or setup.exchange.prepare(asker, record.quantised, draws)
        ciphertexts = setup.exchange.answer(query, draws, prepared)
        ready.pop(asker, None)  # only now: what is no query must not use it up
        return Answer(
            setup.fleet,
            setup.node,
            self._state.epoch,
            asker,
            query.round,
            query.attempt,
            query.digest,
            ciphertexts,
        )

    def _forget_old_answers(self) -> None:
        self._prepared = {}
        kept = {record.number for record in self._state.records}
        self._sent = {key: sent for key, sent in self._sent.items() if key[1] in kept}

    def _receive_answer(self, answer: Answer, now: float) -> Iterator[Effect]:
        sender, record = answer.sender, self._state.open_record
        if self._round is None or record is None or answer.round != self._round.number:
            early = answer.round >= self._state.round
            yield Surplus(sender, "early_answer" if early else "late_answer")
            return
        if answer.attempt < record.attempt:
            # To a roster that was given up: with the answers to another it would tell.
            yield Surplus(sender, "late_answer")
            return
        if self._setup.exchange.sealed and sender not in record.roster:
            raise RemoteProtocolError("not_asked", f"{sender!r} is not of the roster it answers")
        if answer.attempt != record.attempt or answer.query != self._query(record).digest:
            raise RemoteProtocolError("other_query", f"{sender!r} answered another query")
        if sender in self._round.answered:
            yield Surplus(sender, "repeated_answer")
            return
        with self._setup.trace.span("accept", answer.round):
            self._answers[sender] = self._setup.exchange.accept(answer.ciphertexts)
        self._round.receive(sender)
        yield from self._close_if_complete(now)

    # -- closing --------------------------------------------------------------------------------

    def _close_if_complete(self, now: float) -> Iterator[Effect]:
        if self._phase is Phase.COLLECTING and self._round and self._round.complete:
            yield from self._close(self._round, now)

    def _close(self, current: Round, now: float) -> Iterator[Effect]:
        """Open the answers, take the step of the algorithm, go on to the next round."""
        setup, k = self._setup, current.number
        record = self._state.open_record
        assert record is not None
        draws, estimate = Draws(record.seed), np.array(self._state.estimate)
        combined, heard = self._open_answers(draws, k)
        liars = sorted(self._answers.keys() - heard)
        for liar in liars:
            yield Rejected(liar, "out_of_range")
        if heard:  # alone a node would leave the others for its own optimum: it stays
            coupling = dequantise(combined, setup.resolution * UNIT)
            with setup.trace.span("gradient", k):
                gradient = setup.objective.gradient(estimate, draws)
            with setup.trace.span("update", k):
                estimate = descend(estimate, coupling, gradient, k, setup.algorithm, draws)
        self._update(estimate=estimate.tolist(), round=k + 1)
        self._phase = next_phase(self._phase, Trigger.CLOSE)
        self._round = None
        silent = tuple(sorted(setup.neighbours.keys() - heard))
        spoiled = tuple(liars) if setup.exchange.sealed else ()
        yield RoundClosed(k, self._opened, silent, estimate, spoiled)
        yield from self._proceed(now)

    def _open_answers(self, draws: Draws, k: int) -> tuple[list[int], set[str]]:
        """The combined coupling term, and those whose answers are in it.

        Of sealed answers that are out of range nobody can tell whose fault it is: none is.
        """
        if not self._answers:
            return [], set()

        def timed(phase: str) -> AbstractContextManager[None]:
            return self._setup.trace.span(phase, k)

        try:
            return self._setup.exchange.open(self._answers, draws, timed), set(self._answers)
        except RemoteProtocolError:
            if self._setup.exchange.sealed:
                return [], set()
            honest = {n: a for n, a in self._answers.items() if self._in_range(n, a, draws)}
            return self._setup.exchange.open(honest, draws) if honest else [], set(honest)

    def _in_range(self, name: str, answer: Sequence[mpz], draws: Draws) -> bool:
        try:
            self._setup.exchange.open({name: answer}, draws)
        except RemoteProtocolError:
            return False
        return True

    # -- time -----------------------------------------------------------------------------------

    def _tick(self, now: float) -> Iterator[Effect]:
        if self._phase is Phase.FINISHED:
            if now >= self._deadline:
                yield Stop()
        elif self._phase is Phase.COLLECTING:
            yield from self._tick_collecting(now)
        else:
            yield from self._proceed(now)
            if self._phase is Phase.STARTING and now >= self._deadline:
                # No reading or no broker yet: look again later, however long it takes.
                self._deadline = now + self._setup.algorithm.answer_timeout_s

    def _tick_collecting(self, now: float) -> Iterator[Effect]:
        if self._round is None or not self._connected:
            return
        current = self._round
        for neighbour in current.overdue(now):
            # It is waited for again as soon as it is heard: a silent neighbour costs one deadline.
            current.excuse(neighbour)
            theirs = self._neighbours.round_of(neighbour)
            if self._holding and theirs == current.number:
                current.receive(neighbour)  # it is there, and as stuck as this node
            elif theirs <= current.number:
                self._neighbours.fall_silent(neighbour)
        yield from self._narrow(now)
        current = self._round  # another one if fewer are asked now
        if current.complete:
            yield from self._close(current, now)
        elif self._left_alone(current, now):
            yield from self._finish(now)
        elif not current.deadlines and self._neighbours.anyone_beyond(current.number):
            # Who is ahead has skipped this round, as after damage to its state. One at a time:
            # the generation before then still knows how far this node was.
            self._update(round=current.number + 1)
            yield from self._leave(now)
        elif now >= current.resend_at:
            if not current.deadlines:
                yield from self._announce("waiting")
            current.resent(now)
            yield Publish(self._query(self._state.records[-1]))

    def _left_alone(self, current: Round, now: float) -> bool:
        """Whether every neighbour has finished, and is not staying for us either."""
        stayed_s = LINGER_TIMEOUTS * self._setup.algorithm.answer_timeout_s
        alone = self._neighbours.all_finished and not current.deadlines
        return alone and now >= current.opened + stayed_s

    # -- the end --------------------------------------------------------------------------------

    def _finish(self, now: float) -> Iterator[Effect]:
        self._phase = next_phase(self._phase, Trigger.FINISH)
        self._round = None
        self._deadline = now + LINGER_TIMEOUTS * self._setup.algorithm.answer_timeout_s
        yield Save(self._state)
        yield from self._announce("finished")
        yield from self._answer_held(now)
        yield from self._stop_if_served(now)

    def _stop_if_served(self, now: float) -> Iterator[Effect]:
        """A finished node goes when every neighbour has finished as well, or has departed.

        Having answered is not enough: a broker may deliver the farewell before the answer.
        """
        if self._phase is not Phase.FINISHED:
            return
        if self._neighbours.all_done:
            yield Stop()
        else:
            self._deadline = now + LINGER_TIMEOUTS * self._setup.algorithm.answer_timeout_s

    # -- small things ---------------------------------------------------------------------------

    def _update(self, **changes: object) -> None:
        self._state = msgspec.structs.replace(self._state, **changes)


def _narrows(query: Query, before: Query) -> bool:
    """Whether *query* is a later attempt that asks what *before* asked, of fewer."""
    same, fewer = query.ciphertexts == before.ciphertexts, set(query.roster) < set(before.roster)
    return query.attempt > before.attempt and same and fewer
