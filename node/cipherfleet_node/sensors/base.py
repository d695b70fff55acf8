"""What every sensor promises, and the checks they share."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError, SensorUnavailable

Limits = Mapping[str, tuple[float, float]]  # field -> lowest and highest plausible value

_NAMES_SHOWN = 12


class SensorDevice(Protocol):
    """A source of samples, read once a round by one thread."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The names that every sample's values have."""
        ...

    def read(self) -> list[Sample]:
        """The samples that are new since the last read; [] when a replay is exhausted.

        Raises SensorUnavailable when there is none this time; the next round may try again.
        """
        ...

    def close(self) -> None:
        """Let go of the device."""
        ...


def check_fields(
    who: str, fields: Collection[str], needed: Collection[str], limits: Limits
) -> None:
    """Raise ConfigError if the objective or the limits name a field that the sensor lacks."""
    absent = sorted(set(needed).difference(fields))
    if absent:
        raise ConfigError(
            f"{who}: the objective needs {listed(absent)}, the sensor has {listed(fields)}"
        )
    # A misspelt limit would guard nothing, silently.
    absent = sorted(set(limits).difference(fields))
    if absent:
        raise ConfigError(
            f"{who}: sensor.limits names {listed(absent)}, the sensor has {listed(fields)}"
        )


def check_plausible(who: str, values: Mapping[str, float], limits: Limits) -> None:
    """Raise SensorUnavailable for a value that is not finite or outside its limits."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise SensorUnavailable(f"{who}: {name} is not a finite number")
        if not within(limits, name, value):
            raise SensorUnavailable(f"{who}: {name} is {outside(limits, name)}")


def within(limits: Limits, name: str, value: float) -> bool:
    """Whether *value* keeps the limits of the field *name*, if it has any."""
    low, high = limits.get(name, (-math.inf, math.inf))
    return low <= value <= high


def outside(limits: Limits, name: str) -> str:
    """The words for a value beyond its limits; the value itself is private."""
    low, high = limits[name]
    return f"outside its limits [{low:g}, {high:g}]"


def listed(names: Iterable[str]) -> str:
    """'a', 'b' and 3 more: for messages that say what exists."""
    known = [repr(name if len(name) <= 40 else name[:37] + "...") for name in names]
    if not known:
        return "none"
    more = len(known) - _NAMES_SHOWN
    return ", ".join(known[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
