"""The clock of the node as a sensor: the hour of the day and the day of the week.

They are for features such as `daily: hour` beside live sensors. A wrong clock would give a node
wrong features without a sign, so there is no reading while the clock is not synchronised.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import SensorUnavailable
from cipherfleet_node.settings.sections import ClockSensor

from .base import check_fields, check_plausible

FIELDS = ("hour", "weekday")

_TIME_ERROR = 5  # of <sys/timex.h>: the clock is not synchronised
# systemd-timesyncd touches it when it has synchronised the clock.
SYNCHRONISED_FILE = Path("/run/systemd/timesync/synchronized")


def is_synchronised(file: Path = SYNCHRONISED_FILE) -> bool | None:
    """Return what the kernel reports of its clock; None if it does not report it.

    A sandbox may forbid to ask the kernel. Then the file of systemd-timesyncd counts, if there is
    one.
    """
    import ctypes  # only a node with a clock sensor needs it

    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))  # modes 0: reads only
    if state >= 0:
        return bool(state != _TIME_ERROR)
    return True if file.exists() else None


class Clock:
    """hour: 0 to 24, with the minutes and seconds as fraction. weekday: 0 for Monday, 6 for Sunday.

    Both are in UTC, or with zone local in the time zone of the device.
    """

    fields = FIELDS

    def __init__(
        self,
        config: ClockSensor,
        needed: Collection[str],
        now: Callable[[], float] = time.time,
        synchronised: Callable[[], bool | None] = is_synchronised,
    ) -> None:
        check_fields("sensor clock", self.fields, needed, config.limits)
        self._config, self._now, self._synchronised = config, now, synchronised

    def read(self) -> list[Sample]:
        """Return the present time; raises SensorUnavailable unless the clock is synchronised."""
        state = self._synchronised()
        if state is None:
            raise SensorUnavailable(
                "sensor clock: the kernel does not report if its clock is synchronised"
            )
        if not state:
            raise SensorUnavailable("sensor clock: the clock is not synchronised")
        now = self._now()
        at = time.localtime(now) if self._config.zone == "local" else time.gmtime(now)
        # A leap second has the number 60, and an hour must stay below 24.
        seconds = at.tm_hour * 3600 + at.tm_min * 60 + min(at.tm_sec, 59) + now % 1.0
        values = {"hour": seconds / 3600.0, "weekday": float(at.tm_wday)}
        check_plausible("sensor clock", values, self._config.limits)
        return [Sample(values)]

    def close(self) -> None:
        """Do nothing: there is no device to release."""
