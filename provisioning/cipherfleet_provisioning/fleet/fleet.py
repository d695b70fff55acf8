"""Load fleet.yaml, the file that describes a whole fleet: document, types, rules, Fleet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from cipherfleet_node.core.objective import make_objective
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.core.statistics import make_node_objective
from cipherfleet_node.sensors import CsvTable
from cipherfleet_node.settings.rules import apply_rules
from cipherfleet_node.settings.sections import (
    Algorithm,
    Broker,
    ExchangeName,
    Method,
    NodePrivacy,
    Stepsize,
    has_shield,
)
from cipherfleet_node.settings.yaml_document import read_document
from cipherfleet_provisioning.topology.graph import Graph

from .draft import FleetDraft
from .file import FleetFile, Overrides
from .members import Member
from .readings import count_readings, recorded_samples
from .rules import FLEET_RULES


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
        """The number of entries of the estimate, which nodes exchange."""
        return make_node_objective(self.file.algorithm, self.file.objective).dimension

    @property
    def solution_dimension(self) -> int:
        """The number of entries of the solution; with method statistics the estimate has others."""
        return make_objective(self.file.objective).dimension

    @property
    def exchange(self) -> ExchangeName:
        """The exchange that the file chooses, or otherwise the one that its graph allows."""
        assert self.file.crypto.exchange is not None  # load_fleet has decided it
        return self.file.crypto.exchange

    @property
    def has_shield(self) -> bool:
        """True if shares with partners hide the duals of the nodes."""
        return has_shield(self.file.algorithm, self.file.objective)

    @property
    def privacy(self) -> NodePrivacy | None:
        """The section privacy of every node.yaml; None without one.

        `load_fleet` has counted the readings, and followers add no noise.
        """
        given = self.file.privacy
        if given is None:
            return None
        known = {name: getattr(given, name) for name in given.__struct_fields__}
        return NodePrivacy(nodes=sum(each.role == "member" for each in self.members), **known)

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
        """Return all recorded readings of *member*, None if its sensor is a live one.

        A follower uses no reading.
        """
        if member.role == "follower":
            return []
        needed = make_objective(self.file.objective).fields
        return recorded_samples(member.sensor, self.folder, self.tables, needed)


def load_fleet(file: Path, overrides: Overrides | None = None, *, endless: bool = True) -> Fleet:
    """Read and check *file*; raises ConfigError, or ConfigErrors with all errors in it.

    If *endless* is false, the file must set algorithm.rounds, so that the fleet ends.
    """
    draft = _read_draft(file, overrides or Overrides(), endless=endless)
    apply_rules(FLEET_RULES, draft)
    checked, graph = draft.finish(), draft.graph
    assert graph is not None, "a fleet without a graph has an error that gives the reason"
    tables = {path: table for path, table in draft.tables.items() if table is not None}
    complete = _count_readings(_choose_exchange(checked, graph), draft)
    return Fleet(file.parent, complete, draft.members, graph, tables)


def change_method(fleet: Fleet, method: Method) -> Fleet:
    """Return *fleet* with another method, without checking that its objective allows it."""
    if method == fleet.file.algorithm.method:
        return fleet
    algorithm = _replace_method(fleet.file.algorithm, method)
    return replace(fleet, file=msgspec.structs.replace(fleet.file, algorithm=algorithm))


def _read_draft(file: Path, overrides: Overrides, *, endless: bool) -> FleetDraft:
    """Parse *file* and convert its sections, with their type errors."""
    document = read_document(file)
    typed = document.unchecked(FleetFile)
    sections = _apply_overrides(typed.value, overrides)
    return FleetDraft(
        document, sections, typed.findings, typed.invalid_paths, overrides, endless=endless
    )


def _apply_overrides(file: FleetFile, overrides: Overrides) -> FleetFile:
    algorithm, crypto = file.algorithm, file.crypto
    if overrides.rounds is not None:
        algorithm = msgspec.structs.replace(algorithm, rounds=overrides.rounds)
    if overrides.key_bits is not None:
        crypto = msgspec.structs.replace(crypto, key_bits=overrides.key_bits)
    if overrides.method is not None and overrides.method != algorithm.method:
        algorithm = _replace_method(algorithm, overrides.method)
    return msgspec.structs.replace(file, algorithm=algorithm, crypto=crypto)


def _replace_method(algorithm: Algorithm, method: Method) -> Algorithm:
    """Return *algorithm* with *method*, and without settings that belong to another method."""
    own, stepsize = Algorithm(), algorithm.stepsize
    if method == "article":
        algorithm = msgspec.structs.replace(algorithm, until=own.until)
    else:
        stepsize = Stepsize(spread=stepsize.spread, law=stepsize.law)
        algorithm = msgspec.structs.replace(algorithm, attenuation=own.attenuation)
    return msgspec.structs.replace(algorithm, method=method, scale=own.scale, stepsize=stepsize)


def _choose_exchange(file: FleetFile, graph: Graph) -> FleetFile:
    """Return *file* with the exchange chosen: sealed, unless a node has one neighbour only."""
    crypto = file.crypto
    possible = graph.leaf is None or crypto.leaves == "open"
    exchange = crypto.exchange or ("sealed" if possible else "pairwise")
    return msgspec.structs.replace(file, crypto=msgspec.structs.replace(crypto, exchange=exchange))


def _count_readings(file: FleetFile, draft: FleetDraft) -> FleetFile:
    """Return *file* with privacy.readings, the least number of readings of a member.

    Raises ConfigError if the readings of a member cannot be counted.
    """
    privacy = file.privacy
    if privacy is None or privacy.readings is not None:
        return file
    counts = {
        member.id: count_readings(member.sensor, draft.folder, draft.tables, file.objective)
        for member in draft.members
        if member.role == "member"
    }
    unknown = [name for name, count in counts.items() if not count]
    if unknown:
        raise draft.document.error(
            ("privacy",),
            f"needs readings: those of node {unknown[0]!r} cannot be counted in a csv file",
            remedy="write privacy.readings, the least number of readings that a node has",
        )
    least = min(count for count in counts.values() if count)
    return msgspec.structs.replace(file, privacy=msgspec.structs.replace(privacy, readings=least))
