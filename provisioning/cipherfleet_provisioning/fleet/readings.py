"""Check that recorded readings fit the objective that uses them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cipherfleet_node.core.agreement import SHARE
from cipherfleet_node.core.metric import Metric, StepInput
from cipherfleet_node.core.objective import Objective as MadeObjective
from cipherfleet_node.core.objective import make_objective
from cipherfleet_node.core.quantiser import VALUE_BITS
from cipherfleet_node.core.randomness import SEED_BYTES, RoundRandomness
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.core.statistics import Statistics, wrap_objective
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.sensors import CsvTable, kind_of
from cipherfleet_node.sensors.base import check_fields, join_names
from cipherfleet_node.sensors.clock import FIELDS as CLOCK_FIELDS
from cipherfleet_node.sensors.csv_table import format_of, gaps_of
from cipherfleet_node.sensors.joined import check_distinct
from cipherfleet_node.sensors.plugins import plugin_fields, plugin_names, read_options
from cipherfleet_node.settings.rules import ItemDraft, Rule, apply_rules, fields_named
from cipherfleet_node.settings.sections import (
    AGREE,
    Algorithm,
    ClockSensor,
    CommandSensor,
    CsvSensor,
    HttpSensor,
    HwmonSensor,
    IioSensor,
    ModbusSensor,
    MqttSensor,
    ObjectiveSection,
    OneWireSensor,
    PluginSensor,
    Scale,
    Sensor,
    SensorGroup,
    SerialSensor,
    Source,
    SyntheticSensor,
    ThermalSensor,
    exact_scale_of,
    parts_of,
    resolution_of,
)
from cipherfleet_node.settings.type_errors import EACH, Path_, did_you_mean
from cipherfleet_provisioning.topology.given import near

from .draft import FleetDraft
from .members import Member


@dataclass
class MemberDraft(ItemDraft):
    """A node while its readings are checked; *reasons* are those of all nodes, each is given once.

    *index* is that of its entry, so that one error is reported for each entry of fleet.yaml.
    """

    file: FleetDraft
    member: Member
    reasons: set[str]

    @property
    def path(self) -> Path_:
        """The place of the sensor, or of the list of sensors."""
        return ("nodes", self.index, "sensor" if self._sensors is None else "sensors")

    @property
    def located(self) -> list[tuple[Path_, Sensor]]:
        """The single sensors and their places."""
        parts = parts_of(self.member.sensor)
        if self._sensors is None:
            return [(self.path, parts[0])]
        return [((*self.path, place), each) for place, each in enumerate(parts)]

    @property
    def _sensors(self) -> list[Sensor] | None:
        return self.file.value.nodes[self.index].sensors


def check_files(draft: FleetDraft) -> Iterable[ConfigError]:
    """Every recorded file can be read: FILE_RULES."""
    return _apply_to_members(FILE_RULES, draft)


def check_names(draft: FleetDraft) -> Iterator[ConfigError]:
    """Every field of the objective is a field of some sensor: otherwise it is misspelt."""
    sensors = [
        _fields_of(member.sensor, draft.folder, draft.tables)
        for member in draft.members
        if member.role == "member"
    ]
    known = {name for fields in sensors if fields is not None for name in fields}
    if not known or any(fields is None for fields in sensors):
        return  # the fields of some sensors are known only when they run
    for path, name in fields_named(draft.value.objective):
        if name not in known:
            text = f"is {name!r}, which no sensor has, they have {join_names(sorted(known))}"
            place = ("objective", *path)
            yield draft.document.error(place, text + did_you_mean(name, known))


def check_readings(draft: FleetDraft) -> Iterable[ConfigError]:
    """No node would refuse its readings when it starts: READING_RULES."""
    return _apply_to_members(READING_RULES, draft)


def _apply_to_members(
    rules: Iterable[Rule[MemberDraft]], draft: FleetDraft
) -> tuple[ConfigError, ...]:
    reasons: set[str] = set()
    for member in draft.members:
        apply_rules(rules, MemberDraft(draft, member.entry, member, reasons))
    return ()  # apply_rules has reported the errors


def _read_table(draft: MemberDraft) -> Iterator[ConfigError]:
    """A recorded file is a table in CSV; each file is read once."""
    sensor, tables = draft.member.sensor, draft.file.tables
    if not isinstance(sensor, CsvSensor):
        return
    path, form = draft.file.folder / sensor.path, format_of(sensor)
    if path in tables:
        table = tables[path]
        if table is not None and table.format != form:
            text = (
                f"of node {draft.member.id!r}: another node reads this file with other settings "
                "of separator, decimal or columns"
            )
            yield draft.file.document.error((*draft.path, "path"), text)
        return
    tables[path] = None
    try:
        tables[path] = CsvTable(path, form)
    except ConfigError as error:
        text = f"of node {draft.member.id!r}: {error}{near(path)}"
        yield draft.file.document.error((*draft.path, "path"), text)


def _check_columns(draft: MemberDraft) -> Iterator[ConfigError]:
    """The readings have all columns and fields that the section of the sensor names."""
    for path, sensor in draft.located:
        fields = _fields_of(sensor, draft.file.folder, draft.file.tables)
        where = sensor.where if isinstance(sensor, CsvSensor) else {}
        sections: dict[str, Iterable[str]] = {
            "where": where,
            "limits": sensor.limits,
            "guards": sensor.guards,
        }
        for section, names in sections.items():
            for name in names:
                if fields is not None and name not in fields:
                    owner, known = draft.member.id, join_names(fields)
                    text = f"is no field of the sensor of {owner!r}, it has {known}"
                    yield draft.file.document.key_error(
                        (*path, section, name), text + did_you_mean(name, fields)
                    )


def _check_start(draft: MemberDraft) -> Iterator[ConfigError]:
    """The objective accepts the readings, and the first step stays in range."""
    fleet = draft.file
    if draft.member.role == "follower":
        return
    algorithm = fleet.value.algorithm if draft.is_valid_at("algorithm") else None
    reason = _find_refusal(
        draft.member.sensor, fleet.folder, fleet.tables, fleet.value.objective, algorithm
    )
    if reason is not None and reason not in draft.reasons:
        draft.reasons.add(reason)
        yield fleet.document.error(draft.path, f"of node {draft.member.id!r}: {reason}")


def _check_number(draft: MemberDraft) -> Iterator[ConfigError]:
    """Every node has at least privacy.readings readings."""
    fleet, member = draft.file, draft.member
    privacy = fleet.value.privacy
    if privacy is None or privacy.readings is None or member.role == "follower":
        return
    found = count_readings(member.sensor, fleet.folder, fleet.tables, fleet.value.objective)
    if found is not None and found < privacy.readings:
        yield fleet.document.error(
            ("privacy", "readings"),
            f"is {privacy.readings}, but node {member.id!r} has {found}: the noise is for nodes "
            "with at least as many readings",
            remedy="write the least number of readings of a node, or leave readings out, and "
            "provisioning counts them",
        )


SENSOR, SENSORS = ("nodes", EACH, "sensor"), ("nodes", EACH, "sensors")
FILE_RULES: tuple[Rule[MemberDraft], ...] = (Rule((SENSOR, SENSORS), _read_table),)
READING_RULES: tuple[Rule[MemberDraft], ...] = (
    Rule((SENSOR, SENSORS), _check_columns),
    Rule((("objective",), SENSOR, SENSORS), _check_start),
    Rule((("privacy",), ("objective",), SENSOR, SENSORS), _check_number),
)


def _find_refusal(
    sensor: Source,
    folder: Path,
    tables: Mapping[Path, CsvTable | None],
    section: ObjectiveSection,
    algorithm: Algorithm | None,
) -> str | None:
    """Return the reason why a node would refuse its readings when it starts, None if none."""
    objective = make_objective(section)
    if algorithm is not None:
        objective = wrap_objective(algorithm, objective, section)
    fields = _fields_of(sensor, folder, tables)
    owners: dict[str, Collection[str]] = {}
    try:
        for number, each in enumerate(parts_of(sensor), 1):
            if isinstance(each, PluginSensor) and each.name in plugin_names():
                read_options(each)
            own = _fields_of(each, folder, tables)
            owners[f"sensor {number} ({kind_of(each)})"] = own or ()
        check_distinct(owners)
        if fields is not None and not isinstance(sensor, CsvSensor):
            source = "the sensors" if isinstance(sensor, SensorGroup) else f"kind {kind_of(sensor)}"
            check_fields(source, fields, objective.fields, sensor.limits)
        samples = recorded_samples(sensor, folder, tables, objective.fields)
        if samples is not None:
            objective.absorb(samples)
            if algorithm is not None:
                _check_range(objective, algorithm, exact_scale_of(algorithm, section))
    except ConfigError as error:
        return str(error)
    return None


def _check_range(objective: MadeObjective, algorithm: Algorithm, scale: Scale | None) -> None:
    """Raise ConfigError if the first estimate or step exceeds the range of the resolution.

    *scale* is that of the exact method, None for the article's.
    """
    limit = 2.0 ** (VALUE_BITS - 1) * resolution_of(algorithm)
    with np.errstate(all="ignore"):
        start = objective.start()
        randomness = RoundRandomness(bytes(SEED_BYTES))
        gradient = objective.gradient(start, randomness)
        step = algorithm.stepsize.initial * gradient
        if scale is not None:
            metric = Metric(objective, algorithm.metric, algorithm.stepsize.spread)
            curvature = metric.curvature.at(start, 0, randomness)
            used = SHARE * curvature or 1.0 if scale == AGREE else scale
            place = StepInput(start, gradient, np.zeros_like(start), 0, used, randomness, None)
            step, _ = metric.step(place, np.ones_like(start))
        if isinstance(objective, Statistics):
            step = gradient  # the statistics themselves must fit: their mean is the fleet's optimum
        fits = bool(np.all(np.abs(start) < limit) and np.all(np.abs(step) < limit))
    if not fits:  # NaN does not fit either
        raise ConfigError(
            f"the first estimate, or the first step from it, leaves the range of +-{limit:g} of "
            "algorithm.resolution: bring readings to order one by offset and scale in objective, "
            "or choose a coarser resolution or a smaller algorithm.stepsize.initial"
        )


def recorded_samples(
    sensor: Source,
    folder: Path,
    tables: Mapping[Path, CsvTable | None],
    needed: Collection[str],
) -> list[Sample] | None:
    """Return all readings of *sensor*, None if it is a live sensor or its file has errors."""
    table = tables.get(folder / sensor.path) if isinstance(sensor, CsvSensor) else None
    if table is None or not isinstance(sensor, CsvSensor):
        return None
    return table.samples(sensor.where, needed, sensor.limits, gaps_of(sensor))


def _fields_of(
    source: Source, folder: Path, tables: Mapping[Path, CsvTable | None]
) -> Collection[str] | None:
    """Return the field names of *source*, None if they are known only when it runs."""
    known: list[str] = []
    for sensor in parts_of(source):
        if isinstance(sensor, CsvSensor):
            table = tables.get(folder / sensor.path)
            fields: Collection[str] | None = table.columns if table is not None else None
        else:
            fields = _declared_fields(sensor)
        if fields is None:
            return None
        known += fields
    return known


def _declared_fields(sensor: Sensor) -> Collection[str] | None:
    """Return the field names that the section of *sensor* says, None if it does not."""
    match sensor:
        case SyntheticSensor() | MqttSensor() | HttpSensor() | SerialSensor():
            return list(sensor.fields)
        case ModbusSensor():
            return list(sensor.registers)
        case ThermalSensor() | OneWireSensor():
            return [sensor.field]
        case HwmonSensor() | IioSensor():
            return list(sensor.inputs.values())
        case ClockSensor():
            return CLOCK_FIELDS
        case CommandSensor():
            return sensor.fields or None
        case PluginSensor() if sensor.name in plugin_names():
            return _plugin_fields(sensor)
        case _:
            return None


def _plugin_fields(sensor: PluginSensor) -> Collection[str] | None:
    """Return the fields that an installed plug-in declares; None if its options are wrong."""
    try:
        return plugin_fields(sensor)
    except ConfigError:
        return None


def count_readings(
    sensor: Source,
    folder: Path,
    tables: Mapping[Path, CsvTable | None],
    section: ObjectiveSection,
) -> int | None:
    """Return how many readings of *sensor* the window of *section* holds.

    None if it is a live sensor, or if its file has errors.
    """
    try:
        samples = recorded_samples(sensor, folder, tables, make_objective(section).fields)
    except ConfigError:
        return None
    return None if samples is None else min(len(samples), section.window)
