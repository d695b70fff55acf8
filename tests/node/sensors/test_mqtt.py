"""The sensor `mqtt`, at a real mosquitto, with messages of the programs that publish readings."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as paho
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from cipherfleet_broker import RunningBroker, start_broker
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.sensors import open_sensor
from cipherfleet_node.sensors.mqtt import MqttTopics, read_time, says_offline
from cipherfleet_node.sensors.payloads import MAX_PAYLOAD_BYTES, PayloadError
from cipherfleet_node.settings.sections import MqttSensor
from tests.support.paths import ROOT

MESSAGES = yaml.safe_load((ROOT / "tests" / "data" / "mqtt_messages.yaml").read_text())
WAIT_S = 60.0  # for what takes milliseconds on an idle machine
SOON_S = 0.3  # for what must not come
FLEET_BROKER = ("127.0.0.1", 1)
needs_mosquitto = pytest.mark.skipif(
    shutil.which("mosquitto") is None,
    reason="mosquitto is not installed: apt-get install mosquitto",
)


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with start_broker("mosquitto") as running:
        yield running


@pytest.fixture
def publish(broker: RunningBroker) -> Iterator[Callable[..., None]]:
    """Publish a message, and remove those that are retained afterwards."""
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    retained: set[str] = set()

    def send(topic: str, payload: bytes | str, *, retain: bool = False) -> None:
        retained.update([topic] if retain else [])
        client.publish(topic, payload, 1, retain=retain).wait_for_publish(WAIT_S)

    yield send
    for topic in retained:
        send(topic, b"", retain=True)
    client.disconnect()
    client.loop_stop()


def publish_once(port: int, topic: str, payload: str) -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.publish(topic, payload, 1).wait_for_publish(WAIT_S)
    client.disconnect()
    client.loop_stop()


def config_of(port: int, fields: dict[str, Any], **changes: Any) -> MqttSensor:
    return msgspec.convert(
        {"port": port, "fields": fields, "timeout_s": WAIT_S, **changes}, MqttSensor
    )


def opened(port: int, fields: dict[str, Any], **changes: Any) -> MqttTopics:
    return MqttTopics(config_of(port, fields, **changes), Path(), list(fields), FLEET_BROKER)


class Reader:
    """Read in a thread, since the first read waits for messages."""

    def __init__(self, sensor: MqttTopics) -> None:
        self.samples: list[Sample] = []
        self.complaint = ""
        self._thread = threading.Thread(target=self._read, args=(sensor,))
        self._thread.start()

    def _read(self, sensor: MqttTopics) -> None:
        try:
            self.samples = sensor.read()
        except SensorUnavailable as error:
            self.complaint = str(error)

    def has_ended(self, within_s: float) -> bool:
        self._thread.join(within_s)
        return not self._thread.is_alive()


def complaint_of(sensor: MqttTopics) -> str:
    with pytest.raises(SensorUnavailable) as caught:
        sensor.read()
    return str(caught.value)


def await_read(sensor: MqttTopics, condition: Callable[[list[Sample] | str], bool]) -> Any:
    """Read until the result fulfils *condition*: a message needs time to come."""
    for _ in range(int(WAIT_S / 0.02)):
        try:
            result: list[Sample] | str = sensor.read()
        except SensorUnavailable as error:
            result = str(error)
        if condition(result):
            return result
        time.sleep(0.02)
    raise AssertionError(f"not within {WAIT_S:g} s, at last: {result}")


def subscribed(sensor: MqttTopics, publish: Callable[..., None], topic: str, payload: str) -> Any:
    """Let the sensor connect, and publish *payload* until it returns a first sample."""
    reader = Reader(sensor)
    while not reader.has_ended(0.05):
        publish(topic, payload)
    assert reader.samples, reader.complaint
    return reader.samples


@needs_mosquitto
@pytest.mark.parametrize("program", MESSAGES)
def test_the_messages_of_a_program_are_read_until_it_says_that_the_device_is_offline(
    broker: RunningBroker, publish: Callable[..., None], program: str
) -> None:
    case = MESSAGES[program]
    place = case["availability"]
    publish(place["topic"], place["online"], retain=True)
    with closing(opened(broker.port, case["fields"], availability=[place["topic"]])) as sensor:
        payload = case["payload"].replace("{now}", datetime.now(UTC).isoformat())
        (sample,) = subscribed(sensor, publish, case["topic"], payload)
        assert sample.values == case["expected"]
        assert 0 <= sample.age_s < WAIT_S
        publish(place["topic"], place["offline"], retain=True)
        complaint = await_read(sensor, lambda result: isinstance(result, str))
        assert complaint.endswith(f"{place['topic']!r} says that the device is offline")
        publish(place["topic"], place["online"], retain=True)
        await_read(sensor, lambda result: not isinstance(result, str))


@needs_mosquitto
def test_each_message_gives_one_sample(broker: RunningBroker, publish: Callable[..., None]) -> None:
    with closing(opened(broker.port, {"t": {"topic": "one/t"}})) as sensor:
        subscribed(sensor, publish, "one/t", "1")
        await_read(sensor, lambda result: result == [])  # what was published more than once
        assert sensor.read() == []
        publish("one/t", "2")
        assert await_read(sensor, bool)[0].values == {"t": 2.0}
        assert sensor.read() == []


@needs_mosquitto
def test_a_retained_message_of_unknown_age_does_not_count_and_a_live_one_does(
    broker: RunningBroker, publish: Callable[..., None]
) -> None:
    publish("old/t", "1", retain=True)
    with closing(opened(broker.port, {"t": {"topic": "old/t"}}, timeout_s=SOON_S)) as sensor:
        complaint = await_read(sensor, lambda result: "retained" in result)
        assert "'old/t' has only a retained message, which is of unknown age" in complaint
        publish("old/t", "2", retain=True)  # delivered as a live one to who is there
        assert await_read(sensor, lambda r: isinstance(r, list))[0].values == {"t": 2.0}


@needs_mosquitto
@pytest.mark.parametrize("style", ["ISO_8601", "ISO_8601_local", "epoch", "seconds"])
def test_a_retained_message_counts_if_it_says_when_it_was_measured(
    broker: RunningBroker, publish: Callable[..., None], style: str
) -> None:
    measured = datetime.now(UTC) - timedelta(seconds=100)
    last_seen = {
        "ISO_8601": measured.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "ISO_8601_local": measured.astimezone(timezone(timedelta(hours=2))).isoformat(),
        "epoch": int(1000 * measured.timestamp()),
        "seconds": measured.timestamp(),
    }[style]
    payload = msgspec.json.encode({"t": 21, "last_seen": last_seen})
    publish("seen/t", payload, retain=True)
    field = {"topic": "seen/t", "path": "t", "last_seen": "last_seen"}
    with closing(opened(broker.port, {"t": field}, max_age_s=3600)) as sensor:
        (sample,) = sensor.read()
        assert sample.values == {"t": 21.0}
        assert 99 <= sample.age_s < 100 + WAIT_S + 1
    with closing(opened(broker.port, {"t": field}, max_age_s=90)) as sensor:
        assert "the latest reading of 'seen/t' is older than 90 s" in complaint_of(sensor)


@needs_mosquitto
def test_a_time_in_the_future_or_without_a_zone_is_refused(
    broker: RunningBroker, publish: Callable[..., None]
) -> None:
    field = {"topic": "time/t", "path": "t", "last_seen": "Time"}
    late = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    for time_, words in (
        (late, "in the future; set the clocks of this machine and of the gateway"),
        ("2026-11-27T10:15:00", "a time without a time zone"),
        ("yesterday", "not a time in ISO 8601"),
        (None, "not a time"),
    ):
        publish("time/t", msgspec.json.encode({"t": 21, "Time": time_}), retain=True)
        with closing(opened(broker.port, {"t": field})) as sensor:
            expected = f"'time/t' sent JSON in which 'Time' is {words}"
            assert complaint_of(sensor).endswith(expected)


@needs_mosquitto
def test_a_reading_becomes_stale_by_the_nodes_own_clock(
    broker: RunningBroker, publish: Callable[..., None]
) -> None:
    with closing(opened(broker.port, {"t": {"topic": "stale/t"}}, max_age_s=0.2)) as sensor:
        reader = Reader(sensor)
        while not reader.has_ended(0.02):
            publish("stale/t", "1")
        time.sleep(0.3)
        assert "the latest reading of 'stale/t' is older than 0.2 s" in complaint_of(sensor)
        assert "unknown" not in complaint_of(sensor)


@needs_mosquitto
def test_a_field_waits_for_the_topics_of_all_others(
    broker: RunningBroker, publish: Callable[..., None]
) -> None:
    fields = {"t": {"topic": "two/t"}, "rh": {"topic": "two/rh"}}
    with closing(opened(broker.port, fields, timeout_s=SOON_S)) as sensor:
        complaint_of(sensor)  # connects
        publish("two/t", "20")
        complaint = await_read(sensor, lambda result: "two/rh" in result)
        assert "'two/rh' has no message since this node has connected" in complaint
        publish("two/t", "21")
        publish("two/rh", "50")
        assert await_read(sensor, lambda r: isinstance(r, list))[0].values == {"t": 21, "rh": 50}


@needs_mosquitto
@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ("23.75 degrees", "sent 13 bytes that are not one number"),
        ("nan", "sent 3 bytes that are not one number"),
        ("9" * 300, "sent 300 bytes that are not one number"),
        ("1" * (MAX_PAYLOAD_BYTES + 1), f"sent {MAX_PAYLOAD_BYTES + 1} bytes"),
    ],
)
def test_a_message_without_a_number_is_refused_and_not_shown(
    broker: RunningBroker, publish: Callable[..., None], payload: str, words: str
) -> None:
    with closing(opened(broker.port, {"t": {"topic": "odd/t"}})) as sensor:
        reader = Reader(sensor)
        while not reader.has_ended(0.05):
            publish("odd/t", payload)
        assert f"'odd/t' {words}" in reader.complaint
        assert "23.75" not in reader.complaint


@needs_mosquitto
def test_many_messages_take_the_memory_of_one(
    broker: RunningBroker, publish: Callable[..., None]
) -> None:
    with closing(opened(broker.port, {"t": {"topic": "many/t"}})) as sensor:
        subscribed(sensor, publish, "many/t", "1")
        for number in range(200):
            publish("many/t", f"{number}" + " " * 60_000)
        publish("many/t", "200")
        await_read(sensor, lambda r: isinstance(r, list) and bool(r) and r[0].values["t"] == 200)
        assert len(sensor._live) == 1
        assert sum(len(each.payload) for each in sensor._live.values()) < MAX_PAYLOAD_BYTES


@needs_mosquitto
def test_a_value_outside_its_limits_is_withheld(
    broker: RunningBroker, publish: Callable[..., None]
) -> None:
    fields = {"t": {"topic": "limit/t"}}
    with closing(opened(broker.port, fields, limits={"t": [-40, 60]})) as sensor:
        reader = Reader(sensor)
        while not reader.has_ended(0.05):
            publish("limit/t", "85")
        assert reader.complaint.endswith("t is outside its limits [-40, 60]")


@needs_mosquitto
def test_readings_come_again_after_the_broker_was_away() -> None:
    with (
        start_broker("mosquitto") as own,
        closing(opened(own.port, {"t": {"topic": "back/t"}}, timeout_s=SOON_S)) as sensor,
    ):
        await_read(sensor, lambda result: "has no message" in result)
        own.kill()
        await_read(sensor, lambda result: "the broker has ended" in result)
        own.restart()
        await_read(sensor, lambda result: "has no message" in result)
        publish_once(own.port, "back/t", "4")
        assert await_read(sensor, lambda r: isinstance(r, list))[0].values == {"t": 4.0}


def test_a_broker_that_is_not_there_is_named() -> None:
    with closing(opened(9, {"t": {"topic": "t"}}, timeout_s=SOON_S)) as sensor:
        assert await_read(sensor, lambda r: "reached" in r).endswith("cannot be reached")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_address_of_the_fleets_broker_is_refused(host: str) -> None:
    config = config_of(1883, {"t": {"topic": "t"}}, host=host)
    with closing(MqttTopics(config, Path(), ["t"], ("127.0.0.1", 1883))) as sensor:
        complaint = complaint_of(sensor)
    assert "is the broker of the fleet, whose operator would read the readings" in complaint


def test_a_missing_file_and_a_missing_field_are_errors_of_the_settings(tmp_path: Path) -> None:
    config = config_of(1, {"t": {"topic": "t"}}, user="u", password_file="absent.txt")
    with pytest.raises(ConfigError, match=r"absent\.txt cannot be read: No such file"):
        open_sensor(config, tmp_path, ["t"])
    with pytest.raises(ConfigError, match="needs 'rh', the sensor has 't'"):
        open_sensor(config_of(1, {"t": {"topic": "t"}}), tmp_path, ["rh"])


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"offline", True), (b"Offline", True), (b" OFFLINE\n", True), (b'"offline"', True),
        (b'{"state":"offline"}', True), (b"false", True), (b"lost", True),
        (b"online", False), (b'{"state":"online"}', False), (b"true", False), (b"", False),
        (b'{"status":"offline"}', False), (b"[1]", False), (b"\xff", False), (b"[" * 9999, False),
    ],
)  # fmt: skip
def test_words_of_availability(payload: bytes, expected: bool) -> None:
    assert says_offline(payload) == expected


@settings(deadline=None, max_examples=100)
@given(payload=st.binary(max_size=100))
def test_any_bytes_of_availability_are_offline_or_not(payload: bytes) -> None:
    assert says_offline(payload) in (True, False)


@settings(deadline=None, max_examples=100)
@given(
    value=st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.none())
)
def test_any_value_is_a_time_or_a_payload_error(value: object) -> None:
    with suppress(PayloadError):
        assert isinstance(read_time(value, "'t'"), float)
