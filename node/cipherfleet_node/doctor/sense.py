"""The command `cipherfleet-node sense`: what the sensors of a node give now, without the fleet.

It reads the sensors as the daemon does and shows names, units, ages and checks. Values are private
and appear only if the caller asks for them. It needs node.yaml and neither keys nor a broker.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from cipherfleet_node.core.objective import objective_of
from cipherfleet_node.errors import ConfigError, ReadingRefused, one_line
from cipherfleet_node.runtime.bundle import open_node_sensor
from cipherfleet_node.sensors import Joined, open_parts
from cipherfleet_node.sensors.joined import Part
from cipherfleet_node.settings.node_yaml import load_node_config
from cipherfleet_node.settings.sections import NoSensor, Sensor, parts_of

# good: measured by this read. stale: of an earlier read, and still used. implausible: a check
# failed. none: there is no sample.
FieldQuality = Literal["good", "stale", "implausible", "none"]
Verdict = Literal["ok", "failed", "unknown"]


class SensedField(msgspec.Struct, frozen=True):
    """One field of the readings, and what its checks say."""

    name: str
    sensor: str  # its kind, with a number among several
    unit: str | None  # from answer.units
    age_s: float | None  # since the measurement; null without a sample
    quality: FieldQuality
    checks: dict[str, Verdict]  # the limits and guards of the field
    value: float | None  # null unless it is asked for


class SenseResult(msgspec.Struct, frozen=True):
    """What one read of all sensors of a node gives."""

    fleet: str
    node: str
    usable: bool  # the daemon would use this reading
    fields: list[SensedField]
    problems: list[str]  # why sensors gave no sample


class Senses:
    """The open sensors of the node in *folder*. Raises ConfigError if they cannot be opened."""

    def __init__(self, folder: Path) -> None:
        self._config = config = load_node_config(folder)
        if isinstance(config.source, NoSensor):
            raise ConfigError(f"{folder}: this node has no sensor", remedy="set one in node.yaml")
        needed = objective_of(config.objective, config.role).fields
        self._device: Joined = open_node_sensor(folder, config, needed, open_parts)

    def read(self, *, show: bool) -> SenseResult:
        """Read all sensors once; with *show* the result has the values."""
        self._device.read_parts()
        now, config = time.monotonic(), self._config
        parts = list(zip(self._device.parts, parts_of(config.source), strict=True))
        fields = [
            self._field(name, part, sensor, now, show=show)
            for part, sensor in parts
            for name in part.device.fields
        ]
        return SenseResult(
            fleet=config.fleet,
            node=config.node,
            usable=all(self._quality(part, now) in ("good", "stale") for part, _ in parts),
            fields=fields,
            problems=[one_line(str(part.problem)) for part, _ in parts if part.problem],
        )

    def close(self) -> None:
        """Release the sensors."""
        self._device.close()

    def _quality(self, part: Part, now: float) -> FieldQuality:
        if part.has_new:
            return "good"
        # A single sensor that fails has no reading; one with nothing new has its newest.
        is_used = len(self._device.parts) > 1 or part.problem is None
        return "stale" if is_used and self._device.is_fresh(part, now) else "none"

    def _field(
        self, name: str, part: Part, sensor: Sensor, now: float, *, show: bool
    ) -> SensedField:
        quality = self._quality(part, now)
        verdict: Verdict = "ok" if quality == "good" else "unknown"
        checks = dict.fromkeys(_checks(sensor, name), verdict)
        refusal = part.problem
        if isinstance(refusal, ReadingRefused) and refusal.field == name:
            quality, checks[refusal.check] = "implausible", "failed"
        sample = part.newest if quality in ("good", "stale") else None
        return SensedField(
            name=name,
            sensor=part.name,
            unit=self._config.answer.units.get(name),
            age_s=round(part.age_s(now), 3) if sample is not None else None,
            quality=quality,
            checks=checks,
            value=sample.values[name] if sample is not None and show else None,
        )


def _checks(sensor: Sensor, field: str) -> Iterator[str]:
    """Yield the names of the checks that the settings have for *field*."""
    if field in sensor.limits:
        yield "limits"
    if field in sensor.guards:
        guard = msgspec.structs.asdict(sensor.guards[field])
        yield from (name for name, setting in guard.items() if setting is not None)


def result_lines(result: SenseResult, *, show: bool) -> Iterator[str]:
    """Yield the lines of the table."""
    state = "usable" if result.usable else "NOT USABLE"
    yield f"{result.fleet}/{result.node}: {state}"
    rows = [_cells(field, show=show) for field in result.fields]
    heading = ["field", *(["value"] if show else []), "unit", "age", "quality", "checks"]
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    for row in (heading, *rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"  {line}".rstrip()
    yield from (f"  {problem}" for problem in result.problems)


def _cells(field: SensedField, *, show: bool) -> list[str]:
    value = ["-" if field.value is None else f"{field.value:g}"] if show else []
    return [
        one_line(field.name),
        *value,
        one_line(field.unit or "-"),
        "-" if field.age_s is None else f"{field.age_s:.1f} s",
        field.quality,
        ", ".join(f"{name} {verdict}" for name, verdict in field.checks.items()) or "-",
    ]
