"""The sensor's own thread, so that a slow sensor never holds up a round."""

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

GRACE_S = 1.0  # a sensor keeps its own deadline; this is for one that does not


@dataclass(frozen=True, repr=False)
class Sampled:
    """What the sampler's thread brought, and when it read the sensor (monotonic seconds)."""

    samples: list[Sample]
    began: float
    ended: float


class Sampler:
    """Reads the sensor in a thread of its own, so that a slow one never holds up a round."""

    def __init__(
        self, sensor: SensorDevice, timeout_s: float, deliver: Callable[[object], None]
    ) -> None:
        self._sensor, self._timeout_s, self._deliver = sensor, timeout_s, deliver
        self._requests: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._busy = False  # the thread is reading
        self._awaited_until: float | None = None  # the agent waits for a reading
        self._late: list[Sample] = []  # came after the agent had given up waiting
        self._thread = threading.Thread(target=self._work, name="sampler", daemon=True)

    def start(self) -> None:
        """Begin to wait for requests."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, and close the sensor."""
        self._requests.put(False)
        self._thread.join(self._timeout_s)
        self._sensor.close()

    def request(self, now: float) -> Sampled | None:
        """Ask for a reading; one that came late is given at once."""
        self._awaited_until = now + self._timeout_s + GRACE_S
        if self._late:
            late, self._late = self._late, []
            return Sampled(late, now, now)
        if not self._busy:
            self._busy = True
            self._requests.put(True)
        return None

    def accept(self, sampled: Sampled) -> ReadingTaken | None:
        """The reading for the agent, if it still waits for one."""
        self._busy = False
        if self._awaited_until is None:
            self._late += sampled.samples
            return None
        self._awaited_until = None
        return ReadingTaken(sampled.samples)

    def overdue(self, now: float) -> ReadingTaken | None:
        """An empty reading once the time for one is over."""
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
