"""The protocol of one node as a state machine without I/O. Events go in, effects come out.

Everything that changes the phase of a node is in this file. `collector.py` collects the answers of
the open round, `answerer.py` replies to the queries of others, `roster.py` chooses who is asked,
`claims.py` decides when the node follows its neighbours, `entry.py` when a node without a state
opens its first round, `deadlines.py` learns how long to wait, and `neighbours.py` holds who is
present. `opening.py` makes the query of a round, and `stepping.py` the next estimate. `round.py`
has the table of the phases, and `progress.py` makes the states that are saved. `exchange.py` and
`sealed.py` make and open the ciphertexts.

**Events and effects.** The caller passes an event and the monotonic time to `Agent.handle`, which
is a generator of effects. The caller carries out each effect before it takes the next one. The code
after `yield Save(...)` therefore runs only when the state is on the disk, and no message can leave
before the state that it belongs to is durable ("save, then send"). After a `Note` the caller may
collect what it must publish, and send it when the note is durable.

**Rounds.** A node runs rounds 0, 1, 2, ... There is no common clock: a query and an answer belong
together when they carry the same round number. To open round k, the node quantises its estimate,
encrypts it, saves the round and publishes one query for all its neighbours. Each neighbour answers
with its part of the coupling term. When every answer is in, the node decrypts their combination
once, computes the next estimate and closes the round. A round that closes without a coupling term
is *held*: the estimate stays as it is.

**Rosters.** A round has one roster and one query. `collector.py` explains held rounds that wait for
their last answers. `answerer.py` explains why a neighbour's roster must not change while this node
uses the same numbers, and `opening.py` how the node then draws other numbers.

**Deadlines.** A node waits for the answers to its query until the first deadline, sends the same
query again, and closes the round at the second. `round.py` has the exceptions. A node waits twice
as long for a neighbour last seen in the round before, which may be waiting out a deadline of its
own. Without a connection to the broker no deadline passes; after a reconnection it begins again and
the query is sent again.

**Liveness.** A neighbour is *present* if it can be asked; `neighbours.py` explains the word. The
node reports its own condition in its presence: `ready` when it connects with a state and when it
opens a round, `alert` while the sensor has not given enough readings for a gradient, `waiting`
while it can open no round because it has no neighbour to ask or does not know its round, `done`
after its last round, and `finished` when it runs no more rounds.

**Falling behind.** `claims.py` says when a node jumps to the round of its neighbours. A node that
can ask fewer than two neighbours closes its round at the deadline, or when it is two rounds behind;
it does not follow by one round. A node with a period does not wait for it while a present neighbour
has opened the next round. Without a present neighbour the node opens no round.

**Restarts.** The saved record of a round holds its quantised estimate, seed and query. A restarted
node repeats the open round byte for byte. A node that has lost its state, although it has run
before, does not know what it sent: it waits for the claims of two neighbours, for two deadlines,
and then for one; it goes on two rounds beyond. If the two highest claims are far apart, one
neighbour is behind or lies: the node waits for DOUBT_DEADLINES. A node whose messages are refused
because its epoch is too small restarts with a greater one, if nobody has replied to it otherwise.

**The end.** `rounds` counts coupled rounds. A node that has them is done: it opens further rounds
only if a neighbour asks for them, and finishes when all present neighbours are done. A finished
node answers its neighbours until all have finished or departed, at most LINGER_TIMEOUTS answer
timeouts after the latest query. A node that is not done and has coupled nothing for
GIVE_UP_DEADLINES deadlines gives up; the daemon then ends with an error.

**Other neighbours.** `MembershipPending` says from which round on the operator has changed the
neighbours. The node does not open that round. It saves its state and requests a `Restart`. If it
has held HOLDS_BEFORE_CHANGE rounds in a row, it goes to that round at once: the members that it
misses may come back with the new membership only. A node without neighbours opens no round. It
waits for a membership, and restarts with it at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import assert_never

import msgspec

from cipherfleet_node.core.events import (
    Connected,
    Disconnected,
    Effect,
    Event,
    LateCoupling,
    MembershipPending,
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
from cipherfleet_node.errors import RemoteProtocolError

from . import progress
from .answerer import Answerer
from .claims import FAR, Claims
from .collector import Collector, CouplingTerm
from .deadlines import Deadlines
from .entry import Entry
from .messages import Answer, Message, Presence, PresenceState, Query, Refusal, Reply
from .neighbours import NeighbourTable
from .opening import Opener
from .randomness import RoundRandomness
from .roster import Roster
from .round import Phase, Round, Trigger, next_phase
from .sample import Sample
from .settling import CALM_ROUNDS, Settling
from .state import HISTORY_ROUNDS, UNSEEN, Known, RoundRecord, State, note_answered
from .stepping import Stepper
from .window import take_in

LINGER_TIMEOUTS = 3.0  # a finished node stays for so many answer timeouts
HOLDS_BEFORE_CHANGE = 4  # then a node goes to the round of a pending membership at once
GIVE_UP_DEADLINES = 512  # without a coupled round
DOUBT_DEADLINES = 16  # so long a node without a state waits for claims that agree
GREATEST_EPOCH_FOLLOWED = 2**52  # a neighbour's word moves the epoch no further


class Agent:
    """Run the rounds of one node.

    `handle` takes an event and returns effects. `timer` is the time at which the caller must pass
    in `TimerFired`. The agent has no clock and no source of randomness of its own.
    """

    def __init__(self, setup: Setup, state: State) -> None:
        self._setup = setup
        # With other neighbours all rosters change: other numbers before any of them is answered.
        self._must_draw = (
            bool(state.neighbours) and state.neighbours.keys() != setup.identities.keys()
        )
        known = state.known(setup.identities)
        self._state = msgspec.structs.replace(state, neighbours=known)
        self._phase = Phase.STARTING
        algorithm = setup.algorithm
        self.neighbours = NeighbourTable(setup.neighbours)
        self.deadlines = Deadlines(algorithm.answer_timeout_s)
        rounds = {name: entry.round for name, entry in known.items()}
        self.claims = Claims(rounds, algorithm.period_s, setup.away_s)
        self.entry = Entry(setup, self.neighbours, self.claims, self.deadlines)
        self.roster = Roster(setup.exchange.least)
        self.answerer = Answerer(setup)
        self.collector = Collector(setup)
        self.opener = Opener(setup)
        self.stepper = Stepper(setup, self.opener)
        self.settling = Settling(setup)
        self._connected = False
        self._announced: PresenceState | None = None
        self._reading_awaited = False
        self._opened = 0.0  # monotonic time at which the open round was opened
        self._not_before = 0.0  # the next round must not open before, for fleets with a period
        self._deadline = 0.0  # while starting: end of the wait; when finished: time to stop
        self._boundary: int | None = None  # the first round of the pending membership
        self._doubted_until = 0.0  # without a state: until then the claims must agree
        self._jump_to: int | None = None
        self._holds = 0  # so many of the latest rounds were held
        self._coupled_at = 0.0  # monotonic time of the latest coupled round
        self._disconnected_at = 0.0
        self._was_answered = False  # a neighbour has replied to this start of the node

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
    def awaits_one_answer(self) -> bool:
        """True if the next answer may close the open round."""
        current = self.collector.current
        return current is not None and len(current.unheard) <= 1

    @property
    def state(self) -> State:
        """The state as `Save` would write it now. Private as a whole."""
        return self._state

    @property
    def is_settled(self) -> bool | None:
        """True if this node has reached the accuracy asked for; None if none is."""
        return None if self._setup.algorithm.until is None else self._state.level > 0

    @property
    def generation(self) -> int | None:
        """The generation that gave it its shares; 0: it has none, None: there is no shield."""
        if self._setup.shield is None:
            return None
        own = self._state.generation
        return own.number if own.has_share else 0

    @property
    def has_answer(self) -> bool:
        """True while the estimate is the agreed answer, by the node's own measure (settling.py).

        It needs no `until`, and ends no fleet. A node that asks nobody never has one.
        """
        is_calm = self._state.calm >= CALM_ROUNDS
        return is_calm and not self._state.agrees and not self._setup.only_answers

    def timer(self) -> float | None:
        """Return the monotonic time at which `TimerFired` must be passed in, or None."""
        if self._phase is Phase.FINISHED:
            return self._deadline
        if self._phase is Phase.STARTING:
            readable = self._reading_awaited or self._setup.objective.ready
            return self._deadline if readable else min(self._deadline, self._not_before)
        if not self._connected:
            return None
        if self._phase is Phase.COLLECTING:
            return self.collector.current.deadline if self.collector.current else None
        if self._reading_awaited or (self._setup.objective.ready and self._is_done):
            return None
        if self._setup.objective.ready and not self._can_open:
            return self._gives_up_at
        return self._not_before

    def handle(self, event: Event, now: float) -> Iterator[Effect]:
        """Process one event at monotonic time *now*.

        The caller must take every effect and carry it out in order; see the head of this module.
        """
        match event:
            case Started():
                yield from self._start(now)
            case Connected():
                yield from self._connect(now)
            case Disconnected():
                self._connected = False
                self._disconnected_at = now
                self.deadlines.forget()
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
        self._coupled_at = self._disconnected_at = now
        if self._state.records:
            self.claims.begin(self._state.round, now)
        yield Save(self._state)
        yield from self._take_reading()

    def _connect(self, now: float) -> Iterator[Effect]:
        if not self._connected:
            self._coupled_at += now - self._disconnected_at  # no time passes without a broker
        self._connected = True
        self.entry.begin_connection(now)
        self.neighbours.begin_connection()
        self.roster.forgive()
        self._announced = None
        yield from self._announce(self._condition)
        if self._phase is Phase.STARTING and self._state.has_lost_round:
            self._deadline = now + 2.0 * self.deadlines.current_s
            self._doubted_until = now + DOUBT_DEADLINES * self.deadlines.current_s
        current, record = self.collector.current, self._state.open_record
        if self._phase is Phase.COLLECTING and current and record:
            current.repeated = False
            current.await_until(now, self._wait, self.deadlines.current_s)
            yield Publish(self._query(record))
        yield from self._ask_again_for_pending(self._setup.neighbours)
        yield from self._proceed(now)

    def _ask_again_for_pending(
        self, names: Iterable[str], *, latest_only: bool = False
    ) -> Iterator[Effect]:
        """Send the queries of held rounds again that await an answer of one of *names*.

        The answers may have been lost. It is done once for each held round, when the next one
        opens, and when this node or one of *names* has a new connection.
        """
        for record in self._state.records:
            missing = set(record.roster) - record.answers.keys()
            is_meant = not latest_only or record.number == self._state.round - 1
            if record.outcome == "held" and is_meant and missing & set(names):
                yield Publish(self._query(record))

    @property
    def _condition(self) -> PresenceState:
        if self._phase is Phase.FINISHED:
            return "finished"
        if self._is_done:
            return "done"
        has_round = bool(self._setup.neighbours) and not self._state.has_lost_round
        return "ready" if has_round else "waiting"

    def _read(self, samples: Sequence[Sample], now: float) -> Iterator[Effect]:
        self._reading_awaited = False
        take_in(self._setup.objective, samples, now)
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
        if self._reading_awaited:
            return
        if not self._setup.objective.ready:
            if now >= self._not_before:
                yield from self._take_reading()
        elif self._is_done:
            yield from self._proceed_when_done(now)
        elif self._has_given_up(now):
            yield from self._finish(now)
        elif self._phase is Phase.STARTING:
            yield from self._open_first(now)
        elif not self._can_open:
            yield from self._announce("waiting")
        elif now >= self._not_before or self._is_behind:
            yield from self._open(now)

    def _proceed_when_done(self, now: float) -> Iterator[Effect]:
        is_new = self._phase is Phase.STARTING and not self.neighbours.present
        if self.neighbours.are_present_done and not (is_new and self._setup.only_answers):
            yield from self._finish(now)
            return
        yield from self._announce("done")
        if self._can_open and self._is_asked_to_go_on:
            yield from self._open(now)

    def _open_first(self, now: float) -> Iterator[Effect]:
        if self._state.has_lost_round or self.entry.is_newcomer(self._state):
            target = self.entry.round(self._learned_round(now), now)
            if target is None:
                yield from self._announce("waiting")
                return
            self._update(round=max(target, self._state.round), continuous=True)
            self._state = self.opener.draw_now(self._state, now)
            yield from self._open(now)
        elif self._can_repeat:
            yield from self._repeat(now)
        elif self._may_start(now):
            yield from self._open(now)

    def _learned_round(self, now: float) -> int | None:
        """Return a round that a node without its state can open, or None if it must wait."""
        claims = self.claims.rounds.items()
        seen = sorted(
            c for name, c in claims if c != UNSEEN and name not in self.neighbours.waiting
        )
        if len(seen) > 1:
            # A neighbour that was away itself may be behind rounds that this node has used.
            if seen[-1] - seen[-2] <= FAR:
                return seen[-1] + 2  # a neighbour that lies moves the node by FAR rounds at most
            return seen[-2] + 2 if now >= self._doubted_until else None
        has_waited = now >= self._deadline or self.entry.has_waited(now)
        return seen[-1] + 2 if seen and has_waited else None

    @property
    def _can_open(self) -> bool:
        return bool(self.neighbours.askable)

    @property
    def _is_behind(self) -> bool:
        """True if a present neighbour has opened the round that is next here."""
        present = self.neighbours.present
        return any(self.claims.rounds[name] >= self._state.round for name in present)

    @property
    def _is_asked_to_go_on(self) -> bool:
        return self.answerer.is_asked_for(self._state.round)

    @property
    def _is_at_boundary(self) -> bool:
        if self._boundary is None:
            return False
        return self._state.round >= self._boundary or not self._setup.neighbours

    def _restart_if_idle(self) -> Iterator[Effect]:
        """Restart at once between rounds, or in a round in which no answer is awaited."""
        current = self.collector.current
        is_idle = self._phase in (Phase.STARTING, Phase.READING) or (
            current is not None and not current.unheard
        )
        if self._is_at_boundary and is_idle:
            yield Save(self._state)
            yield Restart()

    def _may_start(self, now: float) -> bool:
        if not self._setup.neighbours:
            return False
        first, latest = self._setup.first_round, max(self.claims.rounds.values(), default=UNSEEN)
        is_new = not self._state.records or self._state.round < first
        if first and is_new and latest < first:
            # The neighbours do not know this node before they come to its first round.
            return latest == UNSEEN and now >= self._deadline
        if now >= self._deadline:
            return True
        # A node without saved rounds must first learn in which round its neighbours are.
        knows_rounds = bool(self._state.records) or self.neighbours.are_present_live
        return knows_rounds and self.neighbours.are_all_present

    @property
    def _can_repeat(self) -> bool:
        is_early = self._state.round < self._setup.first_round
        return self._state.continuous and self._state.open_record is not None and not is_early

    @property
    def _is_done(self) -> bool:
        rounds = self._setup.algorithm.rounds
        if rounds is None:
            return False
        is_run = self._state.coupled >= rounds or self.settling.is_over(self._state)
        return is_run or self._setup.only_answers

    @property
    def needs_operator(self) -> bool:
        """True if neither this node nor any of its neighbours knows a round that is unused."""
        return self._state.has_lost_round and self.neighbours.are_all_waiting

    # -- opening a round ------------------------------------------------------------------------

    def _open(self, now: float) -> Iterator[Effect]:
        has_jumped = self._follow(now)
        if self._is_at_boundary:
            yield Save(self._state)
            yield Restart()
            return
        self._draw_again_if_wanted(now)
        asked = self._choose_asked()
        self._state = self.opener.open(self._state, asked)
        self.claims.begin(self._state.round, now)
        self.answerer.forget_old_rounds(self._state)
        self._state = self.answerer.note_held(self._state)
        yield Save(self._state)
        if has_jumped:
            yield Save(self._state)  # a second time, so that both generations have the new number
        record = self._state.records[-1]
        self._phase = next_phase(self._phase, Trigger.OPEN)
        self._opened = now
        algorithm = self._setup.algorithm
        is_in_a_hurry = algorithm.until is not None and not self.settling.is_over(self._state)
        if algorithm.period_s is not None and not is_in_a_hurry:
            self._not_before = now + algorithm.period_s
        self.deadlines.sent(record.number, now)
        yield from self._collect(record, asked, now)
        yield from self._ask_again_for_pending(self._setup.neighbours, latest_only=True)
        yield from self._announce("done" if self._is_done else "ready")
        yield from self._take_reading()
        yield from self._answer_held(now)
        self.answerer.prepare(record, RoundRandomness(record.seed), self.neighbours.askable)

    def _repeat(self, now: float) -> Iterator[Effect]:
        """Send again, byte for byte, the query of the round that was open at the last stop."""
        record = self._state.open_record
        assert record is not None
        self._phase = next_phase(self._phase, Trigger.OPEN)
        self._opened = now
        asked = record.roster or sorted(self.neighbours.askable - set(record.aside))
        known = [name for name in asked if name in self._setup.neighbours]
        yield from self._collect(record, known, now)
        yield from self._take_reading()
        yield from self._answer_held(now)
        yield from self._leave_if_behind(now)

    def _collect(self, record: RoundRecord, asked: Sequence[str], now: float) -> Iterator[Effect]:
        query = self._query(record)
        roster = asked if record.roster or not self._setup.exchange.sealed else ()
        self.collector.begin(query, roster, now, self._wait, self.deadlines.current_s)
        yield Publish(query)

    def _choose_asked(self) -> list[str]:
        """Return the neighbours to ask: those that still have the round, by `roster.py`."""
        k = self._state.round
        rounds = self.claims.rounds
        there = [n for n in self.neighbours.askable if rounds[n] < k + HISTORY_ROUNDS]
        tries = not self.opener.generations.is_averaging_at(k)
        return self.roster.choose(self.entry.entered(there, self._state), k, tries=tries)

    def _draw_again_if_wanted(self, now: float) -> None:
        if self._must_draw:
            self._state, self._must_draw = self.opener.draw_now(self._state, now), False
        elif self.answerer.is_draw_wanted:
            drawn = self.opener.draw_again(self._state, now, self.deadlines.current_s)
            if drawn is not None:
                self._state, self.answerer.is_draw_wanted = drawn, False

    def _query(self, record: RoundRecord) -> Query:
        return self.opener.query(self._state, record)

    def _wait(self, name: str) -> float:
        """Return how long to wait for an answer of *name*, in seconds."""
        behind = self.claims.rounds[name] == self._state.round - 1
        return self.deadlines.current_s * (2.0 if behind else 1.0)

    # -- following the neighbours ---------------------------------------------------------------

    def _follow(self, now: float) -> bool:
        """Go to the round that the claims of the neighbours call for; True if there is one."""
        target = self._jump_to or self._target(now)
        self._jump_to = None
        if self._boundary is not None and self._holds >= HOLDS_BEFORE_CHANGE:
            target = max(target or 0, self._boundary)
        if target is None or target <= self._state.round:
            return False
        # A node whose latest state is lost may have sent queries up to one round ahead.
        self._update(round=target if self._state.continuous else target + 2)
        return True

    def _target(self, now: float) -> int | None:
        current = self.collector.current
        is_idle = current is not None and not current.roster
        is_new_leaf = not self._state.records and len(self._setup.neighbours) == 1
        holding = self._holds > 0 or is_idle or is_new_leaf
        k, deadline_s, ahead = self._state.round, self.deadlines.current_s, self.entry.ahead
        return self.claims.target(k, now, deadline_s, holding=holding, without=ahead)

    def _leave_if_behind(self, now: float) -> Iterator[Effect]:
        """Close the open round, held, if the neighbours are too far ahead."""
        if self._phase is not Phase.COLLECTING:
            return
        target = self._target(now)
        if target is not None:
            self._jump_to = target
            yield from self._hold(now, blamed=())

    # -- messages -------------------------------------------------------------------------------

    def _receive(self, message: Message, now: float, *, live: bool) -> Iterator[Effect]:
        sender = message.sender
        self._check_kind(message, live=live)
        known = self._state.neighbours[sender]
        if message.epoch < known.epoch:
            yield Surplus(sender, "stale_epoch")
            if isinstance(message, Query):
                self._check_query(message)
                yield Publish(self.answerer.refuse_epoch(message, self._state, known.epoch))
            return
        if message.epoch > known.epoch:
            self._begin_epoch(sender, message.epoch)
        if live:
            self.neighbours.mark_live(sender)
        match message:
            case Query():
                yield from self._greet(sender)
                yield from self._receive_query(message, now)
            case Answer() | Refusal():
                yield from self._greet(sender)
                yield from self._receive_reply(message, now)
            case Presence():
                yield from self._receive_presence(message, now, live=live)

    def _check_kind(self, message: Message, *, live: bool) -> None:
        # A broker may deliver messages of topics that this node has not subscribed to.
        if isinstance(message, Reply) and message.receiver != self._setup.node:
            raise RemoteProtocolError("other_receiver", "a reply was meant for another node")
        if not isinstance(message, Query | Reply | Presence):
            raise RemoteProtocolError("other_receiver", "a message was meant for the operator")
        if not live and not isinstance(message, Presence):
            raise RemoteProtocolError("retained", "only presence messages may be retained")

    def _begin_epoch(self, sender: str, epoch: int) -> None:
        """Forget what an earlier start of *sender* has said."""
        self.neighbours.begin_epoch(sender)
        self.claims.restart(sender)
        self.answerer.forget_held(sender)
        identity = self._state.neighbours[sender].identity
        self._state = progress.knowing(self._state, sender, Known(identity, epoch))

    def _greet(self, sender: str) -> Iterator[Effect]:
        """Mark *sender* as present; if it was not, show it in which round this node is."""
        if not self.neighbours.mark_present(sender):
            return
        if self._state.records:
            yield Publish(self._query(self._state.records[-1]))  # carries our round number
        else:
            self._announced = None
            yield from self._announce(self._condition)

    def _receive_presence(self, message: Presence, now: float, *, live: bool) -> Iterator[Effect]:
        sender = message.sender
        if message.state in ("lost", "disconnected"):
            yield from self._drop_neighbour(sender, now)
        else:
            self.neighbours.arrive(sender, message.state)
            yield from self._greet(sender)
            if live and message.state in ("ready", "waiting"):  # said on every connection
                yield from self._ask_again_for_pending([sender])
        yield from self._stop_if_served(now)
        yield from self._proceed(now)

    def _drop_neighbour(self, name: str, now: float) -> Iterator[Effect]:
        """Mark *name* as departed, and wait for it no longer."""
        self.neighbours.depart(name)
        current = self.collector.current
        if current is None or name not in current.missing:
            return
        current.refused.add(name)
        if self._setup.exchange.sealed:
            yield from self._hold(now, blamed=())
        else:
            yield from self._close_if_complete(now)

    # -- queries --------------------------------------------------------------------------------

    def _receive_query(self, query: Query, now: float) -> Iterator[Effect]:
        self._check_query(query)
        self._note_claim(query, now)
        self._take_back(query)
        opened = self._state.records[-1].number if self._state.records else UNSEEN
        if query.round > opened or self._phase is Phase.STARTING:
            self.answerer.hold(query, now)
            yield from self._leave_if_behind(now)
            yield from self._close_if_complete(now)  # its sender may have been excluded
            yield from self._proceed(now)
        else:
            yield from self._reply(query, now, 0.0)

    def _check_query(self, query: Query) -> None:
        """Check what needs no digest: computing one takes time for a list that is too long."""
        sender, setup = query.sender, self._setup
        if query.parameters != setup.parameters:
            raise RemoteProtocolError("parameters", f"{sender!r} runs under other parameters")
        if query.key != setup.neighbours[sender]:
            raise RemoteProtocolError("other_key", f"{sender!r} uses a key that is not pinned")
        setup.exchange.is_addressed(query)  # raises for an invalid query, also of a later round
        if setup.shield is None and (query.averaged or query.generation):
            raise RemoteProtocolError("generation", f"{sender!r} writes of generations: none here")
        if query.averaged:
            setup.exchange.is_addressed(query.second)

    def _note_claim(self, query: Query, now: float) -> None:
        """Record the claim of *query*; raises RemoteProtocolError if no node can be so far."""
        sender = query.sender
        is_possible = self.claims.record(sender, query.round, now)
        known = self._state.neighbours[sender]
        changed = msgspec.structs.replace(known, round=self.claims.rounds[sender])
        self._state = progress.knowing(self._state, sender, changed)
        self.opener.hear(query, is_aside=self.roster.sets_aside(sender))
        self.settling.record(sender, query.settled)
        if not is_possible:
            raise RemoteProtocolError("far_round", f"{sender!r} claims a round out of reach")
        self.neighbours.show_round(sender)

    def _answer_held(self, now: float) -> Iterator[Effect]:
        for query, waited_s in self.answerer.release(self._state.round, now):
            try:
                yield from self._reply(query, now, waited_s)
            except RemoteProtocolError as error:
                yield Rejected(query.sender, error.reason)

    def _reply(self, query: Query, now: float, waited_s: float) -> Iterator[Effect]:
        reply = self.answerer.reply(query, self._state, waited_s)
        if reply is None:
            return
        if reply.is_repeated:
            yield Surplus(query.sender, "repeated_query")  # the first reply may have been lost
        if isinstance(reply.message, Refusal):
            yield Surplus(query.sender, f"{reply.message.reason}_query")
        if reply.entry is not None:
            self._state = note_answered(self._state, reply.entry)
            yield Note(reply.entry)
        yield Publish(reply.message)
        yield from self._stop_if_served(now)

    def _take_back(self, query: Query) -> None:
        """Pairwise: undo the terms of rounds in which the sender did not count this node."""
        if self._setup.exchange.sealed:
            return
        current = self.collector.current
        for number in (each.round for each in query.uncounted if self._setup.node in each.names):
            if current is not None and current.number == number:
                self.collector.exclude(query.sender)
            self._state = self.stepper.take_back(self._state, query.sender, number)

    # -- replies --------------------------------------------------------------------------------

    def _receive_reply(self, reply: Answer | Refusal, now: float) -> Iterator[Effect]:
        self.deadlines.replied(reply.sender, reply.round, reply.waited_ms / 1000.0, now)
        if isinstance(reply, Refusal):
            yield from self._receive_refusal(reply, now)
            return
        self._was_answered = True
        current, record = self.collector.current, self._state.record(reply.round)
        if current is not None and reply.round == current.number:
            yield from self._receive_answer(reply, current, now)
        elif record is not None and record.outcome == "held" and record.roster:
            if self.deadlines.is_recent(reply.round, now):
                self.roster.answered([reply.sender])  # the deadline was too short at that time
            yield from self._receive_late_answer(reply, record)
        else:
            is_early = reply.round >= self._state.round
            yield Surplus(reply.sender, "early_answer" if is_early else "late_answer")

    def _receive_answer(self, answer: Answer, current: Round, now: float) -> Iterator[Effect]:
        name = answer.sender
        record = self._state.open_record
        is_asked = self._setup.exchange.sealed or name in current.roster
        has_no_term = record is not None and name in record.aside
        if not is_asked and (has_no_term or self.roster.has_missed(name)):
            yield Surplus(name, "late_answer")  # its answers were missing or out of range
            return
        if not self.collector.receive(answer):
            yield Surplus(name, "repeated_answer")
            return
        yield from self._close_if_complete(now)

    def _receive_late_answer(self, answer: Answer, record: RoundRecord) -> Iterator[Effect]:
        """Keep an answer to a held round, and count the round when all of its roster are in."""
        name = answer.sender
        self.collector.check_roster(name, record.roster)
        if answer.query != self._query(record).digest:
            raise RemoteProtocolError("other_query", f"{name!r} answered another query")
        if name in record.answers:
            yield Surplus(name, "repeated_answer")
            return
        self.collector.accept(answer, bool(record.averaging))  # raises if they are invalid
        answers = {**record.answers, name: [*answer.ciphertexts, *answer.averaged]}
        self._state = progress.closed(self._state, record.number, "held", (), answers)
        if answers.keys() == set(record.roster):
            yield from self._couple_late(record.number)

    def _couple_late(self, number: int) -> Iterator[Effect]:
        """Count a held round. The local step of that round is not taken any more."""
        record = self._state.record(number)
        assert record is not None
        coupled = self.stepper.step_late(self._state, record, self.collector.open_pending(record))
        if coupled is None:
            self._state = progress.closed(self._state, number, "dropped")
            self._update(unbalanced=True)
            return
        self._state = coupled
        yield Save(self._state)
        yield LateCoupling(number)

    def _receive_refusal(self, refusal: Refusal, now: float) -> Iterator[Effect]:
        name, current = refusal.sender, self.collector.current
        if refusal.reason == "stale_epoch":
            yield from self._raise_epoch(refusal)
            return
        self._was_answered = True
        self.claims.record(name, refusal.theirs, now)
        if current is None or not self.collector.is_for_open_round(refusal.query):
            yield Surplus(name, "late_refusal")
            return
        yield Surplus(name, f"refused_{refusal.reason}")
        if name in current.missing:
            current.refused.add(name)
            self.roster.refused(name)
        if refusal.reason == "roster":
            self.opener.note_kicks(self._state.round)
        if refusal.reason == "old" and self._setup.exchange.sealed:
            yield from self._hold(now, blamed=())
        else:
            yield from self._close_if_complete(now)

    def _raise_epoch(self, refusal: Refusal) -> Iterator[Effect]:
        """Restart above the epoch that a neighbour has seen, if nobody replies to this start."""
        if self._was_answered or not self._state.epoch < refusal.theirs < GREATEST_EPOCH_FOLLOWED:
            yield Surplus(refusal.sender, "late_refusal")
            return
        self._update(epoch=refusal.theirs)
        yield Save(self._state)
        yield Restart()

    # -- closing --------------------------------------------------------------------------------

    def _close_if_complete(self, now: float) -> Iterator[Effect]:
        current = self.collector.current
        if current is None:
            return
        is_pairwise = not self._setup.exchange.sealed
        if current.is_complete or (is_pairwise and current.answered and not current.unheard):
            yield from self._couple(now)

    def _couple(self, now: float) -> Iterator[Effect]:
        """Open the answers, compute the next estimate and go on to the next round."""
        record, answers = self._state.open_record, self.collector.answers
        assert record is not None
        term = self.collector.open_current(RoundRandomness(record.seed))
        for name in term.out_of_range:
            yield Rejected(name, "out_of_range")
        if not self._setup.exchange.sealed:
            self.roster.missed(term.out_of_range)
        coupled = self.stepper.step(self._state, record, term, answers) if term.included else None
        if coupled is None:
            for name in term.included:
                yield Rejected(name, "overreach")
            yield from self._spoil(term, now)
            return
        self._state, self._coupled_at = coupled, now
        self.roster.answered(term.included)
        self.roster.opened(term.included)
        self.claims.coupled(term.included)
        yield from self._close(now, record.number, term)

    def _spoil(self, term: CouplingTerm, now: float) -> Iterator[Effect]:
        """Close a round whose answers are in but cannot be used. Nobody knows whose fault it is."""
        record = self._state.open_record
        assert record is not None
        self._holds += 1
        self._update(unbalanced=True)
        self.collector.end()
        roster = record.roster or sorted(term.included)
        self.roster.spoiled(roster, record.number)
        self._state = progress.closed(self._state, record.number, "dropped")
        yield from self._report(now, record.number, frozenset(), spoiled=tuple(roster))

    def _hold(self, now: float, blamed: Iterable[str]) -> Iterator[Effect]:
        """Close the open round without a coupling term; *blamed* did not answer in time."""
        record = self._state.open_record
        assert record is not None
        self._holds += 1
        if self.collector.is_unheeded:
            self.roster.forgive()  # more likely this node was cut off than all its neighbours
        else:
            self.roster.missed(blamed)
        self.roster.answered(self.collector.answers)
        answers = self.collector.end() if record.roster else {}
        self.collector.current = None
        self._state = progress.closed(self._state, record.number, "held", (), answers)
        yield from self._report(now, record.number, frozenset())

    def _close(self, now: float, number: int, term: CouplingTerm) -> Iterator[Effect]:
        self._holds = 0
        current = self.collector.current
        assert current is not None
        self.roster.missed(current.unheard)
        self.collector.end()
        yield from self._report(now, number, term.included)

    def _report(
        self, now: float, number: int, included: frozenset[str], spoiled: tuple[str, ...] = ()
    ) -> Iterator[Effect]:
        """Leave the closed round *number*, report it, and go on."""
        self._update(round=number + 1)
        self._state = self.settling.levelled(self._state, self.neighbours.present)
        self._phase = next_phase(self._phase, Trigger.CLOSE)
        yield RoundClosed(
            number=number,
            opened=self._opened,
            silent=tuple(sorted(self._setup.neighbours.keys() - included)),
            estimate=self.opener.reported(self._state),
            spoiled=spoiled,
            left_out=tuple(sorted(self.roster.left_out)),
            is_coupled=bool(included),
            is_curved_more=self.opener.far_off,
        )
        self.opener.far_off = None
        yield from self._proceed(now)

    # -- time -----------------------------------------------------------------------------------

    def _on_timer(self, now: float) -> Iterator[Effect]:
        if self._phase is Phase.FINISHED:
            if now >= self._deadline:
                yield Stop(self._is_done)
        elif self._phase is Phase.COLLECTING:
            yield from self._on_deadline(now)
        else:
            yield from self._proceed(now)
            if self._phase is Phase.STARTING and now >= self._deadline:
                # There is no reading, no broker or no claim yet. Try again later, without a limit.
                self._deadline = now + self._setup.algorithm.answer_timeout_s

    def _on_deadline(self, now: float) -> Iterator[Effect]:
        """At the first deadline repeat the query, unless it is useless; then close the round."""
        current = self.collector.current
        if current is None or not self._connected or now < current.deadline:
            return
        is_new = any(not self.roster.has_missed(name) for name in current.unheard)
        is_awaiting = self.entry.is_awaiting(current, self._state, now)
        if current.unheard and current.repeated and not is_awaiting:
            is_awaiting = self.opener.generations.is_patient(self._state)
        if (is_new and not current.repeated) or is_awaiting:
            current.repeated = True
            current.await_until(now, self._wait, self.deadlines.current_s)
            yield Publish(self._query(self._state.records[-1]))
        elif current.answered and not self._setup.exchange.sealed:
            yield from self._couple(now)
        else:
            yield from self._hold(now, current.unheard)

    @property
    def _gives_up_at(self) -> float | None:
        if self._setup.algorithm.rounds is None or self._is_done:
            return None
        return self._coupled_at + GIVE_UP_DEADLINES * self._setup.algorithm.answer_timeout_s

    def _has_given_up(self, now: float) -> bool:
        return self._gives_up_at is not None and now >= self._gives_up_at

    # -- the end --------------------------------------------------------------------------------

    def _finish(self, now: float) -> Iterator[Effect]:
        self._phase = next_phase(self._phase, Trigger.FINISH)
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
            yield Stop(self._is_done)
        else:
            self._deadline = now + LINGER_TIMEOUTS * self._setup.algorithm.answer_timeout_s

    def _update(self, **changes: object) -> None:
        self._state = msgspec.structs.replace(self._state, **changes)
