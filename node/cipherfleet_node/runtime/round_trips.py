"""Round-trip and service times of the exchange, each measured on a single clock.

The round-trip time (span `trip`) is measured by the asker: from the sending of its query to the
arrival of a neighbour's answer. The service time (span `service`) is measured by the answerer: from
the arrival of a query to the sending of its answer. The difference of the two, for one round
and pair of nodes, is the time that broker and network took. Times of different clocks are
never compared.
"""

from __future__ import annotations

from cipherfleet_node.core.messages import Answer, Message, Query

from .spans import Spans

MAX_AWAITED = 256  # queries without an answer yet; there are at most 63 neighbours

TRIP, SERVICE = "trip", "service"


class RoundTrips:
    """Record both kinds of spans from the messages sent and received.

    Of repeated messages only the first counts. Times are monotonic seconds.
    """

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._asked = -1  # round of the latest query
        self._asked_at = 0.0
        self._heard: set[str] = set()  # the neighbours that have answered it
        self._awaiting: dict[tuple[str, int], float] = {}  # arrival, by asker and round

    def sent(self, message: Message, before: float, after: float) -> None:
        """Record that *message* was passed to the link between *before* and *after*."""
        if isinstance(message, Query):
            if message.round != self._asked:
                self._asked, self._asked_at = message.round, before
                self._heard = set()
        elif isinstance(message, Answer):
            asker, k = message.receiver, message.round
            began = self._awaiting.pop((asker, k), None)
            if began is not None:
                self._spans.add(SERVICE, k, began, after, neighbour=asker)

    def arrived(self, message: Message, at: float) -> None:
        """Record that *message*, whose signature is valid, arrived *at*."""
        if isinstance(message, Query):
            self._awaiting.setdefault((message.sender, message.round), at)
            if len(self._awaiting) > MAX_AWAITED:
                del self._awaiting[next(iter(self._awaiting))]
        elif isinstance(message, Answer):
            self._answered(message, at)

    def _answered(self, answer: Answer, at: float) -> None:
        sender, k = answer.sender, answer.round
        if k == self._asked and sender not in self._heard:
            self._heard.add(sender)
            self._spans.add(TRIP, k, self._asked_at, at, neighbour=sender)
