"""From nothing to a fleet of three devices with six commands, as docs/how-to/devices.md says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from cipherfleet_deploy.cards.boot_partition import open_image
from cipherfleet_provisioning.ledger import read_ledger
from tests.support.card_image import TRIXIE, make_image, needs_tools
from tests.support.debian_mosquitto import debian_mosquitto, find_obstacle, prepare
from tests.support.device_card import InstalledDevice, free_port
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "how-to" / "devices.md"
NODES = ("node1", "node2", "node3")
WITHIN_S = 120.0


class Workstation:
    """A shell that keeps the commands; DESTDIR is a prefix of what they install."""

    def __init__(self, folder: Path, prefix: Path) -> None:
        self.commands = ["pip install"]  # this environment
        self._folder = folder
        self._environment = {**os.environ, "DESTDIR": str(prefix)}

    def cipherfleet(self, line: str) -> str:
        self.commands.append(f"cipherfleet {line}")
        done = subprocess.run(
            [sys.executable, "-m", "cipherfleet_deploy", *line.split()],
            cwd=self._folder, env=self._environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        return done.stdout


def settings_of_the_operator(file: Path) -> None:
    """What one edits between two commands; a round a minute would be slow for a test."""
    text = file.read_text()
    assert "period_s: 60" in text
    file.write_text(text.replace("period_s: 60", "period_s: 0.3"))


def wheels_of_an_earlier_set(home: Path) -> None:
    """Another test collects wheels; these devices run the source that is tested."""
    folder = home / "wheels" / "3.13"
    folder.mkdir(parents=True)
    (folder / "cipherfleet-0.1.0-py3-none-any.whl").write_bytes(b"")


def switch_on(card: Path, place: Path) -> InstalledDevice:
    """Install a device from its card, under a prefix, and start its service."""
    volume = open_image(card)
    assert volume.read("cipherfleet/pending") == b""
    archive = place / "bundle.tar.gz"
    place.mkdir(parents=True)
    archive.write_bytes(volume.read("cipherfleet/bundle.tar.gz") or b"")
    device = InstalledDevice(place, card.stem, archive)
    device.start()
    return device


def await_rounds(devices: list[InstalledDevice], number: int) -> None:
    ends = time.monotonic() + WITHIN_S
    while not all(device.round >= number for device in devices):
        logs = "".join(f"\n{each.name}: {each.log.read_text()[-1500:]}" for each in devices)
        assert time.monotonic() < ends, f"round {number} was not closed{logs}"
        time.sleep(0.1)


@needs_tools
@pytest.mark.fleet
def test_six_commands_lead_to_three_devices_that_have_joined(tmp_path: Path) -> None:
    if obstacle := find_obstacle(tmp_path):
        pytest.skip(f"THE FIRST FLEET WAS NOT TRIED: {obstacle}")
    root = prepare(tmp_path / "broker")
    home = tmp_path / "my-set"
    shell = Workstation(tmp_path, root)
    make_image(tmp_path / "raspios.img", "dos", "32", TRIXIE)

    shell.cipherfleet(f"init my-fleet --nodes 3 --broker localhost:{free_port()} --key-bits 512")
    settings_of_the_operator(tmp_path / "my-fleet" / "fleet.yaml")
    said = shell.cipherfleet("provision bundle my-fleet/fleet.yaml my-set")
    next_steps = re.findall(r"^  .*: cipherfleet ([\w ]+)", said, re.M)
    shell.cipherfleet("provision broker my-set --install")
    wheels_of_an_earlier_set(home)
    shell.cipherfleet("provision seed --all my-set --image raspios.img --out cards --python 3.13")
    with debian_mosquitto(root), ExitStack() as running:
        devices = []
        for name in NODES:
            device = switch_on(tmp_path / "cards" / f"{name}.img", tmp_path / "devices" / name)
            running.callback(device.stop)
            devices.append(device)
        shell.cipherfleet("provision enroll my-set --auto --timeout 60")
        assert read_ledger(home / "current").list_members("enrolled") == list(NODES)
        await_rounds(devices, 3)

    assert len(shell.commands) == 6
    verbs = [re.sub(r"^cipherfleet ((provision )?\w+).*", r"\1", each) for each in shell.commands]
    assert [step.split(" my")[0].strip() for step in next_steps] == [*verbs[3:], "watch"]
    page = PAGE.read_text().replace("sudo ", "")
    for verb in verbs[1:]:
        assert f"\n$ cipherfleet {verb} " in page, f"{verb} is not on the page"
