"""Check that recorded readings fit the objective that uses them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cipherfleet_node.core.objective import Objective as MadeObjective
from cipherfleet_node.core.objective import make_objective
from cipherfleet_node.core.quantiser import VALUE_BITS
from cipherfleet_node.core.randomness import SEED_BYTES, RoundRandomness
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.sensors import CsvTable
from cipherfleet_node.sensors.base import check_fields, join_names
from cipherfleet_node.settings.node_yaml import fields_named
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
from cipherfleet_node.settings.type_errors import did_you_mean
from cipherfleet_node.settings.yaml_document import Document, Unchecked
from cipherfleet_provisioning.topology.given import near

from .file import FleetFile
from .members import Member


def check_readings(
    document: Document, unchecked: Unchecked[FleetFile], file: FleetFile, members: Sequence[Member]
) -> dict[Path, CsvTable]:
    """Report readings that a node would refuse when it starts; return the tables of recorded files.

    Each file is read once. One error is reported for each entry of fleet.yaml, each file and each
    reason.
    """
    tables: dict[Path, CsvTable | None] = {}
    for member in members:
        if unchecked.is_valid_at(*member.path, "sensor"):
            unchecked.report(_read_table(document, member, tables))
    folder = document.file.parent
    named = [
        _fields_of(member.sensor, folder, tables)
        if unchecked.is_valid_at(*member.path, "sensor")
        else None
        for member in members
    ]
    unchecked.report(_check_names(document, file.objective, named))
    reasons: set[str] = set()
    for member, fields in zip(members, named, strict=True):
        path = (*member.path, "sensor")
        if fields is not None:
            unchecked.report(_check_columns(document, member, fields))
        if unchecked.is_valid_at("objective") and unchecked.is_valid_at(*path):
            algorithm = file.algorithm if unchecked.is_valid_at("algorithm") else None
            reason = _find_refusal(member.sensor, folder, tables, file.objective, algorithm)
            if reason is not None and reason not in reasons:
                reasons.add(reason)
                unchecked.report([document.error(path, f"of node {member.id!r}: {reason}")])
    return {path: table for path, table in tables.items() if table is not None}


def _read_table(
    document: Document, member: Member, tables: dict[Path, CsvTable | None]
) -> Iterator[ConfigError]:
    """Read the recorded file of *member* into *tables*, if it is not there; None if it has errors.

    Many nodes may read the same file.
    """
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
    """Report fields of the objective that no sensor has: probably misspelt in the objective."""
    known = {name for fields in sensors if fields is not None for name in fields}
    if not known or any(fields is None for fields in sensors):
        return  # the fields of some sensors are known only when they run
    for path, name in fields_named(objective):
        if name not in known:
            text = f"is {name!r}, which no sensor has, they have {join_names(sorted(known))}"
            yield document.error(("objective", *path), text + did_you_mean(name, known))


def _check_columns(
    document: Document, member: Member, fields: Collection[str]
) -> Iterator[ConfigError]:
    """Report columns and fields that the section of a sensor names but its readings lack."""
    where = member.sensor.where if isinstance(member.sensor, CsvSensor) else {}
    for section, names in (("where", where), ("limits", member.sensor.limits)):
        for name in names:
            if name not in fields:
                text = f"is no field of the sensor of {member.id!r}, it has {join_names(fields)}"
                path = (*member.path, "sensor", section, name)
                yield document.key_error(path, text + did_you_mean(name, fields))


def _find_refusal(
    sensor: Sensor,
    folder: Path,
    tables: Mapping[Path, CsvTable | None],
    section: Objective,
    algorithm: Algorithm | None,
) -> str | None:
    """Return the reason why a node would refuse its readings when it starts, None if none."""
    objective = make_objective(section)
    fields = _fields_of(sensor, folder, tables)
    try:
        if fields is not None and not isinstance(sensor, CsvSensor):
            source = f"kind {sensor.__struct_config__.tag}"
            check_fields(source, fields, objective.fields, sensor.limits)
        samples = recorded_samples(sensor, folder, tables, objective.fields)
        if samples is not None:
            objective.absorb(samples)
            if algorithm is not None:
                _check_range(objective, algorithm)
    except ConfigError as error:
        return str(error)
    return None


def _check_range(objective: MadeObjective, algorithm: Algorithm) -> None:
    """Raise ConfigError if the first estimate or step exceeds the range of the resolution."""
    limit = 2.0 ** (VALUE_BITS - 1) * resolution_of(algorithm)
    with np.errstate(all="ignore"):
        start = objective.start()
        step = algorithm.stepsize.initial * objective.gradient(
            start, RoundRandomness(bytes(SEED_BYTES))
        )
        fits = bool(np.all(np.abs(start) < limit) and np.all(np.abs(step) < limit))
    if not fits:  # NaN does not fit either
        raise ConfigError(
            f"the first estimate, or the first step from it, leaves the range of +-{limit:g} of "
            "algorithm.resolution: bring readings to order one by offset and scale in objective, "
            "or choose a coarser resolution or a smaller algorithm.stepsize.initial"
        )


def recorded_samples(
    sensor: Sensor,
    folder: Path,
    tables: Mapping[Path, CsvTable | None],
    needed: Collection[str],
) -> list[Sample] | None:
    """Return all readings of *sensor*, None if it is a live sensor or its file has errors."""
    table = tables.get(folder / sensor.path) if isinstance(sensor, CsvSensor) else None
    if table is None or not isinstance(sensor, CsvSensor):
        return None
    return table.samples(sensor.where, needed, sensor.limits)


def _fields_of(
    sensor: Sensor, folder: Path, tables: Mapping[Path, CsvTable | None]
) -> Collection[str] | None:
    """Return the field names of *sensor*, None if they are known only when it runs."""
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
