"""Reading of the sensor in a thread of its own, so that a slow sensor does not delay a round.

A node that has no objective yet waits for the sensor's whole timeout. Once the objective is ready,
a round waits PATIENCE_S at most, and not at all if the latest read was slower than that or is still
running. A reading that comes later is for the next round.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cipherfleet_node.core.events import ReadingTaken
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import SensorUnavailable
from cipherfleet_node.sensors.base import SensorDevice

log = logging.getLogger(__name__)

GRACE_S = 1.0  # added to the sensor's timeout, for a sensor that does not keep it exactly
# Longer than a read of a file takes, so that a seeded run gives the same result every time.
PATIENCE_S = 0.25


@dataclass(frozen=True, repr=False)
class Sampled:
    """The result of one read, and the times of its begin and end (monotonic seconds)."""

    samples: list[Sample]
    began: float
    ended: float


class Sampler:
    """Read the sensor on request, and deliver each result as `Sampled` from the thread.

    Times are monotonic seconds.
    """

    def __init__(
        self, sensor: SensorDevice, timeout_s: float, deliver: Callable[[object], None]
    ) -> None:
        self._sensor, self._timeout_s, self._deliver = sensor, timeout_s, deliver
        self._requests: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._began: float | None = None  # when the running read was requested; None: none runs
        self._is_slow = False  # the latest read took longer than PATIENCE_S
        self._is_reported = False  # the log has the running read already
        self._waiting: list[Sample] = []  # samples that no round has taken yet
        # The time at which the agent gets what is there; inf: it awaits no reading.
        self.deadline = math.inf
        self._thread = threading.Thread(target=self._work, name="sampler", daemon=True)

    def start(self) -> None:
        """Start the thread, which waits for requests."""
        self._thread.start()

    def close(self) -> None:
        """End the thread and close the sensor."""
        self._requests.put(False)
        self._thread.join(self._timeout_s)
        self._sensor.close()

    def request(self, now: float, *, is_urgent: bool) -> None:
        """Request a reading; *is_urgent* if the node cannot open a round without one."""
        if self._began is None:
            self._began, self._is_reported = now, False
            self._requests.put(True)
        self.deadline = now + self._patience_s(is_urgent=is_urgent)

    def _patience_s(self, *, is_urgent: bool) -> float:
        if self._waiting:
            return 0.0
        if is_urgent:
            return self._timeout_s + GRACE_S
        return 0.0 if self._is_slow else PATIENCE_S

    def accept(self, sampled: Sampled) -> ReadingTaken | None:
        """Return the reading for the agent, or keep it if the agent does not await one now."""
        self._began, self._is_slow = None, sampled.ended - sampled.began > PATIENCE_S
        self._waiting += sampled.samples
        return None if self.deadline == math.inf else self._take()

    def overdue(self, now: float) -> ReadingTaken | None:
        """Return what is there if the deadline of the awaited reading has passed."""
        self._report_stuck_read(now)
        if now < self.deadline:
            return None
        if self._began is not None and now - self._began >= PATIENCE_S:
            self._is_slow = True
        return self._take()

    def _take(self) -> ReadingTaken:
        samples, self._waiting, self.deadline = self._waiting, [], math.inf
        return ReadingTaken(samples)

    def _report_stuck_read(self, now: float) -> None:
        """Warn once of a read that does not end; the thread can only wait for it."""
        if self._began is None or self._is_reported:
            return
        if now - self._began >= self._timeout_s + GRACE_S:
            self._is_reported = True
            log.warning("the sensor gave no reading within %g s", self._timeout_s)

    def _work(self) -> None:
        while self._requests.get():
            began = time.monotonic()
            samples = self._read()
            self._deliver(Sampled(samples, began, time.monotonic()))

    def _read(self) -> list[Sample]:
        try:
            return self._sensor.read()
        except SensorUnavailable as error:
            log.warning("%s", error)
        except Exception:
            log.exception("the sensor failed")
        return []
