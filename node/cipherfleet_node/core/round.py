"""The phases of a node as a table, and the open round with its deadlines.

A node is always in one of four phases. `TRANSITIONS` lists every allowed change of phase with its
trigger; any other change is a bug of ours and raises LocalProtocolError. `agent.py` decides when a
trigger occurs.

    STARTING -> COLLECTING      the first round is opened, or the open round is sent again
    COLLECTING -> READING       the round is closed, with a coupling term or held
    READING -> COLLECTING       the next round is opened
    STARTING, READING -> FINISHED    all rounds are run

A `Round` exists only while the node is COLLECTING. It has one roster, the neighbours whose answers
complete it, and at most two deadlines. At the first one the same query is sent again. At the second
one the round closes without what is missing. There is no second deadline if all who are missing
have missed before, or have refused.

This module holds names, numbers and deadlines only. It has no key and no plaintext.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from cipherfleet_node.errors import LocalProtocolError


class Phase(Enum):
    """The phases of a node."""

    STARTING = "starting"  # waits for its first reading and its neighbours
    READING = "reading"  # between two rounds: waits for a reading, a neighbour, or its period
    COLLECTING = "collecting"  # a round is open: the query is sent, answers are awaited
    FINISHED = "finished"  # has run all its rounds; still answers its neighbours


class Trigger(Enum):
    """The reasons for a change of phase; the texts are those of node/PROTOCOL.md."""

    OPEN = "a round is opened, or one found open in the saved state is sent again"
    CLOSE = "every answer is in, the deadlines have passed, or the neighbours are far ahead"
    FINISH = "all rounds are run, and the present neighbours have run theirs"


# The state table of node/PROTOCOL.md#rounds is the same as this one; a test compares them.
TRANSITIONS: dict[tuple[Phase, Trigger], Phase] = {
    (Phase.STARTING, Trigger.OPEN): Phase.COLLECTING,
    (Phase.STARTING, Trigger.FINISH): Phase.FINISHED,
    (Phase.READING, Trigger.OPEN): Phase.COLLECTING,
    (Phase.READING, Trigger.FINISH): Phase.FINISHED,
    (Phase.COLLECTING, Trigger.CLOSE): Phase.READING,
}


def next_phase(phase: Phase, trigger: Trigger) -> Phase:
    """Return the phase after *trigger*; raises LocalProtocolError if the table has none."""
    try:
        return TRANSITIONS[phase, trigger]
    except KeyError:
        raise LocalProtocolError(f"{trigger.name} is not allowed while {phase.value}") from None


Wait = Callable[[str], float]  # how long to wait for a neighbour, in seconds


@dataclass
class Round:
    """The open round. Times are monotonic seconds."""

    number: int
    roster: frozenset[str]  # the neighbours whose answers complete the round; may be empty
    opened: float  # or when the connection came back
    answered: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    excluded: set[str] = field(default_factory=set)  # pairwise: closed the round without this node
    deadline: float = 0.0
    repeated: bool = False  # the query was sent again at the first deadline

    @property
    def missing(self) -> set[str]:
        """The members of the roster that have not answered."""
        return set(self.roster) - self.answered

    @property
    def unheard(self) -> set[str]:
        """The members of the roster that have neither answered nor refused."""
        return self.missing - self.refused

    @property
    def is_complete(self) -> bool:
        """True if the roster is not empty and all its members have answered."""
        return bool(self.roster) and not self.missing

    def exclude(self, name: str) -> None:
        """Neither await *name* nor take its answer."""
        self.excluded.add(name)
        self.answered.discard(name)
        self.refused.add(name)

    def await_until(self, now: float, wait: Wait, least_s: float) -> None:
        """Begin a deadline: the longest *wait* for a member that is missing, at least *least_s*."""
        self.deadline = now + max([least_s, *(wait(name) for name in self.missing)])
