"""Find and configure mosquitto, the recommended broker, where it is installed.

`configuration` and `secured_configuration` serve a local fleet; `installed_configuration` is for a
mosquitto that runs as a service on another machine.
"""

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
from .security import LINK, Security, link_identity

PLUGIN = "mosquitto_acl_file.so"
PLUGIN_FOLDERS = ("/usr/lib", "/usr/lib/*-linux-gnu", "/usr/lib64", "/usr/local/lib")
SBIN = ("/usr/local/sbin", "/usr/sbin")  # distributions install it there; PATH may lack them
ACCESS_FILE = "access.txt"
Version = tuple[int, int, int]
_INSTALLED_HEAD = """\
# For /etc/mosquitto/conf.d, which the mosquitto.conf of Debian includes. That file says where
# messages are stored and where the log goes. Where this file is the only configuration, add:
#   persistence_location /var/lib/mosquitto/
#   log_dest stderr
"""


def make_mosquitto(security: Security | None = None, member: ClusterMember | None = None) -> Engine:
    """Return the installed mosquitto; with *security* it uses TLS and access rules.

    With *member* it is one broker of a cluster. Raises ConfigError if mosquitto is not installed or
    its version is not supported.
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
    """Return the mosquitto program in PATH or SBIN. Raises ConfigError if there is none."""
    found = shutil.which("mosquitto", path=os.pathsep.join((os.environ.get("PATH", ""), *SBIN)))
    if found is None:
        raise ConfigError(
            f"mosquitto is not installed (looked in PATH, {', '.join(SBIN)}): "
            "install it (Debian: apt-get install mosquitto), or choose the broker 'embedded'"
        )
    return Path(found).absolute()


def mosquitto_version(binary: Path) -> Version:
    """Return (2, 0, 11) for 'mosquitto version 2.0.11'.

    Raises ConfigError for a version before 2.0 and for a program that prints no version.
    A secured configuration differs between 2.0 and 2.1: 2.1 deprecates acl_file, password_file
    and per_listener_settings, and lowers the default of max_packet_size to 2 MB.
    """
    try:
        # -h prints the version first; mosquitto has no --version, and its exit code is not 0.
        done = subprocess.run(
            [binary, "-h"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{binary}: cannot be run: {error}") from None
    found = re.search(r"mosquitto version (\d+)\.(\d+)\.(\d+)", done)
    if found is None:
        raise ConfigError(f"{binary}: prints no version, is it mosquitto?")
    version = (int(found[1]), int(found[2]), int(found[3]))
    if version < (2, 0, 0):
        raise ConfigError(f"{binary}: is mosquitto {found[1]}.{found[2]}, 2.0 or newer is needed")
    return version


def configuration(port: int) -> str:
    """Return the configuration for *port* on loopback, without TLS; it logs to stderr.

    It is valid for mosquitto 2.0 and 2.1.
    """
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
    """Return the configuration with TLS 1.3, client certificates and the access rules in *rules*.

    mosquitto 2.1 reads the rules with its *plugin*, 2.0 has no plugin, and 3.0 will require it. The
    first *member* of a cluster has bridges to the others.
    """
    return _security_lines(port, security, rules, plugin) + _bounds() + _bridges(security, member)


def installed_configuration(
    port: int,
    security: Security | None,
    rules: Path,
    plugin: Path | None = None,
    member: ClusterMember | None = None,
) -> str:
    """Return the configuration of a mosquitto that runs as a service, for its folder conf.d.

    The distribution's mosquitto.conf must set the store and the log: mosquitto refuses an option
    with a text, such as persistence_location, that is given twice. Retained messages survive a
    restart. Otherwise it equals `secured_configuration`, or `configuration` if *security* is None.
    """
    head = f"listener {port} {LOOPBACK}\n# Anonymous because only this machine can connect.\n"
    head += "allow_anonymous true\n"
    if security is not None:
        head = _security_lines(port, security, rules, plugin)
    kept = "persistence true\nautosave_interval 60\n"
    bridges = "" if security is None else _bridges(security, member)
    return f"{_INSTALLED_HEAD}{head}{kept}{_limits()}{bridges}"


def _security_lines(port: int, security: Security, rules: Path, plugin: Path | None) -> str:
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
    """Return the bridges from the first member to each other member.

    The bridges form a star, because in a cycle a message would arrive twice.
    """
    if member is None or member.own != 0:
        return ""
    link = link_identity(security)
    # A bridge's socket does not set TCP_NODELAY, so a message that follows an acknowledgement waits
    # 40 ms (Nagle). Incoming messages are therefore QoS 0, which needs no acknowledgement. A broken
    # link would lose them in any case.
    shared = "\n".join(
        f"topic {topic} out 1\ntopic {topic} in 0" for topic in _shared_topics(member)
    )
    return "".join(
        f"""
connection link{place}
address {peer.host}:{peer.port}
{shared}
bridge_protocol_version mqttv311
# The other broker treats this one as a bridge: no message comes back, the retain flag is kept.
try_private true
# Nodes repeat messages that are lost while the link is down; queued queries would be outdated.
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


def _shared_topics(member: ClusterMember) -> tuple[str, str]:
    return f"{topics.ROOT}/{member.fleet}/#", f"{HEALTH_TOPIC}/#"


def access_rules(security: Security, member: ClusterMember | None = None) -> str:
    """Return the access file, for acl_file and for the plugin.

    A client that the file does not name has no access. With *member*, the other members of its
    cluster may forward all messages of the fleet.
    """
    lines: list[str] = []
    if member is not None:
        lines += [f"user {LINK}", *(f"topic readwrite {topic}" for topic in _shared_topics(member))]
    for name, access in security.access.items():
        lines.append(f"user {name}")
        lines += [f"topic write {topic}" for topic in access.publish]
        lines += [f"topic read {topic}" for topic in access.read]
    return "\n".join(lines) + "\n"


def find_plugin() -> Path | None:
    """Return the plugin of mosquitto 2.1 and later that reads access files, None if absent."""
    found = (each for place in PLUGIN_FOLDERS for each in Path("/").glob(f"{place[1:]}/{PLUGIN}"))
    return next(found, None)


def _bounds() -> str:
    return f"""\
# Started by root, mosquitto would change to another user, which clears its parent-death signal.
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
