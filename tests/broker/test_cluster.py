"""Clusters of brokers: nats-server as a cluster, mosquitto with bridges."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import paho.mqtt.client as paho
import pytest
from cryptography import x509
from paho.mqtt.enums import CallbackAPIVersion
from rich.console import Console

from cipherfleet_broker import RunningBroker, RunningCluster, Security, check_link, start_cluster
from cipherfleet_broker.embedded import configuration
from cipherfleet_broker.mosquitto import access_rules, find_mosquitto, secured_configuration
from cipherfleet_broker.program import ClusterMember, Peer
from cipherfleet_deploy.doctor import named_brokers
from cipherfleet_deploy.local.processes import LocalFleet
from cipherfleet_deploy.local.results import Trajectory, disagreement
from cipherfleet_deploy.local.run import RunOptions, assign_brokers, run_fleet
from cipherfleet_deploy.provision_session import bundle
from cipherfleet_node.errors import BrokerUnreachable, ConfigError
from cipherfleet_node.keys.tls import client_context
from cipherfleet_node.runtime.mqtt import set_no_delay
from cipherfleet_node.settings.node_yaml import load_node_config
from cipherfleet_node.settings.sections import Simulation
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.certificates import (
    Certified,
    issue_client,
    make_authority,
    secure,
)
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet
from cipherfleet_provisioning.ledger import read_ledger
from tests.deploy.test_fleet import average_file, plain_estimates
from tests.support.launcher import shared_launcher

fleet = pytest.mark.fleet
READINGS = [20.0, 21.5, 19.0, 23.0]
CLUSTER = "broker: {tls: true, cluster: [a.example, b.example]}\n"
QUIET = Console(stderr=True, quiet=True)


@pytest.fixture(scope="module", params=["embedded", "mosquitto"])
def choice(request: pytest.FixtureRequest) -> str:
    if request.param == "mosquitto":
        needs_mosquitto()
    return str(request.param)


def needs_mosquitto() -> None:
    try:
        find_mosquitto()
    except ConfigError as error:
        pytest.skip(f"MOSQUITTO IS NOT INSTALLED, NOT TESTED: {error}")


def cluster_file(folder: Path, rounds: int, more: str = "") -> Path:
    """A ring of four; neighbours are always on different brokers."""
    file = average_file(folder, READINGS, rounds, more=more)
    text = file.read_text().replace("answer_timeout_s: 4, period", "period")
    file.write_text(text + CLUSTER)
    return file


def make_security(fleet: Fleet, folder: Path) -> tuple[Certified, Security]:
    now = datetime.now(UTC)
    authority = make_authority(fleet.file.fleet, now)
    (folder / "tls").mkdir()
    return authority, secure(fleet, authority, folder / "tls", now, links=True)


@contextmanager
def start_fleet_cluster(
    choice: str, folder: Path, rounds: int = 5, more: str = "", count: int = 2
) -> Iterator[tuple[Fleet, RunningCluster, Certified]]:
    found = load_fleet(cluster_file(folder, rounds, more))
    authority, security = make_security(found, folder)
    with start_cluster(choice, found.file.fleet, count, security) as cluster:
        yield found, cluster, authority


@dataclass
class Ground:
    """Two linked brokers, started once for all who only talk through them."""

    folder: Path
    cluster: RunningCluster
    authority: Certified

    def client(self, place: int, name: str) -> Client:
        return Client(self.cluster.members[place], self.authority, name, self.folder)


@pytest.fixture(scope="module")
def ground(choice: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp(choice)
    with start_fleet_cluster(choice, folder) as (_, cluster, authority):
        yield Ground(folder, cluster, authority)


class Client:
    """A node's connection by hand; keeps what arrives: topic, payload, whether it was retained."""

    def __init__(self, broker: RunningBroker, authority: Certified, name: str, folder: Path):
        self.messages: list[tuple[str, bytes, bool]] = []
        self.ready = threading.Event()
        place = folder / name
        place.mkdir(exist_ok=True)
        (place / "ca.pem").write_bytes(authority.pem)
        own = issue_client(authority, name, datetime.now(UTC)).write(place / "c", place / "k")
        self.paho = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"{name}-x")
        self.paho.tls_set_context(client_context(place / "ca.pem", own.certificate, own.key))
        self.paho.on_socket_open = set_no_delay
        self.paho.on_subscribe = lambda *_: self.ready.set()
        self.paho.on_message = self._on_message
        self._address = broker.host, broker.port

    def _on_message(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        self.messages.append((message.topic, bytes(message.payload), message.retain))
        if message.payload.startswith(b"ping"):
            self.send("cf/v2/trial/a/n1/n2", b"pong")

    def start(self, *topics: str) -> None:
        self.paho.connect(*self._address)
        self.paho.loop_start()
        self.paho.subscribe([(topic, 1) for topic in topics])
        assert self.ready.wait(60)

    def send(self, topic: str, payload: bytes, retain: bool = False) -> None:
        self.paho.publish(topic, payload, qos=1, retain=retain)

    def stop(self) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()


def wait_until(holds: Callable[[], bool], within_s: float = 120.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


# -- fleets -------------------------------------------------------------------------------------


@fleet
def test_neighbours_on_different_brokers_agree_with_the_plain_iteration(
    choice: str, tmp_path: Path
) -> None:
    file = cluster_file(tmp_path, 30)
    result = run_fleet(file, RunOptions(broker=choice, seed=7, out=tmp_path / "out"), QUIET)
    assert str(result.broker).endswith("a cluster of 2")
    assert result.silent == result.rejected == 0
    configs = [load_node_config(tmp_path / "out" / "nodes" / f"n{n}") for n in (1, 2, 3, 4)]
    ports = [config.broker.port for config in configs]
    assert ports[0] == ports[2] != ports[1] == ports[3], "all nodes are on one broker"
    assert all(config.broker.tls for config in configs)
    plain = plain_estimates(load_fleet(file), seed=7, rounds=30)
    assert result.estimate == pytest.approx(plain.mean(axis=0), abs=1e-5)
    assert result.disagreement == pytest.approx(disagreement(plain), abs=1e-5)
    assert result.estimate == pytest.approx([float(np.mean(READINGS))], abs=1e-3)


class WatchedFleet:
    """A running fleet, and how far it is."""

    def __init__(self, nodes: LocalFleet) -> None:
        self.nodes = nodes

    def slowest(self) -> int:
        self.nodes.poll()
        return min(node.round for node in self.nodes.nodes.values())

    def await_progress(self, within_s: float = 180.0) -> None:
        """Wait for ten more rounds of all nodes, the last three without a silent neighbour."""
        goal = max(node.round for node in self.nodes.nodes.values()) + 10

        def is_there() -> bool:
            there = self.slowest() >= goal
            latest = [node.rounds[-3:] for node in self.nodes.nodes.values()]
            return there and all(not line["silent"] for lines in latest for line in lines)

        wait_until(is_there, within_s)


@contextmanager
def run_fleet_on(
    found: Fleet, cluster: RunningCluster, authority: Certified, folder: Path
) -> Iterator[WatchedFleet]:
    brokers = assign_brokers(found, cluster.members[:2])
    bundles = write_bundles(
        found, folder / "nodes", brokers, Simulation(trace_estimates=True), authority=authority
    )
    with LocalFleet(bundles, 180.0, launcher=shared_launcher()) as nodes:
        nodes.start()
        watched = WatchedFleet(nodes)
        watched.await_progress()
        yield watched
        assert [node.restarts for node in nodes.nodes.values()] == [0] * 4
        assert disagreement(Trajectory.of(nodes, 1).last) < 1e-2


ENDLESS = 100_000, ", period_s: 0.1, answer_timeout_s: 3"


@fleet
def test_a_fleet_goes_on_after_a_broker_of_its_cluster_was_killed_and_came_back(
    choice: str, tmp_path: Path
) -> None:
    with (
        start_fleet_cluster(choice, tmp_path, *ENDLESS) as (found, cluster, authority),
        run_fleet_on(found, cluster, authority, tmp_path) as nodes,
    ):
        cluster.members[1].kill()
        time.sleep(1.0)
        cluster.members[1].restart()
        cluster.await_links()
        nodes.await_progress()


@fleet
def test_three_members_do_not_miss_one_of_them(tmp_path: Path) -> None:
    """Two hold the nodes, the third is there so that any two are a majority."""
    with (
        start_fleet_cluster("embedded", tmp_path, *ENDLESS, count=3) as (found, cluster, authority),
        run_fleet_on(found, cluster, authority, tmp_path) as nodes,
    ):
        cluster.members[2].kill()
        nodes.await_progress()
        assert cluster.members[2].pid is None


# -- what passes between brokers ----------------------------------------------------------------


@fleet
def test_messages_pass_once_both_ways_with_what_is_retained_and_wills(ground: Ground) -> None:
    here, there = ground.client(0, "n1"), ground.client(1, "n2")
    there.paho.will_set("cf/v2/trial/state/n2", b"gone", qos=1, retain=True)
    here.start("cf/v2/trial/q/n2", "cf/v2/trial/a/n1/+", "cf/v2/trial/state/n2")
    there.start("cf/v2/trial/q/n1", "cf/v2/trial/state/n1")
    for n in range(20):
        here.send("cf/v2/trial/q/n1", b"ping%d" % n)
        wait_until(lambda: len(here.messages) > n)  # noqa: B023  # called at once
    here.send("cf/v2/trial/state/n1", b"here", retain=True)
    wait_until(lambda: ("cf/v2/trial/state/n1", b"here", False) in there.messages)
    assert [each for each in there.messages if each[0].endswith("q/n1")] == [
        ("cf/v2/trial/q/n1", b"ping%d" % n, False) for n in range(20)
    ]
    line = there.paho.socket()
    assert line is not None
    line.close()  # without a DISCONNECT: the broker says the will
    wait_until(lambda: ("cf/v2/trial/state/n2", b"gone", False) in here.messages)
    there.stop()
    late = ground.client(1, "n2")
    late.start("cf/v2/trial/state/n1")
    wait_until(lambda: ("cf/v2/trial/state/n1", b"here", True) in late.messages)
    late.stop()
    here.stop()
    assert len(here.messages) == 21


@fleet
def test_access_rules_hold_on_every_broker_of_a_cluster(ground: Ground) -> None:
    liar, ear = ground.client(0, "n3"), ground.client(1, "n4")
    ear.start("cf/v2/trial/q/n3", "cf/v2/trial/state/n1")
    liar.start("cf/v2/trial/q/n2")
    ear.messages.clear()  # what another test retained
    liar.send("cf/v2/trial/q/n1", b"as another")
    liar.send("cf/v2/trial/state/n1", b"as another", retain=True)
    liar.send("cf/v2/trial/q/n3", b"as itself")
    wait_until(lambda: ("cf/v2/trial/q/n3", b"as itself", False) in ear.messages)
    assert not [each for each in ear.messages if each[1] == b"as another"]
    ear.stop()
    liar.stop()


@fleet
def test_nobody_but_a_broker_opens_a_route(ground: Ground) -> None:
    folder = ground.cluster.members[0].folder
    assert folder is not None
    file, tls = folder / "nats-server.conf", ground.folder / "tls"
    if not file.exists():
        return  # bridges of mosquitto are clients like others: access_rules says what they may
    host, port = json.loads(file.read_text())["cluster"]["listen"].split(":")

    def find_refusal(certificate: Path, key: Path) -> bytes:
        """What a route with this certificate is answered: it belongs to no cluster, at best."""
        context = client_context(tls / "ca.pem", certificate, key)
        answer = b""
        plain = socket.create_connection((host, int(port)), 60)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as line:
            line.sendall(b'CONNECT {"verbose":false,"name":"x"}\r\nPING\r\n')
            with suppress(ssl.SSLError, ConnectionError):
                while more := line.recv(4096):
                    answer += more
        return answer.partition(b"-ERR ")[2]

    node = issue_client(ground.authority, "n1", datetime.now(UTC))
    own = node.write(ground.folder / "n1.pem", ground.folder / "n1.key")
    assert b"Authorization Violation" in find_refusal(own.certificate, own.key)
    link = find_refusal(tls / "link.pem", tls / "link.key")
    assert b"cluster name" in link, "the guard refuses brokers, too"


@fleet
def test_a_link_that_is_down_is_told(ground: Ground) -> None:
    """The last of those that share brokers."""
    one, other = [(each.host, each.port) for each in ground.cluster.members]
    files = [ground.folder / "tls" / name for name in ("ca.pem", "health.pem", "health.key")]
    check_link(one, other, 60.0, client_context(*files))
    ground.cluster.members[1].kill()
    with pytest.raises(BrokerUnreachable, match="no working broker at"):
        check_link(one, other, 2.0, client_context(*files))


# -- configurations -----------------------------------------------------------------------------


def make_member(count: int, own: int) -> ClusterMember:
    return ClusterMember("trial", tuple(Peer(f"b{n}.lan") for n in range(count)), own)


@pytest.mark.parametrize(("count", "copies"), [(2, 1), (3, 3), (5, 3)])
def test_copies_are_odd_and_every_member_calls_all_others(
    count: int, copies: int, tmp_path: Path
) -> None:
    _, security = make_security(load_fleet(cluster_file(tmp_path, 5)), tmp_path)
    names, rules = set(), []
    for own in range(count):
        text = configuration(tmp_path, 8883, security, member=make_member(count, own))
        made = json.loads(text)
        assert made["mqtt"]["stream_replicas"] == copies
        others = {f"tls://b{n}.lan:6222" for n in range(count) if n != own}
        assert set(made["cluster"]["routes"]) == others
        assert made["cluster"]["tls"]["verify_and_map"] is True
        names.add(made["server_name"])
        rules.append(made["authorization"])
    assert len(names) == count
    assert rules == [rules[0]] * count


def test_only_the_first_mosquitto_has_bridges(tmp_path: Path) -> None:
    _, security = make_security(load_fleet(cluster_file(tmp_path, 5)), tmp_path)
    texts = [
        secured_configuration(8883, security, tmp_path / "rules", None, make_member(3, own))
        for own in range(3)
    ]
    assert [text.count("\nconnection ") for text in texts] == [2, 0, 0]
    assert "address b1.lan:8883\n" in texts[0]
    assert "user _link\ntopic readwrite cf/v2/trial/#" in access_rules(security, make_member(3, 1))
    assert "_link" not in access_rules(security)


def test_a_cluster_without_a_certificate_for_its_links_is_refused(tmp_path: Path) -> None:
    _, security = make_security(load_fleet(cluster_file(tmp_path, 5)), tmp_path)
    for unlinked in (replace(security, link=None), None):
        with pytest.raises(ConfigError, match="needs TLS"):
            configuration(tmp_path, 8883, unlinked, member=make_member(2, 0))
    with pytest.raises(ConfigError, match="must be embedded or mosquitto for a cluster"):
        start_cluster("somewhere:1883", "trial", 2, security)


# -- fleet.yaml ---------------------------------------------------------------------------------


def test_nodes_are_shared_out_in_turn_unless_they_name_their_broker(tmp_path: Path) -> None:
    file = cluster_file(tmp_path, 5)
    hosts = {name: result.host for name, result in load_fleet(file).brokers().items()}
    assert hosts == {"n1": "a.example", "n2": "b.example", "n3": "a.example", "n4": "b.example"}
    text = file.read_text().replace("each: 4,", "each: 4, broker: b.example,")
    file.write_text(text.replace("tls: true,", "tls: true, port: 8884,"))
    result = load_fleet(file).brokers()
    assert {(each.host, each.port, each.tls) for each in result.values()} == {
        ("b.example", 8884, True)
    }


def test_a_provisioned_set_has_a_folder_for_each_broker(tmp_path: Path) -> None:
    home = tmp_path / "set"
    bundle(cluster_file(tmp_path, 5), home, "operator", QUIET)
    place = home / "current"
    for own, host in enumerate(("a.example", "b.example")):
        folder = place / "broker" / host
        made = json.loads((folder / "nats-server.conf").read_text())
        assert made["server_name"] == f"broker{own + 1}"
        assert made["cluster"]["tls"]["key_file"] == "/etc/cipherfleet-broker/link.key"
        assert ("\nconnection " in (folder / "mosquitto-2.0.conf").read_text()) == (own == 0)
        for name in ("broker", "link", "health"):
            client_context(folder / "ca.pem", folder / f"{name}.pem", folder / f"{name}.key")
        certificate = x509.load_pem_x509_certificate((folder / "link.pem").read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        assert host in names.value.get_values_for_type(x509.DNSName)
    assert not (place / "broker" / "broker.key").exists()
    assert load_node_config(place / "nodes" / "n2").broker.host == "b.example"
    ledger = read_ledger(place)
    assert (ledger.broker.host, ledger.cluster) == ("a.example", ["a.example", "b.example"])


def test_doctor_looks_at_every_broker_of_a_cluster(tmp_path: Path) -> None:
    named = named_brokers(cluster_file(tmp_path, 5), None)
    assert [(each.host, each.port, each.tls) for each in named] == [
        ("a.example", 1883, True),
        ("b.example", 1883, True),
    ]
