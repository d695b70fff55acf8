"""Notices that a node computes alone: no neighbour answers its queries, although neighbours speak.

Such a node may open rounds, feed its watchdog and look healthy. Causes are epochs or parameters
that its neighbours refuse, answers that always come too late, and a broker that delivers in one
direction only. Neighbours that are silent are no reason for this alert: they are switched off.
"""

from __future__ import annotations

UNANSWERED_ROUNDS = 8  # closed rounds in a row without an answer


class Unanswered:
    """Count the rounds and seconds without an answer. Times are monotonic seconds.

    *patience_s* is the longest duration of a healthy round.
    """

    def __init__(self, patience_s: float, now: float) -> None:
        self._patience_s = patience_s
        self._answered_at = now  # the end of the latest answered round, or the start
        self._heard: dict[str, float] = {}  # neighbours, and when each was heard last
        self._rounds = 0  # closed in a row without an answer
        self.has_exchanged = False  # a round with an answer was closed since the start

    def hear(self, neighbour: str, now: float) -> None:
        """Record a valid message of *neighbour*."""
        self._heard[neighbour] = now

    def close_round(self, now: float, *, is_answered: bool) -> None:
        """Record a closed round; *is_answered* if a neighbour's answer is in its result."""
        if is_answered:
            self.has_exchanged = True
            self._answered_at, self._rounds = now, 0
        else:
            self._rounds += 1

    def speakers(self, now: float) -> list[str]:
        """Return the neighbours that have spoken within the duration of a healthy round."""
        return sorted(name for name, at in self._heard.items() if now - at < self._patience_s)

    def duration_s(self, now: float) -> int:
        """Return the seconds since the latest answered round; 0 while there is no alert."""
        lasts_s = now - self._answered_at
        is_long = self._rounds >= UNANSWERED_ROUNDS or lasts_s >= self._patience_s
        return max(1, int(lasts_s)) if is_long and self.speakers(now) else 0
