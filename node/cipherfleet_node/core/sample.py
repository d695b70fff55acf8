"""One measurement, as a sensor returns it and an objective receives it. Values only, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# Our sensors raise SensorUnavailable instead of returning an implausible sample. The other values
# are for code that keeps samples while they age. Only good samples may reach an objective.
Quality = Literal["good", "stale", "implausible"]


@dataclass(frozen=True, repr=False)
class Sample:
    """The values that a sensor measured at one moment. They are private and not in the repr.

    *values* maps a field's name to its value, in the field's own unit. *age_s* is the time since
    the measurement.
    """

    values: Mapping[str, float]
    age_s: float = 0.0
    quality: Quality = "good"

    def __repr__(self) -> str:
        names = ", ".join(self.values)
        return f"Sample({names}: not shown, age_s={self.age_s:g}, quality={self.quality!r})"
