"""What the chips of the kernel's classes hwmon and iio have in common: a folder with inputs.

A chip is found again by its name at every read: one that is plugged in again, or whose driver is
loaded again, has another number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.settings.sections import HwmonSensor, IioSensor

from .base import check_fields, check_plausible, join_names
from .sysfs import SYS, TimedReader


class Chip(ABC):
    """The configured inputs of one chip."""

    kind: str  # the kernel's class, for messages
    nothing: str  # the words for no chip at all

    def __init__(
        self, config: HwmonSensor | IioSensor, needed: Collection[str], sysfs: Path = SYS
    ) -> None:
        self.fields = tuple(config.inputs.values())
        self._config, self._sysfs = config, sysfs
        self._who = f"{self.kind} chip {config.chip!r}"
        self._check_inputs(list(config.inputs))
        for field, count in Counter(self.fields).items():
            if count > 1:
                raise ConfigError(f"{self._who}: {count} inputs have the same field {field!r}")
        check_fields(self._who, self.fields, needed, config.limits)
        known = self._inputs_of(self._find())
        absent = [name for name in config.inputs if name not in known]
        if absent:
            raise ConfigError(
                f"{self._who}: has no {join_names(absent)}, it has {join_names(known)}"
            )
        self._reader = TimedReader(self._who, config.timeout_s)

    def read(self) -> list[Sample]:
        """Return one sample of all inputs; raises SensorUnavailable if one has no valid value."""
        values = self._reader.run(self._measure)
        check_plausible(self._who, values, self._config.limits)
        return [Sample(values)]

    def close(self) -> None:  # noqa: B027 - nothing to do for either class
        """Do nothing: no file is open between two reads."""

    def _measure(self) -> dict[str, float]:
        try:
            chip = self._find()
        except ConfigError as error:
            raise SensorUnavailable(str(error)) from None
        return {field: self._value(chip, name) for name, field in self._config.inputs.items()}

    def _find(self) -> Path:
        chips = list(self._chips())
        found = [chip for chip in chips if self._config.chip in self._names(chip)]
        if len(found) == 1:
            return found[0]
        if found:
            others = join_names(self._names(chip)[-1] for chip in found)
            raise ConfigError(f"{self._who}: several have this name, write one of {others}")
        known = ", ".join(f"{self._names(chip)[0]} ({self._names(chip)[-1]})" for chip in chips)
        raise ConfigError(f"{self._who}: is not here, this machine has {known or self.nothing}")

    @abstractmethod
    def _chips(self) -> Iterable[Path]:
        """Return the folders of all chips of this class."""

    @abstractmethod
    def _names(self, chip: Path) -> Sequence[str]:
        """Return the names of a chip, the last of which distinguishes it from equal chips."""

    @abstractmethod
    def _check_inputs(self, names: Sequence[str]) -> None:
        """Raise ConfigError for a name that no input of this class can have."""

    @abstractmethod
    def _inputs_of(self, chip: Path) -> Sequence[str]:
        """Return the names of the inputs that *chip* has, sorted."""

    @abstractmethod
    def _value(self, chip: Path, name: str) -> float:
        """Return an input in our unit; raises SensorUnavailable for an error value."""
