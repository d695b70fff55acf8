"""The sections of the sensors: what each kind refuses, and that the pages show what is accepted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.node_yaml import load_node_config
from cipherfleet_node.settings.sections import MqttSensor, NodeConfig, Sensor
from tests.support.paths import ROOT

NODE = """\
config_version: 1
fleet: lab
node: attic
operator: AAAA
algorithm: {period_s: 1}
objective: {kind: average, values: [{field: t}]}
crypto: {exchange: sealed}
broker: {host: 127.0.0.1, port: 1883}
"""
PAGES = sorted((ROOT / "docs" / "how-to").glob("sensor-*.md"))
BLOCKS = [
    pytest.param(page.name, block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.M | re.S)
    )
]


def load(folder: Path, sensor: str) -> NodeConfig:
    (folder / "node.yaml").write_text(f"{NODE}{sensor}\n")
    return load_node_config(folder)


def complaint(folder: Path, sensor: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, f"sensor: {{{sensor}}}")
    return str(caught.value)


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_every_sensor_that_a_page_shows_is_accepted(tmp_path: Path, page: str, block: str) -> None:
    config = load(tmp_path, block)
    assert config.sensor.__struct_config__.tag == page.removeprefix("sensor-").removesuffix(".md")
    limited = yaml.safe_load(block)["sensor"].get("limits", {})
    assert set(config.sensor.limits) == set(limited)


def test_every_kind_has_a_page_of_its_own_or_is_in_the_page_of_all() -> None:
    kinds = {each.__struct_config__.tag for each in Sensor.__args__}
    own = {page.stem.removeprefix("sensor-") for page in PAGES}
    text = (ROOT / "docs" / "how-to" / "sensors.md").read_text()
    assert own <= kinds
    assert all(f"(sensor-{kind}.md)" in text for kind in own)
    shared = kinds - own - {"none"}
    assert shared == {kind for kind in shared if f"kind: {kind}" in text}
    assert len(BLOCKS) >= 10


MQTT = "kind: mqtt, host: hub.example.org, fields: {t: {topic: a/t}}"
MODBUS = "kind: modbus, registers: {t: {address: 0}}"


@pytest.mark.parametrize(
    ("sensor", "words"),
    [
        ("kind: mqtt, fields: {t: {topic: 'a/#'}}", "up to 200 characters without + and #"),
        ("kind: mqtt, fields: {}", "sensor.fields"),
        (f"{MQTT}, user: a, password: b", "password"),
        (f"{MQTT}, ca: ca.pem", "sensor.ca has no effect without sensor.tls: true"),
        (f"{MQTT}, tls: true, key: a", "sensor.key needs sensor.certificate as well"),
        (f"{MQTT}, password_file: a", "sensor.password_file needs sensor.user as well"),
        (f"{MQTT}, max_age_s: 0", "sensor.max_age_s is 0, must be"),
        ("kind: mqtt, fields: {t: {topic: a, last_seen: b}}", "last_seen needs path as well"),
        ("kind: mqtt, fields: {t: {topic: a, path: []}}", "sensor.fields.t.path"),
        ("kind: http, url: 'ftp://a/', fields: {t: t}", "http:// or https://, a host without user"),
        ("kind: http, url: 'http://a/ b', fields: {t: t}", "http:// or https://"),
        ("kind: http, url: 'http://a/', ca: x, fields: {t: t}", "has no effect with a url"),
        ("kind: iio, chip: bmp280, inputs: {}", "sensor.inputs"),
        ("kind: w1, device: 28-xyz", "sensor.device"),
        ("kind: w1, device: ../28-0316a2795eff", "sensor.device"),
        ("kind: serial, device: ttyUSB0, format: csv, fields: {t: 1}", "the path of a device node"),
        ("kind: serial, device: /dev/ttyUSB0, format: csv, fields: {t: 0}", "sensor.fields.t"),
        ("kind: serial, device: /dev/ttyUSB0, format: nmea, fields: {t: 1}", "sensor.format"),
        ("kind: serial, device: /dev/a, format: csv, baud: 9601, fields: {t: 1}", "sensor.baud"),
        (MODBUS, "must have exactly one of host (Modbus TCP) and device (Modbus RTU)"),
        (f"{MODBUS}, host: a, device: /dev/ttyUSB0", "must have exactly one of host"),
        ("kind: modbus, host: a, registers: {t: {address: 65536}}", "address is 65536"),
        ("kind: modbus, host: a, registers: {t: {address: 1, type: int8}}", "type"),
        (f"{MODBUS}, host: a, limits: {{t: [1, 0]}}", "must be [lowest, highest]"),
    ],
)
def test_what_a_kind_does_not_allow_is_refused_with_its_place(
    tmp_path: Path, sensor: str, words: str
) -> None:
    assert words in complaint(tmp_path, sensor)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_sensor_at_the_broker_of_the_fleet_is_refused(tmp_path: Path, host: str) -> None:
    sensor = f"kind: mqtt, host: '{host}', fields: {{t: {{topic: a}}}}"
    words = "which is the broker of the fleet: its operator would see the readings"
    assert words in complaint(tmp_path, sensor)
    other = load(tmp_path, f"sensor: {{{sensor}, port: 1884}}").sensor
    assert isinstance(other, MqttSensor)


def test_a_password_in_an_address_is_not_shown(tmp_path: Path) -> None:
    text = complaint(tmp_path, "kind: http, url: 'http://me:canary@a/', fields: {t: t}")
    assert "a host without user" in text
    assert "canary" not in text
