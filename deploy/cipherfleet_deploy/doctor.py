"""`cipherfleet doctor`: what this workstation lacks for fleets, and what is wrong with one."""

from __future__ import annotations

import platform
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import msgspec

from cipherfleet_broker import check_broker, start_broker
from cipherfleet_broker.mosquitto import find_mosquitto, mosquitto_version
from cipherfleet_broker.running import parse_address
from cipherfleet_deploy.check.check import check_fleet
from cipherfleet_node.doctor import broker as doctor_broker
from cipherfleet_node.doctor import machine as doctor_machine
from cipherfleet_node.errors import BrokerUnreachable, CipherfleetError, ConfigError
from cipherfleet_node.findings import Finding, failed, look
from cipherfleet_node.installation import install_command
from cipherfleet_node.settings.node_yaml import is_loopback
from cipherfleet_node.settings.sections import Broker
from cipherfleet_node.settings.yaml_document import read_document
from cipherfleet_provisioning.fleet.file import Brokers

CHECK_S = 15.0
START_S = 30.0  # an embedded broker on a busy machine
FLEET_S = 300.0  # the privacy check of 10,000 nodes
DOCKER_S = 5
FLEET = "fleet file"


def examine(file: Path | None, broker: str | None, now: datetime) -> Iterator[Finding]:
    """Look at this machine, at the fleet of *file* and at the broker *broker* (HOST:PORT).

    Raises ConfigError for an address that is none.
    """
    here, named = Path(), named_brokers(file, broker)
    checks: dict[str, Callable[[], Iterable[Finding]]] = {
        "python": _check_python,
        "packages": lambda: check_packages(wanted_packages()),
        "clock": lambda: doctor_machine.check_clock(now),
        "chance": doctor_machine.check_chance,
        "arithmetic": doctor_machine.check_arithmetic,
        "memory": doctor_machine.check_memory,
        "disk": lambda: doctor_machine.check_disk(here),
        "mosquitto": _check_mosquitto,
        "docker": check_docker,
    }
    for subject, check in checks.items():
        yield from look(subject, CHECK_S, check)
    yield from look("embedded", START_S, _check_embedded)
    if file is not None:
        yield from look(FLEET, FLEET_S, lambda: _check_file(file))
    whom: list[Broker | None] = [*named] or [None]
    for each in whom:
        # `run` starts its own: a file of `init` names the one that devices will use.
        may_be_absent = each is not None and broker is None and is_loopback(each.host)
        check_it = partial(check_broker_of, each, now, may_be_absent=may_be_absent)
        yield from look("broker", CHECK_S, check_it)


def exit_code(findings: Iterable[Finding]) -> int:
    """0 nothing fails, 3 the fleet file is invalid, 4 only the broker is unreachable, else 1."""
    subjects = {finding.subject for finding in findings if finding.level == "fail"}
    if not subjects:
        return 0
    if FLEET in subjects:
        return ConfigError.exit_code
    return BrokerUnreachable.exit_code if subjects == {"broker"} else CipherfleetError.exit_code


# -- this machine -------------------------------------------------------------------------------


def _check_python() -> Iterator[Finding]:
    machine = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if platform.system() == "Linux":
        yield Finding("ok", "python", machine)
    else:
        yield Finding("fail", "python", f"{machine}, where nothing is tested", "use Linux")


def check_packages(names: Iterable[str]) -> Iterator[Finding]:
    """Whether the packages *names* are installed."""
    found, missing = [], []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        yield Finding("fail", "packages", f"missing: {', '.join(missing)}", install_command())
    else:
        yield Finding("ok", "packages", ", ".join(found))


def wanted_packages() -> list[str]:
    """The names in our own requirements: the base install and the operator's extra."""
    wanted = []
    for line in requires("cipherfleet") or ():
        name = re.match(r"[A-Za-z0-9._-]+", line)
        if name is not None and ("extra ==" not in line or "operator" in line.split(";")[1]):
            wanted.append(name[0])
    return wanted


def _check_embedded() -> Iterator[Finding]:
    """The embedded broker, by starting it: a program for another processor would be found, too."""
    try:
        with start_broker("embedded") as broker:
            text = f"{broker.name} {broker.version} starts and carries a message"
            yield Finding("ok", "embedded", text)
    except CipherfleetError as error:
        yield failed("embedded", error, install_command())


def _check_mosquitto() -> Iterator[Finding]:
    try:
        binary = find_mosquitto()
        number = ".".join(map(str, mosquitto_version(binary)))
    except ConfigError as error:
        text = f"{str(error).partition(': ')[0]}; only `--broker mosquitto` needs it"
        yield Finding("skip", "mosquitto", text, "apt install mosquitto")
    else:
        yield Finding("ok", "mosquitto", f"{number}, {binary}")


def check_docker() -> Iterator[Finding]:
    """Whether the engine that the environment names is there."""
    try:
        import docker
    except ImportError:
        yield Finding("skip", "docker", "no package docker", install_command())
        return
    client = None
    try:
        client = docker.from_env(timeout=DOCKER_S)
        told = client.version()
    except Exception as error:  # docker and requests have a family each
        text = f"no engine is reached ({type(error).__name__}); only fleets in containers need it"
        yield Finding("warn", "docker", text, "start it, or join the group docker; see DOCKER_HOST")
    else:
        yield Finding("ok", "docker", f"engine {told['Version']}, API {told['ApiVersion']}")
    finally:
        if client is not None:
            client.close()


# -- the fleet and its broker -------------------------------------------------------------------


def _check_file(file: Path) -> Iterator[Finding]:
    """What `check` says of *file*, its failures one by one."""
    try:
        told = check_fleet(file)
    except ConfigError as error:
        yield failed(FLEET, error, "correct it there")
        return
    levels = Counter(finding["level"] for finding in told["findings"])
    text = f"{told['fleet']}: {told['nodes']} nodes, {told['edges']} edges"
    yield Finding("ok", FLEET, f"{text}, {told['exchange']} exchange")
    for finding in told["findings"]:
        if finding["level"] == "fail":
            yield Finding("fail", "check", finding["text"], finding["mend"])
    if levels["warn"]:
        yield Finding(
            "warn",
            "check",
            f"{levels['warn']} warnings",
            f"cipherfleet check {shlex.quote(str(file))}",
        )


def named_brokers(file: Path | None, address: str | None) -> list[Broker]:
    """The broker at *address*, else all that *file* names; *file* also says whether in TLS.

    Raises ConfigError for an address that is none.
    """
    section = _broker_section(file) if file is not None else {}
    if address is not None:
        host, port = parse_address(address)
        return [Broker(host=host, port=port, tls=section.get("tls") is True)]
    if not section.keys() & {"host", "port", "cluster"}:
        return []
    try:
        brokers = msgspec.convert(section, Brokers)
        return [brokers.at(place) for place in range(len(brokers.hosts))]
    except msgspec.ValidationError:
        return []  # the fleet file's own finding says so


def _broker_section(file: Path) -> dict[str, Any]:
    try:
        section = read_document(file).data.get("broker")
    except ConfigError:
        return {}
    return section if isinstance(section, dict) else {}


def check_broker_of(
    broker: Broker | None, now: datetime, *, may_be_absent: bool = False
) -> Iterator[Finding]:
    """Whether *broker* is there; a message through it where it needs no certificate.

    *may_be_absent*: that nothing answers at its address is no fault.
    """
    if broker is None:
        yield Finding("skip", "broker", "none is named: `run` starts its own")
        return
    for finding in doctor_broker.check_port(broker):
        if finding.level == "fail" and may_be_absent:
            text = f"{doctor_broker.address(broker)}: no broker answers; `run` starts its own"
            yield Finding("skip", "broker", text)
        else:
            yield finding
        if finding.level == "fail":
            return
    if broker.tls:
        context = doctor_broker.trust_only(None)
        yield from doctor_broker.check_tls(broker, context, now, certified=False)
        text = "CONNECT needs a certificate: try `cipherfleet-node doctor` on a node's folder"
        yield Finding("skip", "mqtt", text)
        return
    try:
        check_broker(broker.host, broker.port)
    except BrokerUnreachable as error:
        mend = "if it wants TLS, name the FILE of a fleet with broker: {tls: true}"
        yield Finding("fail", "broker", str(error), mend)
    else:
        yield Finding("ok", "mqtt", "a message of QoS 1 came back")
