"""The interface of the agent: its setup, the events that go in and the effects that come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from cipherfleet_node.settings.sections import Algorithm, Scale

from .exchange import Exchange
from .messages import Message
from .objective import Objective
from .randomness import FloatVector, Seeds
from .sample import Sample
from .shield import Shield
from .state import AnsweredQuery, State


class Trace(Protocol):
    """Measures the duration of the phases of a round."""

    def span(self, phase: str, round_number: int) -> AbstractContextManager[None]:
        """Return a context manager; *phase* lasts from its entry to its exit."""


@dataclass(frozen=True, repr=False)
class Setup:
    """The fixed settings and the collaborators of an agent."""

    fleet: str
    node: str
    key_tag: bytes  # the first TAG_BYTES of the fingerprint of the node's Paillier key
    neighbours: Mapping[str, bytes]  # the key tag of each neighbour
    exchange: Exchange
    algorithm: Algorithm
    resolution: float
    objective: Objective
    parameters: bytes  # digest of the settings that must be equal on all nodes
    seeds: Seeds  # of the random choices, by draw
    trace: Trace
    identities: Mapping[str, bytes] = field(default_factory=dict)  # tag of each identity key
    # A newcomer, or a node that had no neighbours, begins when a neighbour has come to this round.
    first_round: int = 0
    # The exact method: the scale of curvature c0, or AGREE. None: the article's, or an average.
    exact_scale: Scale | None = None
    diameter: int = 0  # of the graph, in hops; only `algorithm.until` needs it
    away_s: float = 0.0  # how long it was off, as far as a trustworthy clock can say
    shield: Shield | None = None  # of the exact method; see `generations.py`
    # Without `algorithm.until`: the accuracy at which this node itself counts as settled. It ends
    # no fleet. None: the node cannot know it, as with the article's method.
    own_accuracy: float | None = None

    @property
    def has_blocks(self) -> bool:
        """True if nodes without a state enter at the beginning of a block; see `entry.py`."""
        is_spread = self.algorithm.stepsize.spread > 0
        return self.exchange.sealed and self.exact_scale is not None and is_spread

    @property
    def calm_accuracy(self) -> float | None:
        """The accuracy whose part MARGIN bounds a calm round; None: no round counts as calm."""
        until = self.algorithm.until
        return self.own_accuracy if until is None else until.accuracy

    @property
    def only_answers(self) -> bool:
        """True if the node can never ask anybody: a leaf of the sealed exchange."""
        return 0 < len(self.neighbours) < self.exchange.least


@dataclass(frozen=True)
class Started:
    """The daemon runs, and the agent has the saved state."""


@dataclass(frozen=True)
class Connected:
    """The broker has accepted the connection and acknowledged every subscription."""


@dataclass(frozen=True)
class Disconnected:
    """The connection to the broker is lost. Deadlines begin again with the next connection."""


@dataclass(frozen=True, repr=False)
class MessageReceived:
    """A message whose signature has been checked; *retained* if the broker had retained it."""

    message: Message
    retained: bool = False


@dataclass(frozen=True, repr=False)
class ReadingTaken:
    """The new samples of the sensor; none after a failure or at the end of a replay."""

    samples: Sequence[Sample]


@dataclass(frozen=True)
class TimerFired:
    """The time that `Agent.timer` returned has come."""


@dataclass(frozen=True)
class MembershipPending:
    """The operator has changed the neighbours; the change takes effect at round *from_round*.

    The *revoked* neighbours are dropped at once.
    """

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
    """Write *state* durably before the next effect is taken."""

    state: State


@dataclass(frozen=True, repr=False)
class Note:
    """Add *entry* durably to the state that was saved last, before the next message is sent."""

    entry: AnsweredQuery


@dataclass(frozen=True, repr=False)
class Publish:
    """Publish *message* on its topic."""

    message: Message


@dataclass(frozen=True)
class TakeReading:
    """Read the sensor, then pass in a ReadingTaken event."""


@dataclass(frozen=True, repr=False)
class RoundClosed:
    """A round is closed. The estimate x_{k+1} is private to this node.

    A *held* round has no coupling term: the estimate is unchanged.
    """

    number: int
    opened: float  # monotonic seconds
    silent: tuple[str, ...]  # neighbours whose answers are not in the coupling term
    estimate: FloatVector
    spoiled: tuple[str, ...] = ()  # neighbours whose sealed answers were out of range together
    left_out: tuple[str, ...] = ()  # neighbours not asked any more, since answers were out of range
    is_coupled: bool = True
    is_curved_more: bool | None = None  # in the first round of a start; see `is_far_off`


@dataclass(frozen=True)
class Rejected:
    """A message of *sender* was refused; it is counted under *reason*."""

    sender: str
    reason: str


@dataclass(frozen=True)
class Surplus:
    """A late or repeated message of *sender*. It is counted under *reason* and has no effect.

    Any network delivers some messages late or twice, so this is no fault of the sender.
    """

    sender: str
    reason: str


@dataclass(frozen=True)
class LateCoupling:
    """The last answers of the held round *number* have come: it is coupled after all."""

    number: int


@dataclass(frozen=True)
class Restart:
    """Restart with the saved state: with the pending membership, or with another epoch."""


@dataclass(frozen=True)
class Stop:
    """The node has finished, and its neighbours do not need it any more: end the daemon."""

    is_complete: bool = True  # False: it gave up before it had coupled all its rounds


Effect = (
    Save
    | Note
    | Publish
    | TakeReading
    | RoundClosed
    | LateCoupling
    | Rejected
    | Surplus
    | Restart
    | Stop
)
