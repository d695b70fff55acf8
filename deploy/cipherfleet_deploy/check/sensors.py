"""What `check` says of sensors that other packages bring: one finding for each plug-in."""

from __future__ import annotations

from collections.abc import Iterator

from cipherfleet_node.findings import Finding
from cipherfleet_node.sensors.plugins import plugin_names
from cipherfleet_node.settings.sections import PluginSensor, parts_of
from cipherfleet_provisioning.fleet.fleet import Fleet

SENSORS = "sensors"  # subject of findings


def sensor_findings(fleet: Fleet) -> Iterator[Finding]:
    """Yield for each plug-in what it may do, and whether its options could be checked here.

    `load_fleet` has refused wrong options of a plug-in that is installed.
    """
    nodes: dict[str, list[str]] = {}
    for member in fleet.members:
        for sensor in parts_of(member.sensor):
            if isinstance(sensor, PluginSensor):
                nodes.setdefault(sensor.name, []).append(member.id)
    for name, owners in nodes.items():
        is_here = name in plugin_names()
        options = "" if is_here else "; it is not installed here, so the device checks its options"
        yield Finding(
            "note",
            SENSORS,
            f"the sensor plug-in {name!r} gets readings, and has the rights of the node{options}",
            "install plug-ins of trusted authors only",
            nodes=tuple(dict.fromkeys(owners)),
        )
