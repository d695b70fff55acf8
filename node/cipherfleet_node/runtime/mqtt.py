"""The connection to the broker: a paho client in its own thread, which delivers events.

It uses MQTT 3.1.1 with clean sessions: if the broker loses a message, the protocol of the rounds
sends it again. The node publishes at QoS 1, to know when the broker has a message, and subscribes
at QoS 0 (see DECISIONS.md).
"""

from __future__ import annotations

import logging
import socket
import ssl
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from cipherfleet_node.bounded_mqtt import BoundedClient
from cipherfleet_node.core.wire import MAX_MESSAGE_BYTES
from cipherfleet_node.settings.sections import Broker

from .back_off import BackOff

log = logging.getLogger(__name__)

KEEPALIVE_S = 15
MAX_INFLIGHT = 64  # published messages that the broker has not acknowledged yet
MAX_QUEUED = 512  # published messages that wait, those in flight included
ASKED_AGAIN_S = 5.0  # after a refused subscription; a cluster of brokers may have no majority now
STALLED_S = 30.0  # without an acknowledgement: the network thread or the broker hangs
# An invalid certificate needs the operator. After so many refusals in a row the node gives up.
REFUSED_CONNECTIONS = 3


@dataclass(frozen=True, repr=False)
class Arrived:
    """An unchecked message on a topic."""

    topic: str
    payload: bytes
    retained: bool
    at: float  # monotonic seconds


@dataclass(frozen=True)
class LinkUp:
    """The client is connected, and all subscriptions are acknowledged."""


@dataclass(frozen=True)
class LinkDown:
    """The connection is lost; the client connects again by itself."""


@dataclass(frozen=True)
class LinkRefused:
    """TLS has failed several times in a row since the start; *reason* has the remedy."""

    reason: str


@dataclass
class Sent:
    """A published message, and its acknowledgement by the broker. Monotonic seconds."""

    at: float
    acknowledged: float | None = None

    @property
    def acknowledged_ms(self) -> float | None:
        """The time until the acknowledgement, None before it."""
        if self.acknowledged is None:
            return None
        return round(1000.0 * (self.acknowledged - self.at), 4)

    def unacknowledged_s(self, began: float, ended: float) -> float:
        """Return the part of the time from *began* to *ended* without an acknowledgement."""
        until = ended if self.acknowledged is None else min(ended, self.acknowledged)
        return max(0.0, until - max(began, self.at))


LinkEvent = Arrived | LinkUp | LinkDown | LinkRefused


def set_no_delay(_client: object, _userdata: object, sock: object) -> None:
    """Set TCP_NODELAY, as a callback for paho's on_socket_open; paho has no option for it.

    Nagle's algorithm would delay small packets: a round trip takes 92 ms instead of 1.3 ms.
    """
    if isinstance(sock, socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Link:
    """An MQTT client that calls *deliver* with every event, from its own thread.

    It subscribes to the topics *before* in a packet of their own, ahead of *topics*. A broker
    handles the packets of a client in order, so what it has retained on *before* is delivered ahead
    of `LinkUp`. Brokers that look up retained messages in the background are the exception.
    """

    def __init__(
        self,
        client_id: str,
        broker: Broker,
        topics: Sequence[str],
        will: tuple[str, bytes] | None,
        deliver: Callable[[LinkEvent], None],
        context: ssl.SSLContext | None = None,
        *,
        before: Sequence[str] = (),
    ) -> None:
        self._broker, self._deliver = broker, deliver
        self._packets = [list(each) for each in (before, topics) if each]
        # The topics of subscriptions that are not yet acknowledged, by message id.
        self._pending: dict[int, list[str]] = {}
        self._subscribing = threading.Lock()  # acknowledgements wait until all packets are sent
        self._subscribe_at: float | None = None  # time of the next try after a refusal
        self._connected_at = 0.0
        self._accepted = self._refused = False  # by the broker, since the socket was opened
        self._fault = ""  # the latest error that paho has logged
        self._back_off = BackOff()
        self._refusals: int | None = 0  # of certificates, in a row; None once the broker accepted
        self._unacknowledged: deque[tuple[Sent, paho.MQTTMessageInfo]] = deque()
        self._sent: dict[int, Sent] = {}  # the same, by message id, for paho's thread
        client = BoundedClient(CallbackAPIVersion.VERSION2, client_id, clean_session=True)
        if context is not None:
            client.tls_set_context(context)
            client.on_log = self._logged
        if will is not None:
            client.will_set(will[0], will[1], qos=1, retain=True)
        client.max_inflight_messages_set(MAX_INFLIGHT)
        client.max_queued_messages_set(MAX_QUEUED)
        client.on_socket_open = self._socket_open
        client.on_connect = self._connected
        client.on_connect_fail = self._connect_failed
        client.on_subscribe = self._subscribed
        client.on_message = self._message
        client.on_publish = self._published
        client.on_disconnect = self._disconnected
        self._client = client
        self.bytes_sent = self.bytes_received = 0
        self.messages_sent = self.messages_received = 0

    def start(self) -> None:
        """Start the thread, which connects and reconnects until `stop`."""
        self._client.connect_async(self._broker.host, self._broker.port, KEEPALIVE_S)
        self._client.loop_start()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> Sent | None:
        """Publish at QoS 1 if connected, else return None; the rounds repeat lost messages."""
        if not self._client.is_connected():
            return None
        sent = Sent(time.monotonic())
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        self._sent[info.mid] = sent
        self._unacknowledged.append((sent, info))
        self.bytes_sent += len(payload)
        self.messages_sent += 1
        self._forget_acknowledged()
        return sent

    def is_alive(self, now: float) -> bool:
        """True unless the network thread hangs: a sent message is not acknowledged for too long."""
        self._forget_acknowledged()
        if not self._unacknowledged or not self._client.is_connected():
            return True
        return now - self._unacknowledged[0][0].at < STALLED_S

    def resubscribe_if_due(self, now: float) -> None:
        """Try a refused subscription again if it is time."""
        if self._subscribe_at is not None and now >= self._subscribe_at:
            self._subscribe()

    def stop(self, within_s: float) -> None:
        """Disconnect, after waiting up to *within_s* until all messages are acknowledged.

        Without a connection nothing is awaited: the client must not connect once more, since a
        device with the same identity may hold the connection now.
        """
        deadline = time.monotonic() + within_s
        while self._unacknowledged and time.monotonic() < deadline and self._client.is_connected():
            self._forget_acknowledged()
            time.sleep(0.01)
        self._client.disconnect()
        self._client.loop_stop()

    def _forget_acknowledged(self) -> None:
        """Remove the messages at the front that are acknowledged or that paho has given up."""
        while self._unacknowledged:
            sent, info = self._unacknowledged[0]
            if info.rc == paho.MQTT_ERR_SUCCESS and not info.is_published():
                return
            self._unacknowledged.popleft()
            self._sent.pop(info.mid, None)
            if sent.acknowledged is None:  # acknowledged before its id was known, or given up
                sent.acknowledged = time.monotonic()

    # -- in paho's thread: an exception would end it silently, so this code does little ----------

    def _socket_open(self, _client: paho.Client, _userdata: Any, sock: Any) -> None:
        set_no_delay(_client, _userdata, sock)
        self._accepted = self._refused = False
        self._fault = ""

    def _connected(
        self,
        _client: paho.Client,
        _userdata: Any,
        _flags: paho.ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            log.warning("the broker refuses this node: %s; trying again", reason)
            self._refused = True
            return
        self._back_off.accepted()
        self._accepted, self._refusals = True, None
        self._connected_at = time.monotonic()
        self._subscribe()

    def _subscribe(self) -> None:
        with self._subscribing:
            self._subscribe_at, self._pending = None, {}
            for packet in self._packets:
                result, mid = self._client.subscribe([(topic, 0) for topic in packet])
                if result == paho.MQTT_ERR_SUCCESS and mid is not None:
                    self._pending[mid] = packet

    def _subscribed(
        self,
        _client: paho.Client,
        _userdata: Any,
        mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        with self._subscribing:
            packet = self._pending.pop(mid, None)
        if packet is None:
            return
        refused = [t for t, r in zip(packet, reasons, strict=False) if r.is_failure]
        if refused:
            text = "the broker refuses the subscription of %s; trying again"
            log.warning(text, ", ".join(refused))
            self._subscribe_at = time.monotonic() + ASKED_AGAIN_S
        elif not self._pending and self._subscribe_at is None:
            self._deliver(LinkUp())

    def _message(self, _client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""  # not one of our topics: decoding the payload refuses it
        # A payload over the limit is cut to one byte over it: it is still refused as too long.
        payload = bytes(message.payload[: MAX_MESSAGE_BYTES + 1])
        self.bytes_received += len(payload)
        self.messages_received += 1
        self._deliver(Arrived(topic, payload, message.retain, time.monotonic()))

    def _published(
        self,
        _client: paho.Client,
        _userdata: Any,
        mid: int,
        _reason: ReasonCode,
        _properties: Properties,
    ) -> None:
        sent = self._sent.get(mid)
        if sent is not None and sent.acknowledged is None:
            sent.acknowledged = time.monotonic()

    def _connect_failed(self, _client: paho.Client, _userdata: Any) -> None:
        # paho calls this within its exception handler and does not pass the exception.
        error = sys.exception()
        self._wait_before_next(is_reached=isinstance(error, ssl.SSLError | ConnectionResetError))
        where = f"{self._broker.host}:{self._broker.port}"
        if isinstance(error, ssl.SSLCertVerificationError):
            log.warning(
                "not trusting the broker at %s: %s; trying again", where, error.verify_message
            )
            self._count_refusal(
                f"not trusting the broker at {where}: {error.verify_message}; check that "
                "tls/ca.pem is of its fleet and broker.host a name in its certificate, or get the "
                "bundle again from provisioning"
            )
        elif isinstance(error, ssl.SSLError):
            log.warning("no TLS with the broker at %s: %s; trying again", where, error.reason)
        else:
            log.warning("no broker at %s; trying again", where)

    def _count_refusal(self, reason: str) -> None:
        if self._refusals is not None:
            self._refusals += 1
            if self._refusals == REFUSED_CONNECTIONS:
                self._deliver(LinkRefused(reason))

    def _logged(self, _client: paho.Client, _userdata: Any, level: int, text: str) -> None:
        if level == paho.MQTT_LOG_ERR:
            self._fault = text

    def _disconnected(
        self,
        _client: paho.Client,
        _userdata: Any,
        _flags: paho.DisconnectFlags,
        _reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if not self._accepted:
            self._wait_before_next(is_reached=not self._refused)
            if not self._refused:
                self._report_rejection()
            return
        self._accepted, self._subscribe_at = False, None
        self._wait_before_next(is_reached=True, lasted_s=time.monotonic() - self._connected_at)
        self._deliver(LinkDown())

    def _report_rejection(self) -> None:
        where = f"{self._broker.host}:{self._broker.port}"
        fault = self._fault or "it closed the connection"
        log.warning("the broker at %s does not accept this node (%s); trying again", where, fault)
        if "alert" in self._fault.lower():
            self._count_refusal(
                f"the broker at {where} refuses tls/node.pem ({self._fault}); get the folder tls "
                "again from provisioning"
            )

    def _wait_before_next(self, *, is_reached: bool, lasted_s: float = 0.0) -> None:
        """Set the time that paho waits before the next connection."""
        delay_s = self._back_off.dropped(lasted_s) if is_reached else self._back_off.refused()
        # paho takes any number of seconds; equal limits make it wait exactly so long.
        self._client.reconnect_delay_set(delay_s, delay_s)  # type: ignore[arg-type]
