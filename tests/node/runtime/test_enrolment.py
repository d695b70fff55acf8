"""Devices that make their own keys enrol over a broker, and get their neighbours."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as paho
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from gmpy2 import mpz
from paho.mqtt.enums import CallbackAPIVersion

from cipherfleet_broker import RunningBroker, start_broker
from cipherfleet_node.core import topics, wire
from cipherfleet_node.core.messages import OPERATOR, Claim, Membership, MembershipEntry
from cipherfleet_node.core.paillier import PublicKey
from cipherfleet_node.core.state import State
from cipherfleet_node.keys.key_files import PublicKeys, identity_to_text, write_private
from cipherfleet_node.runtime.enrolment import token_proof
from cipherfleet_node.runtime.store import read_state

pytestmark = pytest.mark.fleet

BOSS = Ed25519PrivateKey.from_private_bytes(b"b" * 32)
NODES = ("a", "b", "c", "d")


def public_of(claim: Claim) -> PublicKeys:
    return PublicKeys(
        PublicKey(mpz(int.from_bytes(claim.paillier, "big"))),
        Ed25519PublicKey.from_public_bytes(claim.identity),
        X25519PublicKey.from_public_bytes(claim.seal),
    )


class Operator:
    """Collects claims, and tells each node who its neighbours are: everybody else."""

    def __init__(self, broker: RunningBroker) -> None:
        self.claims: dict[str, Claim] = {}
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "operator")
        self._client.on_message = self._note
        self._client.connect(broker.host, broker.port)
        self._client.subscribe(topics.claim_topic("lab", "+"), 1)
        self._client.loop_start()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _note(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        payload = bytes(message.payload)
        body = msgspec.msgpack.decode(payload)[2]
        claim = msgspec.msgpack.decode(body, type=Claim)
        verifier = {claim.sender: Ed25519PublicKey.from_public_bytes(claim.identity)}
        assert wire.decode(payload, message.topic, "lab", verifier) == claim
        self.claims[claim.sender] = claim

    def tell(self, version: int, from_round: int, names: tuple[str, ...], **more: Any) -> None:
        """Everybody of *names* is the neighbour of everybody else of them."""
        for name in names:
            others = [other for other in names if other != name]
            members = [
                MembershipEntry(
                    other,
                    [each for each in names if each != other],
                    self.claims[other].paillier,
                    self.claims[other].identity,
                    self.claims[other].seal,
                )
                for other in others
            ]
            seals = [(other, self.claims[other].seal) for other in others]
            fingerprint = public_of(self.claims[name]).fingerprint
            word = Membership(
                "lab", OPERATOR, version, name, from_round, fingerprint, members, seals, b"", False
            )
            self.send(msgspec.structs.replace(word, **more))

    def send(self, word: Membership, signer: Ed25519PrivateKey = BOSS) -> None:
        topic = topics.membership_topic("lab", word.receiver)
        self._client.publish(topic, wire.encode(word, signer), 1, retain=True).wait_for_publish(5)


def write_device(folder: Path, name: str, port: int, value: float) -> None:
    """What is flashed: settings, the operator's key, a token; no keys and no neighbours."""
    folder.mkdir()
    (folder / "node.yaml").write_text(
        f"""\
config_version: 1
fleet: lab
node: {name}
operator: {identity_to_text(BOSS.public_key())}
algorithm: {{period_s: 0.2, answer_timeout_s: 3}}
objective: {{kind: average, values: [{{field: t}}]}}
sensor: {{kind: synthetic, fields: {{t: {{mean: {value}}}}}}}
broker: {{host: 127.0.0.1, port: {port}}}
crypto: {{key_bits: 512, allow_weak_keys: true, exchange: sealed}}
"""
    )
    write_private(folder / "token", token_of(name))


# Rounds of 0.2 s: a busy machine must deliver a membership before the nodes come to its round.
AHEAD = 40


def token_of(name: str) -> bytes:
    return name.encode() * 32


def states(folders: Mapping[str, Path]) -> dict[str, State]:
    return {n: state for n, f in folders.items() if (state := read_state(f)) is not None}


def wait_for(condition: Any, within_s: float = 120.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


class Manager:
    """The service manager's end of sd_notify: hears what one device says."""

    def __init__(self, address: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(address))
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.environment = {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "200000"}
        threading.Thread(target=self._listen, daemon=True).start()  # else senders would wait

    def heard(self) -> list[str]:
        """What was said since the last call."""
        return [self._said.get() for _ in range(self._said.qsize())]

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        with self._socket:
            while data := self._socket.recv(4096):
                self._said.put(data.decode())


@contextmanager
def devices(
    folders: Mapping[str, Path], environments: Mapping[str, Mapping[str, str]]
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, folder in folders.items():
            with (folder / "log").open("wb") as log:
                running[name] = subprocess.Popen(
                    [sys.executable, "-m", "cipherfleet_node", "run", str(folder)],
                    stderr=log,
                    env={**os.environ, **environments.get(name, {})},
                )
        yield running
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait(60)


def agree(folders: Mapping[str, Path], value: float, beyond: int) -> bool:
    found = states(folders)
    return len(found) == len(folders) and all(
        s.round > beyond and s.estimate is not None and abs(s.estimate[0] - value) < 1e-3
        for s in found.values()
    )


def test_devices_enrol_and_change_neighbours_and_keys_while_rounds_go_on(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in NODES}
    with start_broker("embedded") as broker:
        for place, name in enumerate(NODES):
            write_device(folders[name], name, broker.port, 10.0 + place)
        operator = Operator(broker)
        manager = Manager(tmp_path / "notify")
        with devices(folders, {"b": manager.environment}) as running:
            wait_for(lambda: len(operator.claims) == 4)
            wait_for(lambda: "WATCHDOG=1" in manager.heard())  # it waits, and is well
            for name, claim in operator.claims.items():
                assert claim.proof == token_proof(token_of(name), claim)
                assert claim.proof != token_proof(b"wrong", claim)
            first = dict(operator.claims)

            # Three of them begin; an earlier word and a stranger's change nothing.
            operator.tell(2, 0, NODES[:3])
            three = {name: folders[name] for name in NODES[:3]}
            wait_for(lambda: agree(three, 11.0, 20))
            assert not states({"d": folders["d"]})
            assert not any((folders[name] / "token").exists() for name in three)

            # The fourth joins at a round that all of them come to.
            at = max(state.round for state in states(three).values()) + AHEAD
            operator.tell(3, at, NODES)
            wait_for(lambda: agree(folders, 11.5, at + 20))
            found = states(folders)
            assert min(record.number for record in found["d"].records) >= at

            # One of them changes its keys, proven by those that it had.
            operator.send(Membership("lab", OPERATOR, 4, "b", 0, "", [], [], b"", rekey=True))
            wait_for(lambda: operator.claims["b"] != first["b"])
            before = Ed25519PublicKey.from_public_bytes(first["b"].identity)
            before.verify(operator.claims["b"].proof, operator.claims["b"].proven)
            at = max(state.round for state in states(folders).values()) + AHEAD
            operator.tell(5, at, NODES)
            wait_for(lambda: agree(folders, 11.5, at + 15))
            assert all(process.poll() is None for process in running.values())
            # Three daemons in one process so far; none of them has said that the service ends.
            assert "STOPPING=1" not in manager.heard()
            wait_for(lambda: "WATCHDOG=1" in manager.heard())
        wait_for(lambda: "STOPPING=1" in manager.heard())
        manager.close()
        operator.close()
    for name in NODES:
        assert "Traceback" not in (folders[name] / "log").read_text()
    assert not (folders["b"] / "keys.next").exists()
