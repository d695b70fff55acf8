"""The rounds of a node as a table, and who is waited for until when.

No key and no plaintext is held here: only names, numbers and deadlines.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from cipherfleet_node.errors import LocalProtocolError


class Phase(Enum):
    """Where a node stands."""

    STARTING = "starting"  # waits for its first reading and its neighbours
    READING = "reading"  # between rounds: waits for its reading, or for its period
    COLLECTING = "collecting"  # its query is out, answers come in
    FINISHED = "finished"  # all rounds done; still answers those who are not


class Trigger(Enum):
    """What moves a node from phase to phase."""

    OPEN = "a round is opened"
    REPEAT = "a round found open in the saved state is sent again"
    ASK_AGAIN = "one of a sealed roster stays silent: the others are asked without it"
    CLOSE = "every awaited answer is in, or the deadlines have passed and some are in"
    JUMP = "neighbours are two or more rounds ahead, or have skipped this one"
    FINISH = "the last round is closed, or every neighbour has finished without us"


# The state table of PROTOCOL.md is generated from this.
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
    """Where *trigger* leads from *phase*; LocalProtocolError if the table does not allow it."""
    try:
        return TRANSITIONS[phase, trigger]
    except KeyError:
        raise LocalProtocolError(f"{trigger.name} is not allowed while {phase.value}") from None


@dataclass
class Round:
    """One round that collects answers. Times are monotonic seconds."""

    number: int
    opened: float
    resend_every: float
    attempt: int = 0
    deadlines: dict[str, float] = field(default_factory=dict)  # of those waited for
    answered: set[str] = field(default_factory=set)
    resend_at: float = 0.0

    def __post_init__(self) -> None:
        self.resend_at = self.opened + self.resend_every

    def expect(self, neighbour: str, until: float) -> None:
        """Wait for *neighbour*; the time first given to it stands."""
        if neighbour not in self.answered:
            self.deadlines.setdefault(neighbour, until)

    def excuse(self, neighbour: str) -> None:
        """Wait for *neighbour* no longer: it is gone, or far ahead."""
        self.deadlines.pop(neighbour, None)

    def receive(self, neighbour: str) -> bool:
        """Note an answer of *neighbour*; False if it is a repetition."""
        if neighbour in self.answered:
            return False
        self.answered.add(neighbour)
        self.deadlines.pop(neighbour, None)
        return True

    def overdue(self, now: float) -> list[str]:
        """Who has let its deadline pass."""
        return [name for name, until in self.deadlines.items() if until <= now]

    @property
    def complete(self) -> bool:
        """Whether nobody is waited for any more and somebody has answered."""
        return not self.deadlines and bool(self.answered)

    def next_time(self) -> float:
        """When to look again."""
        return min([self.resend_at, *self.deadlines.values()])

    def resent(self, now: float) -> None:
        """The query went out again."""
        self.resend_at = now + self.resend_every


def jump_target(current: int, claims: Iterable[int]) -> int | None:
    """The round to jump to when neighbours' *claims* (the rounds they are in) are two ahead.

    With several neighbours the second highest counts, so that no single one drags a node further
    than another bears out. Checked by test_one_claim_alone_does_not_drag_a_node.
    """
    ordered = sorted(claims, reverse=True)
    if not ordered:
        return None
    target = ordered[min(1, len(ordered) - 1)]
    return target if target >= current + 2 else None
