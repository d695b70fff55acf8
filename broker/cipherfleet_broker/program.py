"""What a broker program is to us, and the bounds that every program is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = "127.0.0.1"

# A message has at most 64 KiB; four times that leaves room, and stops a runaway client early.
MAX_PACKET_BYTES = 256 * 1024
# A neighbourhood's answers arrive together: mosquitto's default of 20 would serialise them.
MAX_INFLIGHT_MESSAGES = 1000
# Per client that is away or slow. Beyond either, mosquitto drops silently; rounds re-send.
MAX_QUEUED_MESSAGES = 10_000
MAX_QUEUED_BYTES = 16 * 1024 * 1024
MAX_CONNECTIONS = 2000
TLS_PORT = 8883  # the one that is registered for MQTT in TLS
LINK_PORT = 6222  # between members of a cluster of nats-server, its own default


@dataclass(frozen=True)
class Peer:
    """Where the others of a cluster reach a member."""

    host: str  # its certificates name it
    port: int = TLS_PORT  # MQTT: where mosquitto's bridges end
    link_port: int = LINK_PORT  # the routes of nats-server


@dataclass(frozen=True)
class ClusterMember:
    """One broker of a cluster: which it is, and where all are."""

    fleet: str
    peers: tuple[Peer, ...]
    own: int  # its place among them

    @property
    def others(self) -> tuple[Peer, ...]:
        """All but itself."""
        return self.peers[: self.own] + self.peers[self.own + 1 :]


@dataclass(frozen=True)
class Engine:
    """A broker program installed here: what it is, and how to tell it where to listen."""

    name: str
    version: str
    configure: Callable[[Path, int], list[str]]
    """Write the configuration for (folder, port) into the folder; the result is the command."""
