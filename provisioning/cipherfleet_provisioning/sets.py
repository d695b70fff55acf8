"""A fleet's provisioned set on disk, replaced as a whole or not at all.

    DIR/current -> sets/<number>    one rename switches from the old set to the new one
    DIR/lock                        one command at a time

A new set begins as hard links to the files of the present one; files are replaced, never written
into, so that the present set stays what it is until the switch.
"""

from __future__ import annotations

import ctypes
import fcntl
import gzip
import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.keys.key_files import write_private
from cipherfleet_node.runtime.store import sync_folder

CURRENT, SETS, LOCK = "current", "sets", "lock"
NODES, ARCHIVES, SUMS = "nodes", "archives", "SHA256SUMS"
_FRESH = ".current"


class Draft:
    """A set being made: the files of the present one, if there is one, to be changed at will."""

    def __init__(self, home: Path, place: Path, present: Path | None) -> None:
        self.home, self.place, self.present = home, place, present

    def put(self, name: str, data: bytes) -> None:
        """Make *name* a file with *data*, for its owner only."""
        file = self.place / name
        if file.is_file() and file.read_bytes() == data:
            return
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)

    def remove(self, name: str) -> None:
        """Make *name*, a file or a folder, absent."""
        place = self.place / name
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    def commit(self) -> bool:
        """Let this set be the current one; False if it is the present one, file by file."""
        if self.present is not None and tree_digest(self.present) == tree_digest(self.place):
            shutil.rmtree(self.place)
            return False
        _sync_file_system(self.place)
        fresh = self.home / _FRESH
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path(SETS) / self.place.name)
        fresh.replace(self.home / CURRENT)
        sync_folder(self.home)
        if self.present is not None:
            shutil.rmtree(self.present, ignore_errors=True)
        return True


@contextmanager
def locked(home: Path, *, make: bool = False) -> Iterator[None]:
    """Hold *home* against other commands, and sweep up what an interrupted one has left."""
    if make:
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            (home / SETS).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{home}: cannot be made: {error.strerror}") from None
    elif not (home / CURRENT).exists():
        raise ConfigError(
            f"{home}: holds no provisioned set; make it with: cipherfleet provision bundle FILE DIR"
        )
    umask = os.umask(0o077)
    descriptor = os.open(home / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _hold(home, descriptor)
        _sweep(home)
        yield
    finally:
        os.close(descriptor)
        os.umask(umask)


def _hold(home: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"{home}: another command works on it; wait for its end") from None


def _sweep(home: Path) -> None:
    """Away with sets that never became current, or have ceased to be."""
    (home / _FRESH).unlink(missing_ok=True)
    present = current(home)
    for place in (home / SETS).iterdir():
        if place != present:
            shutil.rmtree(place)
    if not (home / ".gitignore").exists():
        write_private(home / ".gitignore", b"# private keys\n*\n")


def current(home: Path) -> Path | None:
    """The current set of *home*, None if there is none yet."""
    link = home / CURRENT
    return home / link.readlink() if link.is_symlink() else None


@contextmanager
def drafted(home: Path) -> Iterator[Draft]:
    """A draft that is thrown away unless it was committed. The lock must be held."""
    present = current(home)
    number = int(present.name) + 1 if present is not None else 1
    place = home / SETS / f"{number:06}"
    try:
        if present is None:
            place.mkdir(mode=0o700)
        else:
            shutil.copytree(present, place, copy_function=_link)
        yield Draft(home, place, present)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _link(source: str, target: str) -> None:
    """A hard link, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _sync_file_system(place: Path) -> None:
    """Bring everything on the file system of *place* onto the disk: one call for all files."""
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(place))
    finally:
        os.close(descriptor)


def tree_digest(folder: Path) -> str:
    """Over the names, the modes and the bytes of all files in *folder*."""
    hashed = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        hashed.update(f"{file.relative_to(folder)}\0{file.stat().st_mode:o}\0".encode())
        if file.is_file():
            hashed.update(hashlib.sha256(file.read_bytes()).digest())
    return hashed.hexdigest()


# -- archives -----------------------------------------------------------------------------------


def archive(folder: Path) -> bytes:
    """*folder* as a .tar.gz whose bytes follow from its files' names and bytes alone."""
    files = [folder, *sorted(folder.rglob("*"))]
    return tar_gz((str(file.relative_to(folder.parent)), file, 0o600) for file in files)


def tar_gz(entries: Iterable[tuple[str, Path, int]]) -> bytes:
    """A .tar.gz of *entries*: the name in it, the file or folder, and a file's mode.

    Its bytes follow from these and the files' bytes alone. Folders have mode 0700.
    """
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as squeezed,
        tarfile.open(fileobj=squeezed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, file, mode in entries:
            member = tarfile.TarInfo(name)
            if file.is_dir():
                member.type, member.mode = tarfile.DIRTYPE, 0o700
                tar.addfile(member)
            else:
                data = file.read_bytes()
                member.size, member.mode = len(data), mode
                tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def put_archives(draft: Draft) -> None:
    """archives/<id>.tar.gz of every folder in nodes/, and their checksums."""
    folders = sorted((draft.place / NODES).iterdir())
    wanted, sums = {SUMS}, []
    for folder in folders:
        name, data = f"{folder.name}.tar.gz", archive(folder)
        draft.put(f"{ARCHIVES}/{name}", data)
        wanted.add(name)
        sums.append(f"{hashlib.sha256(data).hexdigest()}  {name}\n")
    draft.put(f"{ARCHIVES}/{SUMS}", "".join(sums).encode())
    for file in (draft.place / ARCHIVES).iterdir():
        if file.name not in wanted:
            file.unlink()
