"""`cipherfleet watch`: the table made from messages, and real fleets.

All of it is in one file: rows, table, JSON and live display are checked with the same messages.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as paho
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion
from rich.console import Console

from cipherfleet_broker import RunningBroker, start_broker
from cipherfleet_deploy import provision_session as provision
from cipherfleet_deploy.local.processes import LocalFleet
from cipherfleet_deploy.watch.sources import find_fleet
from cipherfleet_deploy.watch.table import (
    ABSENT,
    CLAIMING,
    COLUMNS,
    SEEDED,
    STALE_S,
    UNANSWERED,
    UNENROLLED,
    FleetStatus,
    NodeStatus,
    cells,
    headline,
    line,
    natural_sort_key,
    summarise_rows,
    table,
)
from cipherfleet_deploy.watch.watch import ChangeFilter, View
from cipherfleet_node.core.messages import Health, Message, Presence, PresenceState
from cipherfleet_node.core.topics import claim_topic
from cipherfleet_node.core.wire import MAX_COUNTER, MAX_ROUND, encode, topic_of
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import Broker, Simulation
from cipherfleet_provisioning.broker_files import BROKER_FOLDER, make_security
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.fleet.fleet import load_fleet
from cipherfleet_provisioning.ledger import read_ledger
from cipherfleet_provisioning.operator_session import AcceptAnySignature
from tests.support.launcher import shared_launcher
from tests.support.results import check_result
from tests.support.wiretap import forms_of

FLEET = "yard"
NODES = ("n1", "n2", "n10")
KEYS = {name: Ed25519PrivateKey.from_private_bytes(name.ljust(32).encode()) for name in NODES}
STRANGER = Ed25519PrivateKey.from_private_bytes(b"x" * 32)
PUBLIC = {name: key.public_key() for name, key in KEYS.items()}
COMMAND = [sys.executable, "-m", "cipherfleet_deploy", "watch"]


# -- the table ----------------------------------------------------------------------------------


ticks = count(1)


def health(name: str = "n1", epoch: int = 5, **fields: Any) -> Health:
    result = Health(
        FLEET, name, epoch, next(ticks), "collecting", 12, 250_000, 1, 3,
        {"signature": 2, "topic": 1}, {"late_answer": 9}, 3, 8, 40, [], 0, None, 51, 2,
    )  # fmt: skip
    return msgspec.structs.replace(result, **fields)


def presence(name: str, state: PresenceState, epoch: int = 5) -> Presence:
    return Presence(FLEET, name, epoch, state)


def status_after(
    *messages: Message, at: float = 0.0, status: FleetStatus | None = None
) -> FleetStatus:
    """The status of a fleet after *messages*, each signed by its sender."""
    status = status or FleetStatus(FLEET, PUBLIC)
    for message in messages:
        status.receive(topic_of(message), encode(message, KEYS[message.sender]), at)
    return status


def row(status: FleetStatus, name: str = "n1", now: float = 0.0) -> NodeStatus:
    (found,) = [each for each in status.rows(now) if each.node == name]
    return found


def shown(status: FleetStatus, now: float = 0.0, *, connected: bool = True) -> str:
    rows = status.rows(now)
    console = Console(file=io.StringIO(), force_terminal=True, width=140, color_system=None)
    console.print(table(headline(FLEET, rows, connected=connected), rows))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_row_holds_what_a_node_has_reported() -> None:
    status = status_after(presence("n1", "ready"), health())
    assert row(status, now=2.0) == NodeStatus(
        node="n1", state="ready", stale=False, age_s=2.0, epoch=5, phase="collecting", round=12,
        round_ms=250.0, silent=1, missed=3, rejected=3, pool=3, pool_size=8, temperature_c=51,
        unanswered_s=0, settled=None, refusals={"signature": 2, "topic": 1}, left_out=[],
        generation=2,
    )  # fmt: skip
    assert cells(row(status, now=2.0)) == (
        "n1", "ready", "5", "12", "250.0", "1", "3", "3/8", "51", "2.0 s ago", "good",
    )  # fmt: skip


def test_who_was_never_heard_is_absent() -> None:
    status = status_after(presence("n1", "ready"))
    assert row(status, "n2") == NodeStatus("n2", ABSENT, stale=False, age_s=None)
    assert cells(row(status, "n2"))[:3] == ("n2", ABSENT, "-")
    assert "2 absent" in shown(status)


def test_a_device_is_unenrolled_then_seeded_then_claims_until_its_first_message() -> None:
    """What an operator wants to know of a card: was it written, did it boot, is it my turn?"""
    keys = {name: PUBLIC[name] for name in ("n1", "n2")}
    status = FleetStatus(FLEET, keys, {"n1": UNENROLLED, "n2": SEEDED})
    assert [row(status, name).state for name in ("n1", "n2")] == [UNENROLLED, SEEDED]
    assert "1 seeded  1 unenrolled" in shown(status)
    for name in ("n2", "n3"):  # n3 is no node of this fleet
        status.receive(claim_topic(FLEET, name), b"a claim", 1.0)
    assert row(status, "n2").state == CLAIMING
    assert not status.has_all_reports(1.0)
    status.update(keys)  # the operator has accepted the claim
    assert row(status, "n2").state == ABSENT
    message = presence("n2", "ready")
    status.receive(topic_of(message), encode(message, KEYS["n2"]), 2.0)
    assert row(status, "n2").state == "ready"


@pytest.mark.parametrize("state", ["ready", "waiting", "alert", "done", "finished", "lost"])
def test_a_node_stands_as_it_says(state: PresenceState) -> None:
    status = status_after(presence("n1", "ready"), presence("n1", state))
    assert row(status).standing == state
    assert summarise_rows(status.rows(0.0)).standing == {state: 1, ABSENT: 2}
    assert f"1 {state}" in shown(status)


def test_who_falls_silent_is_stale_after_three_words_by_the_watchers_clock() -> None:
    status = status_after(presence("n1", "ready"), health(), presence("n2", "lost"), at=100.0)
    assert row(status, now=100.0 + STALE_S).standing == "ready"
    late = 100.1 + STALE_S
    assert row(status, now=late).standing == "stale"
    assert "ready, stale" in shown(status, late)
    assert row(status, "n2", late).standing == "lost", "nothing more is to come from it"
    status_after(health(), at=late, status=status)
    assert row(status, now=late).standing == "ready"


def test_a_node_that_nobody_answers_stands_out() -> None:
    status = status_after(presence("n1", "ready"), health(unanswered_s=40))
    assert row(status).standing == UNANSWERED
    assert row(status).unanswered_s == 40
    assert "ready, unanswered" in shown(status, 0.0)
    status_after(health(unanswered_s=0), status=status)
    assert row(status).standing == "ready"


def test_what_a_broker_repeats_keeps_no_node_alive() -> None:
    words = presence("n1", "ready"), health(round=7), health(round=8)
    status = status_after(*words)
    later = STALE_S + 1.0
    status_after(*words, at=later, status=status)
    assert (row(status, now=later).standing, row(status, now=later).round) == ("stale", 8)
    assert row(status).refused == 0
    status_after(health(round=9), at=later, status=status)
    assert row(status, now=later).standing == "ready"


def test_a_clock_that_went_back_makes_no_age_negative() -> None:
    assert row(status_after(health(), at=10.0), now=9.0).age_s == 0.0


def test_who_needs_looking_after_comes_first_and_n10_after_n2() -> None:
    status = status_after(*(presence(name, "ready") for name in NODES))
    assert [each.node for each in status.rows(0.0)] == ["n1", "n2", "n10"]
    status_after(presence("n10", "lost"), presence("n2", "waiting"), status=status)
    assert [each.node for each in status.rows(0.0)] == ["n10", "n2", "n1"]
    assert sorted(["10", "b", "a10b", "a9b", "9", ""], key=natural_sort_key) == [
        "", "9", "10", "a9b", "a10b", "b",
    ]  # fmt: skip


def test_the_last_will_of_an_earlier_start_changes_nothing() -> None:
    status = status_after(presence("n1", "ready", epoch=6), health(epoch=6))
    status_after(presence("n1", "lost", epoch=5), health(epoch=5, round=99), status=status)
    assert (row(status).state, row(status).round) == ("ready", 12)
    assert row(status).refused == 0


def test_a_new_start_forgets_the_reports_of_the_previous_one() -> None:
    status = status_after(presence("n1", "lost"), health(), presence("n1", "ready", epoch=6))
    assert (row(status).state, row(status).epoch, row(status).round) == ("ready", 6, None)


def test_messages_that_a_node_did_not_sign_change_nothing_and_show() -> None:
    status = status_after(presence("n1", "ready"), health())
    before = row(status)
    for message in (presence("n1", "lost"), health(round=99), presence("n1", "ready", epoch=99)):
        status.receive(topic_of(message), encode(message, STRANGER), 0.0)
    status.receive(topic_of(health("n2")), encode(health("n1"), KEYS["n1"]), 0.0)
    assert row(status) == msgspec.structs.replace(before, refused=3)
    assert row(status, "n2").refused == 1
    assert "3 REFUSED" in shown(status)
    assert "4 messages refused" in shown(status)


def test_without_keys_everything_is_called_unverified() -> None:
    status = FleetStatus(FLEET, dict.fromkeys(NODES, AcceptAnySignature()))
    status.receive(topic_of(health()), encode(health(), STRANGER), 0.0)
    assert (row(status).round, row(status).verified) == (12, False)
    assert "3 unverified" in shown(status)


def test_of_strangers_nothing_is_kept() -> None:
    status = FleetStatus(FLEET, PUBLIC)
    for n in range(100):
        message = health(f"other{n}")
        status.receive(topic_of(message), encode(message, STRANGER), 0.0)
    assert [each.node for each in status.rows(0.0)] == list(NODES)
    assert summarise_rows(status.rows(0.0)).refused == 0


def test_a_retained_state_that_is_taken_back_is_no_fault() -> None:
    status = status_after(presence("n1", "ready"))
    status.receive(topic_of(presence("n1", "ready")), b"", 1.0)
    assert (row(status).state, row(status).refused) == ("ready", 0)


def test_huge_numbers_fit_into_their_columns_and_stay_exact_in_json() -> None:
    names = ("number", "round", "round_us", "silent", "missed", "pool", "pool_size", "inline")
    refusals = {"topic": MAX_COUNTER, "kind": MAX_COUNTER}
    most = health(epoch=MAX_ROUND, rejected=refusals)
    numbers = dict.fromkeys(names, MAX_COUNTER) | {"round": MAX_ROUND}
    status = status_after(msgspec.structs.replace(most, **numbers))
    assert row(status).rejected == 2 * MAX_COUNTER
    assert (
        json.loads(msgspec.json.encode(summarise_rows(status.rows(0.0))))["lowest_round"]
        == MAX_ROUND
    )
    lines = shown(status).splitlines()
    assert max(len(each.rstrip()) for each in lines) < 140
    assert "9.2e+18" in next(each for each in lines if each.startswith("n1 "))


@given(st.sampled_from(["state", "health", "q", "x"]), st.sampled_from([*NODES, "", "n3", "\x1b"]),
       st.binary(max_size=200))  # fmt: skip
def test_whatever_comes_no_control_character_is_shown(kind: str, name: str, data: bytes) -> None:
    status = status_after(presence("n1", "ready"))
    status.receive(f"cf/v2/{FLEET}/{kind}/{name}", data, 0.0)
    for text in (*map(line, status.rows(0.0)), *shown(status).splitlines()):
        assert text.isprintable()
    assert row(status).state == "ready"


@given(st.text("\x1b\n\r\0[2J\u202e", min_size=1, max_size=8))
def test_words_of_the_attackers_choice_are_refused(word: str) -> None:
    """A node with a good key may say what it likes, in the words of the protocol."""
    for fields in ({"phase": word}, {"rejected": {word: 1}}, {"surplus": {word: 1}}):
        status = status_after(health(**fields))
        assert row(status) == NodeStatus("n1", ABSENT, stale=False, age_s=None, refused=1)


def test_the_headline_counts_and_names_the_slowest() -> None:
    status = status_after(
        presence("n1", "ready"), health("n1", round=7, round_us=90_000),
        presence("n2", "waiting"), health("n2", round=9, round_us=1_200_000),
        presence("n10", "lost"), health("n10", round=2, round_us=9_000_000),
    )  # fmt: skip
    text = headline(FLEET, status.rows(0.0), connected=True).plain
    assert text == (
        "yard: 3 nodes  1 lost  1 waiting  1 ready  rounds 7 to 9  slowest 1200.0 ms (n2)"
    )
    assert "BROKER UNREACHABLE" in shown(status, connected=False)


def test_a_status_is_complete_when_all_nodes_have_reported_or_are_gone() -> None:
    status = status_after(presence("n1", "ready"), health(), presence("n2", "lost"))
    assert not status.has_all_reports(0.0)
    status_after(presence("n10", "ready"), status=status)
    assert not status.has_all_reports(0.0), "n10 has not reported its round"
    status_after(health("n10"), status=status)
    assert status.has_all_reports(0.0)
    assert not status.is_finished(0.0)
    status_after(*(presence(name, "finished") for name in NODES), status=status)
    assert status.is_finished(0.0)


def test_a_fleet_that_changes_is_known_again() -> None:
    status = status_after(presence("n1", "ready"), presence("n2", "ready"))
    after = {"n1": STRANGER.public_key(), "n2": PUBLIC["n2"], "n3": PUBLIC["n10"]}
    for _ in range(2000):  # the keys of before are remembered once, however often it is asked
        status.update(after)
    assert [each.node for each in status.rows(0.0)] == ["n3", "n1", "n2"]
    status_after(health("n1"), status=status)  # still with its old key
    assert row(status).round == 12
    message = health("n1", round=13)
    status.receive(topic_of(message), encode(message, STRANGER), 0.0)
    assert (row(status).round, row(status).refused) == (13, 0)


def test_only_changes_are_reported_and_age_is_none() -> None:
    calls: list[list[str]] = []
    changes = ChangeFilter(lambda _view, rows: calls.append([each.node for each in rows]))
    status = status_after(presence("n1", "ready"))
    changes(View(FLEET, status.rows(0.0), connected=True))
    changes(View(FLEET, status.rows(1.0), connected=True))
    status_after(health("n1"), status=status, at=1.5)
    changes(View(FLEET, status.rows(2.0), connected=True))
    changes(View(FLEET, status.rows(3.0), connected=False))
    changes(View(FLEET, status.rows(4.0), connected=False))
    assert calls == [["n2", "n10", "n1"], ["n1"], []], "absent ones first"


def test_a_line_names_its_figures() -> None:
    text = line(row(status_after(presence("n1", "ready"), health())))
    assert text.startswith("n1  ready  epoch 5  round 12  ms/round 250.0  silent 1  rejected 3  ")
    assert all(name in text for name in COLUMNS[2:])


# -- where a fleet is ---------------------------------------------------------------------------

YARD = """\
config_version: 1
fleet: yard
broker: {{port: {port}, tls: {tls}}}
crypto: {{key_bits: 512, allow_weak_keys: true}}
algorithm: {{rounds: 1000000, period_s: 0.2, answer_timeout_s: 10}}
objective: {{kind: average, values: [{{field: t}}]}}
topology: {{kind: complete}}
nodes:
  - {{each: 4, id: "n{{n}}", sensor: {{kind: csv, path: t.csv, where: {{room: "{{n}}"}}}}}}
"""
READINGS = [21.843719, 19.452163, 23.917358, 20.278942]


def yard(folder: Path, port: int = 1883, *, tls: bool = False) -> Path:
    rows = "".join(f"{n},{value!r}\n" for n, value in enumerate(READINGS, 1))
    (folder / "t.csv").write_text("room,t\n" + rows)
    file = folder / "fleet.yaml"
    file.write_text(YARD.format(port=port, tls=str(tls).lower()))
    return file


def test_a_file_tells_where_the_broker_is_and_no_keys(tmp_path: Path) -> None:
    watched = find_fleet(yard(tmp_path, 2883), None)
    assert (watched.fleet, watched.where) == ("yard", ("127.0.0.1", 2883))
    assert list(watched.verifiers) == ["n1", "n2", "n3", "n4"]
    assert all(isinstance(each, AcceptAnySignature) for each in watched.verifiers.values())
    assert find_fleet(yard(tmp_path), "[::1]:99").where == ("::1", 99)


def test_a_file_of_a_secured_fleet_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="the operator's certificate is not in this file; name the"
    ):
        find_fleet(yard(tmp_path, tls=True), None)


def test_a_set_tells_the_broker_the_keys_and_when_it_was_replaced(tmp_path: Path) -> None:
    file, home, quiet = yard(tmp_path, 2883, tls=True), tmp_path / "set", Console(quiet=True)
    provision.bundle(file, home, "operator", quiet)
    watched = find_fleet(home, None)
    assert watched.where == ("127.0.0.1", 2883)
    assert watched.context is not None
    assert not any(isinstance(each, AcceptAnySignature) for each in watched.verifiers.values())
    assert not watched.is_outdated
    file.write_text(file.read_text().replace("each: 4", "each: 3"))
    provision.bundle(file, tmp_path / "other", "device", quiet)
    assert all(
        isinstance(e, AcceptAnySignature)
        for e in find_fleet(tmp_path / "other", None).verifiers.values()
    )
    (home / "current").unlink()
    (home / "current").symlink_to("sets/000002")
    assert watched.is_outdated


@pytest.mark.parametrize("content", [[], ["nodes"]])
def test_a_folder_without_a_fleet_is_reported(content: list[str], tmp_path: Path) -> None:
    for name in content:
        (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match="holds no"):
        find_fleet(tmp_path, None)


def ended(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )


def test_no_broker_is_one_line_and_exit_code_4(tmp_path: Path) -> None:
    done = ended(yard(tmp_path, 1), "--once")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("cipherfleet: no working broker at 127.0.0.1:1: cannot connect")
    assert len(done.stderr.splitlines()) == 1


# -- real fleets --------------------------------------------------------------------------------


@dataclass
class Live:
    """A fleet that runs, and all that is said where the operator listens."""

    out: Path
    broker: RunningBroker
    nodes: LocalFleet
    heard: list[tuple[str, bytes]]


@contextmanager
def listening(broker: RunningBroker) -> Iterator[list[tuple[str, bytes]]]:
    heard: list[tuple[str, bytes]] = []
    ready = threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2, "listener")
    client.on_message = lambda _c, _d, m: heard.append((m.topic, bytes(m.payload)))
    client.on_subscribe = lambda *_: ready.set()
    client.connect(broker.host, broker.port)
    client.subscribe([("cf/v2/+/health/+", 1), ("cf/v2/+/state/+", 1)])
    client.loop_start()
    try:
        assert ready.wait(60)
        yield heard
    finally:
        client.disconnect()
        client.loop_stop()


@contextmanager
def watching(place: Path) -> Iterator[Callable[[Callable[[dict[str, Any]], bool]], dict[str, Any]]]:
    """A watch that prints JSON; gives a function that waits for a line of a kind."""
    with subprocess.Popen(
        [*COMMAND, str(place), "--json", "--seconds", "120"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines: Iterator[str] = process.stdout

        def wait(wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
            for text in lines:
                result = json.loads(text, parse_constant=pytest.fail)
                if wanted(result):
                    return dict(result)
            pytest.fail("the watch ended before that was seen")

        try:
            yield wait
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Four daemons of a run without TLS, each of which has finished a round."""
    folder = tmp_path_factory.mktemp("live")
    fleet = load_fleet(yard(folder))
    with start_broker("embedded") as broker, listening(broker) as heard:
        address = Broker(host=broker.host, port=broker.port)
        simulation = Simulation(seed=7, trace_estimates=True)
        bundles = write_bundles(fleet, folder / "out" / "nodes", address, simulation)
        with LocalFleet(bundles, 120.0, launcher=shared_launcher()) as nodes:
            nodes.start()
            with watching(folder / "out") as wait:
                wait(lambda found: all(each["round"] for each in found["nodes"]))
            yield Live(folder / "out", broker, nodes, heard)


@pytest.mark.fleet
def test_the_fleet_is_shown_once_with_good_signatures(live: Live) -> None:
    done = ended(live.out, "--once", "--json")
    assert done.returncode == 0, done.stderr
    (text,) = done.stdout.splitlines()
    result = check_result("watch-result", text)
    assert result["summary"]["standing"] == {"ready": 4}
    assert (result["fleet"], result["connected"]) == ("yard", True)
    for each in result["nodes"]:
        assert (each["verified"], each["refused"], each["stale"]) == (True, 0, False)
        assert (each["silent"], each["rejected"]) == (0, 0)
        assert each["round"] is not None
        assert 0 < each["round_ms"] < 5000
        assert each["age_s"] < 10
        assert each["epoch"] > 10**9
        assert each["pool_size"] >= each["pool"] >= 0
    plain = ended(live.out, "--seconds", 0.5).stdout.splitlines()
    assert len(plain) == 5
    assert plain[0].startswith("yard: 4 nodes  4 ready")
    assert "signature good" in plain[1]


@pytest.mark.fleet
def test_a_forger_is_seen_and_a_node_that_was_killed_is_lost(live: Live) -> None:
    with watching(live.out) as wait:
        wait(lambda found: found["summary"]["standing"] == {"ready": 4})
        forged = Presence("yard", "n1", 2**40, "lost")
        client = paho.Client(CallbackAPIVersion.VERSION2, "forger")
        client.connect(live.broker.host, live.broker.port)
        client.publish(topic_of(forged), encode(forged, STRANGER), qos=0)
        client.loop_start()
        found = wait(lambda found: found["summary"]["refused"] > 0)
        client.disconnect()
        client.loop_stop()
        (first,) = [each for each in found["nodes"] if each["node"] == "n1"]
        assert (first["state"], first["refused"]) == ("ready", 1)
        live.nodes.kill("n3")  # no process polls, so it is not restarted
        found = wait(lambda found: "lost" in found["summary"]["standing"])
        assert [each["node"] for each in found["nodes"] if each["state"] == "lost"] == ["n3"]
        found = wait(lambda found: any(each["silent"] == 1 for each in found["nodes"]))
        assert found["summary"]["standing"] == {"lost": 1, "ready": 3}


@pytest.mark.fleet
def test_no_reading_and_no_estimate_is_in_what_the_operator_hears(live: Live) -> None:
    deadline = time.monotonic() + 120
    while sum("/health/" in topic for topic, _ in live.heard) < 8:
        assert time.monotonic() < deadline, "no health was heard"
        time.sleep(0.2)
    heard = b"\n".join(payload for _, payload in live.heard)
    states = []
    for node in live.nodes.nodes.values():
        node.read()
        states += [entry for x in node.estimates.values() for entry in x]
    assert len(states) > 20
    canaries = {form for value in (*READINGS, *states) for form in forms_of(value)}
    canaries = {form for form in canaries if len(form) >= 5}
    leak = heard + msgspec.msgpack.encode(["yard", "n1", 5, READINGS[0]])
    assert any(form in leak for form in canaries), "a reading would not be found"
    assert not [form for form in canaries if form in heard]
    for topic, payload in live.heard:
        assert len(payload) < 1000, topic


@pytest.mark.fleet
def test_a_set_is_watched_in_tls_by_the_operator_alone(tmp_path: Path) -> None:
    file, home = yard(tmp_path, free_port(), tls=True), tmp_path / "set"
    provision.bundle(file, home, "operator", Console(quiet=True))
    ledger = read_ledger(home / "current")
    security = make_security(home / "current" / BROKER_FOLDER, ledger)
    shutil.copytree(home / "current" / "nodes", tmp_path / "devices")
    places: Mapping[str, Path] = {name: tmp_path / "devices" / name for name in ledger.present}
    with (
        start_broker("embedded", ledger.broker.port, security),
        LocalFleet(places, 120.0, launcher=shared_launcher()) as nodes,
    ):
        nodes.start()
        done = ended(home, "--once", "--seconds", 100, "--json")
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["summary"]["standing"] == {"ready": 4}
        assert (result["summary"]["unverified"], result["summary"]["refused"]) == (0, 0)
        for name in ("watcher.pem", "watcher.key"):  # those of a node
            stem = name.replace("watcher", "node")
            shutil.copy(places["n1"] / "tls" / stem, home / "current" / "operator" / name)
        done = ended(home, "--once")
        assert done.returncode == 4
        assert "refused the operator's subscriptions" in done.stderr


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.fleet
def test_a_run_in_tls_says_how_it_is_watched(tmp_path: Path) -> None:
    file = yard(tmp_path, tls=True)
    run = [
        sys.executable,
        "-m",
        "cipherfleet_deploy",
        "run",
        str(file),
        "--rounds",
        "100000",
    ]
    out = tmp_path / "a folder"
    with subprocess.Popen([*run, "--out", str(out)], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            hint = next(text for text in process.stderr if text.startswith("to watch it: "))
            assert hint == f"to watch it: cipherfleet watch '{out}'\n"
            done = ended(out, "--seconds", 2.5, "--json")
            assert done.returncode == 0, done.stderr
            result = json.loads(done.stdout.splitlines()[-1])
            assert result["summary"]["standing"] == {"ready": 4}
            assert result["summary"]["unverified"] == 0
        finally:
            os.kill(process.pid, signal.SIGINT)
            process.wait(60)
    assert ended(out, "--once").returncode == 4
