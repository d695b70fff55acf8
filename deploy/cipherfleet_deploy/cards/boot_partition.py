"""Read and write the FAT boot partition of a card: in an image, in a card reader, or mounted.

mtools writes images, so neither a mount nor root is needed. Partition tables (MBR and GPT) are only
read. A partition is refused unless it is the boot partition of a known system.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from cipherfleet_node.errors import CipherfleetError, ConfigError
from cipherfleet_node.runtime.synced_files import sync_folder

SECTOR = 512
MAX_GPT_ENTRIES = 256
BOOT_FILES = ("config.txt", "cmdline.txt")  # read by the firmware of a Raspberry Pi
SEED_FILES = ("user-data", "meta-data", "network-config")  # read by cloud-init
PRESEED_FILE = "rpi-preseed.toml"  # read by rpi-preseed
COMPRESSED = {b"\xfd7zXZ\0": "unxz -k", b"\x1f\x8b": "gunzip -k", b"\x28\xb5\x2f\xfd": "unzstd"}
SYSTEMS = "Raspberry Pi OS (trixie or newer) or Ubuntu for the Raspberry Pi"


class Volume(Protocol):
    """The files of a boot partition. Names are paths within the partition."""

    where: str  # its name in messages

    def names(self) -> list[str]:
        """Return the names of the files and folders at the root."""

    def read(self, name: str) -> bytes | None:
        """Return the content of the file *name*, or None if it does not exist."""

    def write(self, name: str, data: bytes) -> None:
        """Write *data* to the file *name*, and create the folders above it."""

    def remove(self, name: str) -> None:
        """Remove the file or folder *name* if it exists."""

    def close(self) -> None:
        """Flush all writes to the card."""


class Mounted:
    """A boot partition that is mounted as the folder *place*."""

    def __init__(self, place: Path) -> None:
        self._place, self.where = place, str(place)

    def names(self) -> list[str]:
        return [file.name for file in self._place.iterdir()]

    def read(self, name: str) -> bytes | None:
        """Return the content of *name*, or None. Reads the card, not Linux's page cache."""
        try:
            with (self._place / name).open("rb") as stream:
                if hasattr(os, "posix_fadvise"):  # not on macOS
                    os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                return stream.read()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Write *data* to the file *name*. It is on the card when this returns."""
        file = self._place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())

    def remove(self, name: str) -> None:
        place = self._place / name
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    def close(self) -> None:
        """Flush the folder, which holds the names of new files."""
        sync_folder(self._place)


class Image:
    """The FAT file system that begins at byte *offset* of the file or device *image*."""

    def __init__(self, image: Path, offset: int) -> None:
        self.where, self._image = str(image), image
        self._drive = f"{image}@@{offset}"

    def names(self) -> list[str]:
        listed = self._run("mdir", "-b", "::/").decode(errors="replace").splitlines()
        return [line.removeprefix("::/").rstrip("/") for line in listed if line]

    def read(self, name: str) -> bytes | None:
        if not self._exists(name):
            return None
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy"
            self._run("mcopy", f"::/{name}", str(copy))
            return copy.read_bytes()

    def write(self, name: str, data: bytes) -> None:
        for folder in [*reversed(Path(name).parents)][1:]:
            if not self._exists(str(folder)):
                self._run("mmd", f"::/{folder}")
        with tempfile.NamedTemporaryFile() as copy:
            copy.write(data)
            copy.flush()
            self._run("mcopy", "-o", copy.name, f"::/{name}")

    def remove(self, name: str) -> None:
        if self._exists(name):
            self._run("mdeltree", f"::/{name}")

    def close(self) -> None:
        with self._image.open("rb+") as stream:
            os.fsync(stream.fileno())

    def _exists(self, name: str) -> bool:
        return self._try("mdir", "-b", f"::/{name}").returncode == 0

    def _run(self, program: str, *arguments: str) -> bytes:
        done = self._try(program, *arguments)
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
            raise CipherfleetError(f"{self.where}: {program} failed, its last line: {lines[-1]}")
        return done.stdout

    def _try(self, program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        # The user's own settings of mtools must not change how an image is read.
        environment = {**os.environ, "MTOOLSRC": os.devnull, "MTOOLS_SKIP_CHECK": "1"}
        environment |= {"LC_ALL": "C.UTF-8"}
        command = [_program(program), "-i", self._drive, *arguments]
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, check=False
        )


def _program(name: str) -> str:
    program = shutil.which(name)
    if program is None:
        raise ConfigError(
            f"{name} is not installed",
            remedy="install it (apt-get install mtools), or use --boot FOLDER",
        )
    return program


# -- finding the boot partition -----------------------------------------------------------------


def open_folder(place: Path) -> Volume:
    """Return the boot partition mounted at *place*. Raises ConfigError if it is not a known one."""
    if not place.is_dir():
        raise ConfigError(
            f"{place}: is not a folder",
            remedy="give the folder where the boot partition is mounted",
        )
    return _choose_known([Mounted(place)], str(place))


def open_image(image: Path) -> Volume:
    """Return the boot partition in *image*, a file or a card in a reader.

    Raises ConfigError if it has no known boot partition.
    """
    try:
        with image.open("rb") as stream:
            offsets = list(fat_offsets(image, stream))
    except (OSError, struct.error) as error:
        reason = error.strerror if isinstance(error, OSError) else "it ends too early"
        raise ConfigError(f"{image}: cannot be read: {reason}") from None
    if not offsets:
        raise ConfigError(f"{image}: has no FAT partition", remedy=f"give an image of {SYSTEMS}")
    return _choose_known([Image(image, offset) for offset in offsets], str(image))


def _choose_known(volumes: list[Mounted] | list[Image], where: str) -> Volume:
    """Return the one of *volumes* that boots a system whose cloud-init reads a seed there."""
    is_bootable = False
    for volume in volumes:
        names = volume.names()
        if all(name in names for name in BOOT_FILES):
            if any(name in names for name in (*SEED_FILES, PRESEED_FILE)):
                return volume
            is_bootable = True
    if is_bootable:
        raise ConfigError(
            f"{where}: boots a system that would ignore the seed (none of "
            f"{', '.join((*SEED_FILES, PRESEED_FILE))})",
            remedy=f"give an image of {SYSTEMS}, or run deploy/devices/install.sh on the device",
        )
    raise ConfigError(
        f"{where}: is not a known boot partition (no {', '.join(BOOT_FILES)})",
        remedy=f"give an image of {SYSTEMS}",
    )


def fat_offsets(image: Path, stream: BinaryIO) -> Iterator[int]:
    """Yield the byte offsets of the FAT partitions of *stream*. The table is MBR or GPT.

    Raises ConfigError for a compressed image.
    """
    first = stream.read(2 * SECTOR)
    for magic, remedy in COMPRESSED.items():
        if first.startswith(magic):
            raise ConfigError(
                f"{image}: is compressed", remedy=f"unpack it first: {remedy} {image}"
            )
    if first[510:512] != b"\x55\xaa":
        return
    if first[SECTOR:].startswith(b"EFI PART"):
        sectors = _first_sectors_of_gpt(stream, first[SECTOR:])
    else:
        sectors = [
            struct.unpack_from("<I", first, 446 + 16 * n + 8)[0]
            for n in range(4)
            if first[446 + 16 * n + 4]
        ]
    for sector in sectors:
        stream.seek(sector * SECTOR)
        boot_sector = stream.read(SECTOR)
        signatures = boot_sector[54:57], boot_sector[82:85]
        if boot_sector[510:512] == b"\x55\xaa" and b"FAT" in signatures:
            yield sector * SECTOR


def _first_sectors_of_gpt(stream: BinaryIO, header: bytes) -> list[int]:
    table, count, size = struct.unpack_from("<QII", header, 72)
    if not (128 <= size <= 4096 and count <= MAX_GPT_ENTRIES):
        return []
    stream.seek(table * SECTOR)
    entries = stream.read(count * size)
    used = [n for n in range(len(entries) // size) if any(entries[n * size : n * size + 16])]
    return [struct.unpack_from("<Q", entries, n * size + 32)[0] for n in used]
