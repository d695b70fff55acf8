"""What a broker can make a node keep: long packets, messages at QoS 2, floods."""

from __future__ import annotations

import queue
import socket
import struct
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import paho.mqtt.client as paho
import pytest

from cipherfleet_node.core.wire import MAX_MESSAGE_BYTES
from cipherfleet_node.runtime import mqtt
from cipherfleet_node.runtime.event_queue import MAX_QUEUED_BYTES, EventQueue
from cipherfleet_node.runtime.mqtt import Arrived, Link, LinkDown, LinkUp
from cipherfleet_node.settings.sections import Broker

LONG = 24 * 1024 * 1024
PATIENCE_S = 60.0
Deliver = Callable[[object], None]
CONNACK, SUBACK = b"\x20\x02\x00\x00", b"\x90\x03\x00\x01\x00"


def publish(topic: bytes, payload: bytes, qos: int = 0) -> bytes:
    identifier = b"\x00\x07" if qos else b""
    rest = struct.pack(">H", len(topic)) + topic + identifier + payload
    length, count = bytearray(), len(rest)
    while True:
        count, low = divmod(count, 128)
        length.append(low | (128 if count else 0))
        if not count:
            return bytes([0x30 | qos << 1]) + length + rest


@contextmanager
def connected(packets: list[bytes], deliver: Deliver) -> Iterator[Link]:
    """A link to a broker that accepts it and then sends *packets*."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            client, _ = server.accept()
            with client:
                client.recv(4096)
                client.sendall(CONNACK)
                client.recv(4096)
                client.sendall(SUBACK)
                for packet in packets:
                    client.sendall(packet)
                while client.recv(4096):
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    link = Link("me", Broker(port=server.getsockname()[1]), ["t"], None, deliver)
    link.start()
    try:
        yield link
    finally:
        server.close()
        link.stop(0.0)
        thread.join(PATIENCE_S)


def peak_while_receiving(packets: list[bytes], count: int) -> tuple[list[Arrived], int]:
    """The first *count* messages, and the most bytes that Python has allocated meanwhile."""
    events: queue.SimpleQueue[object] = queue.SimpleQueue()
    tracemalloc.start()
    try:
        with connected(packets, events.put):
            assert events.get(timeout=PATIENCE_S) == LinkUp()
            arrived = [events.get(timeout=PATIENCE_S) for _ in range(count)]
        return [each for each in arrived if isinstance(each, Arrived)], (
            tracemalloc.get_traced_memory()[1]
        )
    finally:
        tracemalloc.stop()


PACKETS = [publish(b"t", bytes(LONG)), publish(b"t", b"next")]


def test_a_long_packet_takes_no_memory() -> None:
    """It is read to its end, cut, and so refused as too long; the next one arrives as it is."""
    arrived, peak = peak_while_receiving(PACKETS, 2)
    assert [len(each.payload) for each in arrived] == [MAX_MESSAGE_BYTES + 1, 4]
    assert peak < 4 * 1024 * 1024


def test_without_the_bound_a_long_packet_takes_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "BoundedClient", paho.Client)
    arrived, peak = peak_while_receiving(PACKETS, 2)
    assert len(arrived) == 2
    assert peak > LONG


KEPT = [publish(b"t", bytes(1000), qos=2)]


def test_messages_at_qos_2_are_not_kept() -> None:
    """A broker that sends one breaks the protocol: the connection is closed."""
    events: queue.SimpleQueue[object] = queue.SimpleQueue()
    with connected(KEPT, events.put) as link:
        assert events.get(timeout=PATIENCE_S) == LinkUp()
        assert isinstance(events.get(timeout=PATIENCE_S), LinkDown)
        assert not link._client._in_messages


def test_without_the_bound_paho_keeps_messages_at_qos_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "BoundedClient", paho.Client)
    events: queue.SimpleQueue[object] = queue.SimpleQueue()
    with connected([*KEPT, publish(b"t", b"next")], events.put) as link:
        assert events.get(timeout=PATIENCE_S) == LinkUp()
        assert isinstance(events.get(timeout=PATIENCE_S), Arrived)  # the next one
        assert len(link._client._in_messages) == 1


FLOOD = [publish(b"t", bytes(MAX_MESSAGE_BYTES - 1000))] * 100 + [publish(b"last", b"")]


@pytest.mark.parametrize("bounded", [True, False])
def test_a_flood_that_the_loop_does_not_take_is_kept_only_without_the_bound(
    bounded: bool,
) -> None:
    """The link delivers 25 MiB of messages while the loop is busy with something else."""
    kept, came = EventQueue() if bounded else EventQueue(1 << 40), threading.Event()

    def deliver(event: object) -> None:
        kept.put(event)
        if isinstance(event, Arrived) and event.topic == "last":
            came.set()

    tracemalloc.start()
    try:
        with connected(FLOOD, deliver):
            assert came.wait(PATIENCE_S)
            held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (held < MAX_QUEUED_BYTES) == bounded
