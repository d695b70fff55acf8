"""A one-wire thermometer of the Linux kernel: DS18B20, DS18S20, DS1822 and others.

Source: the kernel's documentation, Documentation/w1/slaves/w1_therm.rst. Since 5.10 the kernel has
a file `temperature`, for which it checks the sum of what the chip sends. Older kernels have only
`w1_slave`, with the result of this check.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.settings.sections import OneWireSensor

from .base import check_fields, check_plausible, join_names
from .sysfs import POWER_ON_MILLIDEGREES, SYS, TimedReader, lines_of, whole_number

# DS18B20 measures this range. An open or shorted wire gives values outside of it.
RANGE_MILLIDEGREES = range(-55_000, 125_001)
_DUMP = re.compile(r"((?:[0-9a-f]{2} ){9}): crc=[0-9a-f]{2} (YES|NO)")
_TEMPERATURE = re.compile(r"(?:[0-9a-f]{2} ){9}t=(-?[0-9]{1,6})")
_DEVICE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{12}")


class OneWireThermometer:
    """One thermometer, identified by its number on the wire, in degrees Celsius."""

    def __init__(self, config: OneWireSensor, needed: Collection[str], sysfs: Path = SYS) -> None:
        self.fields = (config.field,)
        self._config, self._devices = config, sysfs / "bus" / "w1" / "devices"
        self._who = f"one-wire thermometer {config.device!r}"
        check_fields(self._who, self.fields, needed, config.limits)
        self._check_present()
        self._reader = TimedReader(self._who, config.timeout_s)

    def read(self) -> list[Sample]:
        """Return the present temperature; raises SensorUnavailable if there is no valid one."""
        values = {self._config.field: self._reader.run(self._measure)}
        check_plausible(self._who, values, self._config.limits)
        return [Sample(values)]

    def close(self) -> None:
        """Do nothing: no file is open between two reads."""

    def _measure(self) -> float:
        folder = self._devices / self._config.device
        if (folder / "temperature").exists():
            millidegrees = whole_number(self._who, folder / "temperature")
        else:
            millidegrees = parse_w1_slave(self._who, lines_of(self._who, folder / "w1_slave"))
        if millidegrees == POWER_ON_MILLIDEGREES:
            raise SensorUnavailable(
                f"{self._who}: has the value after power-on",
                remedy="check its supply: a conversion needs 1.5 mA and a pull-up of 4.7 kilohms",
            )
        if millidegrees not in RANGE_MILLIDEGREES:
            raise SensorUnavailable(f"{self._who}: its temperature is outside the chip's range")
        return millidegrees / 1000

    def _check_present(self) -> None:
        folder = self._devices / self._config.device
        if any((folder / name).exists() for name in ("temperature", "w1_slave")):
            return
        known = sorted(
            path.name for path in self._devices.glob("*") if _DEVICE.fullmatch(path.name)
        )
        raise ConfigError(
            f"{self._who}: is not here, this machine has {join_names(known)}",
            remedy="check the wiring, and that the bus is on: dtoverlay=w1-gpio in config.txt",
        )


def parse_w1_slave(who: str, lines: list[str]) -> int:
    """Return the millidegrees in the *lines* of w1_slave; raises SensorUnavailable."""
    dump = _DUMP.fullmatch(lines[0]) if len(lines) == 2 else None
    found = _TEMPERATURE.fullmatch(lines[1]) if len(lines) == 2 else None
    if dump is None or found is None:
        raise SensorUnavailable(f"{who}: w1_slave is not as the kernel's driver writes it")
    if dump[2] == "NO":
        raise SensorUnavailable(f"{who}: what the chip has sent fails its check (CRC)")
    if not dump[1].strip("0 "):
        # Nine zero bytes pass the check: a wire that is shorted to ground sends them.
        raise SensorUnavailable(f"{who}: the chip has sent zeros only, its wire may be shorted")
    return int(found[1])
