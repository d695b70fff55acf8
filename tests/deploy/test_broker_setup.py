"""The broker's files of a set on a machine with Debian's mosquitto."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest
from rich.console import Console

from cipherfleet_broker import check_broker
from cipherfleet_deploy import provision_session as provision
from cipherfleet_node.errors import BrokerUnreachable
from cipherfleet_provisioning.broker_files import BROKER_FOLDER, make_security
from cipherfleet_provisioning.ledger import read_ledger
from tests.support.debian_mosquitto import debian_mosquitto, find_obstacle, prepare
from tests.support.device_card import free_port

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
