"""Several sensors as one: the newest sample of each, or an error that names the missing one."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.sensors import open_sensor
from cipherfleet_node.sensors.joined import Joined, Part
from cipherfleet_node.settings.sections import (
    ClockSensor,
    CommandSensor,
    SensorGroup,
    SyntheticField,
    SyntheticSensor,
)

unhurried = settings(deadline=None, max_examples=15)
WITHIN_S = 30.0  # nothing here takes so long, on any machine


class Scripted:
    """A sensor with one field, which does what the test has set: a value, None, or an error."""

    def __init__(self, field: str) -> None:
        self.fields, self.next, self.age_s = (field,), 0.0, 0.0
        self.refuses = ""
        self.is_closed = False
        self.has_new = True

    def read(self) -> list[Sample]:
        if self.refuses:
            raise SensorUnavailable(self.refuses)
        return [Sample({self.fields[0]: self.next}, self.age_s)] if self.has_new else []

    def close(self) -> None:
        self.is_closed = True


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def joined(
    *sensors: Scripted, tolerance_s: float = 60.0, clock: Clock | None = None
) -> tuple[Joined, Clock]:
    clock = clock or Clock()
    parts = [
        Part(f"sensor {n}", sensor, WITHIN_S, clock=clock) for n, sensor in enumerate(sensors, 1)
    ]
    return Joined(parts, (), tolerance_s, clock), clock


def test_a_sample_has_the_fields_of_all_sensors() -> None:
    one, two = Scripted("pm25"), Scripted("humidity")
    one.next, two.next, two.age_s = 12.0, 55.0, 7.0
    device, _ = joined(one, two)
    assert device.fields == ("pm25", "humidity")
    (sample,) = device.read()
    assert sample.values == {"pm25": 12.0, "humidity": 55.0}
    assert sample.age_s == 7.0  # that of its oldest value
    device.close()
    assert one.is_closed
    assert two.is_closed


def test_a_sensor_that_fails_is_there_with_its_newest_sample_for_the_tolerance() -> None:
    one, two = Scripted("pm25"), Scripted("humidity")
    two.next = 55.0
    device, clock = joined(one, two)
    device.read()
    two.refuses = "hwmon chip 'sht4x': is not here"
    clock.now += 59.0
    assert device.read()[0].values["humidity"] == 55.0
    clock.now += 2.0
    with pytest.raises(SensorUnavailable) as caught:
        device.read()
    assert str(caught.value) == (
        "sensor 2: hwmon chip 'sht4x': is not here "
        "(its newest sample is 61 s old, join_tolerance_s is 60)"
    )


def test_a_sensor_that_never_answered_is_named() -> None:
    one, two = Scripted("pm25"), Scripted("humidity")
    two.has_new = False
    device, _ = joined(one, two)
    with pytest.raises(SensorUnavailable, match=r"^sensor 2: gives no sample$"):
        device.read()


def test_without_a_new_sample_there_is_no_joined_one() -> None:
    one, two = Scripted("pm25"), Scripted("humidity")
    device, _ = joined(one, two)
    assert len(device.read()) == 1
    one.has_new = two.has_new = False
    assert device.read() == []
    two.refuses = "no answer"
    with pytest.raises(SensorUnavailable, match="no answer"):
        device.read()
    one.has_new = True
    assert len(device.read()) == 1


def test_a_clock_alone_is_no_news() -> None:
    one, hour = Scripted("pm25"), Scripted("hour")
    clock = Clock()
    parts = [
        Part("sensor 1", one, WITHIN_S, clock=clock),
        Part("sensor 2", hour, WITHIN_S, renews=False, clock=clock),
    ]
    device = Joined(parts, (), 60.0, clock)
    assert len(device.read()) == 1
    one.has_new = False
    assert device.read() == []


def test_a_sensor_that_hangs_delays_the_others_by_its_own_timeout_and_counts_when_it_ends() -> None:
    released, began = threading.Event(), threading.Event()

    class Hanging(Scripted):
        def read(self) -> list[Sample]:
            began.set()
            released.wait()
            return super().read()

    one, two = Scripted("pm25"), Hanging("humidity")
    one.next, two.next = 12.0, 55.0
    parts = [Part("sensor 1", one, WITHIN_S), Part("sensor 2", two, 0.01)]
    device = Joined(parts, (), WITHIN_S)
    for _ in range(2):  # the second read starts no second thread
        with pytest.raises(SensorUnavailable, match=r"sensor 2: no answer within 0.01 s"):
            device.read()
    assert began.is_set()
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("sensor 2 read") == 1
    released.set()
    until = time.monotonic() + WITHIN_S
    while "sensor 2 read" in [thread.name for thread in threading.enumerate()]:
        assert time.monotonic() < until
        time.sleep(0.01)
    parts[1].timeout_s = WITHIN_S
    assert device.read()[0].values == {"pm25": 12.0, "humidity": 55.0}


@unhurried
@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0.0, 50.0)), max_size=12),
    st.floats(1.0, 100.0),
)
def test_every_joined_value_is_the_newest_of_its_sensor_and_within_the_tolerance(
    steps: list[tuple[bool, bool, float]], tolerance_s: float
) -> None:
    sensors = Scripted("a"), Scripted("b")
    device, clock = joined(*sensors, tolerance_s=tolerance_s)
    newest: dict[str, tuple[float, float]] = {}
    for number, (*there, since) in enumerate(steps):
        clock.now += since
        for sensor, is_there in zip(sensors, there, strict=True):
            sensor.next, sensor.has_new = float(number), is_there
            if is_there:
                newest[sensor.fields[0]] = (float(number), clock.now)
        fresh = {
            name: value for name, (value, at) in newest.items() if clock.now - at <= tolerance_s
        }
        try:
            samples = device.read()
        except SensorUnavailable:
            assert len(fresh) < 2
            continue
        assert len(fresh) == 2
        assert [dict(sample.values) for sample in samples] == ([fresh] if any(there) else [])


def printing(text: str, fields: list[str]) -> CommandSensor:
    return CommandSensor([sys.executable, "-c", f"print({text!r})"], fields=fields, timeout_s=60.0)


def made_up(name: str) -> SyntheticSensor:
    return SyntheticSensor(fields={name: SyntheticField(mean=1.0)})


def test_real_kinds_are_joined(tmp_path: Path) -> None:
    group = SensorGroup((printing('{"lux": 310}', ["lux"]), made_up("t")), 60.0)
    device = open_sensor(group, tmp_path, ["t", "lux"])
    assert device.read()[0].values == {"lux": 310.0, "t": 1.0}
    device.close()


def test_a_field_of_two_sensors_is_refused_with_both_names(tmp_path: Path) -> None:
    group = SensorGroup((made_up("t"), printing("{}", ["t"])), 60.0)
    with pytest.raises(
        ConfigError,
        match=r"the field 't' comes from sensor 1 \(synthetic\) and from sensor 2 \(command\)",
    ):
        open_sensor(group, tmp_path, ["t"])


def test_a_field_that_no_sensor_has_is_refused(tmp_path: Path) -> None:
    group = SensorGroup((made_up("t"), ClockSensor()), 60.0)
    with pytest.raises(ConfigError, match=r"needs 'hours', the sensor has 't', 'hour', 'weekday'"):
        open_sensor(group, tmp_path, ["t", "hours"])


def test_an_error_of_one_sensor_is_named_by_its_number(tmp_path: Path) -> None:
    group = SensorGroup((made_up("t"), CommandSensor(["no-such-program"], fields=["lux"])), 60.0)
    with pytest.raises(ConfigError, match=r"^sensor 2 \(command\): sensor.command: 'no-such"):
        open_sensor(group, tmp_path, ["t"])
