"""Provisioned sets: their contents, atomic changes, and the commands."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import re
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as mqtt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion
from rich.console import Console

from cipherfleet_broker import RunningBroker, start_broker
from cipherfleet_broker.security import WATCHER
from cipherfleet_deploy import provision_session as provision
from cipherfleet_deploy.provision_results import (
    EnrollResult,
    ProvisionResult,
    UpdateResult,
    show,
)
from cipherfleet_deploy.provision_session import Consent, Reach
from cipherfleet_node.core import wire
from cipherfleet_node.core.messages import OPERATOR, Health, Membership, Presence
from cipherfleet_node.core.topics import (
    claim_client,
    claim_topic,
    health_topic,
    membership_topic,
    presence_topic,
)
from cipherfleet_node.errors import BrokerUnreachable, CipherfleetError, ConfigError
from cipherfleet_node.keys.key_files import NodeKeys, identity_from_text
from cipherfleet_node.runtime.assembly import make_shield
from cipherfleet_node.runtime.bundle import Bundle, read_bundle
from cipherfleet_node.runtime.enrolment import (
    TOKEN_FILE,
    certificate_request,
    make_claim,
    make_own_keys,
)
from cipherfleet_node.runtime.membership import check_membership
from cipherfleet_node.settings.node_yaml import load_node_config
from cipherfleet_provisioning.claims import ReviewedClaim, examine
from cipherfleet_provisioning.ledger import Ledger, read_ledger
from cipherfleet_provisioning.memberships import (
    compose_updates,
    digest_list,
    estimate_pace,
    find_blocked,
    safe_round,
)
from cipherfleet_provisioning.operations import accept_claims, issue_memberships, read_token
from cipherfleet_provisioning.operator_session import read_health
from cipherfleet_provisioning.repair import find_problems, propose_edges
from cipherfleet_provisioning.sets import archive, lock_set, stage_set, tree_digest
from cipherfleet_provisioning.topology.graph import Graph
from tests.support.command_line import run_here

QUIET = Console(quiet=True)
EDGES = [("a", "b"), ("b", "c"), ("c", "d"), ("a", "d"), ("a", "c")]
TEXT = """\
config_version: 1
fleet: yard
broker: {{tls: {tls}, port: {port}}}
crypto: {{key_bits: 512, allow_weak_keys: true}}
algorithm: {{period_s: 1}}
objective: {{kind: average, values: [{{field: t}}]}}
topology: {{edges: {edges}}}
nodes:
"""
TRIANGLE = [("a", "b"), ("b", "c"), ("a", "c")]
NODE = "  - {{id: {id}, sensor: {{kind: synthetic, fields: {{t: {{mean: 1}}}}}}}}\n"


def write_fleet(
    folder: Path,
    names: str = "abcd",
    edges: list[tuple[str, str]] | None = None,
    tls: str = "true",
    port: int = 8883,
) -> Path:
    shown = [list(edge) for edge in (EDGES if edges is None else edges)]
    text = TEXT.format(tls=tls, port=port, edges=shown)
    file = folder / "fleet.yaml"
    file.write_text(text + "".join(NODE.format(id=name) for name in names))
    return file


def make(folder: Path, maker: Any = "device", **options: Any) -> Path:
    home = folder / "set"
    provision.bundle(write_fleet(folder, **options), home, maker, QUIET)
    return home


def ledger_of(home: Path) -> Ledger:
    return read_ledger(home / "current")


def archive_of(home: Path, name: str) -> dict[str, bytes]:
    data = (home / "current" / "archives" / f"{name}.tar.gz").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
        return {found: stream.read() for found, stream in files.items() if stream}


# -- what is in a set ---------------------------------------------------------------------------


def test_a_set_for_devices_holds_a_token_and_no_key_of_the_fleets(tmp_path: Path) -> None:
    home = make(tmp_path)
    files = archive_of(home, "a")
    assert set(files) == {
        "a/node.yaml", "a/token", "a/tls/ca.pem", "a/tls/node.pem", "a/tls/node.key"
    }  # fmt: skip
    config = load_node_config(home / "current" / "nodes" / "a")
    assert config.neighbours == []
    assert config.operator == ledger_of(home).operator
    assert read_token(home / "current", "a") == files["a/token"]
    assert ledger_of(home).list_members("pending") == list("abcd")


def test_a_set_with_the_operators_keys_is_ready_to_run(complete: Path) -> None:
    home = complete
    for name in "abcd":
        bundle = read_bundle(home / "current" / "nodes" / name)
        entry = ledger_of(home).members[name]
        assert bundle.keys.public.fingerprint == entry.fingerprint
        assert bundle.config.operator is not None
    assert ledger_of(home).list_members("enrolled") == list("abcd")
    assert compose_updates(ledger_of(home)) == {}  # the bundles hold all memberships


def private_numbers(home: Path, name: str) -> dict[str, bytes]:
    """Every secret of *name*, in every form in which a file could hold it."""
    folder = home / "current" / "nodes" / name
    found: dict[str, bytes] = {}
    keys = json.loads((folder / "keys" / "paillier.json").read_text())
    numbers = [keys["p"], keys["q"]]
    numbers += [f for prime in keys["primes"] for f in (*prime["factors"], prime["generator"])]
    for number in numbers:
        if len(number) > 20:  # small factors are everybody's
            found[f"number {number[:6]}"] = number.encode()
    for file in [*folder.glob("keys/*.pem"), folder / "tls" / "node.key"]:
        key: Any = load_pem_private_key(file.read_bytes(), None)
        found[file.name] = b"".join(file.read_bytes().splitlines()[1:-1])
        found[f"{file.name}, raw"] = key.private_bytes_raw()
    return found


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with TLS and the operator's keys, to be looked at only."""
    return make(tmp_path_factory.mktemp("complete"), "operator")


def test_no_archive_holds_a_secret_of_another_node_or_of_the_operator(complete: Path) -> None:
    home = complete
    secrets = {name: private_numbers(home, name) for name in "abcd"}
    operator = home / "current" / "operator"
    secrets["operator"] = {
        file.name: b"".join(file.read_bytes().splitlines()[1:-1])
        for file in (operator / "operator.pem", operator / "ca.key", operator / "client.key")
    }
    for name in "abcd":
        files = archive_of(home, name)
        held = {
            owner
            for owner, mine in secrets.items()
            for secret in mine.values()
            if any(secret in data for data in files.values())
        }
        assert held == {name}, "an archive holds its own secrets, and nobody else's"


def test_everything_in_a_set_is_for_its_owner_only(complete: Path) -> None:
    home = complete
    for file in [home, *home.rglob("*")]:
        if not file.is_symlink():
            assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file


def test_archives_are_the_same_bytes_whenever_they_are_made(complete: Path, tmp_path: Path) -> None:
    home = tmp_path / "set"
    shutil.copytree(complete, home, symlinks=True)
    archives = home / "current" / "archives"
    for line in (archives / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        data = (archives / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == digest
        folder = home / "current" / "nodes" / name.removesuffix(".tar.gz")
        for file in folder.rglob("*"):  # other times and modes, the same content
            file.touch()
            file.chmod(0o755 if file.is_dir() else 0o644)
        assert archive(folder) == data
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.uname) for m in members} == {(0, 0, 0, "")}
    assert [m.name for m in members] == sorted(m.name for m in members)


def test_the_brokers_files_hold_the_fleets_rules_for_each_program(tmp_path: Path) -> None:
    broker = make(tmp_path) / "current" / "broker"
    assert (
        "acl_file /etc/cipherfleet-broker/access.txt" in (broker / "mosquitto-2.0.conf").read_text()
    )
    newer = (broker / "mosquitto-2.1.conf").read_text()
    assert "plugin_opt_acl_file /etc/cipherfleet-broker/access.txt" in newer
    assert not re.search("^acl_file", newer, re.M)
    assert "persistence true" in newer  # what the operator said last is not forgotten
    rules = (broker / "access.txt").read_text()
    claiming = [claim_client(name) for name in "abcd"]
    clients = [*"abcd", *claiming, "_health", OPERATOR, WATCHER]
    assert re.findall("^user (.*)$", rules, re.M) == clients
    users = json.loads((broker / "nats-server.conf").read_text())["authorization"]["users"]
    assert [user["user"] for user in users] == [f"CN={name}" for name in clients]


def test_without_tls_there_are_no_certificates(tmp_path: Path) -> None:
    home = make(tmp_path, tls="false", port=1883)
    assert list((home / "current").rglob("*.key")) == []
    assert set(archive_of(home, "a")) == {"a/node.yaml", "a/token"}


@pytest.mark.parametrize("secured", [True, False])
def test_mosquitto_takes_the_installed_configuration_as_its_only_one(
    tmp_path: Path, secured: bool
) -> None:
    from cipherfleet_broker import check_broker
    from cipherfleet_broker.mosquitto import find_mosquitto
    from cipherfleet_broker.program import Engine
    from cipherfleet_broker.running import run_engine
    from cipherfleet_provisioning.broker_files import make_security

    try:
        binary = find_mosquitto()
    except ConfigError as error:
        pytest.skip(str(error))
    home = make(tmp_path, tls=str(secured).lower())
    place = home / "current" / "broker"

    def configure(folder: Path, port: int) -> list[str]:
        text = (place / "mosquitto-2.0.conf").read_text()
        to_add = re.findall("^#   (.*)$", text, re.M)  # what its comment tells to add
        assert [line.split()[0] for line in to_add] == ["persistence_location", "log_dest"]
        text = "\n".join([text, *to_add, "user root", ""])
        text = text.replace("listener 8883", f"listener {port}")
        text = text.replace("/etc/cipherfleet-broker", str(place))
        text = text.replace("/var/lib/mosquitto/", f"{folder}/")
        (folder / "mosquitto.conf").write_text(text)
        return [str(binary), "-c", str(folder / "mosquitto.conf")]

    security = make_security(place, ledger_of(home)) if secured else None
    with run_engine(Engine("mosquitto", "2.0", configure), security=security) as broker:
        context = security.context() if security else None
        check_broker(broker.host, broker.port, context=context)


def test_nats_server_takes_the_installed_configuration(tmp_path: Path) -> None:
    from cipherfleet_broker.embedded import make_embedded

    home = make(tmp_path)
    place = home / "current" / "broker"
    text = (place / "nats-server.conf").read_text().replace("/etc/cipherfleet-broker", str(place))
    (tmp_path / "nats.conf").write_text(text)
    binary = make_embedded().configure(tmp_path, 1)[0]
    done = subprocess.run(
        [binary, "-t", "--config", tmp_path / "nats.conf"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_results_end_with_the_commands_that_follow(tmp_path: Path) -> None:
    def following(result: ProvisionResult) -> list[str]:
        console = Console(file=io.StringIO(), width=200)
        show(result, console)
        assert isinstance(console.file, io.StringIO)
        _, _, after = console.file.getvalue().partition("\nnext:\n")
        return re.findall(r": cipherfleet (?:provision )?(\w+)", after)

    home = make(tmp_path)
    file = tmp_path / "fleet.yaml"
    made = provision.bundle(file, home, "device", QUIET)
    assert following(made) == ["broker", "seed", "enroll", "watch"]
    complete = provision.bundle(file, tmp_path / "complete", "operator", QUIET)
    assert following(complete) == ["broker", "seed", "watch"]
    summary = msgspec.structs.asdict(made)
    del summary["changed"], summary["wall_s"]
    updates: dict[str, Any] = {"awaited": [], "notified": [], "from_round": None, "pace": None}
    none: dict[str, Any] = {"claims": [], "newly_enrolled": [], "refused": {}, "not_seen": []}
    assert following(EnrollResult(**summary, **updates, **none)) == ["enroll", "watch"]
    assert following(EnrollResult(**{**summary, "pending": []}, **updates, **none)) == ["watch"]
    updated = UpdateResult(
        **summary, **updates, changed=True, added=["e"], removed=[], former_edges=0, reload="reload"
    )
    assert following(updated) == ["broker", "seed", "enroll", "watch"]
    moved: dict[str, Any] = {"added": [], "reload": None, "pending": []}
    assert following(msgspec.structs.replace(updated, **moved)) == ["watch"]


# -- twice, interrupted -------------------------------------------------------------------------


@pytest.mark.parametrize("maker", ["device", "operator"])
def test_making_a_set_twice_changes_nothing(tmp_path: Path, maker: Any) -> None:
    home = make(tmp_path, maker)
    before = tree_digest(home)
    result = provision.bundle(tmp_path / "fleet.yaml", home, maker, QUIET)
    assert not result.changed
    assert tree_digest(home) == before


def test_what_was_damaged_is_made_anew_and_keys_are_kept(tmp_path: Path) -> None:
    home = make(tmp_path, "operator")
    before = tree_digest(home / "current")
    (home / "current" / "archives" / "a.tar.gz").unlink()
    (home / "current" / "broker" / "access.txt").write_text("everything for everybody")
    assert provision.bundle(tmp_path / "fleet.yaml", home, "operator", QUIET).changed
    assert tree_digest(home / "current") == before


def test_another_fleet_in_the_same_place_is_refused(tmp_path: Path) -> None:
    home = make(tmp_path)
    before = tree_digest(home)
    file = write_fleet(tmp_path, "abc", TRIANGLE)
    with pytest.raises(ConfigError, match="run cipherfleet provision update"):
        provision.bundle(file, home, "device", QUIET)
    file.write_text(write_fleet(tmp_path).read_text().replace("fleet: yard", "fleet: field"))
    with pytest.raises(ConfigError, match="name another folder"):
        provision.bundle(file, home, "device", QUIET)
    file.write_text(write_fleet(tmp_path).read_text().replace("period_s: 1", "period_s: 2"))
    with pytest.raises(ConfigError, match="read these from their folders only"):
        provision.bundle(file, home, "device", QUIET)
    assert tree_digest(home) == before


KILLED_EVERYWHERE = """
import os, shutil, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from cipherfleet_provisioning.fleet.fleet import load_fleet
from cipherfleet_provisioning.operations import issue_memberships, update_set
from cipherfleet_provisioning.memberships import compose_updates
from cipherfleet_provisioning.sets import lock_set, stage_set, tree_digest

home, work, file = map(Path, sys.argv[1:4])
fleet = load_fleet(file)
STEPS = {"open", "os.rename", "os.link", "os.symlink", "os.mkdir", "os.remove", "os.rmdir"}

def change():
    with lock_set(work), stage_set(work) as draft:
        ledger = update_set(draft, fleet, "device", lambda _: None, datetime.now(UTC))
        issue_memberships(draft, ledger, compose_updates(ledger), 5)
        draft.commit()

def die_at(step):
    left = step
    def hook(event, arguments):
        nonlocal left
        if event in STEPS and str(work) in str(arguments[0]) + str(arguments[-1]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

def whole():
    place = work / "current"
    import hashlib
    for line in (place / "archives" / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((place / "archives" / name).read_bytes()).hexdigest() == digest
    from cipherfleet_provisioning.ledger import read_ledger
    members = set(read_ledger(place).members)
    assert members == {each.name for each in (place / "nodes").iterdir()}
    assert members == {each.name for each in (place / "operator" / "tokens").iterdir()}
    return members

old, step, seen = tree_digest(home / "current"), 0, []
while True:
    step += 1
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(home, work, symlinks=True)
    child = os.fork()
    if child == 0:
        die_at(step)
        change()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    members = whole()
    if "e" not in members:
        assert tree_digest(work / "current") == old
    seen.append("e" in members)
    if os.WIFEXITED(status):
        break
    if step % 10 == 0:  # what was interrupted can be done again, and sweeps up
        change()
        assert "e" in whole()
        assert len(list((work / "sets").iterdir())) == 1
assert os.WEXITSTATUS(status) == 0
assert seen == sorted(seen), "once new, always new"
print(step, seen.index(True))
"""


def test_a_change_killed_at_any_step_leaves_the_old_set_or_the_new_one(tmp_path: Path) -> None:
    plain: dict[str, Any] = {"tls": "false", "port": 1883}
    home = make(tmp_path, names="abc", edges=TRIANGLE, **plain)
    file = write_fleet(tmp_path, "abce", [*TRIANGLE, ("b", "e"), ("a", "e")], **plain)
    done = subprocess.run(
        [sys.executable, "-c", KILLED_EVERYWHERE, home, tmp_path / "work", file],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    steps, first_new = map(int, done.stdout.split())
    assert steps > 50
    assert 0 < first_new < steps - 1  # some deaths came before the switch, some after it


def test_a_draft_that_fails_leaves_nothing(tmp_path: Path) -> None:
    home = make(tmp_path)
    before = tree_digest(home)

    def fail() -> None:
        with lock_set(home), stage_set(home) as draft:
            draft.put("ledger.json", b"broken")
            draft.put("nodes/a/node.yaml", b"broken")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert tree_digest(home) == before


def test_two_commands_do_not_work_on_one_set(tmp_path: Path) -> None:
    home = make(tmp_path)
    with (
        lock_set(home),
        pytest.raises(ConfigError, match="is in use by another command"),
        lock_set(home),
    ):
        pass


# -- claims -------------------------------------------------------------------------------------


class Device:
    """What a device does in its folder before it is enrolled."""

    def __init__(self, home: Path, name: str, *, with_token: bool = True) -> None:
        self.home, self.name, self.folder = home, name, home / "current" / "nodes" / name
        self.config = load_node_config(self.folder)
        self.token = (self.folder / TOKEN_FILE).read_bytes() if with_token else bytes(32)
        self.keys: NodeKeys = make_own_keys(self.folder, self.config, "keys")

    def claim(self, **changes: Any) -> Any:
        request = certificate_request(self.folder, self.config, "keys")
        prove = changes.pop("prove", self.token)
        return make_claim(self.config, changes.pop("keys", self.keys), request, prove)

    def look(self, claim: Any, signer: Any = None, ledger: Ledger | None = None) -> ReviewedClaim:
        payload = wire.encode(claim, signer or self.keys.identity)
        token = read_token(self.home / "current", self.name)
        ledger = ledger or ledger_of(self.home)
        return examine(ledger, token, claim_topic("yard", self.name), payload)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Device:
    return Device(make(tmp_path_factory.mktemp("claims")), "a")


def test_a_sound_claim_is_acceptable(device: Device) -> None:
    found = device.look(device.claim())
    assert found.is_acceptable
    assert found.fingerprint == device.keys.public.fingerprint


def test_what_is_wrong_with_a_claim_is_said(device: Device) -> None:
    claim = device.claim()
    proven_again = msgspec.structs.replace

    def prove_again(**changes: Any) -> Any:
        from cipherfleet_node.runtime.enrolment import token_proof

        changed = proven_again(claim, **changes)
        return proven_again(changed, proof=token_proof(device.token, changed))

    stranger = Ed25519PrivateKey.generate()
    odd = int.from_bytes(claim.paillier, "big") | 1 << 511
    even = (odd & ~1).to_bytes(64, "big")
    troubles = {
        "wrong token": device.look(device.claim(prove=bytes(32))),
        "bad claim (signature)": device.look(claim, stranger),
        "bad claim (fleet)": device.look(prove_again(fleet="field")),
        "bad claim (topic)": device.look(prove_again(sender="b")),
        "unsound modulus: n has a factor below": device.look(prove_again(paillier=even)),
        "wrong size: the modulus has 1032 bits, not 512": device.look(
            prove_again(paillier=b"\x80" + bytes(128))
        ),
        "unsound keys": device.look(prove_again(seal=bytes(31))),
        "bad certificate request": device.look(prove_again(request=b"not DER")),
    }
    for problem, found in troubles.items():
        if problem == "bad claim (topic)":
            assert found.problem.startswith("bad claim"), found
        else:
            assert found.problem.startswith(problem), (problem, found)
        assert not found.is_acceptable


def test_a_request_for_anothers_certificate_is_refused(device: Device) -> None:
    other = Device(device.home, "b")
    request = certificate_request(other.folder, other.config, "keys")
    claim = make_claim(device.config, device.keys, request, device.token)
    assert device.look(claim).problem == "bad certificate request: is for another name"


def test_claims_of_strangers_copies_and_of_the_enrolled_are_refused(device: Device) -> None:
    from cipherfleet_provisioning.claims import accept_claim
    from cipherfleet_provisioning.operations import read_operator_keys

    claim = device.claim()
    operator = read_operator_keys(device.home / "current", tls=True)
    from datetime import UTC, datetime

    enrolled = accept_claim(
        ledger_of(device.home), device.look(claim), operator.authority, datetime.now(UTC)
    )
    again = device.look(claim, ledger=enrolled)
    assert again.is_known
    assert not again.is_acceptable
    (device.folder / "other").mkdir(exist_ok=True)
    fresh = make_own_keys(device.folder / "other", device.config, "keys")
    second = device.look(device.claim(keys=fresh), fresh.identity, enrolled)
    assert second.problem == "enrolled already, with other keys"
    # asked for new keys: only the present identity proves them
    asked = enrolled.replace_entries(
        {"a": msgspec.structs.replace(enrolled.members["a"], rekey=True)}
    )
    by_token = device.look(device.claim(keys=fresh), fresh.identity, asked)
    assert by_token.problem == "not proven with the keys that it replaces"
    proven = device.claim(keys=fresh, prove=device.keys.identity)
    assert device.look(proven, fresh.identity, asked).is_acceptable
    # the keys of another member
    b = Device(device.home, "b")
    copied = make_claim(
        b.config, device.keys, certificate_request(b.folder, b.config, "keys"), b.token
    )
    assert b.look(copied, device.keys.identity, enrolled).problem == "contains a key of 'a'"
    # a name that the fleet does not have
    stranger = msgspec.structs.replace(claim, sender="zed")
    payload = wire.encode(stranger, device.keys.identity)
    found = examine(enrolled, None, claim_topic("yard", "zed"), payload)
    assert found.problem == "is no node of the fleet"


def test_the_certificate_is_for_the_devices_own_key(device: Device) -> None:
    from datetime import UTC, datetime

    from cipherfleet_provisioning.claims import accept_claim
    from cipherfleet_provisioning.operations import read_operator_keys

    operator = read_operator_keys(device.home / "current", tls=True)
    assert operator.authority is not None
    ledger = accept_claim(
        ledger_of(device.home), device.look(device.claim()), operator.authority, datetime.now(UTC)
    )
    certificate = x509.load_pem_x509_certificate(ledger.members["a"].certificate.encode())
    certificate.verify_directly_issued_by(operator.authority.certificate)
    key: Any = load_pem_private_key((device.folder / "keys" / "tls.key").read_bytes(), None)
    assert certificate.public_key() == key.public_key()
    assert certificate.public_bytes(Encoding.PEM).decode() == ledger.members["a"].certificate


# -- from which round on ------------------------------------------------------------------------


def health(number: int, round_s: float) -> Health:
    """What a node in round *number* says of itself."""
    return Health(
        fleet="yard",
        sender="a",
        epoch=1,
        number=9,
        phase="reading",
        round=number,
        round_us=round(1e6 * round_s),
        silent=0,
        missed=0,
        rejected={},
        surplus={},
        pool=4,
        pool_size=4,
        inline=0,
        left_out=[],
        unanswered_s=0,
        settled=None,
        temperature=None,
        generation=None,
    )


def test_the_round_lies_beyond_the_highest_heard_by_the_margin() -> None:
    result = {"a": health(100, 0.5), "b": health(103, 0.5)}
    pace = estimate_pace(result, None)
    assert pace is not None
    assert (pace.highest, pace.node, pace.round_s) == (103, "b", 0.5)
    assert safe_round(pace, 10.0) == 103 + 30 + 3  # 10 s of margin, 5 s that the word is old
    slow = estimate_pace(result, 5.0)
    assert safe_round(slow, 10.0) == 103 + 3 + 3


def test_one_node_cannot_push_the_round_out_of_reach() -> None:
    result = {"a": health(100, 0.5), "b": health(103, 0.5), "c": health(10**15, 0.5)}
    pace = estimate_pace(result, None)
    assert pace is not None
    assert pace.ignored == ("c",)
    assert pace.highest == 103


def test_a_fleet_that_does_not_run_is_told_from_round_0() -> None:
    assert safe_round(None, 10.0) == 0
    assert safe_round(estimate_pace({"a": health(0, 0.0)}, 1.0), 10.0) == 0


@pytest.mark.parametrize("payload", [b"", b"[]", b"3", b"\xff", b"[" * 100_000, b"\x91" * 100_000])
def test_bytes_that_are_no_message_are_no_health(payload: bytes) -> None:
    assert read_health("yard", health_topic("yard", "a"), payload) is None


@pytest.mark.parametrize("number", [-1, 2**63, 2**64 - 1])
def test_a_round_out_of_range_is_no_health(number: int, device: Device) -> None:
    payload = wire.encode(health(number, 0.5), device.keys.identity)
    assert read_health("yard", health_topic("yard", "a"), payload) is None


def test_presence_is_no_health(device: Device) -> None:
    payload = wire.encode(Presence("yard", "a", 1, "ready"), device.keys.identity)
    assert read_health("yard", presence_topic("yard", "a"), payload) is None


def test_health_is_read(device: Device) -> None:
    payload = wire.encode(health(7, 0.25), device.keys.identity)
    assert read_health("yard", health_topic("yard", "a"), payload) == health(7, 0.25)
    assert read_health("yard", health_topic("yard", "b"), payload) is None
    assert read_health("barn", health_topic("barn", "a"), payload) is None


# -- changes, with a broker ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain() -> Any:
    """A broker without TLS."""
    with start_broker("embedded") as broker:
        yield broker


@pytest.fixture(scope="module")
def enrolled_set(plain: RunningBroker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fleet.yaml and a set whose keys the operator has made; to be copied."""
    folder = tmp_path_factory.mktemp("enrolled")
    make(folder, "operator", **port_of(plain))
    return folder


@pytest.fixture
def home(enrolled_set: Path, tmp_path: Path) -> Path:
    """A copy of that set; its fleet.yaml is in tmp_path."""
    shutil.copytree(enrolled_set, tmp_path, symlinks=True, dirs_exist_ok=True)
    return tmp_path / "set"


def port_of(broker: RunningBroker) -> dict[str, Any]:
    return {"tls": "false", "port": broker.port}


def read_signed(home: Path, name: str) -> Membership:
    data = (home / "current" / "memberships" / name).read_bytes()
    verifiers = {OPERATOR: identity_from_text(ledger_of(home).operator)}
    message = wire.decode(data, membership_topic("yard", name), "yard", verifiers)
    assert isinstance(message, Membership)
    return message


FAST = Reach(timeout_s=1, margin_s=0, health_s=0.2)


def test_an_update_tells_those_whom_it_concerns(tmp_path: Path, plain: RunningBroker) -> None:
    names = "abcdefgh"
    ring = [(a, b) for a, b in zip(names, names[1:] + names[:1], strict=True)]
    home = make(tmp_path, "operator", names=names, edges=ring, **port_of(plain))
    file = write_fleet(tmp_path, names, [*ring, ("a", "c")], **port_of(plain))
    result = provision.update(file, home, "operator", 70, FAST, QUIET)
    # a and c have another neighbour; b, d and h have a neighbour who has
    assert result.notified == list("abcdh")
    assert read_signed(home, "a").from_round == 70
    assert [m.id for m in read_signed(home, "a").members] == ["b", "c", "h"]
    assert ledger_of(home).version == read_signed(home, "a").epoch == 2
    before = tree_digest(home)
    again = provision.update(file, home, "operator", 90, FAST, QUIET)
    # the former edges are closed at the broker, and no membership changes
    assert again.notified == []
    assert tree_digest(home) == before
    assert not again.changed


def test_an_updated_bundle_is_ready_to_run(
    tmp_path: Path, plain: RunningBroker, home: Path
) -> None:
    file = write_fleet(tmp_path, "abcde", [*EDGES, ("d", "e"), ("a", "e")], **port_of(plain))
    result = provision.update(file, home, "operator", 70, FAST, QUIET)
    assert result.added == ["e"]
    for name in "abcde":
        bundle = read_bundle(home / "current" / "nodes" / name)
        assert set(bundle.neighbours) == set(ledger_of(home).graph.neighbours(name))
    assert bundle.membership is not None
    assert bundle.membership.message.from_round == 70


def test_former_edges_stay_open_until_the_next_update(home: Path, tmp_path: Path) -> None:
    port = ledger_of(home).broker.port
    file = write_fleet(tmp_path, "abc", TRIANGLE, tls="false", port=port)
    result = provision.update(file, home, "operator", 70, FAST, QUIET)
    assert (result.removed, result.notified, result.former_edges) == (
        ["d"],
        list("abc"),
        2,
    )
    assert ledger_of(home).allowed_links["d"] == ["a", "c"]  # it takes part until round 70
    assert not (home / "current" / "nodes" / "d").exists()
    result = provision.update(file, home, "operator", None, FAST, QUIET)
    assert (result.changed, result.notified, result.former_edges) == (True, [], 0)
    assert "d" not in ledger_of(home).allowed_links


def test_who_runs_is_not_told_before_its_neighbours_can_be(home: Path, tmp_path: Path) -> None:
    port = ledger_of(home).broker.port
    edges = [*EDGES, ("a", "e"), ("b", "e")]
    file = write_fleet(tmp_path, "abcde", edges, tls="false", port=port)
    result = provision.update(file, home, "device", 70, FAST, QUIET)
    assert (result.pending, result.notified) == (["e"], [])
    assert result.awaited == list("abcde")


def test_who_waits_for_keys_drops_a_revoked_neighbour_at_once(home: Path, tmp_path: Path) -> None:
    port = ledger_of(home).broker.port
    edges = [*EDGES, ("a", "e"), ("b", "e")]
    file = write_fleet(tmp_path, "abcde", edges, tls="false", port=port)
    provision.update(file, home, "device", 70, FAST, QUIET)
    for name in "ac":  # they may not wait for e with d as a neighbour
        assert "d" in read_bundle(home / "current" / "nodes" / name).neighbours
    result = provision.revoke_node(home, "d", FAST)
    assert (result.notified, result.awaited) == (list("abc"), list("abce"))
    held = {name: read_signed(home, name) for name in "abc"}
    assert {name: [m.id for m in held[name].members] for name in "abc"} == {
        "a": ["b", "c"], "b": ["a", "c"], "c": ["a", "b"]
    }  # fmt: skip
    for message in held.values():
        assert message.from_round == 0
        named = {name for m in message.members for name in m.neighbours} - {message.receiver}
        assert "d" not in named
        assert dict(message.seals).keys() == named
    # the second one leaves out of what the first one has signed
    result = provision.revoke_node(home, "c", FAST)
    assert result.notified == ["a", "b"]
    assert [m.id for m in read_signed(home, "a").members] == ["b"]
    assert result.warnings == []  # with e the graph is a triangle
    # and when the keys of e are known, everybody gets what waited
    device = Device(home, "e")
    with claimed(device):
        enrolled = provision.enroll(home, Consent(auto=True), Reach(timeout_s=60, health_s=0.2))
    assert enrolled.awaited == []
    assert [m.id for m in read_signed(home, "a").members] == ["b", "e"]


def test_a_claim_is_believed_only_with_consent(home: Path, tmp_path: Path) -> None:
    port = ledger_of(home).broker.port
    edges = [*EDGES, ("a", "e"), ("b", "e")]
    file = write_fleet(tmp_path, "abcde", edges, tls="false", port=port)
    provision.update(file, home, "device", 70, FAST, QUIET)
    device = Device(home, "e")
    asked: list[str] = []

    def refuse(examined: ReviewedClaim) -> bool:
        asked.append(examined.fingerprint)
        return False

    with claimed(device):
        for timeout_s in (2.5, 20.0, 60.0):  # on a busy machine the broker may be slow
            result = provision.enroll(home, Consent(ask=refuse), Reach(timeout_s=timeout_s))
            if asked:
                break
        assert asked == [device.keys.public.fingerprint]  # once
        assert (result.pending, result.newly_enrolled) == (["e"], [])
        result = provision.enroll(home, Consent(approved=["e"]), Reach(timeout_s=60, health_s=0.2))
        assert (result.pending, result.newly_enrolled) == ([], ["e"])
        assert not (home / "current" / "operator" / "tokens" / "e").exists()
        assert {m.id for m in read_signed(home, "e").members} == {"a", "b"}
        before = tree_digest(home)
        provision.enroll(home, Consent(auto=True), FAST)
        assert tree_digest(home) == before


@contextmanager
def publisher(port: int) -> Iterator[mqtt.Client]:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, "test-publisher")
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


# -- another device for a node -------------------------------------------------------------------


@contextmanager
def claimed(device: Device) -> Iterator[None]:
    """The broker retains the claim of *device* during the block."""
    topic = claim_topic("yard", device.name)
    with publisher(device.config.broker.port) as client:
        payload = wire.encode(device.claim(), device.keys.identity)
        client.publish(topic, payload, 1, retain=True).wait_for_publish(60)
        try:
            yield
        finally:  # the broker serves other tests as well
            client.publish(topic, b"", 1, retain=True).wait_for_publish(60)


def test_a_replaced_node_gets_a_new_bundle_and_the_others_keep_theirs(home: Path) -> None:
    before = ledger_of(home)
    bundles = {name: archive_of(home, name) for name in "abcd"}
    cards = home / "cards"
    cards.mkdir()
    (cards / "b.json").write_text('{"card": "c0ffee", "hardware": "", "written_to": "/dev/sda"}')
    result = provision.replace(home, "b", "device", FAST, QUIET)
    assert (result.pending, result.notified, result.awaited) == (["b"], [], list("abcd"))
    assert result.former_card == "c0ffee"
    assert not (cards / "b.json").exists()
    entry = ledger_of(home).members["b"]
    assert (entry.status, entry.public_keys, entry.membership_digest) == ("pending", None, "")
    assert archive_of(home, "b").keys() == {"b/node.yaml", "b/token"}
    config = load_node_config(home / "current" / "nodes" / "b")
    assert (config.neighbours, config.seals, config.keys) == ([], {}, None)
    for name in "acd":
        assert archive_of(home, name) == bundles[name]
        assert ledger_of(home).members[name] == before.members[name]
    first = read_token(home / "current", "b")
    provision.replace(home, "b", "device", FAST, QUIET)
    assert read_token(home / "current", "b") != first


def test_the_claim_of_a_new_device_brings_its_keys_to_the_neighbours(home: Path) -> None:
    former = ledger_of(home).members["b"].public_keys
    provision.replace(home, "b", "device", FAST, QUIET)
    device = Device(home, "b")
    with claimed(device):
        result = provision.enroll(home, Consent(auto=True), Reach(timeout_s=60, health_s=0.2))
    assert (result.newly_enrolled, result.awaited) == (["b"], [])
    (named,) = [m for m in read_signed(home, "a").members if m.id == "b"]
    assert former is not None
    assert named.paillier == device.keys.public.paillier.to_bytes() != former.paillier
    assert {read_signed(home, name).from_round for name in "abcd"} == {0}  # no node runs
    assert read_signed(home, "b").fingerprint == device.keys.public.fingerprint


def test_the_keys_of_a_replaced_device_do_not_come_back(home: Path) -> None:
    """Its retained claim is not shown; with the former token it is refused."""
    provision.replace(home, "b", "device", FAST, QUIET)
    former = Device(home, "b")
    with claimed(former):
        provision.enroll(home, Consent(auto=True), Reach(timeout_s=60, health_s=0.2))
        assert ledger_of(home).list_members("pending") == []
        provision.replace(home, "b", "device", FAST, QUIET)
        result = provision.enroll(home, Consent(auto=True), Reach(timeout_s=2.5))
        assert (result.pending, result.refused, result.claims) == (["b"], {}, [])
    other = make_own_keys(former.folder, former.config, "others")
    found = former.look(former.claim(keys=other), other.identity)
    assert found.problem == "wrong token"


def test_a_node_may_be_replaced_with_keys_of_the_operator(home: Path) -> None:
    former = ledger_of(home).members["b"]
    result = provision.replace(home, "b", "operator", FAST, QUIET)
    assert (result.pending, result.awaited, result.notified) == ([], [], list("abcd"))
    bundle = read_bundle(home / "current" / "nodes" / "b")
    assert bundle.keys.public.fingerprint == ledger_of(home).members["b"].fingerprint
    assert bundle.keys.public.fingerprint != former.fingerprint
    assert set(bundle.neighbours) == {"a", "c"}
    neighbour = read_bundle(home / "current" / "nodes" / "a").neighbours["b"]
    assert neighbour.fingerprint == bundle.keys.public.fingerprint


def test_a_node_that_changed_its_keys_itself_can_be_replaced(home: Path) -> None:
    """Its first bundle is not valid any more, but the settings in it are kept."""
    from datetime import UTC, datetime

    from cipherfleet_provisioning.operations import accept_claims

    device = Device(home, "b", with_token=False)
    reviewed = ReviewedClaim("b", device.keys.public.fingerprint, "", claim=device.claim())
    with lock_set(home), stage_set(home) as staged:
        accept_claims(staged, ledger_of(home), [reviewed], datetime.now(UTC))
        staged.commit()
    assert not (home / "current" / "nodes" / "b").exists()
    provision.replace(home, "b", "device", FAST, QUIET)
    config = load_node_config(home / "current" / "nodes" / "b")
    assert (config.node, config.sensor) == ("b", device.config.sensor)
    assert not (home / "current" / "operator" / "settings" / "b").exists()


def test_a_node_that_is_revoked_or_unknown_is_not_replaced(home: Path) -> None:
    provision.revoke_node(home, "b", FAST)
    before = tree_digest(home)
    for name, problem in (("b", "'b' is revoked"), ("zed", "'zed' is no node of the fleet yard")):
        with pytest.raises(ConfigError, match=problem):
            provision.replace(home, name, "device", FAST, QUIET)
    assert tree_digest(home) == before


def test_with_tls_a_new_device_may_claim_as_soon_as_the_rules_are_reloaded(
    complete: Path, tmp_path: Path
) -> None:
    from datetime import UTC, datetime

    from cipherfleet_provisioning.replacement import replace_device

    home = tmp_path / "set"
    shutil.copytree(complete, home, symlinks=True)
    rules = home / "current" / "broker" / "access.txt"
    assert "user _claim-b" not in rules.read_text()
    with lock_set(home), stage_set(home) as staged:
        replace_device(staged, "b", "device", lambda _: None, datetime.now(UTC))
        staged.commit()
    assert "user _claim-b\ntopic write cf/v2/yard/claim/b\n" in rules.read_text()
    certificate = x509.load_pem_x509_certificate(archive_of(home, "b")["b/tls/node.pem"])
    assert [part.value for part in certificate.subject] == ["_claim-b"]


# -- the shield ----------------------------------------------------------------------------------

HEXAGON = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("e", "f"), ("a", "f")]


def write_shielded(folder: Path, names: str, edges: list[tuple[str, str]], port: int) -> Path:
    file = write_fleet(folder, names, edges, tls="false", port=port)
    text = file.read_text().replace("period_s: 1", "period_s: 1, shield: linear")
    file.write_text(text.replace("kind: average", "kind: mean"))
    return file


def check_agreement(home: Path, names: str) -> dict[str, Bundle]:
    """Check that all bundles have one list, and the same secret at both ends of each pair."""
    bundles = {name: read_bundle(home / "current" / "nodes" / name) for name in names}
    sections = {name: bundle.config.generations for name, bundle in bundles.items()}
    assert len({section and section.members for section in sections.values()}) == 1
    shields = {name: make_shield(bundle) for name, bundle in bundles.items()}
    by_index = {shield.index: shield for shield in shields.values() if shield}
    assert len(by_index) == len(names)
    for shield in by_index.values():
        assert shield.partners.keys() == by_index.keys() - {shield.index}
        for other, secret in shield.partners.items():
            assert by_index[other].partners[shield.index] == secret
    totals = [shield.shares(b"g1", by_index, 2, 2.0**-32) for shield in by_index.values()]
    assert [sum(column) for column in zip(*totals, strict=True)] == [0, 0]
    return bundles


def indices_of(home: Path) -> dict[str, int]:
    return {name: entry.index for name, entry in ledger_of(home).members.items()}


@pytest.fixture(scope="module")
def shielded_set(plain: RunningBroker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shielded")
    file = write_shielded(folder, "abcdef", HEXAGON, plain.port)
    provision.bundle(file, folder / "set", "operator", QUIET)
    return folder


@pytest.fixture
def shielded(shielded_set: Path, tmp_path: Path) -> Path:
    """A copy of a set with a shield: a ring of six, whose keys the operator has made."""
    shutil.copytree(shielded_set, tmp_path, symlinks=True, dirs_exist_ok=True)
    return tmp_path / "set"


def test_bundles_with_a_shield_have_partners_and_a_schedule(shielded: Path) -> None:
    bundles = check_agreement(shielded, "abcdef")
    ledger = ledger_of(shielded)
    assert compose_updates(ledger) == {}
    assert [each.id for each in ledger.participants] == list("abcdef")
    section = bundles["c"].config.generations
    assert section is not None
    assert (section.index, section.roll_call, section.mean_partners) == (2, 2 * (3 + 2), 5.0)
    assert section.every == 4 * (section.averaging + 2 * section.roll_call)
    settings_file = shielded / "current" / "nodes" / "c" / "node.yaml"
    spoilt = settings_file.read_text().replace("index: 3", "index: 9")
    settings_file.unlink()
    settings_file.write_text(spoilt)
    with pytest.raises(ConfigError, match="checksum does not match"):
        read_bundle(settings_file.parent)


def test_an_added_and_a_removed_node_change_the_list_of_every_node(
    shielded: Path, tmp_path: Path
) -> None:
    port = ledger_of(shielded).broker.port
    without_d = [("a", "b"), ("b", "c"), ("c", "e"), ("e", "f"), ("a", "f")]
    file = write_shielded(tmp_path, "abcef", without_d, port)
    result = provision.update(file, shielded, "operator", 70, FAST, QUIET)
    assert result.notified == list("abcef")  # a is neither a neighbour of d, nor a co-neighbour
    check_agreement(shielded, "abcef")
    file = write_shielded(tmp_path, "abcdefg", [*HEXAGON, ("a", "g"), ("c", "g")], port)
    result = provision.update(file, shielded, "operator", 90, FAST, QUIET)
    assert result.notified == list("abcdefg")
    check_agreement(shielded, "abcdefg")
    # 3 was that of the former d, and stays taken
    assert indices_of(shielded) == {"a": 0, "b": 1, "c": 2, "d": 6, "e": 4, "f": 5, "g": 7}
    assert ledger_of(shielded).next_index == 8
    again = provision.update(file, shielded, "operator", 90, FAST, QUIET)
    assert again.notified == []


def test_a_revoked_node_leaves_the_list_of_every_node(shielded: Path) -> None:
    result = provision.revoke_node(shielded, "d", FAST)
    assert result.notified == list("abcef")
    for name in "abcef":
        message = read_signed(shielded, name)
        assert message.generations is not None
        assert "d" not in [partner.id for partner in message.generations.partners]
    check_agreement(shielded, "abcef")
    assert indices_of(shielded)["d"] == 3


def test_links_that_are_left_too_weak_for_the_quadratic_shield_are_named(shielded: Path) -> None:
    """Without a rim, four nodes hang on the hub a, whose links weigh a fifth each."""
    spokes = [("a", name) for name in "bcde"]
    left = {name: ledger_of(shielded).members[name] for name in "abcde"}
    ledger = msgspec.structs.replace(ledger_of(shielded), members=left, edges=spokes)
    quadratic = msgspec.structs.replace(ledger, is_quadratic=True)
    text = (
        "with links of little weight the quadratic shield may keep these nodes from settling: "
        "'b', 'c', 'd', 'e'"
    )
    assert text in find_problems(quadratic, "f")
    assert text not in find_problems(ledger, "f")


def test_a_replaced_device_keeps_its_index_and_brings_every_node_its_key(shielded: Path) -> None:
    former = ledger_of(shielded).members["d"]
    result = provision.replace(shielded, "d", "operator", FAST, QUIET)
    assert result.notified == list("abcdef")
    check_agreement(shielded, "abcdef")
    entry = ledger_of(shielded).members["d"]
    assert entry.index == former.index
    assert entry.public_keys != former.public_keys


def test_the_list_stays_until_every_node_can_get_the_new_one(
    shielded: Path, tmp_path: Path
) -> None:
    """d waits for its new device; meanwhile g, which is far from it, comes into the fleet."""
    before = ledger_of(shielded).participants
    result = provision.replace(shielded, "d", "device", FAST, QUIET)
    assert (result.pending, result.notified) == (["d"], [])
    port = ledger_of(shielded).broker.port
    file = write_shielded(tmp_path, "abcdefg", [*HEXAGON, ("a", "g"), ("b", "g")], port)
    provision.update(file, shielded, "operator", 70, FAST, QUIET)
    ledger = ledger_of(shielded)
    assert ledger.participants == before
    digests = {name: ledger.members[name].list_digest for name in "abcef"}
    assert len(set(digests.values())) == 1
    alone = read_signed(shielded, "g").generations
    assert alone is not None
    assert (alone.index, alone.partners) == (6, [])
    device = Device(shielded, "d")
    with claimed(device):
        enrolled = provision.enroll(shielded, Consent(auto=True), Reach(timeout_s=60, health_s=0.2))
    assert (enrolled.newly_enrolled, enrolled.awaited) == (["d"], [])
    assert [each.id for each in ledger_of(shielded).participants] == list("abcdefg")
    messages = [read_signed(shielded, name) for name in "abcdefg"]
    assert len({digest_list(message) for message in messages}) == 1
    for message in messages:
        assert message.generations is not None
        keys = {partner.id: partner.seal for partner in message.generations.partners}
        if message.receiver != "d":
            assert keys["d"] == device.keys.public.seal.public_bytes_raw()


def test_devices_that_enrol_one_after_another_get_one_list(
    tmp_path: Path, plain: RunningBroker
) -> None:
    """Each list has the nodes whose keys are known by then."""
    home = tmp_path / "set"
    file = write_shielded(tmp_path, "abcdef", HEXAGON, plain.port)
    provision.bundle(file, home, "device", QUIET)
    now = datetime.now(UTC)
    known: list[int] = []
    for name in "abcdef":
        device = Device(home, name)
        reviewed = ReviewedClaim(name, device.keys.public.fingerprint, "", claim=device.claim())
        with lock_set(home), stage_set(home) as staged:
            ledger = accept_claims(staged, ledger_of(home), [reviewed], now)
            ledger = issue_memberships(staged, ledger, compose_updates(ledger), 5)
            staged.commit()
        holders = [entry for entry in ledger.members.values() if entry.membership_digest]
        assert len({entry.list_digest for entry in holders}) <= 1
        known.append(len(ledger.participants) if holders else 0)
    assert known == [0, 0, 0, 0, 5, 6]
    sections = [read_signed(home, name).generations for name in "abcdef"]
    assert {section and section.index for section in sections} == set(range(6))


def test_a_membership_for_new_keys_has_the_list_in_force(shielded: Path) -> None:
    with pytest.raises(CipherfleetError, match="'c' has not claimed new keys within 1 s"):
        provision.rotate(shielded, "c", "keys", None, FAST)
    message = read_signed(shielded, "c")
    assert message.rekey
    assert digest_list(message) == ledger_of(shielded).members["c"].list_digest != ""
    config = load_node_config(shielded / "current" / "nodes" / "c")
    check_membership(message, config)


def test_a_graph_that_is_too_wide_for_its_generations_is_refused(
    shielded: Path, tmp_path: Path
) -> None:
    port = ledger_of(shielded).broker.port
    every = ledger_of(shielded).schedule
    assert every is not None
    names = [*"abcdef", *(f"n{i}" for i in range(2 * every.longest_roll_call))]
    text = write_shielded(tmp_path, "abcdef", HEXAGON, port).read_text()
    added = "".join(NODE.format(id=name) for name in names[6:])
    text = re.sub("topology: .*", "topology: {kind: ring}", text) + added
    (tmp_path / "fleet.yaml").write_text(text)
    before = tree_digest(shielded)
    with pytest.raises(ConfigError, match="the graph would have diameter"):
        provision.update(tmp_path / "fleet.yaml", shielded, "device", 70, FAST, QUIET)
    assert tree_digest(shielded) == before


def test_a_fleet_without_a_shield_has_no_list(complete: Path) -> None:
    ledger = ledger_of(complete)
    assert (ledger.schedule, ledger.participants) == (None, [])
    assert read_bundle(complete / "current" / "nodes" / "a").config.generations is None


# -- a node leaves at once -----------------------------------------------------------------------


def test_revoking_tells_the_others_at_once(tmp_path: Path, home: Path) -> None:
    result = provision.revoke_node(home, "b", FAST)
    assert result.notified == ["a", "c", "d"]
    assert read_signed(home, "a").from_round == 0
    assert [m.id for m in read_signed(home, "a").members] == ["c", "d"]
    assert ledger_of(home).members["b"].status == "revoked"
    assert ledger_of(home).members["b"].certificate == ""
    for place in ("nodes/b", "archives/b.tar.gz", "memberships/b"):
        assert not (home / "current" / place).exists()
    assert not provision.revoke_node(home, "b", FAST).changed
    with pytest.raises(ConfigError, match="'b' is revoked: remove it from nodes"):
        provision.update(tmp_path / "fleet.yaml", home, "operator", 0, FAST, QUIET)


def test_a_revocation_is_done_whatever_it_leaves_and_says_how_to_repair_that(home: Path) -> None:
    result = provision.revoke_node(home, "a", FAST)
    assert (result.revoked, result.notified) == (["a"], list("bcd"))
    assert [m.id for m in read_signed(home, "b").members] == ["c"]
    update = "and run: cipherfleet provision update FILE DIR"
    assert result.warnings == [
        "with one neighbour only, these nodes keep their estimates, since a sealed sum over one "
        "hides nothing: 'b', 'd'",
        f"remedy: remove 'a' from fleet.yaml, add edges to fleet.yaml, such as [b, d], {update}",
    ]
    result = provision.revoke_node(home, "c", FAST)
    assert result.notified == ["b", "d"]
    assert read_signed(home, "b").members == []
    assert result.warnings == [
        "the fleet is in 2 parts, each with an answer of its own: 'b' | 'd'",
        "without a neighbour, these nodes wait: 'b', 'd'",
        "remedy: remove 'c' from fleet.yaml, add nodes to fleet.yaml (this fleet needs 3), "
        f"{update}",
    ]
    again = provision.revoke_node(home, "c", FAST)
    assert (again.changed, again.warnings) == (False, result.warnings)
    before = tree_digest(home)
    with pytest.raises(ConfigError, match="'zed' is no node of the fleet yard"):
        provision.revoke_node(home, "zed", FAST)
    assert tree_digest(home) == before


def test_a_fleet_is_repaired_as_a_revocation_says(home: Path, tmp_path: Path) -> None:
    provision.revoke_node(home, "a", FAST)
    port = ledger_of(home).broker.port
    edges = [("b", "c"), ("c", "d"), ("b", "d")]
    file = write_fleet(tmp_path, "bcd", edges, tls="false", port=port)
    result = provision.update(file, home, "device", 70, FAST, QUIET)
    assert (result.notified, result.removed) == (list("bcd"), [])
    assert [m.id for m in read_signed(home, "b").members] == ["c", "d"]


graphs = st.integers(1, 7).flatmap(
    lambda n: st.builds(
        lambda edges: Graph(tuple("abcdefg"[:n]), tuple(sorted(edges))),
        st.sets(st.sampled_from([*itertools.combinations("abcdefg"[:n], 2), ("a", "a")])),
    )
).map(lambda graph: Graph(graph.ids, tuple(e for e in graph.edges if e[0] != e[1])))  # fmt: skip


@given(graphs, st.sampled_from([1, 2]))
def test_the_proposed_edges_repair_any_graph(graph: Graph, least: int) -> None:
    added = propose_edges(graph, least)
    assert not {*added} & {*graph.edges}
    repaired = Graph(graph.ids, tuple({*graph.edges, *added}))
    assert len(repaired.parts()) == 1
    assert all(repaired.degree(name) >= min(least, len(graph.ids) - 1) for name in graph.ids)
    if len(graph.parts()) == 1 and all(graph.degree(name) >= least for name in graph.ids):
        assert added == []


def test_a_revocation_is_written_down_even_if_the_broker_is_away(tmp_path: Path) -> None:
    home = make(tmp_path, "operator", port=1)
    with pytest.raises(
        BrokerUnreachable, match="revoked in the set, but its neighbours were not informed: no work"
    ):
        provision.revoke_node(home, "b", FAST)
    assert ledger_of(home).members["b"].status == "revoked"
    assert "user b\n" not in (home / "current" / "broker" / "access.txt").read_text()


def test_nothing_is_told_before_a_neighbourhood_is_complete(tmp_path: Path) -> None:
    home = make(tmp_path)
    ledger = ledger_of(home)
    assert compose_updates(ledger) == {}
    assert find_blocked(ledger) == list("abcd")


def test_rotating_a_node_that_is_away_says_so(home: Path) -> None:
    with pytest.raises(CipherfleetError, match="'c' has not claimed new keys within 1 s"):
        provision.rotate(home, "c", "keys", None, FAST)
    assert read_signed(home, "c").rekey
    version = ledger_of(home).version
    with pytest.raises(CipherfleetError, match="run this command again"):
        provision.rotate(home, "c", "keys", None, FAST)
    assert ledger_of(home).version == version  # asked once
    with pytest.raises(ConfigError, match="there are no certificates"):
        provision.rotate(home, "c", "certificate", None, FAST)


# -- the commands -------------------------------------------------------------------------------


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_here("provision", *arguments)


def test_the_commands_print_json_and_no_secret(tmp_path: Path, plain: RunningBroker) -> None:
    file, home = write_fleet(tmp_path, **port_of(plain)), tmp_path / "set"
    made = run("bundle", file, home, "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["pending"] == list("abcd")
    enrolled = run("enroll", home, "--auto", "--timeout", "1", "--json")
    assert enrolled.returncode == 0, enrolled.stderr
    assert json.loads(enrolled.stdout)["awaited"] == list("abcd")
    absent = run("enroll", home, "--approve", "a", "--timeout", "1")
    assert absent.returncode == 1
    assert "not seen: a" in absent.stdout
    token = (home / "current" / "operator" / "tokens" / "a").read_bytes()
    for text in (made.stdout, enrolled.stdout, absent.stdout + absent.stderr):
        assert token.hex() not in text
        assert "PRIVATE" not in text


def test_exit_codes_say_what_failed(tmp_path: Path) -> None:
    home = make(tmp_path, port=1)
    usage = run("rotate", home)
    assert (usage.returncode, "Missing argument" in usage.stderr) == (2, True)
    no_set = run("enroll", tmp_path / "nowhere", "--auto")
    assert no_set.returncode == 3
    assert "make it with: cipherfleet provision bundle FILE DIR" in no_set.stderr
    unreachable = run("enroll", home, "--auto", "--timeout", "1")
    assert unreachable.returncode == 4
    assert "--broker HOST:PORT" in unreachable.stderr
    for done in (usage, no_set, unreachable):
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
