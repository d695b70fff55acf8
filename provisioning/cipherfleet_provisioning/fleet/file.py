"""The top-level sections of fleet.yaml as types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta, field

from cipherfleet_node.settings.sections import (
    CONFIG_VERSION,
    Algorithm,
    Broker,
    Crypto,
    NodeId,
    Objective,
    Section,
    Sensor,
)
from cipherfleet_provisioning.topology.section import Topology

MAX_EACH = 10_000


class NodeEntry(Section, frozen=True):
    """One node, or with *each* a row of them.

    In id, sensor and owner of a row {n} becomes 1, 2, ..., and {n:02} 01, 02, ...
    Nodes of one owner trust each other and pool what they see; a node without is on its own.
    """

    id: str
    sensor: Sensor
    each: Annotated[int, Meta(ge=1, le=MAX_EACH)] | None = None
    owner: str | None = None
    broker: str | None = None  # of broker.cluster; without, they are shared out in turn


Host = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,252}$")]


class Brokers(Broker, frozen=True):
    """The broker; with *cluster* the hosts of several that are one to the nodes, and no *host*."""

    cluster: Annotated[list[Host], Meta(min_length=2, max_length=9)] | None = None

    @property
    def hosts(self) -> list[str]:
        """All of them."""
        return self.cluster or [self.host]

    def at(self, place: int) -> Broker:
        """As a node is told that speaks with that at *place*."""
        return Broker(host=self.hosts[place], port=self.port, tls=self.tls)


class FleetFile(Section, frozen=True):
    """fleet.yaml as written."""

    config_version: Annotated[int, Meta(ge=CONFIG_VERSION, le=CONFIG_VERSION)]
    fleet: NodeId
    algorithm: Algorithm
    objective: Objective
    topology: Topology
    nodes: Annotated[list[NodeEntry], Meta(min_length=1)]
    broker: Brokers = field(default_factory=Brokers)
    crypto: Crypto = field(default_factory=Crypto)


@dataclass(frozen=True)
class Overrides:
    """What the command line changes of the file; None leaves it."""

    nodes: int | None = None  # this many, spread evenly over those of the file
    rounds: int | None = None
    key_bits: int | None = None
