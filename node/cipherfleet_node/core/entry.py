"""How a node without a state enters a sealed fleet of the exact method, counted alike at both ends.

A newcomer, and a node that has lost its state, has no record of the rounds that its neighbours have
open. If they asked it for one of these, it would refuse. Their rounds would be held, although their
other neighbours have counted them. The exact method does not recover from a round that is counted
at one end only: the sum of the duals stays wrong.

**Blocks.** The rounds are divided into blocks of BLOCK rounds. A node without a state waits until
its neighbours are LEAD or LATEST_LEAD rounds before a block. Then it opens the first round of that
block, with all its neighbours in the roster. They see this query in time. They ask the node in that
round for the first time, so both ends count the same rounds. The node does not close this round
before they have come to it, and no neighbour follows it there: nobody else is there yet. If the
neighbours come to no other round, the node enters at the next block after IDLE_DEADLINES.

**Rosters.** In that round all neighbours of the node have a wider roster. Their own neighbours have
answered the roster before, and one draw must not be used for two rosters. In the exact method a new
state has another Lambda, another half weight and another dither, just as a new draw has. So a node
whose state is of another block counts as one that has drawn again. A node that stands still keeps
its numbers, and refuses as before. A neighbour's roster can therefore change once in a block
without a refusal, and no more often.
"""

from __future__ import annotations

from collections.abc import Iterable

from .claims import Claims
from .deadlines import Deadlines
from .events import Setup
from .neighbours import NeighbourTable
from .round import Round
from .state import UNSEEN, State

BLOCK = 8
LEAD = 3  # two rounds for a claim that is on its way, one for the query
LATEST_LEAD = 4
WAIT_DEADLINES = 2.0  # so long a node waits to hear all its neighbours
IDLE_DEADLINES = 16.0


def block_of(round_number: int) -> bytes:
    """Return the block of a round, 8 bytes."""
    return (round_number // BLOCK).to_bytes(8, "big")


class Entry:
    """When a node enters, and when its neighbours that enter are asked. Times are monotonic."""

    def __init__(
        self, setup: Setup, neighbours: NeighbourTable, claims: Claims, deadlines: Deadlines
    ) -> None:
        self._setup, self._neighbours = setup, neighbours
        self._claims, self._deadlines = claims, deadlines
        self._heard_at = self._idle_at = 0.0

    def begin_connection(self, now: float) -> None:
        """Wait from *now* on for the claims of the neighbours."""
        self._heard_at = now + WAIT_DEADLINES * self._deadlines.current_s
        self._begin_wait(now)

    def _begin_wait(self, now: float) -> None:
        longest_s = self._deadlines.current_s + (self._setup.algorithm.period_s or 0.0)
        self._idle_at = now + IDLE_DEADLINES * longest_s

    # -- this node enters -----------------------------------------------------------------------

    def is_newcomer(self, state: State) -> bool:
        """True if this node has opened no round, and its neighbours are beyond the first one."""
        latest = max(self._claims.rounds.values(), default=UNSEEN)
        is_new = not state.records and not state.has_lost_round
        return self._setup.has_blocks and is_new and latest > 0

    def has_waited(self, now: float) -> bool:
        """True if this node enters without the claims that have not come yet."""
        return self._setup.has_blocks and now >= self._heard_at

    def round(self, learned: int | None, now: float) -> int | None:
        """Return the first round of this node, or None if it must wait.

        *learned* is what `claims.py` and two rounds more allow.
        """
        if learned is None or not self._setup.has_blocks:
            return learned
        table, claim = self._neighbours, learned - 2
        has_heard_all = table.are_all_present and table.are_present_live
        if claim < self._setup.first_round or not (has_heard_all or self.has_waited(now)):
            return None
        first = -(-(claim + LEAD) // BLOCK) * BLOCK
        if first > claim + LATEST_LEAD and now < self._idle_at:
            return None
        self._begin_wait(now)
        return first

    def is_awaiting(self, current: Round, state: State, now: float) -> bool:
        """True in the first round of this node, while those that it asks come to that round."""
        is_first = self._setup.has_blocks and len(state.records) == 1 and current.number > 0
        behind = (self._claims.rounds[name] < current.number for name in current.unheard)
        return is_first and now < self._idle_at and any(behind)

    # -- neighbours enter -----------------------------------------------------------------------

    @property
    def ahead(self) -> set[str]:
        """The neighbours whose only claim may be the round in which they enter."""
        if not self._setup.has_blocks:
            return set()
        rounds, first = self._claims.rounds, self._claims.first
        return {name for name, k in first.items() if k == rounds[name] and k % BLOCK == 0}

    def entered(self, names: Iterable[str], state: State) -> list[str]:
        """Return those of *names* that have the next round of *state*, as far as is known."""
        if not self._setup.has_blocks:
            return list(names)
        return [name for name in names if self._has_entered(name, state)]

    def _has_entered(self, name: str, state: State) -> bool:
        # A neighbour in the latest roster that restarts with its state is asked all the time.
        is_kept = not state.records or name in state.records[-1].roster
        if self._claims.rounds[name] == UNSEEN:
            return is_kept and name not in self._neighbours.waiting
        first = self._claims.first.get(name, UNSEEN)
        return first <= state.round + (bool(state.records) and is_kept)
