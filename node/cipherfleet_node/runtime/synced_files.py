"""Files that survive a loss of power once they are written."""

from __future__ import annotations

import os
from pathlib import Path

PRIVATE = 0o600


def write_synced(file: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Write *data* durably to *file*, which only its owner can read unless *mode* says more."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE)
    with os.fdopen(descriptor, "wb") as stream:
        if mode != PRIVATE:
            os.fchmod(stream.fileno(), mode)  # whatever the umask is
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def overwrite_synced(file: Path, data: bytes) -> None:
    """Write *data* durably over the content of *file*, which a crash leaves undefined.

    The blocks of the file are used again. Only the owner can read it.
    """
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.truncate()
        stream.flush()
        os.fdatasync(stream.fileno())


def replace_synced(file: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Replace *file* durably; after a crash it is the old one or the one with *data*."""
    fresh = file.with_name(f"{file.name}-fresh")
    write_synced(fresh, data, mode)
    fresh.replace(file)
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Make the entries of *folder* durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
