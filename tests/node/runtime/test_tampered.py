"""A node folder with changed files: the node's error, and the fleet that goes on."""

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import gmpy2
import msgspec
import pytest

from cipherfleet_broker import start_broker
from cipherfleet_deploy.local.processes import LocalFleet, NodeProcess
from cipherfleet_node import __main__ as node_command
from cipherfleet_node.core.state import first_state
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.keys.key_files import (
    read_keys,
    read_neighbour,
    seal_to_text,
    write_public,
)
from cipherfleet_node.runtime.store import Store
from cipherfleet_node.settings.node_yaml import checksum_of
from cipherfleet_node.settings.sections import Broker, NodeConfig, Simulation
from cipherfleet_node.settings.yaml_document import read_document
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.certificates import (
    Certified,
    issue_client,
    make_authority,
    secure,
)
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet
from tests.support.launcher import shared_launcher

pytestmark = pytest.mark.fleet

NOW = datetime.now(UTC)
READINGS = [18.0, 21.5, 19.25, 24.0, 20.0]
TEXT = """\
config_version: 1
fleet: yard
broker: {tls: true}
crypto: {key_bits: 512, allow_weak_keys: true}
algorithm: {%s, answer_timeout_s: 2, start_timeout_s: 2}
objective: {kind: average, values: [{field: celsius}]}
topology: {kind: complete}
nodes:
  - {each: 5, id: "n{n}", sensor: {kind: csv, path: readings.csv, where: {room: "{n}"}}}
"""
SMALL_ORDER = base64.b64encode(bytes(32)).decode()
REISSUE = "get the bundle again from provisioning"
TLS_ANEW = "get the folder tls again from provisioning"


@dataclass(frozen=True)
class Yard:
    """A fleet of five, everybody everybody's neighbour, with an authority of its own."""

    fleet: Fleet
    authority: Certified
    bundles: dict[str, Path]


def yard_in(folder: Path, rounds: str, broker: Broker, authority: Certified) -> Yard:
    fleet = fleet_in(folder, rounds)
    simulation = Simulation(trace_estimates=True)
    bundles = write_bundles(fleet, folder / "nodes", broker, simulation, authority=authority)
    return Yard(fleet, authority, bundles)


def fleet_in(folder: Path, rounds: str) -> Fleet:
    rows = "".join(f"{n},{value!r}\n" for n, value in enumerate(READINGS, 1))
    (folder / "readings.csv").write_text("room,celsius\n" + rows)
    (folder / "fleet.yaml").write_text(TEXT % rounds)
    fleet = load_fleet(folder / "fleet.yaml")
    assert fleet.file.crypto.exchange == "sealed"
    return fleet


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    """No broker listens: the test stops a node that tries to connect."""
    folder = tmp_path_factory.mktemp("yard")
    address = Broker(host="127.0.0.1", port=1, tls=True)
    return yard_in(folder, "rounds: 9", address, make_authority("yard", NOW))


# -- ways to tamper --------------------------------------------------------------------------------

Tamper = Callable[[Path, Yard], None]


def rewritten(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """*file* of JSON after *change*."""
    document = json.loads(file.read_bytes())
    change(document)
    file.write_text(json.dumps(document))


def resettled(
    folder: Path, change: Callable[[dict[str, Any]], object], *, checksum: bool = False
) -> None:
    """node.yaml after *change*, with a checksum that fits if *checksum*."""
    file = folder / "node.yaml"
    settings = read_document(file).data
    change(settings)
    file.write_text(json.dumps(settings))  # JSON is YAML
    if checksum:
        settings["checksum"] = checksum_of(msgspec.convert(settings, NodeConfig))
        file.write_text(json.dumps(settings))


def neighbour(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> Tamper:
    """*change* in n1's file of n2, given n3's."""

    def tamper(folder: Path, _yard: Yard) -> None:
        other = json.loads((folder / "neighbours/n3.json").read_bytes())
        rewritten(folder / "neighbours/n2.json", lambda document: change(document, other))

    return tamper


def settings(change: Callable[[dict[str, Any]], object], *, checksum: bool = False) -> Tamper:
    return lambda folder, _yard: resettled(folder, change, checksum=checksum)


def replaced(name: str, data: bytes) -> Tamper:
    return lambda folder, _yard: put(folder / name, data)


def put(file: Path, data: bytes) -> None:
    file.write_bytes(data)


def cut(name: str) -> Tamper:
    return lambda folder, _yard: put(
        folder / name, (folder / name).read_bytes()[: (folder / name).stat().st_size // 2]
    )


def removed(name: str) -> Tamper:
    return lambda folder, _yard: (folder / name).unlink()


def opened(name: str) -> Tamper:
    return lambda folder, _yard: (folder / name).chmod(0o644)


def of_another(*names: str) -> Tamper:
    """The files *names* of n3."""

    def tamper(folder: Path, yard: Yard) -> None:
        for name in names:
            put(folder / name, (yard.bundles["n3"] / name).read_bytes())

    return tamper


def number(value: int) -> str:
    data = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def another_n(document: dict[str, Any], _other: object) -> None:
    text = document["paillier"]["n"]
    document["paillier"]["n"] = text[:20] + ("B" if text[20] == "A" else "A") + text[21:]


def another_prime(folder: Path, _yard: Yard) -> None:
    prime = int(gmpy2.next_prime(3 << 254))
    rewritten(folder / "keys/paillier.json", lambda document: document.update(p=number(prime)))


def no_prime(folder: Path, _yard: Yard) -> None:
    rewritten(folder / "keys/paillier.json", lambda d: d.update(p=number(3 << 254 | 1)))


def swap_seals(config: dict[str, Any]) -> None:
    seals = config["seals"]
    seals["n3"], seals["n4"] = seals["n4"], seals["n3"]


def certified(make: Callable[[Certified], Certified]) -> Tamper:
    """What *make* issues of the fleet's authority, in the place of n1's certificate and key."""

    def tamper(folder: Path, yard: Yard) -> None:
        made = make(yard.authority)
        made.write(folder / "tls/node.pem", folder / "tls/node.key")

    return tamper


def only_certificate(folder: Path, yard: Yard) -> None:
    made = issue_client(yard.authority, "n1", NOW)
    made.write(folder / "tls/node.pem", folder / "spare.key")


def authority_swapped(folder: Path, _yard: Yard) -> None:
    put(folder / "tls/ca.pem", make_authority("yard", NOW).pem)


def saved(folder: Path, node: str = "n1") -> Path:
    """A saved state of *node* in *folder*, two generations; the folder of it."""
    store = Store(folder)
    for k in (3, 4):
        made = first_state("yard", node, b"", 1, draw=0)
        store.save(msgspec.structs.replace(made, round=k, estimate=[20.0], continuous=True))
    store.close()
    return folder / "state"


def both_damaged(folder: Path, _yard: Yard) -> None:
    for file in ("current", "previous"):
        put(saved(folder) / file, b"\0" * 200)
    put(folder / "state/current", b"\0" * 200)


def state_of_another(folder: Path, _yard: Yard) -> None:
    saved(folder, "n3")


CASES: dict[str, tuple[Tamper, str, str]] = {
    # name: how, which file the message names (regular expression), which remedy
    "neighbour's n": (neighbour(another_n), r"neighbours/n2\.json: the keys? of 'n2'", REISSUE),
    "neighbour's identity": (
        neighbour(lambda d, o: d.update(identity=o["identity"])),
        r"neighbours/n2\.json: the keys of 'n2' have fingerprint",
        REISSUE,
    ),
    "neighbour's seal": (
        neighbour(lambda d, o: d.update(seal=o["seal"])),
        r"neighbours/n2\.json: the keys of 'n2' have fingerprint",
        REISSUE,
    ),
    "neighbour's seal is no key": (
        neighbour(lambda d, _o: d.update(seal="AAAA")),
        r"n2\.json: seal is not 32 bytes",
        REISSUE,
    ),
    "neighbour's n is no text": (
        neighbour(lambda d, _o: d["paillier"].update(n=7)),
        r"n2\.json: n is missing",
        REISSUE,
    ),
    "neighbour's n is short": (
        neighbour(lambda d, _o: d["paillier"].update(n="Aw")),
        r"n2\.json: the key of 'n2'",
        REISSUE,
    ),
    "another neighbour's file": (
        lambda folder, _: put(
            folder / "neighbours/n2.json", (folder / "neighbours/n3.json").read_bytes()
        ),
        r"neighbours/n2\.json: the keys of 'n2' have fingerprint",
        REISSUE,
    ),
    "neighbour truncated": (
        cut("neighbours/n2.json"),
        r"neighbours/n2\.json: is not JSON",
        REISSUE,
    ),
    "neighbour empty": (replaced("neighbours/n2.json", b""), r"n2\.json: is not JSON", REISSUE),
    "neighbour missing": (
        removed("neighbours/n2.json"),
        r"n2\.json: cannot be read: No su",
        REISSUE,
    ),
    "neighbour not UTF-8": (
        replaced("neighbours/n2.json", b"\xff{}"),
        r"n2\.json: is not J",
        REISSUE,
    ),
    "neighbour a list": (
        replaced("neighbours/n2.json", b"[]"),
        r"n2\.json: is not a JSON",
        REISSUE,
    ),
    "neighbour nested": (
        replaced("neighbours/n2.json", b"[" * 100_000),
        r"n2\.json: is not JSON",
        REISSUE,
    ),
    # -- node.yaml -------------------------------------------------------------------------------
    "fingerprint": (
        settings(lambda c: c["neighbours"][0].update(fingerprint="0" * 64)),
        r"node\.yaml:\d+:\d+: checksum does not match: .*neighbours",
        REISSUE,
    ),
    "fingerprint and checksum": (
        settings(lambda c: c["neighbours"][0].update(fingerprint="0" * 64), checksum=True),
        r"neighbours/n2\.json: the keys of 'n2' have .* the configuration pins 0000",
        REISSUE,
    ),
    "neighbour left out": (
        settings(lambda c: c["neighbours"].pop()),
        r"node\.yaml:\d+:\d+: checksum does not",
        REISSUE,
    ),
    "neighbours of a neighbour": (
        settings(lambda c: c["neighbours"][0]["neighbours"].remove("n5")),
        r"node\.yaml:\d+:\d+: checksum does not match",
        REISSUE,
    ),
    "this node not among them": (
        settings(lambda c: c["neighbours"][0]["neighbours"].remove("n1")),
        r"node\.yaml:\d+:\d+: neighbours\[0\]\.neighbours lacks 'n1'",
        REISSUE,
    ),
    "seals swapped": (
        settings(swap_seals),
        r"node\.yaml:\d+:\d+: checksum does not .*seals",
        REISSUE,
    ),
    "seals swapped and checksum": (
        settings(swap_seals, checksum=True),
        r"node\.yaml: seals\.n3 is not the seal in n3\.json",
        REISSUE,
    ),
    "seal removed": (
        settings(lambda c: c["seals"].pop("n3")),
        r"node\.yaml:\d+:\d+: seals lacks 'n3'",
        REISSUE,
    ),
    "seal of small order": (
        settings(lambda c: c["seals"].update(n3=SMALL_ORDER)),
        r"node\.yaml:.*checksum",
        REISSUE,
    ),
    "checksum removed": (settings(lambda c: c.pop("checksum")), r"node\.yaml:.* checksum", REISSUE),
    "fleet's name": (settings(lambda c: c.update(fleet="yurt")), r"node\.yaml:.*checksum", REISSUE),
    "node's name": (settings(lambda c: c.update(node="n9")), r"node\.yaml:.* lacks 'n9'", REISSUE),
    "key size": (
        settings(lambda c: c["crypto"].update(key_bits=1024)),
        r"keys/paillier\.json: the key has 512 bits, crypto\.key_bits is 1024",
        "correct crypto.key_bits in node.yaml",
    ),
    "settings missing": (removed("node.yaml"), r"node\.yaml: cannot be read", REISSUE),
    "settings empty": (replaced("node.yaml", b""), r"node\.yaml:1:1: is empty", REISSUE),
    "settings not UTF-8": (
        replaced("node.yaml", b"fleet: \xff\xfe\n"),
        r"node\.yaml: is not UTF-8",
        REISSUE,
    ),
    # -- own keys --------------------------------------------------------------------------------
    "p another prime": (
        another_prime,
        r"keys/paillier\.json: primes does not belong to p",
        REISSUE,
    ),
    "p no prime": (no_prime, r"keys/paillier\.json: p and q are not two primes", REISSUE),
    "paillier of another": (
        of_another("keys/paillier.json"),
        r"keys/paillier\.json: is not",
        REISSUE,
    ),
    "paillier truncated": (cut("keys/paillier.json"), r"keys/paillier\.json: is not JSON", REISSUE),
    "paillier missing": (removed("keys/paillier.json"), r"paillier\.json: cannot be read", REISSUE),
    "identity of another": (
        of_another("keys/identity.pem"),
        r"keys/identity\.pem: is not this node's key",
        REISSUE,
    ),
    "seal of another": (
        of_another("keys/seal.pem"),
        r"keys/seal\.pem: is not this node's k",
        REISSUE,
    ),
    "seal truncated": (cut("keys/seal.pem"), r"keys/seal\.pem: is not an unencrypted PEM", REISSUE),
    "seal in the place of identity": (
        lambda folder, _: put(
            folder / "keys/identity.pem", (folder / "keys/seal.pem").read_bytes()
        ),
        r"keys/identity\.pem: is not an Ed25519 key",
        REISSUE,
    ),
    **{
        f"{name} open": (opened(name), rf"{re.escape(name)}: has mode 0644", "chmod 600")
        for name in ("keys/paillier.json", "keys/identity.pem", "keys/seal.pem", "tls/node.key")
    },
    # -- certificates ----------------------------------------------------------------------------
    "certificate of another": (
        of_another("tls/node.pem", "tls/node.key"),
        r"tls/node\.pem: is the certificate of 'n3', not of 'n1'",
        TLS_ANEW,
    ),
    "certificate of another authority": (
        certified(lambda _: issue_client(make_authority("yard", NOW), "n1", NOW)),
        r"tls/node\.pem: was not issued by the authority in ca\.pem",
        TLS_ANEW,
    ),
    "certificate expired": (
        certified(lambda a: issue_client(a, "n1", NOW - timedelta(days=9), days=2)),
        r"tls/node\.pem: expired at",
        TLS_ANEW,
    ),
    "certificate not yet valid": (
        certified(lambda a: issue_client(a, "n1", NOW + timedelta(days=9), days=2)),
        r"tls/node\.pem: is not valid before",
        "set the clock",
    ),
    "certificate of another key": (only_certificate, r"tls/node\.key: is not the key", TLS_ANEW),
    "certificate truncated": (cut("tls/node.pem"), r"tls/node\.pem: is not a certif", TLS_ANEW),
    "authority swapped": (authority_swapped, r"node\.pem: was not issued .* ca\.pem", TLS_ANEW),
    "authority truncated": (cut("tls/ca.pem"), r"tls/ca\.pem: is not a certificate", TLS_ANEW),
}
STATES: dict[str, tuple[Tamper, str, str]] = {
    "both states damaged": (both_damaged, r"state: both generations of the sta", "remove the fold"),
    "state of another node": (
        state_of_another,
        r"state/current: the saved state belongs to yard/n3",
        "remove the folder 'state'",
    ),
}


def private_texts(yard: Yard) -> list[str]:
    """Every secret of the folders as it stands in their files."""
    texts = []
    for folder in yard.bundles.values():
        document = json.loads((folder / "keys/paillier.json").read_bytes())
        texts += [document["p"], document["q"]]
        for file in ("keys/identity.pem", "keys/seal.pem", "tls/node.key"):
            texts.append((folder / file).read_text().splitlines()[1][-40:])
    return texts


def check(yard: Yard, wording: str, where: str, remedy: str) -> None:
    """*wording* is a line for each mistake, which names file and remedy, and no secret."""
    assert re.search(where, wording), wording
    assert remedy, "every message names a remedy"
    assert all(remedy in line for line in wording.splitlines()), wording
    assert "Traceback" not in wording
    assert not [text for text in private_texts(yard) if text in wording]


def start(folder: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "cipherfleet_node", "run", str(folder)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("case", CASES)
def test_what_was_tampered_with_is_named_with_its_mend(
    case: str, yard: Yard, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(yard.bundles["n1"], tmp_path / "n1")
    assert node_command.main(["check-config", str(folder)]) == 0
    tamper, where, remedy = CASES[case]
    capsys.readouterr()
    tamper(folder, yard)
    assert node_command.main(["check-config", str(folder)]) == 3
    result = capsys.readouterr()
    assert result.out == ""
    check(yard, result.err, where, remedy)


STARTED = ("neighbour truncated", "seals swapped", "identity of another", "certificate expired")


@pytest.mark.parametrize("case", [*STARTED, *STATES])
def test_a_node_that_was_tampered_with_does_not_start(
    case: str, yard: Yard, tmp_path: Path
) -> None:
    folder = shutil.copytree(yard.bundles["n1"], tmp_path / "n1")
    tamper, where, remedy = {**CASES, **STATES}[case]
    tamper(folder, yard)
    ended = start(folder)
    assert (ended.returncode, ended.stdout) == (3, "")
    check(yard, ended.stderr, where, remedy)


def test_a_changed_byte_of_a_neighbours_file_is_noticed_or_changes_no_key(
    yard: Yard, tmp_path: Path
) -> None:
    """Every byte of it in turn."""
    folder = shutil.copytree(yard.bundles["n1"], tmp_path / "n1")
    file = folder / "neighbours/n2.json"
    whole = file.read_bytes()
    (pinned,) = (
        entry["fingerprint"]
        for entry in read_document(folder / "node.yaml").data["neighbours"]
        if entry["id"] == "n2"
    )
    noticed = 0
    for place in range(len(whole)):
        put(file, whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            read_neighbour(folder, "n2", pinned, 512)  # it checks the pin
        except ConfigError as error:
            check(yard, str(error), r"neighbours/n2\.json", REISSUE)
            noticed += 1
    assert noticed > 200, "86 characters of n, 44 each of identity and seal, and their names"


# -- the fleet goes on -----------------------------------------------------------------------------


@contextmanager
def served(folder: Path, rounds: str) -> Iterator[tuple[Yard, LocalFleet]]:
    """A fleet on a broker with TLS and access rules, not started yet."""
    authority = make_authority("yard", NOW)
    security = secure(fleet_in(folder, rounds), authority, folder, NOW)
    with start_broker("embedded", security=security) as broker:
        address = Broker(host=broker.host, port=broker.port, tls=True)
        yard = yard_in(folder, rounds, address, authority)
        with LocalFleet(yard.bundles, 120.0, launcher=shared_launcher()) as nodes:
            yield yard, nodes


def until(condition: Callable[[], bool], nodes: Iterable[NodeProcess]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
        for node in nodes:
            node.read()


def advance(nodes: Collection[NodeProcess], rounds: int = 5) -> None:
    """Every one of *nodes* closes *rounds* more rounds with an answer of all the others of them."""
    for node in nodes:
        node.read()
    before = {node.id: len(node.rounds) for node in nodes}
    most = 5 - len(nodes)

    def good(node: NodeProcess) -> bool:
        late = node.rounds[before[node.id] :][-rounds:]
        return len(late) == rounds and all(line["silent"] <= most for line in late)

    until(lambda: all(good(node) for node in nodes), nodes)


def stop(node: NodeProcess) -> None:
    assert node.process is not None
    node.process.terminate()
    assert node.process.wait(60) == 0


@contextmanager
def tampered(folder: Path, yard: Yard, tamper: Tamper) -> Iterator[None]:
    """*folder* is tampered with; it is fixed at the end, but for what the node wrote since."""
    kept = shutil.copytree(folder, folder.parent.parent / f"{folder.name}-kept")
    tamper(folder, yard)
    yield
    for name in ("keys", "tls", "neighbours"):
        shutil.rmtree(folder / name)
        shutil.copytree(kept / name, folder / name)
    shutil.copy2(kept / "node.yaml", folder / "node.yaml")
    shutil.rmtree(kept)


def test_the_others_finish_with_the_right_answer_without_one_that_does_not_start(
    tmp_path: Path,
) -> None:
    with served(tmp_path, "rounds: 30") as (yard, nodes):
        neighbour(another_n)(yard.bundles["n1"], yard)
        others = [nodes.nodes[name] for name in ("n2", "n3", "n4", "n5")]
        for node in others:
            node.start()
        ended = start(yard.bundles["n1"])
        assert ended.returncode == 3
        check(yard, ended.stderr, r"neighbours/n2\.json", REISSUE)
        until(lambda: all(len(node.estimates) == 30 for node in others), others)
        for node in others:
            stop(node)  # they would wait for the first to finish, too
    expected = sum(READINGS[1:]) / 4
    for node in others:
        assert node.estimates[29] == pytest.approx([expected], abs=1e-4)
        assert "Traceback" not in node.log.read_text()


def foreign(folder: Path, _yard: Yard) -> None:
    """Everything of another authority: it all fits together."""
    other = make_authority("yard", NOW)
    put(folder / "tls/ca.pem", other.pem)
    issue_client(other, "n5", NOW).write(folder / "tls/node.pem", folder / "tls/node.key")


def seal_of_another(folder: Path, yard: Yard) -> None:
    """n4 takes the seal of n2 for n3's; all in its folder fits together."""
    crypto = yard.fleet.file.crypto
    n2, n3 = (read_keys(yard.bundles[name], crypto).public for name in ("n2", "n3"))
    mixed = replace(n3, seal=n2.seal)
    write_public(folder / "neighbours/n3.json", mixed)

    def change(config: dict[str, Any]) -> None:
        config["seals"]["n3"] = seal_to_text(n2.seal)
        (entry,) = (each for each in config["neighbours"] if each["id"] == "n3")
        entry["fingerprint"] = mixed.fingerprint

    resettled(folder, change, checksum=True)


def checked(folder: Path) -> dict[str, Any]:
    """What check-config tells of *folder*."""
    words = [sys.executable, "-m", "cipherfleet_node", "check-config", "--json", str(folder)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    result: dict[str, Any] = json.loads(ended.stdout)
    return result


def test_a_node_that_was_tampered_with_rejoins_once_mended(tmp_path: Path) -> None:
    with served(tmp_path, "period_s: 0.1") as (yard, nodes):
        nodes.start()
        everyone = list(nodes.nodes.values())
        advance(everyone)
        the_broker_refuses_it(yard, nodes)
        its_state_is_damaged(nodes)
        advance(everyone)
        it_takes_a_seal_for_anothers(yard, nodes)
        advance(everyone)
        latest = [node.estimates[max(node.estimates)][0] for node in everyone]
        assert max(latest) - min(latest) < 0.05
        for node in everyone:
            stop(node)
            assert "Traceback" not in node.log.read_text()


def the_broker_refuses_it(yard: Yard, nodes: LocalFleet) -> None:
    node = nodes.nodes["n5"]
    others = [each for each in nodes.nodes.values() if each is not node]
    stop(node)
    with tampered(node.folder, yard, foreign):
        ended = start(node.folder)
        assert ended.returncode == 4
        check(
            yard, ended.stderr.splitlines()[-1], r"not trusting the broker .* tls/ca\.pem", REISSUE
        )
        advance(others)
    node.start()


def its_state_is_damaged(nodes: LocalFleet) -> None:
    node = nodes.nodes["n2"]
    stop(node)
    put(node.folder / "state/current", b"?")
    node.start()
    until(lambda: "the latest state is damaged" in node.log.read_text(), [node])


def it_takes_a_seal_for_anothers(yard: Yard, nodes: LocalFleet) -> None:
    """Nothing shows it on n4; the sums of n1, n2 and n5 do not open, they tell where to look."""
    node, asker = nodes.nodes["n4"], nodes.nodes["n1"]
    stop(node)
    with tampered(node.folder, yard, seal_of_another):
        node.start()
        words = "for 3 rounds the answers of n2, n3, n4, n5 have not opened together"
        until(lambda: words in asker.log.read_text(), [asker])
        assert "and compare seal and seals" in asker.log.read_text()
        found = {name: checked(yard.bundles[name]) for name in ("n2", "n3", "n4", "n5")}
        wrong = [
            (name, other)
            for name, other in itertools.permutations(found, 2)
            if found[name]["seals"][other] != found[other]["seal"]
        ]
        assert wrong == [("n4", "n3")]
        stop(node)
    node.start()
