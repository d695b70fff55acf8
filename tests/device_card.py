"""A fleet whose first node comes on a card: what the tests of installed devices share."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cipherfleet_deploy.boot_partition import open_folder
from cipherfleet_deploy.card import Extras, find_source, write_seed
from cipherfleet_node.config import Broker, Simulation
from cipherfleet_node.errors import StateCorrupt
from cipherfleet_node.store import read_state
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.fleet import load_fleet

ROOT = Path(__file__).parent.parent
NODE, OTHERS = "attic", ("barn", "cellar")
FLEET = """\
config_version: 1
fleet: lab
algorithm: {period_s: 0.3}
objective: {kind: average, values: [{field: t}]}
topology: {kind: ring}
nodes:
  - {id: attic, sensor: {kind: synthetic, fields: {t: {mean: 10}}}}
  - {id: barn, sensor: {kind: synthetic, fields: {t: {mean: 20}}}}
  - {id: cellar, sensor: {kind: synthetic, fields: {t: {mean: 60}}}}
"""
ANSWER = 30.0


def fill_wheelhouse(place: Path) -> Path:
    """The wheels of cipherfleet, of all that a device needs for it, and of pip."""
    locked = ("--only-binary=:all:", "--require-hashes", "-r", ROOT / "locked/device.txt")
    for command in (("wheel", "--no-deps", "-w", place, ROOT), ("download", "-d", place, *locked)):
        pip = [sys.executable, "-m", "pip", "-q", *command]
        subprocess.run(pip, check=True, capture_output=True)
    return place


def spoil(wheels: Path, place: Path) -> Path:
    """A wheelhouse whose cipherfleet is of another version, and needs what is not there."""
    place.mkdir()
    for wheel in wheels.glob("*.whl"):
        if not wheel.name.startswith("cipherfleet-"):
            (place / wheel.name).hardlink_to(wheel)
    (good,) = wheels.glob("cipherfleet-*.whl")
    with (
        zipfile.ZipFile(good) as old,
        zipfile.ZipFile(place / "cipherfleet-9.9.9-py3-none-any.whl", "w") as new,
    ):
        for name in old.namelist():
            data = old.read(name)
            if name.endswith(".dist-info/METADATA"):
                data = data.replace(b"\nVersion: 0.1.0\n", b"\nVersion: 9.9.9\n")
                data = data.replace(
                    b"\nRequires-Dist: ", b"\nRequires-Dist: nowhere\nRequires-Dist: ", 1
                )
            new.writestr(name.replace("-0.1.0.dist-info", "-9.9.9.dist-info"), data)
    return place


def make_bundles(folder: Path, port: int) -> dict[str, Path]:
    """The folders of the fleet's nodes."""
    (folder / "fleet.yaml").write_text(FLEET)
    fleet = load_fleet(folder / "fleet.yaml")
    return write_bundles(fleet, folder / "nodes", Broker(port=port), Simulation())


def make_card(folder: Path, bundles: Path, wheels: Path) -> Path:
    """A boot partition as Raspberry Pi OS brings it, seeded."""
    folder.mkdir(parents=True)
    for name in ("config.txt", "cmdline.txt", "user-data", "meta-data", "network-config"):
        (folder / name).write_text("")
    write_seed(find_source(NODE, bundles), open_folder(folder), Extras(wheels))
    return folder


@contextmanager
def others_running(bundles: dict[str, Path]) -> Iterator[None]:
    """The other nodes, as processes of this machine."""
    running = []
    try:
        for name in OTHERS:
            with (bundles[name] / "log").open("wb") as log:
                command = [sys.executable, "-m", "cipherfleet_node", "run", str(bundles[name])]
                running.append(subprocess.Popen(command, stderr=log))
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(20)


def has_joined(node: Path, after: int = 0) -> bool:
    """Whether the node in the folder *node* agrees with the fleet, beyond round *after*."""
    try:
        state = read_state(node)
    except StateCorrupt:
        return False  # between two looks at it the node has replaced it
    if state is None or state.estimate is None or state.round <= after:
        return False
    return abs(state.estimate[0] - ANSWER) < 1e-3
