"""fleet.yaml: one readable file that describes a whole fleet, checked before anything is made."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, field

from cipherfleet_node.core.objective import Objective as MadeObjective
from cipherfleet_node.core.objective import make_objective
from cipherfleet_node.core.quantiser import VALUE_BITS
from cipherfleet_node.core.randomness import SEED_BYTES, Draws
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.sensors import CsvTable
from cipherfleet_node.sensors.base import check_fields, listed
from cipherfleet_node.settings.node_yaml import (
    check_algorithm,
    check_broker,
    check_crypto,
    check_objective,
    check_parts,
    check_sensor,
    fields_named,
)
from cipherfleet_node.settings.sections import (
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
    resolution_of,
)
from cipherfleet_node.settings.type_errors import MAX_MISFITS, Path_, meant
from cipherfleet_node.settings.yaml_document import Document, Draft, read_document

from .topology import Graph, Topology, TopologyError, build_graph, near, section_faults

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
    broker: str | None = None  # of broker.cluster; without, they are shared out in turn


Host = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,252}$")]


class Brokers(Broker, frozen=True):
    """The broker; with *cluster* the hosts of several that are one to the nodes, and no *host*."""

    cluster: Annotated[list[Host], Meta(min_length=2, max_length=9)] | None = None

    @property
    def hosts(self) -> list[str]:
        """All of them."""
        return self.cluster or [self.host]

    def at(self, place: int) -> Broker:
        """As a node is told that speaks with that at *place*."""
        return Broker(host=self.hosts[place], port=self.port, tls=self.tls)


class FleetFile(Section, frozen=True):
    """fleet.yaml as written."""

    config_version: Annotated[int, Meta(ge=CONFIG_VERSION, le=CONFIG_VERSION)]
    fleet: NodeId
    algorithm: Algorithm
    objective: Objective
    topology: Topology
    nodes: Annotated[list[NodeEntry], Meta(min_length=1)]
    broker: Brokers = field(default_factory=Brokers)
    crypto: Crypto = field(default_factory=Crypto)


@dataclass(frozen=True)
class Member:
    """A node of the fleet and its sensor."""

    id: str
    sensor: Sensor
    path: Path_  # of its entry in fleet.yaml
    owner: str | None = None
    broker: str | None = None  # of those in broker.cluster


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

    def places(self, count: int) -> dict[str, int]:
        """With which of *count* brokers each node speaks: that in its entry, else in turn."""
        hosts = self.file.broker.hosts
        return {
            member.id: (hosts.index(member.broker) if member.broker else turn) % count
            for turn, member in enumerate(self.members)
        }

    def brokers(self) -> dict[str, Broker]:
        """Each node's own, as fleet.yaml says."""
        told = self.file.broker
        return {name: told.at(place) for name, place in self.places(len(told.hosts)).items()}

    def recorded(self, member: Member) -> list[Sample] | None:
        """All readings of *member*, None where its sensor is a live one."""
        needed = make_objective(self.file.objective).fields
        return _recorded(member.sensor, self.folder, self.tables, needed)


def load_fleet(file: Path, overrides: Overrides | None = None, *, endless: bool = True) -> Fleet:
    """Read and check *file*; raises ConfigError, or ConfigErrors, with all mistakes in it.

    Without *endless* the fleet must come to an end by itself.
    """
    overrides = overrides or Overrides()
    document = read_document(file)
    draft = document.draft(FleetFile)
    changed = _overridden(draft.value, overrides)
    _check_sections(document, draft, changed, overrides, endless=endless)
    members = _members(document, draft, changed)
    graph = None
    if _ids_are_sound(draft):  # else every edge to them would be complained of
        known = [member.id for member in members]
        try:
            members = _chosen(members, changed, overrides.nodes)
        except ConfigError as error:
            draft.note([error])
        else:
            ids = [member.id for member in members]
            graph = _graph(document, draft, changed.topology, ids, known)
    if graph is not None and draft.sound("topology"):
        draft.note(_check_leaves(document, draft, graph))
    tables = _check_readings(document, draft, changed, members)
    draft.checked()
    assert graph is not None, "a fleet without a graph has a complaint that says why"
    return Fleet(file.parent, _with_exchange(changed, graph), members, graph, tables)


def _check_sections(
    document: Document,
    draft: Draft[FleetFile],
    changed: FleetFile,
    overrides: Overrides,
    *,
    endless: bool,
) -> None:
    """Note what is wrong with each section by itself."""
    draft.note(check_algorithm(document, changed.algorithm))
    if not endless and changed.algorithm.rounds is None and draft.sound("algorithm"):
        told = "has no rounds: say how many here, or with --rounds"
        draft.note([document.error(("algorithm",), told)])
    if draft.sound("crypto"):
        draft.note(_check_crypto(document, changed.crypto, overrides))
    if draft.sound("broker"):
        draft.note(_check_brokers(document, changed.broker))
    draft.note(check_objective(document, changed.objective))
    if draft.sound("objective", "kind"):
        draft.note(_check_kind(document, changed.objective))


def _check_brokers(document: Document, brokers: Brokers) -> Iterator[ConfigError]:
    cluster = brokers.cluster
    if cluster is None:
        yield from check_broker(document, brokers)
        return
    if not brokers.tls:
        told = "needs broker.tls: true: brokers of a cluster know each other by their certificates"
        yield document.key_error(("broker", "cluster"), told)
    if brokers.host != Broker().host:
        told = f"is {brokers.host!r}, and broker.cluster names the hosts: leave one of them out"
        yield document.error(("broker", "host"), told)
    for place, host in enumerate(cluster):
        if host in cluster[:place]:
            told = f"names {host!r} twice: each broker of a cluster is on a host of its own"
            yield document.error(("broker", "cluster", place), told)


def _check_own_broker(
    document: Document, draft: Draft[FleetFile], entry: NodeEntry, path: Path_
) -> Iterator[ConfigError]:
    """A node's broker must be of the cluster."""
    known = draft.value.broker.cluster
    if entry.broker is None or not draft.sound("broker") or entry.broker in (known or ()):
        return
    told = f"is {entry.broker[:80]!r}, and there is no broker.cluster to name one of"
    if known:
        told = f"is {entry.broker[:80]!r}, must be one of broker.cluster: {listed(known)}"
    yield document.error(path, told + meant(entry.broker, known or ()))


def _ids_are_sound(draft: Draft[FleetFile]) -> bool:
    return all(
        draft.sound("nodes", n, key)
        for n in range(len(draft.value.nodes))
        for key in ("id", "each")
    )


def _overridden(file: FleetFile, overrides: Overrides) -> FleetFile:
    algorithm, crypto = file.algorithm, file.crypto
    if overrides.rounds is not None:
        algorithm = msgspec.structs.replace(algorithm, rounds=overrides.rounds)
    if overrides.key_bits is not None:
        crypto = msgspec.structs.replace(crypto, key_bits=overrides.key_bits)
    return msgspec.structs.replace(file, algorithm=algorithm, crypto=crypto)


def _check_crypto(
    document: Document, crypto: Crypto, overrides: Overrides
) -> Iterator[ConfigError]:
    for error in check_crypto(document, crypto):
        if overrides.key_bits is None:
            yield error
        else:
            yield ConfigError(f"{error} ({overrides.key_bits} is from --key-bits)", error.mark)


def _check_kind(document: Document, objective: Objective) -> Iterator[ConfigError]:
    yield from check_parts(document, objective)
    if ":" in objective.kind:
        try:
            make_objective(objective)
        except ConfigError as error:  # a module:Class that is not there
            mark = document.mark(("objective", "kind"))
            yield ConfigError(f"{mark}: {error}", mark, ("objective", "kind"))


def _graph(
    document: Document,
    draft: Draft[FleetFile],
    topology: Topology,
    ids: Sequence[str],
    known: Collection[str],
) -> Graph | None:
    """The graph; None after a complaint. Every edge to no node is complained of, not the first."""
    faults = list(islice(section_faults(topology, ids, known), MAX_MISFITS))
    if faults:
        draft.note(_placed(document, fault) for fault in faults)
        return None
    edges = dict(enumerate(topology.edges or ()))
    folder = document.file.parent
    for _ in range(MAX_MISFITS):
        given = list(edges.values()) if topology.edges is not None else None
        try:
            return build_graph(msgspec.structs.replace(topology, edges=given), ids, folder, known)
        except TopologyError as error:
            match error.path:
                case ("edges", int(place), int(side)):
                    index = list(edges)[place]
                    path = ("topology", "edges", index, side)
                    draft.note([document.error(path, error.message)])
                    del edges[index]
                case _:
                    if len(edges) == len(topology.edges or ()):  # else it may only follow
                        draft.note([_placed(document, error)])
                    break
    return None


def _placed(document: Document, error: TopologyError) -> ConfigError:
    return document.error(("topology", *error.path), error.message)


def _leaf(graph: Graph) -> str | None:
    """A node with one neighbour only, None if there is none."""
    return next((name for name in graph.ids if graph.degree(name) == 1), None)


def _check_leaves(
    document: Document, draft: Draft[FleetFile], graph: Graph
) -> Iterator[ConfigError]:
    crypto, leaf = draft.value.crypto, _leaf(graph)
    if not (draft.sound("crypto", "leaves") and draft.sound("crypto", "exchange")):
        return
    if crypto.exchange == "sealed" and leaf is not None and crypto.leaves == "refuse":
        yield document.error(
            ("crypto", "exchange"),
            f"is sealed, but {leaf!r} has one neighbour only, and a sum over one hides nothing: "
            "give it another edge, or say crypto.leaves: open (such nodes learn of their "
            "neighbour what pairwise tells), or exchange: pairwise",
        )


def _with_exchange(file: FleetFile, graph: Graph) -> FleetFile:
    """*file* with its exchange decided: sealed, unless a node has one neighbour only."""
    crypto = file.crypto
    possible = _leaf(graph) is None or crypto.leaves == "open"
    exchange = crypto.exchange or ("sealed" if possible else "pairwise")
    return msgspec.structs.replace(file, crypto=msgspec.structs.replace(crypto, exchange=exchange))


# -- nodes --------------------------------------------------------------------------------------


def _members(document: Document, draft: Draft[FleetFile], file: FleetFile) -> tuple[Member, ...]:
    members: dict[str, Member] = {}
    for index, entry in enumerate(file.nodes):
        path: Path_ = ("nodes", index)
        draft.note(check_sensor(document, entry.sensor, (*path, "sensor")))
        if draft.sound(*path, "owner") and draft.sound(*path, "each"):
            draft.note(_check_owner(document, entry, (*path, "owner")))
        if draft.sound(*path, "broker"):
            draft.note(_check_own_broker(document, draft, entry, (*path, "broker")))
        if not (draft.sound(*path, "id") and draft.sound(*path, "each")):
            continue
        try:
            for member in _expanded(document, entry, path):
                if member.id in members:
                    cure = ", put {n} into it" if entry.each else ""
                    told = f"gives the id {member.id!r} twice{cure}"
                    raise document.error((*path, "id"), told)
                members[member.id] = member
        except ConfigError as error:
            draft.note([error])
    return tuple(members.values())


def _expanded(document: Document, entry: NodeEntry, path: Path_) -> Iterator[Member]:
    plain = msgspec.to_builtins(entry.sensor)
    for n in range(1, (entry.each or 1) + 1):
        name, sensor, owner = entry.id, plain, entry.owner
        if entry.each:
            name, sensor, owner = _filled(name, n), _filled(sensor, n), _filled(owner, n)
        if not _is_name(name):
            raise _misnamed(document, (*path, "id"), name)
        own = _own_noise(msgspec.convert(sensor, Sensor), name)
        yield Member(name, own, path, owner, entry.broker)


def _check_owner(document: Document, entry: NodeEntry, path: Path_) -> Iterator[ConfigError]:
    """At most one complaint, whatever the number of nodes in a row."""
    if entry.owner is None:
        return
    count = entry.each or 1
    owners = [_filled(entry.owner, n) if entry.each else entry.owner for n in range(1, count + 1)]
    wrong = next((owner for owner in owners if not _is_name(owner)), None)
    if wrong is not None:
        yield _misnamed(document, path, wrong)


def _is_name(text: str) -> bool:
    """Whether *text*, with its number filled in, can name a node or an owner."""
    try:
        msgspec.convert(text, NodeId)
    except msgspec.ValidationError:
        return False
    return True


def _misnamed(document: Document, path: Path_, name: str) -> ConfigError:
    patterns = "; beside each, {n} and {n:02} give the number" if "{" in name else ""
    return document.error(
        path,
        f"gives the {path[-1]} {name[:80]!r}: must be at most 63 letters, digits, '-' and '_', "
        f"the first a letter or digit{patterns}",
    )


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


def _chosen(members: Sequence[Member], file: FleetFile, count: int | None) -> tuple[Member, ...]:
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


def _check_readings(
    document: Document, draft: Draft[FleetFile], file: FleetFile, members: Sequence[Member]
) -> dict[Path, CsvTable]:
    """Notes readings that a node would refuse when it starts; the recorded files, each once.

    One complaint for every entry of fleet.yaml, every file and every reason.
    """
    tables: dict[Path, CsvTable | None] = {}
    for member in members:
        if draft.sound(*member.path, "sensor"):
            draft.note(_opened(document, member, tables))
    folder = document.file.parent
    named = [
        _fields_of(member.sensor, folder, tables) if draft.sound(*member.path, "sensor") else None
        for member in members
    ]
    draft.note(_check_names(document, file.objective, named))
    reasons: set[str] = set()
    for member, fields in zip(members, named, strict=True):
        path = (*member.path, "sensor")
        if fields is not None:
            draft.note(_check_columns(document, member, fields))
        if draft.sound("objective") and draft.sound(*path):
            algorithm = file.algorithm if draft.sound("algorithm") else None
            reason = _refusal(member.sensor, folder, tables, file.objective, algorithm)
            if reason is not None and reason not in reasons:
                reasons.add(reason)
                draft.note([document.error(path, f"of node {member.id!r}: {reason}")])
    return {path: table for path, table in tables.items() if table is not None}


def _opened(
    document: Document, member: Member, tables: dict[Path, CsvTable | None]
) -> Iterator[ConfigError]:
    """Each recorded file once, whatever the number of nodes that read it; None if it is broken."""
    if not isinstance(member.sensor, CsvSensor):
        return
    path = document.file.parent / member.sensor.path
    if path in tables:
        return
    tables[path] = None
    try:
        tables[path] = CsvTable(path)
    except ConfigError as error:
        place = (*member.path, "sensor", "path")
        yield document.error(place, f"of node {member.id!r}: {error}{near(path)}")


def _check_names(
    document: Document, objective: Objective, sensors: Sequence[Collection[str] | None]
) -> Iterator[ConfigError]:
    """Fields of the objective that no sensor has: misspelt here, not there."""
    known = {name for fields in sensors if fields is not None for name in fields}
    if not known or any(fields is None for fields in sensors):
        return  # a sensor that only running it tells about may have them
    for path, name in fields_named(objective):
        if name not in known:
            told = f"is {name!r}, which no sensor has, they have {listed(sorted(known))}"
            yield document.error(("objective", *path), told + meant(name, known))


def _check_columns(
    document: Document, member: Member, fields: Collection[str]
) -> Iterator[ConfigError]:
    """Columns and fields that a sensor's own section names and its readings lack."""
    where = member.sensor.where if isinstance(member.sensor, CsvSensor) else {}
    for section, names in (("where", where), ("limits", member.sensor.limits)):
        for name in names:
            if name not in fields:
                told = f"is no field of the sensor of {member.id!r}, it has {listed(fields)}"
                path = (*member.path, "sensor", section, name)
                yield document.key_error(path, told + meant(name, fields))


def _refusal(
    sensor: Sensor,
    folder: Path,
    tables: Mapping[Path, CsvTable | None],
    section: Objective,
    algorithm: Algorithm | None,
) -> str | None:
    """Why a node would refuse its readings when it starts, None if it would not."""
    objective = make_objective(section)
    fields = _fields_of(sensor, folder, tables)
    try:
        if fields is not None and not isinstance(sensor, CsvSensor):
            who = f"kind {sensor.__struct_config__.tag}"
            check_fields(who, fields, objective.fields, sensor.limits)
        samples = _recorded(sensor, folder, tables, objective.fields)
        if samples is not None:
            objective.absorb(samples)
            if algorithm is not None:
                _check_room(objective, algorithm)
    except ConfigError as error:
        return str(error)
    return None


def _check_room(objective: MadeObjective, algorithm: Algorithm) -> None:
    """Raise ConfigError for readings that the resolution cannot hold."""
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


def _recorded(
    sensor: Sensor,
    folder: Path,
    tables: Mapping[Path, CsvTable | None],
    needed: Collection[str],
) -> list[Sample] | None:
    """All readings of *sensor*, None where it is a live one or its file is broken."""
    table = tables.get(folder / sensor.path) if isinstance(sensor, CsvSensor) else None
    if table is None or not isinstance(sensor, CsvSensor):
        return None
    return table.samples(sensor.where, needed, sensor.limits)


def _fields_of(
    sensor: Sensor, folder: Path, tables: Mapping[Path, CsvTable | None]
) -> Collection[str] | None:
    """What the readings of *sensor* will be called, None where only running it tells."""
    match sensor:
        case CsvSensor():
            table = tables.get(folder / sensor.path)
            return table.columns if table is not None else None
        case SyntheticSensor():
            return list(sensor.fields)
        case ThermalSensor():
            return [sensor.field]
        case HwmonSensor():
            return list(sensor.inputs.values())
        case _:
            return None
