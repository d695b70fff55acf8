"""From the entries under nodes: to one member per node."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.sensors.base import listed
from cipherfleet_node.settings.node_yaml import (
    check_sensor,
)
from cipherfleet_node.settings.sections import (
    NodeId,
    Sensor,
    SyntheticSensor,
)
from cipherfleet_node.settings.type_errors import Path_, meant
from cipherfleet_node.settings.yaml_document import Document, Draft

from .file import FleetFile, NodeEntry


@dataclass(frozen=True)
class Member:
    """A node of the fleet and its sensor."""

    id: str
    sensor: Sensor
    path: Path_  # of its entry in fleet.yaml
    owner: str | None = None
    broker: str | None = None  # of those in broker.cluster


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


def read_members(
    document: Document, draft: Draft[FleetFile], file: FleetFile
) -> tuple[Member, ...]:
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


def choose_members(
    members: Sequence[Member], file: FleetFile, count: int | None
) -> tuple[Member, ...]:
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
