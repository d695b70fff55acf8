"""Which neighbours a node asks in a round.

**Back-off.** A neighbour that lets a round close without its answer has missed once more, up to
MOST_MISSES. With m > 1 misses it is asked in rounds divisible by 2^(m+1) only. One miss changes
nothing, since every change of a roster costs a held round. An answer in time halves the misses. A
new connection of this node to the broker ends them all, and so does a round without any reply: it
was probably this node that was cut off. A neighbour without which there are too few is asked in any
case: without it the round would be held anyway. A refusal is no miss, since an honest neighbour
refuses for a few rounds at most. From PATIENCE refusals in a row on, each one counts as a miss.

**Answers out of range.** The answers of the sealed exchange open only together. If they are out of
range in SPOILED_ROUNDS rounds one after another, one of the roster is faulty, and nobody can say
which. The node then leaves out half of the roster. If the others open, the faulty one is in the
half that is left out; otherwise the halves change places. After some rounds a part of those left
out is asked again. So in the end one neighbour is left out, and the log and the health report name
it. A roster of fewer than four is not divided: both halves need two members.

A neighbour is *set aside* while it has m > 1 misses or is left out. Some rounds try nothing: they
ask none of those set aside, unless there are too few others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

MOST_MISSES = 5
PATIENCE = 5
SPOILED_ROUNDS = 3
MOST_DOUBLINGS = 6  # of the rounds until a trial
FIRST_TRIAL = 16  # rounds until a part of those left out is asked again; doubles with each failure


class Roster:
    """Choose the roster of each round. *least* is the smallest number that may be asked."""

    def __init__(self, least: int) -> None:
        self._least = least
        self._misses: dict[str, int] = {}
        self._refusals: dict[str, int] = {}  # consecutive ones
        self._spoiled = 0  # consecutive rounds out of range
        self.left_out: frozenset[str] = frozenset()
        self._on_trial: frozenset[str] = frozenset()
        self._trial_at = 0  # the round of the next trial
        self._trials = 0

    def choose(
        self, candidates: Iterable[str], round_number: int, *, tries: bool = True
    ) -> list[str]:
        """Return the sorted names to ask in *round_number*, out of *candidates*.

        A round that *tries* nothing asks none of those set aside, unless there are too few others.
        """
        if tries and self.left_out and not self._on_trial and round_number >= self._trial_at:
            self._on_trial = _first_half(self.left_out)
        on_trial = self._on_trial if tries else frozenset()
        usable = sorted(set(candidates) - (self.left_out - on_trial))
        due = [
            name
            for name in usable
            if not self._pauses(name) or (tries and self._is_due(name, round_number))
        ]
        others = [name for name in usable if name not in due]
        others.sort(key=lambda name: self._misses[name])  # stable: the same on every machine
        return sorted([*due, *others[: max(self._least - len(due), 0)]])

    def sets_aside(self, name: str) -> bool:
        """True if *name* is asked in some rounds at most."""
        return name in self.left_out or self._pauses(name)

    def has_missed(self, name: str) -> bool:
        """True if *name* has misses left."""
        return self._misses.get(name, 0) > 0

    def missed(self, names: Iterable[str]) -> None:
        """Record that a round closed without an answer of *names*."""
        for name in names:
            self._misses[name] = min(self._misses.get(name, 0) + 1, MOST_MISSES)

    def refused(self, name: str) -> None:
        """Record that *name* has refused to answer."""
        self._refusals[name] = self._refusals.get(name, 0) + 1
        if self._refusals[name] >= PATIENCE:
            self.missed([name])

    def answered(self, names: Iterable[str]) -> None:
        """Record that *names* answered in time, with answers that could be used."""
        for name in names:
            self._refusals.pop(name, None)
            self._misses[name] = self._misses.get(name, 0) // 2

    def forgive(self) -> None:
        """Forget all misses: they may have been the fault of this node's connection."""
        self._misses.clear()

    def opened(self, roster: Collection[str]) -> None:
        """Record that the answers of *roster* were in range."""
        self._spoiled = 0
        tried = self._on_trial & set(roster)
        self.left_out -= tried
        self._on_trial -= tried

    def spoiled(self, roster: Collection[str], round_number: int) -> None:
        """Record that the sealed answers of *roster* were out of range together."""
        self._spoiled += 1
        if self._spoiled < SPOILED_ROUNDS:
            return
        self._spoiled = 0
        if self._on_trial & set(roster):
            self._end_trial(round_number)
        elif self.left_out:
            self._leave_out(frozenset(roster), round_number)  # the halves change places
        elif len(roster) >= 2 * self._least:
            self._leave_out(_first_half(frozenset(roster)), round_number)

    def _end_trial(self, round_number: int) -> None:
        """The faulty one is among those on trial: ask the rest of those left out next time."""
        self.left_out, self._on_trial = self._on_trial, frozenset()
        self._trials += 1
        self._trial_at = round_number + (FIRST_TRIAL << min(self._trials, MOST_DOUBLINGS))

    def _leave_out(self, names: frozenset[str], round_number: int) -> None:
        self.left_out = names
        self._trial_at = round_number + FIRST_TRIAL

    def _pauses(self, name: str) -> bool:
        return self._misses.get(name, 0) > 1

    def _is_due(self, name: str, round_number: int) -> bool:
        return round_number % (1 << (self._misses.get(name, 0) + 1)) == 0


def _first_half(names: frozenset[str]) -> frozenset[str]:
    ordered = sorted(names)
    return frozenset(ordered[: (len(ordered) + 1) // 2])
