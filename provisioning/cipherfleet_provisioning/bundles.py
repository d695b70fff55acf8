"""A folder for every node: its settings, its keys, its neighbours' public keys, its own readings.

Nothing of another node's secrets is in it. All folders appear at once or not at all.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gmpy2 import mpz

from cipherfleet_node.config import NODE_FILE, Broker, CsvSensor, Neighbour, NodeConfig, Simulation
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.keys import (
    NEIGHBOURS_FOLDER,
    NodeKeys,
    PublicKeys,
    generate_keys,
    write_keys,
    write_public,
)
from cipherfleet_node.paillier import PrivateKey

from .fleet import Fleet, Member

READINGS_FILE = "readings.csv"

Progress = Callable[[str], None]


def write_bundles(
    fleet: Fleet,
    target: Path,
    broker: Broker,
    simulation: Simulation,
    progress: Progress = lambda _name: None,
) -> dict[str, Path]:
    """Make the folder *target* with one folder per node; returns them by node id.

    *progress* is called with each node's id when its keys are made. Raises ConfigError if *target*
    exists: keys in use are never overwritten.
    """
    if target.exists():
        raise ConfigError(f"{target}: exists already; name another folder or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    keys = make_keys([m.id for m in fleet.members], fleet.file.crypto.key_bits, progress)
    public = {name: pair.public for name, pair in keys.items()}
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))  # mode 0700
    try:
        for member in fleet.members:
            config = node_config(fleet, member, public, broker, simulation)
            _write_bundle(building / member.id, fleet, member, config, keys[member.id], public)
        building.rename(target)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return {member.id: target / member.id for member in fleet.members}


def make_keys(names: list[str], bits: int, progress: Progress) -> dict[str, NodeKeys]:
    """Fresh keys for every name, made on all cores."""
    keys: dict[str, NodeKeys] = {}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for name, (p, q, identity) in zip(
            names, pool.map(_raw_keys, [bits] * len(names)), strict=True
        ):
            keys[name] = NodeKeys(
                PrivateKey(mpz(p), mpz(q)), Ed25519PrivateKey.from_private_bytes(identity)
            )
            progress(name)
    return keys


def _raw_keys(bits: int) -> tuple[int, int, bytes]:
    """Keys as plain numbers and bytes, which travel between processes."""
    keys = generate_keys(bits)
    return int(keys.paillier.p), int(keys.paillier.q), keys.identity.private_bytes_raw()


def node_config(
    fleet: Fleet,
    member: Member,
    public: Mapping[str, PublicKeys],
    broker: Broker,
    simulation: Simulation,
) -> NodeConfig:
    """What the node of *member* is told."""
    sensor, graph, file = member.sensor, fleet.graph, fleet.file
    if isinstance(sensor, CsvSensor):
        sensor = msgspec.structs.replace(sensor, path=READINGS_FILE, where={})
    return NodeConfig(
        config_version=file.config_version,
        fleet=file.fleet,
        node=member.id,
        algorithm=file.algorithm,
        objective=file.objective,
        sensor=sensor,
        neighbours=[
            Neighbour(id=other, degree=graph.degree(other), fingerprint=public[other].fingerprint)
            for other in graph.neighbours(member.id)
        ],
        broker=broker,
        crypto=file.crypto,
        simulation=simulation,
    )


def _write_bundle(
    folder: Path,
    fleet: Fleet,
    member: Member,
    config: NodeConfig,
    keys: NodeKeys,
    public: Mapping[str, PublicKeys],
) -> None:
    folder.mkdir(mode=0o700)
    write_keys(folder, keys)
    neighbours = folder / NEIGHBOURS_FOLDER
    neighbours.mkdir()
    for neighbour in config.neighbours:
        write_public(neighbours / f"{neighbour.id}.json", public[neighbour.id])
    if isinstance(member.sensor, CsvSensor):
        table = fleet.tables[fleet.folder / member.sensor.path]
        readings = folder / READINGS_FILE
        readings.touch(mode=0o600)
        readings.write_text(table.cut(member.sensor.where))
    (folder / NODE_FILE).write_text(yaml.safe_dump(_plain(config), sort_keys=False))


def _plain(value: Any) -> Any:
    """*value* as plain data without the settings that are not given."""
    match value:
        case msgspec.Struct():
            return _plain(msgspec.to_builtins(value))
        case dict():
            return {key: _plain(item) for key, item in value.items() if item is not None}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value
