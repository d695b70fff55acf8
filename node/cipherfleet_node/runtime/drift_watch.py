"""The difference between a node's own mean residual and that of the fleet, judged while it runs.

It is judged when readings have come and the node has settled since: only then is the fleet's number
right. The history is private, and is kept in the state folder over restarts. It is written when the
node stops, and otherwise every SAVE_EVERY_S at most. A file that is damaged, or that belongs to
another objective, is ignored.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import msgspec
import numpy as np

from cipherfleet_node.core.drift import DriftRange, Judgement, mean_residual
from cipherfleet_node.core.window import window_of
from cipherfleet_node.outputs.physical import on_grid
from cipherfleet_node.settings.sections import settled_accuracy

from .bundle import Bundle
from .kept_window import owner_of
from .store import STATE_FOLDER
from .synced_files import replace_synced

log = logging.getLogger(__name__)

DRIFT_FILE = "drift"
SAVE_EVERY_S = 900.0


class SavedDrift(msgspec.Struct, frozen=True, array_like=True):
    """The content of the file. It is private as a whole."""

    owner: bytes  # see owner_of, and the drift window
    history: list[float]
    is_alarm: bool


class DriftWatch:
    """Judge the differences of one node; without objective.drift, or a target, it does nothing."""

    def __init__(self, bundle: Bundle) -> None:
        """Begin with the history that an earlier start has saved."""
        config, drift = bundle.config, bundle.config.objective.drift
        self._window, self._accuracy = window_of(bundle.objective), settled_accuracy(config)
        self._file = bundle.folder / STATE_FOLDER / DRIFT_FILE
        self._owner = owner_of(config) + repr(drift and drift.window).encode()
        self._range: DriftRange | None = None
        self._fresh = 0  # readings since the latest judgement
        self._save_at = time.monotonic() + SAVE_EVERY_S
        self._is_saved = True
        self.latest: Judgement | None = None
        if drift is not None and self._window is not None and self._accuracy is not None:
            self._newest = drift.window
            self._range = DriftRange(drift.window, drift.alarm, self._accuracy)
            self._restore(self._range)

    def read(self, count: int) -> None:
        """Note that *count* readings have come."""
        self._fresh += count

    def judge(self, estimate: Sequence[float] | None) -> None:
        """Judge the difference at *estimate*, if readings have come since the latest time."""
        window, usual, accuracy = self._window, self._range, self._accuracy
        if usual is None or window is None or accuracy is None or estimate is None:
            return
        if not len(window) or (not self._fresh and self.latest is not None):
            return
        point = on_grid(np.array(estimate), accuracy)  # as all that is published
        difference = mean_residual(window.rows, point[:-1], self._newest) - float(point[-1])
        had_alarm = usual.is_alarm
        self.latest, self._fresh = usual.judge(difference, self._fresh), 0
        self._is_saved = False
        if usual.is_alarm is not had_alarm:
            state = "has left" if usual.is_alarm else "is back in"
            log.warning("objective.drift: the residual of this node, less the fleet's, %s its "
                        "usual range", state)  # fmt: skip
        if time.monotonic() >= self._save_at:
            self.save()

    def save(self) -> None:
        """Write the history if it has changed; a disk that refuses is a warning, not an error."""
        self._save_at = time.monotonic() + SAVE_EVERY_S
        if self._range is None or self._is_saved:
            return
        saved = SavedDrift(self._owner, self._range.history, self._range.is_alarm)
        try:
            replace_synced(self._file, msgspec.msgpack.encode(saved))
        except OSError as error:
            log.warning("%s: cannot be written: %s", self._file, error.strerror)
        else:
            self._is_saved = True

    def _restore(self, usual: DriftRange) -> None:
        try:
            saved = msgspec.msgpack.decode(self._file.read_bytes(), type=SavedDrift)
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            log.warning("%s: is damaged: the usual range of the drift is found again", self._file)
            return
        if saved.owner == self._owner and np.isfinite(saved.history).all():
            usual.history, usual.is_alarm = saved.history, saved.is_alarm
