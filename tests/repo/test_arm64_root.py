"""How the root of an arm64 guest is made from that of an amd64 guest, on small roots."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.arm64_root import amd64_packages, arm64_name, files_of, remove_files, unpack

STATUS = """\
Package: {name}
Status: install ok installed
Maintainer: nobody
Architecture: {architecture}
Version: 1
Description: none

"""
PACKAGES = {"libc6": "amd64", "linux-image-cloud-amd64": "amd64", "cloud-init": "all"}

needs_dpkg = pytest.mark.skipif(
    shutil.which("dpkg-deb") is None, reason="ROOTS WERE NOT TESTED: apt-get install dpkg"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root in which each package of PACKAGES has one file, beside one that a script has made."""
    root = tmp_path / "root"
    (info := root / "var/lib/dpkg/info").mkdir(parents=True)
    (root / "usr/lib").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    (root / "usr/lib/made-by-a-script").write_text("")
    texts = [STATUS.format(name=name, architecture=kind) for name, kind in PACKAGES.items()]
    (info.parent / "status").write_text("".join(texts))
    for name in PACKAGES:
        (root / "usr/lib" / name).write_text("amd64")
        (info / f"{name}.list").write_text(f"/.\n/lib\n/lib/{name}\n/lib/absent\n")
    return root


def archive(folder: Path) -> Path:
    """A package with a program in /lib, which is a folder in it, that has a special bit."""
    (folder / "DEBIAN").mkdir(parents=True)
    (folder / "lib").mkdir()
    (folder / "lib/libc6").write_text("arm64")
    (folder / "lib/libc6").chmod(0o4755)
    text = "Package: libc6\nVersion: 1\nArchitecture: arm64\nMaintainer: n\nDescription: none\n"
    (folder / "DEBIAN/control").write_text(text)
    file = folder.with_suffix(".deb")
    command = ["dpkg-deb", "--root-owner-group", "--build", str(folder), str(file)]
    subprocess.run(command, check=True, capture_output=True)
    return file


@needs_dpkg
def test_packages_of_the_processor_are_removed_and_all_else_stays(root: Path) -> None:
    names = amd64_packages(root)
    assert names == ["libc6", "linux-image-cloud-amd64"]
    remove_files(root, files_of(names, root))
    assert (root / "lib").is_symlink()
    left = {each.name for each in (root / "usr/lib").iterdir()}
    assert left == {"cloud-init", "made-by-a-script"}


@needs_dpkg
def test_an_unpacked_package_keeps_links_to_folders_and_special_bits(root: Path) -> None:
    unpack(archive(root.parent / "package"), root)
    assert (root / "lib").is_symlink()
    assert (root / "usr/lib/libc6").read_text() == "arm64"
    assert (root / "usr/lib/libc6").stat().st_mode & 0o7777 == 0o4755


def test_a_link_does_not_lead_the_removal_out_of_the_root(root: Path) -> None:
    (outside := root.parent / "run").mkdir()
    (outside / "file").write_text("of this machine")
    (root / "var/run").symlink_to(outside)
    assert (root / "var/run/file").exists()  # a plain unlink would remove it
    remove_files(root, ["var/run/file", "lib/libc6"])
    assert (outside / "file").exists()
    assert not (root / "lib/libc6").exists()


@pytest.mark.parametrize(
    ("amd64", "arm64"),
    [
        ("linux-image-cloud-amd64", "linux-image-cloud-arm64"),
        ("linux-image-6.12.118+deb13-cloud-amd64", "linux-image-6.12.118+deb13-cloud-arm64"),
        ("libc6", "libc6"),
    ],
)
def test_packages_of_kernels_have_another_name_for_arm64(amd64: str, arm64: str) -> None:
    assert arm64_name(amd64) == arm64
