"""Scenarios of one node as JSON: its setup, the events that go in, and the effects that come out.

A scenario is a test of a whole node, in any language. The node takes the setup, and then one event
after another. After each event it says which effects follow, in order, and when it wants a timer.
node/vectors/README.md specifies the format. Numbers beyond 53 bits are decimal texts, bytes are
hexadecimal texts, times are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from cipherfleet_node.settings.sections import Algorithm, ExchangeName, ObjectiveSection


class NeighbourSetup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A neighbour of the node under test, as a membership names it."""

    id: str
    neighbours: list[str]  # its own neighbours, the node under test included
    n: str  # its Paillier modulus, decimal
    identity: str  # its Ed25519 public key


class NodeSetup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a node needs before its first event. It is not secret: it is part of a test."""

    fleet: str
    node: str
    exchange: ExchangeName
    p: str
    q: str
    identity: str  # the 32 bytes of its Ed25519 private key
    neighbours: list[NeighbourSetup]
    secrets: dict[str, str]  # s_jm by co-neighbour, 32 bytes each; empty in a pairwise fleet
    algorithm: Algorithm
    objective: ObjectiveSection
    epoch: int  # of the first start
    draw: int  # the counter `draw` of a node without a state
    draw_secret: str  # the key of the pseudo-random function that gives the seeds
    root: str  # every obfuscator is root^n mod n^2, which only a test may do
    has_lost_round: bool = False  # it has run before, but has no state


class Start(msgspec.Struct, frozen=True, tag_field="event", tag="start"):
    """The node begins. It has no state, or that of its latest save if it was restarted."""

    at: float


class Kill(msgspec.Struct, frozen=True, tag_field="event", tag="kill"):
    """The process ends at once. It begins again with *epoch* at the next start."""

    at: float
    epoch: int


class Connect(msgspec.Struct, frozen=True, tag_field="event", tag="connected"):
    """The broker has accepted the connection and all subscriptions."""

    at: float


class Disconnect(msgspec.Struct, frozen=True, tag_field="event", tag="disconnected"):
    """The connection to the broker is lost."""

    at: float


class Delivery(msgspec.Struct, frozen=True, tag_field="event", tag="message"):
    """The broker delivers *data* on *topic*; it had *retained* it, or not."""

    at: float
    topic: str
    data: str
    retained: bool = False


class SensorReading(msgspec.Struct, frozen=True, tag_field="event", tag="reading"):
    """The sensor has given these samples: values by field."""

    at: float
    samples: list[dict[str, float]]


class Timer(msgspec.Struct, frozen=True, tag_field="event", tag="timer"):
    """The time has come that the node has named after the event before."""

    at: float


ScenarioEvent = Start | Kill | Connect | Disconnect | Delivery | SensorReading | Timer


class Saved(msgspec.Struct, frozen=True, tag_field="effect", tag="save"):
    """The node saves its state durably. *state* is that of our own node, for comparison by eye."""

    state: Any = None


class Published(msgspec.Struct, frozen=True, tag_field="effect", tag="publish"):
    """The node publishes *data* on *topic*."""

    topic: str
    data: str
    retain: bool


class ReadingWanted(msgspec.Struct, frozen=True, tag_field="effect", tag="take_reading"):
    """The node asks its sensor for a reading."""


class Closed(msgspec.Struct, frozen=True, tag_field="effect", tag="round_closed"):
    """Round *number* is closed. *estimate* may differ in the last places."""

    number: int
    coupled: bool
    silent: list[str]
    spoiled: list[str]
    left_out: list[str]
    estimate: list[float]


class CoupledLate(msgspec.Struct, frozen=True, tag_field="effect", tag="late_coupling"):
    """The held round *number* is coupled after all."""

    number: int


class Counted(msgspec.Struct, frozen=True, tag_field="effect", tag="count"):
    """A message is counted under *reason*; *as_fault* if no honest sender would have sent it."""

    sender: str
    reason: str
    as_fault: bool


class RestartWanted(msgspec.Struct, frozen=True, tag_field="effect", tag="restart"):
    """The node asks to be started again from its saved state."""


class Stopped(msgspec.Struct, frozen=True, tag_field="effect", tag="stop"):
    """The node ends; *complete* if it has coupled all its rounds."""

    complete: bool


ScenarioEffect = (
    Saved | Published | ReadingWanted | Closed | CoupledLate | Counted | RestartWanted | Stopped
)


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What follows from one event."""

    effects: list[ScenarioEffect]
    timer: float | None  # when the node wants a timer event, if nothing else comes before


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One event, and what must follow from it."""

    event: ScenarioEvent
    outcome: Outcome


class NodeScenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A test of one node."""

    name: str
    about: str
    section: str  # of node/PROTOCOL.md
    setup: NodeSetup
    steps: list[Step]


class Transcript(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all nodes of a fleet did, with their private keys; one list of steps for each."""

    about: str
    seals: Mapping[str, str]  # the X25519 private key of each node
    setups: dict[str, NodeSetup]
    steps: dict[str, list[Step]]
