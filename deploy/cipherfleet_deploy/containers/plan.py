"""From a checked fleet to folders and a list of containers: for `up`, `compose` and `stack`.

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
from cipherfleet_broker.program import ClusterMember, Peer
from cipherfleet_broker.security import TLS_PORT, Identity, Security
from cipherfleet_deploy.local.run import NODES_FOLDER, RUN_DAYS, TLS_FOLDER, provision
from cipherfleet_node import __version__
from cipherfleet_node.settings.sections import Broker, Simulation
from cipherfleet_provisioning.bundles import check_target
from cipherfleet_provisioning.certificates import make_authority, secure, write_authority
from cipherfleet_provisioning.fleet.fleet import Fleet

from .limits import Profile

IMAGE = f"cipherfleet:{__version__}"
IMAGE_USER = 10001  # as in deploy/Dockerfile
# A node's id has no dot, so no node is called this; those of a cluster are broker1.fleet, ...
BROKER_HOST = "broker.fleet"
NODE_PLACE, BROKER_PLACE = "/node", "/broker"
STOP_WITHIN_S = 10


@dataclass(frozen=True)
class Container:
    """One container of a fleet."""

    name: str  # a node's id, or a broker's host
    folder: Path  # on this machine
    place: str  # of the folder inside
    command: tuple[str, ...]
    health: tuple[str, ...]
    profile: Profile | None = None
    image: str | None = None  # None: that of the fleet

    @property
    def is_broker(self) -> bool:
        """Whether it is a broker of the fleet."""
        return "." in self.name


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


def broker_container(folder: Path, host: str = BROKER_HOST) -> Container:
    """The container of the broker at *host*; no profile, since it is no device."""
    # A member of a cluster is not to blame, and not to be started again, where others are missing.
    alone = () if host == BROKER_HOST else ("--alone",)
    return Container(
        host,
        folder,
        BROKER_PLACE,
        ("nats-server", "--config", f"{BROKER_PLACE}/nats-server.conf"),
        ("python", "-m", "cipherfleet_broker", BROKER_PLACE, *alone),
    )


def broker_hosts(count: int) -> tuple[str, ...]:
    """What the brokers are called by the nodes and each other."""
    name, domain = BROKER_HOST.split(".")
    if count == 1:
        return (BROKER_HOST,)
    return tuple(f"{name}{number}.{domain}" for number in range(1, count + 1))


def prepare(
    fleet: Fleet,
    out: Path,
    simulation: Simulation,
    profile: Profile | None,
    console: Console,
    brokers: int = 1,
) -> tuple[Container, ...]:
    """Make <out>/nodes/ID, <out>/broker and <out>/tls; the containers, those of brokers first.

    Several *brokers* are a cluster, in <out>/broker1 and so on.

    The last, with the authority's and the operator's keys, is for no container. Raises ConfigError
    if one of them exists.
    """
    tls, hosts = out / TLS_FOLDER, broker_hosts(brokers)
    places = {host: out / host.partition(".")[0] for host in hosts}
    for folder in (out / NODES_FOLDER, tls, *places.values()):
        check_target(folder)
    tls.mkdir(mode=0o700, parents=True)
    now = datetime.now(UTC)
    authority = make_authority(fleet.file.fleet, now, RUN_DAYS)
    write_authority(tls, authority)
    security = secure(fleet, authority, tls, now, hosts, links=brokers > 1)
    told = [Broker(host=host, port=TLS_PORT, tls=True) for host in hosts]
    addresses = {name: told[place] for name, place in fleet.places(brokers).items()}
    bundles = provision(fleet, out, addresses, authority, simulation, console)
    peers = tuple(Peer(host) for host in hosts)
    for own, folder in enumerate(places.values()):
        member = ClusterMember(fleet.file.fleet, peers, own) if brokers > 1 else None
        _write_broker(folder, security, member)
    return (
        *(broker_container(folder, host) for host, folder in places.items()),
        *(node_container(name, each, profile) for name, each in bundles.items()),
    )


def _write_broker(folder: Path, security: Security, member: ClusterMember | None) -> None:
    """The folder of a broker: its own keys and those of its health check."""
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
        link=moved(security.link) if security.link else None,
        listen="0.0.0.0",  # noqa: S104  # of a container on a network of its own
    )
    text = configuration(place, TLS_PORT, inside, member=member)
    (folder / "nats-server.conf").write_text(text)


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
