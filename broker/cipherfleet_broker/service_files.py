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

STORE = Path("/var/lib/cipherfleet-broker")  # nats-server keeps its messages there


def make_service_files(
    port: int, security: Security | None, place: Path, member: ClusterMember | None = None
) -> dict[str, str]:
    """Return configuration files by name, to be installed in the folder *place*.

    There is one for each supported program; the operator uses one of them. The paths in *security*
    are valid on the broker's machine. mosquitto 2.1 reads the access rules with a plugin, whose
    path depends on the distribution. *member* is given for a broker of a cluster.
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
