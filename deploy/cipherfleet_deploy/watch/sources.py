"""Find what `cipherfleet watch` needs: broker address, TLS certificate and the nodes' public keys.

The source is a fleet.yaml, a provisioned set, or the --out folder of `run` or `fleet up`.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cipherfleet_broker.running import parse_address
from cipherfleet_deploy.cards.identity import read_record
from cipherfleet_deploy.containers.plan import BROKER_HOST
from cipherfleet_deploy.local.run import NODES_FOLDER, TLS_FOLDER
from cipherfleet_node.core.wire import Verifier
from cipherfleet_node.errors import BrokerUnreachable, ConfigError
from cipherfleet_node.keys.key_files import NEIGHBOURS_FOLDER, identity_from_text
from cipherfleet_node.keys.tls import client_context
from cipherfleet_node.settings.node_yaml import CA_FILE, NODE_FILE, load_node_config
from cipherfleet_node.settings.sections import Broker
from cipherfleet_provisioning.certificates import WATCHER_STEM
from cipherfleet_provisioning.fleet.fleet import load_fleet
from cipherfleet_provisioning.ledger import Entry, read_ledger
from cipherfleet_provisioning.operations import OPERATOR_FOLDER
from cipherfleet_provisioning.operator_session import AcceptAnySignature, operator_context
from cipherfleet_provisioning.sets import CURRENT, find_current_set
from cipherfleet_provisioning.topology.graph import NO_GRAPH, Graph

from .table import SEEDED, UNENROLLED


@dataclass(frozen=True)
class WatchedFleet:
    """Everything that `cipherfleet watch` needs to connect to a fleet."""

    fleet: str
    where: tuple[str, int]
    context: ssl.SSLContext | None  # None: without TLS
    verifiers: Mapping[str, Verifier]  # by node id; AcceptAnySignature if its key is not known
    graph: Graph = NO_GRAPH  # as it is configured, whether or not its nodes have reported
    expected: Mapping[str, str] = field(default_factory=dict)  # devices not installed yet
    membership: tuple[int, int] | None = None  # version of the latest, and its first round
    home: Path | None = None  # folder of the provisioned set; None: another source
    place: Path | None = None  # the version of the set that was current when it was read

    @property
    def is_outdated(self) -> bool:
        """True if the set has been replaced since it was read, by new nodes or new keys."""
        return self.home is not None and find_current_set(self.home) != self.place


def find_fleet(place: Path, broker: str | None) -> WatchedFleet:
    """Read *place*, a fleet.yaml or a folder. *broker* (HOST:PORT) overrides the address in it.

    Raises ConfigError. Raises BrokerUnreachable if the broker should run in a container and does
    not.
    """
    if not place.is_dir():
        return _read_file(place, broker)
    if (place / CURRENT).is_symlink():
        return _read_set(place, broker)
    if (place / NODES_FOLDER).is_dir():
        return _read_run(place, broker)
    raise ConfigError(
        f"{place}: holds no fleet",
        remedy=(
            "name a fleet.yaml, the folder of cipherfleet provision bundle, or the --out folder "
            "of cipherfleet run or fleet up"
        ),
    )


def _read_file(file: Path, broker: str | None) -> WatchedFleet:
    fleet = load_fleet(file)
    settings = fleet.file.broker
    if settings.tls:
        raise ConfigError(
            f"{file}: broker.tls is true, and the operator's certificate is not in this file",
            remedy=(
                "name the folder of cipherfleet provision bundle, or the --out folder of the run "
                "instead"
            ),
        )
    names = [member.id for member in fleet.members]
    return WatchedFleet(
        fleet.file.fleet,
        _address(settings, broker),
        None,
        _accept_any_signature(names),
        fleet.graph,
    )


def _read_set(home: Path, broker: str | None) -> WatchedFleet:
    place = find_current_set(home)
    assert place is not None  # the caller has seen the link
    ledger = read_ledger(place)
    context = _load_set_context(place / OPERATOR_FOLDER) if ledger.broker.tls else None
    verifiers = {name: _verifier(ledger.members[name]) for name in ledger.present}
    where = _address(ledger.broker, broker)
    expected = dict.fromkeys(ledger.list_members("pending"), UNENROLLED)
    expected |= {name: SEEDED for name in ledger.present if read_record(home, name) is not None}
    return WatchedFleet(
        ledger.fleet,
        where,
        context,
        verifiers,
        ledger.graph,
        expected=expected,
        membership=(ledger.version, ledger.from_round) if ledger.version else None,
        home=home,
        place=place,
    )


def _load_set_context(folder: Path) -> ssl.SSLContext:
    if (folder / f"{WATCHER_STEM}.pem").exists():
        return operator_context(folder, WATCHER_STEM)
    return operator_context(folder)  # an older set has no certificate for watchers


def _verifier(entry: Entry) -> Verifier:
    if entry.public_keys is None:  # not claimed yet
        return AcceptAnySignature()
    return Ed25519PublicKey.from_public_bytes(entry.public_keys.identity)


def find_node_folders(out: Path) -> list[Path]:
    """Return the folders of the nodes of a run. Raises ConfigError if there is none."""
    folders = sorted(file.parent for file in (out / NODES_FOLDER).glob(f"*/{NODE_FILE}"))
    if not folders:
        raise ConfigError(
            f"{out / NODES_FOLDER}: holds no folder of a node",
            remedy="if the run has just started, try again",
        )
    return folders


def read_run_graph(folders: Sequence[Path]) -> Graph:
    """Return the graph of a run, from the neighbours that each node's folder names."""
    names = [folder.name for folder in folders]
    order = {name: place for place, name in enumerate(names)}
    pairs = {
        (folder.name, file.stem)
        for folder in folders
        for file in (folder / NEIGHBOURS_FOLDER).glob("*.json")
        if file.stem in order
    }
    edges = {(min(pair, key=order.__getitem__), max(pair, key=order.__getitem__)) for pair in pairs}
    return Graph(tuple(names), tuple(sorted(edges)))


def _read_run(out: Path, broker: str | None) -> WatchedFleet:
    folders = find_node_folders(out)
    config = load_node_config(folders[0])  # fleet and broker are the same for all nodes
    names = [folder.name for folder in folders]
    verifiers = _accept_any_signature(names)
    for file in sorted((out / NODES_FOLDER).glob(f"*/{NEIGHBOURS_FOLDER}/*.json")):
        if isinstance(verifiers.get(file.stem), AcceptAnySignature):
            verifiers[file.stem] = _read_identity(file)
    if broker is None and config.broker.host == BROKER_HOST:
        where = container_address(config.fleet), config.broker.port
    else:
        where = _address(config.broker, broker)
    context = _load_run_context(out / TLS_FOLDER, config.broker.host) if config.broker.tls else None
    return WatchedFleet(config.fleet, where, context, verifiers, read_run_graph(folders))


def _read_identity(file: Path) -> Verifier:
    """Return the public identity key in *file*, the copy that one of the node's neighbours has."""
    try:
        return identity_from_text(json.loads(file.read_bytes())["identity"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"{file}: holds no public identity",
            remedy="name the --out folder of cipherfleet run or fleet up",
        ) from None


def _accept_any_signature(names: list[str]) -> dict[str, Verifier]:
    return {name: AcceptAnySignature() for name in names}


def _address(settings: Broker, broker: str | None) -> tuple[str, int]:
    return (settings.host, settings.port) if broker is None else parse_address(broker)


# -- the certificate authority of a run ---------------------------------------------------------


class _NamedContext(ssl.SSLContext):
    """Expects a certificate for *server_name*, at any address under which the broker is reached."""

    server_name: str

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        return super().wrap_socket(*args, **{**options, "server_hostname": self.server_name})


def _load_run_context(tls: Path, server_name: str) -> ssl.SSLContext:
    files = tls / CA_FILE, tls / f"{WATCHER_STEM}.pem", tls / f"{WATCHER_STEM}.key"
    try:
        context = client_context(*files, kind=_NamedContext)
    except OSError as error:  # SSLError is a subclass
        raise ConfigError(f"{tls}: the operator's certificate cannot be used: {error}") from None
    assert isinstance(context, _NamedContext)
    context.server_name = server_name
    return context


# -- a broker in a container --------------------------------------------------------------------


def container_address(fleet: str) -> str:
    """Return the address of the fleet's broker on the fleet's internal Docker network.

    This machine can reach that network. Raises BrokerUnreachable if no such container runs.
    """
    from cipherfleet_deploy.containers.engine import ContainerEngine  # only this needs Docker

    with ContainerEngine() as engine:
        for each in engine.containers(fleet):
            if each.name == BROKER_HOST and each.state == "running":
                return each.address
    raise BrokerUnreachable(
        f"the broker of the fleet {fleet!r} does not run in a container on this machine",
        remedy=(
            "start it with cipherfleet fleet up FILE, or name another broker with --broker "
            "HOST:PORT"
        ),
    )
