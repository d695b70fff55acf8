"""`provision seed --all`: the cards of all nodes that have none yet."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from cipherfleet_deploy import provision_session as provision
from cipherfleet_deploy.cards import wheels as wheels_module
from cipherfleet_deploy.cards.boot_partition import open_image
from cipherfleet_deploy.cards.card import PENDING
from cipherfleet_deploy.cards.tray import copy_image, list_nodes
from cipherfleet_deploy.cli.main import cli
from cipherfleet_node.errors import ConfigError
from cipherfleet_provisioning.operations import read_token
from tests.support.card_image import BEGIN_MIB, MIB, TRIXIE, make_image, needs_tools
from tests.support.results import check_result

FLEET = """\
config_version: 1
fleet: yard
crypto: {key_bits: 512, allow_weak_keys: true}
algorithm: {period_s: 1}
objective: {kind: average, values: [{field: t}]}
topology: {kind: ring}
nodes: [{each: 3, id: "n{n}", sensor: {kind: synthetic, fields: {t: {mean: 1}}}}]
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "fleet.yaml").write_text(FLEET)
    provision.bundle(tmp_path / "fleet.yaml", tmp_path / "set", "device", Console(quiet=True))
    return tmp_path / "set"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_image(tmp_path / "base.img", "dos", "32", TRIXIE)


def seed_all(home: Path, *words: object, answers: str = "") -> Result:
    command = ["provision", "seed", "--all", str(home), *map(str, words)]
    return CliRunner().invoke(cli, command, input=answers)


def boot_partition(place: Path) -> Path:
    place.mkdir()
    for name, text in TRIXIE.items():
        (place / name).write_text(text)
    return place


# -- images -------------------------------------------------------------------------------------


@needs_tools
def test_every_node_gets_an_image_of_its_own(tmp_path: Path, home: Path, base: Path) -> None:
    before, out = base.read_bytes(), tmp_path / "cards"
    done = seed_all(home, "--image", base, "--out", out, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    result = check_result("seed-all-result", done.stdout)
    assert [each["node"] for each in result["seeds"]] == ["n1", "n2", "n3"]
    assert len({each["card"] for each in result["seeds"]}) == 3
    assert [each["written_to"] for each in result["seeds"]] == [
        str(out / f"n{n}.img") for n in (1, 2, 3)
    ]
    assert "n2.img: card 2 of 3" in done.stderr
    assert base.read_bytes() == before
    for image in out.iterdir():
        assert stat.S_IMODE(image.stat().st_mode) == 0o600
        assert json.loads(open_image(image).read("cipherfleet/card.json") or b"")["node"] == (
            f"yard/{image.stem}"
        )


@needs_tools
def test_a_second_run_writes_what_is_missing_and_completes_what_was_interrupted(
    tmp_path: Path, home: Path, base: Path
) -> None:
    out = tmp_path / "cards"
    words = ("--image", base, "--out", out, "--json")
    first = check_result("seed-all-result", seed_all(home, *words).stdout)
    open_image(out / "n1.img").remove(PENDING)  # its last file was not written
    (home / "cards" / "n3.json").unlink()  # the image was copied, and not bound
    (out / "n2.img").unlink()  # the card was written from it
    again = check_result("seed-all-result", seed_all(home, *words).stdout)
    assert [each["node"] for each in again["seeds"]] == ["n1", "n3"]
    assert again["seeds"][0]["card"] == first["seeds"][0]["card"]
    assert again["had_cards"] == ["n2"]
    assert open_image(out / "n1.img").read(PENDING) == b""
    last = seed_all(home, "--image", base, "--out", out)
    assert "already: n1, n2, n3" in last.stdout
    assert "cards written: 0" in last.stdout


@needs_tools
def test_an_unknown_image_is_not_copied(tmp_path: Path, home: Path) -> None:
    base = make_image(tmp_path / "other.img", "dos", "32", {"readme.txt": "?"})
    done = seed_all(home, "--image", base, "--out", tmp_path / "cards")
    assert isinstance(done.exception, ConfigError)
    assert not (tmp_path / "cards").exists()


@needs_tools
def test_a_copy_has_the_same_bytes_and_its_holes(tmp_path: Path, base: Path) -> None:
    with base.open("rb+") as stream:
        stream.truncate(120 * MIB)
    copy_image(base, tmp_path / "copy.img")
    assert (tmp_path / "copy.img").read_bytes() == base.read_bytes()
    assert (tmp_path / "copy.img").stat().st_blocks * 512 < (BEGIN_MIB + 50) * MIB


# -- one card after the other -------------------------------------------------------------------


def test_cards_are_asked_for_one_after_the_other(tmp_path: Path, home: Path) -> None:
    """The reader is a link; between two questions the test puts another card there."""
    boots = [boot_partition(tmp_path / f"boot{n}") for n in (1, 2)]
    first = seed_all(home, "--boot", boots[0], "--json", answers="y\nn\nn\n")
    result = check_result("seed-all-result", first.stdout)
    assert [each["node"] for each in result["seeds"]] == ["n1"]
    assert result["skipped"] == ["n2", "n3"]
    assert "card of n1: is it in" in first.stderr
    # The card of n1 is still in the reader; then the operator gives up.
    wrong = seed_all(home, "--boot", boots[0], "--json", answers="y\nn\nn\n")
    assert "belongs to 'yard/n1'" in wrong.stderr
    assert check_result("seed-all-result", wrong.stdout)["skipped"] == ["n2", "n3"]
    second = seed_all(home, "--boot", boots[1], "--json", answers="y\nn\n")
    assert [each["node"] for each in json.loads(second.stdout)["seeds"]] == ["n2"]
    assert seed_all(home, "--boot", boots[1]).exception is not None  # no answer: it ends
    assert read_token(home / "current", "n3") is not None


def test_a_device_that_is_enrolled_gets_no_card(tmp_path: Path, home: Path) -> None:
    ledger = home / "current" / "ledger.json"
    text = json.loads(ledger.read_text())
    assert list_nodes(home) == ["n1", "n2", "n3"]
    for name in ("n1", "n3"):
        text["members"][name] |= {"status": "enrolled"}
    ledger.write_text(json.dumps(text))
    boot = boot_partition(tmp_path / "boot")
    done = seed_all(home, "--boot", boot, "--json", answers="y\n")
    result = check_result("seed-all-result", done.stdout)
    assert [each["node"] for each in result["seeds"]] == ["n2"]
    assert result["had_cards"] == ["n1", "n3"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["attic"], "give NODE and DIR"),
        (["--all", "attic", "."], "give DIR"),
        (["--all", "."], "one place to write to"),
        (["--all", ".", "--image", "base.img"], "a folder for them with --out"),
        (["attic", ".", "--image", "base.img", "--out", "cards"], "--out is for --all"),
        (["--all", ".", "--boot", ".", "--out", "cards"], "--out is for --all"),
        (["--all", ".", "--boot", ".", "--replace"], "--replace is for one NODE"),
        (["attic", ".", "--boot", ".", "--wheels", ".", "--python", "3.13"], "not both"),
        (["attic", "nowhere", "--boot", "."], "does not exist"),
    ],
)
def test_usage_errors(
    words: list[str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.img").write_bytes(b"")
    done = CliRunner().invoke(cli, ["provision", "seed", *words])
    assert (done.exit_code, problem in done.stderr) == (2, True), done.stderr


# -- wheels -------------------------------------------------------------------------------------


def test_wheels_are_collected_once(tmp_path: Path, home: Path) -> None:
    (home / "wheels" / "3.13").mkdir(parents=True)
    (home / "wheels" / "3.13" / "cipherfleet-0.1.0-py3-none-any.whl").write_bytes(b"wheel")
    boot = boot_partition(tmp_path / "boot")
    done = seed_all(home, "--boot", boot, "--python", "3.13", "--json", answers="y\nn\nn\n")
    assert "using the wheels in" in done.stderr
    assert check_result("seed-all-result", done.stdout)["seeds"][0]["programs"]
    assert (boot / "cipherfleet/wheels/cipherfleet-0.1.0-py3-none-any.whl").exists()


@pytest.mark.parametrize("python", ["3", "3.13.1", "../3.13", ""])
def test_what_is_no_python_version_is_refused(home: Path, python: str) -> None:
    with pytest.raises(ConfigError, match="must be a version such as"):
        wheels_module.collect_wheels(home, python, print)


@pytest.mark.fleet
def test_pip_collects_the_wheels_for_boards(home: Path) -> None:
    if os.environ.get("PIP_NO_INDEX"):
        pytest.skip("pip has no index")
    folder = wheels_module.collect_wheels(home, "3.13", print)
    names = sorted(file.name for file in folder.iterdir())
    assert any(name.startswith("cipherfleet-") for name in names)
    assert any(name.startswith("pip-") for name in names)
    assert all("cp313" in name for name in names if name.startswith(("numpy", "gmpy2")))
    assert all("aarch64" in name for name in names if "manylinux" in name)
    assert [each.name for each in folder.parent.iterdir()] == ["3.13"]
