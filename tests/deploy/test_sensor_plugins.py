"""A sensor of another package, installed by pip: daemon, sense, doctor, unit and schema."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from cipherfleet_deploy.cards.systemd_unit import make_unit
from cipherfleet_deploy.check.sensors import sensor_findings
from cipherfleet_deploy.result_schemas import make_schema
from cipherfleet_node.doctor.folder import _Parts, _sensor
from cipherfleet_node.doctor.sense import Senses
from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.sensors import open_sensor
from cipherfleet_node.sensors.plugins import load_plugin, plugin_devices
from cipherfleet_node.settings.node_yaml import load_node_config
from cipherfleet_node.settings.sections import Guard, PluginSensor
from cipherfleet_provisioning.fleet.fleet import load_fleet
from tests.support.paths import ROOT

NODE = """\
config_version: 1
fleet: lab
node: pier
operator: AAAA
algorithm: {{period_s: 1}}
objective: {{kind: average, values: [{{field: level_m}}]}}
sensor: {{kind: plugin, name: {name}, options: {options}, limits: {{level_m: [0, 9]}}}}
crypto: {{exchange: sealed}}
"""
OPTIONS = "{source: level.txt}"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package in a folder of its own, as pip installs it."""
    source, target = tmp_path_factory.mktemp("source") / "lake", tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "tests/data/sensor_plugin", source)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"),
            *("--no-build-isolation", "--disable-pip-version-check", "--no-compile"),
            *("--target", target, source),
        ],
        check=True,
        capture_output=True,
    )
    return target


@pytest.fixture
def installed(package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.setenv("PYTHONPATH", f"{package}:{':'.join(sys.path)}")  # for other processes
    load_plugin.cache_clear()
    yield package
    load_plugin.cache_clear()
    sys.modules.pop("fleet_lake", None)
    importlib.invalidate_caches()


@pytest.fixture
def folder(tmp_path: Path, installed: Path) -> Path:
    assert (installed / "fleet_lake.py").is_file()
    return write_node(tmp_path)


def write_node(
    folder: Path, name: str = "lake", options: str = OPTIONS, text: str = "2.5 14"
) -> Path:
    (folder / "node.yaml").write_text(NODE.format(name=name, options=options))
    (folder / "level.txt").write_text(text)
    return folder


def complaint(folder: Path) -> str:
    config = load_node_config(folder)
    with pytest.raises(ConfigError) as caught:
        open_sensor(config.source, folder, ["level_m"])
    return str(caught.value)


def test_a_plug_in_is_read_with_limits_and_guards(folder: Path) -> None:
    config = PluginSensor(
        name="lake",
        options={"source": "level.txt"},
        limits={"level_m": (0.0, 9.0)},
        guards={"level_m": Guard(change_per_minute=1.0)},
    )
    device = open_sensor(config, folder, ["level_m"])
    assert device.read()[0].values == {"level_m": 2.5, "hour": 14.0}
    for text, words in (
        ("99 14", r"level_m is outside its limits \[0, 9\]"),
        ("5 14", "level_m fails its guard change_per_minute"),
        ("dry", "sensor 'lake': the gauge is dry"),
        ("7.77 no", "^sensor 'lake': failed with ValueError$"),  # whose text has the reading
    ):
        (folder / "level.txt").write_text(text)
        with pytest.raises(SensorUnavailable, match=words):
            device.read()
    device.close()
    assert (folder / "level.closed").exists()


def test_sense_reads_it_in_another_process(folder: Path) -> None:
    command = [sys.executable, "-m", "cipherfleet_node", "sense", str(folder), "--once", "--json"]
    done = subprocess.run([*command, "--show"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert [field["value"] for field in found["fields"]] == [2.5, 14.0]
    assert found["fields"][0]["checks"] == {"limits": "ok"}


def test_the_unit_allows_the_devices_that_it_declares_and_no_other_text(folder: Path) -> None:
    assert "DeviceAllow=/dev/ttyUSB0 rw" in make_unit(load_node_config(folder)).splitlines()
    wrong = PluginSensor(name="lake", options={"source": "a", "port": "/dev/a\nUser=root"})
    with pytest.raises(ConfigError, match="declares a device that is no path"):
        plugin_devices(wrong)


def test_the_doctor_shows_what_it_checks(folder: Path) -> None:
    config = load_node_config(folder)
    parts = _Parts(config=config, sensor=open_sensor(config.source, folder, ["level_m"]))
    found = [(finding.level, finding.subject) for finding in _sensor(parts)]
    assert found == [("ok", "gauge"), ("ok", "sensor")]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("lakes", OPTIONS, "'lakes' is not installed, there are: 'lake', did you mean 'lake'?; in"),
        ("lake", "{}", "'lake': options.source is missing and has no default"),
        ("lake", "{source: a, bauds: 1}", "options.bauds is not a known key, did you mean 'baud'?"),
        ("lake", "{source: a, baud: 1}", "options.baud is 1, must be a whole number >= 300"),
        ("lake", "{source: away}", "away: is not here"),
    ],
)
def test_wrong_options_are_refused(folder: Path, name: str, options: str, words: str) -> None:
    assert words in complaint(write_node(folder, name, options))


def test_the_schema_has_its_options_where_it_is_installed(installed: Path) -> None:
    assert (installed / "fleet_lake.py").is_file()
    fleet = {
        "config_version": 1,
        "fleet": "lab",
        "objective": {"kind": "average", "values": [{"field": "level_m"}]},
        "topology": {"kind": "complete"},
        "nodes": [{"id": "a", "sensor": {"kind": "plugin", "name": "lake", "options": {}}}],
    }
    schema = jsonschema.Draft202012Validator(json.loads(make_schema("fleet")))
    assert not schema.is_valid(fleet)
    fleet["nodes"][0]["sensor"]["options"] = {"source": "a"}  # type: ignore[index]
    assert schema.is_valid(fleet)
    fleet["nodes"][0]["sensor"] = {"kind": "plugin", "name": "other", "options": {}}  # type: ignore[index]
    assert schema.is_valid(fleet)


def test_a_fleet_with_it_is_checked_where_it_is_installed(folder: Path) -> None:
    text = """\
config_version: 1
fleet: lab
crypto: {key_bits: 512, allow_weak_keys: true}
algorithm: {rounds: 2}
objective: {kind: average, values: [{field: level_m}]}
topology: {kind: complete}
nodes:
  - {each: 3, id: "n{n}", sensor: {kind: plugin, name: lake, options: {source: "{n}.txt"}}}
"""
    file = folder / "fleet.yaml"
    file.write_text(text)
    fleet = load_fleet(file)
    (found,) = sensor_findings(fleet)
    assert (found.level, found.nodes) == ("note", ("n1", "n2", "n3"))
    assert "not installed" not in found.text
    source = fleet.members[1].sensor
    assert isinstance(source, PluginSensor)
    assert source.options == {"source": "2.txt"}
    file.write_text(text.replace("source:", "sauce:"))
    with pytest.raises(ConfigError, match=r"fleet.yaml:8:.*options.sauce is not a known key"):
        load_fleet(file)
    file.write_text(text.replace("lake", "elsewhere"))
    (found,) = sensor_findings(load_fleet(file))
    assert "it is not installed here, so the device checks its options" in found.text


def test_values_are_not_shown_unless_they_are_asked_for(folder: Path) -> None:
    senses = Senses(folder)
    result = senses.read(show=False)
    senses.close()
    assert result.usable
    assert [field.value for field in result.fields] == [None, None]
