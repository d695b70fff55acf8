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
from cipherfleet_node.settings.node_yaml import check_sensor
from cipherfleet_node.settings.sections import NodeId, Sensor, SyntheticSensor
from cipherfleet_node.settings.type_errors import Path_, did_you_mean
from cipherfleet_node.settings.yaml_document import Document, Unchecked

from .file import FleetFile, NodeEntry


@dataclass(frozen=True)
class Member:
    """A node of the fleet and its sensor."""

    id: str
    sensor: Sensor
    path: Path_  # of its entry in fleet.yaml
    owner: str | None = None
    broker: str | None = None  # one of broker.cluster


def _check_own_broker(
    document: Document, unchecked: Unchecked[FleetFile], entry: NodeEntry, path: Path_
) -> Iterator[ConfigError]:
    """Check that the broker of *entry* is one of broker.cluster."""
    known = unchecked.value.broker.cluster
    if entry.broker is None or not unchecked.is_valid_at("broker") or entry.broker in (known or ()):
        return
    text = f"is {entry.broker[:80]!r}, and there is no broker.cluster: leave it out"
    if known:
        text = f"is {entry.broker[:80]!r}, must be one of broker.cluster: {join_names(known)}"
    yield document.error(path, text + did_you_mean(entry.broker, known or ()))


def read_members(
    document: Document, unchecked: Unchecked[FleetFile], file: FleetFile
) -> tuple[Member, ...]:
    """Return one member per node, and report errors in the entries to *unchecked*."""
    members: dict[str, Member] = {}
    for index, entry in enumerate(file.nodes):
        path: Path_ = ("nodes", index)
        unchecked.report(check_sensor(document, entry.sensor, (*path, "sensor")))
        if unchecked.is_valid_at(*path, "owner") and unchecked.is_valid_at(*path, "each"):
            unchecked.report(_check_owner(document, entry, (*path, "owner")))
        if unchecked.is_valid_at(*path, "broker"):
            unchecked.report(_check_own_broker(document, unchecked, entry, (*path, "broker")))
        if not (unchecked.is_valid_at(*path, "id") and unchecked.is_valid_at(*path, "each")):
            continue
        try:
            for member in _expand(document, entry, path):
                if member.id in members:
                    remedy = ", put {n} into it" if entry.each else ""
                    text = f"gives the id {member.id!r} twice{remedy}"
                    raise document.error((*path, "id"), text)
                members[member.id] = member
        except ConfigError as error:
            unchecked.report([error])
    return tuple(members.values())


def _expand(document: Document, entry: NodeEntry, path: Path_) -> Iterator[Member]:
    plain = msgspec.to_builtins(entry.sensor)
    for n in range(1, (entry.each or 1) + 1):
        name, sensor, owner = entry.id, plain, entry.owner
        if entry.each:
            name, sensor, owner = (
                _fill_in_number(name, n),
                _fill_in_number(sensor, n),
                _fill_in_number(owner, n),
            )
        if not _is_name(name):
            raise _name_error(document, (*path, "id"), name)
        own = _with_own_seed(msgspec.convert(sensor, Sensor), name)
        yield Member(name, own, path, owner, entry.broker)


def _check_owner(document: Document, entry: NodeEntry, path: Path_) -> Iterator[ConfigError]:
    """Report at most one error, even if *each* makes many nodes."""
    if entry.owner is None:
        return
    count = entry.each or 1
    owners = [
        _fill_in_number(entry.owner, n) if entry.each else entry.owner for n in range(1, count + 1)
    ]
    wrong = next((owner for owner in owners if not _is_name(owner)), None)
    if wrong is not None:
        yield _name_error(document, path, wrong)


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
