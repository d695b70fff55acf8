"""Write one folder per node: its settings, keys, neighbours' public keys and recorded readings.

A folder contains no secret of another node. All folders appear at once, or none does.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import yaml

from cipherfleet_broker.interrupts import defer_interrupts
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.keys.bases_file import bases_file, encode_bases
from cipherfleet_node.keys.key_files import (
    KEYS_FOLDER,
    NEIGHBOURS_FOLDER,
    NodeKeys,
    PublicKeys,
    own_keys,
    seal_to_text,
    write_keys,
    write_private,
    write_public,
)
from cipherfleet_node.runtime.membership import make_section
from cipherfleet_node.settings.node_yaml import NODE_FILE, checksum_of
from cipherfleet_node.settings.rules import unused_settings
from cipherfleet_node.settings.sections import (
    JOIN_TOLERANCE_S,
    Broker,
    CsvSensor,
    Generations,
    Neighbour,
    NodeConfig,
    NodePrivacy,
    NoSensor,
    SensorGroup,
    Simulation,
)
from cipherfleet_provisioning.fleet.fleet import Fleet
from cipherfleet_provisioning.fleet.members import Member

from .certificates import Certified, write_client
from .generations import Participant, Schedule, make_entries, plan_schedule
from .key_making import MadeKeys, Progress, make_keys, make_keys_and_bases

READINGS_FILE = "readings.csv"


def write_bundles(
    fleet: Fleet,
    target: Path,
    broker: Broker | Mapping[str, Broker],
    simulation: Simulation,
    progress: Progress = lambda _name: None,
    authority: Certified | None = None,
    *,
    with_bases: bool = False,
) -> dict[str, Path]:
    """Make the folder *target* with one folder per node; return these folders by node id.

    *broker* is the broker of all nodes, or a mapping from node ids to brokers. *progress* is called
    with each node's id when its keys are made. *authority* certifies the nodes where broker.tls is
    on. *with_bases* adds the bases for the neighbours' keys, which spare a first start its full
    powers. Only the owner can read the files. Raises ConfigError if *target* exists: keys in use
    are never overwritten.
    """
    brokers = broker
    if isinstance(brokers, Broker):
        brokers = dict.fromkeys((member.id for member in fleet.members), brokers)
    tls = any(each.tls for each in brokers.values())
    if tls and authority is None:
        raise ConfigError(
            "broker.tls is true: the nodes need certificates, and therefore an authority"
        )
    check_target(target)
    umask = os.umask(0o077)
    try:
        _write_at_once(
            fleet,
            target,
            brokers,
            simulation,
            lambda: _make_keys(fleet, progress, with_bases=with_bases),
            authority if tls else None,
        )
    except OSError as error:
        raise ConfigError(f"{target}: cannot be made: {error.strerror or error}") from None
    finally:
        os.umask(umask)
    return {member.id: target / member.id for member in fleet.members}


def _write_at_once(
    fleet: Fleet,
    target: Path,
    brokers: Mapping[str, Broker],
    simulation: Simulation,
    make: Callable[[], MadeKeys],
    authority: Certified | None,
) -> None:
    """Build all folders in a temporary folder, and rename it to *target* when they are complete."""
    with _build_beside(target) as building:
        made = make()
        keys = made.keys
        public = {name: pair.public for name, pair in keys.items()}
        indices = {member.id: index for index, member in enumerate(fleet.members)}
        generations = plan_generations(fleet, public, indices)
        for member in fleet.members:
            config = node_config(
                fleet,
                member,
                public,
                brokers[member.id],
                simulation,
                generations=generations.get(member.id),
            )
            write_bundle(building / member.id, fleet, member, config, keys[member.id], public)
            _write_bases(building / member.id, made, member.id)
            if authority is not None:
                write_client(building / member.id, authority, member.id, datetime.now(UTC))
        target.parent.mkdir(parents=True, exist_ok=True)
        building.rename(target)


def _make_keys(fleet: Fleet, progress: Progress, *, with_bases: bool) -> MadeKeys:
    if with_bases:
        return make_keys_and_bases(fleet, progress)
    names = [member.id for member in fleet.members]
    return MadeKeys(make_keys(names, fleet.file.crypto.key_bits, progress), {})


def _write_bases(folder: Path, made: MadeKeys, name: str) -> None:
    identity = made.keys[name].identity
    for neighbour, bases in made.bases.get(name, {}).items():
        data = encode_bases(bases, made.keys[neighbour].paillier.public, identity)
        write_private(bases_file(folder / KEYS_FOLDER, neighbour), data)


@contextmanager
def _build_beside(target: Path) -> Iterator[Path]:
    """Yield a temporary folder on the file system of *target*; it is removed if the block fails."""
    made: list[Path] = []
    try:
        with defer_interrupts():
            made.append(Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=_anchor(target))))
        yield made[0]
    except BaseException:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def check_target(target: Path) -> None:
    """Raise ConfigError if the folder *target* exists already or cannot be made."""
    if os.path.lexists(target):  # true for a dangling link, too
        raise ConfigError(f"{target}: exists already", remedy="name another folder or remove it")
    anchor = _anchor(target)
    if not (anchor.is_dir() and os.access(anchor, os.W_OK | os.X_OK)):
        raise ConfigError(f"{target}: cannot be made, since {anchor} is no writable folder")


def _anchor(target: Path) -> Path:
    """Return the nearest existing folder above *target*."""
    return next(folder for folder in target.absolute().parents if os.path.lexists(folder))


def node_config(
    fleet: Fleet,
    member: Member,
    public: Mapping[str, PublicKeys] | None,
    broker: Broker,
    simulation: Simulation,
    operator: str | None = None,
    generations: Generations | None = None,
) -> NodeConfig:
    """Return the settings of the node *member*.

    They include its neighbours if the keys of all nodes are known (*public*), and then its
    *generations* if the fleet has a shield. *operator* is the public key whose memberships the node
    accepts.
    """
    sensor, graph, file = member.sensor, fleet.graph, fleet.file
    known = public or {}
    if isinstance(sensor, CsvSensor):
        # The file of the node has its rows only, and the names of the objective, between commas.
        sensor = msgspec.structs.replace(
            sensor, path=READINGS_FILE, where={}, separator=",", columns={}
        )
    config = NodeConfig(
        config_version=file.config_version,
        fleet=file.fleet,
        node=member.id,
        algorithm=file.algorithm,
        objective=file.objective,
        sensor=NoSensor() if isinstance(sensor, SensorGroup) else sensor,
        sensors=list(sensor.sensors) if isinstance(sensor, SensorGroup) else None,
        join_tolerance_s=(
            sensor.join_tolerance_s if isinstance(sensor, SensorGroup) else JOIN_TOLERANCE_S
        ),
        role=member.role,
        diameter=graph.diameter if file.algorithm.until is not None else None,
        neighbours=[
            Neighbour(
                id=other,
                neighbours=list(graph.neighbours(other)),
                fingerprint=known[other].fingerprint,
            )
            for other in (graph.neighbours(member.id) if known else ())
        ],
        operator=operator,
        broker=broker,
        crypto=file.crypto,
        answer=file.answer,
        privacy=_node_privacy(fleet, member),
        simulation=simulation,
        seals=seals(fleet, member, known) if known else {},
        generations=generations,
        keys=own_keys(known[member.id]) if known else None,
    )
    return msgspec.structs.replace(config, checksum=checksum_of(config))


def plan_generations(
    fleet: Fleet,
    public: Mapping[str, PublicKeys],
    indices: Mapping[str, int],
    schedule: Schedule | None = None,
) -> dict[str, Generations]:
    """Return the section `generations` of each node in *public*; empty without a shield.

    *schedule* is that of a fleet that runs already; None: a new one.
    """
    if not fleet.has_shield or not public:
        return {}
    listed = [
        Participant(name, indices[name], keys.seal.public_bytes_raw())
        for name, keys in public.items()
    ]
    entries = make_entries(fleet.file.fleet, listed, schedule or plan_schedule(fleet.graph))
    return {name: make_section(entry) for name, entry in entries.items()}


def seals(fleet: Fleet, member: Member, public: Mapping[str, PublicKeys]) -> dict[str, str]:
    """Return the seal keys of the nodes that share a neighbour with *member*.

    The result is empty unless the exchange is sealed.
    """
    if fleet.exchange != "sealed":
        return {}
    near = fleet.graph.neighbours(member.id)
    others = {name for other in near for name in fleet.graph.neighbours(other)} - {member.id}
    return {name: seal_to_text(public[name].seal) for name in sorted(others)}


def write_bundle(
    folder: Path,
    fleet: Fleet,
    member: Member,
    config: NodeConfig,
    keys: NodeKeys | None,
    public: Mapping[str, PublicKeys],
) -> None:
    """Make *folder* the bundle of *member*; without *keys* the device makes its own and enrols."""
    folder.mkdir(mode=0o700)
    if keys is not None:
        write_keys(folder, keys)
    if config.neighbours:
        neighbours = folder / NEIGHBOURS_FOLDER
        neighbours.mkdir()
        for neighbour in config.neighbours:
            write_public(neighbours / f"{neighbour.id}.json", public[neighbour.id])
    if isinstance(member.sensor, CsvSensor):
        (folder / READINGS_FILE).write_bytes(_own_readings(fleet, member.sensor))
    (folder / NODE_FILE).write_text(settings_text(config), encoding="utf-8")


def _own_readings(fleet: Fleet, sensor: CsvSensor) -> bytes:
    """Return the content of the file with the readings of *sensor* alone."""
    table = fleet.tables[fleet.folder / sensor.path]
    return table.cut(sensor.where).encode()


def _node_privacy(fleet: Fleet, member: Member) -> NodePrivacy | None:
    """Return the section `privacy` of *member*, with the digest of its readings."""
    privacy, sensor = fleet.privacy, member.sensor
    if privacy is None or not isinstance(sensor, CsvSensor):
        return privacy
    digest = hashlib.sha256(_own_readings(fleet, sensor)).hexdigest()
    return msgspec.structs.replace(privacy, readings_file=digest)


def settings_text(config: NodeConfig) -> str:
    """Return the text of node.yaml with *config*, without what its method does not use."""
    plain = _plain(config)
    for key in ("join_tolerance_s",) if config.sensors is None else ("sensor",):
        del plain[key]
    for *sections, key in unused_settings(config.algorithm, config.objective):
        inner = plain["algorithm"]
        for section in sections:
            inner = inner[section]
        inner.pop(key, None)
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """Quotes strings such as 08, which a YAML 1.1 or 1.2 reader could take for a number."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+.]?[0-9]"), list("-+.0123456789")
)


def _plain(value: Any) -> Any:
    """Return *value* as plain data, without settings that are None."""
    match value:
        case msgspec.Struct():
            return _plain(msgspec.to_builtins(value))
        case dict():
            return {key: _plain(item) for key, item in value.items() if item is not None}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value
