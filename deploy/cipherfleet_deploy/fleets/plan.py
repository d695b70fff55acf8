"""From a checked fleet to folders and a list of containers: what `up` and `compose` both use.

Every container sees its own folder and no other. Nodes in containers are other hosts to the broker,
so they always speak TLS with it, and its certificate names it as they call it.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from cipherfleet_broker.embedded import configuration
from cipherfleet_broker.security import TLS_PORT, Identity, Security
from cipherfleet_deploy.run import NODES_FOLDER, RUN_DAYS, TLS_FOLDER, provision
from cipherfleet_node import __version__
from cipherfleet_node.config import Broker, Simulation
from cipherfleet_provisioning.bundles import check_target
from cipherfleet_provisioning.certificates import make_authority, secure, write_authority
from cipherfleet_provisioning.fleet import Fleet

from .profiles import Profile

IMAGE = f"cipherfleet:{__version__}"
IMAGE_USER = 10001  # as in deploy/Dockerfile
# A node's id has no dot, so no node is called this.
BROKER_HOST = "broker.fleet"
BROKER_FOLDER = "broker"
NODE_PLACE, BROKER_PLACE = "/node", "/broker"
STOP_WITHIN_S = 10


@dataclass(frozen=True)
class Container:
    """One container of a fleet."""

    name: str  # a node's id, or BROKER_HOST
    folder: Path  # on this machine
    place: str  # of the folder inside
    command: tuple[str, ...]
    health: tuple[str, ...]
    profile: Profile | None = None

    @property
    def is_broker(self) -> bool:
        """Whether it is the fleet's broker."""
        return self.name == BROKER_HOST


def node_container(name: str, folder: Path, profile: Profile | None) -> Container:
    """The container of the node *name*."""
    return Container(
        name,
        folder,
        NODE_PLACE,
        ("cipherfleet-node", "run", NODE_PLACE),
        ("cipherfleet-node", "health", NODE_PLACE),
        profile,
    )


def broker_container(folder: Path) -> Container:
    """The container of the broker; no profile, since it is no device."""
    return Container(
        BROKER_HOST,
        folder,
        BROKER_PLACE,
        ("nats-server", "--config", f"{BROKER_PLACE}/nats-server.conf"),
        ("python", "-m", "cipherfleet_broker", BROKER_PLACE),
    )


def broker_address() -> Broker:
    """How the nodes reach the broker."""
    return Broker(host=BROKER_HOST, port=TLS_PORT, tls=True)


def prepare(
    fleet: Fleet, out: Path, simulation: Simulation, profile: Profile | None, console: Console
) -> tuple[Container, ...]:
    """Make <out>/nodes/ID, <out>/broker and <out>/tls; the containers, that of the broker first.

    The last, with the authority's and the operator's keys, is for no container. Raises ConfigError
    if one of them exists.
    """
    tls = out / TLS_FOLDER
    for folder in (out / NODES_FOLDER, out / BROKER_FOLDER, tls):
        check_target(folder)
    tls.mkdir(mode=0o700, parents=True)
    now = datetime.now(UTC)
    authority = make_authority(fleet.file.fleet, now, RUN_DAYS)
    write_authority(tls, authority)
    security = secure(fleet, authority, tls, now, [BROKER_HOST])
    bundles = provision(fleet, out, broker_address(), authority, simulation, console)
    broker = broker_container(_write_broker(out / BROKER_FOLDER, security))
    return (broker, *(node_container(name, each, profile) for name, each in bundles.items()))


def _write_broker(folder: Path, security: Security) -> Path:
    """The folder of the broker: its own keys and those of its health check."""
    folder.mkdir(mode=0o700)
    place = Path(BROKER_PLACE)

    def move(file: Path) -> Path:
        shutil.copy(file, folder)  # with its mode
        return place / file.name

    def moved(identity: Identity) -> Identity:
        return Identity(move(identity.certificate), move(identity.key))

    inside = replace(
        security,
        ca=move(security.ca),
        broker=moved(security.broker),
        health=moved(security.health),
        listen="0.0.0.0",  # noqa: S104  # of a container on a network of its own
    )
    (folder / "nats-server.conf").write_text(configuration(place, TLS_PORT, inside))
    return folder


def hand_over(folder: Path, user: str) -> None:
    """Make *user* ('uid:gid') the owner of all in *folder*, where we are root and it is not."""
    if os.geteuid() != 0 or user.startswith("0:"):
        return
    uid, gid = map(int, user.split(":"))
    for place in (folder, *folder.rglob("*")):
        os.chown(place, uid, gid, follow_symlinks=False)


def container_user(*, rootless: bool) -> str:
    """Who reads and writes the folders inside: never root of this machine.

    A rootless engine shows us as root inside, who is nobody else outside.
    """
    if rootless:
        return "0:0"
    if os.geteuid() == 0:
        return f"{IMAGE_USER}:{IMAGE_USER}"
    return f"{os.geteuid()}:{os.getegid()}"
