"""`cipherfleet doctor`: checks of this workstation, of a fleet file, and of its broker."""

from __future__ import annotations

import platform
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import msgspec

from cipherfleet_broker import check_broker, start_broker
from cipherfleet_broker.mosquitto import find_mosquitto, mosquitto_version
from cipherfleet_broker.running import parse_address
from cipherfleet_deploy.check.check import check_fleet
from cipherfleet_deploy.local.results import plural
from cipherfleet_node.doctor import broker as doctor_broker
from cipherfleet_node.doctor import machine as doctor_machine
from cipherfleet_node.errors import BrokerUnreachable, CipherfleetError, ConfigError
from cipherfleet_node.findings import Finding, exit_code, finding_from_error, run_check
from cipherfleet_node.installation import install_command
from cipherfleet_node.settings.rules import is_loopback
from cipherfleet_node.settings.sections import Broker
from cipherfleet_node.settings.yaml_document import read_document
from cipherfleet_provisioning.fleet.file import Brokers

# Time limits of the checks, in seconds.
CHECK_S = 15.0
START_S = 30.0  # to start an embedded broker on a busy machine
FLEET_S = 300.0  # to check the privacy of 10,000 nodes
DOCKER_S = 5
FLEET = "fleet file"


class DoctorResult(msgspec.Struct, frozen=True, kw_only=True):
    """The findings of `doctor`; `--json` prints these keys."""

    findings: list[Finding]
    exit_code: int


def describe_findings(findings: Sequence[Finding]) -> DoctorResult:
    """Return *findings* as `--json` prints them, with the exit code of the command."""
    return DoctorResult(findings=list(findings), exit_code=exit_code(findings, {FLEET}))


def examine(file: Path | None, broker: str | None, now: datetime) -> Iterator[Finding]:
    """Check this machine, the fleet in *file*, and the broker at *broker* (HOST:PORT).

    Raises ConfigError if *broker* is not an address.
    """
    here, named = Path(), named_brokers(file, broker)
    checks: dict[str, Callable[[], Iterable[Finding]]] = {
        "python": _check_python,
        "packages": lambda: check_packages(wanted_packages()),
        "clock": lambda: doctor_machine.check_clock(now),
        "randomness": doctor_machine.check_randomness,
        "arithmetic": doctor_machine.check_arithmetic,
        "memory": doctor_machine.check_memory,
        "disk": lambda: doctor_machine.check_disk(here),
        "mosquitto": _check_mosquitto,
        "docker": check_docker,
    }
    for subject, check in checks.items():
        yield from run_check(subject, CHECK_S, check)
    yield from run_check("embedded", START_S, _check_embedded)
    if file is not None:
        yield from run_check(FLEET, FLEET_S, lambda: _check_file(file))
    brokers: list[Broker | None] = [*named] or [None]
    for each in brokers:
        # A file of `init` names the broker that devices will use. `run` starts its own broker, so
        # the named one may be absent.
        may_be_absent = each is not None and broker is None and is_loopback(each.host)
        check = partial(check_named_broker, each, now, may_be_absent=may_be_absent)
        yield from run_check("broker", CHECK_S, check)


# -- this machine -------------------------------------------------------------------------------


def _check_python() -> Iterator[Finding]:
    machine = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if platform.system() == "Linux":
        yield Finding("ok", "python", machine)
    else:
        yield Finding("fail", "python", f"{machine}, an untested system", "use Linux")


def check_packages(names: Iterable[str]) -> Iterator[Finding]:
    """Check that the packages *names* are installed."""
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
    """Return the names of the packages that the base installation and the operator extra need."""
    wanted = []
    for line in requires("cipherfleet") or ():
        name = re.match(r"[A-Za-z0-9._-]+", line)
        if name is not None and ("extra ==" not in line or "operator" in line.split(";")[1]):
            wanted.append(name[0])
    return wanted


def _check_embedded() -> Iterator[Finding]:
    """Start the embedded broker. This also finds a program that is for another processor."""
    try:
        with start_broker("embedded") as broker:
            text = f"{broker.name} {broker.version} starts and carries a message"
            yield Finding("ok", "embedded", text)
    except CipherfleetError as error:
        yield finding_from_error("embedded", error, install_command())


def _check_mosquitto() -> Iterator[Finding]:
    try:
        binary = find_mosquitto()
        number = ".".join(map(str, mosquitto_version(binary)))
    except ConfigError as error:
        text = f"{str(error).partition(': ')[0]}; `--broker mosquitto` needs it, nothing else does"
        yield Finding("skip", "mosquitto", text, "apt install mosquitto")
    else:
        yield Finding("ok", "mosquitto", f"{number}, {binary}")


def check_docker() -> Iterator[Finding]:
    """Check that the container engine that the environment names answers."""
    try:
        import docker
    except ImportError:
        text = "the package docker is not installed; only fleets in containers need it"
        yield Finding("skip", "docker", text, install_command())
        return
    client = None
    try:
        client = docker.from_env(timeout=DOCKER_S)
        result = client.version()
    except Exception as error:  # docker and requests have unrelated exception classes
        text = f"no engine answers ({type(error).__name__}); only fleets in containers need it"
        remedy = (
            "start the engine (systemctl start docker), join the group docker, or set DOCKER_HOST"
        )
        yield Finding("warn", "docker", text, remedy)
    else:
        yield Finding("ok", "docker", f"engine {result['Version']}, API {result['ApiVersion']}")
    finally:
        if client is not None:
            client.close()


# -- the fleet and its broker -------------------------------------------------------------------


def _check_file(file: Path) -> Iterator[Finding]:
    """Run `check` on *file*. Yield one finding for each failure, and one for all warnings."""
    try:
        result = check_fleet(file)
    except ConfigError as error:
        yield finding_from_error(FLEET, error, "correct the file at this place")
        return
    levels = Counter(finding.level for finding in result.findings)
    text = f"{result.fleet}: {result.nodes} nodes, {result.edges} edges"
    yield Finding("ok", FLEET, f"{text}, {result.exchange} exchange")
    for finding in result.findings:
        if finding.level == "fail":
            yield Finding("fail", "check", finding.text, finding.remedy)
    if levels["warn"]:
        yield Finding(
            "warn",
            "check",
            plural(levels["warn"], "warning"),
            f"see: cipherfleet check {shlex.quote(str(file))}",
        )


def named_brokers(file: Path | None, address: str | None) -> list[Broker]:
    """Return the broker at *address*, or if it is None, all brokers that *file* names.

    In both cases *file* says whether TLS is used. Raises ConfigError if *address* is not an
    address.
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
        return []  # the check of the fleet file reports it


def _broker_section(file: Path) -> dict[str, object]:
    try:
        section = read_document(file).data.get("broker")
    except ConfigError:
        return {}
    return section if isinstance(section, dict) else {}


def check_named_broker(
    broker: Broker | None, now: datetime, *, may_be_absent: bool = False
) -> Iterator[Finding]:
    """Check that *broker* answers, and send a message through it if it needs no certificate.

    With *may_be_absent*, a broker that does not answer is not a failure.
    """
    if broker is None:
        yield Finding("skip", "broker", "no broker is named; `run` starts its own")
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
        text = "not tested: CONNECT needs a certificate"
        remedy = "run `cipherfleet-node doctor` on a node's folder"
        yield Finding("skip", "mqtt", text, remedy)
        return
    try:
        check_broker(broker.host, broker.port)
    except BrokerUnreachable as error:
        remedy = "if the broker requires TLS, give the FILE of a fleet with broker: {tls: true}"
        yield Finding("fail", "broker", str(error), remedy)
    else:
        yield Finding("ok", "mqtt", "a message with QoS 1 came back")
