"""The sensor `iio`: folder trees as the kernel makes them. For real drivers see tests/kernel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.sensors.iio import PER_UNIT, IioChip, shared_names
from cipherfleet_node.settings.sections import IioSensor

BMP280 = {"name": "bmp280", "in_temp_input": "25080", "in_pressure_input": "100.653253906"}
ADS1115 = {
    "name": "ads1015",
    "in_voltage0_raw": "17600",
    "in_voltage0_scale": "0.125000000",
    "in_voltage1-voltage3_raw": "-8",
    "in_voltage1-voltage3_scale": "0.187500000",
}
SCD30 = {
    "name": "scd30",
    "in_concentration_co2_raw": "440",
    "in_concentration_co2_scale": "0.000100000",
    "in_temp_input": "23310",
    "in_humidityrelative_input": "46210",
}
SPS30 = {"name": "sps30", "in_massconcentration_pm2p5_input": "12.345000"}
# raw * 165000 / 65536 - 40000, in millidegrees: hdc100x.
HDC1080 = {
    "name": "1-0040",
    "in_temp_raw": "26000",
    "in_temp_offset": "-15887.515151",
    "in_temp_scale": "2.517700195",
    "in_humidityrelative_raw": "32768",
    "in_humidityrelative_scale": "1.525878906",
}


def add_chip(sysfs: Path, number: int, files: Mapping[str, str], place: str = "1-0076") -> Path:
    """Make a chip; as in the kernel, its folder in the class is a link to that on its bus."""
    folder = sysfs / "devices" / "i2c-1" / place / f"iio:device{number}"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")
    listed = sysfs / "bus" / "iio" / "devices"
    listed.mkdir(parents=True, exist_ok=True)
    (listed / folder.name).symlink_to(folder)
    return folder


def opened(sysfs: Path, chip: str, inputs: dict[str, str], **changes: object) -> IioChip:
    config = msgspec.convert({"chip": chip, "inputs": inputs, **changes}, IioSensor)
    return IioChip(config, list(inputs.values()), sysfs)


def complaint_of(chip: IioChip) -> str:
    with pytest.raises(SensorUnavailable) as caught:
        chip.read()
    return str(caught.value)


@pytest.mark.parametrize(
    ("files", "inputs"),
    [
        (BMP280, {"temp": 25.08, "pressure": 100.653253906}),  # degrees Celsius, kilopascals
        (ADS1115, {"voltage0": 2.2, "voltage1-voltage3": -0.0015}),  # volts
        (SCD30, {"concentration_co2": 440.0, "temp": 23.31, "humidityrelative": 46.21}),  # ppm
        (SPS30, {"massconcentration_pm2p5": 12.345}),  # micrograms per cubic metre
        (HDC1080, {"temp": 25.46, "humidityrelative": 50.0}),
    ],
)
def test_inputs_are_read_in_our_units(
    tmp_path: Path, files: Mapping[str, str], inputs: dict[str, float]
) -> None:
    add_chip(tmp_path, 0, files)
    chip = opened(tmp_path, files["name"], {name: name for name in inputs})
    (sample,) = chip.read()
    assert dict(sample.values) == pytest.approx(inputs, rel=1e-3)
    assert chip.fields == tuple(inputs)


def test_every_type_is_brought_to_our_unit(tmp_path: Path) -> None:
    files = {"name": "all"} | {f"in_{kind}_input": "1000" for kind in PER_UNIT}
    add_chip(tmp_path, 0, files)
    (sample,) = opened(tmp_path, "all", {kind: kind for kind in PER_UNIT}).read()
    assert sample.values.pop("concentration") == pytest.approx(1e7)  # type: ignore[attr-defined]
    assert set(sample.values.values()) == {1.0}


def test_a_scale_of_all_channels_applies_to_each(tmp_path: Path) -> None:
    files = {
        "name": "adc",
        "in_voltage3_raw": "10",
        "in_voltage_scale": "100",
        "in_voltage_offset": "5",
    }
    folder = add_chip(tmp_path, 0, files)
    chip = opened(tmp_path, "adc", {"voltage3": "v"})
    assert chip.read()[0].values == {"v": 1.5}
    (folder / "in_voltage3_scale").write_text("200\n")  # its own comes first
    assert chip.read()[0].values == {"v": 3.0}


def test_the_names_of_a_scale_go_from_the_channel_to_all_channels_of_its_type() -> None:
    expected = ["voltage0_supply", "voltage_supply", "voltage0", "voltage"]
    assert list(shared_names("voltage0_supply")) == expected
    assert list(shared_names("voltage0-voltage1")) == [
        "voltage0-voltage1",
        "voltage-voltage",
        "voltage",
    ]


def test_a_raw_count_without_a_scale_is_the_value(tmp_path: Path) -> None:
    add_chip(tmp_path, 0, {"name": "light", "in_illuminance_raw": "310"})
    assert opened(tmp_path, "light", {"illuminance": "lux"}).read()[0].values == {"lux": 310.0}


def test_equal_chips_are_told_apart_by_their_place_on_the_bus_and_by_their_label(
    tmp_path: Path,
) -> None:
    add_chip(tmp_path, 0, BMP280, "1-0076")
    add_chip(tmp_path, 1, {**BMP280, "in_temp_input": "-5000", "label": "outside"}, "1-0077")
    with pytest.raises(
        ConfigError, match="several have this name, write one of '1-0076', '1-0077'"
    ):
        opened(tmp_path, "bmp280", {"temp": "t"})
    for name, degrees in (
        ("1-0076", 25.08),
        ("1-0077", -5.0),
        ("outside", -5.0),
        ("iio:device1", -5.0),
    ):
        assert opened(tmp_path, name, {"temp": "t"}).read()[0].values == {"t": degrees}


def test_a_chip_that_is_not_here_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this machine has no iio chips"):
        opened(tmp_path, "bme280", {"temp": "t"})
    add_chip(tmp_path, 0, BMP280)
    with pytest.raises(ConfigError, match=r"is not here, this machine has bmp280 \(1-0076\)"):
        opened(tmp_path, "bme280", {"temp": "t"})


def test_an_input_that_the_chip_lacks_is_refused_with_those_it_has(tmp_path: Path) -> None:
    add_chip(tmp_path, 0, BMP280)
    with pytest.raises(ConfigError, match="has no 'humidityrelative', it has 'pressure', 'temp'"):
        opened(tmp_path, "bmp280", {"humidityrelative": "rh"})
    with pytest.raises(ConfigError, match=r"names '\.\./name', must be like temp or voltage0"):
        opened(tmp_path, "bmp280", {"../name": "rh"})
    with pytest.raises(ConfigError, match="2 inputs have the same field 't'"):
        opened(tmp_path, "bmp280", {"temp": "t", "pressure": "t"})


@pytest.mark.parametrize("text", ["", "nan", "1e3", "25.08 C", "\xff", "9" * 30])
def test_a_file_without_a_number_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    folder = add_chip(tmp_path, 0, BMP280)
    chip = opened(tmp_path, "bmp280", {"temp": "t"})
    (folder / "in_temp_input").write_text(f"{text}\n", encoding="latin-1")
    complaint = "iio chip 'bmp280': in_temp_input does not hold one number"
    assert complaint_of(chip) == complaint


def test_a_chip_that_is_lost_or_below_absolute_zero_gives_no_reading(tmp_path: Path) -> None:
    folder = add_chip(tmp_path, 0, BMP280)
    chip = opened(tmp_path, "bmp280", {"temp": "t"}, limits={"t": (-40, 60)})
    (folder / "in_temp_input").write_text("-300000\n")
    assert complaint_of(chip).endswith("temp is below absolute zero")
    (folder / "in_temp_input").write_text("61000\n")
    assert complaint_of(chip).endswith("t is outside its limits [-40, 60]")
    (folder / "in_temp_input").unlink()
    assert complaint_of(chip).endswith("in_temp_raw cannot be read: No such file or directory")
    (tmp_path / "bus/iio/devices/iio:device0").unlink()
    assert complaint_of(chip).endswith("is not here, this machine has no iio chips")
