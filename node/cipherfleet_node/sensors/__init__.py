"""The sources of readings, one device per file. `open_sensor` opens those that are configured."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import assert_never

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import (
    ClockSensor,
    CommandSensor,
    CsvSensor,
    HttpSensor,
    HwmonSensor,
    IioSensor,
    ModbusSensor,
    MqttSensor,
    NoSensor,
    OneWireSensor,
    PluginSensor,
    Sensor,
    SensorGroup,
    SerialSensor,
    Source,
    SyntheticSensor,
    ThermalSensor,
    parts_of,
)

from .absent import Absent
from .base import SensorDevice
from .clock import Clock
from .command import Program
from .csv_replay import CsvReplay
from .csv_table import CsvTable, read_rows
from .guards import Guarded
from .hwmon import HwmonChip
from .joined import Joined, Part
from .synthetic import Synthetic
from .thermal import ThermalZone

__all__ = [
    "CsvTable",
    "Joined",
    "SensorDevice",
    "kind_of",
    "open_parts",
    "open_sensor",
    "read_rows",
]


Address = tuple[str, int]  # host and port
_Other = (
    PluginSensor | IioSensor | OneWireSensor | SerialSensor | ModbusSensor | HttpSensor | MqttSensor
)


def open_sensor(
    source: Source, folder: Path, needed: Collection[str], fleet_broker: Address | None = None
) -> SensorDevice:
    """Open the sensors that *source* describes. Their relative paths are relative to *folder*.

    *needed* are the fields that the objective uses. *fleet_broker* is the address of the fleet's
    broker, from which a sensor must not read. Raises ConfigError for errors that only the
    operator can fix: a missing file, column, chip or program, or a needed field that no sensor has.
    """
    if isinstance(source, SensorGroup):
        return open_parts(source, folder, needed, fleet_broker)
    return _open_guarded(source, folder, needed, f"kind {kind_of(source)}", fleet_broker)


def open_parts(
    source: Source, folder: Path, needed: Collection[str], fleet_broker: Address | None = None
) -> Joined:
    """Open *source* like `open_sensor`, but as parts that can be examined, also if it is one."""
    sensors = parts_of(source)
    parts = []
    for number, sensor in enumerate(sensors, 1):
        kind = kind_of(sensor)
        name = f"sensor {number} ({kind})" if len(sensors) > 1 else f"sensor ({kind})"
        own = needed if len(sensors) == 1 else _own_fields(sensor)
        try:
            device = _open_guarded(sensor, folder, own, f"kind {kind}", fleet_broker)
        except ConfigError as error:
            if len(sensors) == 1:
                raise
            raise ConfigError(f"{name}: {error.text}", remedy=error.remedy) from None
        renews = not isinstance(sensor, ClockSensor)
        parts.append(Part(name, device, sensor.timeout_s, renews=renews))
    tolerance_s = source.join_tolerance_s if isinstance(source, SensorGroup) else math.inf
    return Joined(parts, needed, tolerance_s)


def kind_of(sensor: Sensor) -> str:
    """Return the word that the settings have for the kind of *sensor*."""
    return str(sensor.__struct_config__.tag)


def _own_fields(sensor: Sensor) -> Collection[str]:
    """Return the fields to ask of a sensor that has no list of its own: a program."""
    return sensor.fields if isinstance(sensor, CommandSensor) else ()


def _open_guarded(
    sensor: Sensor,
    folder: Path,
    needed: Collection[str],
    who: str,
    fleet_broker: Address | None,
) -> SensorDevice:
    device = _open_device(sensor, folder, needed, fleet_broker)
    return Guarded(device, sensor, who) if sensor.guards else device


def _open_device(
    config: Sensor, folder: Path, needed: Collection[str], fleet_broker: Address | None
) -> SensorDevice:
    match config:
        case CsvSensor():
            return CsvReplay(config, folder, needed)
        case SyntheticSensor():
            return Synthetic(config, needed)
        case ThermalSensor():
            return ThermalZone(config, needed)
        case HwmonSensor():
            return HwmonChip(config, needed)
        case CommandSensor():
            return Program(config, folder, needed)
        case ClockSensor():
            return Clock(config, needed)
        case NoSensor():
            return Absent()
        case _:
            return _open_other(config, folder, needed, fleet_broker)


def _open_other(
    config: _Other, folder: Path, needed: Collection[str], fleet_broker: Address | None
) -> SensorDevice:
    """Open a sensor whose module is imported only where it is configured, to save memory."""
    match config:
        case PluginSensor():
            from .plugins import PluginDevice

            return PluginDevice(config, folder, needed)
        case IioSensor():
            from .iio import IioChip

            return IioChip(config, needed)
        case OneWireSensor():
            from .one_wire import OneWireThermometer

            return OneWireThermometer(config, needed)
        case SerialSensor():
            from .serial import SerialDevice

            return SerialDevice(config, needed)
        case ModbusSensor():
            from .modbus import ModbusDevice

            return ModbusDevice(config, needed)
        case HttpSensor():
            from .http import HttpDevice

            return HttpDevice(config, folder, needed)
        case MqttSensor():
            from .mqtt import MqttTopics

            return MqttTopics(config, folder, needed, fleet_broker)
        case _:
            assert_never(config)
