"""fleet.yaml: one readable file that describes a whole fleet, checked before anything is made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, field

from cipherfleet_node.config import (
    CONFIG_VERSION,
    Algorithm,
    Broker,
    Count,
    Crypto,
    CsvSensor,
    NodeId,
    Objective,
    Section,
    Sensor,
    SyntheticSensor,
    check_algorithm,
    check_broker,
    check_crypto,
    check_objective,
    check_sensor,
)
from cipherfleet_node.document import Document, read_document
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.objective import make_objective
from cipherfleet_node.samples import Sample
from cipherfleet_node.sensors import CsvTable

from .topology import Graph, Topology, TopologyError, build_graph


class NodeEntry(Section, frozen=True):
    """One node, or with *each* a row of them: '{n}' in id and sensor becomes 1, 2, ..."""

    id: str
    sensor: Sensor
    each: Count | None = None


class FleetFile(Section, frozen=True):
    """fleet.yaml as written."""

    config_version: Annotated[int, Meta(ge=CONFIG_VERSION, le=CONFIG_VERSION)]
    fleet: NodeId
    algorithm: Algorithm
    objective: Objective
    topology: Topology
    nodes: Annotated[list[NodeEntry], Meta(min_length=1)]
    broker: Broker = field(default_factory=Broker)
    crypto: Crypto = field(default_factory=Crypto)


@dataclass(frozen=True)
class Member:
    """A node of the fleet and its sensor."""

    id: str
    sensor: Sensor
    path: tuple[str | int, ...]  # of its entry in fleet.yaml


@dataclass(frozen=True)
class Overrides:
    """What the command line changes of the file; None leaves it."""

    nodes: int | None = None  # this many, spread evenly over those of the file
    rounds: int | None = None
    key_bits: int | None = None


@dataclass(frozen=True, repr=False)
class Fleet:
    """A checked fleet: its graph is connected, and its recorded readings can be used."""

    folder: Path  # of fleet.yaml; relative paths start there
    file: FleetFile
    members: tuple[Member, ...]
    graph: Graph
    tables: Mapping[Path, CsvTable]

    @property
    def dimension(self) -> int:
        """Entries of the estimate."""
        return make_objective(self.file.objective).dimension

    def recorded(self, member: Member) -> list[Sample] | None:
        """All readings of *member*, None where its sensor is a live one."""
        sensor = member.sensor
        if not isinstance(sensor, CsvSensor):
            return None
        needed = make_objective(self.file.objective).fields
        table = self.tables[self.folder / sensor.path]
        return table.samples(sensor.where, needed, sensor.limits)


def load_fleet(file: Path, overrides: Overrides | None = None) -> Fleet:
    """Read and check *file*; raises ConfigError at file:line:column."""
    document = read_document(file)
    changed = _overridden(document.convert(FleetFile), overrides or Overrides())
    check_algorithm(document, changed.algorithm)
    check_crypto(document, changed.crypto)
    check_broker(document, changed.broker)
    check_objective(document, changed.objective)
    members = _chosen(_members(document, changed), (overrides or Overrides()).nodes)
    try:
        graph = build_graph(changed.topology, [member.id for member in members])
    except TopologyError as error:
        raise document.error(("topology", *error.path), error.message) from None
    fleet = Fleet(file.parent, changed, members, graph, _tables(document, members))
    _check_readings(document, fleet)
    return fleet


def _overridden(file: FleetFile, overrides: Overrides) -> FleetFile:
    algorithm, crypto = file.algorithm, file.crypto
    if overrides.rounds is not None:
        algorithm = msgspec.structs.replace(algorithm, rounds=overrides.rounds)
    if overrides.key_bits is not None:
        crypto = msgspec.structs.replace(crypto, key_bits=overrides.key_bits)
    return msgspec.structs.replace(file, algorithm=algorithm, crypto=crypto)


def _members(document: Document, file: FleetFile) -> list[Member]:
    members: dict[str, Member] = {}
    for index, entry in enumerate(file.nodes):
        path: tuple[str | int, ...] = ("nodes", index)
        check_sensor(document, entry.sensor, (*path, "sensor"))
        for member in _expanded(document, entry, path):
            if member.id in members:
                raise document.error((*path, "id"), f"gives the id {member.id!r} a second time")
            members[member.id] = member
    return list(members.values())


def _expanded(
    document: Document, entry: NodeEntry, path: tuple[str | int, ...]
) -> Iterator[Member]:
    plain = msgspec.to_builtins(entry.sensor)
    for n in range(1, (entry.each or 1) + 1):
        try:
            name = _filled(entry.id, n) if entry.each else entry.id
            sensor = msgspec.convert(_filled(plain, n) if entry.each else plain, Sensor)
            msgspec.convert(name, NodeId)
        except msgspec.ValidationError:
            raise document.error(
                (*path, "id"),
                f"gives the id {name!r}: letters, digits, '-' and '_' are allowed, 63 at most",
            ) from None
        except (KeyError, IndexError, ValueError, AttributeError):
            raise document.error(path, "holds a pattern other than {n} or {n:02}") from None
        yield Member(name, _own_noise(sensor, name), path)


def _filled(value: Any, n: int) -> Any:
    """*value* with {n} replaced in every text."""
    match value:
        case str():
            return value.format(n=n)
        case dict():
            return {key: _filled(item, n) for key, item in value.items()}
        case list() | tuple():
            return [_filled(item, n) for item in value]
        case _:
            return value


def _own_noise(sensor: Sensor, name: str) -> Sensor:
    """A made-up sensor's seed, mixed with the node's name: nodes must not read the same noise."""
    if not isinstance(sensor, SyntheticSensor):
        return sensor
    mixed = hashlib.sha256(f"{sensor.seed} {name}".encode()).digest()
    return msgspec.structs.replace(sensor, seed=int.from_bytes(mixed[:6], "big"))


def _chosen(members: list[Member], count: int | None) -> tuple[Member, ...]:
    """*count* of the members, spread evenly from the first to the last."""
    if count is None or count == len(members):
        return tuple(members)
    if not 2 <= count <= len(members):
        raise ConfigError(
            f"--nodes is {count}, the fleet has {len(members)}: give 2 or more of them"
        )
    step = (len(members) - 1) / (count - 1)
    return tuple(members[round(index * step)] for index in range(count))


def _tables(document: Document, members: tuple[Member, ...]) -> dict[Path, CsvTable]:
    """Each recorded file once, whatever the number of nodes that read it."""
    tables: dict[Path, CsvTable] = {}
    for member in members:
        if isinstance(member.sensor, CsvSensor):
            path = document.file.parent / member.sensor.path
            if path not in tables:
                with _pointing_at(document, member):
                    tables[path] = CsvTable(path)
    return tables


def _check_readings(document: Document, fleet: Fleet) -> None:
    """Let every node's objective take in its recorded readings, as the node will."""
    for member in fleet.members:
        with _pointing_at(document, member):
            samples = fleet.recorded(member)
            if samples is not None:
                make_objective(fleet.file.objective).absorb(samples)


class _pointing_at:  # noqa: N801  # reads as a word: with _pointing_at(...)
    """Adds the place of the node's entry to a complaint about its readings."""

    def __init__(self, document: Document, member: Member) -> None:
        self._document, self._member = document, member

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ConfigError):
            path = (*self._member.path, "sensor")
            raise self._document.error(path, f"of node {self._member.id!r}: {error}") from None
