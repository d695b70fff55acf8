"""Node folders: complete, private, and written as a whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import msgspec
import psutil
import pytest

from cipherfleet_node.core.parameters import shared_parameters
from cipherfleet_node.errors import CipherfleetError, ConfigError
from cipherfleet_node.keys.fixed_base import ROWS
from cipherfleet_node.keys.key_files import NodeKeys, assemble_keys, read_keys, write_keys
from cipherfleet_node.runtime.assembly import make_shield
from cipherfleet_node.runtime.bundle import read_bundle
from cipherfleet_node.runtime.kept_bases import KeptBases
from cipherfleet_node.runtime.self_test import check_exchanges
from cipherfleet_node.settings.node_yaml import load_node_config
from cipherfleet_node.settings.sections import Broker, Crypto, Simulation, SyntheticSensor
from cipherfleet_provisioning import bundles as bundles_module
from cipherfleet_provisioning import key_making
from cipherfleet_provisioning.bundles import node_config, write_bundles
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet
from cipherfleet_provisioning.key_making import WEAK_BITS, make_keys

BROKER = Broker(port=18830)
TOY = Crypto(key_bits=512, allow_weak_keys=True)
# Ids that some reader of YAML takes for numbers, and a reading that is nobody else's.
READINGS = {"08": "21.70901", "1e3": "22.70902", "a-b": "23.70903", "no": "24.70904"}
TEXT = """\
config_version: 1
fleet: "007"
crypto: {{key_bits: 512, allow_weak_keys: true}}
algorithm: {{rounds: 4, period_s: 1e-1, resolution: 1e-6, scale: 2}}
objective: {{kind: mean, values: [{{field: t, offset: 20}}], minibatch: 1}}
topology: {{edges: [["08", "1e3"], ["1e3", "a-b"], ["a-b", "no"], ["no", live]]}}
nodes:
{nodes}  - {{id: live, sensor: {{kind: synthetic, fields: {{t: {{mean: 20, deviation: 1}}}}}}}}
"""


def write_fleet(folder: Path) -> Fleet:
    (folder / "t.csv").write_text(
        "room,t,note\n" + "".join(f'{n},{t},"of {n}, é"\n' for n, t in READINGS.items())
    )
    nodes = "".join(
        f'  - {{id: "{n}", sensor: {{kind: csv, path: t.csv, where: {{room: "{n}"}}, '
        "limits: {t: [0, 99]}, timeout_s: 2}}\n"
        for n in READINGS
    )
    (folder / "fleet.yaml").write_text(TEXT.format(nodes=nodes))
    return load_fleet(folder / "fleet.yaml")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return write_fleet(tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="module")
def bundles(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of the fleet, made under a umask that hides nothing."""
    umask = os.umask(0)
    try:
        target = tmp_path_factory.mktemp("made") / "deep" / "nodes"
        return write_bundles(fleet, target, BROKER, Simulation(seed=5))
    finally:
        os.umask(umask)


def list_paths(folder: Path) -> Iterator[Path]:
    yield folder
    yield from folder.rglob("*")


def read_secrets(folder: Path) -> list[bytes]:
    """What no other node may know: p, q and the identity as they are written, and the readings."""
    key = json.loads((folder / "keys" / "paillier.json").read_text())
    pem = (folder / "keys" / "identity.pem").read_text().splitlines()[1]
    return [key["p"].encode(), key["q"].encode(), pem.encode(), pem[-40:].encode()]


def test_every_node_gets_a_folder_that_its_own_check_accepts(
    bundles: dict[str, Path], fleet: Fleet
) -> None:
    assert list(bundles) == [*READINGS, "live"]
    for name, folder in bundles.items():
        bundle = read_bundle(folder)
        check_exchanges(
            bundle.keys.paillier, {n: keys.paillier for n, keys in bundle.neighbours.items()}
        )
        assert bundle.config.node == folder.name == name
        assert set(bundle.neighbours) == set(fleet.graph.neighbours(name))


def test_the_settings_come_back_as_they_were_written(
    bundles: dict[str, Path], fleet: Fleet
) -> None:
    public = {name: read_keys(folder, TOY).public for name, folder in bundles.items()}
    for member in fleet.members:
        written = node_config(fleet, member, public, BROKER, Simulation(seed=5))
        assert load_node_config(bundles[member.id]) == written
        assert written.fleet == "007"


def test_nobody_but_the_owner_can_read_what_is_made(bundles: dict[str, Path]) -> None:
    nodes = bundles["live"].parent
    for path in list_paths(nodes):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), f"{path} has mode {mode:o}"
    assert stat.S_IMODE(nodes.parent.stat().st_mode) == 0o700


def test_a_folder_holds_no_secret_and_no_reading_of_another_node(
    bundles: dict[str, Path],
) -> None:
    held = {
        name: b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
        for name, folder in bundles.items()
    }
    for one, other in permutations(bundles, 2):
        secrets = read_secrets(bundles[one])
        if one in READINGS:
            secrets.append(READINGS[one].encode())
        for secret in secrets:
            assert secret in held[one]
            assert secret not in held[other], f"{other} knows a secret of {one}"


def test_all_keys_differ(bundles: dict[str, Path]) -> None:
    keys = [read_keys(folder, TOY) for folder in bundles.values()]
    assert len({int(prime) for k in keys for prime in (k.paillier.p, k.paillier.q)}) == 10
    assert len({k.identity.private_bytes_raw() for k in keys}) == 5


def test_made_up_readings_are_not_the_same_on_two_nodes(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    live = load_node_config(bundles["live"]).sensor
    assert isinstance(live, SyntheticSensor)
    assert live.seed != SyntheticSensor(fields={}).seed
    again = load_node_config(
        write_bundles(write_fleet(tmp_path), tmp_path / "nodes", BROKER, Simulation())["live"]
    ).sensor
    assert again == live


def test_bases_under_each_neighbours_key_come_with_the_keys(tmp_path: Path) -> None:
    bundles = write_bundles(
        write_fleet(tmp_path), tmp_path / "nodes", BROKER, Simulation(), with_bases=True
    )
    for name, folder in bundles.items():
        bundle = read_bundle(folder)
        kept = {
            other: KeptBases(folder, other, key, bundle.keys.identity).load()
            for other, key in bundle.neighbours_paillier.items()
        }
        assert kept, name
        for other, bases in kept.items():
            assert bases is not None
            assert len(set(bases)) == ROWS
            owner = read_bundle(bundles[other]).keys.paillier
            assert all(owner.decrypt(base) == 0 for base in bases)


@pytest.mark.parametrize("bits", [512, WEAK_BITS + 16], ids=["here", "by processes"])
def test_keys_are_in_order_and_reported_one_by_one(bits: int) -> None:
    found: list[str] = []
    keys = make_keys(["c", "a", "b"], bits, found.append)
    assert list(keys) == ["c", "a", "b"]
    assert sorted(found) == ["a", "b", "c"]  # in the order of completion
    assert len({key.public.fingerprint for key in keys.values()}) == 3
    assert all(key.public.paillier.bits == bits for key in keys.values())


@pytest.mark.parametrize("bits", [512, WEAK_BITS + 16], ids=["here", "by processes"])
def test_obfuscators_come_with_the_keys_for_which_they_are_wanted(bits: int) -> None:
    made = key_making._make_primes({"a": 3, "b": 0}, bits, lambda _name: None)
    key = assemble_keys(*made["a"].primes).paillier
    assert [key.decrypt(each) for each in set(made["a"].obfuscators)] == [0, 0, 0]
    assert made["b"].obfuscators == []


# -- all or nothing ------------------------------------------------------------------------------


def test_a_target_that_exists_is_refused_and_left_alone(fleet: Fleet, tmp_path: Path) -> None:
    target = tmp_path / "nodes"
    target.mkdir()
    (target / "kept").write_text("kept")
    with pytest.raises(ConfigError, match="nodes: exists already; name another folder or remove"):
        write_bundles(fleet, target, BROKER, Simulation())
    assert [(p.name, p.read_text()) for p in target.iterdir()] == [("kept", "kept")]
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_to_nowhere_is_a_target_that_exists(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "nodes").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="exists already"):
        write_bundles(fleet, tmp_path / "nodes", BROKER, Simulation())


def test_a_target_below_a_file_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be made, since .*/file is no writable folder"):
        write_bundles(fleet, tmp_path / "file" / "nodes", BROKER, Simulation())


def test_a_target_that_the_system_refuses_is_one_clear_error(fleet: Fleet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be made: File name too long"):
        write_bundles(fleet, tmp_path / ("n" * 255), BROKER, Simulation())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError])
@pytest.mark.parametrize("moment", ["keys", "third folder"])
def test_an_error_in_the_middle_leaves_nothing(
    moment: str,
    error: type[BaseException],
    fleet: Fleet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[object] = []

    def fail_at_the_third(what: object) -> None:
        done.append(what)
        if len(done) == 3:
            raise error("no more")

    def write_two_keys(folder: Path, keys: NodeKeys) -> None:
        fail_at_the_third(folder)
        write_keys(folder, keys)

    def ignore(_name: str) -> None:
        pass

    if moment == "third folder":
        monkeypatch.setattr(bundles_module, "write_keys", write_two_keys)
    progress = fail_at_the_third if moment == "keys" else ignore
    umask = os.umask(0o022)
    try:
        with pytest.raises(ConfigError if error is OSError else error, match="no more"):
            write_bundles(
                fleet, tmp_path / "deep" / "deeper" / "nodes", BROKER, Simulation(), progress
            )
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(umask)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_error(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_with_full_disk(_folder: Path, _keys: NodeKeys) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(bundles_module, "write_keys", fail_with_full_disk)
    with pytest.raises(ConfigError, match="nodes: cannot be made: No space left on device"):
        write_bundles(fleet, tmp_path / "nodes", BROKER, Simulation())


# -- the processes that make keys ----------------------------------------------------------------

# A shell starts commands in the background with Ctrl-C ignored, and their children inherit this.
MAKER = """
import signal
from cipherfleet_provisioning.key_making import make_keys
signal.signal(signal.SIGINT, signal.default_int_handler)
if __name__ == "__main__":
    make_keys([str(n) for n in range(1000)], 3072, lambda name: print(name, flush=True))
"""


@pytest.fixture
def maker() -> Iterator[subprocess.Popen[str]]:
    """A process that makes keys for long, once it has begun to."""
    with subprocess.Popen(
        [sys.executable, "-c", MAKER],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip().isdigit()
        yield process
        process.kill()


def have_ended(processes: list[psutil.Process], within_s: float = 60.0) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    return not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_no_process_is_left_when_the_one_that_wants_keys_is_killed(
    maker: subprocess.Popen[str],
) -> None:
    workers = psutil.Process(maker.pid).children(recursive=True)
    assert workers
    maker.kill()
    assert have_ended(workers)


def test_ctrl_c_while_keys_are_made_ends_all_and_only_the_parent_speaks(
    maker: subprocess.Popen[str],
) -> None:
    workers = psutil.Process(maker.pid).children(recursive=True)
    os.killpg(maker.pid, signal.SIGINT)
    _, err = maker.communicate(timeout=120)
    assert have_ended(workers)
    assert err.count("Traceback") == 1  # this parent has nobody to catch it
    assert err.rstrip().endswith("KeyboardInterrupt")


def test_a_worker_killed_from_outside_is_one_clear_error() -> None:
    before = psutil.Process().children()

    def kill_all(_name: str) -> None:
        for worker in psutil.Process().children():
            if worker not in before:
                worker.kill()

    with pytest.raises(CipherfleetError, match="was killed; run it again"):
        make_keys([str(n) for n in range(200)], 2048, kill_all)


def test_a_folder_works_wherever_it_is_carried(bundles: dict[str, Path], tmp_path: Path) -> None:
    carried = Path(shutil.copytree(bundles["08"], tmp_path / "etc"))
    samples = read_bundle(carried).sensor.read()
    assert [sample.values for sample in samples] == [{"t": 21.70901}]
    assert msgspec.json.decode((carried / "neighbours" / "1e3.json").read_bytes())


SHIELDED = """\
config_version: 1
fleet: pond
crypto: {{key_bits: 512, allow_weak_keys: true}}
algorithm: {{rounds: 4, shield: {shield}}}
objective: {{kind: mean, values: [{{field: t}}]}}
topology: {{kind: ring}}
nodes:
  - {{each: 4, id: "n{{n}}", sensor: {{kind: synthetic, fields: {{t: {{mean: 1}}}}}}}}
"""


def test_all_nodes_with_a_shield_have_one_digest_and_another_than_without(tmp_path: Path) -> None:
    tags: dict[str, set[bytes]] = {}
    for shield in ("linear", "quadratic", "none"):
        (tmp_path / "fleet.yaml").write_text(SHIELDED.format(shield=shield))
        fleet = load_fleet(tmp_path / "fleet.yaml")
        made = write_bundles(fleet, tmp_path / shield, BROKER, Simulation())
        configs = [read_bundle(folder).config for folder in made.values()]
        assert [c.generations and c.generations.index for c in configs] == (
            [0, 1, 2, 3] if shield != "none" else [None] * 4
        )
        tags[shield] = {
            shared_parameters(c.algorithm, "sealed", 1, "agree", c.generations).tag for c in configs
        }
        shields = [make_shield(read_bundle(folder)) for folder in made.values()]
        assert all(s.is_quadratic == (shield == "quadratic") for s in shields if s)
    assert [len(each) for each in tags.values()] == [1, 1, 1]
    assert len(set.union(*tags.values())) == 3
