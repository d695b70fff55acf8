"""`cipherfleet-node doctor`: why does this node not work? Every check has a deadline.

It goes on where something is broken, publishes nothing, touches no state, and may run beside the
daemon of the same folder: it takes neither its lock nor its place at the broker.
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

from cipherfleet_node.core.objective import make_objective
from cipherfleet_node.errors import BrokerUnreachable, CipherfleetError, ConfigError
from cipherfleet_node.findings import Finding, failed, look
from cipherfleet_node.keys.key_files import (
    KEYS_FOLDER,
    PublicKeys,
    read_keys,
    read_neighbour,
    read_private,
)
from cipherfleet_node.keys.tls import EXPIRES_SOON, RENEW, days_left, read_context
from cipherfleet_node.runtime.bundle import read_bundle
from cipherfleet_node.runtime.enrolment import TOKEN_FILE, needs_enrolment
from cipherfleet_node.runtime.heartbeat import complaint, read_beat
from cipherfleet_node.runtime.membership import ANEW, read_membership
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
from cipherfleet_node.settings.sections import Broker, NodeConfig
from cipherfleet_node.settings.yaml_document import read_document

from . import broker as doctor_broker
from . import machine as doctor_machine

MACHINE_S = 10.0
BUNDLE_S = 60.0  # known-answer exchanges with 63 neighbours on a slow board
BROKER_S = 20.0  # up to three steps in it have deadlines of their own
BUNDLE_SUBJECTS = frozenset(
    {"folder", "node.yaml", "keys", "tls files", "membership", "neighbour", "bundle"}
)


@dataclass(repr=False)
class _Parts:
    """What could be read of a folder, part by part."""

    config: NodeConfig | None = None
    enrolled: bool = True  # False: the operator has not named its neighbours yet
    broker: Broker | None = None
    context: ssl.SSLContext | None = None
    neighbours: dict[str, PublicKeys] = field(default_factory=dict)
    sensor: SensorDevice | None = None


def examine(folder: Path, now: datetime) -> Iterator[Finding]:
    """Look at everything, in the order in which a node needs it; *now* has a time zone."""
    yield from _machine(folder, now)
    parts = _Parts()
    yield from look("bundle", BUNDLE_S, lambda: _bundle(folder, parts, now))
    yield from _sensor(parts)
    yield from look("daemon", MACHINE_S, lambda: _daemon(folder, parts))
    yield from _broker(folder, parts, now)


def exit_code(findings: Iterable[Finding]) -> int:
    """0 nothing fails, 3 the bundle is invalid, 4 only the broker is unreachable, else 1."""
    subjects = {finding.subject for finding in findings if finding.level == "fail"}
    if not subjects:
        return 0
    if subjects & BUNDLE_SUBJECTS:
        return ConfigError.exit_code
    return BrokerUnreachable.exit_code if subjects == {"broker"} else CipherfleetError.exit_code


def _machine(folder: Path, now: datetime) -> Iterator[Finding]:
    state = folder / STATE_FOLDER
    place = state if os.access(state, os.X_OK) else folder
    checks: dict[str, Callable[[], Iterable[Finding]]] = {
        "clock": lambda: doctor_machine.check_clock(now),
        "chance": doctor_machine.check_chance,
        "arithmetic": doctor_machine.check_arithmetic,
        "memory": doctor_machine.check_memory,
        "heat": doctor_machine.check_heat,
    }
    if folder.is_dir():
        checks["disk"] = lambda: doctor_machine.check_disk(place)
    for subject, check in checks.items():
        yield from look(subject, MACHINE_S, check)


# -- the folder ---------------------------------------------------------------------------------


def _bundle(folder: Path, parts: _Parts, now: datetime) -> Iterator[Finding]:
    """Part by part, so that one mistake hides no other; then all that check-config does."""
    if not folder.is_dir():
        yield Finding("fail", "folder", f"{folder}: is no folder", "name the node's folder")
        return
    sound = True
    for finding in _parts(folder, parts, now):
        sound = sound and finding.level != "fail"
        yield finding
    if not parts.enrolled:
        yield Finding("skip", "bundle", "not complete before the node is enrolled")
        return
    if not sound:
        yield Finding("skip", "bundle", "not tried as a whole, since a part of it fails")
        return
    try:
        bundle = read_bundle(folder)
        check_exchanges(bundle.keys.paillier, bundle.neighbours_paillier)
    except ConfigError as error:
        yield failed("bundle", error, ANEW)
    else:
        count = len(bundle.neighbours)
        yield Finding("ok", "bundle", f"complete; known answers hold on {count + 1} keys")


def _parts(folder: Path, parts: _Parts, now: datetime) -> Iterator[Finding]:
    try:
        parts.config = config = load_node_config(folder)
    except ConfigError as error:
        parts.broker = _broker_alone(folder)
        yield failed("node.yaml", error, "correct it there, or get the bundle anew")
        return
    parts.broker = config.broker
    text = f"{config.fleet}/{config.node}, {config.crypto.exchange} exchange, "
    yield Finding("ok", "node.yaml", f"{text}{len(config.neighbours)} neighbours")
    joined = False
    try:
        parts.enrolled = not needs_enrolment(folder, config)
        joined = yield from _membership(folder, parts, config)
    except ConfigError as error:
        yield failed("membership", error, ANEW)
    yield _keys(folder, config) if parts.enrolled else _token(folder, config)
    if config.broker.tls:
        yield _certificate(folder, parts, config, now)
    for neighbour in () if joined else config.neighbours:
        yield _neighbour(folder, parts, config, neighbour.id, neighbour.fingerprint)
    try:
        objective = make_objective(config.objective)
        parts.sensor = open_sensor(config.sensor, folder, objective.fields)
    except ConfigError as error:
        yield failed("bundle", error, "correct objective and sensor in node.yaml")


def _broker_alone(folder: Path) -> Broker | None:
    """Where the broker is, even if another section of node.yaml is wrong."""
    try:
        return msgspec.convert(read_document(folder / NODE_FILE).data.get("broker", {}), Broker)
    except (ConfigError, msgspec.ValidationError):
        return None


def _membership(folder: Path, parts: _Parts, config: NodeConfig) -> Generator[Finding, None, bool]:
    """Whether the operator's word takes the place of the neighbours in node.yaml."""
    joined = read_membership(folder, config)
    if joined is not None:
        parts.config, parts.neighbours = joined.configured(config), joined.neighbours
        names = ", ".join(joined.neighbours)
        text = f"version {joined.version}, signed by the operator: {names or 'no neighbours'}"
        yield Finding("ok", "membership", text)
    elif not parts.enrolled:
        text = "not enrolled: the operator has not named this node's neighbours yet"
        yield Finding("warn", "membership", text, "run the node, and let the operator enrol it")
    return joined is not None


def _token(folder: Path, config: NodeConfig) -> Finding:
    """What a node enrols with: its token, and keys if it has made them already."""
    try:
        read_private(folder / TOKEN_FILE)
    except ConfigError as error:
        return failed("keys", error, "get a new token from provisioning")
    if (folder / KEYS_FOLDER).is_dir():
        return _keys(folder, config)
    return Finding("ok", "keys", "none yet: the node makes them when it enrols, its token is here")


def _keys(folder: Path, config: NodeConfig) -> Finding:
    try:
        public = read_keys(folder, config.crypto).public
    except ConfigError as error:
        return failed("keys", error, f"look as its service does (user, credentials), or {ANEW}")
    text = f"{public.paillier.bits} bits, fingerprint {public.fingerprint[:16]}"
    if config.crypto.allow_weak_keys:
        return Finding("warn", "keys", f"{text}; WEAK KEYS are allowed", "key_bits of 2048 or more")
    return Finding("ok", "keys", text)


def _certificate(folder: Path, parts: _Parts, config: NodeConfig, now: datetime) -> Finding:
    try:
        parts.context = read_context(folder, config.node, now)
        left = days_left(folder / TLS_FOLDER / CERTIFICATE_FILE, now)
    except ConfigError as error:
        return failed("tls files", error, RENEW)
    text = f"{config.node}'s certificate ends in {left} d"
    soon = left < EXPIRES_SOON.days
    return Finding("warn", "tls files", text, RENEW) if soon else Finding("ok", "tls files", text)


def _neighbour(folder: Path, parts: _Parts, config: NodeConfig, name: str, pinned: str) -> Finding:
    try:
        parts.neighbours[name] = keys = read_neighbour(folder, name, pinned, config.crypto.key_bits)
    except ConfigError as error:
        return failed("neighbour", error, ANEW)
    text = f"{name}: {keys.paillier.bits} bits, fingerprint {keys.fingerprint[:16]} as pinned"
    return Finding("ok", "neighbour", text)


# -- the sensor and the daemon ------------------------------------------------------------------


def _sensor(parts: _Parts) -> Iterator[Finding]:
    config, sensor = parts.config, parts.sensor
    if config is None or sensor is None:
        yield Finding("skip", "sensor", "not opened, since its settings are not in order")
        return
    limits = config.sensor.limits
    within_s = config.sensor.timeout_s + GRACE_S
    yield from look("sensor", within_s, lambda: _reading(sensor, sorted(limits)))


def _reading(sensor: SensorDevice, limited: list[str]) -> Iterator[Finding]:
    """One reading; what it holds is private and not told."""
    began = time.perf_counter()
    try:
        samples = sensor.read()
    except CipherfleetError as error:
        yield failed("sensor", error, "look at the sensor, and at its section in node.yaml")
        return
    finally:
        sensor.close()
    took = 1000.0 * (time.perf_counter() - began)
    fields = ", ".join(sensor.fields)
    limits = f", within the limits of {', '.join(limited)}" if limited else ""
    if samples:
        yield Finding("ok", "sensor", f"gives {fields} in {took:.1f} ms{limits}; not shown")
    else:
        mend = "a replay that is over gives no more"
        yield Finding("warn", "sensor", f"gives nothing; wanted: {fields}", mend)


def _runs(folder: Path, parts: _Parts) -> bool:
    """By its lock; by its heartbeat where the kernel hides locks, or while it enrols."""
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
        mend = "wait for a moment; if it stays so, see its log"
        yield Finding("warn", "daemon", "runs, and has no heartbeat yet", mend)
    elif problem:
        yield Finding("warn", "daemon", f"runs, but {problem}", "see its log")
    else:
        text = f"runs; its latest heartbeat, {now - beat.at:.0f} s ago, was in round {beat.round}"
        yield Finding("ok", "daemon", text)


# -- the broker ---------------------------------------------------------------------------------


def _broker(folder: Path, parts: _Parts, now: datetime) -> Iterator[Finding]:
    broker = parts.broker
    if broker is None:
        yield Finding("skip", "broker", f"{NODE_FILE} does not tell where it is")
        return
    reached = False
    for finding in look("broker", BROKER_S, lambda: doctor_broker.check_port(broker)):
        reached = finding.level == "ok"
        yield finding
    if not reached:
        yield Finding("skip", "mqtt", "TLS, CONNECT and access: the broker is not reached")
        return
    if broker.tls:
        context = parts.context or _without_certificate(folder)
        certified = parts.context is not None
        handshake = partial(doctor_broker.check_tls, broker, context, now, certified=certified)
        stands = True
        for finding in look("tls", BROKER_S, handshake):
            stands = stands and finding.level != "fail"
            yield finding
        if not stands:
            yield Finding("skip", "mqtt", "CONNECT, access and presence: TLS does not stand")
            return
    yield from look("mqtt", BROKER_S, lambda: _session(folder, parts, broker))


def _without_certificate(folder: Path) -> ssl.SSLContext:
    try:
        return doctor_broker.trust_only(folder / TLS_FOLDER / CA_FILE)
    except OSError:  # SSLError is one
        return doctor_broker.trust_only(None)


def _session(folder: Path, parts: _Parts, broker: Broker) -> Iterator[Finding]:
    config, context = parts.config, parts.context
    if config is None or (broker.tls and context is None):
        yield Finding("skip", "mqtt", "CONNECT needs node.yaml and tls in order")
        return
    if not parts.enrolled or (broker.tls and _runs(folder, parts)):
        # Brokers that go by certificates (mosquitto) would end the daemon's connection for ours.
        yield from doctor_broker.check_speaks_mqtt(broker, context)
        why = "the running daemon has this node's place at the broker; stop it to look at them"
        why = why if parts.enrolled else "the node is not enrolled"
        yield Finding("skip", "access", f"access and presence: {why}")
        return
    verifiers = {name: keys.identity for name, keys in parts.neighbours.items()}
    yield from doctor_broker.check_session(broker, context, config.fleet, config.node, verifiers)
