"""How long queries and answers took, seen from both ends, each end by its own clock.

A `trip` is the asker's: from the sending of its query to the arrival of a neighbour's answer. A
`service` is the answerer's: from the arrival of a query to the sending of the answer. A trip less
the service of the same round, attempt and pair is what broker and network took of it; no time of
one clock is ever compared with another's.
"""

from __future__ import annotations

from cipherfleet_node.core.messages import Answer, Message, Query

from .spans import Spans

MAX_AWAITED = 256  # queries not answered yet: neighbours are 63 at most, the rest is repetition

TRIP, SERVICE = "trip", "service"


class Trips:
    """Takes in what comes and goes, and notes both kinds of spans; the first of repetitions count.

    Times are monotonic seconds.
    """

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._asked: tuple[int, int] = (-1, -1)  # round and attempt of the query that is out
        self._asked_at = 0.0
        self._heard: set[str] = set()  # who has answered it
        self._awaiting: dict[tuple[str, int, int], float] = {}  # asker, round, attempt: arrival

    def sent(self, message: Message, before: float, after: float) -> None:
        """*message* was handed to the link between *before* and *after*."""
        if isinstance(message, Query):
            if (message.round, message.attempt) != self._asked:
                self._asked, self._asked_at = (message.round, message.attempt), before
                self._heard = set()
        elif isinstance(message, Answer):
            asker, k, attempt = message.receiver, message.round, message.attempt
            began = self._awaiting.pop((asker, k, attempt), None)
            if began is not None:
                self._spans.add(SERVICE, k, began, after, neighbour=asker, attempt=attempt)

    def arrived(self, message: Message, at: float) -> None:
        """*message*, whose signature is good, came *at*."""
        if isinstance(message, Query):
            self._awaiting.setdefault((message.sender, message.round, message.attempt), at)
            if len(self._awaiting) > MAX_AWAITED:
                del self._awaiting[next(iter(self._awaiting))]
        elif isinstance(message, Answer):
            self._answered(message, at)

    def _answered(self, answer: Answer, at: float) -> None:
        sender, k, attempt = answer.sender, answer.round, answer.attempt
        if (k, attempt) == self._asked and sender not in self._heard:
            self._heard.add(sender)
            self._spans.add(TRIP, k, self._asked_at, at, neighbour=sender, attempt=attempt)
