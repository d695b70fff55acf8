"""A sensor chip of the Linux kernel's hwmon class: temperatures, voltages, humidity and others.

Source: the kernel's documentation, "Naming and data format standards for sysfs files" (hwmon).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.settings.sections import HwmonSensor

from .base import check_fields, check_plausible, join_names
from .sysfs import ABSOLUTE_ZERO_MILLIDEGREES, SYS, TimedReader, folders, whole_number, word

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

# DS18B20 thermometers have the value 85 degrees from power-on until their first conversion, and the
# w1 driver returns it. For any other chip 85 degrees is a temperature.
_POWER_ON_MILLIDEGREES = 85_000
_ONE_WIRE = ("w1_", "ds18")


class HwmonChip:
    """The configured inputs of one chip in volts, degrees Celsius, amperes, per cent, watts, joules
    or revolutions per minute.

    The chip is identified by its name. If several chips have this name, it is identified by its
    device (28-0316a2795eff) or folder (hwmon3).
    """

    def __init__(self, config: HwmonSensor, needed: Collection[str], sysfs: Path = SYS) -> None:
        self.fields = tuple(config.inputs.values())
        self._config, self._sysfs = config, sysfs
        self._who = f"hwmon chip {config.chip!r}"
        self._check_inputs()
        check_fields(self._who, self.fields, needed, config.limits)
        self._check_present(self._find())
        self._reader = TimedReader(self._who, config.timeout_s)

    def read(self) -> list[Sample]:
        """Return one sample of all inputs; raises SensorUnavailable if one has no valid value."""
        values = self._reader.run(self._measure)
        check_plausible(self._who, values, self._config.limits)
        return [Sample(values)]

    def close(self) -> None:
        """Do nothing: no file is open between two reads."""

    def _measure(self) -> dict[str, float]:
        try:
            chip = self._find()  # at every read: a chip that is plugged in again gets a new number
        except ConfigError as error:
            raise SensorUnavailable(str(error)) from None
        one_wire = word(chip / "name").startswith(_ONE_WIRE)
        return {
            field: self._value(chip, file, one_wire) for file, field in self._config.inputs.items()
        }

    def _value(self, chip: Path, file: str, one_wire: bool) -> float:
        """Return the input *file* in our units; raises SensorUnavailable for an error value."""
        parts = _INPUT.fullmatch(file)
        assert parts is not None  # checked by __init__
        fault = chip / f"{parts['channel']}_fault"
        if fault.exists() and whole_number(self._who, fault):
            raise SensorUnavailable(f"{self._who}: {file} reports a fault")
        count = whole_number(self._who, chip / file)
        if parts["quantity"] == "temp":
            if count < ABSOLUTE_ZERO_MILLIDEGREES:
                raise SensorUnavailable(f"{self._who}: {file} is below absolute zero")
            if one_wire and count == _POWER_ON_MILLIDEGREES:
                raise SensorUnavailable(f"{self._who}: {file} has the chip's value after power-on")
        return count / PER_UNIT[parts["quantity"]]

    def _find(self) -> Path:
        chips = folders(self._sysfs / "class" / "hwmon", "hwmon").values()
        found = [chip for chip in chips if self._config.chip in _names(chip)]
        if len(found) == 1:
            return found[0]
        if found:
            others = join_names(_names(chip)[-1] for chip in found)
            raise ConfigError(f"{self._who}: several have this name, write one of {others}")
        known = ", ".join(f"{_names(chip)[0]} ({_names(chip)[-1]})" for chip in chips)
        raise ConfigError(f"{self._who}: is not here, this machine has {known or 'no chips'}")

    def _check_inputs(self) -> None:
        inputs = self._config.inputs
        if not inputs:
            raise ConfigError(f"{self._who}: sensor.inputs is empty, must name at least one")
        for file in inputs:
            if not _INPUT.fullmatch(file):
                raise ConfigError(
                    f"{self._who}: sensor.inputs names {file!r}, must be like temp1_input: one of "
                    f"{', '.join(PER_UNIT)}, a number, and _input or _average"
                )
        for field, count in Counter(inputs.values()).items():
            if count > 1:
                raise ConfigError(f"{self._who}: {count} inputs have the same field {field!r}")

    def _check_present(self, chip: Path) -> None:
        known = sorted(path.name for path in chip.glob("*_*") if _INPUT.fullmatch(path.name))
        absent = [file for file in self._config.inputs if file not in known]
        if absent:
            raise ConfigError(
                f"{self._who}: has no {join_names(absent)}, it has {join_names(known)}"
            )


def _names(chip: Path) -> list[str]:
    """Return the names of a chip, the last of which distinguishes it from equal chips."""
    names = [word(chip / "name"), chip.name]
    device = chip / "device"
    if device.exists():
        names.append(device.resolve().name)
    return names
