"""The bench file: its contents, and every error in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cipherfleet_deploy.containers.plan import IMAGE
from cipherfleet_hil.targets.bench_file import (
    DockerSpec,
    LocalSpec,
    SshSpec,
    is_loopback,
    load_bench,
    read_bench,
)
from cipherfleet_node.errors import ConfigError

WHOLE = """\
targets:
  - {name: here, kind: local}
  - {name: half, kind: docker, profile: "cpu=0.5,memory=512m"}
  - name: pi
    kind: ssh
    host: raspberrypi.local
    port: 2222
    user: pi
    identity: keys/bench
    known_hosts: known
    python: /opt/cipherfleet/current/bin/python
broker: {kind: mosquitto, address: 192.168.1.5, port: 8883}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "bench").touch()
    (tmp_path / "known").touch()
    return tmp_path / "bench.yaml"


def mistakes(file: Path, text: str) -> list[str]:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_bench(file)
    return [str(each).replace(f"{file}:", "") for each in caught.value.findings]


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs OpenSSH's ssh, which is missing")
def test_all_kinds_of_targets_are_read(file: Path) -> None:
    file.write_text(WHOLE)
    bench = read_bench(file)
    here, half, pi = bench.targets
    assert here == LocalSpec(name="here")
    assert half == DockerSpec(name="half", profile="cpu=0.5,memory=512m", image=IMAGE)
    assert isinstance(pi, SshSpec)
    assert (pi.host, pi.port, pi.user) == ("raspberrypi.local", 2222, "pi")
    assert (bench.broker.kind, bench.broker.address, bench.broker.port) == (
        "mosquitto", "192.168.1.5", 8883,
    )  # fmt: skip
    bench.check_reach()
    assert [bench.open_target(spec).name for spec in bench.targets] == ["here", "half", "pi"]


def test_without_a_file_the_bench_is_this_machine() -> None:
    assert load_bench(None).targets == (LocalSpec(name="local"),)


@pytest.mark.parametrize(
    ("wrong", "right", "expected"),
    [
        ("kind: local", "kind: locl", "2:24: targets[0].kind is 'locl', must be one of "),
        ("profile:", "profil:", "3:32: targets[1].profil is not a known key, did you mean 'prof"),
        ("cpu=0.5,mem", "cpu=0,mem", "3:41: targets[1].profile is 'cpu=0,memory=512m': a node ne"),
        ("cpu=0.5,mem", "half a ", "3:41: targets[1].profile is 'half a ory=512m', must be one o"),
        ("name: half", "name: here", "3:12: targets[1].name is 'here', which is already th"),
        ("name: pi", "name: pi zero", "4:11: targets[2].name is 'pi zero', must be 1 to 63 lette"),
        ("host: r", "host: -oProxy", "6:11: targets[2].host is '-oProxyaspberrypi.local', must b"),
        (
            "port: 2222",
            "port: 0",
            "7:11: targets[2].port is 0, must be a whole number >= 1, <= 65535",
        ),
        ("user: pi", "user: -l", "8:11: targets[2].user is '-l', must be 1 to 63 letters, digits,"),
        ("keys/bench", "keys/none", "9:15: targets[2].identity is "),
        ("known_hosts: known", "known_hosts: no", "10:18: targets[2].known_hosts is "),
        ("kind: mosquitto", "kind: hive", "12:16: broker.kind is 'hive', must be one of embedded"),
        ("targets:", "target:", "1:1: target is not a known key, did you mean 'targets'?"),
    ],
)
def test_every_error_is_reported_with_its_place(
    file: Path, wrong: str, right: str, expected: str
) -> None:
    assert wrong in WHOLE
    (found,) = mistakes(file, WHOLE.replace(wrong, right, 1))
    assert found.startswith(expected)
    assert "\n" not in found


def test_an_empty_list_of_targets_is_refused(file: Path) -> None:
    (found,) = mistakes(file, "targets: []\n")
    assert found.startswith("1:1: targets is an empty list, must be")


def test_a_board_cannot_reach_a_broker_on_loopback(file: Path) -> None:
    file.write_text(WHOLE.replace("address: 192.168.1.5, ", ""))
    with pytest.raises(
        ConfigError, match=r"broker.address is '127\.0\.0\.1', which on target 'pi'"
    ):
        read_bench(file).check_reach()


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("[::1]", True), ("localhost", True), ("pi", False),
     ("192.168.1.5", False)],
)  # fmt: skip
def test_which_hosts_are_loopback(host: str, *, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_an_unknown_target_is_reported_with_a_suggestion(file: Path) -> None:
    file.write_text(WHOLE)
    with pytest.raises(ConfigError, match=r"did you mean 'half'.*the bench has here, half, pi"):
        read_bench(file).target("hal")


@pytest.mark.parametrize("command", [("rounds",), ("crypto", "--target", "x")])
def test_a_mistake_in_the_file_is_exit_code_3(file: Path, command: tuple[str, ...]) -> None:
    file.write_text("targets: []\n")
    words = [
        sys.executable,
        "-m",
        "cipherfleet_deploy",
        "bench",
        *command,
        "--bench",
        str(file),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "targets is an empty list" in done.stderr
