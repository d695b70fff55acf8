"""The answers that a node gives to its neighbours, and the queries that it holds for later.

**One answer for each neighbour and round.** The half weight and the dither of a round are fixed,
since they come from its saved seed. A neighbour that got answers to two different queries of one
round could compute the half weight, and from it this node's estimate. So only the first query of a
round is answered. The same query again gets the same answer, byte for byte. Another query of that
round is refused. There is one exception: a later attempt with the same ciphertexts and a smaller
roster. The masks of its answer are bound to the digest of its query (see `sealed.py`), so answers
to different attempts do not open together. The list of answered queries is in memory only: a
restart empties it.

**Held queries.** A node cannot answer a query of a round that it has not opened. It holds the
latest such query of each neighbour, and no other: the memory for them is bounded by the number of
neighbours. The agent answers them when it opens that round.

**Prepared answers.** The factor of an answer that does not depend on the query is computed before
the query comes. It holds an obfuscator and is used for one answer only. An invalid query does not
use it up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gmpy2 import mpz

from cipherfleet_node.errors import RemoteProtocolError

from .events import Effect, Publish, Setup, Surplus
from .messages import Answer, Query
from .randomness import RoundRandomness
from .state import RoundRecord, State


class Answerer:
    """Answer the queries of the neighbours for the rounds that the state still has.

    Everything in it is private to the node.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self.prepared: dict[str, list[mpz]] = {}  # by neighbour, for the open round; used once
        self.held: dict[str, Query] = {}  # by sender, its latest query for a later round
        self.sent: dict[tuple[str, int], tuple[Query, Answer]] = {}  # by asker and round

    def hold(self, query: Query) -> None:
        """Keep *query* for its round, unless a later query of its sender is already kept."""
        held = self.held.get(query.sender)
        if held is None or (query.round, query.attempt) >= (held.round, held.attempt):
            self.held[query.sender] = query

    def release(self, round_number: int) -> list[Query]:
        """Remove and return the held queries of rounds up to *round_number*."""
        due = [query for query in self.held.values() if query.round <= round_number]
        for query in due:
            del self.held[query.sender]
        return due

    def forget_held(self, sender: str) -> None:
        """Drop the held query of *sender*: it has restarted."""
        self.held.pop(sender, None)

    def forget_old_rounds(self, state: State) -> None:
        """Drop the answers of rounds that *state* no longer has, and all prepared answers."""
        self.prepared = {}
        kept = {record.number for record in state.records}
        self.sent = {key: sent for key, sent in self.sent.items() if key[1] in kept}

    def prepare(
        self, record: RoundRecord, randomness: RoundRandomness, neighbours: Iterable[str]
    ) -> None:
        """Compute the parts of the answers that do not need the queries, before these come."""
        unanswered = (n for n in neighbours if (n, record.number) not in self.sent)
        with self._setup.trace.span("prepare", record.number):
            for neighbour in unanswered:
                self.prepared[neighbour] = self._setup.exchange.prepare(
                    neighbour, record.quantised, randomness
                )

    def answer(self, query: Query, state: State) -> Iterator[Effect]:
        """Answer *query*; raises RemoteProtocolError if it must not be answered."""
        sender, k = query.sender, query.round
        record = next((r for r in state.records if r.number == k), None)
        if record is None:
            raise RemoteProtocolError("stale_round", f"{sender!r} asks for a round not kept here")
        if not self._setup.exchange.is_addressed(query):
            return
        before, answer = self.sent.get((sender, k), (None, None))
        if before and query.attempt < before.attempt:
            raise RemoteProtocolError("stale_attempt", f"{sender!r} repeats an earlier attempt")
        if before and query.digest != before.digest and not _narrows(query, before):
            # Answers to two queries of one round would show the half weight.
            raise RemoteProtocolError("second_query", f"{sender!r} changed its query of round {k}")
        if answer is None or query.digest != answer.query:
            with self._setup.trace.span("answer", k):
                answer = self._make_answer(query, record, state)
            self.sent[sender, k] = query, answer
        else:
            yield Surplus(sender, "repeated_query")  # the first answer may have been lost
        yield Publish(answer)

    def _make_answer(self, query: Query, record: RoundRecord, state: State) -> Answer:
        setup, asker, randomness = self._setup, query.sender, RoundRandomness(record.seed)
        ready = self.prepared if record.number == state.records[-1].number else {}
        if asker not in ready:
            setup.exchange.check(query)  # before any modular exponentiation is spent on it
        prepared = ready.get(asker) or setup.exchange.prepare(asker, record.quantised, randomness)
        ciphertexts = setup.exchange.answer(query, randomness, prepared)
        ready.pop(asker, None)  # not before: an invalid query must not use it up
        return Answer(
            fleet=setup.fleet,
            sender=setup.node,
            epoch=state.epoch,
            receiver=asker,
            round=query.round,
            attempt=query.attempt,
            query=query.digest,
            ciphertexts=ciphertexts,
        )


def _narrows(query: Query, before: Query) -> bool:
    """True if *query* is a later attempt with the ciphertexts of *before* and a smaller roster."""
    is_same = query.ciphertexts == before.ciphertexts
    is_smaller = set(query.roster) < set(before.roster)
    return query.attempt > before.attempt and is_same and is_smaller
