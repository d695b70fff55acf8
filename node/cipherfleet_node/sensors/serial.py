"""A sensor that sends readings by itself over a serial port: lines of text, or frames.

A thread reads the port all the time. If the node read it once in a round, the kernel's queue of
4 KiB would hold the oldest bytes, and drop the newest ones.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from pathlib import Path

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.settings.sections import SerialSensor

from .base import check_fields, check_plausible, join_names
from .payloads import PayloadError
from .records import FRAMES, Parser, make_parser
from .serial_port import SerialPort

_TICK_S = 0.5  # how often the thread looks whether it is to end
_REOPEN_S = 1.0  # from one attempt to open the port to the next


class SerialDevice:
    """Return the newest record, once. A read waits up to timeout_s for it.

    A device that is unplugged gives no reading until it is back. The port is this node's alone.
    """

    def __init__(self, config: SerialSensor, needed: Collection[str]) -> None:
        self.fields = tuple(config.fields)
        self._config = config
        self._who = f"serial port {config.device!r}"
        check_fields(self._who, self.fields, needed, config.limits)
        self._check_places()
        if not Path(config.device).is_char_device():
            raise ConfigError(
                f"{self._who}: is not here",
                remedy="plug it in, and write the path below /dev/serial/by-id",
            )
        self._news = threading.Condition()
        self._latest: tuple[dict[str, float], float] | None = None  # and when it came
        self._problem = ""  # why the latest record or port is of no use
        self._is_closing = False
        self._thread: threading.Thread | None = None

    def read(self) -> list[Sample]:
        """Return a sample; raises SensorUnavailable if no valid record comes within timeout_s."""
        self._start()
        timeout_s = self._config.timeout_s
        with self._news:
            if self._latest is not None and time.monotonic() - self._latest[1] > timeout_s:
                self._latest = None
            self._news.wait_for(lambda: self._latest is not None, timeout_s)
            found, self._latest = self._latest, None
            problem, self._problem = self._problem, ""
        if found is None:
            why = f"no valid record within {timeout_s:g} s"
            raise SensorUnavailable(f"{self._who}: {problem or why}")
        values, at = found
        check_plausible(self._who, values, self._config.limits)
        return [Sample(values, time.monotonic() - at)]

    def close(self) -> None:
        """End the thread, which releases the port."""
        self._is_closing = True
        if self._thread is not None:
            self._thread.join()

    def _check_places(self) -> None:
        """Raise ConfigError if a field has a place that records of this format do not have."""
        format_ = self._config.format
        for field, place in self._config.fields.items():
            here = f"{self._who}: sensor.fields.{field} is {place!r}, must be"
            if format_ in FRAMES and place not in FRAMES[format_].quantities:
                raise ConfigError(f"{here} one of {join_names(FRAMES[format_].quantities)}")
            if format_ == "csv" and not isinstance(place, int):
                raise ConfigError(f"{here} the number of a column for format csv, from 1 on")
            if format_ == "lines" and not isinstance(place, str):
                raise ConfigError(f"{here} a key for format lines")

    def _start(self) -> None:
        if self._thread is None:
            name = f"{self._who} read"
            self._thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._thread.start()

    # -- in the thread of the port ----------------------------------------------------------------

    def _work(self) -> None:
        while not self._is_closing:
            try:
                with SerialPort(
                    self._config.device, self._config.baud, self._config.parity
                ) as port:
                    self._listen(port)
            except OSError as error:
                self._report(None, f"cannot be read: {error.strerror or type(error).__name__}")
                self._wait(_REOPEN_S)

    def _listen(self, port: SerialPort) -> None:
        """Read records until the node stops; raises OSError if the device is unplugged."""
        parser = make_parser(self._config.format)
        while not self._is_closing:
            data = port.read(time.monotonic() + _TICK_S)
            self._take(parser, data)

    def _take(self, parser: Parser, data: bytes) -> None:
        refused = parser.refused
        for record in parser.feed(data):
            try:
                values = {n: record.number(place) for n, place in self._config.fields.items()}
            except PayloadError as error:
                self._report(None, error.text)
            else:
                self._report(values, "")
        if parser.refused > refused:
            self._report(None, "sends records with a wrong checksum, or lines that do not end")

    def _report(self, values: dict[str, float] | None, problem: str) -> None:
        with self._news:
            self._problem = problem
            if values is not None:
                self._latest = values, time.monotonic()
                self._news.notify_all()

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._is_closing and time.monotonic() < until:
            time.sleep(0.05)
