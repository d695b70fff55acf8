"""The window of a live sensor on disk, so that a restart does not begin with an empty one.

The file is in the state folder, for its owner only, and is replaced in one step. It is written when
the node stops, and otherwise every SAVE_EVERY_S at most: a loss of power costs the readings since
then, and spares the card. A file that is damaged, or that belongs to another objective, is ignored.

Replayed and synthetic readings come again after a restart, so their window is not kept.

**Ages over a restart.** The file holds the age of each reading and the time of day. If both times
of day are plausible, the ages go on by their difference. Otherwise the time off counts as zero: a
reading may then stay for longer than `window_s`, and none is dropped because of a wrong clock.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import msgspec
import numpy as np

from cipherfleet_node.core.window import FloatMatrix, Window, window_of
from cipherfleet_node.settings.sections import CsvSensor, NodeConfig, SyntheticSensor

from .bundle import Bundle
from .epochs import time_off_s
from .store import STATE_FOLDER
from .synced_files import replace_synced

log = logging.getLogger(__name__)

WINDOW_FILE = "window"
SAVE_EVERY_S = 900.0
MAX_BYTES = 1 << 20  # of the readings; of a larger window the newest ones are kept
_MAGIC = b"cipherfleet window 1\n"
_DIGEST_BYTES = 32


class SavedWindow(msgspec.Struct, frozen=True, array_like=True):
    """The content of the file. It is private as a whole."""

    owner: bytes  # see owner_of
    saved_s: float  # time of day
    width: int
    ages_s: bytes  # binary64, one for each row
    rows: bytes  # binary64, row by row


class KeptWindow:
    """The file of one node, and the times at which it is due. It belongs to the daemon's thread."""

    def __init__(self, bundle: Bundle, now: float, clock_s: float) -> None:
        """Fill the window of *bundle* from its file, at monotonic *now* and time of day *clock_s*.

        Nothing is read or written for sensors whose readings come again.
        """
        self._file = bundle.folder / STATE_FOLDER / WINDOW_FILE
        # Of several sensors no row comes again: the others have measured something else since.
        replays = isinstance(bundle.config.source, CsvSensor | SyntheticSensor)
        self._window = None if replays else window_of(bundle.objective)
        self._owner = owner_of(bundle.config)
        self._saved: FloatMatrix | None = None  # the rows that the file holds
        self._due = now + SAVE_EVERY_S
        if self._window is not None and self._file.exists():
            self._window.advance(now)
            self._restore(self._window, clock_s)

    def save_if_due(self, now: float, clock_s: float) -> None:
        """Write the window if it has changed and the last write is SAVE_EVERY_S ago."""
        if now >= self._due:
            self._due = now + SAVE_EVERY_S
            self.save(now, clock_s)

    def save(self, now: float, clock_s: float) -> None:
        """Write the window if it has changed; a disk that refuses is a warning, not an error."""
        window = self._window
        if window is None or not len(window) or window.rows is self._saved:
            return
        self._saved = window.rows
        payload = msgspec.msgpack.encode(packed(window, self._owner, now, clock_s))
        try:
            replace_synced(self._file, _MAGIC + hashlib.sha256(payload).digest() + payload)
        except OSError as error:
            log.warning("%s: the window is not saved: %s", self._file, error.strerror)

    def _restore(self, window: Window, clock_s: float) -> None:
        saved = read_window(self._file)
        if saved is None:
            log.warning("%s: is damaged and ignored: the window fills again", self._file)
        elif saved.owner != self._owner:
            log.warning("%s: belongs to other settings and is ignored", self._file)
        else:
            rows, ages_s = unpacked(saved)
            window.restore(rows, ages_s + time_off_s(saved.saved_s, clock_s))
            self._saved = window.rows
            log.info("the window has %d readings of before this start", len(window))


def owner_of(config: NodeConfig) -> bytes:
    """Return the digest of what the numbers of a row depend on: node, columns and features."""
    section = config.objective
    meaning = [config.fleet, config.node, section.kind, section.values, section.target]
    encoded = msgspec.json.encode([*meaning, section.features])
    return hashlib.sha256(b"cipherfleet/v2/window\0" + encoded).digest()


def packed(window: Window, owner: bytes, now: float, clock_s: float) -> SavedWindow:
    """Return the newest readings of *window* that fit into MAX_BYTES."""
    width = window.rows.shape[1]
    count = max(1, MAX_BYTES // (8 * (width + 1)))
    rows, ages_s = window.rows[-count:], window.ages_s(now)[-count:]
    return SavedWindow(owner, clock_s, width, ages_s.tobytes(), rows.tobytes())


def unpacked(saved: SavedWindow) -> tuple[FloatMatrix, FloatMatrix]:
    """Return the rows, shape (n, width), and their ages in seconds, shape (n,)."""
    rows = np.frombuffer(saved.rows).reshape(-1, saved.width)
    return rows, np.frombuffer(saved.ages_s)


def read_window(file: Path) -> SavedWindow | None:
    """Return the content of *file*; None if it is damaged, too large or cannot be read."""
    try:
        if file.stat().st_size > 2 * MAX_BYTES:
            return None
        data = file.read_bytes()
        payload = data[len(_MAGIC) + _DIGEST_BYTES :]
        if data[: -len(payload)] != _MAGIC + hashlib.sha256(payload).digest():
            return None
        saved = msgspec.msgpack.decode(payload, type=SavedWindow)
        rows, ages_s = unpacked(saved)
    except (OSError, ValueError):  # msgspec's errors are ValueErrors
        return None
    is_whole = len(rows) == len(ages_s) and bool(np.isfinite(rows).all())
    return saved if is_whole and bool(np.isfinite(ages_s).all()) else None
