"""The sources of readings, one device per file. `open_sensor` opens the one that is configured."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import assert_never

from cipherfleet_node.settings.sections import (
    CommandSensor,
    CsvSensor,
    HttpSensor,
    HwmonSensor,
    IioSensor,
    ModbusSensor,
    MqttSensor,
    NoSensor,
    OneWireSensor,
    Sensor,
    SerialSensor,
    SyntheticSensor,
    ThermalSensor,
)

from .absent import Absent
from .base import SensorDevice
from .command import Program
from .csv_replay import CsvReplay
from .csv_table import CsvTable, read_rows
from .hwmon import HwmonChip
from .synthetic import Synthetic
from .thermal import ThermalZone

_Other = IioSensor | OneWireSensor | SerialSensor | ModbusSensor | HttpSensor | MqttSensor

__all__ = ["CsvTable", "SensorDevice", "open_sensor", "read_rows"]


def open_sensor(
    config: Sensor,
    folder: Path,
    needed: Collection[str],
    fleet_broker: tuple[str, int] | None = None,
) -> SensorDevice:
    """Open the sensor that *config* describes. Its relative paths are relative to *folder*.

    *needed* are the fields that the objective uses. *fleet_broker* is the host and the port of the
    fleet's broker, from which a sensor must not read. Raises ConfigError for errors that only the
    operator can fix: a missing file, column, chip or program, or a needed field that the sensor
    does not have.
    """
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
        case NoSensor():
            return Absent()
        case _:
            return _open_other(config, folder, needed, fleet_broker)


def _open_other(
    config: _Other, folder: Path, needed: Collection[str], fleet_broker: tuple[str, int] | None
) -> SensorDevice:
    """Open a sensor whose module is imported only where it is configured, to save memory."""
    match config:
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
