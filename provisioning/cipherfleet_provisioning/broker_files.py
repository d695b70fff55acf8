"""The broker's files in a set, and the security settings of a broker that uses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cipherfleet_broker.program import LOOPBACK, ClusterMember, Peer
from cipherfleet_broker.security import Identity, Security, fleet_access
from cipherfleet_broker.service_files import make_service_files
from cipherfleet_node.settings.node_yaml import CA_FILE
from cipherfleet_node.settings.rules import is_loopback

from .certificates import BROKER
from .ledger import Ledger

BROKER_FOLDER = "broker"
INSTALLED = Path("/etc/cipherfleet-broker")


def list_broker_folders(cluster: Sequence[str]) -> list[str]:
    """Return the folder in broker/ of each broker's files: HOST/ for a broker of a cluster."""
    return [f"{host}/" for host in cluster] or [""]


def make_broker_files(ledger: Ledger) -> dict[str, str]:
    """Return the brokers' configuration files by their names in broker/."""
    security = make_security(INSTALLED, ledger) if ledger.broker.tls else None
    port = ledger.broker.port
    peers = tuple(Peer(host, port) for host in ledger.cluster)
    files = {}
    for own, folder in enumerate(list_broker_folders(ledger.cluster)):
        member = ClusterMember(ledger.fleet, peers, own) if peers else None
        for name, text in make_service_files(port, security, INSTALLED, member).items():
            files[f"{folder}{name}"] = text
    return files


def make_security(folder: Path, ledger: Ledger) -> Security:
    """Return the security settings of a broker; *folder* is its copy of the set's broker/."""

    def identity(name: str) -> Identity:
        return Identity(folder / f"{name}.pem", folder / f"{name}.key")

    security = Security(
        folder / CA_FILE,
        identity(BROKER),
        identity("health"),
        fleet_access(ledger.fleet, ledger.allowed_links, ledger.claiming),
        link=identity("link") if ledger.cluster else None,
    )
    all_addresses = "0.0.0.0"  # noqa: S104  # other machines reach it, over TLS
    return replace(security, listen=LOOPBACK if is_loopback(ledger.broker.host) else all_addresses)
