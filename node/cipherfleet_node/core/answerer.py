"""The replies that a node gives to its neighbours, and the queries that it holds for later.

**One answer for each neighbour and round.** Half weight and dither of a round are fixed. A
neighbour that got answers to two different queries of one round could compute the half weight, and
from it this node's estimate. So only the first query of a round is answered. The same query again
gets the same answer. The digest of the answered query is in the saved record of the round, so a
restart does not forget it.

**One roster for each neighbour and draw.** The difference of two sealed sums over rosters that
differ by one member is the term of that member, as long as the answerers use the same numbers. So a
node answers only one roster of each neighbour with the same draw. It refuses another one (`roster`)
and opens its next round with another draw: other half weights, other dither, and a kick on the
quantised estimate. `agent.py` explains the kick. The answered rosters are saved for every draw in
the records: with the latest alone, a late query of an earlier round would slip through.

In the pairwise exchange the same rule holds for whole queries, as long as the estimate stands
still. The difference of two answers with one half weight is that half weight times the asker's own
move, so it would show the half weight.

**Closed rounds.** A round that this node has closed is answered from its record, held or not, as
long as the record is kept. So a neighbour whose query came late can still count this node, which
has counted it or will. In the pairwise exchange a node refuses (`closed`) if it closed the round
without the asker's answer. After that the record is gone, and the node refuses (`old`).

**Held queries.** A node cannot answer a query of a round that it has not opened. It holds the
latest HELD_ROUNDS such queries of each neighbour, and no other: the memory for them is bounded by
the number of neighbours. The agent answers them when it opens their rounds. With the latest alone,
a slow node would count a neighbour in a round that this one has left and cannot count any more.

**Prepared answers.** The factor of an answer that does not depend on the query is computed before
the query comes. It holds an obfuscator and is used for one answer only. An invalid query does not
use it up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from gmpy2 import mpz

from cipherfleet_node.errors import RemoteProtocolError

from .events import Setup
from .messages import Answer, Query, Refusal, RefusalReason
from .randomness import RoundRandomness
from .sealed import LEAST_ROSTER
from .state import AnsweredQuery, RoundRecord, State, note_answered

MAX_WAITED_MS = 2**31
ROSTER_DIGEST_BYTES = 16
HELD_ROUNDS = 2  # of each neighbour


@dataclass(frozen=True, repr=False)
class PreparedReply:
    """A reply to a query, and what to note before it is sent."""

    message: Answer | Refusal
    entry: AnsweredQuery | None = None  # None: nothing new
    is_repeated: bool = False


class Answerer:
    """Answer the queries of the neighbours for the rounds that the state still has.

    Everything in it is private to the node.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self.prepared: dict[str, list[mpz]] = {}  # by neighbour, for the open round; used once
        self.held: dict[str, list[tuple[Query, float]]] = {}  # by sender, by round: since when
        self._sent: dict[tuple[str, int], Answer] = {}  # by asker and round
        self.is_draw_wanted = False  # a roster was refused: the next round needs another draw

    def hold(self, query: Query, now: float) -> None:
        """Keep *query* for its round, unless later queries of its sender are already kept."""
        held = self.held.setdefault(query.sender, [])
        if all(each.digest != query.digest for each, _ in held):
            others = [each for each in held if each[0].round != query.round]
            held[:] = sorted([*others, (query, now)], key=_round_of)[-HELD_ROUNDS:]

    def release(self, round_number: int, now: float) -> list[tuple[Query, float]]:
        """Remove and return the held queries of rounds up to *round_number*, and their waits."""
        due = [(q, now - since) for q, since in self._queries_held() if q.round <= round_number]
        for held in self.held.values():
            held[:] = [each for each in held if each[0].round > round_number]
        return due

    def is_asked_for(self, round_number: int) -> bool:
        """True if a held query is of this round or a later one."""
        return any(query.round >= round_number for query, _ in self._queries_held())

    def _queries_held(self) -> list[tuple[Query, float]]:
        return [each for held in self.held.values() for each in held]

    def forget_held(self, sender: str) -> None:
        """Drop the held queries of *sender*: it has restarted."""
        self.held.pop(sender, None)

    def forget_old_rounds(self, state: State) -> None:
        """Drop the answers of rounds that *state* no longer has, and all prepared answers."""
        self.prepared = {}
        kept = {record.number for record in state.records}
        self._sent = {key: sent for key, sent in self._sent.items() if key[1] in kept}

    def prepare(
        self, record: RoundRecord, randomness: RoundRandomness, neighbours: Iterable[str]
    ) -> None:
        """Compute the parts of the answers that do not need the queries, before these come."""
        if record.listens:
            return
        unanswered = (n for n in neighbours if n not in record.answered)
        with self._setup.trace.span("prepare", record.number):
            for neighbour in unanswered:
                self.prepared[neighbour] = self._setup.exchange.prepare(
                    neighbour, record.quantised, randomness
                )

    def reply(self, query: Query, state: State, waited_s: float) -> PreparedReply | None:
        """Return the reply to *query*, or None if it does not ask this node.

        Raises RemoteProtocolError if it must not be answered, nor refused.
        """
        if not self._setup.exchange.is_addressed(query):
            return None
        record = state.record(query.round)
        if record is None:
            return self._refuse(query, state, "old", state.round, waited_s)
        before = record.answered.get(query.sender)
        if before is not None and query.digest != before:
            # Answers to two queries of one round would show the half weight.
            reason = f"{query.sender!r} changed its query of round {query.round}"
            raise RemoteProtocolError("second_query", reason)
        if before is None and self._closed_without(record, query.sender):
            return self._refuse(query, state, "closed", state.round, waited_s)
        if before is None and not self._may_see(query, record, state):
            self.is_draw_wanted = True
            return self._refuse(query, state, "roster", state.round, waited_s)
        if _shows_another(query, record):
            return None
        return self._answer(query, record, state, waited_s)

    def refuse_epoch(self, query: Query, state: State, known: int) -> Refusal:
        """Return the refusal of a query of an earlier start than that of epoch *known*."""
        return Refusal(*self._head(query, state, 0.0), "stale_epoch", known)

    def _closed_without(self, record: RoundRecord, asker: str) -> bool:
        is_closed = record.outcome != "open" and not self._setup.exchange.sealed
        return is_closed and asker not in record.counted

    def _may_see(self, query: Query, record: RoundRecord, state: State) -> bool:
        """True unless the asker has an answer to another roster with the draw of *record*.

        In the pairwise exchange: to another query.
        """
        seen = state.rosters.get(record.draw, {}).get(query.sender)
        return seen in (None, once_per_draw(query))

    def _refuse(
        self, query: Query, state: State, reason: RefusalReason, theirs: int, waited_s: float
    ) -> PreparedReply:
        return PreparedReply(Refusal(*self._head(query, state, waited_s), reason, theirs))

    def _head(
        self, query: Query, state: State, waited_s: float
    ) -> tuple[str, str, int, str, int, int, bytes]:
        setup, waited = self._setup, min(round(1000.0 * waited_s), MAX_WAITED_MS)
        head = (setup.fleet, setup.node, state.epoch, query.sender, query.round, waited)
        return (*head, query.digest)

    def _answer(
        self, query: Query, record: RoundRecord, state: State, waited_s: float
    ) -> PreparedReply:
        known = self._sent.get((query.sender, query.round))
        if known is not None:
            return PreparedReply(known, is_repeated=True)
        with self._setup.trace.span("answer", query.round):
            averaged = self._averaged(query, record) if query.averaged else []
            ciphertexts = self._ciphertexts(query, record, state)
        answer = Answer(*self._head(query, state, waited_s), ciphertexts, averaged)
        self._sent[query.sender, query.round] = answer
        return PreparedReply(answer, None if query.sender in record.answered else entry_of(query))

    def note_held(self, state: State) -> State:
        """Return *state* with the held queries that the open round will answer noted as answered.

        So one save serves the query of the round and all answers that are due at once.
        """
        for query, _ in self._queries_held():
            with suppress(RemoteProtocolError):
                record = state.record(query.round)
                if record is None or query.sender in record.answered:
                    continue
                if not self._setup.exchange.is_addressed(query) or _shows_another(query, record):
                    continue
                self._setup.exchange.check(query)
                if query.averaged:
                    self._setup.exchange.check(query.second)
                if self._may_see(query, record, state):
                    state = note_answered(state, entry_of(query))
        return state

    def _ciphertexts(self, query: Query, record: RoundRecord, state: State) -> list[bytes]:
        setup, asker, randomness = self._setup, query.sender, RoundRandomness(record.seed)
        if record.listens:
            return setup.exchange.blank(query)
        ready = self.prepared if record.number == state.records[-1].number else {}
        if asker not in ready:
            setup.exchange.check(query)  # before any modular exponentiation is spent on it
        prepared = ready.get(asker) or setup.exchange.prepare(asker, record.quantised, randomness)
        ciphertexts = setup.exchange.answer(query, randomness, prepared)
        ready.pop(asker, None)  # not before: an invalid query must not use it up
        return ciphertexts

    def _averaged(self, query: Query, record: RoundRecord) -> list[bytes]:
        """Return the answer to the averaged vector.

        Nothing is added unless both average it and this node asks the other one too: so the term
        is missing at both ends.
        """
        exchange, asker, second = self._setup.exchange, query.sender, query.second
        exchange.check(query)  # both parts, before any modular exponentiation is spent on one
        if record.averaging != query.averaging or asker in record.aside:
            return exchange.blank(second)
        exchange.check(second)
        randomness = RoundRandomness(record.seed).second()
        prepared = exchange.prepare(asker, record.averaged, randomness)
        return exchange.answer(second, randomness, prepared)


def _round_of(held: tuple[Query, float]) -> int:
    return held[0].round


def _shows_another(query: Query, record: RoundRecord) -> bool:
    """True if an answer of zero would leave the term of a single other member in a sealed sum."""
    return record.listens and 0 < len(query.roster) <= LEAST_ROSTER


def entry_of(query: Query) -> AnsweredQuery:
    """Return what must be remembered when *query* is answered."""
    return AnsweredQuery(query.round, query.sender, query.digest, once_per_draw(query))


def once_per_draw(query: Query) -> bytes:
    """Return what may not change while a draw lasts: the roster, or the whole pairwise query."""
    return roster_digest(query.roster) if query.roster else query.digest[:ROSTER_DIGEST_BYTES]


def roster_digest(roster: list[str]) -> bytes:
    """Return the beginning of the SHA-256 of *roster*; no name contains a line feed."""
    return hashlib.sha256("\n".join(roster).encode()).digest()[:ROSTER_DIGEST_BYTES]
