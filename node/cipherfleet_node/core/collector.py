"""The open round of a node: whose answers it awaits, until when, and the answers that have come.

**Rosters.** In the sealed exchange the answers to a query open only all together. The query names
its roster: the neighbours whose answers are to be combined. If a member of the roster departs or
lets its deadline pass, the agent starts another attempt: the same ciphertexts, with a higher
attempt number and a roster without that member. Answers to the earlier attempt are never opened,
because together with the answers to the later one they would show the term of a single neighbour.
If fewer than LEAST_ROSTER neighbours are left, the roster is empty and the round is *idle*: the
node asks no neighbour and keeps its estimate. In the pairwise exchange the roster is empty and
each answer can be opened alone.

**Deadlines.** The node awaits an answer for `answer_timeout_s`, and twice as long from a neighbour
last seen in the round before, since that neighbour may be waiting out a deadline of its own.

**Opening.** The answers are decrypted once, combined. If pairwise answers are out of range
together, each is opened alone and the faulty ones are left out. Sealed answers do not open alone,
so the faulty one is unknown and none is used.

The collector changes no phase and sends nothing. `agent.py` decides when a round opens and closes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

from gmpy2 import mpz

from cipherfleet_node.errors import RemoteProtocolError

from .events import Setup, Surplus
from .messages import Answer, Query
from .neighbours import NeighbourTable
from .randomness import RoundRandomness
from .round import Round
from .state import HISTORY_ROUNDS, RoundRecord

RESENDS_PER_TIMEOUT = 2


@dataclass(frozen=True, repr=False)
class CouplingTerm:
    """The combined answers of a round, in units of an opened slot. Private to the node."""

    combined: list[int]  # empty if no neighbour is in it
    included: frozenset[str] = frozenset()
    out_of_range: tuple[str, ...] = ()  # the neighbours whose answers were left out


class Collector:
    """Collect the answers of the open round. What it holds is private to the node."""

    def __init__(self, setup: Setup, neighbours: NeighbourTable) -> None:
        self._setup, self._neighbours = setup, neighbours
        self.current: Round | None = None  # the attempt of the open round; None if none is open
        self.record: RoundRecord | None = None  # the saved record of that attempt
        self.answers: dict[str, Sequence[mpz]] = {}  # checked answers to its query

    def begin(self, record: RoundRecord, now: float) -> None:
        """Await the answers to *record*; those that have come to the same attempt are kept."""
        before, timeout_s = self.current, self._setup.algorithm.answer_timeout_s
        self.record = record
        self.current = Round(record.number, now, timeout_s / RESENDS_PER_TIMEOUT, record.attempt)
        if before and (before.number, before.attempt) == (record.number, record.attempt):
            self.current.answered = before.answered
        else:
            self.answers = {}
        for neighbour in record.roster or sorted(self._neighbours.present):
            self.expect(neighbour, now)
        self.close_idle_round()

    def end(self) -> None:
        """Await no answer any more: the round is closed or abandoned."""
        self.current = self.record = None

    def expect(self, neighbour: str, now: float) -> None:
        """Await an answer of *neighbour*, unless it is not asked or no longer has this round."""
        if self.current is None or self.record is None:
            return
        is_asked = neighbour in self.record.roster or not self.record.roster
        is_known = neighbour in self._neighbours.names  # a saved roster may be of an earlier graph
        if not (is_known and is_asked and self.remembers(neighbour, self.current.number)):
            return
        theirs = self._neighbours.round_of(neighbour)
        # A neighbour last seen one round behind may be waiting out a deadline of its own.
        timeouts = 2 if theirs == self.current.number - 1 else 1
        self.current.expect(neighbour, now + timeouts * self._setup.algorithm.answer_timeout_s)

    def stop_waiting_for(self, neighbour: str) -> None:
        """Await *neighbour* no longer, if it is awaited."""
        if self.current:
            self.current.stop_waiting_for(neighbour)

    def stop_waiting_for_overdue(self, now: float) -> None:
        """Await no longer the neighbours whose deadlines have passed at *now*.

        They are awaited again as soon as they are heard: a silent neighbour costs one deadline.
        """
        current = self.current
        if current is None:
            return
        for neighbour in current.overdue(now):
            current.stop_waiting_for(neighbour)
            theirs = self._neighbours.round_of(neighbour)
            if self.is_idle and theirs == current.number:
                current.receive(neighbour)  # it is in the same round, and idle as well
            elif theirs <= current.number:
                self._neighbours.fall_silent(neighbour)

    def remembers(self, neighbour: str, round_number: int) -> bool:
        """True unless *neighbour* is so far ahead that it no longer has *round_number*."""
        return self._neighbours.round_of(neighbour) < round_number + HISTORY_ROUNDS

    @property
    def is_idle(self) -> bool:
        """True if the open round of a sealed exchange has an empty roster: too few are present.

        The estimate stays as it is. The round closes when a neighbour has gone beyond it, so that
        this node does not delay others. Otherwise it closes at a deadline: without one, the node
        would go through its rounds at once and compute nothing.
        """
        return self._setup.exchange.sealed and self.record is not None and not self.record.roster

    @property
    def is_awaiting(self) -> bool:
        """True if a round is open and at least one answer is awaited."""
        return self.current is not None and bool(self.current.deadlines)

    @property
    def is_complete(self) -> bool:
        """True if a round is open, at least one answer is in and none is awaited any more."""
        return self.current is not None and self.current.complete

    def close_idle_round(self) -> None:
        """Make an idle round complete if a neighbour has gone beyond it."""
        if self.current and self.is_idle:
            for neighbour in self._neighbours.beyond(self.current.number):
                self.current.receive(neighbour)
                self.current.deadlines.clear()

    def remaining_roster(self) -> list[str] | None:
        """Return the roster of another attempt, or None if no member of the roster is lost."""
        if self.current is None or self.record is None:
            return None
        roster, current = self.record.roster, self.current
        left = [n for n in roster if n in current.answered or n in current.deadlines]
        return None if len(left) == len(roster) else self._setup.exchange.roster(left)

    def receive(self, answer: Answer, query: Query) -> Surplus | None:
        """Keep *answer* if it belongs to *query*, which is that of the open attempt.

        Returns a Surplus if the answer is late or repeated, which is no fault of its sender.
        Raises RemoteProtocolError if it is invalid.
        """
        sender, record, current = answer.sender, self.record, self.current
        assert record is not None
        assert current is not None
        if answer.attempt < record.attempt:
            # Its roster was given up. With the answers to the smaller roster it would show the
            # term of a single neighbour.
            return Surplus(sender, "late_answer")
        if self._setup.exchange.sealed and sender not in record.roster:
            raise RemoteProtocolError("not_asked", f"{sender!r} is not in the roster it answers")
        if answer.attempt != record.attempt or answer.query != query.digest:
            raise RemoteProtocolError("other_query", f"{sender!r} answered another query")
        if sender in current.answered:
            return Surplus(sender, "repeated_answer")
        with self._setup.trace.span("accept", answer.round):
            self.answers[sender] = self._setup.exchange.accept(answer.ciphertexts)
        current.receive(sender)
        return None

    def open_answers(self, randomness: RoundRandomness) -> CouplingTerm:
        """Decrypt the combined answers, without those that are out of range."""
        if not self.answers or self.record is None:
            return CouplingTerm([])
        k, exchange = self.record.number, self._setup.exchange

        def timed(phase: str) -> AbstractContextManager[None]:
            return self._setup.trace.span(phase, k)

        try:
            combined = exchange.open(self.answers, randomness, timed)
        except RemoteProtocolError:
            return self._open_in_range(randomness)
        return CouplingTerm(combined, frozenset(self.answers))

    def _open_in_range(self, randomness: RoundRandomness) -> CouplingTerm:
        """Open each pairwise answer alone, and then those in range together; sealed ones never."""
        exchange, valid = self._setup.exchange, dict[str, Sequence[mpz]]()
        if not exchange.sealed:
            for name, answer in self.answers.items():
                with suppress(RemoteProtocolError):
                    exchange.open({name: answer}, randomness)
                    valid[name] = answer
        combined = exchange.open(valid, randomness) if valid else []
        out_of_range = tuple(sorted(self.answers.keys() - valid.keys()))
        return CouplingTerm(combined, frozenset(valid), out_of_range)
