"""fleet.yaml: one readable file that describes a whole fleet, checked before anything is made."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec

from cipherfleet_node.core.objective import make_objective
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.sensors import CsvTable
from cipherfleet_node.settings.node_yaml import (
    check_algorithm,
    check_broker,
    check_crypto,
    check_objective,
    check_parts,
)
from cipherfleet_node.settings.sections import (
    Broker,
    Crypto,
    ExchangeName,
    Objective,
)
from cipherfleet_node.settings.type_errors import MAX_MISFITS
from cipherfleet_node.settings.yaml_document import Document, Draft, read_document
from cipherfleet_provisioning.fleet.file import Brokers, FleetFile, Overrides  # moved
from cipherfleet_provisioning.fleet.members import Member, choose_members, read_members  # moved
from cipherfleet_provisioning.fleet.readings import check_readings, recorded_samples  # moved
from cipherfleet_provisioning.topology.build import build_graph, section_faults
from cipherfleet_provisioning.topology.graph import Graph
from cipherfleet_provisioning.topology.section import Topology, TopologyError


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
        return recorded_samples(member.sensor, self.folder, self.tables, needed)


def load_fleet(file: Path, overrides: Overrides | None = None, *, endless: bool = True) -> Fleet:
    """Read and check *file*; raises ConfigError, or ConfigErrors, with all mistakes in it.

    Without *endless* the fleet must come to an end by itself.
    """
    overrides = overrides or Overrides()
    document = read_document(file)
    draft = document.draft(FleetFile)
    changed = _overridden(draft.value, overrides)
    _check_sections(document, draft, changed, overrides, endless=endless)
    members = read_members(document, draft, changed)
    graph = None
    if _ids_are_sound(draft):  # else every edge to them would be complained of
        known = [member.id for member in members]
        try:
            members = choose_members(members, changed, overrides.nodes)
        except ConfigError as error:
            draft.note([error])
        else:
            ids = [member.id for member in members]
            graph = _graph(document, draft, changed.topology, ids, known)
    if graph is not None and draft.sound("topology"):
        draft.note(_check_leaves(document, draft, graph))
    tables = check_readings(document, draft, changed, members)
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


# -- readings -----------------------------------------------------------------------------------
