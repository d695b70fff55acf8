"""A sensor whose readings other programs publish at an MQTT broker of the owner's own.

**Age.** A reading is as old as its message, by the node's own clock since it came. A retained
message is of unknown age: the broker delivers at once what may be weeks old. It counts only if the
field has `last_seen`, the place of the time of the measurement in the message.

**Availability.** Gateways publish, often as a last will, whether a device is there. While one of
these topics says that it is not, there is no reading.

**Never the broker of the fleet**: its operator could read there what the fleet hides from it.

The client has its own thread and connects again by itself. Of each topic the latest message is
kept.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from cipherfleet_node.bounded_mqtt import BoundedClient
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.own_broker import (
    BrokerNotUsable,
    follow_connection,
    refuse_same_broker,
    secure,
)
from cipherfleet_node.settings.sections import MqttField, MqttSensor

from .base import check_fields, check_plausible
from .payloads import (
    MAX_PAYLOAD_BYTES,
    PayloadError,
    describe,
    number_at,
    read_json,
    read_plain,
    value_at,
)

KEEPALIVE_S = 30
RECONNECT_S = (1, 120)  # the shortest and the longest delay
FUTURE_S = 120.0  # by so much the clock of a gateway may be ahead of the node's
MILLISECONDS = 1e11  # a larger number is not a time in seconds: it would be in the year 5138
# What is published for a device that is away: zigbee2mqtt, ESPHome, Tasmota, Shelly and Homie.
OFFLINE = frozenset({"offline", "false", "disconnected", "lost"})


@dataclass(frozen=True, repr=False)
class _Message:
    payload: bytes
    at: float  # monotonic seconds
    number: int  # of all messages since the start


class MqttTopics:
    """Return the newest number of each field's topic, once for each new message.

    The first read connects. A read waits up to timeout_s while a topic has no message yet.
    """

    def __init__(
        self,
        config: MqttSensor,
        folder: Path,
        needed: Collection[str],
        fleet_broker: tuple[str, int] | None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.fields = tuple(config.fields)
        self._config, self._fleet_broker, self._wall_clock = config, fleet_broker, wall_clock
        self._who = f"mqtt at {config.host}:{config.port}"
        check_fields(self._who, self.fields, needed, config.limits)
        self._topics = {field.topic for field in config.fields.values()}
        self._news = threading.Condition()
        self._live: dict[str, _Message] = {}  # by topic, the latest
        self._retained: dict[str, _Message] = {}
        self._offline: set[str] = set()  # topics of availability
        self._count = 0  # messages since the start
        self._returned = 0  # the number of the newest message in the latest sample
        self._problem = "is not connected yet"
        self._is_started = False
        self._client = BoundedClient(CallbackAPIVersion.VERSION2, clean_session=True)
        self._client.reconnect_delay_set(*RECONNECT_S)
        try:
            secure(self._client, config, folder)
        except BrokerNotUsable as error:
            raise ConfigError(f"{self._who}: {error.text}") from None
        follow_connection(self._client, self._connected, self._set_problem, self._note_end)
        self._client.on_subscribe = self._subscribed
        self._client.on_message = self._heard

    def read(self) -> list[Sample]:
        """Return a sample if a message is new; SensorUnavailable if a field has no fresh number."""
        self._connect()
        with self._news:
            self._news.wait_for(self._is_complete, self._config.timeout_s)
            messages = {name: self._message(field) for name, field in self._config.fields.items()}
            offline, problem = sorted(self._offline), self._problem
        if offline:
            raise SensorUnavailable(f"{self._who}: {offline[0]!r} says that the device is offline")
        values: dict[str, float] = {}
        ages: list[float] = []
        for name, message in messages.items():
            field = self._config.fields[name]
            if message is None:
                raise SensorUnavailable(self._describe_silence(field.topic, problem))
            try:
                values[name], age_s = self._extract(field, message)
            except PayloadError as error:
                text = f"{self._who}: {field.topic!r} {error.text}"
                raise SensorUnavailable(text, remedy=error.remedy) from None
            if age_s > self._config.max_age_s:
                limit = f"{self._config.max_age_s:g} s"
                text = f"the latest reading of {field.topic!r} is older than {limit}"
                raise SensorUnavailable(
                    f"{self._who}: {text}{problem and f': the broker {problem}'}"
                )
            ages.append(age_s)
        check_plausible(self._who, values, self._config.limits)
        newest = max(message.number for message in messages.values() if message is not None)
        if newest == self._returned:
            return []
        self._returned = newest
        return [Sample(values, max(ages))]

    def close(self) -> None:
        """Disconnect."""
        if self._is_started:
            self._client.disconnect()
            self._client.loop_stop()

    def _connect(self) -> None:
        """Begin to connect, unless the broker is that of the fleet."""
        if self._is_started:
            return
        where = (self._config.host, self._config.port)
        if self._fleet_broker is not None:
            try:
                refuse_same_broker(where, self._fleet_broker, "the readings")
            except BrokerNotUsable as error:
                raise SensorUnavailable(f"{self._who}: {error}") from None
        self._client.connect_async(*where, KEEPALIVE_S)
        self._client.loop_start()
        self._is_started = True

    def _is_complete(self) -> bool:
        fields = self._config.fields.values()
        return bool(self._offline) or all(self._message(field) is not None for field in fields)

    def _message(self, field: MqttField) -> _Message | None:
        """Return the latest message that counts for *field*."""
        live = self._live.get(field.topic)
        if field.last_seen is None:
            return live
        found = [each for each in (live, self._retained.get(field.topic)) if each is not None]
        return max(found, key=lambda message: message.number, default=None)

    def _extract(self, field: MqttField, message: _Message) -> tuple[float, float]:
        """Return the number of *field* and its age in seconds; raises PayloadError."""
        age_s = time.monotonic() - message.at
        if field.path is None and field.last_seen is None:
            return read_plain(message.payload), age_s
        document = read_json(message.payload)
        if field.last_seen is not None:
            place = describe(field.last_seen)
            age_s = self._wall_clock() - read_time(value_at(document, field.last_seen), place)
            if age_s < -FUTURE_S:
                raise PayloadError(
                    f"sent JSON in which {place} is in the future",
                    remedy="set the clocks of this machine and of the gateway",
                )
        return number_at(document, () if field.path is None else field.path), max(0.0, age_s)

    def _describe_silence(self, topic: str, problem: str) -> str:
        if problem:
            return f"{self._who}: the broker {problem}"
        if topic in self._retained:
            return (
                f"{self._who}: {topic!r} has only a retained message, which is of unknown age; "
                "wait for the next one, or name the place of its time in last_seen"
            )
        return f"{self._who}: {topic!r} has no message since this node has connected"

    # -- in paho's thread -------------------------------------------------------------------------

    def _connected(self) -> None:
        self._set_problem("")
        wanted = dict.fromkeys((*sorted(self._topics), *self._config.availability))
        self._client.subscribe([(topic, 0) for topic in wanted])

    def _subscribed(
        self,
        _client: paho.Client,
        _userdata: Any,
        _mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            self._set_problem("refuses a subscription of this node")

    def _note_end(self, problem: str) -> None:
        if not self._problem:  # otherwise it says more
            self._set_problem(problem)

    def _set_problem(self, problem: str) -> None:
        with self._news:
            self._problem = problem

    def _heard(self, _client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        payload = bytes(message.payload[: MAX_PAYLOAD_BYTES + 1])
        with self._news:
            if topic in self._config.availability:
                self._offline -= {topic}
                self._offline |= {topic} if says_offline(payload) else set()
            if topic in self._topics:
                self._count += 1
                kept = self._retained if message.retain else self._live
                kept[topic] = _Message(payload, time.monotonic(), self._count)
            self._news.notify_all()


def says_offline(payload: bytes) -> bool:
    """True if the *payload* of an availability topic says that the device is away.

    It is a word, or an object with the word as `state`. Other words say nothing.
    """
    document: object
    try:
        document = msgspec.json.decode(payload[:MAX_PAYLOAD_BYTES])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = payload[:MAX_PAYLOAD_BYTES].decode("utf-8", "replace")
    if isinstance(document, Mapping):
        document = document.get("state")
    return str(document).strip().casefold() in OFFLINE


def read_time(value: object, place: str) -> float:
    """Return the time of *value*, the content of *place*, in seconds since 1970.

    It is a text in ISO 8601 with a time zone, or a number of seconds or of milliseconds.
    """
    if isinstance(value, str):
        try:
            time_ = datetime.fromisoformat(value)
            if time_.tzinfo is None:
                raise PayloadError(f"sent JSON in which {place} is a time without a time zone")
            return time_.timestamp()
        except (ValueError, OverflowError):
            raise PayloadError(f"sent JSON in which {place} is not a time in ISO 8601") from None
    if type(value) in (int, float):
        assert isinstance(value, int | float)
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
        if math.isfinite(seconds):
            return seconds / 1000 if abs(seconds) > MILLISECONDS else seconds
    raise PayloadError(f"sent JSON in which {place} is not a time")
