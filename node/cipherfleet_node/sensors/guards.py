"""Guards of fields: a value that is within its limits may still be wrong.

The usual fault of a sensor is a value that stays the same, or that jumps. Limits notice neither.
A guard compares each reading of a field with those before it, by the times of the measurements:

* **change_per_minute** = c. A reading may differ by c at most from every accepted reading of the
  minute before it. From the latest accepted one, which may be older, it may differ by c for each
  minute between them. A jump is therefore refused, and a value that has really moved is accepted
  again after a while. A reading that is refused is no reference for the next ones.
* **stuck_after_readings** = n. The n-th equal reading in a row is refused, and so are all further
  equal ones.
* **stuck_after_s** = s. An equal reading is refused if the first of its row is s seconds old. It
  needs three equal readings: two that are far apart show nothing.

A failed read is no reading: it neither ends a row of equal readings nor prolongs it. All memory
begins with the start of the node, so the first reading always passes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError, ReadingRefused
from cipherfleet_node.settings.sections import Guard, SensorSection

from .base import SensorDevice, join_names

CheckName = Literal["change_per_minute", "stuck_after_readings", "stuck_after_s"]

MINUTE_S = 60.0
# Readings of one measurement: a driver may return its newest message again, with its age.
SAME_MOMENT_S = 0.01
LEAST_EQUAL = 3  # readings for stuck_after_s


class FieldGuard:
    """The guard of one field, and the readings with which it compares the next one."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._accepted: deque[tuple[float, float]] = deque()  # (time, value), oldest first
        self._at: float | None = None  # of the latest reading
        self._value = 0.0
        self._since = 0.0  # the time of the first of the equal readings
        self._equal = 0  # how many readings in a row are equal

    def judge(self, value: float, at: float) -> CheckName | None:
        """Return the check that *value*, measured at *at* (seconds), fails; None if it passes.

        A time before that of the latest reading counts as that time.
        """
        at = at if self._at is None else max(at, self._at)
        self._count_equal(value, at)
        failed = self._find_stuck(at) or self._find_jump(value, at)
        if failed is None:
            self._accept(value, at)
        return failed

    def _count_equal(self, value: float, at: float) -> None:
        if self._at is None or value != self._value:
            self._value, self._since, self._equal = value, at, 1
        elif at - self._at > SAME_MOMENT_S:
            self._equal += 1
        self._at = at

    def _find_stuck(self, at: float) -> CheckName | None:
        guard = self._guard
        if guard.stuck_after_readings is not None and self._equal >= guard.stuck_after_readings:
            return "stuck_after_readings"
        if guard.stuck_after_s is None or self._equal < LEAST_EQUAL:
            return None
        return "stuck_after_s" if at - self._since >= guard.stuck_after_s else None

    def _find_jump(self, value: float, at: float) -> CheckName | None:
        limit = self._guard.change_per_minute
        if limit is None:
            return None
        while len(self._accepted) > 1 and at - self._accepted[0][0] > MINUTE_S:
            self._accepted.popleft()
        for earlier, other in self._accepted:
            if abs(value - other) > limit * max(1.0, (at - earlier) / MINUTE_S):
                return "change_per_minute"
        return None

    def _accept(self, value: float, at: float) -> None:
        if self._guard.change_per_minute is not None:
            self._accepted.append((at, value))


class Guarded:
    """A sensor whose readings pass their guards, or are not returned."""

    def __init__(
        self,
        device: SensorDevice,
        sensor: SensorSection,
        who: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        absent = sorted(set(sensor.guards).difference(device.fields))
        if absent:  # a guard with a misspelt field would have no effect
            known = join_names(device.fields)
            raise ConfigError(f"{who}: guards names {join_names(absent)}, the sensor has {known}")
        self._device, self._who, self._clock = device, who, clock
        self._guards = {field: FieldGuard(guard) for field, guard in sensor.guards.items()}

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of every sample."""
        return self._device.fields

    def read(self) -> list[Sample]:
        """Return the samples of the sensor; raises ReadingRefused if one fails a guard."""
        samples = self._device.read()
        now = self._clock()
        for sample in samples:
            self._check(sample, now - sample.age_s)
        return samples

    def close(self) -> None:
        """Release the device."""
        self._device.close()

    def _check(self, sample: Sample, at: float) -> None:
        # Every guard sees the reading, so that none misses one because another field failed.
        failed = {
            field: check
            for field, guard in self._guards.items()
            if (check := guard.judge(sample.values[field], at)) is not None
        }
        for field, check in failed.items():
            raise ReadingRefused(f"{self._who}: {field} fails its guard {check}", field, check)
