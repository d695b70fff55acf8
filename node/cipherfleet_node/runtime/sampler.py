"""Reading of the sensor in a thread of its own, so that a slow sensor does not delay a round."""

from __future__ import annotations

import logging
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


@dataclass(frozen=True, repr=False)
class Sampled:
    """The result of one read, and the times of its begin and end (monotonic seconds)."""

    samples: list[Sample]
    began: float
    ended: float


class Sampler:
    """Read the sensor on request, and deliver each result as `Sampled` from the thread."""

    def __init__(
        self, sensor: SensorDevice, timeout_s: float, deliver: Callable[[object], None]
    ) -> None:
        self._sensor, self._timeout_s, self._deliver = sensor, timeout_s, deliver
        self._requests: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._busy = False  # the thread is reading
        self._awaited_until: float | None = None  # None: the agent awaits no reading
        self._late: list[Sample] = []  # samples that came after their deadline
        self._thread = threading.Thread(target=self._work, name="sampler", daemon=True)

    def start(self) -> None:
        """Start the thread, which waits for requests."""
        self._thread.start()

    def close(self) -> None:
        """End the thread and close the sensor."""
        self._requests.put(False)
        self._thread.join(self._timeout_s)
        self._sensor.close()

    def request(self, now: float) -> Sampled | None:
        """Request a reading; return one at once if an earlier one came late."""
        self._awaited_until = now + self._timeout_s + GRACE_S
        if self._late:
            late, self._late = self._late, []
            return Sampled(late, now, now)
        if not self._busy:
            self._busy = True
            self._requests.put(True)
        return None

    def accept(self, sampled: Sampled) -> ReadingTaken | None:
        """Return the reading for the agent, or keep it if the agent does not await one now."""
        self._busy = False
        if self._awaited_until is None:
            self._late += sampled.samples
            return None
        self._awaited_until = None
        return ReadingTaken(sampled.samples)

    def overdue(self, now: float) -> ReadingTaken | None:
        """Return an empty reading if the deadline of the awaited one has passed."""
        if self._awaited_until is None or now < self._awaited_until:
            return None
        self._awaited_until = None
        log.warning("the sensor gave no reading within %g s", self._timeout_s)
        return ReadingTaken(())

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
