"""Health checks of a broker: an MQTT client sends a message and receives it.

An open port would not show that the program is an MQTT broker, that it admits the client, or that
it delivers messages.
"""

from __future__ import annotations

import secrets
import socket
import ssl
import time
from collections.abc import Callable

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from cipherfleet_node.errors import BrokerUnreachable
from cipherfleet_node.runtime.mqtt import read_for, set_no_delay

# No fleet can be called _health: its name starts with a letter or a digit.
HEALTH_TOPIC = "cf/v1/_health"


def check_broker(
    host: str, port: int, timeout_s: float = 5.0, context: ssl.SSLContext | None = None
) -> None:
    """Send one QoS 1 message through the broker at *host*:*port* and receive it again.

    With *context* the connection uses TLS. Raises BrokerUnreachable, naming the step that failed,
    if the message and its acknowledgement do not arrive within *timeout_s*. The deadline cannot
    interrupt the resolution of the host's name.
    """
    probe = _Probe(host, port, timeout_s, context)
    try:
        probe.connect()
        probe.send_to_itself()
    finally:
        probe.client.disconnect()


def check_listening(host: str, port: int, timeout_s: float, context: ssl.SSLContext) -> None:
    """Raise BrokerUnreachable unless *host*:*port* presents a certificate that *context* trusts."""
    try:
        with (
            socket.create_connection((host, port), timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            pass
    except OSError as error:  # SSLError is an OSError
        raise BrokerUnreachable(
            f"no broker at {host}:{port}: {error.strerror or error}", remedy="is it running?"
        ) from None


def check_link(
    source: tuple[str, int],
    target: tuple[str, int],
    timeout_s: float = 5.0,
    context: ssl.SSLContext | None = None,
) -> None:
    """Send one QoS 1 message to the broker at *source* and receive it from the one at *target*.

    Both belong to one cluster. Raises BrokerUnreachable if it does not arrive within *timeout_s*.
    """
    receiver = _Probe(*target, timeout_s, context)
    sender = _Probe(*source, timeout_s, context)
    try:
        receiver.connect()
        receiver.listen()
        sender.connect()
        payload = sender.send(receiver.topic)
        missing = f"it did not deliver a QoS 1 message from {source[0]}:{source[1]}"
        receiver.await_arrival(payload, missing)
    finally:
        for each in (sender, receiver):
            each.client.disconnect()


class _Probe:
    """An MQTT client that runs in the caller's thread; its fields hold the broker's responses."""

    def __init__(
        self, host: str, port: int, timeout_s: float, context: ssl.SSLContext | None
    ) -> None:
        self.host, self.port, self.timeout_s = host, port, timeout_s
        self.deadline = time.monotonic() + timeout_s
        self.connected: ReasonCode | None = None
        self.subscribed: ReasonCode | None = None
        self.acknowledged = False
        self.received: list[bytes] = []
        name = f"health-{secrets.token_hex(6)}"
        self.topic = f"{HEALTH_TOPIC}/{name}"
        self.client = client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv311
        )
        if context is not None:
            client.tls_set_context(context)
        client.connect_timeout = timeout_s
        client.on_socket_open = set_no_delay
        client.on_connect = lambda _c, _u, _flags, reason, _p: setattr(self, "connected", reason)
        client.on_subscribe = lambda _c, _u, _id, reasons, _p: setattr(
            self, "subscribed", next(iter(reasons), None)
        )
        client.on_publish = lambda *_: setattr(self, "acknowledged", True)
        client.on_message = lambda _c, _u, message: self.received.append(bytes(message.payload))

    def connect(self) -> None:
        try:
            self.client.connect(self.host, self.port)
        except (OSError, ValueError) as error:
            found = getattr(error, "strerror", None) or str(error)
            raise self._unreachable(
                f"cannot connect ({found})", "is it running, and are host and port right?"
            ) from None
        self._await(lambda: self.connected is not None, "it did not answer MQTT CONNECT")
        if self.connected is not None and self.connected.is_failure:
            raise self._unreachable(
                f"it refused the connection ({self.connected})",
                "does it require a certificate or a password?",
            )

    def send_to_itself(self) -> None:
        self.listen()
        self.await_arrival(self.send(self.topic), "it did not deliver a QoS 1 message")

    def listen(self) -> None:
        self.client.subscribe(self.topic, qos=1)
        self._await(lambda: self.subscribed is not None, "it did not answer SUBSCRIBE")
        if self.subscribed is not None and self.subscribed.is_failure:
            raise self._unreachable(
                f"it refused a subscription to {self.topic} ({self.subscribed})",
                f"its access rules must allow {HEALTH_TOPIC}/#",
            )

    def send(self, topic: str) -> bytes:
        payload = secrets.token_bytes(16)
        self.client.publish(topic, payload, qos=1)
        self._await(lambda: self.acknowledged, "it did not acknowledge a QoS 1 message")
        return payload

    def await_arrival(self, payload: bytes, problem: str) -> None:
        self._await(lambda: payload in self.received, problem)

    def _await(self, is_done: Callable[[], bool], problem: str) -> None:
        """Run the client until *is_done*; raises BrokerUnreachable with *problem*."""
        advice = "is it an MQTT broker, and does it work? its log may give the reason"
        while not is_done():
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise self._unreachable(f"{problem} in {self.timeout_s:g} s", advice)
            if not read_for(self.client, left) and not is_done():
                raise self._unreachable(f"{problem} and closed the connection", advice)

    def _unreachable(self, found: str, advice: str) -> BrokerUnreachable:
        return BrokerUnreachable(
            f"no working broker at {self.host}:{self.port}: {found}", remedy=advice
        )
