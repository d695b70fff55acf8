"""The operator's connection to the fleet's broker: claims and health in, memberships out."""

from __future__ import annotations

import queue
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from cipherfleet_node.core import topics, wire
from cipherfleet_node.core.messages import Health
from cipherfleet_node.errors import BrokerUnreachable, ConfigError, WireError
from cipherfleet_node.keys.tls import client_context
from cipherfleet_node.runtime.mqtt import set_no_delay

CONNECT_S = 10.0
ACKNOWLEDGE_S = 30.0
RECONNECT_S = (1, 10)
MAX_MESSAGES = 100_000  # kept of each kind; a fleet has fewer nodes


class OperatorSession:
    """A connection to the fleet's broker, as a context manager; it reconnects after a loss.

    *deliver* is called with topic and payload of every message. It runs in another thread and must
    not raise.
    """

    def __init__(
        self,
        fleet: str,
        where: tuple[str, int],
        context: ssl.SSLContext | None,
        filters: Sequence[str],
        deliver: Callable[[str, bytes], None],
    ) -> None:
        self._where, self._filters, self._deliver = where, filters, deliver
        self._settled = threading.Event()
        self._problem = "it did not answer MQTT CONNECT"
        name = f"{fleet}-operator-{secrets.token_hex(6)}"
        self._client = client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name)
        if context is not None:
            client.tls_set_context(context)
        client.connect_timeout = CONNECT_S
        client.reconnect_delay_set(*RECONNECT_S)
        client.on_socket_open = set_no_delay
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message

    def __enter__(self) -> Self:
        host, port = self._where
        try:
            self._client.connect(host, port)
        except (OSError, ValueError) as error:
            found = getattr(error, "strerror", None) or str(error)
            raise self._unreachable(f"cannot connect ({found})") from None
        self._client.loop_start()
        if not self._settled.wait(CONNECT_S) or self._problem:
            self._leave()
            raise self._unreachable(self._problem)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()

    @property
    def is_connected(self) -> bool:
        """True while the session is connected to the broker."""
        return self._client.is_connected()

    def _leave(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _unreachable(self, found: str) -> BrokerUnreachable:
        host, port = self._where
        return BrokerUnreachable(
            f"no working broker at {host}:{port}: {found}",
            remedy=(
                "does it run with the configuration of this set, and are host and port right "
                "(--broker HOST:PORT)?"
            ),
        )

    # paho calls the following methods in its own thread.

    def _on_connect(self, client: mqtt.Client, _u: Any, _f: Any, reason: Any, _p: Any) -> None:
        if reason.is_failure:
            self._problem = f"it refused the operator ({reason})"
            self._settled.set()
            return
        client.subscribe([(each, 1) for each in self._filters])

    def _on_subscribe(self, _c: Any, _u: Any, _mid: int, reasons: Any, _p: Any) -> None:
        refused = any(reason.is_failure for reason in reasons)
        self._problem = "it refused the operator's subscriptions" if refused else ""
        self._settled.set()

    def _on_message(self, _c: Any, _u: Any, message: mqtt.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        # One byte above the limit suffices: the decoder refuses the message as too long.
        self._deliver(topic, bytes(message.payload[: wire.MAX_MESSAGE_BYTES + 1]))


class OperatorLink(OperatorSession):
    """The operator's session: collects claims and health messages, and publishes memberships."""

    def __init__(self, fleet: str, host: str, port: int, context: ssl.SSLContext | None) -> None:
        self.claims: dict[str, bytes] = {}  # payload by topic, the latest
        self.health: dict[str, Health] = {}  # by node, the latest of this session
        self._fleet = fleet
        self._arrivals: queue.SimpleQueue[float] = queue.SimpleQueue()
        filters = [topics.claim_topic(fleet, "+"), topics.health_topic(fleet, "+")]
        super().__init__(fleet, (host, port), context, filters, self._take)

    def listen(self, quiet_s: float, at_most_s: float) -> None:
        """Collect claims until none has arrived for *quiet_s*, for at most *at_most_s*."""
        ends = time.monotonic() + at_most_s
        while (left := ends - time.monotonic()) > 0:
            try:
                self._arrivals.get(timeout=min(quiet_s, left))
            except queue.Empty:
                return

    def collect_health(self, names: Collection[str], at_most_s: float) -> dict[str, Health]:
        """Return the next health messages of *names*, waiting for them at most *at_most_s*."""
        self.health.clear()
        ends = time.monotonic() + at_most_s
        while time.monotonic() < ends and not self.health.keys() >= set(names):
            time.sleep(0.05)
        return {name: result for name, result in self.health.copy().items() if name in names}

    def publish(self, signed: Mapping[str, bytes]) -> None:
        """Publish the signed membership of each node, retained; empty bytes delete it.

        Each message is acknowledged before the next one is sent. Raises BrokerUnreachable.
        """
        for node, data in signed.items():
            topic = topics.membership_topic(self._fleet, node)
            info = self._client.publish(topic, data, qos=1, retain=True)
            try:
                info.wait_for_publish(ACKNOWLEDGE_S)
            except (RuntimeError, ValueError):
                raise self._unreachable("the connection was lost") from None
            if not info.is_published():
                raise self._unreachable(f"it did not acknowledge in {ACKNOWLEDGE_S:g} s")

    def _take(self, topic: str, payload: bytes) -> None:
        node = topics.sender_of(topic)
        if topic == topics.claim_topic(self._fleet, node):
            if topic in self.claims or len(self.claims) < MAX_MESSAGES:
                self.claims[topic] = payload
                self._arrivals.put(time.monotonic())
        elif topic == topics.health_topic(self._fleet, node):
            health = read_health(self._fleet, topic, payload)
            if health is not None and len(self.health) < MAX_MESSAGES:
                self.health[node] = health


class AcceptAnySignature:
    """Stands for a public key that is not known, and accepts every signature."""

    def verify(self, signature: bytes, data: bytes, /) -> None:
        """Accept every signature without a check."""


def read_health(fleet: str, topic: str, payload: bytes) -> Health | None:
    """Return the health message in *payload*, None if it is none; no signature is verified.

    While a node changes its identity key, no single key verifies all its messages.
    """
    try:
        found = wire.decode(payload, topic, fleet, {topics.sender_of(topic): AcceptAnySignature()})
    except WireError:
        return None
    return found if isinstance(found, Health) else None


def operator_context(folder: Path, stem: str = "client") -> ssl.SSLContext:
    """Return the TLS context of the operator, from its *folder* in a set; raises ConfigError."""
    try:
        return client_context(folder / "ca.pem", folder / f"{stem}.pem", folder / f"{stem}.key")
    except OSError as error:  # SSLError is an OSError
        raise ConfigError(f"{folder}: the operator's certificate cannot be used: {error}") from None
