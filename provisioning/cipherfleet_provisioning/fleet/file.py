"""The top-level sections of fleet.yaml as types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta, field

from cipherfleet_node.settings.sections import (
    CONFIG_VERSION,
    JOIN_TOLERANCE_S,
    Algorithm,
    AnswerSection,
    Broker,
    Crypto,
    Method,
    NodeId,
    NoSensor,
    ObjectiveSection,
    Positive,
    Privacy,
    Role,
    Section,
    Sensor,
    Sensors,
    Source,
    source_of,
)
from cipherfleet_provisioning.topology.section import Topology

MAX_EACH = 10_000


class NodeEntry(Section, frozen=True):
    """One node, or with *each* that many nodes.

    With *each*, {n} in id, sensor and owner becomes 1, 2, ..., and {n:02} becomes 01, 02, ...
    Nodes of one owner trust each other and share what they receive. A node without an owner shares
    nothing.
    """

    id: str
    sensor: Sensor = field(default_factory=NoSensor)  # only a follower may have none
    sensors: Sensors | None = None  # several instead of one, joined to one sample
    join_tolerance_s: Positive = JOIN_TOLERANCE_S  # greatest age of a value in a joined sample
    role: Role = "member"
    each: Annotated[int, Meta(ge=1, le=MAX_EACH)] | None = None
    owner: str | None = None
    broker: str | None = None  # one of broker.cluster; None: the nodes use them in turn

    @property
    def source(self) -> Source:
        """The sensor, or the group of several."""
        return source_of(self.sensor, self.sensors, self.join_tolerance_s)


Host = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,252}$")]


class Brokers(Broker, frozen=True):
    """The broker, or with *cluster* the hosts of several linked brokers instead of *host*."""

    cluster: Annotated[list[Host], Meta(min_length=2, max_length=9)] | None = None

    @property
    def hosts(self) -> list[str]:
        """The hosts of all brokers."""
        return self.cluster or [self.host]

    def at(self, place: int) -> Broker:
        """Return the settings of a node that uses the broker number *place* (from 0)."""
        return Broker(host=self.hosts[place], port=self.port, tls=self.tls)


DEFAULT_ROUNDS = 300  # of a file without the section `algorithm`; 1e-6 takes about 220 of them


class FleetFile(Section, frozen=True):
    """The sections of fleet.yaml as written."""

    config_version: Annotated[int, Meta(ge=CONFIG_VERSION, le=CONFIG_VERSION)]
    fleet: NodeId
    objective: ObjectiveSection
    topology: Topology
    nodes: Annotated[list[NodeEntry], Meta(min_length=1)]
    algorithm: Algorithm = field(default_factory=lambda: Algorithm(rounds=DEFAULT_ROUNDS))
    broker: Brokers = field(default_factory=Brokers)
    crypto: Crypto = field(default_factory=Crypto)
    answer: AnswerSection = field(default_factory=AnswerSection)
    privacy: Privacy | None = None  # None: the result is the optimum itself


@dataclass(frozen=True)
class Overrides:
    """Values of the command line that replace values of the file; None replaces nothing."""

    nodes: int | None = None  # use this many, spread evenly over the nodes of the file
    rounds: int | None = None
    key_bits: int | None = None
    method: Method | None = None  # settings of the file that it does not use are ignored
