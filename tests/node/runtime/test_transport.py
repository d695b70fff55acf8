"""TLS and access rules, with real certificates, on real brokers."""

from __future__ import annotations

import json
import logging
import queue
import re
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as mqtt
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from paho.mqtt.enums import CallbackAPIVersion
from rich.console import Console

from cipherfleet_broker import (
    Access,
    RunningBroker,
    Security,
    check_broker,
    fleet_access,
    start_broker,
)
from cipherfleet_broker import mosquitto as mosquitto_module
from cipherfleet_broker.embedded import configuration as embedded_configuration
from cipherfleet_broker.health import HEALTH_TOPIC
from cipherfleet_broker.mosquitto import access_rules, secured_configuration
from cipherfleet_broker.security import HEALTH, WATCHER
from cipherfleet_deploy.local.run import RunOptions, run_fleet
from cipherfleet_node.__main__ import main as node_command
from cipherfleet_node.core.messages import OPERATOR
from cipherfleet_node.core.topics import claim_client
from cipherfleet_node.errors import BrokerUnreachable, ConfigError
from cipherfleet_node.keys.tls import client_context
from cipherfleet_node.runtime.assembly import client_id
from cipherfleet_node.runtime.bundle import read_bundle
from cipherfleet_node.runtime.mqtt import (
    Arrived,
    Link,
    LinkDown,
    LinkEvent,
    LinkRefused,
    LinkUp,
    set_no_delay,
)
from cipherfleet_node.settings.sections import Broker, Simulation
from cipherfleet_provisioning import certificates
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.certificates import (
    Certified,
    issue_broker,
    issue_client,
    make_authority,
    read_authority,
    secure,
    write_authority,
)
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet

fleet = pytest.mark.fleet
# paho leaves the socket of a failed handshake to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)
NOW = datetime.now(UTC)
F = "cf/v2/line"
TEXT = """\
config_version: 1
fleet: line
broker: {tls: true}
crypto: {key_bits: 512, allow_weak_keys: true}
algorithm: {rounds: 12, answer_timeout_s: 4}
objective: {kind: average, values: [{field: t}]}
topology: {kind: line}
nodes:
  - {each: 4, id: "n{n}", sensor: {kind: synthetic, fields: {t: {mean: 20, deviation: 1}}}}
"""


def fleet_in(folder: Path, text: str = TEXT) -> Fleet:
    (folder / "fleet.yaml").write_text(text)
    return load_fleet(folder / "fleet.yaml")


class Ground:
    """A secured broker of the fleet n1 - n2 - n3 - n4, and any certificate for it."""

    def __init__(self, choice: str, folder: Path) -> None:
        self.choice, self.folder = choice, folder
        self.authority = make_authority("line", NOW)
        made = secure(fleet_in(folder), self.authority, folder, NOW)
        claims = fleet_access("line", {}, ["n1", "n2"])  # these two may claim keys
        self.security = replace(made, access={**claims, **made.access})
        self.broker: RunningBroker

    def context(self, name: str, made: Certified | None = None) -> ssl.SSLContext:
        made = made or issue_client(self.authority, name, NOW)
        place = self.folder / f"client-{len(list(self.folder.iterdir()))}"
        place.mkdir()
        identity = made.write(place / "client.pem", place / "client.key")
        return client_context(self.security.ca, identity.certificate, identity.key)

    def client(self, name: str, *more: str, **options: Any) -> Client:
        """*name* as it should be, reading all that it may and trying to read *more*."""
        rules = self.security.access.get(name, Access((), ()))
        context = options.pop("context", None) or self.context(name)
        return Client(self.broker, context, (*rules.read, *more), name, **options)


@pytest.fixture(scope="module", params=["embedded", "mosquitto"])
def ground(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "mosquitto":
        try:
            mosquitto_module.find_mosquitto()
        except ConfigError as error:
            pytest.skip(f"THE RECOMMENDED BROKER WAS NOT TESTED: {error}")
    made = Ground(request.param, tmp_path_factory.mktemp(request.param))
    with start_broker(request.param, security=made.security) as made.broker:
        yield made


class Client:
    """A paho client that may or may not get in; what arrives is kept."""

    def __init__(
        self,
        broker: RunningBroker,
        context: ssl.SSLContext | None,
        topics: tuple[str, ...],
        name: str,
        will: str | None = None,
    ) -> None:
        self.inbox: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.connected = False
        self._address, self._topics = (broker.host, broker.port), topics
        self._settled = threading.Event()
        self.paho = client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"line-{name}")
        if context is not None:
            client.tls_set_context(context)
        if will is not None:
            client.will_set(will, b"forged", qos=1, retain=True)
        client.on_socket_open = set_no_delay
        client.on_connect = self._on_connect
        client.on_subscribe = lambda *_: self._settled.set()
        client.on_disconnect = self._on_disconnect
        client.on_message = lambda _c, _u, message: self.inbox.put(
            (message.topic, bytes(message.payload))
        )

    def __enter__(self) -> Self:
        try:
            self.paho.connect(*self._address)
        except OSError:
            return self
        self.paho.loop_start()
        assert self._settled.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()
        del self.paho  # its wake-up sockets are closed with it; our callbacks make a cycle

    def _on_connect(self, _c: Any, _u: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self.connected = not reason.is_failure
        if self.connected and self._topics:
            self.paho.subscribe([(topic, 1) for topic in self._topics])
        else:
            self._settled.set()

    def _on_disconnect(self, *_: object) -> None:
        self.connected = False
        self._settled.set()

    def send(
        self, topic: str, payload: bytes = b"honest", retain: bool = False, qos: int = 1
    ) -> None:
        self.paho.publish(topic, payload, qos, retain).wait_for_publish(60)

    def cut(self) -> None:
        """Lose the connection without a DISCONNECT: a last will is spoken."""
        connection = self.paho.socket()
        if isinstance(connection, ssl.SSLSocket):  # else it was not even let in
            connection.shutdown(socket.SHUT_RDWR)

    def until(self, topic: str, payload: bytes = b"honest") -> list[tuple[str, bytes]]:
        """All that came until *payload* on *topic*."""
        came = [self.inbox.get(timeout=60)]
        while came[-1] != (topic, payload):
            came.append(self.inbox.get(timeout=60))
        return came

    def rest(self) -> list[tuple[str, bytes]]:
        time.sleep(0.3)
        return [self.inbox.get() for _ in range(self.inbox.qsize())]


# -- who gets in --------------------------------------------------------------------------------


def foreign(_authority: Certified) -> Certified:
    return issue_client(make_authority("line", NOW), "n1", NOW)


def expired(authority: Certified) -> Certified:
    return issue_client(authority, "n1", NOW - timedelta(days=9), days=3)


def premature(authority: Certified) -> Certified:
    return issue_client(authority, "n1", NOW + timedelta(days=9))


def of_a_broker(authority: Certified) -> Certified:
    return issue_broker(authority, ["n1"], NOW)


@fleet
@pytest.mark.parametrize("fault", [foreign, expired, premature, of_a_broker])
def test_a_bad_certificate_is_not_let_in(
    ground: Ground, fault: Callable[[Certified], Certified]
) -> None:
    with ground.client("n1", context=ground.context("n1", fault(ground.authority))) as client:
        assert not client.connected


@fleet
def test_nobody_is_let_in_without_a_certificate(ground: Ground) -> None:
    bare = ssl.create_default_context(cafile=ground.security.ca)
    with ground.client("n1", context=bare) as client:
        assert not client.connected


@fleet
def test_plain_tcp_and_older_tls_are_refused(ground: Ground) -> None:
    with pytest.raises(BrokerUnreachable):
        check_broker(ground.broker.host, ground.broker.port, 1)
    old = ground.context("n1")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    with ground.client("n1", context=old) as client:
        assert not client.connected
    with ground.client("n1") as client:
        connection = client.paho.socket()
        assert isinstance(connection, ssl.SSLSocket)
        assert connection.version() == "TLSv1.3"


@fleet
@pytest.mark.parametrize("name", ["stranger", "+", "#", "*", ">", "n1,CN=n2", "n1/n2", "%u"])
def test_a_name_that_the_rules_do_not_list_reads_nothing_and_is_not_heard(
    ground: Ground, name: str
) -> None:
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH  # no such name gets this far in provisioning
    made = certificates._issue(ground.authority, name, [purpose], NOW, 1)
    topic = f"{F}/q/n1"
    with (
        ground.client("n1") as n1,
        ground.client("n2") as n2,
        ground.client(name, "#", topic, f"{F}/#", context=ground.context(name, made)) as outsider,
    ):
        if outsider.connected:
            outsider.send(topic, b"forged")
        n1.send(topic)
        assert (topic, b"forged") not in n2.until(topic)
        assert outsider.rest() == []


# -- what those inside may do -------------------------------------------------------------------

FORGERIES = [  # forger, its topic; the fence after it: whose, its topic; who would hear both
    ("n1", "q/n2", "n2", "q/n2", "n3"),
    ("n1", "a/n2/n3", "n3", "a/n2/n3", "n2"),
    ("n1", "a/n3/n1", "n2", "a/n3/n2", "n3"),  # under its own name, but no neighbour of n3
    ("n1", "state/n2", "n2", "state/n2", "n3"),
    ("n1", "health/n2", "n2", "health/n2", OPERATOR),
    ("n1", "health/n2", "n2", "health/n2", WATCHER),
    (WATCHER, "state/n1", "n1", "state/n1", "n2"),
    (WATCHER, "members/n1", OPERATOR, "members/n1", "n1"),
    (OPERATOR, "q/n1", "n1", "q/n1", "n2"),
    (OPERATOR, "state/n1", "n1", "state/n1", "n2"),
    (HEALTH, "health/n1", "n1", "health/n1", OPERATOR),
]


@fleet
@pytest.mark.parametrize(("forger", "forged", "owner", "fence", "listener"), FORGERIES)
@pytest.mark.parametrize(("qos", "retain"), [(0, False), (1, False), (1, True), (2, False)])
def test_nobody_publishes_as_another(
    ground: Ground,
    forger: str,
    forged: str,
    owner: str,
    fence: str,
    listener: str,
    qos: int,
    retain: bool,
) -> None:
    with (
        ground.client(listener) as hears,
        ground.client(owner) as honest,
        ground.client(forger) as bad,
    ):
        bad.send(f"{F}/{forged}", b"forged", retain, qos)
        honest.send(f"{F}/{fence}")
        assert b"forged" not in [payload for _, payload in hears.until(f"{F}/{fence}")]
    if retain:
        with ground.client(listener) as later:
            assert b"forged" not in [payload for _, payload in later.rest()]


@fleet
@pytest.mark.parametrize(("name", "is_guarded"), [("n1", False), (claim_client("n1"), True)])
def test_the_certificate_in_a_bundle_claims_keys_and_does_nothing_else(
    ground: Ground, name: str, is_guarded: bool
) -> None:
    """Without the guard a copy of the bundle reads and speaks as the enrolled node."""
    member = "members/n1"
    with (
        ground.client(OPERATOR) as operator,
        ground.client("n2") as n2,
        ground.client(name, *EVERYTHING, f"{F}/{member}") as copy,
    ):
        copy.send(f"{F}/claim/n1", b"claim")
        assert operator.until(f"{F}/claim/n1", b"claim")
        for topic in ("q/n1", "state/n1", "health/n1", "a/n2/n1", "claim/n2"):
            copy.send(f"{F}/{topic}", b"forged")
        n2.send(f"{F}/q/n2")
        n2.send(f"{F}/a/n1/n2")
        n2.send(f"{F}/claim/n2")
        operator.send(f"{F}/{member}")
        heard = {topic for topic, payload in n2.rest() if payload == b"forged"}
        heard |= {topic for topic, payload in operator.rest() if payload == b"forged"}
        read = {topic for topic, payload in copy.rest() if payload == b"honest"}
    assert f"{F}/{member}" in read
    if is_guarded:
        assert (heard, read) == (set(), {f"{F}/{member}"})
    else:
        assert heard == {f"{F}/{each}" for each in ("q/n1", "state/n1", "health/n1", "a/n2/n1")}
        assert read >= {f"{F}/q/n2", f"{F}/a/n1/n2"}


@fleet
@pytest.mark.parametrize(("name", "is_guarded"), [("n1", False), (claim_client("n1"), True)])
def test_a_copy_of_a_bundle_ends_no_connection_of_the_enrolled_node(
    ground: Ground, name: str, is_guarded: bool
) -> None:
    if ground.choice == "embedded":
        pytest.skip(
            "nats-server knows clients by their ids, and that of an enrolled node is secret"
        )
    link, events = linked(ground, ground.context("n1"))
    try:
        while not isinstance(events.get(timeout=60), LinkUp):
            pass
        with ground.client(name, f"{F}/members/n1") as copy:
            assert copy.connected
            time.sleep(0.5)
        is_cut = any(isinstance(events.get(), LinkDown) for _ in range(events.qsize()))
    finally:
        link.stop(2)
    assert is_cut != is_guarded


def test_the_name_for_claiming_is_no_nodes_and_fits_a_certificate() -> None:
    ids = ["n1", "operator", "n" * 56, "n" * 57, "n" * 62 + "1", "n" * 62 + "2"]
    names = [claim_client(node) for node in ids]
    assert names[0] == "_claim-n1"
    assert len({*names, *ids, OPERATOR, WATCHER, HEALTH}) == 2 * len(ids) + 3
    authority = make_authority("line", NOW)
    for name in names:
        issue_client(authority, name, NOW)
        assert not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name)


@fleet
def test_a_last_will_cannot_be_anothers(ground: Ground) -> None:
    topic = f"{F}/state/n2"
    with ground.client("n3") as hears:
        with ground.client("n2") as honest:
            with ground.client("n1", will=topic) as bad:
                bad.cut()
            time.sleep(0.3)
            honest.send(topic)
        assert (topic, b"forged") not in hears.until(topic)
        with ground.client("n2", will=topic) as dying:  # the will itself works
            dying.cut()
            assert hears.until(topic, b"forged")
    with ground.client("n2") as honest:  # it was retained
        honest.send(topic, retain=True)


EVERYTHING = ("#", f"{F}/#", "+/+/+/+/+", f"{F}/q/+", f"{F}/a/+/+", f"{F}/state/+", f"{F}/health/+",
              f"{F}/q/n3", f"{F}/a/n2/+", f"{F}/a/n3/n2", f"{F}/state/n3", f"{HEALTH_TOPIC}/#",
              "$SYS/#", "$MQTT/#", "$JS/#")  # fmt: skip


@fleet
@pytest.mark.parametrize("reader", ["n1", "n2", OPERATOR, WATCHER])
def test_nobody_reads_more_than_the_rules_say(ground: Ground, reader: str) -> None:
    nodes = fleet_access("line", {"n1": ["n2"], "n2": ["n1", "n3"], "n3": ["n2", "n4"]})
    spoken = {topic: name for name in ("n1", "n2", "n3") for topic in nodes[name].publish}
    allowed = {topic for topic in spoken if readable(nodes[reader], topic)}
    assert 0 < len(allowed) < len(spoken)
    with ground.client(reader, *EVERYTHING) as curious:
        for name in {"n1", "n2", "n3"} - {reader}:
            with ground.client(name) as speaker:
                for topic in nodes[name].publish:
                    speaker.send(topic, retain="/state/" in topic)
        came = {topic for topic, _ in curious.rest()}
    others = {topic for topic in allowed if spoken[topic] != reader}
    assert others <= came <= allowed
    with ground.client(reader, *EVERYTHING) as later:  # what is retained
        assert {topic for topic, _ in later.rest()} <= allowed


def readable(access: Access, topic: str) -> bool:
    return any(mqtt.topic_matches_sub(pattern, topic) for pattern in access.read)


@fleet
def test_the_client_id_of_another_takes_nothing_from_it(ground: Ground) -> None:
    if ground.choice == "embedded":
        pytest.skip("nats-server lets it: there only the secrecy of client ids helps")
    with (
        ground.client("n1") as n1,
        ground.client("n2") as n2,
        ground.client("n1", context=ground.context("n3")) as thief,
    ):
        assert thief.connected
        n2.send(f"{F}/a/n1/n2")
        assert n1.until(f"{F}/a/n1/n2")


@fleet
def test_the_nats_protocol_beside_mqtt_lets_nobody_in(tmp_path: Path) -> None:
    security = secure(fleet_in(tmp_path), make_authority("line", NOW), tmp_path, NOW)
    with start_broker("embedded", security=security) as broker:
        assert broker.folder is not None
        log = (broker.folder / "broker.log").read_text()
        line = next(x for x in log.splitlines() if "client connections on 127.0.0.1:" in x)
        with socket.create_connection(("127.0.0.1", int(line.rsplit(":", 1)[1]))) as raw:
            raw.recv(4096)
            raw.sendall(b'CONNECT {"user":"CN=n1","pass":""}\r\nPING\r\n')
            assert b"Authorization Violation" in raw.recv(4096)


# -- brokers, ours and external -----------------------------------------------------------------


@fleet
def test_a_secured_broker_is_healthy_again_after_a_crash(ground: Ground) -> None:
    ground.broker.kill()
    ground.broker.restart()
    ground.broker.check(5)


@fleet
def test_an_external_broker_is_checked_with_the_certificate(ground: Ground) -> None:
    address = f"localhost:{ground.broker.port}"
    with start_broker(address, security=ground.security) as external:
        assert external.pid is None
    with pytest.raises(BrokerUnreachable):
        start_broker(address)


def a_security(folder: Path) -> Security:
    return secure(fleet_in(folder), make_authority("line", NOW), folder, NOW)


def test_mosquitto_2_0_and_2_1_get_the_rules_each_in_its_own_way(tmp_path: Path) -> None:
    security, rules = a_security(tmp_path), tmp_path / "access.txt"
    plugin = Path("/usr/lib/mosquitto_acl_file.so")
    old = secured_configuration(8883, security, rules)
    new = secured_configuration(8883, security, rules, plugin)
    assert f"\nacl_file {rules}\n" in old
    assert f"\nglobal_plugin {plugin}\nplugin_opt_acl_file {rules}\n" in new
    for text in (old, new):
        for line in (
            "listener 8883 127.0.0.1",
            "require_certificate true",
            "use_identity_as_username true",
            "use_username_as_clientid true",
            "tls_version tlsv1.3",
            "allow_anonymous false",
            "max_packet_size 262144",
        ):
            assert line in text.splitlines()
        assert "password_file" not in text
        assert "per_listener_settings" not in text
    assert not [line for line in new.splitlines() if line.startswith("acl_file")]


def test_rules_name_every_topic_in_full(tmp_path: Path) -> None:
    security = a_security(tmp_path)
    part = access_rules(security).split("user n1\n")[1].split("user ")[0]
    assert part.splitlines() == [
        f"topic write {F}/q/n1",
        f"topic write {F}/a/n2/n1",
        f"topic write {F}/state/n1",
        f"topic write {F}/health/n1",
        f"topic write {F}/claim/n1",
        f"topic read {F}/q/n2",
        f"topic read {F}/state/n2",
        f"topic read {F}/a/n1/+",
        f"topic read {F}/state/n1",
        f"topic read {F}/members/n1",
    ]
    users = json.loads(embedded_configuration(tmp_path, 1, security))["authorization"]["users"]
    (operator,) = [user["permissions"] for user in users if user["user"] == f"CN={OPERATOR}"]
    read = [f"cf.v2.line.{what}.*" for what in ("state", "health", "claim")]
    assert operator == {
        "publish": {"allow": ["cf.v2.line.members.*"]},
        "subscribe": {"allow": read},
    }
    (watcher,) = [user["permissions"] for user in users if user["user"] == f"CN={WATCHER}"]
    assert watcher == {"publish": {"deny": [">"]}, "subscribe": {"allow": read}}
    part = access_rules(security).split(f"user {WATCHER}\n")[1].split("user ")[0]
    assert part.split("\n")[:3] == [
        f"topic read {F}/{what}/+" for what in ("state", "health", "claim")
    ]
    assert "write" not in part


def test_unusable_certificates_are_a_configuration_error(tmp_path: Path) -> None:
    security = a_security(tmp_path)
    security.ca.write_text("nothing")
    with pytest.raises(ConfigError, match=r"ca\.pem"):
        start_broker("embedded", security=security)


# -- certificates -------------------------------------------------------------------------------


def test_certificates_say_what_they_are_for_and_begin_a_day_early() -> None:
    authority = make_authority("line", NOW, days=100)
    broker = issue_broker(authority, ["broker.example", "10.0.0.5"], NOW, days=10).certificate
    node = issue_client(authority, "n1", NOW, days=1000).certificate
    names = broker.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["broker.example", "localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == [
        "10.0.0.5",
        "127.0.0.1",
    ]
    for certificate, purpose in (
        (broker, ExtendedKeyUsageOID.SERVER_AUTH),
        (node, ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [purpose]
        certificate.verify_directly_issued_by(authority.certificate)
    start = NOW.replace(microsecond=0)
    assert broker.not_valid_before_utc == start - timedelta(days=1)
    assert broker.not_valid_after_utc == start + timedelta(days=10)
    assert node.not_valid_after_utc == authority.certificate.not_valid_after_utc


@pytest.mark.parametrize("name", ["", "+", "#", "a/b", "a b", "a\nuser b", "*", ">", "x" * 64])
def test_no_certificate_is_made_for_a_name_with_a_meaning(name: str) -> None:
    with pytest.raises(ConfigError, match="no certificate for"):
        issue_client(make_authority("line", NOW), name, NOW)


def test_an_authority_comes_back_as_it_was_written(tmp_path: Path) -> None:
    authority = make_authority("line", NOW)
    write_authority(tmp_path, authority)
    assert stat.S_IMODE((tmp_path / "ca.key").stat().st_mode) == 0o600
    again = read_authority(tmp_path)
    assert again.certificate == authority.certificate
    issue_client(again, "n1", NOW).certificate.verify_directly_issued_by(authority.certificate)
    write_authority(tmp_path, make_authority("other", NOW))
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    with pytest.raises(ConfigError, match=r"ca\.key: is not the Ed25519 key of ca\.pem"):
        read_authority(tmp_path)


# -- the node -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Certified, dict[str, Path]]:
    folder = tmp_path_factory.mktemp("bundles")
    authority, address = make_authority("line", NOW), Broker(host="broker.example", tls=True)
    line = fleet_in(folder)
    return authority, write_bundles(
        line, folder / "nodes", address, Simulation(), authority=authority
    )


def test_a_bundle_holds_its_own_certificate_and_not_the_authoritys_key(
    made: tuple[Certified, dict[str, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    authority, bundles = made
    for name, folder in bundles.items():
        files = sorted((folder / "tls").iterdir())
        assert [file.name for file in files] == ["ca.pem", "node.key", "node.pem"]
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        assert (folder / "tls" / "ca.pem").read_bytes() == authority.pem
        assert node_command(["check-config", str(folder)]) == 0, name
    assert "node: n1" in capsys.readouterr().out


def test_bundles_with_tls_need_an_authority(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the nodes need certificates"):
        write_bundles(fleet_in(tmp_path), tmp_path / "nodes", Broker(tls=True), Simulation())


def rewritten(place: Path, made: Certified) -> None:
    made.write(place / "node.pem", place / "node.key")


FAULTS: dict[str, tuple[Callable[[Path, Certified], object], str]] = {
    "missing": (lambda p, _a: (p / "node.pem").unlink(), r"node\.pem: cannot be read: No such"),
    "no key": (lambda p, _a: (p / "node.key").unlink(), r"node\.key: cannot be read: No such"),
    "open": (lambda p, _a: (p / "node.key").chmod(0o644), r": chmod 600 \S*/tls/node\.key$"),
    "junk": (lambda p, _a: (p / "node.pem").write_text("?"), r"node\.pem: is not a certificate"),
    "junk key": (lambda p, _a: (p / "node.key").write_text("?"), r"node\.key: is not an unencr"),
    "no authority": (lambda p, _a: (p / "ca.pem").write_text("?"), r"ca\.pem: is not a certific"),
    "expired": (lambda p, a: rewritten(p, expired(a)), r"node\.pem: expired at .* again from prov"),
    "premature": (lambda p, a: rewritten(p, premature(a)), r"not valid before .*: set the clock$"),
    "foreign": (lambda p, a: rewritten(p, foreign(a)), r"node\.pem: was not issued by .* ca\.pem"),
    "another's": (
        lambda p, a: rewritten(p, issue_client(a, "n2", NOW)),
        r"node\.pem: is the certificate of 'n2', not of 'n1'",
    ),
    "mixed": (
        lambda p, a: issue_client(a, "n1", NOW).write(p / "node.pem", p / "other.key"),
        r"node\.key: is not the key of node\.pem",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_certificate_is_told_in_one_line(
    fault: str, made: tuple[Certified, dict[str, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    authority, bundles = made
    place = bundles["n1"] / "tls"
    before = {file: file.read_bytes() for file in place.iterdir()}
    try:
        FAULTS[fault][0](place, authority)
        code = node_command(["check-config", str(bundles["n1"])])
    finally:
        for file, data in before.items():
            file.write_bytes(data)
            file.chmod(0o600)
    result = capsys.readouterr()
    assert (code, result.out) == (3, "")
    (line,) = result.err.splitlines()
    assert re.search(FAULTS[fault][1], line), line


def test_a_certificate_about_to_expire_is_told_but_used(
    made: tuple[Certified, dict[str, Path]], caplog: pytest.LogCaptureFixture
) -> None:
    authority, bundles = made
    rewritten(bundles["n4"] / "tls", issue_client(authority, "n4", NOW, days=20))
    assert node_command(["check-config", str(bundles["n4"])]) == 0
    assert "node.pem: expires on" in caplog.text


def test_a_client_id_cannot_be_guessed_and_is_that_of_every_copy(
    made: tuple[Certified, dict[str, Path]],
) -> None:
    found = [read_bundle(folder) for folder in (*made[1].values(), made[1]["n2"])]
    first, second, third, _, copy = (client_id(each.config, each.keys) for each in found)
    assert len({name.rsplit("-", 1)[1] for name in (first, second, third)}) == 3
    assert re.fullmatch("line-n2-[0-9a-f]{16}", second)
    assert second == copy


def test_plain_tcp_that_would_leave_the_machine_names_the_mend(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"loopback interface only; set broker\.tls: true"):
        fleet_in(tmp_path, TEXT.replace("{tls: true}", "{host: 10.0.0.1}"))
    fleet_in(tmp_path, TEXT.replace("{tls: true}", "{host: 10.0.0.1, tls: true}"))


def linked(
    ground: Ground, context: ssl.SSLContext, host: str = "127.0.0.1"
) -> tuple[Link, queue.Queue[LinkEvent]]:
    events: queue.Queue[LinkEvent] = queue.Queue()
    link = Link(
        "line-n1",
        Broker(host=host, port=ground.broker.port, tls=True),
        ground.security.access["n1"].read,
        (f"{F}/state/n1", b"lost"),
        events.put,
        context,
    )
    link.start()
    return link, events


@fleet
@pytest.mark.parametrize("is_fenced", [True, False])
def test_a_retained_message_is_delivered_before_the_link_is_up(
    ground: Ground, is_fenced: bool
) -> None:
    """A node thus knows its latest epoch before it sends. The fence is a packet of its own."""
    own = f"{F}/state/n1"
    with ground.client("n1") as earlier:
        earlier.send(own, b"earlier", retain=True)
    events: queue.Queue[LinkEvent] = queue.Queue()
    topics = [topic for topic in ground.security.access["n1"].read if topic != own]
    link = Link(
        "line-n1",
        Broker(port=ground.broker.port, tls=True),
        topics if is_fenced else [*topics, own],
        None,
        events.put,
        ground.context("n1"),
        before=[own] if is_fenced else [],
    )
    link.start()
    try:
        came = [events.get(timeout=60)]
        while not isinstance(came[-1], LinkUp):
            came.append(events.get(timeout=60))
        assert [event.payload for event in came if isinstance(event, Arrived)] in (
            [[b"earlier"]] if is_fenced else [[b"earlier"], []]
        )
    finally:
        link.stop(2)


@fleet
def test_the_link_carries_messages_over_tls(ground: Ground) -> None:
    link, events = linked(ground, ground.context("n1"), "localhost")
    try:
        while not isinstance(events.get(timeout=60), LinkUp):
            pass
        with ground.client("n2") as n2:
            n2.send(f"{F}/a/n1/n2", b"x" * 50_000)
            while not isinstance(event := events.get(timeout=60), Arrived) or event.retained:
                pass
            assert event.payload == b"x" * 50_000
            link.publish(f"{F}/q/n1", b"query")
            assert n2.until(f"{F}/q/n1", b"query")
    finally:
        link.stop(2)


def warnings_of(
    ground: Ground,
    context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
    host: str = "127.0.0.1",
    count: int = 1,
) -> list[str]:
    """The first *count* things that the log says of a link that cannot come up."""
    caplog.clear()
    link, events = linked(ground, context, host)
    try:
        deadline = time.monotonic() + 60
        while len(caplog.records) < count and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        link.stop(0)
    assert events.empty()
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    return [record.getMessage() for record in caplog.records]


@fleet
def test_a_refused_certificate_is_told_at_every_try(
    ground: Ground, caplog: pytest.LogCaptureFixture
) -> None:
    # A broker that resets the connection may lose its reason: then the next try has it.
    context = ground.context("n1", expired(ground.authority))
    warnings = warnings_of(ground, context, caplog, count=2)
    assert all("does not accept this node" in warning for warning in warnings)
    assert any("certificate" in warning for warning in warnings)
    assert all("trying again" in warning for warning in warnings)


@fleet
def test_a_link_that_was_never_let_in_for_its_certificate_says_so_for_good(ground: Ground) -> None:
    link, events = linked(ground, ground.context("n1", expired(ground.authority)))
    try:
        event = events.get(timeout=60)
    finally:
        link.stop(0)
    assert isinstance(event, LinkRefused)
    assert "refuses tls/node.pem" in event.reason
    assert "get the folder tls again from provisioning" in event.reason


@fleet
def test_a_broker_of_another_authority_is_not_trusted(
    ground: Ground, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    other = make_authority("other", NOW).write(tmp_path / "ca.pem", tmp_path / "ca.key")
    context = ssl.create_default_context(cafile=other.certificate)
    first, *_ = warnings_of(ground, context, caplog)
    assert "not trusting the broker at 127.0.0.1" in first


@fleet
def test_a_broker_under_a_name_it_is_not_certified_for_is_not_trusted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ground = Ground("mosquitto", tmp_path)
    ground.security = replace(ground.security, listen="0.0.0.0")
    with start_broker("embedded", security=ground.security) as ground.broker:
        assert ground.broker.host == "127.0.0.1"
        context = ground.context("n1")
        first, *_ = warnings_of(ground, context, caplog, "127.0.0.2")
    assert "not trusting the broker at 127.0.0.2" in first
    assert "not valid for '127.0.0.2'" in first


# -- the whole fleet ----------------------------------------------------------------------------


@fleet
@pytest.mark.parametrize("choice", ["embedded", "mosquitto"])
def test_a_fleet_runs_over_tls_to_its_end(tmp_path: Path, choice: str) -> None:
    fleet_in(tmp_path)
    console = Console(quiet=True)
    out = tmp_path / "out"
    result = run_fleet(tmp_path / "fleet.yaml", RunOptions(broker=choice, out=out), console)
    assert (result.nodes, result.silent, result.rejected) == (4, 0, 0)
    assert stat.S_IMODE((out / "tls").stat().st_mode) == 0o700
    assert stat.S_IMODE((out / "tls" / "ca.key").stat().st_mode) == 0o600
    assert not list((out / "nodes").rglob("ca.key"))
    assert "tls: true" in (out / "nodes" / "n1" / "node.yaml").read_text()


def test_a_run_with_tls_does_not_use_a_broker_it_cannot_certify(tmp_path: Path) -> None:
    fleet_in(tmp_path)
    options = RunOptions(broker="127.0.0.1:8883", out=tmp_path / "out")
    with pytest.raises(
        ConfigError, match=r"cannot make a certificate for the broker .*; leave --broker out"
    ):
        run_fleet(tmp_path / "fleet.yaml", options, Console(quiet=True))
    assert not (tmp_path / "out").exists()


# -- other rules while it runs ------------------------------------------------------------------


@fleet
def test_reloaded_rules_shut_one_out_and_do_not_disturb_the_others(ground: Ground) -> None:
    security, state = ground.security, f"{F}/state/n4"
    rest = {name: access for name, access in security.access.items() if name != "n4"}
    try:
        with ground.client("n3") as n3, ground.client("n4") as n4:
            n4.send(state)
            n3.until(state)
            pid = ground.broker.pid
            ground.broker.reload(replace(security, access=rest))
            for _ in range(10):  # mosquitto keeps the connection, and delivers nothing
                n4.paho.publish(state, b"late", qos=1)
                heard = n3.rest()
                if not heard:
                    break
            assert heard == []
            assert n3.connected
            assert ground.broker.pid == pid
    finally:
        ground.broker.reload(security)
    with ground.client("n3") as n3, ground.client("n4") as n4:
        n4.send(state)
        assert n3.until(state)


@fleet
def test_a_broker_without_rules_has_none_to_reload(ground: Ground) -> None:
    with (
        start_broker(ground.choice) as broker,
        pytest.raises(ConfigError, match="has no access rules to reload"),
    ):
        broker.reload(ground.security)
