"""The FAT boot partition of a card: in an image, on a device, or mounted as a folder.

Images are written with mtools, without a mount and without root. Partition tables, MBR and GPT, are
only read. What does not look like the boot partition of a system that we know is refused.
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
from cipherfleet_node.runtime.store import sync_folder

SECTOR = 512
MAX_GPT_ENTRIES = 256
BOOT_FILES = ("config.txt", "cmdline.txt")  # the firmware of a Raspberry Pi reads them
SEED_FILES = ("user-data", "meta-data", "network-config")  # cloud-init reads them
COMPRESSED = {b"\xfd7zXZ\0": "unxz -k", b"\x1f\x8b": "gunzip -k", b"\x28\xb5\x2f\xfd": "unzstd"}
SYSTEMS = "Raspberry Pi OS (trixie or newer) or Ubuntu for the Raspberry Pi"


class Volume(Protocol):
    """The files of a boot partition, named by their paths in it."""

    where: str  # how messages call it

    def names(self) -> list[str]:
        """The files and folders at its root."""

    def read(self, name: str) -> bytes | None:
        """The bytes of the file *name*, None if there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Make *name* a file with *data*, and the folders above it."""

    def remove(self, name: str) -> None:
        """Make the file or folder *name* absent."""

    def close(self) -> None:
        """Bring everything onto the card."""


class Mounted:
    """A boot partition that is mounted as the folder *place*."""

    def __init__(self, place: Path) -> None:
        self._place, self.where = place, str(place)

    def names(self) -> list[str]:
        """The files and folders at its root."""
        return [file.name for file in self._place.iterdir()]

    def read(self, name: str) -> bytes | None:
        """The bytes of the file *name*, None if there is none; from the card, not from memory."""
        try:
            with (self._place / name).open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                return stream.read()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Make *name* a file with *data*, on the card when this returns."""
        file = self._place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())

    def remove(self, name: str) -> None:
        """Make the file or folder *name* absent."""
        place = self._place / name
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    def close(self) -> None:
        """Bring the names onto the card, too."""
        sync_folder(self._place)


class Image:
    """The FAT file system that begins at byte *offset* of the file or device *image*."""

    def __init__(self, image: Path, offset: int) -> None:
        self.where, self._image = str(image), image
        self._drive = f"{image}@@{offset}"

    def names(self) -> list[str]:
        """The files and folders at its root."""
        listed = self._run("mdir", "-b", "::/").decode(errors="replace").splitlines()
        return [line.removeprefix("::/").rstrip("/") for line in listed if line]

    def read(self, name: str) -> bytes | None:
        """The bytes of the file *name*, None if there is none."""
        if not self._exists(name):
            return None
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy"
            self._run("mcopy", f"::/{name}", str(copy))
            return copy.read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Make *name* a file with *data*, and the folders above it."""
        for folder in [*reversed(Path(name).parents)][1:]:
            if not self._exists(str(folder)):
                self._run("mmd", f"::/{folder}")
        with tempfile.NamedTemporaryFile() as copy:
            copy.write(data)
            copy.flush()
            self._run("mcopy", "-o", copy.name, f"::/{name}")

    def remove(self, name: str) -> None:
        """Make the file or folder *name* absent."""
        if self._exists(name):
            self._run("mdeltree", f"::/{name}")

    def close(self) -> None:
        """Bring everything onto the card."""
        with self._image.open("rb+") as stream:
            os.fsync(stream.fileno())

    def _exists(self, name: str) -> bool:
        return self._try("mdir", "-b", f"::/{name}").returncode == 0

    def _run(self, program: str, *arguments: str) -> bytes:
        done = self._try(program, *arguments)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
            raise CipherfleetError(f"{self.where}: {program} failed, and said: {said[-1]}")
        return done.stdout

    def _try(self, program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        # A user's own settings must not say how an image is read.
        environment = {**os.environ, "MTOOLSRC": os.devnull, "MTOOLS_SKIP_CHECK": "1"}
        environment |= {"LC_ALL": "C.UTF-8"}
        command = [_program(program), "-i", self._drive, *arguments]
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, check=False
        )


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ConfigError(f"{name} is not installed: apt-get install mtools, or use --boot FOLDER")
    return found


# -- which one ----------------------------------------------------------------------------------


def open_folder(place: Path) -> Volume:
    """The boot partition mounted at *place*; raises ConfigError for what is none that we know."""
    if not place.is_dir():
        raise ConfigError(
            f"{place}: is no folder; give the one where the boot partition is mounted"
        )
    return _known([Mounted(place)], str(place))


def open_image(image: Path) -> Volume:
    """The boot partition in *image*, a file or a card; raises ConfigError for what is unknown."""
    try:
        with image.open("rb") as stream:
            offsets = list(fat_offsets(image, stream))
    except (OSError, struct.error) as error:
        reason = error.strerror if isinstance(error, OSError) else "it ends too early"
        raise ConfigError(f"{image}: cannot be read: {reason}") from None
    if not offsets:
        raise ConfigError(f"{image}: has no FAT partition; give an image of {SYSTEMS}")
    return _known([Image(image, offset) for offset in offsets], str(image))


def _known(volumes: list[Mounted] | list[Image], where: str) -> Volume:
    """The one of *volumes* that a system boots from, and in which cloud-init looks for a seed."""
    booting = False
    for volume in volumes:
        names = volume.names()
        if all(name in names for name in BOOT_FILES):
            if any(name in names for name in SEED_FILES):
                return volume
            booting = True
    if booting:
        raise ConfigError(
            f"{where}: boots a system that would ignore the seed (no {', '.join(SEED_FILES)}); "
            f"give one of {SYSTEMS}, or run deploy/devices/install.sh on the device"
        )
    raise ConfigError(
        f"{where}: is no boot partition that is known (no {', '.join(BOOT_FILES)}); give {SYSTEMS}"
    )


def fat_offsets(image: Path, stream: BinaryIO) -> Iterator[int]:
    """The bytes at which the FAT partitions of *stream* begin; the table is MBR or GPT."""
    first = stream.read(2 * SECTOR)
    for magic, mend in COMPRESSED.items():
        if first.startswith(magic):
            raise ConfigError(f"{image}: is compressed; unpack it first: {mend} {image}")
    if first[510:512] != b"\x55\xaa":
        return
    if first[SECTOR:].startswith(b"EFI PART"):
        begins = _gpt(stream, first[SECTOR:])
    else:
        begins = [
            struct.unpack_from("<I", first, 446 + 16 * n + 8)[0]
            for n in range(4)
            if first[446 + 16 * n + 4]
        ]
    for begin in begins:
        stream.seek(begin * SECTOR)
        sector = stream.read(SECTOR)
        if sector[510:512] == b"\x55\xaa" and b"FAT" in (sector[54:57], sector[82:85]):
            yield begin * SECTOR


def _gpt(stream: BinaryIO, header: bytes) -> list[int]:
    """The first sectors of the partitions that the GPT *header* speaks of."""
    table, count, size = struct.unpack_from("<QII", header, 72)
    if not (128 <= size <= 4096 and count <= MAX_GPT_ENTRIES):
        return []
    stream.seek(table * SECTOR)
    entries = stream.read(count * size)
    used = [n for n in range(len(entries) // size) if any(entries[n * size : n * size + 16])]
    return [struct.unpack_from("<Q", entries, n * size + 32)[0] for n in used]
