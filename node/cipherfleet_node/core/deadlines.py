"""The deadline of an answer, learned from the replies that have come.

The base deadline is `answer_timeout_s`. A reply is an answer or a refusal. The first reply of a
neighbour to a round gives one sample: the time since the query was first sent, less the time that
the query waited at the neighbour for its round. Replies that come after the round has closed count
as well, or a node whose round trip is longer than its deadline could never learn that. A repeated
query or a new connection gives no sample of its own.
"""

from __future__ import annotations

import statistics
from collections import deque

REMEMBERED_ROUNDS = 64  # a later reply gives no sample
SAMPLES = 9
MARGIN = 4.0  # deadline = MARGIN times the median sample
LONGEST = 64.0  # in base deadlines


class Deadlines:
    """Learn the deadline of one node. Times are monotonic seconds."""

    def __init__(self, base_s: float) -> None:
        self.base_s = base_s
        self._samples: deque[float] = deque(maxlen=SAMPLES)
        self._sent: dict[int, float] = {}
        self._replied: set[tuple[str, int]] = set()

    def sent(self, round_number: int, now: float) -> None:
        """Record that the query of *round_number* was sent for the first time."""
        self._sent.setdefault(round_number, now)
        oldest = round_number - REMEMBERED_ROUNDS
        if len(self._sent) > REMEMBERED_ROUNDS:
            self._sent = {k: at for k, at in self._sent.items() if k > oldest}
            self._replied = {reply for reply in self._replied if reply[1] > oldest}

    def forget(self) -> None:
        """Take no sample of the rounds sent so far: the connection was lost."""
        self._sent.clear()
        self._replied.clear()

    def is_recent(self, round_number: int, now: float) -> bool:
        """True if the query of *round_number* was sent within two deadlines, as learned by now."""
        sent = self._sent.get(round_number)
        return sent is not None and now - sent <= 2.0 * self.current_s

    def replied(self, name: str, round_number: int, waited_s: float, now: float) -> None:
        """Take a sample of the reply of *name* to *round_number*, if it is its first."""
        if round_number in self._sent and (name, round_number) not in self._replied:
            self._replied.add((name, round_number))
            self._samples.append(max(now - self._sent[round_number] - waited_s, 0.0))

    @property
    def current_s(self) -> float:
        """The present deadline, in seconds."""
        if not self._samples:
            return self.base_s
        learned = MARGIN * statistics.median(self._samples)
        return float(min(max(learned, self.base_s), LONGEST * self.base_s))
