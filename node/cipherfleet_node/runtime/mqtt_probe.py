"""An MQTT client driven by hand, for checks that must end within a deadline."""

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

REACH_S = 5.0  # for each step


class Silent(Exception):
    """The broker does not answer in time; the text says where."""


class Refused(Exception):
    """The broker closes the connection; the text says where."""


class Visit:
    """One MQTT client that only listens, driven by hand in the caller's thread."""

    def __init__(self, broker: Broker, client_id: str, context: ssl.SSLContext | None) -> None:
        self._broker = broker
        self.received: dict[str, bytes] = {}  # the latest on each topic
        self._reason: ReasonCode | None = None
        self._granted: list[ReasonCode] = []
        self.client = client = paho.Client(CallbackAPIVersion.VERSION2, client_id)
        if context is not None:
            client.tls_set_context(context)
        client.connect_timeout = REACH_S
        client.on_socket_open = set_no_delay
        client.on_connect = lambda _c, _u, _f, reason, _p: setattr(self, "_reason", reason)
        client.on_subscribe = lambda _c, _u, _m, reasons, _p: self._granted.extend(reasons)
        client.on_message = lambda _c, _u, m: self.received.update({m.topic: bytes(m.payload)})

    def connect(self) -> ReasonCode:
        """The broker's answer to CONNECT. Raises Silent, Refused, OSError."""
        self.client.connect(self._broker.host, self._broker.port)
        self._await(lambda: self._reason is not None, "CONNECT")
        assert self._reason is not None
        return self._reason

    def no_delay(self) -> bool:
        """Whether small packets leave at once."""
        sock = self.client.socket()
        assert isinstance(sock, socket.socket)
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0

    def subscribe(self, filters: Sequence[str]) -> list[str]:
        """The *filters* that the broker refuses. Raises Silent, Refused."""
        self._granted.clear()
        self.client.subscribe([(each, 1) for each in filters])
        self._await(lambda: bool(self._granted), "SUBSCRIBE")
        return [f for f, r in zip(filters, self._granted, strict=False) if r.is_failure]

    def listen(self, enough: Callable[[], bool], within_s: float) -> None:
        """Take in messages until there are *enough*."""
        deadline = time.monotonic() + within_s
        while not enough() and (left := deadline - time.monotonic()) > 0:
            if not read_for(self.client, left):
                return

    def _await(self, happened: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + REACH_S
        while not happened():
            left = deadline - time.monotonic()
            if left <= 0:
                raise Silent(f"no answer to {what} in {REACH_S:g} s")
            if not read_for(self.client, left) and not happened():
                raise Refused(f"it closed the connection at {what}")
