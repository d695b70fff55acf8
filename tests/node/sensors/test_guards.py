"""Guards: a jump and a stuck value are not used, and a value that has moved is used again."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError, ReadingRefused, SensorUnavailable
from cipherfleet_node.sensors import open_sensor
from cipherfleet_node.sensors.guards import SAME_MOMENT_S, FieldGuard, Guarded
from cipherfleet_node.settings.sections import (
    CommandSensor,
    Guard,
    SensorSection,
    SyntheticField,
    SyntheticSensor,
)

unhurried = settings(deadline=None, max_examples=40)

VALUES = st.floats(-1e3, 1e3)
READINGS = st.lists(st.tuples(VALUES, st.floats(0.0, 300.0)), max_size=40)  # value, seconds since


class Replay:
    """A sensor that gives one value after another, and whose field is not finite at None."""

    fields = ("pm25",)

    def __init__(self, *values: float | None, age_s: float = 0.0) -> None:
        self._left, self._age_s = list(values), age_s

    def read(self) -> list[Sample]:
        value = self._left.pop(0)
        if value is None:
            raise SensorUnavailable("no answer")
        return [Sample({"pm25": value}, self._age_s)]

    def close(self) -> None:
        self._left = []


def guarded(device: Replay, every_s: float, **guard: float) -> Guarded:
    section = SensorSection(guards={"pm25": Guard(**guard)})  # type: ignore[arg-type]
    ticks = itertools.count()
    return Guarded(device, section, "sensor replay", lambda: next(ticks) * every_s)


def verdicts(device: Guarded, count: int) -> list[str]:
    found = []
    for _ in range(count):
        try:
            found.append("ok" if device.read() else "nothing")
        except ReadingRefused as error:
            found.append(error.check)
        except SensorUnavailable:
            found.append("unavailable")
    return found


def test_a_jump_is_refused_and_the_value_before_it_stays_the_reference() -> None:
    device = guarded(Replay(20.0, 95.0, 20.5, 21.0), 10.0, change_per_minute=5.0)
    assert verdicts(device, 4) == ["ok", "change_per_minute", "ok", "ok"]


def test_a_value_that_has_really_moved_is_accepted_after_the_time_that_its_change_takes() -> None:
    device = guarded(Replay(20.0, 30.0, 30.0, 30.0, 30.0), 60.0, change_per_minute=4.0)
    assert verdicts(device, 5) == ["ok", "change_per_minute", "change_per_minute", "ok", "ok"]


def test_a_long_gap_allows_the_change_of_its_minutes() -> None:
    device = guarded(Replay(20.0, 39.0), 600.0, change_per_minute=2.0)
    assert verdicts(device, 2) == ["ok", "ok"]
    device = guarded(Replay(20.0, 41.0), 600.0, change_per_minute=2.0)
    assert verdicts(device, 2) == ["ok", "change_per_minute"]


def test_a_stuck_value_is_refused_until_it_changes() -> None:
    device = guarded(Replay(7.0, 7.0, 7.0, 7.0, 8.0), 1.0, stuck_after_readings=3)
    assert verdicts(device, 5) == ["ok", "ok", "stuck_after_readings", "stuck_after_readings", "ok"]


def test_failed_reads_neither_end_nor_prolong_a_row_of_equal_readings() -> None:
    device = guarded(Replay(7.0, None, 7.0, None, 7.0), 1.0, stuck_after_readings=3)
    expected = ["ok", "unavailable", "ok", "unavailable", "stuck_after_readings"]
    assert verdicts(device, 5) == expected


def test_two_equal_readings_far_apart_show_nothing() -> None:
    device = guarded(Replay(7.0, 7.0, 7.0), 7200.0, stuck_after_s=3600.0)
    assert verdicts(device, 3) == ["ok", "ok", "stuck_after_s"]


def test_the_same_message_again_is_no_further_reading() -> None:
    guard = FieldGuard(Guard(stuck_after_readings=2))
    assert [guard.judge(7.0, 5.0 + jitter) for jitter in (0.0, 0.002, 0.004)] == [None] * 3
    assert guard.judge(7.0, 6.0) == "stuck_after_readings"


def test_a_restart_begins_without_a_reference() -> None:
    for value in (20.0, 95.0):
        assert verdicts(guarded(Replay(value), 1.0, change_per_minute=5.0), 1) == ["ok"]


def test_the_error_names_field_and_guard_and_never_the_value() -> None:
    device = guarded(Replay(20.25, 95.75), 10.0, change_per_minute=5.0)
    device.read()
    with pytest.raises(ReadingRefused) as caught:
        device.read()
    assert str(caught.value) == "sensor replay: pm25 fails its guard change_per_minute"


@unhurried
@given(READINGS, st.floats(0.1, 100.0))
def test_accepted_readings_of_one_minute_differ_by_the_limit_at_most(
    readings: list[tuple[float, float]], limit: float
) -> None:
    guard, at = FieldGuard(Guard(change_per_minute=limit)), 0.0
    accepted: list[tuple[float, float]] = []
    for value, since in readings:
        at += since
        if guard.judge(value, at) is None:
            accepted.append((at, value))
    for (one, value), (other, different) in itertools.combinations(accepted, 2):
        if other - one <= 60.0:
            assert abs(value - different) <= limit
    assert bool(accepted) == bool(readings)  # the first reading always passes


@unhurried
@given(READINGS, VALUES, st.floats(0.1, 100.0))
def test_whatever_came_before_a_constant_value_is_accepted_in_the_end(
    readings: list[tuple[float, float]], constant: float, limit: float
) -> None:
    guard, at = FieldGuard(Guard(change_per_minute=limit)), 0.0
    for value, since in readings:
        at += since
        guard.judge(value, at)
    assert guard.judge(constant, at + 60.0 * (2001.0 / limit + 1.0)) is None


@unhurried
@given(st.lists(st.sampled_from([1.0, 2.0]), max_size=60), st.integers(2, 6))
def test_exactly_the_readings_from_the_nth_equal_one_on_are_stuck(
    values: list[float], count: int
) -> None:
    guard = FieldGuard(Guard(stuck_after_readings=count))
    found = [guard.judge(value, float(at)) for at, value in enumerate(values)]
    rows = (list(row) for _, row in itertools.groupby(values))
    expected = [place + 1 >= count for row in rows for place in range(len(row))]
    assert [check == "stuck_after_readings" for check in found] == expected


@unhurried
@given(st.lists(st.tuples(st.sampled_from([1.0, 2.0]), st.floats(0.02, 50.0)), max_size=40))
def test_a_stuck_value_by_time_has_lasted_so_long_in_three_readings(
    readings: list[tuple[float, float]],
) -> None:
    guard, at, row = FieldGuard(Guard(stuck_after_s=60.0)), 0.0, list[tuple[float, float]]()
    for value, since in readings:
        at += since
        assert since > SAME_MOMENT_S
        row = [*row, (at, value)] if row and row[-1][1] == value else [(at, value)]
        is_stuck = len(row) >= 3 and at - row[0][0] >= 60.0
        assert (guard.judge(value, at) == "stuck_after_s") == is_stuck


def test_a_clock_that_steps_back_stops_no_guard() -> None:
    guard = FieldGuard(Guard(change_per_minute=5.0, stuck_after_s=10.0))
    assert guard.judge(1.0, 100.0) is None
    assert guard.judge(90.0, 10.0) == "change_per_minute"
    assert guard.judge(2.0, 20.0) is None


def test_every_kind_of_sensor_may_have_guards(tmp_path: Path) -> None:
    still = SyntheticSensor(
        fields={"t": SyntheticField(mean=3.0)}, guards={"t": Guard(stuck_after_readings=2)}
    )
    device = open_sensor(still, tmp_path, ["t"])
    assert device.fields == ("t",)
    assert device.read()
    complaint = "t fails its guard stuck_after_readings"
    time.sleep(2 * SAME_MOMENT_S)  # or it would be the same reading
    with pytest.raises(ReadingRefused, match=complaint):
        device.read()
    device.close()


def test_a_guard_of_a_field_that_the_sensor_has_not_is_refused(tmp_path: Path) -> None:
    config = CommandSensor(["/bin/true"], guards={"luxx": Guard(stuck_after_readings=9)})
    with pytest.raises(ConfigError, match="guards names 'luxx', the sensor has 'lux'"):
        open_sensor(config, tmp_path, ["lux"])
