"""Plan the containers of a fleet, and write their folders: for `up`, `compose` and `stack`.

Each container sees only its own folder. To the broker, nodes in containers are other hosts:
they always use TLS, and the broker's certificate has the host name that they use.
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
from cipherfleet_deploy.local.run import NODES_FOLDER, RUN_DAYS, TLS_FOLDER, write_node_folders
from cipherfleet_node import __version__
from cipherfleet_node.settings.sections import Broker, Simulation
from cipherfleet_provisioning.bundles import check_target
from cipherfleet_provisioning.certificates import make_authority, secure, write_authority
from cipherfleet_provisioning.fleet.fleet import Fleet

from .limits import Profile

IMAGE = f"cipherfleet:{__version__}"
IMAGE_USER = 10001  # as in deploy/Dockerfile
# A node's id has no dot, so no node has this name. The brokers of a cluster are broker1.fleet, ...
BROKER_HOST = "broker.fleet"
NODE_PLACE, BROKER_PLACE = "/node", "/broker"
STOP_WITHIN_S = 10


@dataclass(frozen=True)
class Container:
    """One container of a fleet."""

    name: str  # the node's id, or the broker's host name
    folder: Path  # on this machine
    place: str  # where the folder is mounted in the container
    command: tuple[str, ...]
    health: tuple[str, ...]  # the command of the health check
    profile: Profile | None = None
    image: str | None = None  # None: the image of the fleet

    @property
    def is_broker(self) -> bool:
        """True if the container runs a broker of the fleet."""
        return "." in self.name


def node_container(name: str, folder: Path, profile: Profile | None) -> Container:
    """Plan the container of the node *name*."""
    return Container(
        name,
        folder,
        NODE_PLACE,
        ("cipherfleet-node", "run", NODE_PLACE),
        ("cipherfleet-node", "health", NODE_PLACE),
        profile,
    )


def broker_container(folder: Path, host: str = BROKER_HOST) -> Container:
    """Plan the container of the broker at *host*. It has no profile: a broker is not a device."""
    # A member of a cluster cannot carry a message while other members are missing. It must not
    # count as unhealthy for that: with --alone the health check tests only that it listens.
    alone = () if host == BROKER_HOST else ("--alone",)
    return Container(
        host,
        folder,
        BROKER_PLACE,
        ("nats-server", "--config", f"{BROKER_PLACE}/nats-server.conf"),
        ("python", "-m", "cipherfleet_broker", BROKER_PLACE, *alone),
    )


def broker_hosts(count: int) -> tuple[str, ...]:
    """Return the host names under which nodes and brokers reach the *count* brokers."""
    name, domain = BROKER_HOST.split(".")
    if count == 1:
        return (BROKER_HOST,)
    return tuple(f"{name}{number}.{domain}" for number in range(1, count + 1))


def prepare_containers(
    fleet: Fleet,
    out: Path,
    simulation: Simulation,
    profile: Profile | None,
    console: Console,
    brokers: int = 1,
) -> tuple[Container, ...]:
    """Write <out>/nodes/ID, <out>/broker and <out>/tls. Return the containers, brokers first.

    Several *brokers* form a cluster, with the folders <out>/broker1 and so on. The folder <out>/tls
    holds the keys of the authority and of the operator; no container sees it. Raises ConfigError if
    one of the folders exists.
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
    sections = [Broker(host=host, port=TLS_PORT, tls=True) for host in hosts]
    addresses = {name: sections[place] for name, place in fleet.places(brokers).items()}
    bundles = write_node_folders(fleet, out, addresses, authority, simulation, console)
    peers = tuple(Peer(host) for host in hosts)
    for own, folder in enumerate(places.values()):
        member = ClusterMember(fleet.file.fleet, peers, own) if brokers > 1 else None
        _write_broker(folder, security, member)
    return (
        *(broker_container(folder, host) for host, folder in places.items()),
        *(node_container(name, each, profile) for name, each in bundles.items()),
    )


def _write_broker(folder: Path, security: Security, member: ClusterMember | None) -> None:
    """Write the folder of a broker: its own keys, those of its health check, and its settings."""
    folder.mkdir(mode=0o700)
    place = Path(BROKER_PLACE)

    def copy(file: Path) -> Path:
        shutil.copy(file, folder)  # keeps the mode
        return place / file.name

    def copy_identity(identity: Identity) -> Identity:
        return Identity(copy(identity.certificate), copy(identity.key))

    inside = replace(
        security,
        ca=copy(security.ca),
        broker=copy_identity(security.broker),
        health=copy_identity(security.health),
        link=copy_identity(security.link) if security.link else None,
        listen="0.0.0.0",  # noqa: S104  # in a container, on the fleet's own network
    )
    text = configuration(place, TLS_PORT, inside, member=member)
    (folder / "nats-server.conf").write_text(text)


def hand_over(folder: Path, user: str) -> None:
    """Make *user* ('uid:gid') the owner of *folder* and its content.

    This happens only if this process is root and *user* is not.
    """
    if os.geteuid() != 0 or user.startswith("0:"):
        return
    uid, gid = map(int, user.split(":"))
    for place in (folder, *folder.rglob("*")):
        os.chown(place, uid, gid, follow_symlinks=False)


def container_user(*, rootless: bool) -> str:
    """Return the user ('uid:gid') of the containers: never root of this machine.

    With a rootless engine, root in a container is this user outside of it.
    """
    if rootless:
        return "0:0"
    if os.geteuid() == 0:
        return f"{IMAGE_USER}:{IMAGE_USER}"
    return f"{os.geteuid()}:{os.getegid()}"
