"""The sensor `w1`: folder trees as the kernel makes them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.sensors.one_wire import OneWireThermometer, parse_w1_slave
from cipherfleet_node.settings.sections import OneWireSensor

DEVICE = "28-0316a2795eff"
# Source: the DS18B20's data sheet, table 1 (temperature to data): +25.0625 is 0191h, -10.125 FF5Eh.
WARM = "91 01 4b 46 7f ff 0f 10 25"
COLD = "5e ff 4b 46 7f ff 02 10 c8"
POWER_ON = "50 05 4b 46 7f ff 0c 10 1c"


def dump(data: str, millidegrees: int, verdict: str = "YES") -> str:
    """The content of w1_slave."""
    return f"{data} : crc={data[-2:]} {verdict}\n{data} t={millidegrees}\n"


def opened(sysfs: Path, **files: str) -> OneWireThermometer:
    folder = sysfs / "bus" / "w1" / "devices" / DEVICE
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    config = msgspec.convert({"device": DEVICE, "field": "t"}, OneWireSensor)
    return OneWireThermometer(config, ["t"], sysfs)


def complaint_of(sensor: OneWireThermometer) -> str:
    with pytest.raises(SensorUnavailable) as caught:
        sensor.read()
    return str(caught.value)


@pytest.mark.parametrize(
    ("files", "degrees"),
    [
        ({"temperature": "21562\n"}, 21.562),
        ({"temperature": "-55000\n"}, -55.0),
        ({"w1_slave": dump(WARM, 25062)}, 25.062),
        ({"w1_slave": dump(COLD, -10125)}, -10.125),
        ({"temperature": "21562\n", "w1_slave": dump(WARM, 25062)}, 21.562),
    ],
)
def test_a_thermometer_is_read(tmp_path: Path, files: dict[str, str], degrees: float) -> None:
    assert opened(tmp_path, **files).read()[0].values == {"t": degrees}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"temperature": "85000\n"}, "has the value after power-on; check its supply"),
        ({"w1_slave": dump(POWER_ON, 85000)}, "has the value after power-on"),
        ({"w1_slave": dump(WARM, 25062, "NO")}, "fails its check (CRC)"),
        ({"w1_slave": dump("00 00 00 00 00 00 00 00 00", 0)}, "zeros only"),
        ({"temperature": "127937\n"}, "outside the chip's range"),
        ({"temperature": "\n"}, "does not hold one whole number"),
        ({"w1_slave": ""}, "is not as the kernel's driver writes it"),
        ({"w1_slave": "ff t=25062\n"}, "is not as the kernel's driver writes it"),
    ],
)
def test_a_value_that_is_no_measurement_is_refused(
    tmp_path: Path, files: dict[str, str], words: str
) -> None:
    complaint = complaint_of(opened(tmp_path, **files))
    assert complaint.startswith(f"one-wire thermometer '{DEVICE}': ")
    assert words in complaint
    assert "25062" not in complaint


def test_84_and_86_degrees_are_temperatures(tmp_path: Path) -> None:
    sensor = opened(tmp_path, temperature="84937\n")
    assert sensor.read()[0].values == {"t": 84.937}


def test_a_thermometer_that_is_not_here_is_refused_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "bus/w1/devices/28-000000000001").mkdir(parents=True)
    (tmp_path / "bus/w1/devices/w1_bus_master1").mkdir()
    config = OneWireSensor(device=DEVICE)
    with pytest.raises(ConfigError, match="is not here, this machine has '28-000000000001'; check"):
        OneWireThermometer(config, [], tmp_path)


def test_a_thermometer_that_is_lost_gives_no_reading(tmp_path: Path) -> None:
    sensor = opened(tmp_path, temperature="20000\n")
    (tmp_path / "bus/w1/devices" / DEVICE / "temperature").unlink()
    assert complaint_of(sensor).endswith("w1_slave cannot be read: No such file or directory")


@settings(deadline=None, max_examples=100)
@given(lines=st.lists(st.text(max_size=80), max_size=3))
def test_any_lines_are_a_temperature_or_no_reading(lines: list[str]) -> None:
    with pytest.raises(SensorUnavailable, match="w1_slave"):
        parse_w1_slave("who", lines)
