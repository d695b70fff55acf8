"""Access rules of a secured broker: its clients, and the topics that each may publish and read.

The name in a client's certificate is its user name. A client or topic that no rule lists is
refused.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping, Sequence
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
    "link_identity",
]

# No node has these names: an id begins with a letter or a digit.
HEALTH = "_health"
WATCHER = "_watcher"  # `cipherfleet watch`, which only reads; it may run beside the operator
LINK = "_link"  # a broker towards the other members of its cluster


@dataclass(frozen=True)
class Access:
    """MQTT topic filters: the topics that one client may publish and read."""

    publish: tuple[str, ...]
    read: tuple[str, ...]


@dataclass(frozen=True)
class Identity:
    """A certificate and its private key, in PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Security:
    """A broker's settings for TLS 1.3 with client certificates and access rules."""

    ca: Path  # clients with a certificate of another authority cannot connect
    broker: Identity
    health: Identity  # for the health check, a client named HEALTH
    access: Mapping[str, Access]  # by the common name in the client's certificate
    listen: str = LOOPBACK  # the address; 0.0.0.0 for all addresses of the machine
    link: Identity | None = None  # for links between the members of a cluster, named LINK

    @property
    def host(self) -> str:
        """The address at which this machine reaches the broker; its certificate names it."""
        return LOOPBACK if ip_address(self.listen).is_unspecified else self.listen

    def context(self) -> ssl.SSLContext:
        """Return the TLS context of the health check. Raises ConfigError."""
        try:
            return client_context(self.ca, self.health.certificate, self.health.key)
        except OSError as error:  # SSLError is an OSError
            raise ConfigError(
                f"{self.ca}, {self.health.certificate} or its key cannot be used: {error}"
            ) from None


def link_identity(security: Security | None) -> Identity:
    """Return the certificate that one member of a cluster presents to the others.

    Raises ConfigError if *security* has none.
    """
    if security is None or security.link is None:
        raise ConfigError(
            "the brokers of a cluster identify each other by certificates: a cluster needs "
            "TLS and a certificate for its links",
            remedy="call secure with links=True",
        )
    return security.link


def fleet_access(
    fleet: str, neighbours: Mapping[str, Sequence[str]], claiming: Iterable[str] = ()
) -> dict[str, Access]:
    """Return the access rules of *fleet* by client name.

    *neighbours* holds the neighbours of every node. A node publishes under its own id and reads
    only messages of its neighbours and of the operator. A node of *claiming*, which has no
    certificate with its own name yet, may also connect as its `claim_client`: this one publishes
    the claim and reads the membership. The operator reads presence, health and claims, and no
    ciphertext; it publishes memberships. The watcher reads the same, and publishes nothing.
    """
    access = {node: _node_access(fleet, node, others) for node, others in neighbours.items()}
    for node in claiming:
        access[topics.claim_client(node)] = Access(
            (topics.claim_topic(fleet, node),), (topics.membership_topic(fleet, node),)
        )
    probe = (f"{HEALTH_TOPIC}/#",)
    access[HEALTH] = Access(probe, probe)
    seen = topics.presence_topic(fleet, "+"), topics.health_topic(fleet, "+")
    access[OPERATOR] = Access(
        (topics.membership_topic(fleet, "+"),), (*seen, topics.claim_topic(fleet, "+"))
    )
    access[WATCHER] = Access((), (*seen, topics.claim_topic(fleet, "+")))
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
