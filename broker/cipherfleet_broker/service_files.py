"""Configuration files for a broker that runs as a service on another machine."""

from __future__ import annotations

from pathlib import Path

from .embedded import configuration as nats_configuration
from .mosquitto import (
    ACCESS_FILE,
    PLUGIN,
    PLUGIN_FOLDERS,
    access_rules,
    installed_configuration,
)
from .program import ClusterMember
from .security import Security

STORE = Path("/var/lib/cipherfleet-broker")  # of nats-server


def installation(
    port: int, security: Security | None, place: Path, member: ClusterMember | None = None
) -> dict[str, str]:
    """Files by name, to be installed in *place*: one program's configuration is enough.

    The paths of *security* are those on the broker's machine. mosquitto 2.1 reads the rules with a
    plugin, whose path depends on the distribution. *member*: of one broker of a cluster.
    """
    rules, plugin = place / ACCESS_FILE, Path(PLUGIN_FOLDERS[0]) / PLUGIN
    files = {
        "mosquitto-2.0.conf": installed_configuration(port, security, rules, member=member),
        "mosquitto-2.1.conf": installed_configuration(port, security, rules, plugin, member),
        "nats-server.conf": nats_configuration(STORE, port, security, lasting=True, member=member),
    }
    if security is not None:
        files[ACCESS_FILE] = access_rules(security, member)
    return files
