"""The Debian package of a node: its contents, lintian, and its life in a clean Debian."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cipherfleet_deploy.cli.main import cli
from cipherfleet_node.__main__ import _parser
from tests.support.debian_archive import PIP_PACKAGES, debian_archive
from tests.support.debian_package import (
    NEWER,
    PACKAGE,
    PLACES,
    DebianRoot,
    build_package,
    in_folder,
    newer_package,
    unpacked,
)
from tests.support.device_card import NODE, plain_site
from tests.support.paths import ROOT
from tests.tools.device_root import make_root
from tests.tools.lock_dependencies import versions_in

DEBIAN = ROOT / "deploy/debian"
VERSION = "0.1.0"
PYTHONS = ("cp311", "cp313")  # of Debian 12 and 13


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("THE PACKAGE WAS NOT BUILT: no dpkg-deb, apt-get install dpkg")
    return build_package(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def files(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked package."""
    return unpacked(package, tmp_path_factory.mktemp("files"))


def output_of(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_package_has_the_wheels_of_every_library_for_both_pythons(files: Path) -> None:
    wheels = [file.name for file in (files / "usr/share/cipherfleet/wheels").iterdir()]
    locked = versions_in((ROOT / "locked/device.txt").read_text())
    assert len(locked) >= 10
    for name, version in locked.items():
        own = [each for each in wheels if each.startswith(f"{name.replace('-', '_')}-{version}-")]
        anywhere = [each for each in own if "-none-any" in each or "-abi3-" in each]
        assert anywhere or all(f"-{each}-" in "".join(own) for each in PYTHONS), name
    assert f"cipherfleet-{VERSION}-py3-none-any.whl" in wheels


def test_the_control_file_says_what_the_package_needs(package: Path) -> None:
    lines = output_of("dpkg-deb", "--field", package).splitlines()
    fields = dict(line.split(": ", 1) for line in lines if re.match(r"\w", line))
    assert (fields["Package"], fields["Version"]) == (PACKAGE, VERSION)
    assert fields["Architecture"] == "amd64"
    assert fields["Depends"] == (
        "python3 (>= 3.11), python3 (<< 3.14~), python3 (<< 3.12~) | python3 (>= 3.13), systemd"
    )
    assert package.name == f"{PACKAGE}_{VERSION}_amd64.deb"


def test_another_build_gives_the_same_bytes(package: Path, files: Path, tmp_path: Path) -> None:
    wheels = files / "usr/share/cipherfleet/wheels"
    assert build_package(tmp_path, "--wheels", wheels).read_bytes() == package.read_bytes()


def test_lintian_finds_no_error_and_no_warning(package: Path) -> None:
    if shutil.which("lintian") is None:
        pytest.skip("THE PACKAGE WAS NOT SHOWN TO LINTIAN: apt-get install lintian")
    done = subprocess.run(["lintian", package], capture_output=True, text=True, check=False)
    assert [line for line in done.stdout.splitlines() if line[:2] in ("E:", "W:")] == []
    assert done.returncode == 0


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm"])
def test_shellcheck_has_nothing_to_say_of_the_packages_scripts(name: str) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("THE SCRIPTS WERE NOT CHECKED: apt-get install shellcheck")
    done = subprocess.run(["shellcheck", DEBIAN / name], capture_output=True, check=False)
    assert done.stdout + done.stderr == b""


# -- man pages and completion ---------------------------------------------------------------------


def commands_of(parser: argparse.ArgumentParser) -> dict[str, set[str]]:
    """Each command of *parser* with its options."""
    (below,) = (each for each in parser._actions if each.nargs == argparse.PARSER)
    assert isinstance(below.choices, dict)
    return {
        name: {long for each in command._actions for long in each.option_strings[-1:]}
        for name, command in below.choices.items()
    }


def test_the_man_pages_describe_every_command(files: Path) -> None:
    manual = files / "usr/share/man"
    operator = output_of("gzip", "-dc", manual / "man1/cipherfleet.1.gz")
    for name in cli.commands:
        assert f'.SS "cipherfleet {name} '.replace("-", "\\-") in operator
    assert '.SS "cipherfleet provision seed ' in operator
    node = output_of("gzip", "-dc", manual / "man1/cipherfleet-node.1.gz").replace("\\", "")
    for name, options in commands_of(_parser()).items():
        _, _, text = node.partition(f'.SS "cipherfleet-node {name} ')
        assert all(option in text.partition(".SS")[0] for option in options), name
    assert "--rollback" in output_of(
        "gzip", "-dc", manual / "man8/cipherfleet-install.8.gz"
    ).replace("\\", "")


def completed(script: Path, *words: str) -> set[str]:
    """What bash offers after *words*."""
    program = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _cipherfleet_node; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    return set(output_of("bash", "-c", program, "bash", script, PACKAGE, *words).split())


def test_bash_completes_the_commands_and_options_of_a_node(files: Path) -> None:
    script = files / "usr/share/bash-completion/completions/cipherfleet-node"
    commands = commands_of(_parser())
    assert completed(script, "") == {*commands, "--help", "--version"}
    assert completed(script, "ch") == {"check-config"}
    for name, options in commands.items():
        assert completed(script, name, "-") == options


def test_zsh_knows_the_same_words_as_bash() -> None:
    texts = [(DEBIAN / f"{PACKAGE}.{shell}").read_text() for shell in ("bash", "zsh")]
    words = [set(re.findall(r"--[a-z]+", text)) for text in texts]
    assert words[0] == words[1]
    assert all(name in texts[1] for name in commands_of(_parser()))


def test_the_completion_of_the_operators_command_asks_click(files: Path) -> None:
    script = files / "usr/share/bash-completion/completions/cipherfleet"
    assert "_CIPHERFLEET_COMPLETE=bash_complete" in script.read_text()
    assert output_of("bash", "-n", script) == ""
    asked = {"COMP_WORDS": "cipherfleet fleet im", "COMP_CWORD": "2"}
    offered = subprocess.run(
        [sys.executable, "-c", "from cipherfleet_deploy.cli.main import main; main()"],
        env={**os.environ, **asked, "_CIPHERFLEET_COMPLETE": "bash_complete"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert offered.stdout.strip() == "plain,image"


# -- the playbook ----------------------------------------------------------------------------------


def test_the_playbook_names_the_package_and_its_command(package: Path, files: Path) -> None:
    (play,) = yaml.safe_load((ROOT / "deploy/ansible/playbook.yml").read_text())
    text = str(play["tasks"])
    name = package.name.replace(VERSION, "{{ version }}").replace("amd64", "{{ machine.stdout }}")
    assert name in text
    assert "cipherfleet-install --bundle" in text
    assert os.access(files / "usr/share/cipherfleet/install.sh", os.X_OK)
    assert (files / "usr/sbin/cipherfleet-install").resolve().name == "install.sh"


# -- in a Debian -----------------------------------------------------------------------------------


@pytest.fixture
def debian(tmp_path: Path, shared_folder: Path) -> DebianRoot:
    """A clean Debian that does not run: systemd is installed, and no service starts."""
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        pytest.skip("THE PACKAGE WAS NOT INSTALLED: needs root and apt-get install mmdebstrap")
    make_root(tmp_path / "root", debian_archive(shared_folder))
    root = DebianRoot(tmp_path / "root", in_folder(tmp_path / "root"))
    root.must("dpkg", "--purge", *PIP_PACKAGES)
    return root


def test_the_package_is_installed_upgraded_downgraded_removed_and_purged(
    debian: DebianRoot, package: Path, tmp_path: Path
) -> None:
    clean = debian.left_behind()
    assert "no node is installed yet" in debian.install(package)
    assert debian.runs() == VERSION
    assert debian.must(PACKAGE, "--version").strip() == VERSION

    site = plain_site(tmp_path)
    bundle = tmp_path / "bundle.tar.gz"
    subprocess.run(["tar", "-C", site.nodes, "-czf", bundle, NODE], check=True)
    debian.must("cipherfleet-install", "--bundle", debian.put(bundle))
    unit = debian.path / "etc/systemd/system/cipherfleet-node.service"
    assert f"/var/lib/cipherfleet/{NODE}" in unit.read_text()
    key = debian.path / f"etc/cipherfleet/{NODE}/paillier.json"
    secret = key.read_bytes()

    assert "installed version" not in debian.install(package)  # the same version again
    newer = newer_package(package, tmp_path)
    debian.install_interrupted(newer)
    assert debian.state() in ("half-configured", "unpacked")
    assert debian.runs() == VERSION
    settings = debian.path / f"var/lib/cipherfleet/{NODE}/node.yaml"
    good = settings.read_text()
    settings.write_text(good + "unknown_to_this_version: 1\n")
    refused = debian.run("dpkg", "--configure", "--pending")
    assert refused.returncode != 0
    assert "unknown_to_this_version" in refused.stdout
    assert debian.runs() == VERSION  # as before: the new version does not read the settings
    settings.write_text(good)
    debian.must("dpkg", "--configure", "--pending")
    assert debian.runs() == NEWER

    assert "installed version" not in debian.install(package)  # a downgrade to one that is there
    assert debian.runs() == VERSION
    debian.must("cipherfleet-install", "--rollback")
    assert debian.runs() == NEWER

    (library,) = (debian.path / "opt/cipherfleet/current/lib").glob("python3.*")
    shutil.move(library, library.with_name("python3.9"))  # as if the system had another Python
    assert debian.run(PACKAGE, "--version").returncode != 0
    debian.must("dpkg-trigger", "--by-package=python3-minimal", "/usr/bin/python3")
    debian.must("dpkg", "--triggers-only", PACKAGE)
    assert debian.must(PACKAGE, "--version").strip() == VERSION

    debian.must("dpkg", "--remove", PACKAGE)
    assert not (debian.path / "opt/cipherfleet").exists()
    assert not unit.exists()
    assert key.read_bytes() == secret
    assert (debian.path / f"var/lib/cipherfleet/{NODE}/node.yaml").exists()
    debian.must("dpkg", "--purge", PACKAGE)
    assert [place for place in PLACES if (debian.path / place).exists()] == []
    assert debian.left_behind() == clean
