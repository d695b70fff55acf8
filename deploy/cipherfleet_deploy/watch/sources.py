"""Where a fleet's broker is, who may watch there, and whose signatures are known.

From a fleet.yaml, a provisioned set, or the folder that `run` and `fleet up` write.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cipherfleet_broker.running import parse_address
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
from cipherfleet_provisioning.operator_session import Anybody, operator_context
from cipherfleet_provisioning.sets import CURRENT, current


@dataclass(frozen=True)
class Watched:
    """A fleet that can be watched."""

    fleet: str
    where: tuple[str, int]
    context: ssl.SSLContext | None  # None without TLS
    verifiers: Mapping[str, Verifier]  # of every node; Anybody where its key is not known
    home: Path | None = None  # of the set that all this is from, if it is from one
    place: Path | None = None  # which was the current one then

    @property
    def outdated(self) -> bool:
        """Whether the set has been replaced since: nodes added, keys changed."""
        return self.home is not None and current(self.home) != self.place


def find_fleet(place: Path, broker: str | None) -> Watched:
    """What *place* tells of a fleet; *broker* is HOST:PORT where its broker is elsewhere.

    Raises ConfigError, and BrokerUnreachable where the broker should be in a container and is not.
    """
    if not place.is_dir():
        return _of_file(place, broker)
    if (place / CURRENT).is_symlink():
        return _of_set(place, broker)
    if (place / NODES_FOLDER).is_dir():
        return _of_run(place, broker)
    raise ConfigError(
        f"{place}: holds no fleet; name a fleet.yaml, the folder of cipherfleet provision bundle, "
        "or the --out folder of cipherfleet run or fleet up"
    )


def _of_file(file: Path, broker: str | None) -> Watched:
    fleet = load_fleet(file)
    settings = fleet.file.broker
    if settings.tls:
        raise ConfigError(
            f"{file}: broker.tls is true, and no certificate of the operator is beside it; name "
            "the folder of cipherfleet provision bundle, or the --out folder of the run instead"
        )
    names = [member.id for member in fleet.members]
    return Watched(fleet.file.fleet, _address(settings, broker), None, _unknown(names))


def _of_set(home: Path, broker: str | None) -> Watched:
    place = current(home)
    assert place is not None  # it is a link
    ledger = read_ledger(place)
    context = _context_of_set(place / OPERATOR_FOLDER) if ledger.broker.tls else None
    verifiers = {name: _verifier(ledger.members[name]) for name in ledger.present}
    where = _address(ledger.broker, broker)
    return Watched(ledger.fleet, where, context, verifiers, home, place)


def _context_of_set(folder: Path) -> ssl.SSLContext:
    if (folder / f"{WATCHER_STEM}.pem").exists():
        return operator_context(folder, WATCHER_STEM)
    return operator_context(folder)  # a set from before there were watchers


def _verifier(entry: Entry) -> Verifier:
    if entry.halves is None:  # not claimed yet
        return Anybody()
    return Ed25519PublicKey.from_public_bytes(entry.halves.identity)


def _of_run(out: Path, broker: str | None) -> Watched:
    folders = sorted(file.parent for file in (out / NODES_FOLDER).glob(f"*/{NODE_FILE}"))
    if not folders:
        raise ConfigError(f"{out / NODES_FOLDER}: holds no node's folder; is the run still young?")
    config = load_node_config(folders[0])  # what is asked here is the same for all
    names = [folder.name for folder in folders]
    verifiers = _unknown(names)
    for file in sorted((out / NODES_FOLDER).glob(f"*/{NEIGHBOURS_FOLDER}/*.json")):
        if isinstance(verifiers.get(file.stem), Anybody):
            verifiers[file.stem] = _identity_in(file)
    if broker is None and config.broker.host == BROKER_HOST:
        where = container_address(config.fleet), config.broker.port
    else:
        where = _address(config.broker, broker)
    context = _context_of_run(out / TLS_FOLDER, config.broker.host) if config.broker.tls else None
    return Watched(config.fleet, where, context, verifiers)


def _identity_in(file: Path) -> Verifier:
    """The key of the node that *file* is about, as a neighbour of it was given it."""
    try:
        return identity_from_text(json.loads(file.read_bytes())["identity"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{file}: holds no public identity; is it of a run of ours?") from None


def _unknown(names: list[str]) -> dict[str, Verifier]:
    return {name: Anybody() for name in names}


def _address(settings: Broker, broker: str | None) -> tuple[str, int]:
    return (settings.host, settings.port) if broker is None else parse_address(broker)


# -- a run's own authority ----------------------------------------------------------------------


class _CalledContext(ssl.SSLContext):
    """Wants a certificate for the name *called*, at whatever address the broker is reached."""

    called: str

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        return super().wrap_socket(*args, **{**options, "server_hostname": self.called})


def _context_of_run(tls: Path, called: str) -> ssl.SSLContext:
    files = tls / CA_FILE, tls / f"{WATCHER_STEM}.pem", tls / f"{WATCHER_STEM}.key"
    try:
        context = client_context(*files, kind=_CalledContext)
    except OSError as error:  # SSLError is one
        raise ConfigError(f"{tls}: the operator's certificate cannot be used: {error}") from None
    assert isinstance(context, _CalledContext)
    context.called = called
    return context


# -- a broker in a container --------------------------------------------------------------------


def container_address(fleet: str) -> str:
    """The address of *fleet*'s broker on its internal network, which this machine is part of.

    Raises BrokerUnreachable where no such container runs.
    """
    from cipherfleet_deploy.containers.engine import (  # only here is Docker needed
        NAME_LABEL,
        Engine,
    )

    with Engine() as engine:
        for each in engine.containers(fleet):
            if each["Labels"][NAME_LABEL] == BROKER_HOST and each["State"] == "running":
                networks = each["NetworkSettings"]["Networks"].values()
                return str(next(iter(networks))["IPAddress"])
    raise BrokerUnreachable(
        f"no container of the broker of {fleet!r} runs here: cipherfleet fleet up FILE starts one; "
        "--broker HOST:PORT names a broker elsewhere"
    )
