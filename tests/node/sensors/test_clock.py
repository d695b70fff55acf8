"""The clock as a sensor: hour and weekday, and nothing while the clock is not synchronised."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.sensors.clock import Clock, is_synchronised
from cipherfleet_node.settings.sections import ClockSensor

FRIDAY = 1795791300.0  # 2026-11-27 14:55:00 UTC


def clock(now: float, state: bool | None = True, zone: Literal["utc", "local"] = "utc") -> Clock:
    return Clock(ClockSensor(zone=zone), ("hour",), lambda: now, lambda: state)


@pytest.fixture
def half_past(monkeypatch: pytest.MonkeyPatch) -> Iterator[float]:
    """A time zone, and its hours before UTC."""
    monkeypatch.setenv("TZ", "XXX-5:30")
    time.tzset()
    yield 5.5
    monkeypatch.undo()
    time.tzset()


def test_the_hour_has_a_fraction_and_monday_is_zero() -> None:
    assert clock(FRIDAY).read()[0].values == {"hour": 14.0 + 55.0 / 60.0, "weekday": 4.0}
    assert clock(FRIDAY + 0.5).read()[0].values["hour"] == pytest.approx(14.916805555, abs=1e-6)


def test_the_hour_of_a_day_is_below_24() -> None:
    last = FRIDAY - 14 * 3600 - 55 * 60 + 24 * 3600 - 1e-3
    assert 23.999 < clock(last).read()[0].values["hour"] < 24.0


def test_local_time_is_that_of_the_device(half_past: float) -> None:
    values = clock(FRIDAY + 8 * 3600, zone="local").read()[0].values
    assert values == {"hour": pytest.approx(14 + 55 / 60 + 8 + half_past - 24), "weekday": 5.0}
    assert clock(FRIDAY, zone="utc").read()[0].values["weekday"] == 4.0


@pytest.mark.parametrize(
    ("state", "words"), [(False, "is not synchronised"), (None, "does not report if")]
)
def test_a_clock_that_is_not_synchronised_gives_no_reading(state: bool | None, words: str) -> None:
    with pytest.raises(SensorUnavailable, match=words):
        clock(FRIDAY, state).read()


def test_the_kernel_answers_and_a_file_counts_only_where_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "synchronized"
    there.touch()
    answer = 0

    class Library:
        def adjtimex(self, _buffer: object) -> int:
            return answer

    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Library())
    assert is_synchronised(tmp_path / "absent") is True
    answer = 5
    assert is_synchronised(there) is False
    answer = -1
    assert is_synchronised(there) is True
    assert is_synchronised(tmp_path / "absent") is None


def test_the_kernel_of_this_machine_is_asked() -> None:
    assert is_synchronised() in (True, False, None)


def test_a_field_that_a_clock_has_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs 'minute', the sensor has 'hour', 'weekday'"):
        Clock(ClockSensor(), ("minute",))
