"""Checks that recorded readings fit the objective that uses them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cipherfleet_node.core.objective import Objective as MadeObjective
from cipherfleet_node.core.objective import make_objective
from cipherfleet_node.core.quantiser import VALUE_BITS
from cipherfleet_node.core.randomness import SEED_BYTES, Draws
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.sensors import CsvTable
from cipherfleet_node.sensors.base import check_fields, listed
from cipherfleet_node.settings.node_yaml import (
    fields_named,
)
from cipherfleet_node.settings.sections import (
    Algorithm,
    CsvSensor,
    HwmonSensor,
    Objective,
    Sensor,
    SyntheticSensor,
    ThermalSensor,
    resolution_of,
)
from cipherfleet_node.settings.type_errors import meant
from cipherfleet_node.settings.yaml_document import Document, Draft
from cipherfleet_provisioning.topology.given import near

from .file import FleetFile
from .members import Member


def check_readings(
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
        samples = recorded_samples(sensor, folder, tables, objective.fields)
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


def recorded_samples(
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
