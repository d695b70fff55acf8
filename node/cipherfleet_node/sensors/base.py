"""The interface of every sensor, and the checks that all sensors share."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError, ReadingRefused

Limits = Mapping[str, tuple[float, float]]  # by field, the lowest and highest plausible value

_NAMES_SHOWN = 12


class SensorDevice(Protocol):
    """A source of samples, which one thread reads once per round."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of every sample."""
        ...

    def read(self) -> list[Sample]:
        """Return the samples that are new since the last read; [] at the end of a replay.

        Raises SensorUnavailable if there is no valid sample now; the next read may succeed.
        """
        ...

    def close(self) -> None:
        """Release the device; no read follows."""
        ...


def check_fields(
    who: str, fields: Collection[str], needed: Collection[str], limits: Limits
) -> None:
    """Raise ConfigError if the objective or the limits name a field that the sensor has not."""
    absent = sorted(set(needed).difference(fields))
    if absent:
        raise ConfigError(
            f"{who}: the objective needs {join_names(absent)}, the sensor has {join_names(fields)}"
        )
    # A limit with a misspelt field would have no effect.
    absent = sorted(set(limits).difference(fields))
    if absent:
        raise ConfigError(
            f"{who}: sensor.limits names {join_names(absent)}, the sensor has {join_names(fields)}"
        )


def check_plausible(who: str, values: Mapping[str, float], limits: Limits) -> None:
    """Raise ReadingRefused for a value that is not finite or outside its limits."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise ReadingRefused(f"{who}: {name} is not a finite number", name, "finite")
        if not is_within(limits, name, value):
            text = f"{who}: {name} is {describe_limits(limits, name)}"
            raise ReadingRefused(text, name, "limits")


def is_within(limits: Limits, name: str, value: float) -> bool:
    """True if *value* is within the limits of the field *name*, or the field has no limits."""
    low, high = limits.get(name, (-math.inf, math.inf))
    return low <= value <= high


def describe_limits(limits: Limits, name: str) -> str:
    """Return the words for a value outside of its limits. The value itself is private."""
    low, high = limits[name]
    return f"outside its limits [{low:g}, {high:g}]"


def join_names(names: Iterable[str]) -> str:
    """Return *names* as a list for messages, for example "'a', 'b' and 3 more"."""
    known = [repr(name if len(name) <= 40 else name[:37] + "...") for name in names]
    if not known:
        return "none"
    more = len(known) - _NAMES_SHOWN
    return ", ".join(known[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
