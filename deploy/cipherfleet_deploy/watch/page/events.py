"""What has happened in a fleet, found by comparing its state with the previous one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from cipherfleet_deploy.watch.table import ABSENT, EXPECTED, NodeStatus
from cipherfleet_deploy.watch.watch import View

Kind = Literal[
    "joined", "lost", "stale", "alert", "state", "settled", "refused", "added", "revoked",
    "membership", "broker",
]  # fmt: skip
_KINDS: dict[str, Kind] = {
    "lost": "lost", "disconnected": "lost", "stale": "stale", "unanswered": "alert",
    "alert": "alert",
}  # fmt: skip


class Event(msgspec.Struct, frozen=True):
    """One line of the page's list of events. It holds names of nodes, words and numbers only."""

    at: float  # seconds since 1970
    kind: Kind
    node: str | None  # None: it concerns the fleet
    text: str


@dataclass
class EventFinder:
    """Compares each state of the fleet with the previous one."""

    _rows: Mapping[str, NodeStatus] | None = None
    _connected: bool = True
    _membership: tuple[int, int] | None = None
    _refusal_seen: set[str] = field(default_factory=set)

    def find(self, view: View, at: float) -> list[Event]:
        """Return the events between the previous state and *view*. The first state has none."""
        rows = {row.node: row for row in view.rows}
        found = list(self._compare(view, rows, round(at, 1))) if self._rows is not None else []
        self._rows, self._connected, self._membership = rows, view.connected, view.membership
        return found

    def _compare(self, view: View, rows: Mapping[str, NodeStatus], at: float) -> Iterator[Event]:
        assert self._rows is not None
        if view.connected != self._connected:
            yield Event(at, "broker", None, "is reachable" if view.connected else "is unreachable")
        if view.membership is not None and view.membership != self._membership:
            version, first = view.membership
            text = f"version {version} of the membership takes effect at round {first}"
            yield Event(at, "membership", None, text)
        for name in self._rows.keys() - rows.keys():
            yield Event(at, "revoked", name, "is not a member any more")
        for name, row in rows.items():
            before = self._rows.get(name)
            if before is None:
                yield Event(at, "added", name, "is a new member")
            else:
                yield from _compare_rows(before, row, at)


def _compare_rows(before: NodeStatus, row: NodeStatus, at: float) -> Iterator[Event]:
    is_new_start = row.epoch is not None and row.epoch != before.epoch
    if is_new_start and row.state not in (ABSENT, *EXPECTED):
        text = "has joined" if before.epoch is None else "has started again"
        yield Event(at, "joined", row.node, text)
    if row.standing != before.standing and not (is_new_start and row.standing == "ready"):
        kind = _KINDS.get(row.standing, "state")
        yield Event(at, kind, row.node, f"is {row.standing}, was {before.standing}")
    if row.settled and before.settled is False:
        yield Event(at, "settled", row.node, f"has settled at round {row.round}")
    if row.settled is False and before.settled:
        yield Event(at, "settled", row.node, "is not settled any more")
    if row.refused > before.refused:
        count = row.refused - before.refused
        text = f"{count} messages under its name were invalid or had a wrong signature"
        yield Event(at, "refused", row.node, text)
