"""The rounds that the neighbours claim to have reached, and when this node follows them.

A neighbour claims a round by opening it: its query carries the number. One false claim must not
move a node far, so these rules hold:

* Of all configured neighbours, the second highest claim counts. Absent ones count with their last
  claim, which is saved.
* One claim alone counts only for a node that *holds*, if the claim is two or more rounds ahead, or
  if the neighbour was FAR rounds ahead for two deadlines. After such a jump the next one has to
  wait. The wait doubles with each jump, up to LONGEST_WAIT deadlines. It is short again when a
  round with that neighbour in it is coupled.
* No claim counts beyond the *bound*: the round of the start, plus the number of the shortest
  possible rounds in the time since, plus FAR.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from .state import UNSEEN

FAR = 4  # so many rounds ahead, a neighbour does not have our round any more
FIRST_WAIT, LONGEST_WAIT = 2, 1024  # in deadlines
SHORTEST_ROUND_S = 0.005
PERIODS = 10.0  # a node that catches up is so many times faster than the period


class Claims:
    """The claims of the neighbours of one node. Times are monotonic seconds."""

    def __init__(self, rounds: Mapping[str, int], period_s: float | None, away_s: float) -> None:
        self.rounds = dict(rounds)
        self.first: dict[str, int] = {}  # of the neighbours that have started since this node has
        self._shortest_s = max(SHORTEST_ROUND_S, (period_s or 0.0) / PERIODS)
        self._away_s = away_s  # how long the node was off before this start
        self._start: tuple[int, float] | None = None  # round and time from which the bound counts
        self._far_since: dict[str, float] = {}
        self._followed = ""  # the neighbour whose single claim was followed last
        self._wait = FIRST_WAIT
        self._not_before = -float("inf")

    def begin(self, round_number: int, now: float) -> None:
        """Count the bound from *round_number*; a node that has no state has no bound before."""
        if self._start is None:
            self._start = round_number, now

    def bound(self, now: float) -> float:
        """Return the latest round that any node can have reached at *now*."""
        if self._start is None:
            return float("inf")
        first, began = self._start
        return first + int((self._away_s + now - began) / self._shortest_s) + FAR

    def record(self, name: str, round_number: int, now: float) -> bool:
        """Record a claim; False if it is beyond the bound, and was cut."""
        bound = self.bound(now)
        if self.rounds[name] == UNSEEN:
            self.first[name] = round_number
        self.rounds[name] = max(self.rounds[name], int(min(round_number, bound)))
        return round_number <= bound

    def restart(self, name: str) -> None:
        """Forget the claim of *name*, which has started again."""
        self.rounds[name] = UNSEEN
        self.first.pop(name, None)
        self._far_since.pop(name, None)

    def target(
        self,
        current: int,
        now: float,
        deadline_s: float,
        *,
        holding: bool,
        without: Collection[str] = (),
    ) -> int | None:
        """Return the round to go to, or None to go on with *current*.

        The claims of the neighbours *without* do not count.
        """
        counted = [(name, claim) for name, claim in self.rounds.items() if name not in without]
        ordered = sorted(counted, key=lambda item: item[1], reverse=True)
        self._note_far(current, now)
        if len(ordered) > 1 and ordered[1][1] >= current + 2:
            return ordered[1][1]
        if not ordered or now < self._not_before:
            return None
        name, highest = ordered[0]
        far = now - self._far_since.get(name, now) >= 2.0 * deadline_s
        if highest >= current + 2 and (holding or far):
            self._not_before = now + self._wait * deadline_s
            self._wait = min(2 * self._wait, LONGEST_WAIT)
            self._followed = name
            return highest
        return None

    def coupled(self, names: Iterable[str]) -> None:
        """Record that a round with *names* in it was coupled."""
        if self._followed in names:
            self._wait = FIRST_WAIT

    def _note_far(self, current: int, now: float) -> None:
        for name, claim in self.rounds.items():
            if claim >= current + FAR:
                self._far_since.setdefault(name, now)
            else:
                self._far_since.pop(name, None)
