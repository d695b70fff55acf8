"""The unit of a node, as systemd itself checks it."""

from __future__ import annotations

import grp
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cipherfleet_deploy.cards.systemd_unit import (
    CREDENTIAL_FILES,
    UNIT_FILE,
    Place,
    list_groups,
    main,
    make_unit,
)
from cipherfleet_deploy.data_folders import devices_folder
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.node_yaml import load_node_config
from cipherfleet_node.settings.sections import NodeConfig

MOST_EXPOSED = 20  # tenths; 96 is a plain service, 0 one that can do nothing
SENSORS = {
    "csv": "{kind: csv, path: readings.csv}",
    "synthetic": "{kind: synthetic, fields: {t: {mean: 1}}}",
    "thermal": "{kind: thermal, zone: cpu-thermal, field: t}",
    "hwmon": "{kind: hwmon, chip: w1_slave_temp, inputs: {temp1_input: t}}",
    "command": "{kind: command, command: [./light]}",
    "iio": "{kind: iio, chip: bmp280, inputs: {temp: t}}",
    "mqtt": "{kind: mqtt, host: hub.example.org, fields: {t: {topic: a/t}}}",
    "serial": "{kind: serial, device: /dev/ttyUSB0, format: csv, fields: {t: 1}}",
    "clock": "{kind: clock, timeout_s: 2}",
    "devices": "{kind: command, command: [./light], devices: [/dev/i2c-1, /dev/serial/by-id/a:0]}",
}


def config_of(folder: Path, sensor: str) -> NodeConfig:
    folder.mkdir(exist_ok=True)
    (folder / "node.yaml").write_text(
        f"""\
config_version: 1
fleet: lab
node: attic
operator: AAAA
algorithm: {{period_s: 1}}
objective: {{kind: average, values: [{{field: t}}]}}
sensor: {sensor}
crypto: {{exchange: sealed}}
"""
    )
    return load_node_config(folder)


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"THE UNIT WAS NOT SHOWN TO SYSTEMD: no {name}, apt-get install systemd")
    return found


def analyze(*arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        [tool("systemd-analyze"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_PAGER": "cat"},
    )
    return done.returncode, done.stdout + done.stderr


def exposure(unit: Path) -> tuple[int, str]:
    return analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", unit)


def write_unit(folder: Path, sensor: str) -> Path:
    groups = ["tty"] if "devices" in sensor else []
    place = Place(program=Path("/bin/true"))  # systemd looks whether it is there
    file = folder / UNIT_FILE
    file.write_text(make_unit(config_of(folder, sensor), CREDENTIAL_FILES, groups, place))
    return file


def values(unit: str, key: str) -> list[str]:
    return [line.partition("=")[2] for line in unit.splitlines() if line.startswith(f"{key}=")]


@pytest.mark.parametrize("sensor", SENSORS)
def test_systemd_finds_little_exposure_and_nothing_to_say(tmp_path: Path, sensor: str) -> None:
    unit = write_unit(tmp_path, SENSORS[sensor])
    code, text = exposure(unit)
    assert code == 0, text
    assert analyze("verify", "--man=no", unit) == (0, "")


def test_these_judges_can_say_no(tmp_path: Path) -> None:
    unit = write_unit(tmp_path, SENSORS["csv"])
    text = unit.read_text()
    unit.write_text(text.replace("ProtectSystem=strict", "ProtectSystm=strict"))
    assert "ProtectSystm" in analyze("verify", "--man=no", unit)[1]
    hardened = text.index("NoNewPrivileges")
    unit.write_text(text[:hardened] + text[text.index("[Install]") :])
    assert exposure(unit)[0] != 0


def test_the_service_starts_again_after_every_failure_of_the_node(tmp_path: Path) -> None:
    """2 is an error in the unit's own command line."""
    unit = make_unit(config_of(tmp_path, SENSORS["csv"]))
    assert values(unit, "Restart") == ["on-failure"]
    assert values(unit, "RestartPreventExitStatus") == ["2"]
    assert values(unit, "StartLimitIntervalSec") == ["0"]


def test_only_the_devices_of_the_sensor_are_there(tmp_path: Path) -> None:
    bare = make_unit(config_of(tmp_path, SENSORS["thermal"]))
    assert values(bare, "DeviceAllow") == []
    assert values(bare, "PrivateDevices") == ["yes"]
    unit = make_unit(config_of(tmp_path, SENSORS["devices"]), groups=["i2c", "dialout"])
    assert values(unit, "DeviceAllow") == ["/dev/i2c-1 rw", "/dev/serial/by-id/a:0 rw"]
    assert values(unit, "SupplementaryGroups") == ["i2c dialout"]
    assert values(unit, "PrivateDevices") == []  # it would hide them
    for text in (bare, unit):
        assert values(text, "DevicePolicy") == ["closed"]


def test_a_list_of_sensors_gets_the_devices_of_all_and_a_clock_may_be_asked(tmp_path: Path) -> None:
    light = SENSORS["devices"][:-1] + ", fields: [t]}"
    other = "{kind: command, command: [./dust], fields: [u], devices: [/dev/i2c-1, /dev/ttyS0]}"
    lists = f"sensors: [{light}, {other}, {SENSORS['clock']}]"
    config_of(tmp_path, SENSORS["thermal"])
    file = tmp_path / "node.yaml"
    file.write_text(file.read_text().replace(f"sensor: {SENSORS['thermal']}", lists))
    unit = make_unit(load_node_config(tmp_path))
    devices = ["/dev/i2c-1 rw", "/dev/serial/by-id/a:0 rw", "/dev/ttyS0 rw"]
    assert values(unit, "DeviceAllow") == devices
    assert values(unit, "ProtectClock") == ["no"]
    assert values(unit, "SystemCallFilter")[-1] == "adjtimex clock_adjtime"
    bare = make_unit(config_of(tmp_path, SENSORS["thermal"]))
    assert values(bare, "ProtectClock") == ["yes"]
    assert "adjtimex" not in bare


@pytest.mark.parametrize(
    ("sensor", "devices"),
    [
        (SENSORS["iio"], []),
        ("{kind: w1, device: 28-0316a2795eff, field: t}", []),
        (SENSORS["mqtt"], []),
        ("{kind: http, url: 'http://hub/', fields: {t: t}}", []),
        (SENSORS["serial"], ["/dev/ttyUSB0 rw"]),
        ("{kind: modbus, host: hub, registers: {t: {address: 0}}}", []),
        ("{kind: modbus, device: /dev/ttyS1, registers: {t: {address: 0}}}", ["/dev/ttyS1 rw"]),
    ],
)
def test_a_sensor_gets_the_device_that_it_opens(
    tmp_path: Path, sensor: str, devices: list[str]
) -> None:
    unit = make_unit(config_of(tmp_path, sensor))
    assert values(unit, "DeviceAllow") == devices
    assert values(unit, "PrivateDevices") == ([] if devices else ["yes"])


@pytest.mark.parametrize(
    "device",
    ["i2c-1", "/dev", "/dev/", "/dev/../etc/shadow", "/dev/a b", "/dev/%i", '"/dev/a\\nUser=root"'],
)
def test_a_device_is_a_path_that_says_nothing_else_to_systemd(tmp_path: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=r"devices\[0\].*the path of a device node"):
        config_of(tmp_path, f"{{kind: command, command: [a], devices: [{device}]}}")


def test_the_folder_and_the_keys_are_those_of_the_node(tmp_path: Path) -> None:
    unit = make_unit(config_of(tmp_path, SENSORS["csv"]), ["paillier.json", "node.key"])
    assert values(unit, "ExecStart") == [
        "/opt/cipherfleet/current/bin/cipherfleet-node run /var/lib/cipherfleet/attic"
    ]
    assert values(unit, "StateDirectory") == ["cipherfleet/attic"]
    assert values(unit, "LoadCredential") == [
        "paillier.json:/etc/cipherfleet/attic/paillier.json",
        "node.key:/etc/cipherfleet/attic/node.key",
    ]


def test_a_device_that_makes_its_own_keys_is_handed_none(tmp_path: Path) -> None:
    assert values(make_unit(config_of(tmp_path, SENSORS["csv"])), "LoadCredential") == []


def test_the_command_prints_the_unit_with_the_keys_that_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config_of(tmp_path / "attic", SENSORS["csv"])
    kept = tmp_path / "etc/cipherfleet/attic"
    kept.mkdir(parents=True)
    (kept / "seal.pem").write_text("a key")
    assert main([str(tmp_path / "attic"), str(tmp_path)]) == 0
    result = capsys.readouterr().out
    assert values(result, "LoadCredential") == ["seal.pem:/etc/cipherfleet/attic/seal.pem"]
    (tmp_path / "attic" / "node.yaml").write_text("node: attic\n")
    assert main([str(tmp_path / "attic")]) == 3
    assert "attic/node.yaml:1:1" in capsys.readouterr().err


def test_groups_are_those_that_own_the_devices() -> None:
    owner = grp.getgrgid(Path("/dev/tty").stat().st_gid).gr_name
    assert list_groups(["/dev/tty", "/dev/not-plugged-in"]) == ([] if owner == "root" else [owner])


def test_the_user_and_the_folders_come_to_be(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    done = subprocess.run(
        [
            tool("systemd-sysusers"),
            "--dry-run",
            f"--root={tmp_path}",
            devices_folder() / "sysusers.conf",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Creating user 'cipherfleet'" in done.stdout + done.stderr
    if os.geteuid() != 0:
        pytest.skip("THE FOLDERS WERE NOT MADE: only root can give them to root")
    subprocess.run(
        [
            tool("systemd-tmpfiles"),
            "--create",
            f"--root={tmp_path}",
            devices_folder() / "tmpfiles.conf",
        ],
        check=True,
    )
    modes = {
        place: (tmp_path / place).stat().st_mode & 0o777
        for place in ("opt/cipherfleet", "etc/cipherfleet", "var/lib/cipherfleet")
    }
    assert [*modes.values()] == [0o755, 0o700, 0o755]
