"""The open round of a node, its answers, and the held rounds that wait for their last answers.

**Rosters.** The query of a round names its roster, the neighbours that are asked. In the sealed
exchange their answers open only all together. A round has one roster. If a member does not answer
in time, the round is *held*: it closes without a coupling term, and the estimate stays as it is.
The next round has a narrower roster. If fewer than two neighbours can be asked, the roster is empty
and the round is held from the beginning.

**Pending rounds.** A held round stays pending for PENDING_ROUNDS rounds. Its answers are kept. When
those of its whole roster are in, their sum is opened once and counted, since the neighbours have
counted this node as well. It is never opened in part. After that the round is dropped.

**The pairwise exchange.** Each answer can be opened alone. The roster on the wire is empty. The
round closes at the deadline with the answers that are there.

**Opening.** The answers are decrypted once, combined. If pairwise answers are out of range
together, each is opened alone and the faulty ones are left out. Sealed answers do not open alone,
so the faulty one is unknown and none is used.

The collector changes no phase and sends nothing. `agent.py` decides when a round opens and closes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

from gmpy2 import mpz

from cipherfleet_node.errors import RemoteProtocolError

from .events import Setup
from .exchange import untimed
from .messages import Answer, Query
from .randomness import RoundRandomness
from .round import Round, Wait
from .state import RoundRecord

Answers = Mapping[str, Sequence[mpz]]


@dataclass(frozen=True, repr=False)
class CouplingTerm:
    """The combined answers of a round, in units of an opened slot. Private to the node."""

    combined: list[int]  # empty if no neighbour is in it
    included: frozenset[str] = frozenset()
    out_of_range: tuple[str, ...] = ()  # the neighbours whose answers were left out
    averaged: list[int] | None = None  # the same of the vector that is averaged; None: it has none


class Collector:
    """Collect the answers of the open round. What it holds is private to the node."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self.current: Round | None = None  # None if no round is open
        self.answers: dict[str, Sequence[mpz]] = {}  # checked answers to its query
        self._seconds: dict[str, Sequence[mpz]] = {}  # the same, to the averaged vector
        self._averages = False  # its query averages a vector
        self._received: dict[str, list[bytes]] = {}  # both, as they came
        self._digest = b""  # of its query

    def begin(
        self, query: Query, asked: Iterable[str], now: float, wait: Wait, base_s: float
    ) -> None:
        """Await the answers of *asked* to *query*."""
        self.current = Round(query.round, frozenset(asked), now)
        self.current.await_until(now, wait, base_s)
        self.answers, self._seconds, self._received, self._digest = {}, {}, {}, query.digest
        self._averages = bool(query.averaged)

    def end(self) -> dict[str, list[bytes]]:
        """Await no answer any more, and return the answers that have come, as they came."""
        self.current = None
        return self._received

    def exclude(self, name: str) -> None:
        """Take no answer of *name*, which has closed the round without this node."""
        if self.current is not None:
            self.answers.pop(name, None)
            self._seconds.pop(name, None)
            self._received.pop(name, None)
            self.current.exclude(name)

    def receive(self, answer: Answer) -> bool:
        """Keep *answer* to the open query; False if it has come before.

        Raises RemoteProtocolError if it is invalid.
        """
        current = self.current
        assert current is not None
        self.check_roster(answer.sender, current.roster)
        if answer.query != self._digest:
            raise RemoteProtocolError("other_query", f"{answer.sender!r} answered another query")
        if answer.sender in current.answered | current.excluded:
            return False
        with self._setup.trace.span("accept", answer.round):
            self.answers[answer.sender], second = self.accept(answer, self._averages)
        if self._averages:
            self._seconds[answer.sender] = second
        self._received[answer.sender] = [*answer.ciphertexts, *answer.averaged]
        current.answered.add(answer.sender)
        current.refused.discard(answer.sender)
        return True

    def accept(self, answer: Answer, averages: bool) -> tuple[Sequence[mpz], Sequence[mpz]]:
        """Return the ciphertexts of *answer*, and those to the averaged vector, if there is one.

        Raises RemoteProtocolError for invalid ones.
        """
        exchange = self._setup.exchange
        ciphertexts = exchange.accept(answer.ciphertexts)
        if averages:
            return ciphertexts, exchange.accept(answer.averaged)
        if answer.averaged:
            raise RemoteProtocolError(
                "ciphertext_count", f"{answer.sender!r} answers what was not asked"
            )
        return ciphertexts, []

    def check_roster(self, sender: str, roster: Iterable[str]) -> None:
        """Raise RemoteProtocolError if *sender* answers a sealed query that does not name it."""
        if self._setup.exchange.sealed and sender not in roster:
            raise RemoteProtocolError("not_asked", f"{sender!r} is not in the roster it answers")

    def is_for_open_round(self, digest: bytes) -> bool:
        """True if *digest* is that of the open query."""
        return self.current is not None and digest == self._digest

    @property
    def is_unheeded(self) -> bool:
        """True if the open round has a roster and nobody has answered or refused."""
        return self.current is not None and self.current.unheard == self.current.roster != set()

    def open_current(self, randomness: RoundRandomness) -> CouplingTerm:
        """Decrypt the combined answers of the open round, without those that are out of range."""
        assert self.current is not None
        return self._open(self.answers, self._seconds, self.current.number, randomness)

    def open_pending(self, record: RoundRecord) -> CouplingTerm:
        """Decrypt the combined answers of a held round; all of its roster must be there."""
        accept, count = self._setup.exchange.accept, len(record.query)
        answers = {name: accept(a[:count]) for name, a in record.answers.items()}
        kept = record.answers if record.averaging else {}
        seconds = {name: accept(a[count:]) for name, a in kept.items()}
        return self._open(answers, seconds, record.number, RoundRandomness(record.seed))

    def _open(
        self, answers: Answers, seconds: Answers, k: int, randomness: RoundRandomness
    ) -> CouplingTerm:
        if not answers:
            return CouplingTerm([])
        try:
            combined = self._setup.exchange.open(answers, randomness, self._timed(k))
        except RemoteProtocolError:
            return self._open_in_range(answers, randomness)
        averaged = self._open_second(seconds, randomness)
        return CouplingTerm(combined, frozenset(answers), averaged=averaged)

    def _open_second(self, seconds: Answers, randomness: RoundRandomness) -> list[int] | None:
        """Return the term of the averaged vector, or None if there is none or it does not open."""
        if not seconds:
            return None
        try:
            return self._setup.exchange.open(seconds, randomness.second())
        except RemoteProtocolError:
            return None

    def _timed(self, k: int) -> Callable[[str], AbstractContextManager[None]]:
        return lambda phase: self._setup.trace.span(phase, k)

    def _open_in_range(self, answers: Answers, randomness: RoundRandomness) -> CouplingTerm:
        """Open each pairwise answer alone, and then those in range together; sealed ones never."""
        exchange, valid = self._setup.exchange, dict[str, Sequence[mpz]]()
        if not exchange.sealed:
            for name, answer in answers.items():
                with suppress(RemoteProtocolError):
                    exchange.open({name: answer}, randomness, untimed)
                    valid[name] = answer
        combined = exchange.open(valid, randomness, untimed) if valid else []
        out_of_range = tuple(sorted(answers.keys() - valid.keys()))
        return CouplingTerm(combined, frozenset(valid), out_of_range)
