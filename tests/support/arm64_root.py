"""A disk image for an arm64 guest, made from the image for amd64 by exchanging packages.

mmdebstrap would run dpkg and the scripts of all packages under qemu-user: 1,000 s of processor
time. Here the files of amd64 packages are removed, and those of the arm64 packages with the same
names are unpacked. Packages for all architectures stay, and so does what scripts of packages have
made: users, enabled units, compiled Python. Only the list of kernel modules and the initrd are made
under qemu-user.

dpkg's database in this root still lists the amd64 packages, and set-group-id bits of folders that
no arm64 package contains are lost. An installed node depends on neither.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from cipherfleet_deploy.containers.image import EMULATORS, check_emulator
from cipherfleet_node.errors import ConfigError

from .guest_image import GuestImage, NoGuest, cache_folder, cached_image, guest_image, run
from .guest_image import recipe_digest as amd64_digest

RECIPE = 1  # raise it when the functions below make another root of the same image for amd64
TOOLS = {"dpkg-query": "dpkg", "apt-get": "apt", "qemu-aarch64-static": "qemu-user-static"}
LEFT_BEHIND = (  # made on amd64, and of no use to another processor
    *("usr/lib/x86_64-linux-gnu", "usr/lib/modules/*-amd64", "boot/initrd.img-*"),
    *("etc/ld.so.cache", "vmlinuz*", "initrd.img*", "lost+found"),
)


def arm64_image(folder: Path | None = None) -> GuestImage:
    """Return the image for arm64 in the cache *folder*. Makes it if it is not there (minutes)."""
    place = folder or cache_folder()
    amd64 = guest_image(place)

    def make_root(root: Path) -> None:
        _check_tools()
        amd64.copy_root(root)
        _exchange_packages(root)
        _make_initrd(root)

    return cached_image(place, f"arm64-guest-{amd64_digest()}r{RECIPE}", make_root)


def _check_tools() -> None:
    """Register the emulator of arm64 with the kernel. Raises NoGuest where that is impossible."""
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if missing:
        raise NoGuest(f"an arm64 root needs more programs: apt-get install {' '.join(missing)}")
    # systemd does this at boot; in a container it is still to be done.
    if not (EMULATORS / "status").exists():
        run("mount", "-t", "binfmt_misc", "binfmt_misc", str(EMULATORS))
    if not (EMULATORS / "qemu-aarch64").exists() and shutil.which("update-binfmts"):
        run("update-binfmts", "--enable", "qemu-aarch64")
    try:
        check_emulator("amd64", "arm64")
    except ConfigError as error:
        raise NoGuest(f"{error}: {error.remedy}") from None


def _exchange_packages(root: Path) -> None:
    names = amd64_packages(root)
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        archives = _download([arm64_name(each) for each in names], root, Path(folder))
        remove_files(root, files_of(names, root))
        for pattern in LEFT_BEHIND:
            for each in root.glob(pattern):
                shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
        for archive in archives:
            unpack(archive, root)


def amd64_packages(root: Path) -> list[str]:
    """Return the names of the packages in *root* that only amd64 can run."""
    listed = _query(root, "--show", "--showformat", "${Architecture} ${Package}\n")
    words = [line.split() for line in listed.splitlines()]
    return [name for architecture, name in words if architecture == "amd64"]


def arm64_name(package: str) -> str:
    """Return the name for arm64 of *package*: those of kernels contain the architecture."""
    return package.replace("amd64", "arm64")


def files_of(packages: Sequence[str], root: Path) -> list[str]:
    listed = _query(root, "--listfiles", *packages).splitlines()
    return [line.lstrip("/") for line in listed if line.startswith("/")]


def remove_files(root: Path, names: Iterable[str]) -> None:
    """Remove the files *names* from *root*.

    Folders and links to folders stay, as does all that is outside of *root*. A root contains
    absolute links, such as /var/run, which lead out of it here.
    """
    top = root.resolve()
    is_inside = cache(lambda parent: parent.resolve().is_relative_to(top))
    for name in names:
        file = root / name
        if is_inside(file.parent) and not file.is_dir():
            file.unlink(missing_ok=True)


def _download(packages: Sequence[str], root: Path, folder: Path) -> list[Path]:
    """Download *packages* for arm64 to *folder*, from the sources of *root*."""
    places = {
        "State": folder / "state",
        "State::status": "/dev/null",
        "Cache": folder / "cache",
        "Etc::SourceList": root / "etc/apt/sources.list",
        "Etc::SourceParts": "/dev/null",
    }
    options = [f"-oDir::{name}={place}" for name, place in places.items()]
    options += ["-oAPT::Architecture=arm64", "-oAPT::Architectures=arm64", "-oAcquire::Retries=3"]
    options += ["-oAcquire::Languages=none", "-oAPT::Sandbox::User=root"]
    for part in ("state/lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    run("apt-get", *options, "update")
    run("apt-get", *options, "download", *packages, folder=folder)
    archives = sorted(folder.glob("*.deb"))
    if len(archives) != len(packages):
        raise RuntimeError(f"asked for {len(packages)} packages, found {len(archives)} archives")
    return archives


def unpack(archive: Path, root: Path) -> None:
    # dpkg-deb --extract would replace the link /lib by a folder.
    tar = ["tar", "-x", "-p", "--numeric-owner", "--keep-directory-symlink", "-C", str(root)]
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE
    ) as source:
        subprocess.run(tar, stdin=source.stdout, check=True)
    if source.returncode:
        raise RuntimeError(f"dpkg-deb cannot read {archive.name}")


def _make_initrd(root: Path) -> None:
    """Make the lists of modules and the initrd under qemu-user, and the links to the kernel."""
    (kernel,) = root.glob("boot/vmlinuz-*")
    version = kernel.name.removeprefix("vmlinuz-")
    run("mknod", "-m", "666", str(root / "dev/null"), "c", "1", "3")
    for command in (["depmod", version], ["update-initramfs", "-c", "-k", version]):
        run("chroot", str(root), *command)
    for name in ("vmlinuz", "initrd.img"):
        (root / name).symlink_to(f"boot/{name}-{version}")


def _query(root: Path, *words: str) -> str:
    command = ["dpkg-query", f"--admindir={root / 'var/lib/dpkg'}", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
