"""mosquitto, where it is installed: the recommended broker, here on loopback for a local fleet."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from cipherfleet_node.errors import ConfigError

from .engine import (
    LOOPBACK,
    MAX_CONNECTIONS,
    MAX_INFLIGHT_MESSAGES,
    MAX_PACKET_BYTES,
    MAX_QUEUED_BYTES,
    MAX_QUEUED_MESSAGES,
    Engine,
)

SBIN = ("/usr/local/sbin", "/usr/sbin")  # where distributions put it; a user's PATH may lack them
Version = tuple[int, int, int]


def mosquitto() -> Engine:
    """The installed mosquitto. Raises ConfigError if there is none, or none that we know."""
    binary = find_mosquitto()
    version = mosquitto_version(binary)

    def configure(folder: Path, port: int) -> list[str]:
        file = folder / "mosquitto.conf"
        file.write_text(configuration(port), encoding="utf-8")
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
max_connections {MAX_CONNECTIONS}

# As root mosquitto would change to another user, which clears its parent-death signal.
user root

# Without it a 4 KiB QoS 1 round trip takes 40 ms or more instead of 1 ms (Nagle, delayed ACK).
set_tcp_nodelay true

persistence false
max_packet_size {MAX_PACKET_BYTES}
max_inflight_messages {MAX_INFLIGHT_MESSAGES}
max_queued_messages {MAX_QUEUED_MESSAGES}
max_queued_bytes {MAX_QUEUED_BYTES}

log_dest stderr
log_type error
log_type warning
log_type notice
log_type information
log_timestamp_format %Y-%m-%dT%H:%M:%S
"""
