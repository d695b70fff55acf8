"""A client that keeps every message that a broker delivers to it."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion


@dataclass(frozen=True)
class Heard:
    """One message."""

    topic: str
    payload: bytes
    retained: bool


@dataclass
class MqttReader:
    """The messages in the order in which they came."""

    messages: list[Heard] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)

    def hear(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        with self.news:
            self.messages.append(Heard(message.topic, bytes(message.payload), message.retain))
            self.news.notify_all()

    def of(self, topic: str) -> list[bytes]:
        """The payloads on *topic*."""
        return [each.payload for each in self.messages if each.topic == topic]

    def wait(self, condition: Callable[[], bool], what: str, within_s: float = 120.0) -> None:
        """Wait until *condition* is true of the messages."""
        with self.news:
            assert self.news.wait_for(condition, within_s), f"no {what} within {within_s:g} s"


@contextmanager
def reading(
    port: int,
    topic: str = "#",
    context: ssl.SSLContext | None = None,
    who: tuple[str, str] | None = None,
) -> Iterator[MqttReader]:
    """Read what the broker on this machine's *port* has retained on *topic*, and what comes.

    *who* is a user with its password.
    """
    reader, is_ready = MqttReader(), threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.on_message = reader.hear
    if context is not None:
        client.tls_set_context(context)
    if who is not None:
        client.username_pw_set(*who)

    def subscribe(client: paho.Client, *_: object) -> None:
        client.subscribe(topic, 1)

    client.on_connect = subscribe
    client.on_subscribe = lambda *_: is_ready.set()
    client.connect_async("127.0.0.1", port)
    client.loop_start()
    try:
        assert is_ready.wait(60.0), "the reader has not connected"
        yield reader
    finally:
        client.disconnect()
        client.loop_stop()
