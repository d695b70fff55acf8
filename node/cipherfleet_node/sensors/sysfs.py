"""Reading of sysfs files that contain one number each, with a deadline."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import TypeVar

from cipherfleet_node.errors import SensorUnavailable

SYS = Path("/sys")
ABSOLUTE_ZERO_MILLIDEGREES = -273_150  # drivers return less than this for "no measurement"
# DS18B20 thermometers have this value from power-on until their first conversion, also after a drop
# in voltage that a conversion causes.
POWER_ON_MILLIDEGREES = 85_000

_MAX_BYTES = 4096  # a sysfs attribute never exceeds a page
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
_DECIMAL_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?")

T = TypeVar("T")


class TimedReader:
    """Run reads that may block in the kernel, each for timeout_s at most.

    A sysfs read cannot be polled or interrupted. A one-wire thermometer takes up to 1.9 s, and with
    a broken bus the read may never end. Each read therefore runs in its own thread, which is
    abandoned when it is late.
    """

    def __init__(self, who: str, timeout_s: float) -> None:
        self._who, self._timeout_s = who, timeout_s
        self._late: Thread | None = None

    def run(self, work: Callable[[], T]) -> T:
        """Return the result of *work*, or raise its error; SensorUnavailable if it is too late."""
        if self._late is not None and self._late.is_alive():
            raise SensorUnavailable(f"{self._who}: an earlier read still waits for the kernel")
        results: list[T] = []
        errors: list[Exception] = []

        def attempt() -> None:
            try:
                results.append(work())
            except Exception as error:
                errors.append(error)

        thread = Thread(target=attempt, name=f"{self._who} read", daemon=True)
        thread.start()
        thread.join(self._timeout_s)
        if thread.is_alive():
            self._late = thread
            raise SensorUnavailable(f"{self._who}: no answer within {self._timeout_s:g} s")
        if errors:
            raise errors[0]
        return results[0]


def folders(parent: Path, prefix: str) -> dict[int, Path]:
    """Return the folders prefix0, prefix1, ... in *parent*, by number."""
    try:
        found = {path.name.removeprefix(prefix): path for path in parent.glob(f"{prefix}*")}
    except OSError:
        return {}
    return {n: found[str(n)] for n in sorted(int(name) for name in found if name.isdecimal())}


def word(file: Path) -> str:
    """Return the text in *file* without its newline, or '' if it cannot be read."""
    try:
        return _text(file)
    except OSError:
        return ""


def whole_number(who: str, file: Path) -> int:
    """Return the number in *file*; raises SensorUnavailable if it has none now."""
    text = _required(who, file)
    if not _WHOLE_NUMBER.fullmatch(text):
        raise SensorUnavailable(f"{who}: {file.name} does not hold one whole number")
    return int(text)


def decimal_number(who: str, file: Path) -> float:
    """Return the number in *file*, which may have decimals; raises SensorUnavailable if none."""
    text = _required(who, file)
    if not _DECIMAL_NUMBER.fullmatch(text):
        raise SensorUnavailable(f"{who}: {file.name} does not hold one number")
    return float(text)


def lines_of(who: str, file: Path) -> list[str]:
    """Return the lines in *file*; raises SensorUnavailable if it cannot be read now."""
    return _required(who, file).splitlines()


def _required(who: str, file: Path) -> str:
    try:
        return _text(file)
    except OSError as error:
        raise SensorUnavailable(f"{who}: {file.name} cannot be read: {error.strerror}") from None


def _text(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.read(_MAX_BYTES).decode("utf-8", "replace").strip()
