"""The broker's files of a set on a machine with Debian's mosquitto."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from cipherfleet_broker import check_broker
from cipherfleet_broker.mosquitto import find_mosquitto
from cipherfleet_deploy import provision_session as provision
from cipherfleet_deploy.broker_setup import describe_setup, install
from cipherfleet_node.errors import BrokerUnreachable, ConfigError
from cipherfleet_provisioning.broker_files import BROKER_FOLDER, make_security
from cipherfleet_provisioning.ledger import read_ledger
from tests.support.debian_mosquitto import (
    BOOT,
    debian_mosquitto,
    find_obstacle,
    prepare,
    run_with_files,
)
from tests.support.device_card import free_port
from tests.support.results import check_result

FLEET = """\
config_version: 1
fleet: yard
broker: {{host: localhost, port: {port}, tls: {tls}}}
crypto: {{key_bits: 512, allow_weak_keys: true}}
algorithm: {{period_s: 1}}
objective: {{kind: average, values: [{{field: t}}]}}
topology: {{kind: ring}}
nodes: [{{each: 3, id: "n{{n}}", sensor: {{kind: synthetic, fields: {{t: {{mean: 1}}}}}}}}]
"""


def make_set(folder: Path, tls: str = "true") -> Path:
    (folder / "fleet.yaml").write_text(FLEET.format(port=free_port(), tls=tls))
    provision.bundle(folder / "fleet.yaml", folder / "set", "device", Console(quiet=True))
    return folder / "set"


def await_answer(home: Path, process: subprocess.Popen[str], log: Path) -> None:
    """Return once the broker of the set *home* answers its health check."""
    ends = time.monotonic() + 30
    while problem := find_problem(home):
        if process.poll() is not None:
            file = log / "mosquitto.log"
            logged = file.read_text() if file.exists() else ""
            pytest.fail(f"mosquitto ended: {logged}{process.communicate()[1]}")
        assert time.monotonic() < ends, problem
        time.sleep(0.05)


def find_problem(home: Path) -> str:
    ledger = read_ledger(home / "current")
    context = None
    if ledger.broker.tls:
        context = make_security(home / "current" / BROKER_FOLDER, ledger).context()
    try:
        check_broker(ledger.broker.host, ledger.broker.port, 2.0, context)
    except BrokerUnreachable as error:
        return str(error)
    return ""


# -- Debian's own configuration -----------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A prefix whose etc lies over /etc where Debian's mosquitto runs."""
    if obstacle := find_obstacle(tmp_path):
        pytest.skip(f"DEBIAN'S MOSQUITTO WAS NOT TRIED: {obstacle}")
    return prepare(tmp_path / "root")


def copy_by_hand(home: Path, root: Path, more: str = "") -> None:
    broker = home / "current" / BROKER_FOLDER
    folder = root / "etc" / "cipherfleet-broker"
    shutil.copytree(broker, folder)
    for file in (folder, *folder.iterdir()):
        shutil.chown(file, "mosquitto", "mosquitto")
    added = root / "etc" / "mosquitto" / "conf.d" / "cipherfleet.conf"
    added.parent.mkdir(parents=True)
    added.write_text((broker / "mosquitto-2.0.conf").read_text() + more)


@pytest.mark.parametrize("tls", ["true", "false"])
def test_the_sets_configuration_is_valid_beside_that_of_debian(
    tmp_path: Path, root: Path, tls: str
) -> None:
    home = make_set(tmp_path, tls)
    copy_by_hand(home, root)
    with debian_mosquitto(root) as process:
        await_answer(home, process, root / "log")


def test_an_option_that_debian_sets_may_not_be_in_it(tmp_path: Path, root: Path) -> None:
    home = make_set(tmp_path)
    copy_by_hand(home, root, "persistence_location /var/lib/mosquitto/\n")
    with debian_mosquitto(root) as process:
        assert process.wait(20) == 3
        assert "Duplicate persistence_location" in process.communicate()[1]


# -- provision broker ---------------------------------------------------------------------------

COMMAND = [sys.executable, "-m", "cipherfleet_deploy", "provision", "broker"]


def has_mosquitto() -> bool:
    try:
        find_mosquitto()
    except ConfigError:
        return False
    return True


needs_mosquitto = pytest.mark.skipif(not has_mosquitto(), reason="mosquitto is not installed")


def provision_broker(*words: object, root: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DESTDIR": str(root or "")}
    command = [*COMMAND, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def cluster_set(folder: Path) -> Path:
    home = make_set(folder)
    text = (folder / "fleet.yaml").read_text()
    text = text.replace("host: localhost", "cluster: [a.example, b.example]")
    (folder / "fleet.yaml").write_text(text)
    shutil.rmtree(home)
    provision.bundle(folder / "fleet.yaml", home, "device", Console(quiet=True))
    return home


def test_without_install_it_tells_how_to_install_on_another_machine(tmp_path: Path) -> None:
    home = make_set(tmp_path)
    done = provision_broker(home)
    assert done.returncode == 0
    assert f"its files: {home}/current/broker" in done.stdout
    assert "ssh root@localhost" in done.stdout
    result = check_result("broker-result", provision_broker(home, "--json").stdout)
    assert result["changed"] == []
    assert result["program"] is result["answers"] is None


@needs_mosquitto
def test_files_are_installed_once_and_again_after_a_change(tmp_path: Path) -> None:
    home, root = make_set(tmp_path), tmp_path / "root"
    broker, folder = home / "current" / "broker", root / "etc/cipherfleet-broker"
    first = install(home, None, str(root))
    assert {Path(name).name for name in first.changed} == {
        *(file.name for file in broker.iterdir()), "cipherfleet.conf"
    }  # fmt: skip
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in broker.iterdir():
        installed = folder / file.name
        assert installed.read_bytes() == file.read_bytes()
        assert stat.S_IMODE(installed.stat().st_mode) == 0o600
        if os.geteuid() == 0:
            assert (installed.owner(), installed.group()) == ("mosquitto", "mosquitto")
    again = provision_broker(home, "--install", root=root)
    assert again.returncode == 0, again.stderr
    assert "nothing has changed" in again.stdout
    (broker / "access.txt").write_text("user other\n")
    (folder / "health.key").chmod(0o644)
    changed = install(home, None, str(root)).changed
    assert {Path(name).name for name in changed} == {"access.txt", "health.key"}
    assert (folder / "access.txt").read_text() == "user other\n"


def test_only_root_installs_on_a_running_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_set(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match=r"must run as root.*; sudo /"):
        install(home, None)


@needs_mosquitto
@pytest.mark.parametrize("line", ["listener 1883", "  password_file /etc/mosquitto/passwords"])
def test_a_mosquitto_that_serves_other_clients_is_left_alone(tmp_path: Path, line: str) -> None:
    home, root = make_set(tmp_path), tmp_path / "root"
    added = root / "etc/mosquitto/conf.d"
    added.mkdir(parents=True)
    (added.parent / "mosquitto.conf").write_text("include_dir /etc/mosquitto/conf.d\n")
    (added / "home.conf").write_text(f"# mine\n{line}\n")
    with pytest.raises(ConfigError, match=r"home\.conf:2: sets .* other clients already"):
        install(home, None, str(root))
    (added.parent / "mosquitto.conf").write_text("# include_dir /etc/mosquitto/conf.d\n")
    with pytest.raises(ConfigError, match="does not include"):
        install(home, None, str(root))
    assert not (root / "etc/cipherfleet-broker").exists()


@needs_mosquitto
def test_the_host_says_which_broker_of_a_cluster_this_is(tmp_path: Path) -> None:
    home = cluster_set(tmp_path)
    with pytest.raises(ConfigError, match=r"left out, must be one of a\.example, b\.example"):
        describe_setup(home, None)
    done = provision_broker(home, "--host", "c.example")
    assert (done.returncode, "must be one of" in done.stderr) == (3, True)
    install(home, "b.example", str(tmp_path / "root"))
    installed = tmp_path / "root/etc/cipherfleet-broker/broker.pem"
    assert installed.read_bytes() == (home / "current/broker/b.example/broker.pem").read_bytes()


@pytest.mark.fleet
def test_debians_mosquitto_is_restarted_and_reloaded_when_something_changed(
    tmp_path: Path, root: Path
) -> None:
    home = make_set(tmp_path)
    run = f"{' '.join(COMMAND)} {home} --install --json"
    change = f"echo 'user other' >>{home}/current/broker/access.txt"
    done = run_with_files(root, f"{BOOT}\n{run}\n{run}\n{change}\n{run}\ncat /run/asked")
    assert done.returncode == 0, done.stdout + done.stderr
    *results, asked_1, asked_2, asked_3 = done.stdout.splitlines()
    first, again, reloaded = (check_result("broker-result", text) for text in results)
    assert (asked_1, asked_2) == ("restart mosquitto", "start mosquitto")
    assert asked_3 == "reload-or-restart mosquitto"
    assert (first["service"], first["answers"]) == ("restarted", True)
    assert (again["service"], again["changed"]) == ("checked", [])
    assert (reloaded["service"], reloaded["answers"]) == ("reloaded", True)


@pytest.mark.fleet
def test_after_an_update_the_new_device_is_let_in(tmp_path: Path, root: Path) -> None:
    home, file, device = make_set(tmp_path), tmp_path / "fleet.yaml", tmp_path / "n4"
    cipherfleet = f"{sys.executable} -m cipherfleet_deploy provision"
    enroll = f"{cipherfleet} enroll {home} --auto --json --timeout"
    switch_on = f"{sys.executable} -m cipherfleet_node run {device} 2>{device}/log & device=$!"
    script = f"""
{BOOT}
{cipherfleet} broker {home} --install >/dev/null
sed -i 's/each: 3/each: 4/' {file}
{cipherfleet} update {file} {home} --margin 0 >/dev/null
cp -r {home}/current/nodes/n4 {device}
{switch_on}
{enroll} 3
kill $device; wait $device || true
{cipherfleet} broker {home} --install >/dev/null
{switch_on}
{enroll} 15
kill $device
cat /run/asked
"""
    done = run_with_files(root, script)
    assert done.returncode == 0, done.stdout + done.stderr
    before, after, *asked = done.stdout.splitlines()
    assert json.loads(before)["newly_enrolled"] == []  # its messages are not delivered yet
    assert json.loads(after)["newly_enrolled"] == ["n4"]
    assert asked == ["restart mosquitto", "reload-or-restart mosquitto"]


@pytest.mark.fleet
def test_a_broker_that_does_not_answer_has_its_own_exit_code(tmp_path: Path, root: Path) -> None:
    home = make_set(tmp_path)
    no_systemd = "mount -t tmpfs tmpfs /run"
    done = run_with_files(root, f"{no_systemd}\n{' '.join(COMMAND)} {home} --install --json")
    assert done.returncode == 4, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert "no working broker" in result["problem"]
    assert result["commands"] == ["mosquitto -d -c /etc/mosquitto/mosquitto.conf"]


@pytest.mark.fleet
def test_the_commands_for_another_machine_set_it_up(tmp_path: Path, root: Path) -> None:
    home = make_set(tmp_path)
    *_, unpack, activate = describe_setup(home, None).commands
    # The other machine is this namespace: ssh runs its second argument.
    ssh = 'ssh() { shift; sh -c "$1"; }'
    check = f"{' '.join(COMMAND)} {home} --install --json"
    done = run_with_files(root, f"{BOOT}\n{ssh}\n{unpack}\n{activate}\n{check}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["answers"] is True
