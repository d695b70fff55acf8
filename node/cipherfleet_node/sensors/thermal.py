"""A sensor that is a thermal zone of the Linux kernel, for example that of the processor."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from cipherfleet_node.core.messages import DEGREES
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.settings.sections import (
    ClockSensor,
    CsvSensor,
    HwmonSensor,
    NoSensor,
    SensorGroup,
    Source,
    SyntheticSensor,
    ThermalSensor,
)

from .base import check_fields, check_plausible
from .sysfs import ABSOLUTE_ZERO_MILLIDEGREES, SYS, TimedReader, folders, whole_number, word

PROCESSOR = ("cpu", "soc", "pkg")  # the type of a processor's zone contains one of these


class ThermalZone:
    """One thermal zone, identified by its number or its type, in degrees Celsius.

    Source: the kernel's thermal sysfs documentation (temp is in millidegrees Celsius).
    """

    def __init__(self, config: ThermalSensor, needed: Collection[str], sysfs: Path = SYS) -> None:
        self.fields = (config.field,)
        self._config, self._sysfs = config, sysfs
        self._who = f"thermal zone {config.zone!r}"
        check_fields(self._who, self.fields, needed, config.limits)
        self._find()
        self._reader = TimedReader(self._who, config.timeout_s)

    def read(self) -> list[Sample]:
        """Return the present temperature; raises SensorUnavailable if there is no valid one."""
        values = {self.fields[0]: self._reader.run(self._measure)}
        check_plausible(self._who, values, self._config.limits)
        return [Sample(values)]

    def close(self) -> None:
        """Do nothing: no file is open between two reads."""

    def _measure(self) -> float:
        try:
            zone = self._find()  # at every read: a driver that is loaded again gives new numbers
        except ConfigError as error:
            raise SensorUnavailable(str(error)) from None
        millidegrees = whole_number(self._who, zone / "temp")
        if millidegrees < ABSOLUTE_ZERO_MILLIDEGREES:
            raise SensorUnavailable(f"{self._who}: its temperature is below absolute zero")
        return millidegrees / 1000

    def _find(self) -> Path:
        zones = folders(self._sysfs / "class" / "thermal", "thermal_zone")
        wanted = str(self._config.zone)
        if wanted.isdecimal() and int(wanted) in zones:
            return zones[int(wanted)]
        found = [number for number, path in zones.items() if word(path / "type") == wanted]
        if len(found) == 1:
            return zones[found[0]]
        if found:
            numbers = ", ".join(map(str, found))
            raise ConfigError(f"{self._who}: several zones have this type, write one of {numbers}")
        known = ", ".join(f"{number} ({word(path / 'type')})" for number, path in zones.items())
        raise ConfigError(f"{self._who}: is not here, this machine has {known or 'no zones'}")


def processor_temperature(source: Source, sysfs: Path = SYS) -> int | None:
    """Return the processor's temperature in whole degrees Celsius, for the health of the node.

    None if there is no plausible value, or if *source* may measure a temperature: then the value
    would be a reading, or be close to one.
    """
    if _may_measure_heat(source):
        return None
    for zone in folders(sysfs / "class" / "thermal", "thermal_zone").values():
        if any(part in word(zone / "type") for part in PROCESSOR):
            try:
                degrees = round(whole_number("processor", zone / "temp") / 1000)
            except SensorUnavailable:
                continue
            if degrees in DEGREES:
                return degrees
    return None


def _may_measure_heat(source: Source) -> bool:
    match source:
        case SensorGroup():
            return any(map(_may_measure_heat, source.sensors))
        case CsvSensor() | SyntheticSensor() | ClockSensor() | NoSensor():
            return False
        case HwmonSensor():
            return any(name.startswith("temp") for name in source.inputs)
        case _:
            return True
