"""The last hour of a fleet, sampled every SAMPLE_S, in memory whose size does not grow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import msgspec
import numpy as np

from cipherfleet_deploy.watch.table import GONE, RESTING, NodeStatus

SAMPLE_S = 5.0
SAMPLES = 720  # an hour
NODE_FIELDS = ("round_ms", "silent", "pool")  # kept of each node


class FleetSample(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of all nodes that are present, at one moment; None if no node reports them."""

    at: float  # seconds since 1970
    median_ms: float | None  # of the round times
    worst_ms: float | None
    silent: int | None  # answers that did not come in time, in the latest round of each node
    pool: float | None  # ready obfuscators relative to the pool's size, at the lowest pool
    rounds: int | None  # between the slowest and the fastest node


def sample_fleet(rows: Sequence[NodeStatus], at: float) -> FleetSample:
    """Return the figures of the nodes of *rows* that are not gone and not stale."""
    present = [row for row in rows if row.state not in (*GONE, *RESTING) and not row.stale]
    times = [row.round_ms for row in present if row.round_ms is not None]
    silent = [row.silent for row in present if row.silent is not None]
    rounds = [row.round for row in present if row.round is not None]
    return FleetSample(
        at=round(at, 1),
        median_ms=round(median(times), 1) if times else None,
        worst_ms=max(times, default=None),
        silent=sum(silent) if silent else None,
        pool=min(
            (level for row in present if (level := _pool_level(row)) is not None), default=None
        ),
        rounds=max(rounds) - min(rounds) if rounds else None,
    )


def _pool_level(row: NodeStatus) -> float | None:
    if row.pool is None or not row.pool_size:
        return None
    return round(row.pool / row.pool_size, 3)


class History:
    """The latest SAMPLES samples of the fleet and of each node."""

    def __init__(self) -> None:
        self.fleet: list[FleetSample] = []
        self._nodes: dict[str, np.ndarray[tuple[int, int], np.dtype[np.float32]]] = {}
        self._next = -math.inf
        self._count = 0

    def add(self, rows: Sequence[NodeStatus], at: float) -> FleetSample | None:
        """Take a sample if the latest is SAMPLE_S old, and return it. Forget nodes not in *rows*.

        A clock that was set back starts a new interval.
        """
        if self._next - SAMPLE_S <= at < self._next:
            return None
        self._next = at + SAMPLE_S
        sample = sample_fleet(rows, at)
        self.fleet = [*self.fleet[1 - SAMPLES :], sample]
        place, self._count = self._count % SAMPLES, self._count + 1
        self._nodes = {row.node: self._table(row.node) for row in rows}
        for row in rows:
            has_report = row.state not in RESTING and not row.stale
            values = (row.round_ms, row.silent, _pool_level(row)) if has_report else (None,) * 3
            self._nodes[row.node][place] = [math.nan if v is None else v for v in values]
        return sample

    def node(self, name: str) -> dict[str, list[float | None]]:
        """Return the samples of node *name*: `at` and each of NODE_FIELDS, the oldest first."""
        table = self._table(name)
        kept = min(self._count, SAMPLES)
        order = np.arange(self._count - kept, self._count) % SAMPLES
        columns = {
            field: [None if math.isnan(v) else round(float(v), 3) for v in table[order, k]]
            for k, field in enumerate(NODE_FIELDS)
        }
        return {"at": [each.at for each in self.fleet], **columns}

    def _table(self, name: str) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        found = self._nodes.get(name)
        return np.full((SAMPLES, len(NODE_FIELDS)), np.nan, np.float32) if found is None else found
