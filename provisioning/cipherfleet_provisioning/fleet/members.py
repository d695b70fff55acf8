"""Expand the entries of `nodes:` in fleet.yaml to one member per node."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.sensors.base import join_names
from cipherfleet_node.settings.rules import ItemDraft, Rule, apply_rules, sensor_errors
from cipherfleet_node.settings.sections import (
    NodeId,
    Role,
    Sensor,
    Source,
    SyntheticSensor,
    parts_of,
    source_of,
)
from cipherfleet_node.settings.type_errors import EACH, Path_, did_you_mean
from cipherfleet_node.settings.yaml_document import Document, Unchecked

from .file import FleetFile, NodeEntry


@dataclass(frozen=True)
class Member:
    """A node of the fleet and its sensor, or its group of several."""

    id: str
    sensor: Source
    entry: int  # the place of its entry among `nodes:` in fleet.yaml, from 0
    owner: str | None = None
    broker: str | None = None  # one of broker.cluster
    role: Role = "member"


@dataclass
class EntryDraft(ItemDraft):
    """An entry of `nodes:` while it is checked; *members* are those of this and earlier entries."""

    file: Unchecked[FleetFile]
    members: dict[str, Member]

    @property
    def path(self) -> Path_:
        """The place of the entry."""
        return ("nodes", self.index)

    @property
    def entry(self) -> NodeEntry:
        """The entry of the node as the file has it."""
        return self.file.value.nodes[self.index]


def read_members(unchecked: Unchecked[FleetFile]) -> tuple[Member, ...]:
    """Return one member per node, and report errors in the entries to *unchecked*."""
    members: dict[str, Member] = {}
    for index in range(len(unchecked.value.nodes)):
        apply_rules(ENTRY_RULES, EntryDraft(unchecked, index, members))
    return tuple(members.values())


def _check_sensor(draft: EntryDraft) -> Iterator[ConfigError]:
    """There is one sensor or a list, with limits that values can satisfy."""
    yield from sensor_errors(draft.file.document, draft.entry, draft.path)


def _check_owner(draft: EntryDraft) -> Iterator[ConfigError]:
    """The owner of every node is a valid name.

    At most one error is reported, even if *each* makes many nodes.
    """
    entry = draft.entry
    if entry.owner is None:
        return
    count = entry.each or 1
    owners = [
        _fill_in_number(entry.owner, n) if entry.each else entry.owner for n in range(1, count + 1)
    ]
    wrong = next((owner for owner in owners if not _is_name(owner)), None)
    if wrong is not None:
        yield _name_error(draft.file.document, (*draft.path, "owner"), wrong)


def _check_own_broker(draft: EntryDraft) -> Iterator[ConfigError]:
    """The broker of an entry is one of broker.cluster."""
    own, known = draft.entry.broker, draft.file.value.broker.cluster
    if own is None or own in (known or ()):
        return
    text = f"is {own[:80]!r}, and there is no broker.cluster: leave it out"
    if known:
        text = f"is {own[:80]!r}, must be one of broker.cluster: {join_names(known)}"
    yield draft.file.document.error((*draft.path, "broker"), text + did_you_mean(own, known or ()))


def _make_members(draft: EntryDraft) -> Iterator[ConfigError]:
    """The id of every node is a valid name, and no other node has it."""
    try:
        for member in _expand(draft):
            if member.id in draft.members:
                remedy = ", put {n} into it" if draft.entry.each else ""
                text = f"gives the id {member.id!r} twice{remedy}"
                raise draft.file.document.error((*draft.path, "id"), text)
            draft.members[member.id] = member
    except ConfigError as error:
        yield error


ID, COUNT = ("nodes", EACH, "id"), ("nodes", EACH, "each")
ENTRY_RULES: tuple[Rule[EntryDraft], ...] = (
    Rule((), _check_sensor),
    Rule((("nodes", EACH, "owner"), COUNT), _check_owner),
    Rule((("nodes", EACH, "broker"), ("broker",)), _check_own_broker),
    Rule((ID, COUNT), _make_members),
)


def _expand(draft: EntryDraft) -> Iterator[Member]:
    """Yield the members of an entry; raises ConfigError for an id that is no name."""
    entry = draft.entry
    plain = msgspec.to_builtins(parts_of(entry.source))
    for n in range(1, (entry.each or 1) + 1):
        name, sensors, owner = entry.id, plain, entry.owner
        if entry.each:
            name, sensors, owner = (
                _fill_in_number(name, n),
                _fill_in_number(sensors, n),
                _fill_in_number(owner, n),
            )
        if not _is_name(name):
            raise _name_error(draft.file.document, (*draft.path, "id"), name)
        own = [_with_own_seed(msgspec.convert(sensor, Sensor), name) for sensor in sensors]
        source = source_of(own[0], own, entry.join_tolerance_s)
        yield Member(name, source, draft.index, owner, entry.broker, entry.role)


def _is_name(text: str) -> bool:
    """True if *text*, in which {n} is replaced already, is a valid node id or owner."""
    try:
        msgspec.convert(text, NodeId)
    except msgspec.ValidationError:
        return False
    return True


def _name_error(document: Document, path: Path_, name: str) -> ConfigError:
    patterns = "; beside each, {n} and {n:02} give the number" if "{" in name else ""
    return document.error(
        path,
        f"gives the {path[-1]} {name[:80]!r}: must be at most 63 letters, digits, '-' and '_', "
        f"the first a letter or digit{patterns}",
    )


def _fill_in_number(value: Any, n: int) -> Any:
    """Replace {n}, or with leading zeros {n:02}, in every string of *value*.

    Other braces stay, because a sensor's command may need them.
    """
    match value:
        case str():
            return re.sub(r"\{n(?::0([1-9]))?\}", lambda found: f"{n:0{found[1] or 1}}", value)
        case dict():
            return {key: _fill_in_number(item, n) for key, item in value.items()}
        case list() | tuple():
            return [_fill_in_number(item, n) for item in value]
        case _:
            return value


def _with_own_seed(sensor: Sensor, name: str) -> Sensor:
    """Mix a synthetic sensor's seed with the node's name, so that each node has its own noise."""
    if not isinstance(sensor, SyntheticSensor):
        return sensor
    mixed = hashlib.sha256(f"{sensor.seed} {name}".encode()).digest()
    return msgspec.structs.replace(sensor, seed=int.from_bytes(mixed[:6], "big"))


def choose_members(
    members: Sequence[Member], file: FleetFile, count: int | None
) -> tuple[Member, ...]:
    """Choose *count* of the members, spread evenly from the first to the last."""
    if count is None or count == len(members):
        return tuple(members)
    if not 2 <= count <= len(members):
        raise ConfigError(
            f"--nodes is {count}, must be from 2 to {len(members)}, the number of nodes in the file"
        )
    for key in ("edges", "file"):
        if getattr(file.topology, key) is not None:
            raise ConfigError(
                f"--nodes is {count}, but topology.{key} names its {len(members)} nodes: leave "
                "--nodes out, or choose another topology"
            )
    step = (len(members) - 1) / (count - 1)
    return tuple(members[round(index * step)] for index in range(count))
