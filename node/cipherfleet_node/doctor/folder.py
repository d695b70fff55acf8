"""All checks of `cipherfleet-node doctor` for one node's folder. Every check has a deadline.

A failed check does not prevent the others. The checks publish nothing and do not change the state.
They may run beside the daemon of the same folder: they take neither its lock nor its connection.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec

from cipherfleet_node.core.metric import check_hessian
from cipherfleet_node.core.objective import objective_of
from cipherfleet_node.errors import REISSUE_BUNDLE, CipherfleetError, ConfigError
from cipherfleet_node.findings import Finding, finding_from_error, run_check
from cipherfleet_node.keys.key_files import (
    KEYS_FOLDER,
    PublicKeys,
    read_keys,
    read_neighbour,
    read_private,
)
from cipherfleet_node.keys.tls import EXPIRES_SOON, REISSUE_TLS, days_left, read_context
from cipherfleet_node.runtime.bundle import read_bundle
from cipherfleet_node.runtime.enrolment import TOKEN_FILE, needs_enrolment
from cipherfleet_node.runtime.heartbeat import complaint, read_beat
from cipherfleet_node.runtime.membership import read_membership
from cipherfleet_node.runtime.sampler import GRACE_S
from cipherfleet_node.runtime.self_test import check_exchanges
from cipherfleet_node.runtime.store import STATE_FOLDER, is_running
from cipherfleet_node.sensors import open_sensor
from cipherfleet_node.sensors.base import SensorDevice
from cipherfleet_node.settings.node_yaml import (
    CA_FILE,
    CERTIFICATE_FILE,
    NODE_FILE,
    TLS_FOLDER,
    load_node_config,
)
from cipherfleet_node.settings.sections import Broker, NodeConfig, PluginSensor, parts_of
from cipherfleet_node.settings.yaml_document import read_document

from . import broker as doctor_broker
from . import machine as doctor_machine

MACHINE_S = 10.0
BUNDLE_S = 60.0  # known-answer exchanges with 63 neighbours on a slow board
BROKER_S = 20.0  # it includes up to three steps, each with its own deadline
BUNDLE_SUBJECTS = frozenset(
    {"folder", "node.yaml", "keys", "tls files", "membership", "neighbour", "bundle"}
)


@dataclass(repr=False)
class _Parts:
    """The parts of a folder that could be read."""

    config: NodeConfig | None = None
    enrolled: bool = True  # False: the operator has not named the neighbours yet
    broker: Broker | None = None
    context: ssl.SSLContext | None = None
    neighbours: dict[str, PublicKeys] = field(default_factory=dict)
    sensor: SensorDevice | None = None


def examine(folder: Path, now: datetime) -> Iterator[Finding]:
    """Yield the findings of all checks, in the order in which a node needs them.

    *now* has a time zone.
    """
    yield from _machine(folder, now)
    parts = _Parts()
    yield from run_check("bundle", BUNDLE_S, lambda: _bundle(folder, parts, now))
    yield from _sensor(parts)
    yield from run_check("daemon", MACHINE_S, lambda: _daemon(folder, parts))
    yield from _broker(folder, parts, now)


def _machine(folder: Path, now: datetime) -> Iterator[Finding]:
    state = folder / STATE_FOLDER
    place = state if os.access(state, os.X_OK) else folder
    checks: dict[str, Callable[[], Iterable[Finding]]] = {
        "clock": lambda: doctor_machine.check_clock(now),
        "randomness": doctor_machine.check_randomness,
        "arithmetic": doctor_machine.check_arithmetic,
        "memory": doctor_machine.check_memory,
        "heat": doctor_machine.check_heat,
    }
    if folder.is_dir():
        checks["disk"] = lambda: doctor_machine.check_disk(place)
    for subject, check in checks.items():
        yield from run_check(subject, MACHINE_S, check)


# -- the folder ---------------------------------------------------------------------------------


def _bundle(folder: Path, parts: _Parts, now: datetime) -> Iterator[Finding]:
    """Check each part alone, so that one error hides no other; then the same as check-config."""
    if not folder.is_dir():
        yield Finding("fail", "folder", f"{folder}: is not a folder", "give the node's folder")
        return
    is_valid = True
    for finding in _parts(folder, parts, now):
        is_valid = is_valid and finding.level != "fail"
        yield finding
    if not parts.enrolled:
        yield Finding("skip", "bundle", "not complete before the node is enrolled")
        return
    if not is_valid:
        yield Finding("skip", "bundle", "not checked as a whole, since a part of it fails")
        return
    try:
        bundle = read_bundle(folder)
        check_exchanges(bundle.keys.paillier, bundle.neighbours_paillier)
    except ConfigError as error:
        yield finding_from_error("bundle", error, REISSUE_BUNDLE)
    else:
        count = len(bundle.neighbours)
        text = f"complete; the known-answer exchanges pass with {count + 1} keys"
        yield Finding("ok", "bundle", text)


def _parts(folder: Path, parts: _Parts, now: datetime) -> Iterator[Finding]:
    try:
        parts.config = config = load_node_config(folder)
    except ConfigError as error:
        parts.broker = _broker_alone(folder)
        yield finding_from_error("node.yaml", error, f"correct it, or {REISSUE_BUNDLE}")
        return
    parts.broker = config.broker
    text = f"{config.fleet}/{config.node}, {config.crypto.exchange} exchange, "
    yield Finding("ok", "node.yaml", f"{text}{len(config.neighbours)} neighbours")
    has_membership = False
    try:
        parts.enrolled = not needs_enrolment(folder, config)
        has_membership = yield from _membership(folder, parts, config)
    except ConfigError as error:
        yield finding_from_error("membership", error, REISSUE_BUNDLE)
    yield _keys(folder, config) if parts.enrolled else _token(folder, config)
    if config.broker.tls:
        yield _certificate(folder, parts, config, now)
    for neighbour in () if has_membership else config.neighbours:
        yield _neighbour(folder, parts, config, neighbour.id, neighbour.fingerprint)
    try:
        objective = objective_of(config.objective, config.role)
        check_hessian(objective, config.algorithm.metric)
        broker = (config.broker.host, config.broker.port)
        parts.sensor = open_sensor(config.source, folder, objective.fields, broker)
    except ConfigError as error:
        yield finding_from_error("bundle", error, "correct objective and sensor in node.yaml")


def _broker_alone(folder: Path) -> Broker | None:
    """Return the section `broker` of node.yaml, even if another section is invalid."""
    try:
        return msgspec.convert(read_document(folder / NODE_FILE).data.get("broker", {}), Broker)
    except (ConfigError, msgspec.ValidationError):
        return None


def _membership(folder: Path, parts: _Parts, config: NodeConfig) -> Generator[Finding, None, bool]:
    """Check the membership; return True if it replaces the neighbours in node.yaml."""
    membership = read_membership(folder, config)
    if membership is not None:
        parts.config, parts.neighbours = membership.apply_to(config), membership.neighbours
        names = ", ".join(membership.neighbours)
        text = f"version {membership.version}, signed by the operator: {names or 'no neighbours'}"
        yield Finding("ok", "membership", text)
    elif not parts.enrolled:
        text = "not enrolled: the operator has not named this node's neighbours yet"
        yield Finding("warn", "membership", text, "run the node, and let the operator enrol it")
    return membership is not None


def _token(folder: Path, config: NodeConfig) -> Finding:
    """Check the token for the enrolment, and the keys if the node has generated them already."""
    try:
        read_private(folder / TOKEN_FILE)
    except ConfigError as error:
        return finding_from_error("keys", error, "get a new token from provisioning")
    if (folder / KEYS_FOLDER).is_dir():
        return _keys(folder, config)
    text = "none yet: the node generates them when it enrols; its token is here"
    return Finding("ok", "keys", text)


def _keys(folder: Path, config: NodeConfig) -> Finding:
    try:
        public = read_keys(folder, config.crypto).public
    except ConfigError as error:
        return finding_from_error(
            "keys", error, f"run doctor as the service (user, credentials), or {REISSUE_BUNDLE}"
        )
    text = f"{public.paillier.bits} bits, fingerprint {public.fingerprint[:16]}"
    if config.crypto.allow_weak_keys:
        remedy = "set crypto.key_bits to 2048 or more"
        return Finding("warn", "keys", f"{text}; WEAK KEYS are allowed", remedy)
    return Finding("ok", "keys", text)


def _certificate(folder: Path, parts: _Parts, config: NodeConfig, now: datetime) -> Finding:
    try:
        parts.context = read_context(folder, config.node, now, enrolled=parts.enrolled)
        left = days_left(folder / TLS_FOLDER / CERTIFICATE_FILE, now)
    except ConfigError as error:
        return finding_from_error("tls files", error, REISSUE_TLS)
    text = f"the certificate of {config.node} expires in {left} d"
    soon = left < EXPIRES_SOON.days
    return (
        Finding("warn", "tls files", text, REISSUE_TLS)
        if soon
        else Finding("ok", "tls files", text)
    )


def _neighbour(folder: Path, parts: _Parts, config: NodeConfig, name: str, pinned: str) -> Finding:
    try:
        parts.neighbours[name] = keys = read_neighbour(folder, name, pinned, config.crypto.key_bits)
    except ConfigError as error:
        return finding_from_error("neighbour", error, REISSUE_BUNDLE)
    text = f"{name}: {keys.paillier.bits} bits, fingerprint {keys.fingerprint[:16]} as pinned"
    return Finding("ok", "neighbour", text)


# -- the sensor and the daemon ------------------------------------------------------------------


def _sensor(parts: _Parts) -> Iterator[Finding]:
    config, sensor = parts.config, parts.sensor
    if config is None or sensor is None:
        yield Finding("skip", "sensor", "not opened, since the settings are invalid")
        return
    source = config.source
    if any(isinstance(each, PluginSensor) for each in parts_of(source)):
        from cipherfleet_node.sensors.plugins import check_plugins

        yield from run_check("sensor", source.timeout_s, lambda: check_plugins(parts_of(source)))
    within_s = source.timeout_s + GRACE_S
    yield from run_check("sensor", within_s, lambda: _reading(sensor, sorted(source.limits)))


def _reading(sensor: SensorDevice, limited: list[str]) -> Iterator[Finding]:
    """Take one reading. Its values are private and not shown."""
    began = time.perf_counter()
    try:
        samples = sensor.read()
    except CipherfleetError as error:
        yield finding_from_error("sensor", error, "check the sensor, and its section in node.yaml")
        return
    finally:
        sensor.close()
    took = 1000.0 * (time.perf_counter() - began)
    fields = ", ".join(sensor.fields)
    limits = f", within the limits of {', '.join(limited)}" if limited else ""
    if samples:
        yield Finding("ok", "sensor", f"returns {fields} in {took:.1f} ms{limits}; not shown")
    else:
        remedy = "a replay returns nothing after its last row"
        yield Finding("warn", "sensor", f"returns no sample; expected: {fields}", remedy)


def _runs(folder: Path, parts: _Parts) -> bool:
    """True if a daemon runs: by its lock, or by its heartbeat if locks are hidden or it enrols."""
    running = is_running(folder)
    if running is None or not parts.enrolled:
        return not complaint(read_beat(folder), time.monotonic())
    return running


def _daemon(folder: Path, parts: _Parts) -> Iterator[Finding]:
    beat, now = read_beat(folder), time.monotonic()
    problem = complaint(beat, now)
    if not _runs(folder, parts):
        yield Finding("skip", "daemon", "none runs from this folder")
    elif beat is None:
        remedy = "wait a minute; if there is still none, read its log"
        yield Finding("warn", "daemon", "runs, and has no heartbeat yet", remedy)
    elif problem:
        yield Finding("warn", "daemon", f"runs, but {problem}", "read its log")
    else:
        text = f"runs; its latest heartbeat, {now - beat.at:.0f} s ago, was in round {beat.round}"
        yield Finding("ok", "daemon", text)


# -- the broker ---------------------------------------------------------------------------------


def _broker(folder: Path, parts: _Parts, now: datetime) -> Iterator[Finding]:
    broker = parts.broker
    if broker is None:
        yield Finding("skip", "broker", f"its address cannot be read from {NODE_FILE}")
        return
    reached = False
    for finding in run_check("broker", BROKER_S, lambda: doctor_broker.check_port(broker)):
        reached = finding.level == "ok"
        yield finding
    if not reached:
        yield Finding("skip", "mqtt", "TLS, CONNECT and access: the broker cannot be reached")
        return
    if broker.tls:
        context = parts.context or _without_certificate(folder)
        certified = parts.context is not None
        handshake = partial(doctor_broker.check_tls, broker, context, now, certified=certified)
        is_secured = True
        for finding in run_check("tls", BROKER_S, handshake):
            is_secured = is_secured and finding.level != "fail"
            yield finding
        if not is_secured:
            yield Finding("skip", "mqtt", "CONNECT, access and presence: TLS fails")
            return
    yield from run_check("mqtt", BROKER_S, lambda: _session(folder, parts, broker))


def _without_certificate(folder: Path) -> ssl.SSLContext:
    try:
        return doctor_broker.trust_only(folder / TLS_FOLDER / CA_FILE)
    except OSError:  # ssl.SSLError is a subclass
        return doctor_broker.trust_only(None)


def _session(folder: Path, parts: _Parts, broker: Broker) -> Iterator[Finding]:
    config, context = parts.config, parts.context
    if config is None or (broker.tls and context is None):
        yield Finding("skip", "mqtt", "CONNECT: node.yaml or the folder tls is invalid")
        return
    if not parts.enrolled or (broker.tls and _runs(folder, parts)):
        # A broker that identifies clients by certificate (mosquitto) would end the daemon's.
        yield from doctor_broker.check_speaks_mqtt(broker, context)
        why = "the running daemon has this node's connection; stop it to check them"
        why = why if parts.enrolled else "the node is not enrolled"
        yield Finding("skip", "access", f"access and presence: {why}")
        return
    verifiers = {name: keys.identity for name, keys in parts.neighbours.items()}
    yield from doctor_broker.check_session(broker, context, config.fleet, config.node, verifiers)
