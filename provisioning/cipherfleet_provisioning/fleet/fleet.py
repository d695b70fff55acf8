"""Load fleet.yaml, the file that describes a whole fleet, and check it completely."""

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
from cipherfleet_node.settings.yaml_document import Document, Unchecked, read_document
from cipherfleet_provisioning.fleet.file import Brokers, FleetFile, Overrides
from cipherfleet_provisioning.fleet.members import Member, choose_members, read_members
from cipherfleet_provisioning.fleet.readings import check_readings, recorded_samples
from cipherfleet_provisioning.topology.build import build_graph, section_faults
from cipherfleet_provisioning.topology.graph import Graph
from cipherfleet_provisioning.topology.section import Topology, TopologyError


@dataclass(frozen=True, repr=False)
class Fleet:
    """A checked fleet: its graph is connected, and its recorded readings fit the objective."""

    folder: Path  # contains fleet.yaml; relative paths start here
    file: FleetFile
    members: tuple[Member, ...]
    graph: Graph
    tables: Mapping[Path, CsvTable]

    @property
    def dimension(self) -> int:
        """The number of entries of the estimate."""
        return make_objective(self.file.objective).dimension

    @property
    def exchange(self) -> ExchangeName:
        """The exchange that the file chooses, or otherwise the one that its graph allows."""
        assert self.file.crypto.exchange is not None  # load_fleet has decided it
        return self.file.crypto.exchange

    def places(self, count: int) -> dict[str, int]:
        """Return, by node, which of *count* brokers it uses: the one in its entry, else in turn."""
        hosts = self.file.broker.hosts
        return {
            member.id: (hosts.index(member.broker) if member.broker else turn) % count
            for turn, member in enumerate(self.members)
        }

    def brokers(self) -> dict[str, Broker]:
        """Return each node's broker, as fleet.yaml defines it."""
        brokers = self.file.broker
        return {name: brokers.at(place) for name, place in self.places(len(brokers.hosts)).items()}

    def recorded(self, member: Member) -> list[Sample] | None:
        """Return all recorded readings of *member*, None if its sensor is a live one."""
        needed = make_objective(self.file.objective).fields
        return recorded_samples(member.sensor, self.folder, self.tables, needed)


def load_fleet(file: Path, overrides: Overrides | None = None, *, endless: bool = True) -> Fleet:
    """Read and check *file*; raises ConfigError, or ConfigErrors with all errors in it.

    If *endless* is false, the file must set algorithm.rounds, so that the fleet ends.
    """
    overrides = overrides or Overrides()
    document = read_document(file)
    unchecked = document.unchecked(FleetFile)
    changed = _apply_overrides(unchecked.value, overrides)
    _check_sections(document, unchecked, changed, overrides, endless=endless)
    members = read_members(document, unchecked, changed)
    graph = None
    if _has_valid_ids(unchecked):  # otherwise every edge to them would be an error, too
        known = [member.id for member in members]
        try:
            members = choose_members(members, changed, overrides.nodes)
        except ConfigError as error:
            unchecked.report([error])
        else:
            ids = [member.id for member in members]
            graph = _build_graph(document, unchecked, changed.topology, ids, known)
    if graph is not None and unchecked.is_valid_at("topology"):
        unchecked.report(_check_leaves(document, unchecked, graph))
    tables = check_readings(document, unchecked, changed, members)
    unchecked.finish()
    assert graph is not None, "a fleet without a graph has an error that gives the reason"
    return Fleet(file.parent, _choose_exchange(changed, graph), members, graph, tables)


def _check_sections(
    document: Document,
    unchecked: Unchecked[FleetFile],
    changed: FleetFile,
    overrides: Overrides,
    *,
    endless: bool,
) -> None:
    """Report the errors that each section has by itself."""
    unchecked.report(check_algorithm(document, changed.algorithm))
    if not endless and changed.algorithm.rounds is None and unchecked.is_valid_at("algorithm"):
        text = "has no rounds: set their number here, or with --rounds"
        unchecked.report([document.error(("algorithm",), text)])
    if unchecked.is_valid_at("crypto"):
        unchecked.report(_check_crypto(document, changed.crypto, overrides))
    if unchecked.is_valid_at("broker"):
        unchecked.report(_check_brokers(document, changed.broker))
    unchecked.report(check_objective(document, changed.objective))
    if unchecked.is_valid_at("objective", "kind"):
        unchecked.report(_check_kind(document, changed.objective))


def _check_brokers(document: Document, brokers: Brokers) -> Iterator[ConfigError]:
    cluster = brokers.cluster
    if cluster is None:
        yield from check_broker(document, brokers)
        return
    if not brokers.tls:
        text = "needs broker.tls: true: brokers of a cluster identify each other by certificates"
        yield document.key_error(("broker", "cluster"), text)
    if brokers.host != Broker().host:
        text = f"is {brokers.host!r}, and broker.cluster names the hosts: leave one of them out"
        yield document.error(("broker", "host"), text)
    for place, host in enumerate(cluster):
        if host in cluster[:place]:
            text = f"names {host!r} twice: each broker of a cluster is on a host of its own"
            yield document.error(("broker", "cluster", place), text)


def _has_valid_ids(unchecked: Unchecked[FleetFile]) -> bool:
    return all(
        unchecked.is_valid_at("nodes", n, key)
        for n in range(len(unchecked.value.nodes))
        for key in ("id", "each")
    )


def _apply_overrides(file: FleetFile, overrides: Overrides) -> FleetFile:
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
        except ConfigError as error:  # a module:Class that does not exist
            mark = document.mark(("objective", "kind"))
            yield ConfigError(f"{mark}: {error}", mark, ("objective", "kind"))


def _build_graph(
    document: Document,
    unchecked: Unchecked[FleetFile],
    topology: Topology,
    ids: Sequence[str],
    known: Collection[str],
) -> Graph | None:
    """Build the graph; None after an error. Every edge to an unknown node is reported."""
    faults = list(islice(section_faults(topology, ids, known), MAX_MISFITS))
    if faults:
        unchecked.report(_locate(document, fault) for fault in faults)
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
                    unchecked.report([document.error(path, error.message)])
                    del edges[index]
                case _:
                    # After an edge was left out, this error may be its consequence.
                    if len(edges) == len(topology.edges or ()):
                        unchecked.report([_locate(document, error)])
                    break
    return None


def _locate(document: Document, error: TopologyError) -> ConfigError:
    return document.error(("topology", *error.path), error.message, remedy=error.remedy)


def _find_leaf(graph: Graph) -> str | None:
    """Return a node with one neighbour only, None if there is none."""
    return next((name for name in graph.ids if graph.degree(name) == 1), None)


def _check_leaves(
    document: Document, unchecked: Unchecked[FleetFile], graph: Graph
) -> Iterator[ConfigError]:
    crypto, leaf = unchecked.value.crypto, _find_leaf(graph)
    if not (
        unchecked.is_valid_at("crypto", "leaves") and unchecked.is_valid_at("crypto", "exchange")
    ):
        return
    if crypto.exchange == "sealed" and leaf is not None and crypto.leaves == "refuse":
        yield document.error(
            ("crypto", "exchange"),
            f"is sealed, but {leaf!r} has one neighbour only, and a sum over one hides nothing: "
            "give it another edge, or write crypto.leaves: open (such a node then learns as much "
            "about its neighbour as with pairwise), or exchange: pairwise",
        )


def _choose_exchange(file: FleetFile, graph: Graph) -> FleetFile:
    """Return *file* with the exchange chosen: sealed, unless a node has one neighbour only."""
    crypto = file.crypto
    possible = _find_leaf(graph) is None or crypto.leaves == "open"
    exchange = crypto.exchange or ("sealed" if possible else "pairwise")
    return msgspec.structs.replace(file, crypto=msgspec.structs.replace(crypto, exchange=exchange))
