"""Real daemons with a hostile broker: added messages change nothing, lost ones are made up."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from cipherfleet_broker import RunningBroker, start_broker
from cipherfleet_deploy.local.processes import LocalFleet
from cipherfleet_deploy.local.results import FloatArray, Trajectory
from cipherfleet_node.core import topics
from cipherfleet_node.core.messages import Health
from cipherfleet_node.runtime import back_off, mqtt
from cipherfleet_node.settings.sections import Broker, Simulation
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.fleet.fleet import load_fleet
from cipherfleet_provisioning.operator_session import read_health
from tests.support.hostile_broker import (
    COUNTED,
    LIES,
    Asked,
    Babbler,
    HostileBroker,
    Meddle,
    add,
    leave,
    spoil,
    withhold,
)
from tests.support.launcher import shared_launcher

pytestmark = pytest.mark.fleet

READINGS = (18.0, 21.5, 19.25, 24.0, 20.0)


def write_fleet(folder: Path, rounds: int, timeout_s: float, *, topology: str = "ring") -> Path:
    """Five nodes that average their readings, under toy keys, in the default exchange: sealed."""
    folder.mkdir()
    rows = "".join(f"{n},{value!r}\n" for n, value in enumerate(READINGS, 1))
    (folder / "readings.csv").write_text("room,celsius\n" + rows)
    file = folder / "fleet.yaml"
    file.write_text(
        f"""\
config_version: 1
fleet: trial
crypto: {{key_bits: 512, allow_weak_keys: true}}
algorithm: {{rounds: {rounds}, answer_timeout_s: {timeout_s}}}
objective: {{kind: average, values: [{{field: celsius}}]}}
topology: {{kind: {topology}}}
nodes:
  - {{each: 5, id: "n{{n}}",
     sensor: {{kind: csv, path: readings.csv, where: {{room: "{{n}}"}}}}}}
"""
    )
    return file


@contextmanager
def health_of(broker: RunningBroker) -> Iterator[dict[str, Health]]:
    """The latest figures of every node, heard at the real broker."""
    latest: dict[str, Health] = {}
    ready = threading.Event()

    def note(_client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        health = read_health("trial", message.topic, bytes(message.payload))
        assert health is not None
        latest[topics.sender_of(message.topic)] = health

    client = paho.Client(CallbackAPIVersion.VERSION2, "onlooker")
    client.on_message = note
    client.on_subscribe = lambda *_: ready.set()
    client.connect(broker.host, broker.port)
    client.subscribe("cf/v2/+/health/+", 1)
    client.loop_start()
    try:
        assert ready.wait(10)
        yield latest
    finally:
        client.disconnect()
        client.loop_stop()


@dataclass
class Ended:
    """A fleet that has run to its end."""

    nodes: LocalFleet
    estimates: FloatArray
    health: dict[str, Health]
    made: Counter[str]
    asked: dict[Asked, list[str]]

    @property
    def silent(self) -> int:
        return sum(int(line["silent"]) for n in self.nodes.nodes.values() for line in n.rounds)

    def counted(self, where: str) -> Counter[str]:
        return sum((Counter(getattr(result, where)) for result in self.health.values()), Counter())

    @property
    def logs(self) -> str:
        return "".join(node.log.read_text() for node in self.nodes.nodes.values())


def run_under(
    folder: Path, meddle: Meddle, rounds: int, timeout_s: float, *, topology: str = "ring"
) -> Ended:
    """Five daemons behind a broker that meddles."""
    fleet = load_fleet(write_fleet(folder, rounds, timeout_s, topology=topology))
    with (
        start_broker("embedded") as broker,
        HostileBroker(broker.host, broker.port, meddle) as hostile,
        health_of(broker) as health,
    ):
        bundles = write_bundles(
            fleet,
            folder / "nodes",
            Broker(host=broker.host, port=hostile.port),
            Simulation(seed=11, trace_estimates=True),
        )
        with LocalFleet(bundles, 120.0, launcher=shared_launcher()) as nodes:
            nodes.start()
            nodes.wait(every_s=0.1)
        last = Trajectory.of(nodes, 1).last
        return Ended(nodes, last, dict(health), hostile.made, hostile.asked)


def test_what_a_broker_adds_changes_nothing_and_is_counted(tmp_path: Path) -> None:
    peace = run_under(tmp_path / "peace", leave, rounds=25, timeout_s=20.0)
    attacked = run_under(tmp_path / "attacked", add, rounds=25, timeout_s=20.0)
    assert peace.silent == attacked.silent == 0
    assert not peace.counted("rejected")
    assert peace.asked == attacked.asked, "a roster is another"
    assert all(len(roster) == 2 for roster in peace.asked.values()), "not sealed"
    assert attacked.estimates.tobytes() == peace.estimates.tobytes()
    # Every kind of lie was sent often, and is counted under its reasons and no other.
    assert min(attacked.made[name] for name in LIES) > 20
    found: Counter[frozenset[str]] = Counter()
    for name, reasons in COUNTED.items():
        found[frozenset(reasons)] += attacked.made[name]
    counted = attacked.counted("rejected") + attacked.counted("surplus")
    assert set(counted) <= frozenset[str]().union(*found)
    for alike, times in found.items():
        heard = sum(counted[reason] for reason in alike)
        assert heard > 0.8 * times, f"{alike}: {heard} of {times}"  # some came after the end
        if not alike & {"late_answer", "repeated_query"}:  # which honest brokers bring, too
            assert heard <= times
    spans = [node.rounds[-1]["rejected"] for node in attacked.nodes.nodes.values()]
    assert min(spans) > 20
    assert "forged line" not in attacked.logs
    assert len(attacked.logs.splitlines()) < 400, "a flood of bad messages fills the disk"
    assert "Traceback" not in attacked.logs


def test_a_fleet_finishes_although_its_broker_alters_and_drops_messages(tmp_path: Path) -> None:
    ended = run_under(tmp_path / "spoilt", spoil, rounds=15, timeout_s=1.0)
    assert min(ended.made[name] for name in ("altered", "dropped", "broken")) > 0
    counted = ended.counted("rejected")
    assert set(counted) <= {"signature"}
    assert 0 < counted["signature"] <= ended.made["altered"]
    assert all(node.round >= 15 for node in ended.nodes.nodes.values())
    assert all(node.restarts == 0 for node in ended.nodes.nodes.values())
    assert np.all((ended.estimates > min(READINGS)) & (ended.estimates < max(READINGS)))
    assert "Traceback" not in ended.logs


def test_where_a_broker_drops_answers_rounds_are_held_and_the_fleet_finishes(
    tmp_path: Path,
) -> None:
    ended = run_under(tmp_path / "dropped", withhold, 7, timeout_s=1.0, topology="complete")
    assert ended.made["dropped"] > 0
    rounds = {name: node.rounds for name, node in ended.nodes.nodes.items()}
    held = [r["round"] for r in rounds["n3"] if not r["coupled"]]
    assert held, "no round of the one that misses an answer was held"
    # There is one roster in each round, and never a single neighbour in it.
    assert all(len(roster) != 1 for roster in ended.asked.values())
    assert all(sum(r["coupled"] for r in spans) >= 7 for spans in rounds.values())
    assert not ended.counted("rejected")
    assert all(node.restarts == 0 for node in ended.nodes.nodes.values())
    assert np.all((ended.estimates > min(READINGS)) & (ended.estimates < max(READINGS)))
    assert "Traceback" not in ended.logs


def test_the_network_thread_outlives_whatever_a_broker_sends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An exception that escapes in it would fail this test as well."""
    monkeypatch.setattr(back_off, "FIRST_S", 0.0)
    babbler = Babbler(seed=5)
    threading.Thread(target=babbler.serve, daemon=True).start()
    events: list[mqtt.LinkEvent] = []
    link = mqtt.Link("me", Broker(port=babbler.port), ["t"], ("w", b"lost"), events.append)
    link.start()
    seen, since = 0, time.monotonic()
    while seen < 500:
        link.publish("t", b"still here")
        time.sleep(0.01)
        if babbler.connections > seen:
            seen, since = babbler.connections, time.monotonic()
        # However slow the machine is, a thread that lives connects again within a minute.
        assert time.monotonic() - since < 60, f"stopped after {seen} connections"
    link.stop(0.1)
    babbler.close()
    assert any(isinstance(event, mqtt.Arrived) for event in events)
