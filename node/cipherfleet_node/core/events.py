"""What goes into an agent and what comes out: its setup, its events and its effects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from cipherfleet_node.settings.sections import Algorithm

from .exchange import Exchange
from .messages import Message
from .objective import Objective
from .randomness import FloatVector
from .sample import Sample
from .state import State


class Trace(Protocol):
    """Takes the time of the phases of a round."""

    def span(self, phase: str, round_number: int) -> AbstractContextManager[None]:
        """A context that lasts as long as *phase*."""


@dataclass(frozen=True, repr=False)
class Setup:
    """Everything an agent is given once."""

    fleet: str
    node: str
    key_tag: bytes  # begins the fingerprint of the node's key, TAG_BYTES
    neighbours: Mapping[str, bytes]  # their key tags
    exchange: Exchange
    algorithm: Algorithm
    resolution: float
    objective: Objective
    parameters: bytes  # digest of what all nodes must agree on
    new_seed: Callable[[int], bytes]  # of a round's draws, given the round's number
    trace: Trace
    first_round: int = 0  # a newcomer begins when a neighbour has come to it


@dataclass(frozen=True)
class Started:
    """The daemon runs; the saved state is in the agent."""


@dataclass(frozen=True)
class Connected:
    """The broker is there and every subscription is acknowledged."""


@dataclass(frozen=True)
class Disconnected:
    """The broker is gone; deadlines stand still until it is back."""


@dataclass(frozen=True, repr=False)
class MessageReceived:
    """A message whose signature has been checked; *retained* if the broker had kept it."""

    message: Message
    retained: bool = False


@dataclass(frozen=True, repr=False)
class ReadingTaken:
    """The sensor's new samples; empty when it has none, as after a failure or a replay's end."""

    samples: Sequence[Sample]


@dataclass(frozen=True)
class TimerFired:
    """The time that Agent.timer() named has come."""


@dataclass(frozen=True)
class MembershipPending:
    """Other neighbours are to be had from *from_round* on; *revoked* are neighbours no more."""

    from_round: int
    revoked: frozenset[str] = frozenset()


Event = (
    Started
    | Connected
    | Disconnected
    | MessageReceived
    | ReadingTaken
    | TimerFired
    | MembershipPending
)


@dataclass(frozen=True, repr=False)
class Save:
    """Make *state* durable before the next effect."""

    state: State


@dataclass(frozen=True, repr=False)
class Publish:
    """Send *message* on its topic."""

    message: Message


@dataclass(frozen=True)
class TakeReading:
    """Read the sensor and answer with ReadingTaken."""


@dataclass(frozen=True, repr=False)
class RoundClosed:
    """A round is over. The estimate x_{k+1} is for the node's own use only."""

    number: int
    opened: float
    silent: tuple[str, ...]
    estimate: FloatVector
    spoiled: tuple[str, ...] = ()  # whose sealed answers did not open together


@dataclass(frozen=True)
class Rejected:
    """A message of *sender* was dropped; counted under *reason*."""

    sender: str
    reason: str


@dataclass(frozen=True)
class Surplus:
    """A message of *sender* that changes nothing: any network brings some late or twice.

    Nobody is to blame; it is counted under *reason* all the same.
    """

    sender: str
    reason: str


@dataclass(frozen=True)
class Switch:
    """The next round is not to be opened with these neighbours any more: start anew with others."""


@dataclass(frozen=True)
class Stop:
    """Nothing is left to do."""


Effect = Switch | Save | Publish | TakeReading | RoundClosed | Rejected | Surplus | Stop
