"""The sources of readings, one device per file. `open_sensor` opens the one that is configured."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import assert_never

from cipherfleet_node.settings.sections import (
    CommandSensor,
    CsvSensor,
    HwmonSensor,
    NoSensor,
    Sensor,
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

__all__ = ["CsvTable", "SensorDevice", "open_sensor", "read_rows"]


def open_sensor(config: Sensor, folder: Path, needed: Collection[str]) -> SensorDevice:
    """Open the sensor that *config* describes. Its relative paths are relative to *folder*.

    *needed* are the fields that the objective uses. Raises ConfigError for errors that only the
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
            assert_never(config)
