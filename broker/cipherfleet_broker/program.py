"""A broker program, the members of a cluster, and the limits that every broker has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = "127.0.0.1"

# A message has at most 64 KiB. Four times that leaves room and still stops a faulty client early.
MAX_PACKET_BYTES = 256 * 1024
# The answers of all neighbours arrive together: mosquitto's default of 20 would serialise them.
MAX_INFLIGHT_MESSAGES = 1000
# Per client that is disconnected or slow. Beyond either limit mosquitto drops messages without a
# notice; the nodes repeat them in a round.
MAX_QUEUED_MESSAGES = 10_000
MAX_QUEUED_BYTES = 16 * 1024 * 1024
MAX_CONNECTIONS = 2000
TLS_PORT = 8883  # registered for MQTT over TLS
LINK_PORT = 6222  # between members of a cluster of nats-server; its default


@dataclass(frozen=True)
class Peer:
    """The address at which the other members of a cluster reach one member."""

    host: str  # the member's certificates name it
    port: int = TLS_PORT  # MQTT; mosquitto's bridges connect to it
    link_port: int = LINK_PORT  # nats-server's routes connect to it


@dataclass(frozen=True)
class ClusterMember:
    """One broker of a cluster, and the addresses of all members."""

    fleet: str
    peers: tuple[Peer, ...]
    own: int  # index of this broker in peers

    @property
    def others(self) -> tuple[Peer, ...]:
        """The addresses of all other members."""
        return self.peers[: self.own] + self.peers[self.own + 1 :]


@dataclass(frozen=True)
class Engine:
    """A broker program installed on this machine: name, version and a way to configure it."""

    name: str
    version: str
    configure: Callable[[Path, int], list[str]]
    """Write the configuration for (folder, port) into the folder and return the command line."""
