"""A mosquitto that an operator has installed: with the files of the set, in their own places.

The files name /etc/cipherfleet-broker, and nodes find the broker by its name. Both need changes
below /etc, so they happen in a mount namespace that this process has to itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from cipherfleet_broker.die_with_parent import die_with_parent
from cipherfleet_broker.health import check_broker
from cipherfleet_broker.mosquitto import ACCESS_FILE, find_mosquitto
from cipherfleet_node.core import topics
from cipherfleet_node.errors import BrokerUnreachable
from cipherfleet_node.keys.tls import client_context
from cipherfleet_provisioning.broker_files import BROKER_FOLDER, INSTALLED
from cipherfleet_provisioning.certificates import issue_client, read_authority
from cipherfleet_provisioning.operations import OPERATOR_FOLDER
from cipherfleet_provisioning.operator_session import OperatorSession

from .wiretap import query_in

INSIDE = "CIPHERFLEET_NAMESPACE"  # set in the environment of a process that has its own
STORE = Path("/var/lib/mosquitto")
READY_TRIES = 20
RECORDER = "_recorder"  # reads the queries, which no client of the set may do


def enter_namespace(module: str, arguments: Sequence[str]) -> int | None:
    """Run this *module* again in namespaces of its own and return its exit code, None inside.

    All processes that it starts end with it.
    """
    if INSIDE in os.environ:
        return None
    unshare = shutil.which("unshare") or "/usr/bin/unshare"
    spaces = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = die_with_parent([unshare, *spaces, sys.executable, "-m", module, *arguments])
    environment = {**os.environ, INSIDE: "1"}
    return subprocess.run(command, env=environment, check=False).returncode


def lay_over_etc(folder: Path, hosts: str) -> None:
    """Make /etc of this namespace writable, and add the lines *hosts* to /etc/hosts."""
    assert INSIDE in os.environ, "would change the machine"
    for name in ("upper", "work"):
        (folder / name).mkdir(parents=True)
    layers = f"lowerdir=/etc,upperdir={folder}/upper,workdir={folder}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", "/etc"], check=True)
    known = Path("/etc/hosts").read_text()
    Path("/etc/hosts").write_text(f"{known}\n{hosts}\n")


@contextmanager
def operators_broker(home: Path, where: tuple[str, int], folder: Path) -> Iterator[None]:
    """The broker of the provisioned set *home*; the set's file is its only configuration."""
    store = folder / "mosquitto"
    store.mkdir()
    shutil.chown(store, "mosquitto", "mosquitto")
    subprocess.run(["mount", "--bind", str(store), str(STORE)], check=True)
    INSTALLED.mkdir(mode=0o700)
    for file in (home / "current" / BROKER_FOLDER).iterdir():
        shutil.copyfile(file, INSTALLED / file.name)
    with (INSTALLED / "mosquitto-2.0.conf").open("a") as only:  # what its first lines say to add
        only.write(f"persistence_location {STORE}/\nlog_dest stderr\n")
    fleet_queries = f"user {RECORDER}\ntopic read {topics.ROOT}/+/q/+\n"
    with (INSTALLED / ACCESS_FILE).open("a") as rules:
        rules.write(fleet_queries)
    for file in (INSTALLED, *INSTALLED.iterdir()):
        shutil.chown(file, "mosquitto", "mosquitto")
        file.chmod(0o700 if file.is_dir() else 0o600)
    command = [str(find_mosquitto()), "-c", str(INSTALLED / "mosquitto-2.0.conf")]
    with (folder / "mosquitto.log").open("wb") as log:
        broker = subprocess.Popen(die_with_parent(command), stdout=log, stderr=log)
    try:
        _await_health(where)
        yield
    finally:
        broker.terminate()
        broker.wait(10)


def _await_health(where: tuple[str, int]) -> None:
    context = client_context(*(INSTALLED / name for name in ("ca.pem", "health.pem", "health.key")))
    for left in reversed(range(READY_TRIES)):
        try:
            check_broker(*where, 2.0, context)
            return
        except BrokerUnreachable:
            if left == 0:
                raise
            threading.Event().wait(0.5)


class QueryRecorder:
    """Remembers which queries a node has sent in each round, across all its starts.

    Two queries of one round with different ciphertexts would encrypt two estimates under one round
    number: a node must never send them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ciphertexts: dict[tuple[str, int], set[tuple[bytes, ...]]] = {}
        self._digests: dict[tuple[str, int], set[bytes]] = {}
        self._latest: dict[str, int] = {}
        self.count = 0

    @contextmanager
    def listening(self, fleet: str, home: Path, where: tuple[str, int]) -> Iterator[None]:
        """Record while the block runs."""
        folder = home.parent / "recorder"
        folder.mkdir()
        authority = read_authority(home / "current" / OPERATOR_FOLDER)
        files = folder / "recorder.pem", folder / "recorder.key"
        issue_client(authority, RECORDER, datetime.now(UTC)).write(*files)
        context = client_context(INSTALLED / "ca.pem", *files)
        filters = [topics.query_topic(fleet, "+")]
        with OperatorSession(fleet, where, context, filters, self.hear):
            yield

    def hear(self, topic: str, payload: bytes) -> None:
        query, sender = query_in(payload), topics.sender_of(topic)
        with self._lock:
            self.count += 1
            self._latest[sender] = max(query.round, self.latest(sender))
            same_round = self._ciphertexts.setdefault((sender, query.round), set())
            same_round.add(tuple(query.ciphertexts))
            self._digests.setdefault((sender, query.round), set()).add(query.digest)

    def latest(self, sender: str) -> int:
        """The highest round of the queries of *sender*, -1 before the first."""
        return self._latest.get(sender, -1)

    def check(self) -> None:
        """Fail if a node has sent two different queries under one number."""
        with self._lock:
            rounds = [key for key, seen in self._ciphertexts.items() if len(seen) > 1]
            rosters = [key for key, seen in self._digests.items() if len(seen) > 1]
        assert not rounds, f"different ciphertexts in one round: {rounds}"
        assert not rosters, f"different rosters in one round: {rosters}"
