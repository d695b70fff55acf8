"""fleet.yaml: one readable file that describes a whole fleet, checked before anything is made."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, field

from cipherfleet_node.config import (
    CONFIG_VERSION,
    Algorithm,
    Broker,
    Crypto,
    CsvSensor,
    ExchangeName,
    HwmonSensor,
    NodeId,
    Objective,
    Section,
    Sensor,
    SyntheticSensor,
    ThermalSensor,
    check_algorithm,
    check_broker,
    check_crypto,
    check_objective,
    check_sensor,
    resolution_of,
)
from cipherfleet_node.document import Document, read_document
from cipherfleet_node.draws import SEED_BYTES, Draws
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.objective import make_objective
from cipherfleet_node.quantiser import VALUE_BITS
from cipherfleet_node.samples import Sample
from cipherfleet_node.sensors import CsvTable
from cipherfleet_node.sensors.base import check_fields

from .topology import Graph, Topology, TopologyError, build_graph

MAX_EACH = 10_000


class NodeEntry(Section, frozen=True):
    """One node, or with *each* a row of them.

    In id, sensor and owner of a row {n} becomes 1, 2, ..., and {n:02} 01, 02, ...
    Nodes of one owner trust each other and pool what they see; a node without is on its own.
    """

    id: str
    sensor: Sensor
    each: Annotated[int, Meta(ge=1, le=MAX_EACH)] | None = None
    owner: str | None = None


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
    owner: str | None = None


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

    @property
    def exchange(self) -> ExchangeName:
        """Which exchange runs: what the file says, or what its graph allows."""
        assert self.file.crypto.exchange is not None  # load_fleet has decided it
        return self.file.crypto.exchange

    def recorded(self, member: Member) -> list[Sample] | None:
        """All readings of *member*, None where its sensor is a live one."""
        sensor = member.sensor
        if not isinstance(sensor, CsvSensor):
            return None
        needed = make_objective(self.file.objective).fields
        table = self.tables[self.folder / sensor.path]
        return table.samples(sensor.where, needed, sensor.limits)


def load_fleet(file: Path, overrides: Overrides | None = None, *, endless: bool = True) -> Fleet:
    """Read and check *file*; raises ConfigError at file:line:column.

    Without *endless* the fleet must come to an end by itself.
    """
    overrides = overrides or Overrides()
    document = read_document(file)
    changed = _overridden(document.convert(FleetFile), overrides)
    check_algorithm(document, changed.algorithm)
    if not endless and changed.algorithm.rounds is None:
        raise document.error(("algorithm",), "has no rounds: say how many here, or with --rounds")
    _check_crypto(document, changed.crypto, overrides)
    check_broker(document, changed.broker)
    _check_objective(document, changed.objective)
    everybody = _members(document, changed)
    members = _chosen(everybody, changed, overrides.nodes)
    ids = [member.id for member in members]
    try:
        graph = build_graph(changed.topology, ids, file.parent, {m.id for m in everybody})
    except TopologyError as error:
        raise document.error(("topology", *error.path), error.message) from None
    changed = _with_exchange(document, changed, graph)
    fleet = Fleet(file.parent, changed, members, graph, _tables(document, members))
    for member in members:
        with _pointing_at(document, member):
            _check_readings(fleet, member)
    return fleet


def _overridden(file: FleetFile, overrides: Overrides) -> FleetFile:
    algorithm, crypto = file.algorithm, file.crypto
    if overrides.rounds is not None:
        algorithm = msgspec.structs.replace(algorithm, rounds=overrides.rounds)
    if overrides.key_bits is not None:
        crypto = msgspec.structs.replace(crypto, key_bits=overrides.key_bits)
    return msgspec.structs.replace(file, algorithm=algorithm, crypto=crypto)


def _check_crypto(document: Document, crypto: Crypto, overrides: Overrides) -> None:
    try:
        check_crypto(document, crypto)
    except ConfigError as error:
        if overrides.key_bits is None:
            raise
        raise ConfigError(f"{error} ({overrides.key_bits} is from --key-bits)") from None


def _with_exchange(document: Document, file: FleetFile, graph: Graph) -> FleetFile:
    """*file* with its exchange decided: sealed, unless a node has one neighbour only."""
    crypto = file.crypto
    leaf = next((name for name in graph.ids if graph.degree(name) == 1), None)
    possible = leaf is None or crypto.leaves == "open"
    if crypto.exchange == "sealed" and not possible:
        raise document.error(
            ("crypto", "exchange"),
            f"is sealed, but {leaf!r} has one neighbour only, and a sum over one hides nothing: "
            "give it another edge, or say crypto.leaves: open (such nodes learn of their "
            "neighbour what pairwise tells), or exchange: pairwise",
        )
    exchange = crypto.exchange or ("sealed" if possible else "pairwise")
    return msgspec.structs.replace(file, crypto=msgspec.structs.replace(crypto, exchange=exchange))


def _check_objective(document: Document, objective: Objective) -> None:
    check_objective(document, objective)
    try:
        make_objective(objective)
    except ConfigError as error:  # a module:Class that is not there
        raise ConfigError(f"{document.mark(('objective', 'kind'))}: {error}") from None


# -- nodes --------------------------------------------------------------------------------------


def _members(document: Document, file: FleetFile) -> list[Member]:
    members: dict[str, Member] = {}
    for index, entry in enumerate(file.nodes):
        path: tuple[str | int, ...] = ("nodes", index)
        check_sensor(document, entry.sensor, (*path, "sensor"))
        for member in _expanded(document, entry, path):
            if member.id in members:
                cure = ", put {n} into it" if entry.each else ""
                raise document.error((*path, "id"), f"gives the id {member.id!r} twice{cure}")
            members[member.id] = member
    return list(members.values())


def _expanded(
    document: Document, entry: NodeEntry, path: tuple[str | int, ...]
) -> Iterator[Member]:
    plain = msgspec.to_builtins(entry.sensor)
    for n in range(1, (entry.each or 1) + 1):
        name, sensor, owner = entry.id, plain, entry.owner
        if entry.each:
            name, sensor, owner = _filled(name, n), _filled(sensor, n), _filled(owner, n)
        _check_name(document, (*path, "id"), name)
        if owner is not None:
            _check_name(document, (*path, "owner"), owner)
        yield Member(name, _own_noise(msgspec.convert(sensor, Sensor), name), path, owner)


def _check_name(document: Document, path: tuple[str | int, ...], name: str) -> None:
    """Raise ConfigError unless *name*, with its number filled in, can name a node or an owner."""
    try:
        msgspec.convert(name, NodeId)
    except msgspec.ValidationError:
        patterns = "; beside each, {n} and {n:02} give the number" if "{" in name else ""
        raise document.error(
            path,
            f"gives the {path[-1]} {name[:80]!r}: must be at most 63 letters, digits, '-' and '_', "
            f"the first a letter or digit{patterns}",
        ) from None


def _filled(value: Any, n: int) -> Any:
    """*value* with {n}, or with leading zeros {n:02}, replaced in every text.

    Other braces stay as they are: a sensor's command may need them.
    """
    match value:
        case str():
            return re.sub(r"\{n(?::0([1-9]))?\}", lambda found: f"{n:0{found[1] or 1}}", value)
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


def _chosen(members: list[Member], file: FleetFile, count: int | None) -> tuple[Member, ...]:
    """*count* of the members, spread evenly from the first to the last."""
    if count is None or count == len(members):
        return tuple(members)
    if not 2 <= count <= len(members):
        raise ConfigError(
            f"--nodes is {count}, the fleet has {len(members)}: give 2 or more of them"
        )
    for key in ("edges", "file"):
        if getattr(file.topology, key) is not None:
            raise ConfigError(
                f"--nodes is {count}, but topology.{key} names its {len(members)} nodes: leave "
                "--nodes out, or choose another topology"
            )
    step = (len(members) - 1) / (count - 1)
    return tuple(members[round(index * step)] for index in range(count))


# -- readings -----------------------------------------------------------------------------------


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


def _check_readings(fleet: Fleet, member: Member) -> None:
    """Raise ConfigError for readings that the node itself would refuse when it starts."""
    objective = make_objective(fleet.file.objective)
    fields = _fields_of(member.sensor)
    if fields is not None:
        who = f"kind {member.sensor.__struct_config__.tag}"
        check_fields(who, fields, objective.fields, member.sensor.limits)
    samples = fleet.recorded(member)
    if samples is None:
        return
    objective.absorb(samples)
    algorithm = fleet.file.algorithm
    room = 2.0 ** (VALUE_BITS - 1) * resolution_of(algorithm)
    with np.errstate(all="ignore"):
        start = objective.start()
        step = algorithm.stepsize.initial * objective.gradient(start, Draws(bytes(SEED_BYTES)))
        fits = bool(np.all(np.abs(start) < room) and np.all(np.abs(step) < room))
    if not fits:  # NaN does not fit either
        raise ConfigError(
            f"the first estimate, or the first step from it, leaves the range of +-{room:g} of "
            "algorithm.resolution: bring readings to order one by offset and scale in objective, "
            "or take a coarser resolution or a smaller algorithm.stepsize.initial"
        )


def _fields_of(sensor: Sensor) -> Collection[str] | None:
    """What the readings of *sensor* will be called, None where only running it tells.

    A recorded file's columns are checked when its rows are read.
    """
    match sensor:
        case SyntheticSensor():
            return list(sensor.fields)
        case ThermalSensor():
            return [sensor.field]
        case HwmonSensor():
            return list(sensor.inputs.values())
        case _:
            return None


@contextmanager
def _pointing_at(document: Document, member: Member) -> Iterator[None]:
    """Adds the place of the node's entry to a complaint about its readings."""
    try:
        yield
    except ConfigError as error:
        path = (*member.path, "sensor")
        raise document.error(path, f"of node {member.id!r}: {error}") from None
