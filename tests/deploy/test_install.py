"""A card's own scripts, run under a prefix: install, join, update, roll back."""

from __future__ import annotations

import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from cipherfleet_broker import start_broker
from cipherfleet_deploy.cards.boot_partition import open_folder
from cipherfleet_deploy.cards.card import Extras, find_bundle, write_seed
from cipherfleet_deploy.data_folders import devices_folder
from tests.support.device_card import (
    ANSWER,
    NODE,
    Site,
    fill_wheelhouse,
    has_joined,
    install_this_version,
    make_card,
    others_running,
    plain_site,
    run_script,
    secured_site,
    service_of,
    spoil,
)

SCRIPTS = sorted(devices_folder().glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("THE SCRIPTS WERE NOT CHECKED: apt-get install shellcheck")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ([], 1, "nothing is installed; give --wheels FOLDER"),
        (["--wheels"], 2, "--wheels needs a value"),
        (["--wheel", "x"], 2, "--wheel is not an option"),
        (["--wheels", "nowhere"], 1, "--wheels is nowhere, must be a folder"),
        (["--wheels", "."], 1, "holds no wheel of cipherfleet"),
        (["--bundle", "nowhere"], 1, "--bundle is nowhere, must be a file"),
        (["--rollback"], 1, "there is no previous version"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_script("install.sh", *arguments, root=tmp_path / "root")
    assert done.returncode == code
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


TOOLS = ("sh", "cat", "dirname", "id", "readlink", "sed", "tar", "sha256sum", "cut", "mkdir", "rm")


def test_a_machine_without_systemd_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / tool).symlink_to(found)
    # No --wheels and --bundle that exist: the old order of checks must not install here either.
    done = subprocess.run(
        ["sh", devices_folder() / "install.sh", "--wheels", "nowhere", "--bundle", "nowhere"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(tmp_path)},
    )
    assert done.returncode == 1
    assert "this machine has no systemd" in done.stderr
    assert "cipherfleet-node run FOLDER" in done.stderr
    assert done.stderr.count("\n") == 1


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(f): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@contextmanager
def started_by_its_unit(root: Path, run: Path) -> Iterator[Callable[[], str]]:
    """What systemd would do with the unit, under the prefix; gives what the service says next."""
    service = service_of(root, run / "credentials")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(run / "notify"))
        manager.settimeout(60)
        process = subprocess.Popen(
            service.command,
            cwd="/",
            env={**service.environment, "NOTIFY_SOCKET": str(run / "notify")},
        )
        try:
            yield lambda: manager.recv(4096).decode()
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_wheelhouse(tmp_path_factory.mktemp("wheels"))


def join_from_card(site: Site, folder: Path, wheels: Path | None) -> Path:
    """Let a card install the node of *site* under <folder>/root, and wait until it has joined.

    Returns the card.
    """
    root = folder / "root"
    state, kept = root / "var/lib/cipherfleet" / NODE, root / "etc/cipherfleet" / NODE
    with start_broker("embedded", site.port, site.security):
        card = make_card(folder / "card", folder / "nodes", wheels)

        # The first boot installs, and takes the keys off the card.
        done = run_script(card / "cipherfleet/first-boot.sh", root=root)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (card / "cipherfleet/first-boot.log").read_text().endswith("done\n")
        assert not (card / "cipherfleet/bundle.tar.gz").exists()
        assert not (card / "cipherfleet/pending").exists()
        assert not (state / "keys").exists()
        given = ["keys/paillier.json", *(["tls/node.key"] if site.security else [])]
        for secret in (site.bundles[NODE] / name for name in given):
            assert (kept / secret.name).read_bytes() == secret.read_bytes()
            assert stat.S_IMODE((kept / secret.name).stat().st_mode) == 0o600
        assert not list(state.rglob("*.key"))

        with others_running(site.bundles), started_by_its_unit(root, folder / "run") as says:
            assert says() == "READY=1"
            deadline = time.monotonic() + 60
            while not has_joined(state):
                says()  # else it would wait for its listener
                assert time.monotonic() < deadline, f"the fleet does not come to {ANSWER}"

    # An operator who may read the keys can check the node from outside the service.
    looked = subprocess.run(
        [root / "opt/cipherfleet/current/bin/cipherfleet-node", "check-config", state],
        env={"CREDENTIALS_DIRECTORY": str(kept)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert looked.returncode == 0, looked.stderr
    return card


@pytest.mark.fleet
def test_a_card_brings_the_keys_of_a_node_that_joins_in_tls(tmp_path: Path) -> None:
    """A card without wheels, for a device that has the programs."""
    install_this_version(tmp_path / "root")
    join_from_card(secured_site(tmp_path, "operator"), tmp_path, wheels=None)


@pytest.mark.fleet
def test_a_card_becomes_a_node_that_joins_is_updated_and_goes_back(
    tmp_path: Path, wheels: Path
) -> None:
    root = tmp_path / "root"
    opt, state = root / "opt/cipherfleet", root / "var/lib/cipherfleet" / NODE
    site = plain_site(tmp_path)
    bundles = site.bundles
    card = join_from_card(site, tmp_path, wheels)

    # Again: nothing changes. An update that fails, and one taken back: nothing but programs.
    here = files_in(root / "etc") | files_in(root / "var")
    version = (opt / "current").readlink()
    write_seed(find_bundle(NODE, tmp_path / "nodes"), open_folder(card), Extras(wheels))
    assert run_script(card / "cipherfleet/first-boot.sh", root=root).returncode == 0

    failed = run_script(opt / "update.sh", spoil(wheels, tmp_path / "spoilt"), root=root)
    assert failed.returncode != 0
    assert "do not fit this machine" in failed.stderr
    assert [place.name for place in (opt / "versions").iterdir()] == [version.name]

    other = opt / "versions" / "0.0.9-before"
    shutil.copytree(opt / version, other, symlinks=True)
    (opt / "previous").symlink_to("versions/0.0.9-before")
    assert run_script(opt / "update.sh", "--rollback", root=root).returncode == 0
    assert (opt / "current").readlink() == Path("versions/0.0.9-before")
    assert (opt / "previous").readlink() == version
    updated = run_script(opt / "update.sh", wheels, root=root)
    assert updated.returncode == 0, updated.stderr
    assert (opt / "current").readlink() == version
    assert files_in(root / "etc") | files_in(root / "var") == here

    # A bundle of another node, or another one of this node, is taken only when that is said.
    (bundles["barn"] / "log").unlink()
    barn = tmp_path / "barn.tar.gz"
    barn.write_bytes(find_bundle("barn", tmp_path / "nodes").archive)
    refused = run_script("install.sh", "--bundle", barn, root=root)
    assert refused.returncode == 6
    assert f"this device is {NODE}, the bundle is for barn" in refused.stderr
    (bundles[NODE] / "neighbours" / "new.json").write_text("{}")
    newer = tmp_path / "newer.tar.gz"
    newer.write_bytes(find_bundle(NODE, tmp_path / "nodes").archive)
    assert run_script("install.sh", "--bundle", newer, root=root).returncode == 1
    assert files_in(root / "etc") | files_in(root / "var") == here
    assert run_script("install.sh", "--bundle", newer, "--replace", root=root).returncode == 0
    assert (state / "neighbours" / "new.json").exists()
    assert (state / "state" / "current").read_bytes() == here[str(state / "state" / "current")]


@pytest.mark.parametrize("removed", [(), ("bundle.tar.gz",)])
def test_a_power_cut_after_the_installation_leaves_only_the_clean_up(
    tmp_path: Path, removed: tuple[str, ...]
) -> None:
    folder = tmp_path / "card" / "cipherfleet"
    folder.mkdir(parents=True)
    for name in ("bundle.tar.gz", "pending", "installed"):
        (folder / name).write_text("")
    for name in removed:
        (folder / name).unlink()
    shutil.copy(devices_folder() / "first-boot.sh", folder)
    done = run_script(folder / "first-boot.sh", root=tmp_path / "root")
    assert done.returncode == 0, done.stderr
    assert {file.name for file in folder.iterdir()} == {
        "first-boot.log", "first-boot.sh", "installed",
    }  # fmt: skip


def test_a_power_cut_before_the_mark_of_a_bundle_repeats_the_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written and not yet on the disk is empty after a power cut."""
    archive, root = tmp_path / "bundle.tar.gz", tmp_path / "root"
    archive.write_bytes(find_bundle(NODE, plain_site(tmp_path).nodes).archive)
    install_this_version(root)
    kept = root / "etc/cipherfleet" / NODE
    power_cut = tmp_path / "bin/mv"
    power_cut.parent.mkdir()
    power_cut.write_text(
        '#!/bin/sh\ncase $* in *.bundle.fresh*) exit 9 ;; esac\nexec /bin/mv "$@"\n'
    )
    power_cut.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{power_cut.parent}:/usr/bin:/bin")
        assert run_script("install.sh", "--bundle", archive, root=root).returncode == 9
    assert not (kept / "bundle").exists()
    (kept / ".bundle.fresh").write_text("")
    again = run_script("install.sh", "--bundle", archive, root=root)
    assert again.returncode == 0, again.stderr
    assert (kept / "bundle").read_text().strip() == sha256(archive.read_bytes()).hexdigest()


def test_the_units_of_the_first_boot_are_valid_and_written_once(tmp_path: Path) -> None:
    """The timer tries again every minute; the service needs the mount and stops the timer."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("THE UNITS WERE NOT CHECKED: apt-get install systemd")
    for _ in range(2):
        done = run_script("enable-first-boot.sh", root=tmp_path)
        assert done.returncode == 0, done.stderr
    units = sorted((tmp_path / "etc/systemd/system").iterdir())
    assert [unit.suffix for unit in units] == [".service", ".timer"]
    verified = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    assert "RequiresMountsFor=/boot/firmware" in units[0].read_text()


def test_a_card_that_lost_a_bit_installs_nothing(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "cipherfleet-0-py3-none-any.whl").write_bytes(b"never looked at")
    make_bundle = tmp_path / "nodes" / NODE
    make_bundle.mkdir(parents=True)
    (make_bundle / "node.yaml").write_text(
        "config_version: 1\nfleet: lab\nnode: attic\noperator: AAAA\nalgorithm: {period_s: 1}\n"
        "objective: {kind: average, values: [{field: t}]}\ncrypto: {exchange: sealed}\n"
        "sensor: {kind: synthetic, fields: {t: {mean: 1}}}\n"
    )
    card = make_card(tmp_path / "card", tmp_path / "nodes", tmp_path / "wheels")
    bundle = card / "cipherfleet" / "bundle.tar.gz"
    data = bytearray(bundle.read_bytes())
    data[100] ^= 1
    bundle.write_bytes(data)
    done = run_script(card / "cipherfleet/first-boot.sh", root=tmp_path / "root")
    assert done.returncode == 1
    log = (card / "cipherfleet/first-boot.log").read_text()
    assert "the files on the card are damaged" in log
    assert log.endswith(
        "failed with exit code 1; the next attempt is in a minute, or at the next boot\n"
    )
    assert (card / "cipherfleet/pending").exists()  # the next boot tries again
    assert not (tmp_path / "root").exists()
