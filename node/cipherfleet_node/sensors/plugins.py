"""Sensors that other packages bring, under the entry point group `cipherfleet.sensors`.

`sensor: {kind: plugin, name: sds011, options: {port: /dev/ttyUSB0}}` opens what a package declares
as `sds011` in that group: an instance of SensorPlugin.

    class Settings(Section, frozen=True):
        port: str = "/dev/ttyUSB0"

    class Device:
        fields = ("pm25", "pm10")
        def __init__(self, settings: Settings, folder: Path) -> None: ...
        def read(self) -> list[Sample]: ...
        def close(self) -> None: ...

    sds011 = SensorPlugin(
        settings=Settings,
        open=Device,
        fields=lambda settings: Device.fields,
        devices=lambda settings: [settings.port],
    )

Limits, guards and the timeout are applied here. A plug-in runs with the rights of the node: its
package must be as trustworthy as cipherfleet.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.findings import Finding
from cipherfleet_node.settings.sections import DeviceNode, PluginSensor, Section, Sensor
from cipherfleet_node.settings.type_errors import dotted, nearest, validate

from .base import SensorDevice, check_fields, check_plausible, join_names
from .sysfs import TimedReader

GROUP = "cipherfleet.sensors"

S = TypeVar("S", bound=Section)


def _nothing(_settings: Any) -> tuple[()]:
    return ()


@dataclass(frozen=True)
class SensorPlugin(Generic[S]):
    """What a package declares of one kind of sensor.

    *settings* is the type of `options`. Its JSON Schema is part of that of fleet.yaml where the
    package is installed. *open* opens the device; its second argument is the node's folder, and it
    may raise ConfigError. *fields* are those of every sample. *devices* are the device nodes that
    the service may open, as DeviceAllow= in its unit. *check* yields findings for the doctor; it
    may look at the machine, and must leave the device as it is.
    """

    settings: type[S]
    open: Callable[[S, Path], SensorDevice]
    fields: Callable[[S], Collection[str]]
    devices: Callable[[S], Sequence[str]] = _nothing
    check: Callable[[S], Iterable[Finding]] = _nothing


def plugin_names() -> list[str]:
    """Return the names of all plug-ins that are installed; nothing is imported."""
    return sorted(entry_points(group=GROUP).names)


@cache
def load_plugin(name: str) -> SensorPlugin[Any]:
    """Import the plug-in *name*; raises ConfigError if it is not installed or not a plug-in."""
    found = entry_points(group=GROUP, name=name)
    if not found:
        known = plugin_names()
        close = nearest(name, known)
        raise ConfigError(
            f"the sensor plug-in {name!r} is not installed, there are: {join_names(known)}"
            + (f", did you mean {close!r}?" if close else ""),
            remedy="install the package that brings it into the environment of cipherfleet-node",
        )
    try:
        plugin = next(iter(found)).load()
    except Exception as error:
        raise ConfigError(
            f"the sensor plug-in {name!r} cannot be imported: {type(error).__name__}: {error}"
        ) from None
    if not isinstance(plugin, SensorPlugin):
        raise ConfigError(f"the sensor plug-in {name!r} is no SensorPlugin: correct its package")
    return plugin


def read_options(config: PluginSensor) -> tuple[SensorPlugin[Any], Section]:
    """Return the plug-in of *config* and its options; raises ConfigError if they do not fit."""
    plugin = load_plugin(config.name)
    options, mismatches = validate(config.options, plugin.settings)
    if mismatches:
        first, others = mismatches[0], len(mismatches) - 1
        more = f" (and {others} more)" if others else ""
        place = dotted(("options", *first.path))
        text = f"the sensor plug-in {config.name!r}: {place} {first.message}{more}"
        raise ConfigError(text, remedy=first.remedy)
    return plugin, options


def plugin_fields(config: PluginSensor) -> tuple[str, ...]:
    """Return the fields that the plug-in of *config* declares."""
    plugin, options = read_options(config)
    return tuple(plugin.fields(options))


def plugin_devices(config: PluginSensor) -> list[str]:
    """Return the device nodes that the plug-in declares; raises ConfigError for any other text."""
    plugin, options = read_options(config)
    try:
        return msgspec.convert(list(plugin.devices(options)), list[DeviceNode])
    except msgspec.ValidationError:  # they go into a unit file
        raise ConfigError(
            f"the sensor plug-in {config.name!r} declares a device that is no path such as "
            "/dev/ttyUSB0"
        ) from None


def check_plugins(sensors: Iterable[Sensor]) -> list[Finding]:
    """Return the findings of the plug-ins among *sensors*, for the doctor."""
    found: list[Finding] = []
    for sensor in sensors:
        if isinstance(sensor, PluginSensor):
            plugin, options = read_options(sensor)
            found += plugin.check(options)
    return found


def options_schemas() -> Mapping[str, type[Section]]:
    """Return the settings type of each plug-in that is installed and can be imported."""
    found = {}
    for name in plugin_names():
        try:
            found[name] = load_plugin(name).settings
        except ConfigError:
            continue
    return found


class PluginDevice:
    """The device of a plug-in, each read of which is checked and ends within timeout_s."""

    def __init__(self, config: PluginSensor, folder: Path, needed: Collection[str]) -> None:
        self._who = f"sensor {config.name!r}"
        plugin, options = read_options(config)
        self._device = plugin.open(options, folder)
        self.fields = tuple(self._device.fields)
        self._config = config
        check_fields(self._who, self.fields, needed, config.limits)
        self._reader = TimedReader(self._who, config.timeout_s)

    def read(self) -> list[Sample]:
        """Return the samples; raises SensorUnavailable for any failure of the plug-in."""
        samples = self._reader.run(self._read)
        for sample in samples:
            absent = [name for name in self.fields if name not in sample.values]
            if absent:
                raise SensorUnavailable(f"{self._who}: its sample has no {join_names(absent)}")
            check_plausible(self._who, sample.values, self._config.limits)
        return samples

    def close(self) -> None:
        """Release the device."""
        self._device.close()

    def _read(self) -> list[Sample]:
        try:
            return self._device.read()
        except SensorUnavailable as error:
            raise SensorUnavailable(f"{self._who}: {error}") from None
        except Exception as error:  # its text could be a reading
            raise SensorUnavailable(f"{self._who}: failed with {type(error).__name__}") from None
