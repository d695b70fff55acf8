"""Cards: images with a FAT boot partition, seeded with mtools and checked by cloud-init."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
import subprocess
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from cipherfleet_deploy.cards.boot_partition import open_folder, open_image
from cipherfleet_deploy.cards.card import (
    ENABLE_FROM_CARD,
    Extras,
    PackedBundle,
    find_bundle,
    seed_files,
    write_seed,
)
from cipherfleet_deploy.cards.cloud_init import host_name
from cipherfleet_deploy.cards.identity import bind, forget_card, hardware_serial
from cipherfleet_deploy.cli.main import cli
from cipherfleet_deploy.data_folders import devices_folder
from cipherfleet_node.errors import CipherfleetError, ConfigError, IdentityClash
from tests.support.card_image import (
    MIB,
    SIZE_MIB,
    TRIXIE,
    UBUNTU,
    make_image,
    needs_tools,
    read_files,
)

ENABLE_AT_EACH_BOOT = ["sh", "-c", (devices_folder() / "enable-first-boot.sh").read_text()]
SETTINGS = """\
config_version: 1
fleet: lab
node: {node}
operator: AAAA
algorithm: {{period_s: 1}}
objective: {{kind: average, values: [{{field: t}}]}}
sensor: {{kind: synthetic, fields: {{t: {{mean: 1}}}}}}
crypto: {{exchange: sealed}}
"""


def mounted(place: Path, files: dict[str, str]) -> Path:
    place.mkdir()
    for name, text in files.items():
        (place / name).write_text(text)
    return place


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder of bundles."""
    for node in ("attic", "Cellar_2"):
        folder = tmp_path / "home" / node
        (folder / "keys").mkdir(parents=True)
        (folder / "node.yaml").write_text(SETTINGS.format(node=node))
        (folder / "keys" / "paillier.json").write_text("a key\n")
        (folder / "keys" / "paillier.json").chmod(0o600)
        (folder / "state").mkdir()
        (folder / "state" / "current").write_text("what ran here")
    return tmp_path / "home"


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    place = tmp_path / "wheels"
    place.mkdir()
    (place / "cipherfleet-0.1.0-py3-none-any.whl").write_bytes(os.urandom(3 * MIB))
    (place / "a_long.name-1.0-cp313-cp313-manylinux_2_28_aarch64.whl").write_bytes(b"wheel")
    return place


# -- images -------------------------------------------------------------------------------------


@needs_tools
@pytest.mark.parametrize(("table", "fat"), [("dos", "32"), ("gpt", "16")])
def test_a_seeded_image_holds_what_was_given(
    tmp_path: Path, home: Path, wheels: Path, table: str, fat: str
) -> None:
    image = make_image(tmp_path / "raspios.img", table, fat, TRIXIE)
    source = find_bundle("attic", home)
    result = write_seed(source, open_image(image), Extras(wheels))
    found = read_files(image, tmp_path / "read")
    assert found["config.txt"].decode() == TRIXIE["config.txt"]
    assert found["cipherfleet/bundle.tar.gz"] == source.archive
    for wheel in wheels.iterdir():
        assert found[f"cipherfleet/wheels/{wheel.name}"] == wheel.read_bytes()
    sums = dict(
        line.split()[::-1] for line in found["cipherfleet/SHA256SUMS"].decode().splitlines()
    )
    assert sums["bundle.tar.gz"] == hashlib.sha256(source.archive).hexdigest()
    assert {*sums} == {
        name.removeprefix("cipherfleet/")
        for name in found
        if name.startswith("cipherfleet/")
        and not name.endswith(("SHA256SUMS", "card.json", "pending"))
    }
    user = yaml.safe_load(found["user-data"])
    assert user == {"hostname": "attic", "bootcmd": [ENABLE_AT_EACH_BOOT]}
    assert found["cipherfleet/pending"] == b""
    assert yaml.safe_load(found["network-config"])["ethernets"]["eth0"]["dhcp4"] is True
    meta = yaml.safe_load(found["meta-data"])
    assert meta["dsmode"] == "local"
    assert meta["instance-id"].startswith("cipherfleet-lab-attic-")
    assert result.files == len(found) - 3  # without config, cmdline and the card's mark


@needs_tools
def test_a_second_seed_replaces_the_first_and_keeps_what_the_user_had(
    tmp_path: Path, home: Path, wheels: Path
) -> None:
    image = make_image(tmp_path / "ubuntu.img", "dos", "32", UBUNTU)
    source = find_bundle("attic", home)
    first = write_seed(source, open_image(image), Extras(wheels))
    (home / "attic" / "readings.csv").write_text("t\n1\n")
    again = write_seed(find_bundle("attic", home), open_image(image), Extras())
    assert again.card == first.card
    found = read_files(image, tmp_path / "read")
    assert not any("wheels" in name for name in found)
    user = yaml.safe_load(found["user-data"])
    assert user["ssh_pwauth"] is True
    assert user["runcmd"] == [["ls"]]
    assert user["bootcmd"] == [ENABLE_AT_EACH_BOOT]
    assert found["network-config"].decode() == UBUNTU["network-config"]


@needs_tools
def test_a_full_card_is_reported(tmp_path: Path, home: Path, wheels: Path) -> None:
    image = make_image(tmp_path / "small.img", "dos", "32", TRIXIE)
    (wheels / "numpy-1.whl").write_bytes(bytes(SIZE_MIB * MIB))
    with pytest.raises(CipherfleetError, match=r"mcopy failed, its last line: .*[Ff]ull"):
        write_seed(find_bundle("attic", home), open_image(image), Extras(wheels))


@needs_tools
@pytest.mark.parametrize(
    ("files", "remedy"),
    [
        ({"readme.txt": "?"}, "not a known boot partition"),
        ({n: TRIXIE[n] for n in ("config.txt", "cmdline.txt")}, "would ignore the seed"),
    ],
)
def test_an_image_of_another_system_is_left_alone(
    tmp_path: Path, files: dict[str, str], remedy: str
) -> None:
    image = make_image(tmp_path / "other.img", "gpt", "32", files)
    before = image.read_bytes()
    with pytest.raises(ConfigError, match=remedy):
        open_image(image)
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        (b"\xfd7zXZ\0" + bytes(2000), "unxz -k"),
        (b"\x1f\x8b" + bytes(2000), "gunzip -k"),
        (bytes(4096), "no FAT partition"),
        (b"", "no FAT partition"),
        (b"\xa5" * 510 + b"\x55\xaa", "no FAT partition"),
        (bytes(510) + b"\x55\xaaEFI PART" + b"\xff" * 504, "no FAT partition"),
    ],
    ids=["xz", "gzip", "zeros", "empty", "partition table of noise", "GPT of noise"],
)
def test_what_is_no_image_is_refused_with_the_remedy(
    tmp_path: Path, data: bytes, remedy: str
) -> None:
    file = tmp_path / "file.img"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=remedy):
        open_image(file)


def test_partitions_beyond_the_end_are_none(tmp_path: Path) -> None:
    entry = bytes([0, 0, 0, 0, 0xC, 0, 0, 0]) + struct.pack("<II", 2**31, 2**31)
    (tmp_path / "cut.img").write_bytes(bytes(446) + entry + bytes(48) + b"\x55\xaa" + bytes(512))
    with pytest.raises(ConfigError, match="no FAT partition"):
        open_image(tmp_path / "cut.img")


# -- the seed -----------------------------------------------------------------------------------


def test_cloud_init_accepts_the_seed(tmp_path: Path, home: Path) -> None:
    if shutil.which("cloud-init") is None:
        pytest.skip("CLOUD-INIT WAS NOT ASKED: apt-get install cloud-init")
    for node, present in (("attic", TRIXIE), ("Cellar_2", UBUNTU)):
        texts = {name: text.encode() for name, text in present.items()}
        files = seed_files(find_bundle(node, home), Extras(), texts)
        (tmp_path / "user-data").write_bytes(files["user-data"])
        done = subprocess.run(
            ["cloud-init", "schema", "--config-file", tmp_path / "user-data"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Valid" in done.stdout


def test_the_bundle_is_packed_without_what_a_run_has_left(home: Path) -> None:
    archive = find_bundle("attic", home).archive
    (home / "attic" / "node.yaml").touch()
    assert find_bundle("attic", home).archive == archive
    assert archive[4:8] == bytes(4)  # no time
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        modes = {member.name: member.mode for member in tar if member.isfile()}
    assert modes == {"attic/node.yaml": 0o600, "attic/keys/paillier.json": 0o600}


def test_bundles_are_found_in_a_set_a_folder_of_them_and_by_themselves(
    home: Path, tmp_path: Path
) -> None:
    (tmp_path / "set" / "current").mkdir(parents=True)
    shutil.copytree(home, tmp_path / "set" / "current" / "nodes")
    assert find_bundle("attic", tmp_path / "set").home == tmp_path / "set"
    assert find_bundle("attic", home).home == home
    assert find_bundle("attic", home / "attic").home == home
    for place in (tmp_path, home / "Cellar_2"):
        with pytest.raises(ConfigError, match="holds no bundle of 'attic'"):
            find_bundle("attic", place)


PRESEED = """\
# From the imaging program.
config_version = "1.1"

[system]
hostname = "shed"  # mine

[runcmd]
early = ["rfkill unblock wifi"]
late = ["apt-get update"]
"""


def test_a_card_of_rpi_preseed_gets_its_command_and_keeps_every_setting_and_comment(
    tmp_path: Path, home: Path
) -> None:
    files = {"config.txt": "", "cmdline.txt": "", "rpi-preseed.toml": PRESEED}
    boot = mounted(tmp_path / "boot", files)
    for _ in range(2):  # the second seed changes nothing
        write_seed(find_bundle("attic", home), open_folder(boot), Extras())
        text = (boot / "rpi-preseed.toml").read_text()
        assert tomllib.loads(text) == {
            "config_version": "1.1",
            "system": {"hostname": "shed"},
            "runcmd": {
                "early": ["rfkill unblock wifi", ENABLE_FROM_CARD],
                "late": ["apt-get update"],
            },
        }
        assert {"# From the imaging program.", 'hostname = "shed"  # mine'} <= {*text.splitlines()}
    assert not (boot / "user-data").exists()
    assert (boot / "cipherfleet" / "pending").exists()


def test_an_empty_rpi_preseed_file_becomes_a_whole_one(home: Path) -> None:
    found = seed_files(find_bundle("Cellar_2", home), Extras(), {"rpi-preseed.toml": b""})
    assert tomllib.loads(found["rpi-preseed.toml"].decode()) == {
        "config_version": "1.1",
        "system": {"hostname": "cellar-2"},
        "runcmd": {"early": [ENABLE_FROM_CARD]},
    }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a = ", r"rpi-preseed.toml on the card: is not valid TOML"),
        ("runcmd = 1", r"runcmd is not a section"),
        ('[runcmd]\nearly = "ls"', r"runcmd.early is not a list"),
    ],
)
def test_a_wrong_rpi_preseed_file_is_refused_before_the_card_is_touched(
    tmp_path: Path, home: Path, text: str, complaint: str
) -> None:
    files = {"config.txt": "", "cmdline.txt": "", "rpi-preseed.toml": text}
    boot = mounted(tmp_path / "boot", files)
    with pytest.raises(ConfigError, match=complaint):
        write_seed(find_bundle("attic", home), open_folder(boot), Extras())
    assert {file.name: file.read_text() for file in boot.iterdir()} == files


def test_a_card_that_is_only_partly_written_is_not_installed(home: Path) -> None:
    present = {"user-data": b"#cloud-config\n"}
    assert [*seed_files(find_bundle("attic", home), Extras(), present)][-1] == "cipherfleet/pending"


def test_host_names_have_no_underscores(home: Path) -> None:
    assert host_name(find_bundle("Cellar_2", home).config) == "cellar-2"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("#!/bin/sh\nreboot: now\n", "does not begin with #cloud-config"),
        ("#cloud-config\na: 1\n  b: 2\n", r"user-data:3:\d+: is not valid YAML"),
        ("#cloud-config\na: " + "[" * 5_000, "user-data.*: is not valid YAML"),
        ("#cloud-config\n- a\n", "not a mapping"),
        ("#cloud-config\nbootcmd: ls\n", "bootcmd is not a list"),
    ],
)
def test_user_data_that_nothing_can_be_added_to_is_refused_before_the_card_is_touched(
    tmp_path: Path, home: Path, text: str, complaint: str
) -> None:
    boot = mounted(tmp_path / "boot", TRIXIE)
    (tmp_path / "user-data").write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        write_seed(
            find_bundle("attic", home),
            open_folder(boot),
            Extras(user_data=tmp_path / "user-data"),
        )
    assert {file.name: file.read_text() for file in boot.iterdir()} == TRIXIE


def test_a_network_of_the_operators_is_taken_as_it_is(tmp_path: Path, home: Path) -> None:
    file = tmp_path / "network"
    file.write_text("version: 2  # of the operator\nwifis: {}\n")
    files = seed_files(find_bundle("attic", home), Extras(network=file), {})
    assert files["network-config"] == file.read_bytes()


def test_every_new_seed_is_a_new_instance_and_an_equal_one_is_not(home: Path) -> None:
    source = find_bundle("attic", home)

    def instance(extras: Extras) -> str:
        return str(yaml.safe_load(seed_files(source, extras, {})["meta-data"])["instance-id"])

    assert instance(Extras()) == instance(Extras())
    assert instance(Extras()) != instance(Extras(replace=True))


@pytest.mark.parametrize("form", ["ds=nocloud;i={}", "ds=nocloud-net;h=a;instance-id={};s=x"])
def test_an_instance_on_the_kernels_command_line_gives_way(home: Path, form: str) -> None:
    """An imaging program writes one, and cloud-init takes it before that of meta-data."""
    source = find_bundle("attic", home)
    line = f"console=tty1 {form} root=/dev/mmcblk0p2 rootwait\n"
    files = seed_files(source, Extras(), {"cmdline.txt": line.format("imager-1").encode()})
    instance = yaml.safe_load(files["meta-data"])["instance-id"]
    assert files["cmdline.txt"].decode() == line.format(instance)
    plain = seed_files(source, Extras(), {"cmdline.txt": TRIXIE["cmdline.txt"].encode()})
    assert "cmdline.txt" not in plain


class Forgetful:
    """A card that takes everything, and gives one file back with a bit turned."""

    where = "card"

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def names(self) -> list[str]:
        return [*self.files]

    def read(self, name: str) -> bytes | None:
        data = self.files.get(name)
        return bytes([data[0] ^ 1]) + data[1:] if data and name == "user-data" else data

    def write(self, name: str, data: bytes) -> None:
        self.files[name] = data

    def remove(self, name: str) -> None:
        self.files.pop(name, None)

    def close(self) -> None:
        pass


def test_a_card_that_reads_back_differently_is_reported(home: Path) -> None:
    with pytest.raises(CipherfleetError, match="user-data does not read back as it was written"):
        write_seed(find_bundle("attic", home), Forgetful(), Extras())


# -- one card for one identity ------------------------------------------------------------------


@pytest.fixture
def seed(home: Path) -> Callable[..., Result]:
    """The command, with the card as its first argument."""

    def command(card: Path, *more: str, node: str = "attic") -> Result:
        arguments = ["provision", "seed", node, str(home), "--boot", str(card), *more]
        return CliRunner().invoke(cli, arguments)

    return command


def test_an_identity_is_bound_to_its_card(tmp_path: Path, seed: Callable[..., Result]) -> None:
    first, second = (mounted(tmp_path / name, TRIXIE) for name in ("first", "second"))
    card = json.loads(seed(first, "--json").stdout)["card"]
    assert json.loads(seed(first, "--json").stdout)["card"] == card
    refused = seed(second).exception
    assert isinstance(refused, IdentityClash)
    assert refused.exit_code == 6
    assert "'attic' has a card already" in str(refused)
    assert {file.name: file.read_text() for file in second.iterdir()} == TRIXIE
    taken = json.loads(seed(second, "--replace", "--json").stdout)["card"]
    assert taken != card
    assert (second / "cipherfleet" / "replace").exists()
    # The card that was replaced has turned up again.
    assert isinstance(seed(first).exception, IdentityClash)


def test_the_card_of_a_node_that_is_replaced_is_forgotten(
    tmp_path: Path, home: Path, seed: Callable[..., Result]
) -> None:
    first, second = (mounted(tmp_path / name, TRIXIE) for name in ("first", "second"))
    card = json.loads(seed(first, "--json").stdout)["card"]
    assert isinstance(seed(second).exception, IdentityClash)
    assert forget_card(home, "attic") == card
    assert forget_card(home, "attic") is None
    assert json.loads(seed(second, "--json").stdout)["card"] != card
    assert isinstance(seed(first).exception, IdentityClash)


def test_a_card_of_another_node_is_not_taken(tmp_path: Path, seed: Callable[..., Result]) -> None:
    card = mounted(tmp_path / "card", TRIXIE)
    assert seed(card).exit_code == 0
    refused = seed(card, node="Cellar_2").exception
    assert isinstance(refused, IdentityClash)
    assert "the card belongs to 'lab/attic'" in str(refused)
    assert seed(card, "--replace", node="Cellar_2").exit_code == 0


def test_a_card_written_again_is_known_by_its_own_number(tmp_path: Path, home: Path) -> None:
    source = find_bundle("attic", home)

    def mark(name: str, hardware: str) -> str:
        card = open_folder(mounted(tmp_path / name, TRIXIE))
        return bind(source.config, source.home, card, hardware, replace=False)

    assert mark("once", "cid-1") == mark("again", "cid-1")
    with pytest.raises(IdentityClash):
        mark("other", "cid-2")


def test_an_interrupted_command_can_be_given_again(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source: PackedBundle = find_bundle("attic", home)
    card = open_folder(mounted(tmp_path / "card", TRIXIE))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("cipherfleet_deploy.cards.identity._write_record", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bind(source.config, source.home, card, "", replace=False)
    marked = json.loads(card.read("cipherfleet/card.json") or b"")["card"]
    assert bind(source.config, source.home, card, "", replace=False) == marked


def test_a_file_has_no_number_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"")
    assert hardware_serial(tmp_path / "image") == ""


def test_the_place_to_write_to_is_said_once(home: Path) -> None:
    for where in ([], ["--image", "a", "--boot", "b"]):
        done = CliRunner().invoke(cli, ["provision", "seed", "attic", str(home), *where])
        assert done.exit_code == 2
        assert "--image FILE or --boot FOLDER" in done.output
