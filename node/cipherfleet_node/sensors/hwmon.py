"""A sensor chip of the Linux kernel's hwmon class: temperatures, voltages, humidity and others.

Source: the kernel's documentation, "Naming and data format standards for sysfs files" (hwmon).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from cipherfleet_node.errors import ConfigError, SensorUnavailable

from .chip import Chip
from .sysfs import (
    ABSOLUTE_ZERO_MILLIDEGREES,
    POWER_ON_MILLIDEGREES,
    folders,
    whole_number,
    word,
)

# The number of the kernel's units in one of our units.
PER_UNIT = {
    "in": 1000,  # millivolts in a volt
    "temp": 1000,  # millidegrees in a degree Celsius
    "curr": 1000,  # milliamperes in an ampere
    "humidity": 1000,  # thousandths of a per cent in a per cent
    "power": 1_000_000,  # microwatts in a watt
    "energy": 1_000_000,  # microjoules in a joule
    "fan": 1,  # revolutions per minute
}
_INPUT = re.compile(rf"(?P<channel>(?P<quantity>{'|'.join(PER_UNIT)})\d{{1,3}})_(input|average)")

# The w1 driver returns POWER_ON_MILLIDEGREES. For any other chip 85 degrees is a temperature.
_ONE_WIRE = ("w1_", "ds18")


class HwmonChip(Chip):
    """The configured inputs of one chip in volts, degrees Celsius, amperes, per cent, watts, joules
    or revolutions per minute.

    The chip is identified by its name. If several chips have this name, it is identified by its
    device (28-0316a2795eff) or folder (hwmon3).
    """

    kind, nothing = "hwmon", "no chips"

    def _value(self, chip: Path, file: str) -> float:
        parts = _INPUT.fullmatch(file)
        assert parts is not None  # checked by __init__
        fault = chip / f"{parts['channel']}_fault"
        if fault.exists() and whole_number(self._who, fault):
            raise SensorUnavailable(f"{self._who}: {file} reports a fault")
        count = whole_number(self._who, chip / file)
        if parts["quantity"] == "temp":
            if count < ABSOLUTE_ZERO_MILLIDEGREES:
                raise SensorUnavailable(f"{self._who}: {file} is below absolute zero")
            is_one_wire = word(chip / "name").startswith(_ONE_WIRE)
            if count == POWER_ON_MILLIDEGREES and is_one_wire:
                raise SensorUnavailable(f"{self._who}: {file} has the chip's value after power-on")
        return count / PER_UNIT[parts["quantity"]]

    def _chips(self) -> Iterable[Path]:
        return folders(self._sysfs / "class" / "hwmon", "hwmon").values()

    def _names(self, chip: Path) -> list[str]:
        names = [word(chip / "name"), chip.name]
        device = chip / "device"
        if device.exists():
            names.append(device.resolve().name)
        return names

    def _check_inputs(self, names: Sequence[str]) -> None:
        if not names:
            raise ConfigError(f"{self._who}: sensor.inputs is empty, must name at least one")
        for file in names:
            if not _INPUT.fullmatch(file):
                raise ConfigError(
                    f"{self._who}: sensor.inputs names {file!r}, must be like temp1_input: one of "
                    f"{', '.join(PER_UNIT)}, a number, and _input or _average"
                )

    def _inputs_of(self, chip: Path) -> list[str]:
        return sorted(path.name for path in chip.glob("*_*") if _INPUT.fullmatch(path.name))
