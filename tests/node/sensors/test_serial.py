"""The sensor `serial`, over pseudo-terminals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.sensors import SensorDevice, open_sensor
from cipherfleet_node.settings.sections import SerialSensor
from tests.support.pseudo_terminal import PseudoTerminal

from .test_records import SDS011, pms5003

WAIT_S = 60.0  # for what takes milliseconds on an idle machine
SOON_S = 0.2  # for what must not come


@pytest.fixture
def device(tmp_path: Path) -> Iterator[PseudoTerminal]:
    terminal = PseudoTerminal(tmp_path / "ttyUSB0")
    terminal.plug_in()
    yield terminal
    terminal.unplug()


def opened(
    device: PseudoTerminal, format_: str, fields: dict[str, Any], **changes: Any
) -> SensorDevice:
    given: dict[str, Any] = {"timeout_s": WAIT_S, **changes}
    config = SerialSensor(device=str(device.port), format=format_, fields=fields, **given)  # type: ignore[arg-type]
    return open_sensor(config, Path(), list(fields))


@contextmanager
def sending(device: PseudoTerminal, data: Callable[[], bytes]) -> Iterator[None]:
    """Send *data* again and again, as a device does: what comes before the port is open is lost."""
    is_over = threading.Event()

    def work() -> None:
        while not is_over.wait(0.05):
            device.send(data())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def complaint_of(sensor: SensorDevice) -> str:
    with pytest.raises(SensorUnavailable) as caught:
        sensor.read()
    return str(caught.value)


@pytest.mark.parametrize(
    ("format_", "fields", "data", "expected"),
    [
        ("lines", {"pm25": "PM25", "rh": "RH"}, b"PM25=12.5;RH=45\r\n", {"pm25": 12.5, "rh": 45}),
        ("csv", {"t": 2}, b"2026-11-27,21.5,x\n", {"t": 21.5}),
        ("json", {"t": "a.t"}, b'{"a": {"t": 21.5}}\n', {"t": 21.5}),
        ("pms5003", {"pm25": "pm2_5"}, pms5003(20), {"pm25": 20}),
        ("sds011", {"pm25": "pm2_5"}, SDS011, {"pm25": 123.6}),
    ],
)
def test_a_device_is_read(
    device: PseudoTerminal, format_: str, fields: dict[str, Any], data: bytes, expected: Any
) -> None:
    with closing(opened(device, format_, fields)) as sensor, sending(device, lambda: data):
        (sample,) = sensor.read()
        assert dict(sample.values) == pytest.approx(expected)
        assert 0 <= sample.age_s < WAIT_S
        assert sensor.read()  # the next record


def test_the_newest_record_is_returned_and_not_what_has_queued(device: PseudoTerminal) -> None:
    with closing(opened(device, "lines", {"n": "n"}, timeout_s=SOON_S)) as sensor:
        complaint_of(sensor)  # opens the port
        device.send(b"cut\n" + b"".join(b"n=%d\n" % number for number in range(500)))
        reads = 0
        while await_number(sensor) < 499:
            reads += 1
        assert reads < 100


def test_a_record_is_returned_once_and_an_old_one_never(device: PseudoTerminal) -> None:
    with closing(opened(device, "lines", {"n": "n"}, timeout_s=SOON_S)) as sensor:
        assert "no valid record within 0.2 s" in complaint_of(sensor)  # opens the port
        device.send(b"cut\nn=1\n")
        assert await_number(sensor) == 1.0
        assert "no valid record within 0.2 s" in complaint_of(sensor)
        device.send(b"n=2\n")
        time.sleep(1.5)
        assert "no valid record within 0.2 s" in complaint_of(sensor)


def test_noise_and_wrong_sums_are_named_and_the_next_frame_is_read(device: PseudoTerminal) -> None:
    wrong = pms5003(20)[:-1] + b"\0"
    with closing(opened(device, "pms5003", {"p": "pm2_5"}, timeout_s=SOON_S)) as sensor:
        complaint_of(sensor)  # opens the port
        device.send(b"\xffBM\x00" + wrong)
        await_complaint(sensor, "records with a wrong checksum, or lines that do not end")
        with sending(device, lambda: b"\x42" + wrong[:11] + pms5003(7)):
            assert await_number(sensor) == 7.0


def await_complaint(sensor: SensorDevice, end: str) -> None:
    """Read until the complaint ends so."""
    for _ in range(int(WAIT_S / SOON_S)):
        try:
            sensor.read()
        except SensorUnavailable as error:
            if str(error).endswith(end):
                return
    raise AssertionError(f"no complaint {end!r} within {WAIT_S:g} s")


def await_number(sensor: SensorDevice) -> float:
    """Read until there is a sample."""
    for _ in range(int(WAIT_S / SOON_S)):
        try:
            (number,) = sensor.read()[0].values.values()
        except SensorUnavailable:
            continue
        return number
    raise AssertionError(f"no sample within {WAIT_S:g} s")


def test_a_device_that_is_unplugged_is_read_again_when_it_is_back(device: PseudoTerminal) -> None:
    with closing(opened(device, "lines", {"n": "n"}, timeout_s=SOON_S)) as sensor:
        with sending(device, lambda: b"n=1\n"):
            assert await_number(sensor) == 1.0
        device.unplug()
        await_complaint(sensor, "cannot be read: No such file or directory")
        device.plug_in()
        with sending(device, lambda: b"n=2\n"):
            assert await_number(sensor) == 2.0


def test_a_line_without_the_field_is_named_and_not_shown(device: PseudoTerminal) -> None:
    with (
        closing(opened(device, "lines", {"t": "t"}, timeout_s=SOON_S)) as sensor,
        sending(device, lambda: b"temperature=23.75\n"),
    ):
        await_complaint(sensor, "sent a line without 't'")


def test_a_value_outside_its_limits_is_withheld(device: PseudoTerminal) -> None:
    limits = {"t": (-40.0, 60.0)}
    with (
        closing(opened(device, "lines", {"t": "t"}, limits=limits)) as sensor,
        sending(device, lambda: b"t=85\n"),
    ):
        assert complaint_of(sensor).endswith("t is outside its limits [-40, 60]")


def test_a_port_that_is_not_here_or_no_device_is_an_error_of_the_settings(tmp_path: Path) -> None:
    missing = PseudoTerminal(tmp_path / "ttyUSB9")
    with pytest.raises(ConfigError, match="is not here; plug it in"):
        opened(missing, "lines", {"t": "t"})
    missing.port.write_text("a file")
    with pytest.raises(ConfigError, match="is not here; plug it in"):
        opened(missing, "lines", {"t": "t"})


@pytest.mark.parametrize(
    ("format_", "place", "words"),
    [
        ("pms5003", "pm25", "'pm25', must be one of 'pm1_0_factory', 'pm2_5_factory'"),
        ("sds011", "pm1_0", "'pm1_0', must be one of 'pm2_5', 'pm10'"),
        ("csv", "t", "'t', must be the number of a column for format csv"),
        ("lines", 1, "1, must be a key for format lines"),
    ],
)
def test_a_place_that_the_format_does_not_have_is_refused(
    device: PseudoTerminal, format_: str, place: str | int, words: str
) -> None:
    with pytest.raises(ConfigError, match=f"fields.t is {words}"):
        opened(device, format_, {"t": place})


def test_a_sensor_that_was_never_read_holds_no_port(device: PseudoTerminal) -> None:
    threads = threading.active_count()
    opened(device, "lines", {"t": "t"}).close()
    assert threading.active_count() == threads
