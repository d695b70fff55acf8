"""Generate the systemd unit of a node from its settings. It allows only what the sensor needs.

This module runs on devices: `python -m cipherfleet_deploy.cards.systemd_unit FOLDER` prints the
unit of the node in FOLDER. It imports only packages that a device has, and no operator's module.
"""

from __future__ import annotations

import grp
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from cipherfleet_deploy.data_folders import devices_folder
from cipherfleet_node.errors import CipherfleetError
from cipherfleet_node.sensors.plugins import plugin_devices
from cipherfleet_node.settings.node_yaml import load_node_config
from cipherfleet_node.settings.sections import (
    ClockSensor,
    CommandSensor,
    CsvSensor,
    HttpSensor,
    HwmonSensor,
    IioSensor,
    ModbusSensor,
    MqttSensor,
    NodeConfig,
    NoSensor,
    OneWireSensor,
    PluginSensor,
    SensorGroup,
    SerialSensor,
    Source,
    SyntheticSensor,
    ThermalSensor,
    parts_of,
)

UNIT_FILE = "cipherfleet-node.service"
PROGRAM = Path("/opt/cipherfleet/current/bin/cipherfleet-node")
STATES = Path("/var/lib/cipherfleet")
CREDENTIALS = Path("/etc/cipherfleet")
# Keys that the operator made, which the node never changes in place: systemd passes them to the
# service. The token, and keys made on the device, stay in the node's folder.
CREDENTIAL_FILES = ("paillier.json", "identity.pem", "seal.pem", "node.key")


@dataclass(frozen=True)
class Place:
    """The paths on the device."""

    program: Path = PROGRAM
    states: Path = STATES
    credentials: Path = CREDENTIALS


def make_unit(
    config: NodeConfig,
    credentials: Sequence[str] = (),
    groups: Sequence[str] = (),
    place: Place | None = None,
) -> str:
    """Return the text of the unit of the node with *config*.

    *credentials* are those of CREDENTIAL_FILES that are in /etc/cipherfleet/<node>. *groups* are
    the groups that may open the sensor's devices.
    """
    place = place or Place()
    lines = {
        "NODE": config.node,
        "FLEET": config.fleet,
        "PROGRAM": str(place.program),
        "FOLDER": str(place.states / config.node),
        "CREDENTIALS": "\n".join(
            f"LoadCredential={name}:{place.credentials / config.node / name}"
            for name in credentials
        ),
        "DEVICES": "\n".join(_device_lines(list_devices(config.source), groups)),
        "CLOCK": "\n".join(_clock_lines(config.source)),
    }
    template = (devices_folder() / UNIT_FILE).read_text(encoding="utf-8")
    return re.sub(r"@([A-Z]+)@", lambda found: lines[found[1]], template)


def list_devices(source: Source) -> list[str]:
    """Return the device nodes that *source* opens. Sensors on a bus belong here, too.

    Raises ConfigError for a plug-in that is not installed here, or that refuses its options.
    """
    match source:
        case SensorGroup():
            found = [device for each in source.sensors for device in list_devices(each)]
            return list(dict.fromkeys(found))
        case PluginSensor():
            return plugin_devices(source)
        case CsvSensor() | SyntheticSensor() | ClockSensor() | NoSensor():
            return []
        case ThermalSensor() | HwmonSensor() | IioSensor() | OneWireSensor():
            return []  # they read /sys
        case MqttSensor() | HttpSensor():
            return []  # they use the network
        case SerialSensor():
            return [source.device]
        case ModbusSensor():
            return [] if source.device is None else [source.device]
        case CommandSensor():
            return source.devices
        case _:
            assert_never(source)


def _device_lines(devices: Sequence[str], groups: Sequence[str]) -> list[str]:
    if not devices:
        # Only for sensors without devices: PrivateDevices would hide them, and PrivateUsers would
        # take away the groups that may open them.
        return ["DevicePolicy=closed", "PrivateDevices=yes", "PrivateUsers=yes"]
    lines = ["DevicePolicy=closed", *(f"DeviceAllow={device} rw" for device in devices)]
    if groups:
        lines.append(f"SupplementaryGroups={' '.join(groups)}")
    return lines


def _clock_lines(source: Source) -> list[str]:
    """Return the lines that let a clock sensor ask whether the kernel's clock is synchronised.

    The same system call sets the clock. Without a capability it can only read.
    """
    if any(isinstance(sensor, ClockSensor) for sensor in parts_of(source)):
        return ["ProtectClock=no", "SystemCallFilter=adjtimex clock_adjtime"]
    return ["ProtectClock=yes"]


def list_groups(devices: Sequence[str]) -> list[str]:
    """Return the groups of *devices* on this machine. A device that is not plugged in has none."""
    numbers = {Path(device).stat().st_gid for device in devices if Path(device).exists()}
    return sorted(grp.getgrgid(number).gr_name for number in numbers - {0})


def main(arguments: Sequence[str]) -> int:
    """Print the unit of the node in a folder. *arguments* are the folder and a prefix of /etc.

    The prefix is for tests without root.
    """
    folder, root = arguments[0], Path(arguments[1] if arguments[1:] else "/")
    try:
        config = load_node_config(Path(folder))
        kept = root / CREDENTIALS.relative_to("/") / config.node
        given = [name for name in CREDENTIAL_FILES if (kept / name).is_file()]
        unit = make_unit(config, given, list_groups(list_devices(config.source)))
    except CipherfleetError as error:
        sys.stderr.write(f"cipherfleet: {error}\n")
        return error.exit_code
    sys.stdout.write(unit)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
