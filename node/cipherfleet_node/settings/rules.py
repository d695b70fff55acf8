"""Rules: what types cannot express about a file, as a list of checks that one loop applies.

A rule names the places of the file that its check reads. While one of them is wrong the rule does
not apply, because its errors would only follow from that one. The checks in this module are for
sections that node.yaml and fleet.yaml share. They are in one file, since most of them read several
sections.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import (
    _RESOLUTION,
    DRIFT_KINDS,
    OBJECTIVE_KINDS,
    PRIVACY_KINDS,
    SAFE_KEY_BITS,
    STATISTICS_KINDS,
    Algorithm,
    AnswerMqtt,
    AnswerSection,
    Broker,
    CommandSensor,
    Crypto,
    CsvSensor,
    Feature,
    Guard,
    HttpSensor,
    Method,
    ModbusSensor,
    MqttSensor,
    NoSensor,
    ObjectiveSection,
    Privacy,
    Role,
    Sensor,
    SensorGroup,
    Source,
    SyntheticSensor,
    exact_scale_of,
    parts_of,
    resolution_of,
)

from .type_errors import EACH, Path_, did_you_mean, dotted
from .yaml_document import Document, Unchecked


class Draft(Protocol):
    """What rules are applied to: it knows the places that are wrong, and collects errors."""

    def is_valid_at(self, *path: str | int) -> bool:
        """True if no error was found at *path*, beneath it or above it."""

    def report(self, findings: Iterable[ConfigError]) -> None:
        """Add *findings* to the errors found so far."""


D = TypeVar("D", bound=Draft)
D_contra = TypeVar("D_contra", bound=Draft, contravariant=True)


@dataclass(frozen=True)
class Rule(Generic[D_contra]):
    """A check, and the places that it needs: () is the whole file, EACH every item of a list.

    The first line of the check's docstring says what the file must fulfil.
    """

    needs: tuple[Path_, ...]
    check: Callable[[D_contra], Iterable[ConfigError]]

    def __str__(self) -> str:
        """Return the rule as one line, with the places that it needs."""
        text = (self.check.__doc__ or "").partition("\n")[0]
        places = ", ".join(dotted(place) or "the whole file" for place in self.needs)
        return f"{text} Needs: {places}." if places else text


def apply_rules(rules: Iterable[Rule[D]], draft: D) -> None:
    """Report the errors that *rules* find in *draft*, in their order."""
    for rule in rules:
        if all(draft.is_valid_at(*place) for place in rule.needs):
            draft.report(rule.check(draft))


@dataclass
class ItemDraft:
    """An item of a list in *file*: in the needs of its rules EACH is *index*."""

    file: Draft
    index: int

    def is_valid_at(self, *path: str | int) -> bool:
        """True if no error was found at *path* of this item."""
        return self.file.is_valid_at(*(self.index if step == EACH else step for step in path))

    def report(self, findings: Iterable[ConfigError]) -> None:
        """Add *findings* to those of the file."""
        self.file.report(findings)


# -- checks of the sections that node.yaml and fleet.yaml share ---------------------------------


class Sections(Protocol):
    """The sections that the checks of this module read."""

    @property
    def algorithm(self) -> Algorithm:
        """The section of rounds, stepsizes and resolution."""

    @property
    def objective(self) -> ObjectiveSection:
        """The section of the function to minimise."""

    @property
    def crypto(self) -> Crypto:
        """The section of keys and exchange."""

    @property
    def broker(self) -> Broker:
        """The section of the broker's address."""

    @property
    def answer(self) -> AnswerSection:
        """The section of what is published of the answer."""

    @property
    def privacy(self) -> Privacy | None:
        """The section of the noise on the result; None without one."""


def check_algorithm(draft: Unchecked[Sections]) -> Iterator[ConfigError]:
    """The resolution is valid, and the fleet has a number of rounds or a period."""
    document, algorithm = draft.document, draft.value.algorithm
    here = ("algorithm", "resolution")
    try:
        fits = 0 < resolution_of(algorithm) <= 1e6
    except (ValueError, OverflowError):
        fits = False
    if not fits:
        yield document.error(here, f"is {document.found(here)}, must be {_RESOLUTION}")
    if algorithm.rounds is None and algorithm.period_s is None:
        yield document.error(
            ("algorithm",), "needs rounds (how many), or period_s (seconds) for an endless fleet"
        )


# Settings of the section algorithm that a method does not use.
_SCHEDULE = [("attenuation",), *(("stepsize", key) for key in ("initial", "decay", "exponent"))]
UNUSED: Mapping[Method, Sequence[tuple[str, ...]]] = {
    "article": [("scale",), ("until",), ("metric",), ("shield",), ("shares",)],
    "exact": _SCHEDULE,
    "statistics": [*_SCHEDULE, ("metric",)],
}

NEED_GRADIENT = [("metric",), ("shield",), ("shares",)]  # settings of the section algorithm


def unused_settings(algorithm: Algorithm, objective: ObjectiveSection) -> list[tuple[str, ...]]:
    """Return the settings of *algorithm* that a node with this *objective* does not use."""
    more = list(NEED_GRADIENT) if objective.kind == "average" else []
    if algorithm.shield == "none":
        more.append(("shares",))
    return [*UNUSED[algorithm.method], *more]


def check_method(draft: Unchecked[Sections]) -> Iterator[ConfigError]:
    """Every setting of the algorithm is one that its method uses."""
    document, algorithm = draft.document, draft.value.algorithm
    for place in UNUSED[algorithm.method]:
        path = ("algorithm", *place)
        other = "exact" if algorithm.method == "article" else "article"
        if document.has(path):
            yield document.key_error(
                path,
                f"is not used by method {algorithm.method}",
                remedy=f"leave it out, or set algorithm.method: {other}",
            )
    if algorithm.shield == "none" and document.has(("algorithm", "shares")):
        yield document.key_error(
            ("algorithm", "shares"),
            "is not used by algorithm.shield: none",
            remedy="leave it out, or set algorithm.shield: linear or quadratic",
        )
    spread = algorithm.stepsize.spread
    if spread > 1 and algorithm.method == "article":
        yield document.error(
            ("algorithm", "stepsize", "spread"),
            f"is {spread:g}, must be at most 1 in method article: steps against the gradient would "
            "move the optimum",
            remedy="write spread: 1, or set algorithm.method: exact",
        )


def check_gradient(draft: Unchecked[Sections]) -> Iterator[ConfigError]:
    """An average has no gradient, and so no metric and no shield."""
    if draft.value.objective.kind != "average":
        return
    for place in NEED_GRADIENT:
        path = ("algorithm", *place)
        if draft.document.has(path):
            yield draft.document.key_error(
                path,
                "is not used by objective average, which has no gradient",
                remedy="leave it out, or set objective.kind: mean",
            )


def role_errors(
    sections: Unchecked[Sections], role: Role, source: Source, path: Path_
) -> Iterator[ConfigError]:
    """Yield an error for a role that does not fit; *path* is that of the node in its file."""
    document, value = sections.document, sections.value
    if role == "member":
        if isinstance(source, NoSensor):
            text = "is none, which only a follower may have"
            remedy = "name its sensor, or write role: follower beside it"
            yield document.error((*path, "sensor", "kind"), text, remedy=remedy)
    elif exact_scale_of(value.algorithm, value.objective) is None:
        yield document.error(
            (*path, "role"),
            "is follower: only the exact method brings it to the optimum of the others",
            remedy="set algorithm.method: exact, and another objective.kind than average",
        )


def check_statistics(draft: Unchecked[Sections]) -> Iterator[ConfigError]:
    """Method statistics has an objective whose optimum follows from sums over the readings."""
    document, objective = draft.document, draft.value.objective
    if draft.value.algorithm.method != "statistics":
        return
    other = "set algorithm.method: exact"
    if objective.kind not in STATISTICS_KINDS:
        if objective.kind == "average":
            other = (
                "set objective.kind: mean, which has the same answer, or algorithm.method: exact"
            )
        yield document.error(
            ("objective", "kind"),
            f"is {objective.kind}: algorithm.method: statistics needs one of "
            f"{', '.join(STATISTICS_KINDS)}, whose optimum follows from sums over the readings",
            remedy=other,
        )
    elif objective.minibatch is not None:
        yield document.key_error(
            ("objective", "minibatch"),
            "is not used by method statistics, which sums over the whole window",
            remedy=f"leave it out, or {other}",
        )
    if draft.value.algorithm.shield == "quadratic":
        yield document.error(
            ("algorithm", "shield"),
            "is quadratic: in method statistics the curvature is one on all nodes, and nothing "
            "needs to hide it",
            remedy=f"set algorithm.shield: linear, or {other}",
        )


def check_drift(draft: Unchecked[Sections]) -> Iterator[ConfigError]:
    """The section drift stands beside an objective with residuals, method exact and no privacy."""
    document, objective = draft.document, draft.value.objective
    drift, here = objective.drift, ("objective", "drift")
    if drift is None:
        return
    remedy = "leave objective.drift out"
    method = draft.value.algorithm.method
    if objective.kind not in DRIFT_KINDS:
        text = f"needs one of the kinds {', '.join(DRIFT_KINDS)}, found {objective.kind}"
        yield document.key_error(here, text, remedy=remedy)
    elif method != "exact":
        text = f"needs algorithm.method: exact, found {method}"
        yield document.key_error(here, text, remedy=f"set it, or {remedy}")
    elif draft.value.privacy is not None:
        text = "is not allowed beside the section privacy: the mean of the residuals has no noise"
        yield document.key_error(here, text, remedy=f"{remedy}, or the section privacy")
    elif drift.window > objective.window:
        yield document.error(
            (*here, "window"),
            f"is {drift.window}, must be at most objective.window, which is {objective.window}",
        )


# Settings of the objective under which a gradient does not use all readings of a release.
_NOT_PRIVATE = {
    "minibatch": "uses a part of the readings in each round: the bounds are for all of them",
    "window_s": "drops readings by their age: each reading less is another release of the result",
}


def check_privacy(draft: Unchecked[Sections]) -> Iterator[ConfigError]:
    """The section privacy stands beside a method and an objective for which its bounds hold."""
    document, privacy = draft.document, draft.value.privacy
    algorithm, objective = draft.value.algorithm, draft.value.objective
    if privacy is None:
        return
    if objective.kind not in PRIVACY_KINDS:
        yield document.error(
            ("objective", "kind"),
            f"is {objective.kind}: the section privacy needs one of {', '.join(PRIVACY_KINDS)}, "
            "for which the gradient of one reading has a bound",
            remedy="choose one of them, or leave the section privacy out",
        )
    if algorithm.method != "exact":
        yield document.error(
            ("algorithm", "method"),
            f"is {algorithm.method}: the section privacy needs method exact, whose result is the "
            "optimum and nothing else",
            remedy="set algorithm.method: exact, or leave the section privacy out",
        )
    yield from _check_release(document, objective)
    if privacy.readings is not None and privacy.readings > objective.window:
        yield document.error(
            ("privacy", "readings"),
            f"is {privacy.readings}, must be at most objective.window, which is {objective.window}",
        )


def _check_release(document: Document, objective: ObjectiveSection) -> Iterator[ConfigError]:
    remedy = "leave it out, or leave the section privacy out"
    for name, reason in _NOT_PRIVATE.items():
        if getattr(objective, name) is not None:
            text = f"{reason} (section privacy)"
            yield document.key_error(("objective", name), text, remedy=remedy)
    if objective.weight == "reading":
        yield document.error(
            ("objective", "weight"),
            "is reading, must be node beside the section privacy: the noise is for the weight "
            "1 / readings",
            remedy="set objective.weight: node and leave normalise_by out, or leave the section "
            "privacy out",
        )


def privacy_sensor_errors(
    sections: Unchecked[Sections], role: Role, source: Source, path: Path_
) -> Iterator[ConfigError]:
    """Yield an error for a sensor with new readings in a run; *path* is that of the node.

    A follower's readings do not enter the result.
    """
    document = sections.document
    if sections.value.privacy is None or role == "follower":
        return
    release = "each new reading would be another release of the result"
    remedy = "record the readings in a file, or leave the section privacy out"
    if isinstance(source, SensorGroup):
        text = f"are live, must be one sensor of kind csv beside the section privacy: {release}"
        yield document.error((*path, "sensors"), text, remedy=remedy)
        return
    if not isinstance(source, CsvSensor):
        if not isinstance(source, NoSensor):  # which a member may not have in any case
            kind = source.__struct_config__.tag
            yield document.error(
                (*path, "sensor", "kind"),
                f"is {kind}, must be csv beside the section privacy: {release}",
                remedy=remedy,
            )
        return
    for name in ("rows_per_round", "rounds_per_row"):
        if getattr(source, name) is not None:
            yield document.key_error(
                (*path, "sensor", name),
                f"is not allowed beside the section privacy: {release}",
                remedy="leave it out: the node reads the whole file before the first round",
            )


def check_crypto(draft: Unchecked[Sections]) -> Iterator[ConfigError]:
    """Keys have a possible size, and weak keys are allowed explicitly."""
    crypto, here = draft.value.crypto, ("crypto", "key_bits")
    if crypto.key_bits % 16:
        near = max(crypto.key_bits + 8, SAFE_KEY_BITS) // 16 * 16
        yield draft.document.error(
            here, f"is {crypto.key_bits}, must be a multiple of 16, for example {near}"
        )
    elif crypto.key_bits < SAFE_KEY_BITS and not crypto.allow_weak_keys:
        yield draft.document.error(
            here,
            f"is {crypto.key_bits}, which is a weak key: use {SAFE_KEY_BITS} or more, or set "
            "crypto.allow_weak_keys: true in a fleet that protects nothing",
        )


def check_broker(draft: Unchecked[Sections]) -> Iterator[ConfigError]:
    """A connection without TLS stays on this machine."""
    broker = draft.value.broker
    if not broker.tls and not is_loopback(broker.host):
        yield draft.document.error(
            ("broker", "host"),
            f"is {broker.host!r}: plain TCP is allowed on the loopback interface only",
            remedy="set broker.tls: true",
        )


def check_answer(draft: Unchecked[Sections]) -> Iterator[ConfigError]:
    """The answer never goes to the broker of the fleet, and units are of fields that exist."""
    document, answer = draft.document, draft.value.answer
    broker, mqtt = draft.value.broker, draft.value.answer.mqtt
    if mqtt is not None and mqtt.port == broker.port:
        hosts = [broker.host, *(getattr(broker, "cluster", None) or ())]
        if any(is_same_host(mqtt.host, host) for host in hosts):
            yield document.error(
                ("answer", "mqtt"),
                f"is {mqtt.host}:{mqtt.port}, which is the broker of the fleet: its "
                "operator would read the answer, and readings follow from corrected values",
                remedy="name a broker of your own, or leave answer.mqtt out and read the file",
            )
    if mqtt is not None:
        yield from _check_broker_files(document, mqtt, ("answer", "mqtt"))
    known = dict.fromkeys(name for _, name in fields_named(draft.value.objective))
    for name in answer.units:
        if name not in known:
            text = f"is {name!r}, must be a field of the objective: {', '.join(map(repr, known))}"
            yield document.key_error(("answer", "units", name), text + did_you_mean(name, known))


def _check_broker_files(
    document: Document, mqtt: AnswerMqtt | MqttSensor, path: Path_
) -> Iterator[ConfigError]:
    """Yield an error for files that have no effect, or that lack their counterpart."""
    section = dotted(path)
    for name in ("ca", "certificate", "key"):
        if getattr(mqtt, name) is not None and not mqtt.tls:
            text = f"has no effect without {section}.tls: true"
            remedy = "set tls: true, or leave it out"
            yield document.key_error((*path, name), text, remedy=remedy)
    for name, other in (("certificate", "key"), ("key", "certificate"), ("password_file", "user")):
        if getattr(mqtt, name) is not None and getattr(mqtt, other) is None:
            text = f"needs {section}.{other} as well"
            yield document.key_error((*path, name), text)


def sensor_broker_errors(
    sections: Unchecked[Sections], source: Source, path: Path_
) -> Iterator[ConfigError]:
    """Yield an error for a sensor that reads at the broker of the fleet; *path* is the node's."""
    broker = sections.value.broker
    hosts = [broker.host, *(getattr(broker, "cluster", None) or ())]
    for sensor in parts_of(source):
        if not isinstance(sensor, MqttSensor) or sensor.port != broker.port:
            continue
        if not any(is_same_host(sensor.host, host) for host in hosts):
            continue
        yield sections.document.error(
            (*path, "sensors" if isinstance(source, SensorGroup) else "sensor"),
            f"reads at {sensor.host}:{sensor.port}, which is the broker of the fleet: its operator "
            "would see the readings",
            remedy="name a broker of your own",
        )


def is_same_host(first: str, second: str) -> bool:
    """True if both names are known to be the same host; other names are not looked up."""
    if is_loopback(first) or is_loopback(second):
        return is_loopback(first) and is_loopback(second)
    return first.rstrip(".").lower() == second.rstrip(".").lower()


def is_loopback(host: str) -> bool:
    """True if *host* is an address or a name of this machine's loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def fields_named(objective: ObjectiveSection) -> Iterator[tuple[Path_, str]]:
    """Yield the path and the name of each field of a reading that the section uses."""
    for index, column in enumerate(objective.values or ()):
        yield ("values", index, "field"), column.field
    if objective.target is not None:
        yield ("target", "field"), objective.target.field
    for index, feature in enumerate(objective.features or ()):
        for key, name in (("field", feature.field), ("daily", feature.daily)):
            if name is not None:
                yield ("features", index, key), name


def check_objective(draft: Unchecked[Sections]) -> Iterator[ConfigError]:
    """No scale of a column is 0, every feature has one source, and the weight has its count."""
    document, objective = draft.document, draft.value.objective
    yield from _check_weight(document, objective)
    if objective.window_s is not None and objective.kind == "average":
        yield document.key_error(
            ("objective", "window_s"),
            "is not used by kind average, which takes the readings of its first round only",
            remedy="choose kind: mean, or leave window_s out",
        )
    for index, column in enumerate(objective.values or ()):
        yield from _check_scale(document, ("objective", "values", index), column.scale)
    if objective.target is not None:
        yield from _check_scale(document, ("objective", "target"), objective.target.scale)
    for index, feature in enumerate(objective.features or ()):
        yield from _check_feature(document, ("objective", "features", index), feature)


def check_parts(draft: Unchecked[Sections]) -> Iterator[ConfigError]:
    """The objective has the parts that its kind requires, and no others.

    Only the first missing part is reported: the kind itself may be the error.
    """
    document, objective = draft.document, draft.value.objective
    kind = objective.kind
    required: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    if kind in ("average", "mean"):
        required, excluded = ("values",), ("target", "features")
    elif kind in OBJECTIVE_KINDS:
        required, excluded = ("target", "features"), ("values",)
    for name in required:
        if not getattr(objective, name):
            yield document.error(("objective", name), f"is needed for kind {kind}")
            return
    for name in excluded:
        if getattr(objective, name) is not None:
            yield document.error(("objective", name), f"does not belong to kind {kind}")


def _check_weight(document: Document, objective: ObjectiveSection) -> Iterator[ConfigError]:
    here = ("objective", "normalise_by")
    if objective.weight == "node" and objective.normalise_by is not None:
        yield document.key_error(
            here,
            "is not used by weight node, with which every node counts alike",
            remedy="set objective.weight: reading, or leave normalise_by out",
        )
    elif objective.weight == "reading" and objective.kind == "average":
        yield document.error(
            ("objective", "weight"),
            "is reading: an average gives every node the same weight",
            remedy="choose kind: mean, or leave weight out",
        )
    elif objective.weight == "reading" and objective.normalise_by is None:
        yield document.error(
            here,
            "is needed for weight reading: the number of readings that counts one, the same on all "
            "nodes",
            remedy="write about the number of readings of one node, for example normalise_by: 100",
        )


def _check_scale(document: Document, path: Path_, scale: float) -> Iterator[ConfigError]:
    if scale == 0:
        yield document.error((*path, "scale"), "is 0, must be another number")


def _check_feature(document: Document, path: Path_, feature: Feature) -> Iterator[ConfigError]:
    given = [n for n in ("constant", "field", "daily") if getattr(feature, n) is not None]
    if len(given) != 1:
        yield document.error(
            path, "must have exactly one of constant, field and daily, for example {constant: 1}"
        )
    elif feature.harmonics is not None and feature.daily is None:
        yield document.error((*path, "harmonics"), "belongs to daily features only")
    yield from _check_scale(document, path, feature.scale)


class HasSensors(Protocol):
    """What has `sensor` or `sensors`: a NodeConfig, or an entry of `nodes` in fleet.yaml."""

    @property
    def sensor(self) -> Sensor:
        """The only sensor."""

    @property
    def sensors(self) -> list[Sensor] | None:
        """Several sensors instead of it."""


def sensor_errors(document: Document, node: HasSensors, path: Path_) -> Iterator[ConfigError]:
    """Yield the errors in the sensors of *node*, which is at *path*; it has one or a list."""
    if node.sensors is None:
        yield from _single_sensor_errors(document, node.sensor, (*path, "sensor"))
        if document.has((*path, "join_tolerance_s")):
            text = "belongs to the list sensors, and there is one sensor"
            yield document.key_error((*path, "join_tolerance_s"), text, remedy="leave it out")
        return
    if document.has((*path, "sensor")):
        yield document.key_error(
            (*path, "sensors"),
            "and sensor are both given",
            remedy="leave one of them out: all sensors of a node belong to its list sensors",
        )
    for index, sensor in enumerate(node.sensors):
        place = (*path, "sensors", index)
        yield from _single_sensor_errors(document, sensor, place)
        if len(node.sensors) > 1:
            yield from _listed_sensor_errors(document, sensor, place)


def _listed_sensor_errors(document: Document, sensor: Sensor, path: Path_) -> Iterator[ConfigError]:
    """Yield an error for a sensor that cannot be joined with others."""
    if isinstance(sensor, CsvSensor | NoSensor):
        why = "its rows have no times" if isinstance(sensor, CsvSensor) else "it has no readings"
        text = f"is {sensor.__struct_config__.tag}, which cannot be joined with others: {why}"
        remedy = "put all columns into one file, or leave this sensor out of the list"
        yield document.error((*path, "kind"), text, remedy=remedy)
    if isinstance(sensor, CommandSensor) and not sensor.fields:
        text = "has no fields: among several sensors, name what the program prints"
        yield document.error(path, text, remedy="write for example fields: [lux]")
    if isinstance(sensor, SyntheticSensor) and sensor.rows_per_round > 1:
        text = f"is {sensor.rows_per_round}, must be 1 among several sensors"
        yield document.error((*path, "rows_per_round"), text)


def _single_sensor_errors(document: Document, sensor: Sensor, path: Path_) -> Iterator[ConfigError]:
    """Yield an error for what no value satisfies, what does nothing, and what excludes another."""
    for name, guard in sensor.guards.items():
        if guard == Guard():
            text = f"has no guard, must have one of {', '.join(Guard.__struct_fields__)}"
            yield document.error((*path, "guards", name), text)
    if isinstance(sensor, CsvSensor) and sensor.gap_marks and sensor.gaps == "refuse":
        text = "has no effect, since gaps is refuse"
        yield document.key_error((*path, "gap_marks"), text, remedy="write gaps: skip beside it")
    if isinstance(sensor, CsvSensor) and sensor.guards:
        text = "need the time of each reading, and the rows of a file have none"
        yield document.key_error((*path, "guards"), text, remedy="leave them out, or use limits")
    for name, (low, high) in sensor.limits.items():
        if not low < high:
            yield document.error(
                (*path, "limits", name), f"is [{low}, {high}], must be [lowest, highest]"
            )
    if isinstance(sensor, CommandSensor) and not sensor.command:
        yield document.error((*path, "command"), "is empty, must be [program, argument, ...]")
    if isinstance(sensor, CsvSensor) and sensor.rounds_per_row and sensor.rows_per_round:
        yield document.key_error(
            (*path, "rounds_per_row"),
            "and rows_per_round are both given",
            remedy="leave one of them out: several rows in a round, or several rounds for a row",
        )
    if isinstance(sensor, MqttSensor):
        yield from _check_mqtt_sensor(document, sensor, path)
    if isinstance(sensor, HttpSensor) and sensor.ca is not None and sensor.url.startswith("http:"):
        text = "has no effect with a url that begins with http:"
        yield document.key_error((*path, "ca"), text, remedy="leave it out, or use https")
    if isinstance(sensor, ModbusSensor) and (sensor.host is None) == (sensor.device is None):
        yield document.error(
            path,
            "must have exactly one of host (Modbus TCP) and device (Modbus RTU)",
            remedy="write host: 192.168.1.9, or device: /dev/serial/by-id/...",
        )


def _check_mqtt_sensor(
    document: Document, sensor: MqttSensor, path: Path_
) -> Iterator[ConfigError]:
    yield from _check_broker_files(document, sensor, path)
    for name, field in sensor.fields.items():
        if field.last_seen is not None and field.path is None:
            text = "needs path as well: a message that is one number has no time"
            yield document.key_error((*path, "fields", name, "last_seen"), text)
