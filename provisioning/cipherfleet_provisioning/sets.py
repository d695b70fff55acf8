"""A fleet's provisioned set on disk. It is replaced as a whole or not at all.

    DIR/current -> sets/<number>    one rename switches from the old set to the new one
    DIR/lock                        only one command at a time changes DIR

A new set begins as hard links to the files of the present set. Files are replaced and never
modified in place, so the present set does not change before the switch.
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
from cipherfleet_node.runtime.synced_files import sync_folder

CURRENT, SETS, LOCK = "current", "sets", "lock"
NODES, ARCHIVES, SUMS = "nodes", "archives", "SHA256SUMS"
_FRESH = ".current"


class StagedSet:
    """A new set that is not current yet; it begins with the files of the present set, if any."""

    def __init__(self, home: Path, place: Path, present: Path | None) -> None:
        self.home, self.place, self.present = home, place, present

    def put(self, name: str, data: bytes) -> None:
        """Create or replace the file *name* with *data*, readable by its owner only."""
        file = self.place / name
        if file.is_file() and file.read_bytes() == data:
            return
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)

    def remove(self, name: str) -> None:
        """Remove the file or folder *name* if it exists."""
        place = self.place / name
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    def commit(self) -> bool:
        """Make this set the current one. Return False if it equals the present set file by file."""
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


def _make_home(home: Path) -> None:
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        (home / SETS).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{home}: cannot be made: {error.strerror}") from None


@contextmanager
def lock_set(home: Path, *, make: bool = False) -> Iterator[None]:
    """Lock *home* for the block, and remove what an interrupted command has left there.

    With *make*, *home* is created if it does not exist. Raises ConfigError if another command holds
    the lock, or if *home* has no set.
    """
    if make:
        _make_home(home)
    elif not (home / CURRENT).exists():
        raise ConfigError(
            f"{home}: contains no provisioned set",
            remedy="make it with: cipherfleet provision bundle FILE DIR",
        )
    umask = os.umask(0o077)
    descriptor = os.open(home / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _take_lock(home, descriptor)
        _remove_stale_sets(home)
        yield
    finally:
        os.close(descriptor)
        os.umask(umask)


def _take_lock(home: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(
            f"{home}: is in use by another command", remedy="wait until it ends"
        ) from None


def _remove_stale_sets(home: Path) -> None:
    """Delete sets that never became current and sets that were superseded."""
    (home / _FRESH).unlink(missing_ok=True)
    present = find_current_set(home)
    for place in (home / SETS).iterdir():
        if place != present:
            shutil.rmtree(place)
    if not (home / ".gitignore").exists():
        write_private(home / ".gitignore", b"# private keys\n*\n")


def find_current_set(home: Path) -> Path | None:
    """Return the folder of the current set in *home*, None if there is none yet."""
    link = home / CURRENT
    return home / link.readlink() if link.is_symlink() else None


@contextmanager
def stage_set(home: Path) -> Iterator[StagedSet]:
    """Yield a staged set, which the caller commits; the caller holds the lock.

    An exception in the block deletes the staged set.
    """
    present = find_current_set(home)
    number = int(present.name) + 1 if present is not None else 1
    place = home / SETS / f"{number:06}"
    try:
        if present is None:
            place.mkdir(mode=0o700)
        else:
            shutil.copytree(present, place, copy_function=_link)
        yield StagedSet(home, place, present)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _link(source: str, target: str) -> None:
    """Make a hard link, or a copy where the file system does not support hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _sync_file_system(place: Path) -> None:
    """Write all pending data of the file system that contains *place* to the disk, in one call."""
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "syncfs"):  # not on macOS
            os.sync()
        elif libc.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(place))
    finally:
        os.close(descriptor)


def tree_digest(folder: Path) -> str:
    """Return a digest of the names, modes and bytes of all files in *folder*."""
    hashed = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        hashed.update(f"{file.relative_to(folder)}\0{file.stat().st_mode:o}\0".encode())
        if file.is_file():
            hashed.update(hashlib.sha256(file.read_bytes()).digest())
    return hashed.hexdigest()


# -- archives -----------------------------------------------------------------------------------


def archive(folder: Path) -> bytes:
    """Pack *folder* into a .tar.gz; its bytes depend on the names and bytes of the files only."""
    files = [folder, *sorted(folder.rglob("*"))]
    return tar_gz((str(file.relative_to(folder.parent)), file, 0o600) for file in files)


def tar_gz(entries: Iterable[tuple[str, Path, int]]) -> bytes:
    """Pack *entries* into a .tar.gz; each is a name in the archive, a file or folder, and a mode.

    The result depends on these and the files' bytes only. Folders get mode 0700.
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


def put_archives(staged: StagedSet) -> None:
    """Write archives/<id>.tar.gz for every folder in nodes/, and the file of their checksums."""
    folders = sorted((staged.place / NODES).iterdir())
    wanted, sums = {SUMS}, []
    for folder in folders:
        name, data = f"{folder.name}.tar.gz", archive(folder)
        staged.put(f"{ARCHIVES}/{name}", data)
        wanted.add(name)
        sums.append(f"{hashlib.sha256(data).hexdigest()}  {name}\n")
    staged.put(f"{ARCHIVES}/{SUMS}", "".join(sums).encode())
    for file in (staged.place / ARCHIVES).iterdir():
        if file.name not in wanted:
            file.unlink()
