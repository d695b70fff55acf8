"""The saved state of a node, on a disk that may lose power at any moment.

Each state is written to a spare file, synchronised and renamed; then the folder is synchronised.
The generation before is kept under another name. A checksum shows if a file is damaged. There is
one small write per round, and smaller ones for the answers (`answered_log.py`).

**The spare file.** The generation that a save drops is the spare file of the next save. Its blocks
are there already, so the file system allocates and frees nothing: on ext4 a save takes 0.6 times as
long as with a new file. Its content is overwritten only if the save before is complete. Until the
folder is synchronised, the file may still be one of the two generations on the disk. A process
therefore begins with a new file, also after a save that failed.

Outside the state folder, the file STARTED_FILE says that the node has saved a state once. A node
without a state is therefore known to have lost it, or to be new.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from cipherfleet_node.core.state import STATE_VERSION, AnsweredQuery, State, after_damage
from cipherfleet_node.errors import ConfigError, IdentityClash, StateCorrupt, StateNotSaved

from .answered_log import AnsweredLog, with_entries
from .synced_files import overwrite_synced, replace_synced, sync_folder

STATE_FOLDER = "state"
STARTED_FILE = "started"  # beside the state folder; it holds the fingerprint of the keys
REMEDY_NOT_SAVED = "free disk space, or replace the card, and start the node again"
_MAGIC = b"cipherfleet state 2\n"
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(State)


class Store:
    """The state files of one node folder, held by one process at a time."""

    def __init__(self, folder: Path) -> None:
        """Lock *folder*/state.

        Raises IdentityClash if another process has locked it, ConfigError if it cannot be written.
        """
        self._folder = folder / STATE_FOLDER
        self._started = folder / STARTED_FILE
        self.current = self._folder / "current"
        self.previous = self._folder / "previous"
        self._fresh, self._spare, self._linked = (
            self._folder / name for name in ("fresh", "spare", "linked")
        )
        self._answered = AnsweredLog(self._folder)
        # The latest save of this process is complete: `current` is whole, and `fresh` is spare.
        self._is_saved = False
        try:
            if not self._folder.exists():
                self._folder.mkdir(mode=0o700)
                sync_folder(folder)  # otherwise a loss of power may take the whole folder
            self._lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"{self._folder}: cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise IdentityClash(
                f"{folder}: another daemon runs from this folder", remedy="stop it"
            ) from None

    def has_run(self, fingerprint: str) -> bool:
        """True if the node with the keys of *fingerprint* has saved a state in this folder."""
        try:
            return self._started.read_text().strip() == fingerprint
        except (OSError, UnicodeDecodeError):
            return False

    def record_start(self, fingerprint: str) -> None:
        """Record durably that the node with the keys of *fingerprint* is about to run.

        Raises StateNotSaved.
        """
        if self.has_run(fingerprint):
            return
        try:
            replace_synced(self._started, f"{fingerprint}\n".encode())
        except OSError as error:
            raise StateNotSaved(
                f"{self._started}: cannot be written: {error.strerror}",
                remedy=REMEDY_NOT_SAVED,
            ) from None

    def close(self) -> None:
        """Release the lock of the folder."""
        self._answered.close()
        os.close(self._lock)

    def save(self, state: State) -> None:
        """Write *state* durably: when this returns, the state survives a loss of power.

        Raises StateNotSaved. In that case no message that depends on *state* may be sent.
        """
        with self._refusing():
            self._save(state)
            self._answered.shorten(state)

    def note(self, entry: AnsweredQuery) -> None:
        """Add *entry* to the state that was saved last; it is durable after `sync_notes`.

        Raises StateNotSaved. In that case the query must not be answered.
        """
        with self._refusing():
            self._answered.append(entry)

    def sync_notes(self) -> None:
        """Make the entries of `note` durable. Raises StateNotSaved."""
        with self._refusing():
            self._answered.sync()

    @property
    def has_unsynced_notes(self) -> bool:
        """True if the latest entries of `note` may be lost with the power."""
        return self._answered.is_unsynced

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StateNotSaved(
                f"{self._folder}: the state cannot be written: {error.strerror}",
                remedy=REMEDY_NOT_SAVED,
            ) from None

    def _save(self, state: State) -> None:
        payload = _encoder.encode(state)
        data = _MAGIC + hashlib.sha256(payload).digest() + payload
        is_first, self._is_saved = not self._is_saved, False
        if is_first:
            for file in (self._fresh, self._spare, self._linked):
                file.unlink(missing_ok=True)
        overwrite_synced(self._fresh, data)
        if not is_first or self._is_whole():
            self._keep_current()
        self._fresh.replace(self.current)
        if self._spare.exists():
            self._spare.replace(self._fresh)
        sync_folder(self._folder)
        self._is_saved = True

    def _keep_current(self) -> None:
        """Make the current generation the previous one, and the previous one the spare file."""
        if self.previous.exists():
            if self.previous.samefile(self.current):
                return  # a save was interrupted after these steps
            self._spare.hardlink_to(self.previous)
        self._linked.hardlink_to(self.current)
        self._linked.replace(self.previous)

    def _is_whole(self) -> bool:
        """True if the current generation is undamaged and so replaces the one before it."""
        try:
            _read(self.current)
        except StateCorrupt:
            return False
        return True

    def load(self) -> State | None:
        """Return the latest undamaged state, or None if no state was ever saved.

        If the current generation is damaged, the result is made from the previous one and is marked
        as not continuous, so that the agent does not use a round number twice. Raises StateCorrupt
        if both are damaged.
        """
        return read_state(self._folder.parent)


def is_running(folder: Path, locks: Path = Path("/proc/locks")) -> bool | None:
    """True if a daemon has locked *folder*; None if /proc/locks is not readable.

    The lock itself is not touched. Only the inode number is compared, since some file systems show
    another device number in /proc/locks.
    """
    try:
        inode = (folder / STATE_FOLDER / "lock").stat().st_ino
    except OSError:
        return False
    try:
        held = re.findall(r"FLOCK +ADVISORY +WRITE +\S+ +\S+:(\d+) ", locks.read_text())
    except OSError:
        return None
    return str(inode) in held


def read_state(folder: Path) -> State | None:
    """Return the same as `Store.load`, without locking the folder."""
    current, previous = (folder / STATE_FOLDER / name for name in ("current", "previous"))
    if not current.exists() and not previous.exists():
        return None
    try:
        return with_entries(_read(current), current.parent)
    except StateCorrupt:
        try:
            return after_damage(with_entries(_read(previous), current.parent))
        except StateCorrupt:
            raise StateCorrupt(
                f"{current.parent}: both generations of the state are damaged",
                remedy=(
                    "remove the folder: the node then starts from its readings and joins the "
                    "round of its neighbours"
                ),
            ) from None


def _read(file: Path) -> State:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise StateCorrupt(f"{file}: cannot be read: {error.strerror}") from None
    payload = data[len(_MAGIC) + 32 :]
    if (
        data[: len(_MAGIC)] != _MAGIC
        or data[len(_MAGIC) :][:32] != hashlib.sha256(payload).digest()
    ):
        raise StateCorrupt(f"{file}: is damaged (checksum)")
    try:
        state = _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise StateCorrupt(f"{file}: is undamaged but not a state of this version") from None
    if state.version != STATE_VERSION:
        raise StateCorrupt(f"{file}: has version {state.version}, this is {STATE_VERSION}")
    return state
