"""mosquitto, where it is installed: the recommended broker, here on loopback for a local fleet."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from cipherfleet_node.core import topics
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.keys.key_files import write_private

from .health import HEALTH_TOPIC
from .program import (
    LOOPBACK,
    MAX_CONNECTIONS,
    MAX_INFLIGHT_MESSAGES,
    MAX_PACKET_BYTES,
    MAX_QUEUED_BYTES,
    MAX_QUEUED_MESSAGES,
    ClusterMember,
    Engine,
)
from .security import LINK, Security, link_of

PLUGIN = "mosquitto_acl_file.so"
PLUGIN_FOLDERS = ("/usr/lib", "/usr/lib/*-linux-gnu", "/usr/lib64", "/usr/local/lib")
SBIN = ("/usr/local/sbin", "/usr/sbin")  # where distributions put it; a user's PATH may lack them
ACCESS_FILE = "access.txt"
Version = tuple[int, int, int]


def mosquitto(security: Security | None = None, member: ClusterMember | None = None) -> Engine:
    """The installed mosquitto; with *security*, TLS and access rules.

    *member* makes it one of a cluster. Raises ConfigError if there is none, or none that we know.
    """
    binary = find_mosquitto()
    version = mosquitto_version(binary)

    def configure(folder: Path, port: int) -> list[str]:
        file = folder / "mosquitto.conf"
        text = configuration(port)
        if security is not None:
            rules = folder / ACCESS_FILE
            write_private(rules, access_rules(security, member).encode())
            plugin = find_plugin() if version >= (2, 1, 0) else None
            text = secured_configuration(port, security, rules, plugin, member)
        file.write_text(text, encoding="utf-8")
        return [str(binary), "-c", str(file)]

    return Engine("mosquitto", ".".join(map(str, version)), configure)


def find_mosquitto() -> Path:
    """The mosquitto program, from PATH or the system folders. Raises ConfigError if absent."""
    found = shutil.which("mosquitto", path=os.pathsep.join((os.environ.get("PATH", ""), *SBIN)))
    if found is None:
        raise ConfigError(
            f"mosquitto is not installed (looked in PATH, {', '.join(SBIN)}): "
            "install it (Debian: apt-get install mosquitto), or choose the broker 'embedded'"
        )
    return Path(found).absolute()


def mosquitto_version(binary: Path) -> Version:
    """(2, 0, 11) for 'mosquitto version 2.0.11'. Raises ConfigError before 2.0, or without one.

    2.0 and 2.1 differ in what a secured configuration says: 2.1 deprecates acl_file, password_file
    and per_listener_settings, and lowers the default of max_packet_size to 2 MB.
    """
    try:
        # -h prints the version first; mosquitto has no --version, and its exit code is not 0.
        told = subprocess.run(
            [binary, "-h"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{binary}: cannot be run: {error}") from None
    found = re.search(r"mosquitto version (\d+)\.(\d+)\.(\d+)", told)
    if found is None:
        raise ConfigError(f"{binary}: tells no version, is it mosquitto?")
    version = (int(found[1]), int(found[2]), int(found[3]))
    if version < (2, 0, 0):
        raise ConfigError(f"{binary}: is mosquitto {found[1]}.{found[2]}, 2.0 or newer is needed")
    return version


def configuration(port: int) -> str:
    """The configuration file for loopback *port*; valid for 2.0 and 2.1, the log is stderr."""
    return f"""\
listener {port} {LOOPBACK}
# Anonymous because only this machine can connect.
allow_anonymous true
{_bounds()}"""


def secured_configuration(
    port: int,
    security: Security,
    rules: Path,
    plugin: Path | None = None,
    member: ClusterMember | None = None,
) -> str:
    """The same with TLS 1.3, a certificate from every client, and the access rules in *rules*.

    Mosquitto 2.1 wants its *plugin* to read them. 2.0 has none, and 3.0 will want it. The first
    *member* of a cluster has bridges to the others.
    """
    return _secured(port, security, rules, plugin) + _bounds() + _bridges(security, member)


def installed_configuration(
    port: int,
    security: Security | None,
    rules: Path,
    plugin: Path | None = None,
    member: ClusterMember | None = None,
) -> str:
    """For a mosquitto that runs as a service: what it retains survives its restarts.

    Otherwise as `secured_configuration`, without *security* as `configuration`.
    """
    head = f"listener {port} {LOOPBACK}\n# Anonymous because only this machine can connect.\n"
    head += "allow_anonymous true\n"
    if security is not None:
        head = _secured(port, security, rules, plugin)
    kept = "persistence true\npersistence_location /var/lib/mosquitto/\nautosave_interval 60\n"
    bridges = "" if security is None else _bridges(security, member)
    return f"{head}{kept}log_dest stderr\n{_limits()}{bridges}"


def _secured(port: int, security: Security, rules: Path, plugin: Path | None) -> str:
    access = f"acl_file {rules}"
    if plugin is not None:
        access = f"global_plugin {plugin}\nplugin_opt_acl_file {rules}"
    return f"""\
listener {port} {security.listen}
cafile {security.ca.absolute()}
certfile {security.broker.certificate.absolute()}
keyfile {security.broker.key.absolute()}
tls_version tlsv1.3
require_certificate true
use_identity_as_username true
# Otherwise a node could take another's connection by giving its client id.
use_username_as_clientid true
allow_anonymous false
{access}
"""


def _bridges(security: Security, member: ClusterMember | None) -> str:
    """Bridges from the first member to each other one: a star, so that nothing comes twice."""
    if member is None or member.own != 0:
        return ""
    link = link_of(security)
    # A bridge's socket keeps Nagle, and waits 40 ms to send a message behind an acknowledgement. So
    # it has nothing to acknowledge: what comes in is QoS 0, which a broken link loses in any case.
    shared = "\n".join(f"topic {topic} out 1\ntopic {topic} in 0" for topic in _shared(member))
    return "".join(
        f"""
connection link{place}
address {peer.host}:{peer.port}
{shared}
bridge_protocol_version mqttv311
# The other end knows it for a bridge: it sends nothing back, and hands on what is retained.
try_private true
# What is lost while the link is down comes again by itself; old queries are of no use.
cleansession true
notifications false
restart_timeout 1 5
bridge_cafile {security.ca.absolute()}
bridge_certfile {link.certificate.absolute()}
bridge_keyfile {link.key.absolute()}
bridge_tls_version tlsv1.3
"""
        for place, peer in enumerate(member.others, 1)
    )


def _shared(member: ClusterMember) -> tuple[str, str]:
    return f"{topics.ROOT}/{member.fleet}/#", f"{HEALTH_TOPIC}/#"


def access_rules(security: Security, member: ClusterMember | None = None) -> str:
    """The access file, for acl_file and for the plugin. Who is not in it has access to nothing.

    *member*: others of its cluster may hand on all that is the fleet's.
    """
    lines: list[str] = []
    if member is not None:
        lines += [f"user {LINK}", *(f"topic readwrite {topic}" for topic in _shared(member))]
    for name, access in security.access.items():
        lines.append(f"user {name}")
        lines += [f"topic write {topic}" for topic in access.publish]
        lines += [f"topic read {topic}" for topic in access.read]
    return "\n".join(lines) + "\n"


def find_plugin() -> Path | None:
    """The plugin of mosquitto 2.1 and later that reads access files, where it is installed."""
    found = (each for place in PLUGIN_FOLDERS for each in Path("/").glob(f"{place[1:]}/{PLUGIN}"))
    return next(found, None)


def _bounds() -> str:
    return f"""\
# As root mosquitto would change to another user, which clears its parent-death signal.
user root
persistence false
log_dest stderr
{_limits()}"""


def _limits() -> str:
    return f"""\
max_connections {MAX_CONNECTIONS}

# Without it a 4 KiB QoS 1 round trip takes 40 ms or more instead of 1 ms (Nagle, delayed ACK).
set_tcp_nodelay true

max_packet_size {MAX_PACKET_BYTES}
max_inflight_messages {MAX_INFLIGHT_MESSAGES}
max_queued_messages {MAX_QUEUED_MESSAGES}
max_queued_bytes {MAX_QUEUED_BYTES}

log_type error
log_type warning
log_type notice
log_type information
log_timestamp_format %Y-%m-%dT%H:%M:%S
"""
