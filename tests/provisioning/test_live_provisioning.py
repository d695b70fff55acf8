"""A fleet of real devices enrols, and changes while its rounds go on."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import signal
import socket
import statistics
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cipherfleet_broker import RunningBroker, start_broker
from cipherfleet_broker.mosquitto import find_mosquitto
from cipherfleet_deploy import provision_session as provision
from cipherfleet_deploy.local.processes import NODE_COMMAND, NodeProcess
from cipherfleet_deploy.provision_session import Consent, Reach
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.runtime.enrolment import TOKEN_FILE
from cipherfleet_node.runtime.membership import read_membership
from cipherfleet_node.runtime.store import read_state
from cipherfleet_node.settings.node_yaml import load_node_config
from cipherfleet_provisioning.broker_files import BROKER_FOLDER, make_security
from cipherfleet_provisioning.certificates import write_client
from cipherfleet_provisioning.ledger import Ledger, read_ledger
from cipherfleet_provisioning.operations import read_operator_keys
from tests.support.launcher import shared_launcher

pytestmark = pytest.mark.fleet

VALUES = {"a": 10.0, "b": 12.0, "c": 15.0, "d": 19.0, "e": 24.0, "f": 29.0}
RING = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("a", "e"), ("a", "c"), ("a", "d")]
WIDER = [*RING, ("e", "f"), ("b", "f"), ("c", "e")]
QUIET = Console(quiet=True)
TEXT = """\
config_version: 1
fleet: garden
broker: {{tls: true, port: {port}}}
crypto: {{key_bits: 512, allow_weak_keys: true}}
algorithm: {algorithm}
objective: {{kind: mean, values: [{{field: t}}]}}
topology: {{edges: {edges}}}
nodes:
"""
ARTICLE = (
    "{period_s: 0.05, answer_timeout_s: 3, method: article, "
    "stepsize: {initial: 0.1, decay: 0, spread: 0}}"
)
SHIELDED = "{period_s: 0.02, answer_timeout_s: 3, scale: 1.0, shield: linear}"
NODE = "  - {{id: {id}, sensor: {{kind: synthetic, fields: {{t: {{mean: {mean}}}}}}}}}\n"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Garden:
    """A set, a broker with its rules, and devices that hold what the archives hold."""

    def __init__(self, folder: Path, algorithm: str) -> None:
        self.folder, self.port, self.algorithm = folder, free_port(), algorithm
        self.file, self.home, self.place = folder / "fleet.yaml", folder / "set", folder / "devices"
        self.devices: dict[str, NodeProcess] = {}
        self.broker: RunningBroker

    def describe(self, names: str, edges: list[tuple[str, str]]) -> None:
        shown = [list(edge) for edge in edges]
        nodes = "".join(NODE.format(id=name, mean=VALUES[name]) for name in names)
        self.file.write_text(
            TEXT.format(port=self.port, edges=shown, algorithm=self.algorithm) + nodes
        )

    @property
    def ledger(self) -> Ledger:
        return read_ledger(self.home / "current")

    @property
    def security(self) -> Any:
        return make_security(self.home / "current" / BROKER_FOLDER, self.ledger)

    def install(self, name: str, place: Path | None = None) -> Path:
        """Unpack the archive of *name* on its device, whose folders are in *place*."""
        place = place or self.place
        data = (self.home / "current" / "archives" / f"{name}.tar.gz").read_bytes()
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            tar.extractall(place, filter="data")
        return place / name

    def start(self, name: str, folder: Path | None = None) -> None:
        """Start the device *name*, or one that has another bundle of this name in *folder*."""
        key = name if folder is None else str(folder)
        self.devices[key] = NodeProcess(
            name, folder or self.place / name, NODE_COMMAND, shared_launcher()
        )
        self.devices[key].start()

    def enrol(self, names: str) -> None:
        """Install, start and enrol all of *names*, and wait for their rounds."""
        for name in names:
            self.install(name)
            self.start(name)
        enrolled = provision.enroll(self.home, AUTO, Reach(timeout_s=120))
        assert (enrolled.pending, enrolled.refused, enrolled.awaited) == ([], {}, [])
        self.settle(names, 0)

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        process = self.devices[name].process
        assert process is not None
        process.send_signal(how)
        process.wait(10)

    def log(self, name: str) -> str:
        return self.devices[name].log.read_text()

    def round(self, name: str) -> int:
        state = read_state(self.place / name)
        return state.round if state else -1

    def estimate(self, name: str) -> float:
        state = read_state(self.place / name)
        assert state is not None
        assert state.estimate is not None
        return state.estimate[0]

    def wait(self, happened: Callable[[], bool], what: str, within_s: float = 120.0) -> None:
        ends = time.monotonic() + within_s
        while not happened():
            for name, device in self.devices.items():
                assert device.process is not None
                assert device.process.poll() is None, f"{name} ended: {self.log(name)}"
            assert time.monotonic() < ends, f"{what} did not happen{self.account()}"
            time.sleep(0.05)

    def account(self) -> str:
        return "".join(f"\n{name}: {self.log(name)[-1500:]}" for name in self.devices)

    def settle(self, names: str, after: int, within_s: float = 120.0) -> None:
        """Wait until all have come well beyond the round *after*, and agree on their mean."""
        self.wait(
            lambda: all(self.round(n) > after + 12 for n in names), f"round {after} + 12", within_s
        )
        wanted = statistics.fmean(VALUES[name] for name in names)

        def have_agreed() -> bool:
            found = [self.estimate(name) for name in names]
            mean_is_right = abs(statistics.fmean(found) - wanted) < 0.2
            # A constant stepsize leaves the nodes a little apart, each towards its own value.
            values = [VALUES[name] for name in names]
            apart = (max(found) - min(found)) / (max(values) - min(values))
            return mean_is_right and apart < 0.5

        self.wait(have_agreed, f"the mean {wanted}", within_s)
        print([round(self.estimate(name), 2) for name in names], "mean", wanted)  # noqa: T201


@pytest.fixture
def garden(tmp_path: Path) -> Iterator[Garden]:
    with open_garden(tmp_path, "abcde", RING, "embedded") as garden:
        yield garden


@contextmanager
def open_garden(
    folder: Path,
    names: str,
    edges: list[tuple[str, str]],
    choice: str,
    algorithm: str = ARTICLE,
) -> Iterator[Garden]:
    garden = Garden(folder, algorithm)
    garden.describe(names, edges)
    provision.bundle(garden.file, garden.home, "device", QUIET)
    with start_broker(choice, garden.port, garden.security) as broker:
        garden.broker = broker
        try:
            yield garden
        finally:
            for device in garden.devices.values():
                assert device.process is not None
                device.process.terminate()
            for device in garden.devices.values():
                assert device.process is not None
                device.process.wait(60)


AUTO = Consent(auto=True)


def test_devices_enrol_and_a_running_fleet_changes(garden: Garden) -> None:
    began = time.monotonic()

    def step(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}")  # noqa: T201  # shown by pytest -s

    # -- five devices, one with a wrong token
    for name in "abcde":
        garden.install(name)
    right = (garden.place / "e" / TOKEN_FILE).read_bytes()
    (garden.place / "e" / TOKEN_FILE).write_bytes(bytes(32))
    for name in "abcde":
        garden.start(name)
    garden.wait(lambda: all("claiming" in garden.log(n) for n in "abcde"), "five claims")
    for _ in range(20):  # e is waited for in vain, the others may come late
        enrolled = provision.enroll(garden.home, AUTO, Reach(timeout_s=2.5))
        if enrolled.enrolled == list("abcd"):
            break
    assert enrolled.refused == {"e": "wrong token"}
    assert enrolled.enrolled == list("abcd")
    assert enrolled.notified == []  # everybody shares a neighbour with e
    assert enrolled.awaited == list("abcde")
    step("four enrolled, one refused")

    # -- its token is fixed: the fleet is complete and begins
    garden.stop("e")
    (garden.place / "e" / TOKEN_FILE).write_bytes(right)
    garden.start("e")
    enrolled = provision.enroll(garden.home, AUTO, Reach(timeout_s=120))
    assert (enrolled.pending, enrolled.refused, enrolled.awaited) == ([], {}, [])
    assert garden.ledger.from_round == 0
    garden.settle("abcde", 0)
    assert not (garden.place / "e" / TOKEN_FILE).exists()
    step("five run and agree")

    # -- a sixth joins while they go on
    garden.describe("abcdef", WIDER)
    updated = provision.update(garden.file, garden.home, "device", None, Reach(margin_s=0), QUIET)
    assert (updated.added, updated.pending, updated.notified) == (["f"], ["f"], [])
    assert "reload" in (updated.reload or "")
    garden.broker.reload(garden.security)
    garden.install("f")
    garden.start("f")
    enrolled = provision.enroll(garden.home, AUTO, Reach(timeout_s=120, margin_s=0))
    assert (enrolled.pending, enrolled.awaited) == ([], [])
    joined = garden.ledger.from_round
    assert joined > 12
    step(f"the sixth is enrolled, from round {joined}")
    garden.settle("abcdef", joined)
    step("six run and agree")
    for name in "abcdef":
        assert sum(word in garden.log(name) for word in ("ERROR", "Traceback")) == 0

    # -- new keys for one, new certificates for it and for another
    before = garden.ledger
    rotated = max(garden.round(name) for name in "abcdef") + 100
    new_keys = provision.rotate(garden.home, "c", "keys", rotated, Reach(timeout_s=120))
    assert new_keys.from_round == rotated
    assert new_keys.fingerprint != before.members["c"].fingerprint
    assert set(new_keys.notified) == set("abcdef")
    step(f"new keys from round {rotated}")
    old = (garden.place / "b" / "tls" / "node.pem").read_bytes()
    new_certificate = provision.rotate(garden.home, "b", "certificate", None, Reach())
    assert new_certificate.notified == ["b"]
    garden.settle("abcdef", rotated)
    assert (garden.place / "b" / "tls" / "node.pem").read_bytes() != old
    config = load_node_config(garden.place / "a")
    joined_a = read_membership(garden.place / "a", config)
    assert joined_a is not None
    fingerprint = garden.ledger.members["c"].fingerprint
    assert joined_a.neighbours["c"].fingerprint == fingerprint
    assert not (garden.place / "c" / "keys.next").exists()
    step("they agree on")

    # -- one is revoked; its daemon goes on, and nobody listens
    seen = {name: garden.log(name).count("stranger") for name in "abce"}
    at = max(garden.round(name) for name in "abcef")
    revoked = provision.revoke_node(garden.home, "d", Reach())
    assert set(revoked.notified) == set("abcef")
    garden.wait(
        lambda: all(has_lost_neighbour(garden, name, "d") for name in "abce"),
        "a membership without d",
    )
    taken = max(garden.round(name) for name in "abcef")
    step(f"revoked in round {at}, left out by all in round {taken}")
    garden.wait(
        lambda: all(garden.log(n).count("stranger") > seen[n] for n in "ace"),
        "the neighbours' refusal of what d sends",
    )
    garden.settle("abcef", taken)
    garden.broker.reload(garden.security)
    garden.wait(lambda: "the broker refuses this node" in garden.log("d"), "d kept out")
    step("five run and agree without it")


@pytest.mark.skipif("LONG" not in os.environ, reason="takes three minutes: make live-shield")
def test_a_shielded_fleet_takes_a_newcomer_and_a_revocation_at_its_generations(
    tmp_path: Path,
) -> None:
    with open_garden(tmp_path, "abcd", complete("abcd"), "embedded", SHIELDED) as garden:

        def wait_exact(names: str, within_s: float = 240.0) -> None:
            """Wait until *names* have applied a generation of their own list and agree exactly."""
            wanted = statistics.fmean(VALUES[name] for name in names)

            def is_exact() -> bool:
                states = [read_state(garden.place / name) for name in names]
                if any(s is None or s.follows or not s.generation.has_share for s in states):
                    return False
                return all(abs(garden.estimate(name) - wanted) < 0.01 for name in names)

            garden.wait(is_exact, f"the mean {wanted} of {names}", within_s)

        for name in "abcd":
            garden.install(name)
            garden.start(name)
        provision.enroll(garden.home, AUTO, Reach(timeout_s=120))
        wait_exact("abcd")

        garden.describe("abcde", complete("abcde"))
        provision.update(garden.file, garden.home, "device", None, Reach(margin_s=0), QUIET)
        garden.broker.reload(garden.security)
        garden.install("e")
        garden.start("e")
        provision.enroll(garden.home, AUTO, Reach(timeout_s=120, margin_s=0))
        wait_exact("abcde")

        provision.revoke_node(garden.home, "b", Reach())
        garden.broker.reload(garden.security)
        garden.stop("b")
        del garden.devices["b"]
        wait_exact("acde")
        for name in "acde":
            assert sum(word in garden.log(name) for word in ("ERROR", "Traceback")) == 0


def complete(names: str) -> list[tuple[str, str]]:
    return list(itertools.combinations(names, 2))


def has_lost_neighbour(garden: Garden, name: str, other: str) -> bool:
    config = load_node_config(garden.place / name)
    membership = read_membership(garden.place / name, config)
    return membership is not None and other not in membership.neighbours


# -- another device with the bundle of an enrolled one -------------------------------------------

TRIANGLE = [("a", "b"), ("b", "c"), ("a", "c")]


def test_a_second_start_of_a_bundle_does_not_stop_the_enrolled_node(tmp_path: Path) -> None:
    try:
        find_mosquitto()  # it knows clients by their certificates, so here the names matter
    except ConfigError as error:
        pytest.skip(f"THE RECOMMENDED BROKER WAS NOT TESTED: {error}")
    with open_garden(tmp_path, "abc", TRIANGLE, "mosquitto") as garden:
        garden.enrol("abc")
        copy = garden.install("c", tmp_path / "copy")
        garden.start("c", copy)
        garden.wait(lambda: "claiming" in garden.log(str(copy)), "the claim of the copy")
        again = provision.enroll(garden.home, AUTO, Reach(timeout_s=3))
        garden.settle("abc", max(garden.round(name) for name in "abc") + 100)  # 5 s at least
        assert again.refused in ({}, {"c": "enrolled already, with other keys"})
        assert "lost" not in garden.log("c")

        # the next update closes the way in for the copy, and no other
        assert garden.ledger.claiming == list("abc")
        updated = provision.update(garden.file, garden.home, "device", None, Reach(), QUIET)
        assert (updated.changed, updated.notified, garden.ledger.claiming) == (True, [], [])
        assert "reload" in (updated.reload or "")
        garden.broker.reload(garden.security)
        garden.settle("abc", max(garden.round(name) for name in "abc"))
        garden.stop(str(copy))
        del garden.devices[str(copy)]

        # without the guard, the certificate of a bundle had the node's own name
        shutil.rmtree(copy / "tls")
        authority = read_operator_keys(garden.home / "current", tls=True).authority
        assert authority is not None
        write_client(copy, authority, "c", datetime.now(UTC))
        enrolled = garden.devices.pop("c").process
        assert enrolled is not None
        log = garden.place / "c" / "logs" / "node.log"
        before = log.read_text().count("connection to the broker lost")
        garden.start("c", copy)
        try:
            garden.wait(
                lambda: log.read_text().count("connection to the broker lost") >= before + 3,
                "three connections that the copy ends",
            )
            assert enrolled.poll() is None  # nothing proves a clash: it tries again without end
        finally:
            enrolled.kill()
            enrolled.wait()


# -- a device is replaced, and two are lost ------------------------------------------------------


def test_a_device_is_replaced_and_two_are_revoked_while_the_others_go_on(tmp_path: Path) -> None:
    ring = [("a", "b"), ("b", "c"), ("c", "d"), ("a", "d"), ("c", "e"), ("d", "e")]
    with open_garden(tmp_path, "abcde", ring, "embedded") as garden:
        garden.enrol("abcde")
        provision.update(garden.file, garden.home, "device", None, Reach(), QUIET)
        garden.broker.reload(garden.security)  # no enrolled node may claim any more
        assert garden.ledger.claiming == []

        # -- the device of d dies and gets a successor
        garden.stop("d", signal.SIGKILL)
        former = garden.ledger.members["d"].fingerprint
        replaced = provision.replace(garden.home, "d", "device", Reach(), QUIET)
        assert (replaced.pending, replaced.notified) == (["d"], [])
        assert "reload" in (replaced.reload or "")
        garden.broker.reload(garden.security)
        shutil.rmtree(garden.place / "d")
        garden.install("d")
        garden.start("d")
        at = max(garden.round(name) for name in "abce")
        enrolled = provision.enroll(garden.home, AUTO, Reach(timeout_s=120, margin_s=0))
        assert (enrolled.pending, enrolled.refused, enrolled.awaited) == ([], {}, [])
        assert garden.ledger.from_round > at
        assert garden.ledger.members["d"].fingerprint != former
        garden.settle("abcde", garden.ledger.from_round)

        # -- c and d are stolen: e has no neighbour any more, a and b have each other
        for name in "cd":
            revoked = provision.revoke_node(garden.home, name, Reach())
        assert "without a neighbour, these nodes wait: 'e'" in revoked.warnings
        garden.broker.reload(garden.security)
        for name, said in (("e", "has no neighbours: it waits"), ("a", "one neighbour only, b")):
            garden.wait(lambda n=name, s=said: s in garden.log(n), said)  # type: ignore[misc]
        noise = garden.log("a").count("no answer of")
        for name in "cd":
            garden.stop(name)
            del garden.devices[name]

        # -- as the warnings say, an update brings them together again
        garden.describe("abe", TRIANGLE_ABE)
        updated = provision.update(
            garden.file, garden.home, "device", None, Reach(margin_s=1), QUIET
        )
        assert (updated.notified, updated.awaited) == (list("abe"), [])
        garden.broker.reload(garden.security)
        garden.settle("abe", updated.from_round or 0)
        assert garden.log("a").count("no answer of") <= noise + 2
        for name in "abe":
            assert sum(word in garden.log(name) for word in ("ERROR", "Traceback")) == 0


TRIANGLE_ABE = [("a", "b"), ("b", "e"), ("a", "e")]
