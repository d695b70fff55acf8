"""A sensor chip of the Linux kernel's class iio: BME280, SCD30, SPS30, ADS1115 and others.

Source: the kernel's documentation, Documentation/ABI/testing/sysfs-bus-iio. A driver gives a
channel either processed (`in_temp_input`), or as a count with a scale and an offset:
(raw + offset) * scale, in the same units.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.settings.sections import IioSensor

from .base import check_fields, check_plausible, join_names
from .sysfs import SYS, TimedReader, decimal_number, folders, word

# The number of the kernel's units in one of our units, by type of channel; 1 for all others.
PER_UNIT = {
    "temp": 1000,  # millidegrees in a degree Celsius
    "humidityrelative": 1000,  # thousandths of a per cent in a per cent
    "voltage": 1000,  # millivolts in a volt
    "altvoltage": 1000,
    "current": 1000,  # milliamperes in an ampere
    "altcurrent": 1000,
    "power": 1000,  # milliwatts in a watt
    "positionrelative": 1000,  # thousandths of a per cent in a per cent
    "concentration": 1e-4,  # per cent in a part per million
}
ABSOLUTE_ZERO_C = -273.15
_CHANNEL = re.compile(
    r"(?P<type>[a-z]+)(?P<index>[0-9]{0,3}(-[a-z]+[0-9]{1,3})?)(?P<name>(_[a-z0-9]+)*)"
)
_FILE = re.compile(r"in_(?P<channel>.+)_(input|raw)")


class IioChip:
    """The configured inputs of one chip in degrees Celsius, per cent, volts, amperes, watts, parts
    per million, and otherwise in the kernel's units (kilopascals, lux, micrograms per cubic metre).

    An input is named like its file without `in_` and ending: `temp`, `pressure`, `voltage0`. The
    chip is identified by its name or label. If several have this name, it is identified by its
    folder (iio:device3) or its place on the bus (1-0076).
    """

    def __init__(self, config: IioSensor, needed: Collection[str], sysfs: Path = SYS) -> None:
        self.fields = tuple(config.inputs.values())
        self._config, self._sysfs = config, sysfs
        self._who = f"iio chip {config.chip!r}"
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
            chip = self._find()  # at every read: a driver that is loaded again gives new numbers
        except ConfigError as error:
            raise SensorUnavailable(str(error)) from None
        return {field: self._value(chip, channel) for channel, field in self._config.inputs.items()}

    def _value(self, chip: Path, channel: str) -> float:
        """Return the *channel* in our unit."""
        parts = _CHANNEL.fullmatch(channel)
        assert parts is not None  # checked by __init__
        processed = chip / f"in_{channel}_input"
        if processed.exists():
            value = decimal_number(self._who, processed)
        else:
            scale, offset = (
                self._setting(chip, channel, "scale"),
                self._setting(chip, channel, "offset"),
            )
            raw = decimal_number(self._who, chip / f"in_{channel}_raw")
            value = (raw + (offset or 0.0)) * (1.0 if scale is None else scale)
        value /= PER_UNIT.get(parts["type"], 1)
        if parts["type"] == "temp" and value < ABSOLUTE_ZERO_C:
            raise SensorUnavailable(f"{self._who}: {channel} is below absolute zero")
        return value

    def _setting(self, chip: Path, channel: str, name: str) -> float | None:
        """Return the scale or offset of a channel, from its own file or one of several channels."""
        for shared in shared_names(channel):
            file = chip / f"in_{shared}_{name}"
            if file.exists():
                return decimal_number(self._who, file)
        return None

    def _find(self) -> Path:
        chips = folders(self._sysfs / "bus" / "iio" / "devices", "iio:device").values()
        found = [chip for chip in chips if self._config.chip in _names(chip)]
        if len(found) == 1:
            return found[0]
        if found:
            others = join_names(_names(chip)[-1] for chip in found)
            raise ConfigError(f"{self._who}: several have this name, write one of {others}")
        known = ", ".join(f"{_names(chip)[0]} ({_names(chip)[-1]})" for chip in chips)
        raise ConfigError(f"{self._who}: is not here, this machine has {known or 'no iio chips'}")

    def _check_inputs(self) -> None:
        for channel in self._config.inputs:
            if not _CHANNEL.fullmatch(channel):
                raise ConfigError(
                    f"{self._who}: sensor.inputs names {channel!r}, must be like temp or voltage0: "
                    "the name of the file in_temp_input or in_voltage0_raw without in_ and ending"
                )
        for field, count in Counter(self._config.inputs.values()).items():
            if count > 1:
                raise ConfigError(f"{self._who}: {count} inputs have the same field {field!r}")

    def _check_present(self, chip: Path) -> None:
        files = (_FILE.fullmatch(path.name) for path in chip.glob("in_*"))
        known = sorted({found["channel"] for found in files if found is not None})
        absent = [channel for channel in self._config.inputs if channel not in known]
        if absent:
            raise ConfigError(
                f"{self._who}: has no {join_names(absent)}, it has {join_names(known)}"
            )


def shared_names(channel: str) -> Iterator[str]:
    """Yield the names of the channels whose scale applies to *channel*, its own first.

    For voltage0_supply: voltage0_supply, voltage_supply, voltage0, voltage.
    """
    parts = _CHANNEL.fullmatch(channel)
    assert parts is not None
    kind, index, name = parts["type"], parts["index"], parts["name"]
    numberless = kind + re.sub(r"[0-9]", "", index)
    yield from dict.fromkeys((channel, numberless + name, kind + index, numberless, kind))


def _names(chip: Path) -> list[str]:
    """Return the names of a chip, the last of which distinguishes it from equal chips."""
    names = [word(chip / "name"), word(chip / "label"), chip.name]
    place = chip.resolve().parent.name  # its device on the bus
    return [
        name for name in (*names, place if re.fullmatch(r"\d+-[0-9a-f]{4}", place) else "") if name
    ]
