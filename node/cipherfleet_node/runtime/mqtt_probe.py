"""An MQTT client without a thread, for checks in which each step has a deadline."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Sequence

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from cipherfleet_node.settings.sections import Broker

from .mqtt import read_for, set_no_delay

STEP_TIMEOUT_S = 5.0


class NoAnswer(Exception):
    """The broker does not answer in time; the text names the step."""


class ConnectionClosed(Exception):
    """The broker closes the connection; the text names the step."""


class MqttProbe:
    """An MQTT client that publishes nothing and runs in the thread of its caller."""

    def __init__(self, broker: Broker, client_id: str, context: ssl.SSLContext | None) -> None:
        self._broker = broker
        self.received: dict[str, bytes] = {}  # by topic, the latest payload
        self._reason: ReasonCode | None = None
        self._granted: list[ReasonCode] = []
        self.client = client = paho.Client(CallbackAPIVersion.VERSION2, client_id)
        if context is not None:
            client.tls_set_context(context)
        client.connect_timeout = STEP_TIMEOUT_S
        client.on_socket_open = set_no_delay
        client.on_connect = lambda _c, _u, _f, reason, _p: setattr(self, "_reason", reason)
        client.on_subscribe = lambda _c, _u, _m, reasons, _p: self._granted.extend(reasons)
        client.on_message = lambda _c, _u, m: self.received.update({m.topic: bytes(m.payload)})

    def connect(self) -> ReasonCode:
        """Return the broker's reply to CONNECT. Raises NoAnswer, ConnectionClosed or OSError."""
        self.client.connect(self._broker.host, self._broker.port)
        self._await(lambda: self._reason is not None, "CONNECT")
        assert self._reason is not None
        return self._reason

    def has_no_delay(self) -> bool:
        """True if TCP_NODELAY is set on the connection."""
        sock = self.client.socket()
        assert isinstance(sock, socket.socket)
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0

    def subscribe(self, filters: Sequence[str]) -> list[str]:
        """Subscribe; return the refused *filters*. Raises NoAnswer or ConnectionClosed."""
        self._granted.clear()
        self.client.subscribe([(each, 1) for each in filters])
        self._await(lambda: bool(self._granted), "SUBSCRIBE")
        return [f for f, r in zip(filters, self._granted, strict=False) if r.is_failure]

    def listen(self, enough: Callable[[], bool], within_s: float) -> None:
        """Receive messages until *enough* returns True, at most for *within_s*."""
        deadline = time.monotonic() + within_s
        while not enough() and (left := deadline - time.monotonic()) > 0:
            if not read_for(self.client, left):
                return

    def _await(self, happened: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + STEP_TIMEOUT_S
        while not happened():
            left = deadline - time.monotonic()
            if left <= 0:
                raise NoAnswer(f"no answer to {what} in {STEP_TIMEOUT_S:g} s")
            if not read_for(self.client, left) and not happened():
                raise ConnectionClosed(f"it closed the connection at {what}")
