"""The phases of a node as a table, and the deadlines of one round.

A node is always in one of four phases. `TRANSITIONS` lists every allowed change of phase with its
trigger; any other change is a bug of ours and raises LocalProtocolError. `agent.py` decides when a
trigger occurs.

    STARTING -> COLLECTING      the first round is opened, or the open round is repeated
    COLLECTING -> READING       the round is closed, or abandoned for a later one
    READING -> COLLECTING       the next round is opened
    COLLECTING -> COLLECTING    another attempt of the round is sent, to a smaller roster
    any other -> FINISHED       the last round is closed

A `Round` exists only while the node is COLLECTING. It has one deadline for each neighbour whose
answer is awaited. A neighbour leaves the list of deadlines when it has answered (`receive`), or
when its answer is not awaited any more (`stop_waiting_for`). The round is complete when the list is
empty and at least one neighbour has answered. It is not complete without any answer: then the node
goes on waiting, since an estimate without a coupling term would move to the node's own optimum.

This module holds names, numbers and deadlines only. It has no key and no plaintext.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from cipherfleet_node.errors import LocalProtocolError


class Phase(Enum):
    """The phases of a node."""

    STARTING = "starting"  # waits for its first reading and its neighbours
    READING = "reading"  # between two rounds: waits for a reading, or for its period to end
    COLLECTING = "collecting"  # a round is open: the query is sent, answers are awaited
    FINISHED = "finished"  # has run all its rounds; still answers its neighbours


class Trigger(Enum):
    """The reasons for a change of phase; the texts are those of node/PROTOCOL.md."""

    OPEN = "a round is opened"
    REPEAT = "a round found open in the saved state is sent again"
    ASK_AGAIN = "one of a sealed roster stays silent: the others are asked without it"
    CLOSE = "every awaited answer is in, or the deadlines have passed and some are in"
    JUMP = "neighbours are two or more rounds ahead, or have skipped this one"
    FINISH = "the last round is closed, or every neighbour has finished without us"


# The state table of node/PROTOCOL.md#rounds is the same as this one; a test compares them.
TRANSITIONS: dict[tuple[Phase, Trigger], Phase] = {
    (Phase.STARTING, Trigger.OPEN): Phase.COLLECTING,
    (Phase.STARTING, Trigger.REPEAT): Phase.COLLECTING,
    (Phase.STARTING, Trigger.FINISH): Phase.FINISHED,
    (Phase.READING, Trigger.OPEN): Phase.COLLECTING,
    (Phase.READING, Trigger.FINISH): Phase.FINISHED,
    (Phase.COLLECTING, Trigger.ASK_AGAIN): Phase.COLLECTING,
    (Phase.COLLECTING, Trigger.CLOSE): Phase.READING,
    (Phase.COLLECTING, Trigger.JUMP): Phase.READING,
    (Phase.COLLECTING, Trigger.FINISH): Phase.FINISHED,
}


def next_phase(phase: Phase, trigger: Trigger) -> Phase:
    """Return the phase after *trigger*; raises LocalProtocolError if the table has none."""
    try:
        return TRANSITIONS[phase, trigger]
    except KeyError:
        raise LocalProtocolError(f"{trigger.name} is not allowed while {phase.value}") from None


@dataclass
class Round:
    """One attempt of an open round that collects answers. Times are monotonic seconds."""

    number: int
    opened: float  # when this attempt began, or when the connection came back
    resend_every: float
    attempt: int = 0
    deadlines: dict[str, float] = field(default_factory=dict)  # by awaited neighbour
    answered: set[str] = field(default_factory=set)
    resend_at: float = 0.0

    def __post_init__(self) -> None:
        self.resend_at = self.opened + self.resend_every

    def expect(self, neighbour: str, until: float) -> None:
        """Await *neighbour* until a deadline; a deadline that it already has is not changed."""
        if neighbour not in self.answered:
            self.deadlines.setdefault(neighbour, until)

    def stop_waiting_for(self, neighbour: str) -> None:
        """Await *neighbour* no longer: it has departed, is overdue, or is too far ahead."""
        self.deadlines.pop(neighbour, None)

    def receive(self, neighbour: str) -> bool:
        """Record an answer of *neighbour*; False if it has answered before."""
        if neighbour in self.answered:
            return False
        self.answered.add(neighbour)
        self.deadlines.pop(neighbour, None)
        return True

    def overdue(self, now: float) -> list[str]:
        """Return the neighbours whose deadlines have passed at *now*."""
        return [name for name, until in self.deadlines.items() if until <= now]

    @property
    def complete(self) -> bool:
        """True if no answer is awaited any more and at least one neighbour has answered."""
        return not self.deadlines and bool(self.answered)

    def next_time(self) -> float:
        """Return the time of the next deadline or repetition of the query."""
        return min([self.resend_at, *self.deadlines.values()])

    def note_resend(self, now: float) -> None:
        """Record that the query was sent again at *now*."""
        self.resend_at = now + self.resend_every


def jump_target(current: int, claims: Iterable[int]) -> int | None:
    """Return the round to jump to, or None if the neighbours are less than two rounds ahead.

    *claims* are the latest rounds of the present neighbours, as they claim them themselves. The
    second highest claim counts, so that one false claim alone cannot move a node. With a single
    neighbour its claim counts. Checked by test_one_claim_alone_does_not_drag_a_node.
    """
    ordered = sorted(claims, reverse=True)
    if not ordered:
        return None
    target = ordered[min(1, len(ordered) - 1)]
    return target if target >= current + 2 else None
