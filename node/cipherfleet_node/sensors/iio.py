"""A sensor chip of the Linux kernel's class iio: BME280, SCD30, SPS30, ADS1115 and others.

Source: the kernel's documentation, Documentation/ABI/testing/sysfs-bus-iio. A driver gives a
channel either processed (`in_temp_input`), or as a count with a scale and an offset:
(raw + offset) * scale, in the same units.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cipherfleet_node.errors import ConfigError, SensorUnavailable

from .chip import Chip
from .sysfs import ABSOLUTE_ZERO_MILLIDEGREES, decimal_number, folders, word

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
_CHANNEL = re.compile(
    r"(?P<type>[a-z]+)(?P<index>[0-9]{0,3}(-[a-z]+[0-9]{1,3})?)(?P<name>(_[a-z0-9]+)*)"
)
_PLACE = re.compile(r"\d+-[0-9a-f]{4}")
_FILE = re.compile(r"in_(?P<channel>.+)_(input|raw)")


class IioChip(Chip):
    """The configured inputs of one chip in degrees Celsius, per cent, volts, amperes, watts, parts
    per million, and otherwise in the kernel's units (kilopascals, lux, micrograms per cubic metre).

    An input is named like its file without `in_` and ending: `temp`, `pressure`, `voltage0`. The
    chip is identified by its name or label. If several have this name, it is identified by its
    folder (iio:device3) or its place on the bus (1-0076).
    """

    kind, nothing = "iio", "no iio chips"

    def _value(self, chip: Path, channel: str) -> float:
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
        if parts["type"] == "temp" and value < ABSOLUTE_ZERO_MILLIDEGREES / 1000:
            raise SensorUnavailable(f"{self._who}: {channel} is below absolute zero")
        return value

    def _setting(self, chip: Path, channel: str, name: str) -> float | None:
        """Return the scale or offset of a channel, from its own file or one of several channels."""
        for shared in shared_names(channel):
            file = chip / f"in_{shared}_{name}"
            if file.exists():
                return decimal_number(self._who, file)
        return None

    def _chips(self) -> Iterable[Path]:
        return folders(self._sysfs / "bus" / "iio" / "devices", "iio:device").values()

    def _names(self, chip: Path) -> list[str]:
        names = [word(chip / "name"), word(chip / "label"), chip.name]
        place = chip.resolve().parent.name  # its device on the bus
        if _PLACE.fullmatch(place):
            names.append(place)
        return [name for name in names if name]

    def _check_inputs(self, names: Sequence[str]) -> None:
        for channel in names:
            if not _CHANNEL.fullmatch(channel):
                raise ConfigError(
                    f"{self._who}: sensor.inputs names {channel!r}, must be like temp or voltage0: "
                    "the name of the file in_temp_input or in_voltage0_raw without in_ and ending"
                )

    def _inputs_of(self, chip: Path) -> list[str]:
        files = (_FILE.fullmatch(path.name) for path in chip.glob("in_*"))
        return sorted({found["channel"] for found in files if found is not None})


def shared_names(channel: str) -> Iterator[str]:
    """Yield the names of the channels whose scale applies to *channel*, its own first.

    For voltage0_supply: voltage0_supply, voltage_supply, voltage0, voltage.
    """
    parts = _CHANNEL.fullmatch(channel)
    assert parts is not None
    kind, index, name = parts["type"], parts["index"], parts["name"]
    numberless = kind + re.sub(r"[0-9]", "", index)
    yield from dict.fromkeys((channel, numberless + name, kind + index, numberless, kind))
