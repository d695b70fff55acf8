"""The output `mqtt`, at a real mosquitto of the owner's."""

from __future__ import annotations

import json
import logging
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cipherfleet_broker import RunningBroker, start_broker
from cipherfleet_broker.die_with_parent import die_with_parent
from cipherfleet_broker.mosquitto import find_mosquitto
from cipherfleet_node.outputs.answer import Answer
from cipherfleet_node.outputs.homeassistant import discovery, safe_key
from cipherfleet_node.outputs.mqtt import AnswerBroker
from cipherfleet_node.outputs.publisher import OutputFailed
from cipherfleet_node.own_broker import BrokerNotUsable, refuse_same_broker
from cipherfleet_node.settings.sections import AnswerMqtt
from cipherfleet_provisioning.certificates import issue_broker, make_authority
from tests.support.daemons import open_daemons
from tests.support.mqtt_reader import reading

from .test_command import FULL
from .test_daemons import READINGS, SENSOR, write_readings

TOPIC, AVAILABILITY = "home/trial/n1", "home/trial/n1/availability"
WHOSE, FLEET_BROKER = ("trial", "n1"), ("127.0.0.1", 1)
# Publishes one answer and stays.
PUBLISHER = """
import sys, time
from pathlib import Path
from tests.node.outputs.test_mqtt import opened, FULL
opened(int(sys.argv[1]), Path()).publish(FULL)
time.sleep(600)
"""
needs_mosquitto = pytest.mark.skipif(
    shutil.which("mosquitto") is None, reason="mosquitto is not installed"
)


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with start_broker("mosquitto") as running:
        yield running


def settings(port: int, **changes: object) -> AnswerMqtt:
    return msgspec.convert({"port": port, "topic": "home/{fleet}/{node}", **changes}, AnswerMqtt)


def opened(port: int, folder: Path, **changes: object) -> AnswerBroker:
    return AnswerBroker(settings(port, **changes), WHOSE, folder, FLEET_BROKER)


def as_json(answer: Answer) -> bytes:
    return msgspec.json.encode(answer)


@needs_mosquitto
def test_answers_are_retained_and_the_broker_says_whether_the_node_is_there(
    broker: RunningBroker, tmp_path: Path
) -> None:
    output = opened(broker.port, tmp_path)
    with reading(broker.port, "home/#") as live:
        output.publish(FULL)
        live.wait(lambda: bool(live.of(TOPIC)), "answer")
        assert live.of(AVAILABILITY)[-1] == b"online"
    with reading(broker.port, "home/#") as later:
        later.wait(lambda: len(later.messages) == 2, "retained messages")
        assert all(each.retained for each in later.messages)
        assert later.of(TOPIC) == [as_json(FULL)]
        output.close()
        later.wait(lambda: later.of(AVAILABILITY)[-1] == b"offline", "offline")
    assert not [each for each in later.messages if each.topic.startswith("homeassistant")]


@needs_mosquitto
def test_the_broker_says_offline_when_the_node_is_killed(broker: RunningBroker) -> None:
    command = [sys.executable, "-c", PUBLISHER, str(broker.port)]
    with (
        reading(broker.port, AVAILABILITY) as live,
        subprocess.Popen(command) as publisher,
    ):
        live.wait(lambda: b"online" in live.of(AVAILABILITY), "online")
        publisher.send_signal(signal.SIGKILL)
        live.wait(lambda: live.of(AVAILABILITY)[-1] == b"offline", "last will")


@needs_mosquitto
def test_the_latest_answer_is_sent_when_a_broker_comes_back_and_the_log_has_one_line_per_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with start_broker("mosquitto") as own:
        output = opened(own.port, tmp_path)
        with reading(own.port, TOPIC) as live:
            output.publish(FULL)
            live.wait(lambda: bool(live.of(TOPIC)), "answer")
        own.kill()
        gone = threading.Event()
        for number in range(6):  # for longer than the first delay
            output.publish(msgspec.structs.replace(FULL, round=number))
            gone.wait(0.5)
        own.restart()
        with reading(own.port, TOPIC) as live:
            live.wait(lambda: bool(live.of(TOPIC)), "answer of after the restart")
            assert json.loads(live.of(TOPIC)[-1])["round"] == 5
        output.close()
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("answer.mqtt")]
    where = f"127.0.0.1:{own.port}"
    assert len(lines) == 3
    assert lines[0] == lines[2] == f"answer.mqtt: connected to the broker at {where}"
    assert lines[1].startswith(f"answer.mqtt: the broker at {where} ")


def test_a_broker_that_is_not_there_delays_nothing_and_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        output = opened(9, tmp_path)  # the port of `discard`, which nobody serves
        for place in range(600):
            output.publish(FULL)
            threading.Event().wait(0.1)
            if caplog.records and place > 15:
                break
        output.close()
    assert [r.getMessage() for r in caplog.records] == [
        "answer.mqtt: the broker at 127.0.0.1:9 cannot be reached; trying again"
    ]


# -- never the broker of the fleet --------------------------------------------------------------


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_an_output_to_an_address_of_the_fleets_broker_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputFailed, match="is the broker of the fleet"):
        AnswerBroker(settings(1883, host=name), WHOSE, tmp_path, ("127.0.0.1", 1883))


def test_a_name_without_an_address_is_refused_for_the_time_being() -> None:
    with pytest.raises(BrokerNotUsable, match=r"the address of 'hub.invalid' is not known now"):
        refuse_same_broker(("hub.invalid", 1883), ("127.0.0.1", 1883), "the answer")
    refuse_same_broker(("hub.invalid", 1884), ("127.0.0.1", 1883), "the answer")


@pytest.mark.fleet
@needs_mosquitto
def test_the_fleets_broker_sees_no_output_and_the_owners_broker_nothing_else(
    tmp_path: Path, broker: RunningBroker
) -> None:
    write_readings(tmp_path)
    mqtt = f"{{port: {broker.port}, topic: 'canary/{{fleet}}/{{node}}', homeassistant: true}}"
    expected = {f"canary/trial/{name}" for name in READINGS}
    with (
        open_daemons(
            tmp_path,
            broker="mosquitto",
            algorithm="period_s: 0.05, answer_timeout_s: 20, start_timeout_s: 60",
            sensor=SENSOR,
            answer=f"{{every_s: 1, units: {{t: canary-unit}}, mqtt: {mqtt}}}",
        ) as daemons,
        reading(daemons.broker.port) as fleet,
        reading(broker.port) as owners,
    ):
        daemons.start(*READINGS)
        owners.wait(
            lambda: expected <= {m.topic for m in owners.messages}, "answers of all nodes", 240.0
        )
        daemons.wait_for_rounds(["n1"], 10)
        assert any(m.topic.startswith("homeassistant/sensor/") for m in owners.messages)
        assert fleet.messages
        seen = [m for m in fleet.messages if not m.topic.startswith("cf/v2/")]
        assert seen == []
        assert not any(b"canary" in m.payload or b"20.6" in m.payload for m in fleet.messages)
        assert not any(m.topic.startswith("cf/") for m in owners.messages)
        assert owners.of("canary/trial/n1/availability") == [b"online"]
        daemons.signal("n1", signal.SIGKILL)
        owners.wait(
            lambda: owners.of("canary/trial/n1/availability")[-1] == b"offline", "last will of n1"
        )
        assert owners.of("canary/trial/n2/availability") == [b"online"]


# -- TLS ----------------------------------------------------------------------------------------

SECURED = """\
listener {port} 127.0.0.1
cafile {folder}/own-ca.pem
certfile {folder}/broker.pem
keyfile {folder}/broker.key
allow_anonymous false
password_file {folder}/passwords
"""


@contextmanager
def secured_broker(folder: Path) -> Iterator[int]:
    """A mosquitto with TLS, where `me` has the password `canary-password`."""
    now = datetime.now(UTC)
    authority = make_authority("owner", now)
    (folder / "own-ca.pem").write_bytes(authority.pem)
    (folder / "other-ca.pem").write_bytes(make_authority("other", now).pem)
    issue_broker(authority, ["127.0.0.1"], now).write(folder / "broker.pem", folder / "broker.key")
    (folder / "secret").write_text("canary-password\n")
    passwords = ["mosquitto_passwd", "-b", "-c", str(folder / "passwords"), "me", "canary-password"]
    subprocess.run(passwords, check=True)
    for file in folder.iterdir():
        file.chmod(0o644)  # mosquitto becomes another user if it is started by root
    folder.chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    file = folder / "mosquitto.conf"
    file.write_text(SECURED.format(port=port, folder=folder) + "user root\n")
    program = subprocess.Popen(die_with_parent([str(find_mosquitto()), "-c", str(file)]))
    try:
        for _ in range(600):  # otherwise nothing would be there to be refused
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            threading.Event().wait(0.1)
        yield port
    finally:
        program.terminate()
        program.wait(30)


def read_over_tls(folder: Path, port: int) -> Any:
    context = ssl.create_default_context(cafile=folder / "own-ca.pem")
    return reading(port, "home/#", context, ("me", "canary-password"))


@needs_mosquitto
def test_an_answer_reaches_a_broker_with_tls_and_a_password(tmp_path: Path) -> None:
    with secured_broker(tmp_path) as port:
        files = {"tls": True, "ca": "own-ca.pem", "user": "me", "password_file": "secret"}
        output = opened(port, tmp_path, **files)
        output.publish(FULL)
        with read_over_tls(tmp_path, port) as live:
            live.wait(lambda: bool(live.of(TOPIC)), "answer")
            assert live.of(TOPIC)[-1] == as_json(FULL)
        output.close()


# paho leaves the socket of a refused handshake to the garbage collector, which says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@needs_mosquitto
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ca": "other-ca.pem"}, "cannot be reached"),
        ({"user": "you"}, "refuses this node: Not authorized"),
    ],
)
def test_a_broker_that_is_not_the_owners_gets_neither_password_nor_answer(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    changes: dict[str, str],
    words: str,
) -> None:
    with secured_broker(tmp_path) as port, caplog.at_level(logging.WARNING):
        files = {"tls": True, "ca": "own-ca.pem", "user": "me", "password_file": "secret"}
        output = opened(port, tmp_path, **{**files, **changes})
        output.publish(FULL)
        for _ in range(600):
            if words in caplog.text:
                break
            threading.Event().wait(0.1)
        output.close()
        assert words in caplog.text
        assert "canary-password" not in caplog.text
        with read_over_tls(tmp_path, port) as later:
            threading.Event().wait(0.2)
            assert later.messages == []


# -- files --------------------------------------------------------------------------------------


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(OutputFailed, match=r"one of own-ca.pem cannot be read: No such file"):
        opened(8883, tmp_path, tls=True, ca="own-ca.pem")
    with pytest.raises(OutputFailed, match=r"one of secret cannot be read: No such file"):
        opened(1883, tmp_path, user="me", password_file="secret")


# -- Home Assistant -----------------------------------------------------------------------------


def test_discovery_has_an_entity_for_each_number_with_the_required_keys() -> None:
    messages = discovery(FULL, TOPIC, AVAILABILITY)
    device = "cipherfleet_trial_n1"
    assert [topic.removeprefix("homeassistant/") for topic in messages] == [
        f"sensor/{device}/intercept/config",
        f"sensor/{device}/coefficient_pm10/config",
        f"sensor/{device}/coefficient_rh/config",
        f"sensor/{device}/sin_2_of_hour/config",
        f"sensor/{device}/cos_2_of_hour/config",
        f"sensor/{device}/corrected/config",
        f"sensor/{device}/residual/config",
        f"binary_sensor/{device}/alarm/config",
        f"binary_sensor/{device}/settled/config",
    ]
    for topic, message in messages.items():
        assert re.fullmatch(r"homeassistant/(binary_)?sensor/[a-z0-9_]+/[a-z0-9_]+/config", topic)
        assert message["state_topic"] == TOPIC
        assert message["availability_topic"] == AVAILABILITY
        assert message["device"]["identifiers"] == [device]
        assert message["name"]
        assert ("state_class" in message) is ("binary_sensor" not in topic)
    assert len({message["unique_id"] for message in messages.values()}) == len(messages)
    alarm = messages[f"homeassistant/binary_sensor/{device}/alarm/config"]
    assert alarm["device_class"] == "problem"
    corrected = messages[f"homeassistant/sensor/{device}/corrected/config"]
    assert corrected["unit_of_measurement"] == "µg/m³"


def test_the_templates_find_their_values_in_the_answer() -> None:
    found = json.loads(as_json(FULL))
    for message in discovery(FULL, TOPIC, AVAILABILITY).values():
        (path,) = re.findall(r"value_json\.([\w.\[\]']+)", message["value_template"])
        value = found
        for name, field, place in re.findall(r"(\w+)(?=\.|\[|$)|\['(.+?)'\]|\[(\d+)\]", path):
            value = value[int(place)] if place else value[name or field]
        assert isinstance(value, float | bool)


@pytest.mark.parametrize(
    ("name", "key"),
    [("Temp-°C", "temp_c"), ("a.b c", "a_b_c"), ("pm2.5", "pm2_5"), ("--", "x"), ("é", "x")],
)
def test_keys_have_only_letters_digits_and_underscores(name: str, key: str) -> None:
    assert safe_key(name) == key


def test_fields_that_become_the_same_key_stay_apart() -> None:
    model = msgspec.structs.replace(FULL.model, coefficients={"a-b": 1.0, "a_b": 2.0})
    messages = discovery(msgspec.structs.replace(FULL, model=model), TOPIC, AVAILABILITY)
    assert sum("coefficient_a_b" in topic for topic in messages) == 2
