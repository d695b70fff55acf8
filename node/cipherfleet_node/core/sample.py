"""One measurement as the objective receives it; values only, so the core may import it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# A device of ours answers SensorUnavailable rather than an implausible sample; the other words
# are for whoever keeps a sample while it ages. Only good ones may reach the objective.
Quality = Literal["good", "stale", "implausible"]


@dataclass(frozen=True, repr=False)
class Sample:
    """What a sensor measured at one moment: private, hence left out of the repr.

    values by field name, in each field's own unit; age_s is the time since the measurement.
    """

    values: Mapping[str, float]
    age_s: float = 0.0
    quality: Quality = "good"

    def __repr__(self) -> str:
        names = ", ".join(self.values)
        return f"Sample({names}: not shown, age_s={self.age_s:g}, quality={self.quality!r})"
