"""The list of answered queries that were noted since the latest saves, on disk.

A node notes a query before it answers it. A whole save for each answer would take several writes
and much of a round on a slow card, so entries are appended to one file. The file is synchronised
before an answer is sent, once for all answers that are ready (`outbox.py`). The entries of rounds
that the saved state no longer has are ignored. The file is rewritten when it is longer than
REWRITE_BYTES.

Each entry has its length and a checksum. Reading stops at the first entry that is not whole: it was
being written when the power was lost, and its answer was not sent.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from cipherfleet_node.core.state import AnsweredQuery, State, note_answered

from .synced_files import replace_synced, sync_folder

FILE = "answered"
REWRITE_BYTES = 64 * 1024
_HEAD_BYTES = 8  # length and CRC-32, 4 bytes each, big endian
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AnsweredQuery)


class AnsweredLog:
    """The file of a folder of state; only the process that holds the folder appends to it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.file = folder, folder / FILE
        self._descriptor: int | None = None
        self.is_unsynced = False  # the latest entries may be lost with the power

    def append(self, entry: AnsweredQuery) -> None:
        """Write *entry*, which is durable after `sync`. Raises OSError."""
        if self._descriptor is None:
            self._descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            # An entry that was being written when the power was lost would hide those after it.
            os.ftruncate(self._descriptor, sum(len(_frame(e)) for e in read_entries(self.file)))
            sync_folder(self._folder)
        self.is_unsynced = True
        _write_all(self._descriptor, _frame(entry))

    def sync(self) -> None:
        """Make all entries durable. Raises OSError."""
        if self._descriptor is not None and self.is_unsynced:
            os.fdatasync(self._descriptor)
            self.is_unsynced = False

    def shorten(self, state: State) -> None:
        """Drop the entries that *state* does not need any more, if the file is long."""
        if self._descriptor is None or os.fstat(self._descriptor).st_size < REWRITE_BYTES:
            return
        kept = [entry for entry in read_entries(self.file) if state.record(entry.round)]
        self.close()
        replace_synced(self.file, b"".join(_frame(entry) for entry in kept))
        self.is_unsynced = False

    def close(self) -> None:
        """Close the file, if it is open; the next entry opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def with_entries(state: State, folder: Path) -> State:
    """Return the saved *state* with the entries that were noted after it."""
    for entry in read_entries(folder / FILE):
        state = note_answered(state, entry)
    return state


def read_entries(file: Path) -> Iterator[AnsweredQuery]:
    """Yield the entries of *file* up to the first that is not whole. Raises OSError."""
    data = file.read_bytes() if file.exists() else b""
    at = 0
    while at + _HEAD_BYTES <= len(data):
        length, checksum = (int.from_bytes(data[i : i + 4], "big") for i in (at, at + 4))
        body = data[at + _HEAD_BYTES : at + _HEAD_BYTES + length]
        if len(body) != length or zlib.crc32(body) != checksum:
            return
        try:
            yield _decoder.decode(body)
        except msgspec.MsgspecError:
            return
        at += _HEAD_BYTES + length


def _write_all(descriptor: int, data: bytes) -> None:
    # A disk that becomes full takes a part of the data, and refuses the rest with an error.
    while data:
        data = data[os.write(descriptor, data) :]


def _frame(entry: AnsweredQuery) -> bytes:
    body = _encoder.encode(entry)
    return len(body).to_bytes(4, "big") + zlib.crc32(body).to_bytes(4, "big") + body
