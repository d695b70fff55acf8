"""A fleet whose first node comes on a card, for the tests of installed devices."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from cipherfleet_broker import Security
from cipherfleet_deploy import provision_session as provision
from cipherfleet_deploy.cards.boot_partition import open_folder
from cipherfleet_deploy.cards.card import Extras, find_bundle, write_seed
from cipherfleet_deploy.data_folders import devices_folder
from cipherfleet_deploy.provision_session import Consent, Reach
from cipherfleet_node.errors import StateCorrupt
from cipherfleet_node.runtime.store import read_state
from cipherfleet_node.settings.sections import Broker, Simulation
from cipherfleet_provisioning.broker_files import BROKER_FOLDER, make_security
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.fleet.fleet import load_fleet
from cipherfleet_provisioning.ledger import Maker, read_ledger
from tests.support.launcher import shared_launcher
from tests.support.paths import ROOT

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
# Not the default address: a certificate for the default alone must not do.
BROKER_HOST = "127.0.0.2"
ACCEPT_ALL = Consent(auto=True)
CREDENTIALS = ("keys/paillier.json", "keys/identity.pem", "keys/seal.pem", "tls/node.key")


def fill_wheelhouse(place: Path, target: Sequence[str] = ()) -> Path:
    """The wheels of cipherfleet, of all that a device needs for it, and of pip.

    *target* are pip's options for another system than this one.
    """
    locked = ("--only-binary=:all:", "--require-hashes", "-r", f"{ROOT}/locked/device.txt")
    own = ("--no-deps", "--no-index", "--no-build-isolation")  # the test environment has hatchling
    for command in (
        ("wheel", *own, "-w", str(place), str(ROOT)),
        ("download", *target, "-d", str(place), *locked),
    ):
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


@dataclass(frozen=True)
class Site:
    """A provisioned fleet and what its broker needs."""

    port: int
    bundles: dict[str, Path]  # the folders of the nodes, ours to change
    nodes: Path  # the folder that holds them
    security: Security | None = None  # None: plain TCP
    home: Path | None = None  # the provisioned set, with TLS

    def enrol(self) -> None:
        """Accept the claims of all devices, which must be running."""
        assert self.home is not None
        summary = provision.enroll(self.home, ACCEPT_ALL, Reach(timeout_s=60))
        assert (summary.pending, summary.refused, summary.awaited) == ([], {}, [])


def plain_site(folder: Path) -> Site:
    """The fleet on plain TCP, with keys that are made here."""
    (folder / "fleet.yaml").write_text(FLEET)
    fleet, port = load_fleet(folder / "fleet.yaml"), free_port()
    bundles = write_bundles(fleet, folder / "nodes", Broker(port=port), Simulation())
    return Site(port, bundles, folder / "nodes")


def secured_site(folder: Path, maker: Maker, settings: str = "") -> Site:
    """The fleet with TLS, as `cipherfleet provision bundle` makes it; *settings* are added."""
    port, home, nodes = free_port(), folder / "set", folder / "nodes"
    broker = f"broker: {{host: {BROKER_HOST}, port: {port}, tls: true}}\n"
    (folder / "fleet.yaml").write_text(FLEET + broker + settings)
    provision.bundle(folder / "fleet.yaml", home, maker, Console(quiet=True))
    shutil.copytree(home / "current" / "nodes", nodes)
    kept = Path(shutil.copytree(home / "current" / BROKER_FOLDER, folder / "broker"))
    security = make_security(kept, read_ledger(home / "current"))
    bundles = {name: nodes / name for name in (NODE, *OTHERS)}
    return Site(port, bundles, nodes, replace(security, listen=BROKER_HOST), home)


def free_port() -> int:
    """A port that nobody listens at, on all addresses of this machine."""
    with socket.create_server(("", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def make_card(folder: Path, bundles: Path, wheels: Path | None) -> Path:
    """A boot partition as Raspberry Pi OS brings it, seeded; without *wheels*, for a device that
    has the programs."""
    folder.mkdir(parents=True)
    for name in ("config.txt", "cmdline.txt", "user-data", "meta-data", "network-config"):
        (folder / name).write_text("")
    write_seed(find_bundle(NODE, bundles), open_folder(folder), Extras(wheels))
    return folder


@contextmanager
def others_running(bundles: dict[str, Path]) -> Iterator[None]:
    """The other nodes, as processes of this machine."""
    running = []
    try:
        for name in OTHERS:
            running.append(shared_launcher().start(bundles[name], bundles[name] / "log"))
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


# -- installed under a prefix ---------------------------------------------------------------------


def run_script(
    name: str | Path, *arguments: str | Path, root: Path
) -> subprocess.CompletedProcess[str]:
    """Run a script of the device under the prefix *root*."""
    place = name if isinstance(name, Path) else devices_folder() / name
    return subprocess.run(
        ["sh", place, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "DESTDIR": str(root)},
    )


def install_this_version(root: Path) -> None:
    """Let the source that is tested be the version to run, without wheels."""
    programs = root / "opt/cipherfleet/versions/here/bin"
    programs.mkdir(parents=True)
    for name, module in (("python", ""), ("cipherfleet-node", "-m cipherfleet_node")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
        (programs / name).chmod(0o755)
    (root / "opt/cipherfleet/current").symlink_to("versions/here")


@dataclass(frozen=True)
class Service:
    """What systemd would start under a prefix."""

    command: list[str]
    environment: dict[str, str]


def service_of(root: Path, credentials: Path) -> Service:
    """The service of the unit under *root*, with its credentials copied as LoadCredential= says."""
    unit = (root / "etc/systemd/system/cipherfleet-node.service").read_text().splitlines()
    (started,) = (line.partition("=")[2] for line in unit if line.startswith("ExecStart="))
    program, verb, folder = started.split()
    if credentials.exists():
        shutil.rmtree(credentials)  # they last as long as the service
    credentials.mkdir(parents=True)
    for line in unit:
        if line.startswith("LoadCredential="):
            name, _, file = line.partition("=")[2].partition(":")
            shutil.copyfile(f"{root}{file}", credentials / name)
            (credentials / name).chmod(0o400)
    environment = {"PATH": "/usr/bin:/bin", "CREDENTIALS_DIRECTORY": str(credentials)}
    return Service([f"{root}{program}", verb, f"{root}{folder}"], environment)


class InstalledDevice:
    """A node as install.sh leaves it, under a prefix, and its service."""

    def __init__(self, place: Path, name: str, archive: Path) -> None:
        self._settle(place, name)
        install_this_version(self.root)
        done = run_script("install.sh", "--bundle", archive, root=self.root)
        assert done.returncode == 0, done.stdout + done.stderr

    def _settle(self, place: Path, name: str) -> None:
        self.name, self.root = name, place / "root"
        self.state = self.root / "var/lib/cipherfleet" / name
        self.kept = self.root / "etc/cipherfleet" / name
        self.log = place / "log"
        self._credentials = place / "credentials"
        self._process: subprocess.Popen[bytes] | None = None

    def copy_to(self, place: Path) -> InstalledDevice:
        """Return another device with the same files, under a prefix in *place*."""
        twin = InstalledDevice.__new__(InstalledDevice)
        twin._settle(place, self.name)
        shutil.copytree(self.root, twin.root, symlinks=True)
        return twin

    def start(self) -> None:
        """Start the service as systemd would."""
        service = service_of(self.root, self._credentials)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                service.command, cwd="/", env=service.environment, stderr=log
            )

    def stop(self) -> None:
        """End the service."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)

    def run(self, command: str, *, as_service: bool = True) -> subprocess.CompletedProcess[str]:
        """`cipherfleet-node` *command* on this device, with its credentials or without."""
        service = service_of(self.root, self._credentials.with_name("looked-at"))
        environment = service.environment if as_service else {"PATH": "/usr/bin:/bin"}
        words = [service.command[0], *command.split(), service.command[2]]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)

    @property
    def round(self) -> int:
        """The latest round that is saved, -1 before the first."""
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            saved = read_state(self.state)
        except StateCorrupt:
            return -1  # between two looks at it the node has replaced it
        return saved.round if saved else -1
