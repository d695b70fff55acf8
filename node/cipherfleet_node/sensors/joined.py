"""Several sensors that give one sample together.

All sensors are read at the same time, each in its own thread, so that one that does not answer
delays the others by its own timeout at most. A sample joins the newest sample of each sensor, if
none is older than join_tolerance_s. So a sensor that measures less often than the rounds, or that
misses a read, is there with its newest sample for that time, and no longer.

There is a joined sample only if a sensor has measured since the last one: otherwise it would repeat
that one. A clock is always new and does not count for this.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from threading import Thread

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError, SensorUnavailable

from .base import SensorDevice, check_fields

log = logging.getLogger(__name__)

SLACK_S = 0.5  # a sensor that keeps its timeout itself says more than "no answer"


class Part:
    """One of the sensors, its newest sample, and why the latest read gave none.

    Times are monotonic seconds. *renews* is False for a sensor whose samples alone are no news.
    """

    def __init__(
        self,
        name: str,
        device: SensorDevice,
        timeout_s: float,
        *,
        renews: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.device, self.timeout_s, self.renews = name, device, timeout_s, renews
        self.newest: Sample | None = None
        self.measured_at = 0.0
        self.problem: SensorUnavailable | None = None
        self.has_new = False  # the latest read gave a sample
        self._clock = clock
        self._thread: Thread | None = None
        self._result: list[Sample] | SensorUnavailable = []
        self._ended = 0.0

    def begin(self) -> None:
        """Start a read, unless an earlier one still runs. One that has ended late counts now."""
        self.has_new, self.problem = False, None
        if self._thread is not None:
            if self._thread.is_alive():
                return
            self._collect()
        self._thread = Thread(target=self._work, name=f"{self.name} read", daemon=True)
        self._thread.start()

    def finish(self, deadline: float) -> None:
        """Wait for the read until *deadline*."""
        if self._thread is None:
            return
        self._thread.join(max(0.0, deadline - self._clock()))
        if self._thread.is_alive():
            text = f"{self.name}: no answer within {self.timeout_s:g} s"
            self.problem = SensorUnavailable(text)
        else:
            self._collect()

    def age_s(self, now: float) -> float:
        """Return the age of the newest sample."""
        return max(0.0, now - self.measured_at)

    def _work(self) -> None:
        try:
            self._result = self.device.read()
        except SensorUnavailable as error:
            self._result = error
        except Exception:
            log.exception("%s failed", self.name)
            self._result = SensorUnavailable(f"{self.name}: failed, as its log entry says")
        self._ended = self._clock()

    def _collect(self) -> None:
        self._thread = None
        if isinstance(self._result, SensorUnavailable):
            self.problem = self._result
        elif self._result:
            self.newest = self._result[-1]
            self.measured_at = self._ended - self.newest.age_s
            self.has_new, self.problem = True, None


class Joined:
    """The sensors *parts* as one. *needed* are the fields that the objective uses."""

    def __init__(
        self,
        parts: Sequence[Part],
        needed: Collection[str],
        join_tolerance_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.parts, self._tolerance_s, self._clock = tuple(parts), join_tolerance_s, clock
        self.fields = tuple(name for part in self.parts for name in part.device.fields)
        check_distinct({part.name: part.device.fields for part in self.parts})
        check_fields("sensors", self.fields, needed, {})

    def read(self) -> list[Sample]:
        """Return one sample of all fields, or [] if no sensor has a new one.

        Raises SensorUnavailable if a sensor has no sample that is new enough, with its name.
        """
        self.read_parts()
        now = self._clock()
        missing = [text for part in self.parts if (text := self._find_reason(part, now))]
        if missing:
            raise SensorUnavailable("; ".join(missing))
        if not any(part.has_new and part.renews for part in self.parts):
            self._raise_problem()
            return []
        for part in self.parts:
            if part.problem is not None:
                log.warning("%s; its sample of %.0f s ago is used", part.problem, part.age_s(now))
        values = {name: value for p in self.parts if p.newest for name, value in _values(p.newest)}
        return [Sample(values, age_s=max(part.age_s(now) for part in self.parts))]

    def read_parts(self) -> None:
        """Read all sensors at the same time; each part then has its sample or its problem."""
        began = self._clock()
        for part in self.parts:
            part.begin()
        for part in self.parts:
            part.finish(began + part.timeout_s + SLACK_S)

    def is_fresh(self, part: Part, now: float) -> bool:
        """True if the newest sample of *part* may be joined at *now*."""
        return part.newest is not None and part.age_s(now) <= self._tolerance_s

    def close(self) -> None:
        """Release all devices."""
        for part in self.parts:
            part.device.close()

    def _find_reason(self, part: Part, now: float) -> str | None:
        """Return why *part* has nothing to join, None if it has."""
        if self.is_fresh(part, now):
            return None
        why = str(part.problem) if part.problem is not None else "gives no sample"
        text = why if why.startswith(part.name) else f"{part.name}: {why}"
        if part.newest is not None:
            age = f"its newest sample is {part.age_s(now):.0f} s old"
            text += f" ({age}, join_tolerance_s is {self._tolerance_s:g})"
        return text

    def _raise_problem(self) -> None:
        problems = [part.problem for part in self.parts if part.problem is not None]
        if problems:
            raise SensorUnavailable("; ".join(map(str, problems)))


def check_distinct(fields: dict[str, Collection[str]]) -> None:
    """Raise ConfigError if two sensors have the same field; *fields* are those of each name."""
    counts = Counter(name for names in fields.values() for name in set(names))
    for name, count in counts.items():
        if count > 1:
            owners = [owner for owner, names in fields.items() if name in names]
            raise ConfigError(
                f"the field {name!r} comes from {' and from '.join(owners)}",
                remedy="give one of them another name: in the sensor's section, or in what its "
                "program prints",
            )


def _values(sample: Sample) -> list[tuple[str, float]]:
    return list(sample.values.items())
