"""Who may connect to a secured broker, and what each may publish and read there.

The name in a client's certificate is its user name; what is not listed here is refused.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cipherfleet_node.core import topics
from cipherfleet_node.core.messages import OPERATOR
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.keys.tls import client_context

from .health import HEALTH_TOPIC
from .program import LOOPBACK, TLS_PORT

__all__ = [
    "HEALTH",
    "LINK",
    "TLS_PORT",
    "WATCHER",
    "Access",
    "Identity",
    "Security",
    "fleet_access",
    "link_of",
]

# No node has these names: an id begins with a letter or a digit.
HEALTH = "_health"
WATCHER = "_watcher"  # the operator, who only looks: beside one who changes the fleet
LINK = "_link"  # a broker, to the other members of its cluster


@dataclass(frozen=True)
class Access:
    """What one identity may publish and read, as MQTT topic filters."""

    publish: tuple[str, ...]
    read: tuple[str, ...]


@dataclass(frozen=True)
class Identity:
    """A certificate and its private key, in PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Security:
    """All that a broker needs for TLS 1.3 with client certificates and access rules."""

    ca: Path  # who is certified by another authority does not connect
    broker: Identity
    health: Identity  # of the health check, a client named HEALTH
    access: Mapping[str, Access]  # by the common name in the client's certificate
    listen: str = LOOPBACK  # the address; 0.0.0.0 for every one of the machine
    link: Identity | None = None  # of a member of a cluster, to the others, named LINK

    @property
    def host(self) -> str:
        """How this machine reaches the broker; its certificate must name it."""
        return LOOPBACK if ip_address(self.listen).is_unspecified else self.listen

    def context(self) -> ssl.SSLContext:
        """What the health check connects with. Raises ConfigError."""
        try:
            return client_context(self.ca, self.health.certificate, self.health.key)
        except OSError as error:  # SSLError is one
            raise ConfigError(
                f"{self.ca}, {self.health.certificate} or its key cannot be used: {error}"
            ) from None


def link_of(security: Security | None) -> Identity:
    """What a member of a cluster shows the others. Raises ConfigError where there is none."""
    if security is None or security.link is None:
        raise ConfigError(
            "the brokers of a cluster know each other by certificates: it needs TLS, and a "
            "certificate for their links (secure with links=True)"
        )
    return security.link


def fleet_access(fleet: str, neighbours: Mapping[str, Sequence[str]]) -> dict[str, Access]:
    """The rules of *fleet*: a node speaks as itself, and hears its neighbours only.

    *neighbours* holds the neighbours of every node. The operator sees who is there and how well
    they are, claims of keys and no ciphertext; it publishes who is whose neighbour. The watcher
    sees the former two and publishes nothing.
    """
    access = {node: _node_access(fleet, node, others) for node, others in neighbours.items()}
    probe = (f"{HEALTH_TOPIC}/#",)
    access[HEALTH] = Access(probe, probe)
    seen = topics.presence_topic(fleet, "+"), topics.health_topic(fleet, "+")
    access[OPERATOR] = Access(
        (topics.membership_topic(fleet, "+"),), (*seen, topics.claim_topic(fleet, "+"))
    )
    access[WATCHER] = Access((), seen)
    return access


def _node_access(fleet: str, node: str, neighbours: Sequence[str]) -> Access:
    publish = [
        topics.query_topic(fleet, node),
        *(topics.answer_topic(fleet, neighbour, node) for neighbour in neighbours),
        topics.presence_topic(fleet, node),
        topics.health_topic(fleet, node),
        topics.claim_topic(fleet, node),
    ]
    return Access(tuple(publish), tuple(topics.subscriptions(fleet, node, list(neighbours))))
