"""Where readings come from: one device per file, all opened by `open_sensor`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import assert_never

from cipherfleet_node.settings.sections import (
    CommandSensor,
    CsvSensor,
    HwmonSensor,
    Sensor,
    SyntheticSensor,
    ThermalSensor,
)

from .base import SensorDevice
from .command import Program
from .csv_replay import CsvReplay
from .csv_table import CsvTable, read_rows
from .hwmon import HwmonChip
from .synthetic import Synthetic
from .thermal import ThermalZone

__all__ = ["CsvTable", "SensorDevice", "open_sensor", "read_rows"]


def open_sensor(config: Sensor, folder: Path, needed: Collection[str]) -> SensorDevice:
    """The device that *config* describes; relative paths in it are relative to *folder*.

    *needed* are the fields that the objective uses. Raises ConfigError for what only an operator
    can mend: no such file, column, chip or program, or a needed field that the sensor lacks.
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
        case _:
            assert_never(config)
