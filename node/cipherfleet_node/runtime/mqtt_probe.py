"""An MQTT client without a thread, for checks in which each step has a deadline."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from .mqtt import set_no_delay


class NoAnswer(Exception):
    """The broker does not answer in time; the text names the step."""


class ConnectionClosed(Exception):
    """The broker closes the connection; the text names the step."""


def read_for(client: paho.Client, within_s: float) -> bool:
    """Let *client* read once what comes within *within_s*; True if its connection is still open.

    It is not client.loop(), which opens a pair of sockets that only the garbage collector closes.
    """
    sock = client.socket()
    if sock is None:
        return False
    # select does not see data that TLS has decrypted already.
    waiting = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
    readable, _, _ = select.select([sock], [], [], 0.0 if waiting else within_s)
    return not (readable or waiting) or client.loop_read() == paho.MQTT_ERR_SUCCESS


class MqttProbe:
    """An MQTT client that runs in the thread of its caller.

    A method with *within_s* raises NoAnswer if the broker has not answered after this time, and
    ConnectionClosed if the broker closes the connection before.
    """

    def __init__(
        self,
        address: tuple[str, int],
        client_id: str,
        context: ssl.SSLContext | None,
        connect_timeout_s: float,
    ) -> None:
        self._address = address
        self.received: dict[str, bytes] = {}  # by topic, the latest payload
        self._reason: ReasonCode | None = None
        self._granted: list[ReasonCode] = []
        self._is_acknowledged = False
        self._client = client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv311
        )
        if context is not None:
            client.tls_set_context(context)
        client.connect_timeout = connect_timeout_s
        client.on_socket_open = set_no_delay
        client.on_connect = lambda _c, _u, _f, reason, _p: setattr(self, "_reason", reason)
        client.on_subscribe = lambda _c, _u, _m, reasons, _p: self._granted.extend(reasons)
        client.on_publish = lambda *_: setattr(self, "_is_acknowledged", True)
        client.on_message = lambda _c, _u, m: self.received.update({m.topic: bytes(m.payload)})

    def connect(self, within_s: float) -> ReasonCode:
        """Return the broker's reply to CONNECT. Raises OSError if the port is not reached."""
        self._client.connect(*self._address)
        self._await(lambda: self._reason is not None, "CONNECT", within_s)
        assert self._reason is not None
        return self._reason

    def has_no_delay(self) -> bool:
        """True if TCP_NODELAY is set on the connection."""
        sock = self._client.socket()
        assert isinstance(sock, socket.socket)
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0

    def subscribe(self, filters: Sequence[str], within_s: float) -> dict[str, ReasonCode]:
        """Subscribe at QoS 1; return the refused *filters*, each with the broker's reason."""
        self._granted.clear()
        self._client.subscribe([(each, 1) for each in filters])
        self._await(lambda: bool(self._granted), "SUBSCRIBE", within_s)
        return {f: r for f, r in zip(filters, self._granted, strict=False) if r.is_failure}

    def publish(self, topic: str, payload: bytes, within_s: float) -> None:
        """Publish at QoS 1, and wait for the acknowledgement."""
        self._is_acknowledged = False
        self._client.publish(topic, payload, qos=1)
        self._await(lambda: self._is_acknowledged, "PUBLISH", within_s)

    def await_message(self, topic: str, payload: bytes, within_s: float) -> None:
        """Return when *payload* is the latest message on *topic*."""
        self._await(lambda: self.received.get(topic) == payload, "delivery", within_s)

    def listen(self, enough: Callable[[], bool], within_s: float) -> None:
        """Receive messages until *enough* returns True, the time is over or the connection ends."""
        with suppress(NoAnswer, ConnectionClosed):
            self._await(enough, "", within_s)

    def close(self) -> None:
        """Send DISCONNECT, and close the connection if there is one."""
        self._client.disconnect()

    def _await(self, happened: Callable[[], bool], step: str, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not happened():
            left = deadline - time.monotonic()
            if left <= 0:
                raise NoAnswer(f"no answer to {step} in {within_s:g} s")
            if not read_for(self._client, left) and not happened():
                raise ConnectionClosed(f"it closed the connection at {step}")
