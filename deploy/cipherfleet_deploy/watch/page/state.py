"""What the page shows: the latest state, the last hour and the latest events of one fleet."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from cipherfleet_deploy.watch.table import NodeStatus, summarise_rows
from cipherfleet_deploy.watch.watch import View
from cipherfleet_provisioning.topology.graph import NO_GRAPH, Graph

from .broadcast import encode_event
from .events import Event, EventFinder
from .finished import FinishedRun
from .graph_svg import draw_graph
from .history import History

MAX_EVENTS = 300


class PageState:
    """Collects the states of a fleet. All its methods run in one thread.

    *run* holds the figures of a finished run; *source* says where the states come from.
    """

    def __init__(self, fleet: str, source: str, run: FinishedRun | None = None) -> None:
        self.history = History()
        self.events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self.fleet, self._source, self._run = fleet, source, run
        self._finder = EventFinder()
        self._rows: dict[str, NodeStatus] = {}
        self._graph, self._svg = NO_GRAPH, draw_graph(NO_GRAPH)
        self._connected, self._at = True, 0.0

    def draw(self, graph: Graph) -> bool:
        """Draw *graph* unless it is the one that is drawn already. Return True if it is new."""
        if graph == self._graph:
            return False
        self._graph, self._svg = graph, draw_graph(graph)
        return True

    @property
    def svg(self) -> str:
        """The drawing of the fleet's graph."""
        return self._svg

    def take(self, view: View, at: float) -> bytes:
        """Take over *view*, and return the message for browsers that know the previous state."""
        is_new_graph = self.draw(view.graph)
        events = self._finder.find(view, at)
        self.events.extend(events)
        sample = self.history.add(view.rows, at)
        before, self._rows = self._rows, {row.node: row for row in view.rows}
        self._connected, self._at = view.connected, round(at, 1)
        changed = [row for row in view.rows if _is_news(before.get(row.node), row)]
        change = self._head() | {
            "nodes": [_describe(row, self._at) for row in changed],
            "removed": sorted(before.keys() - self._rows.keys()),
            "events": events,
            "sample": sample,
        }
        if is_new_graph:
            change["graph"] = self._svg
        return encode_event("change", msgspec.json.encode(change))

    def snapshot(self) -> bytes:
        """Return the message with everything, for a browser that has just connected."""
        whole = self._head() | {
            "source": self._source,
            "nodes": [_describe(row, self._at) for row in self._rows.values()],
            "graph": self._svg,
            "events": list(self.events),
            "history": self.history.fleet,
            "run": self._run,
        }
        return encode_event("snapshot", msgspec.json.encode(whole))

    def node(self, name: str) -> dict[str, Any] | None:
        """Return the history of node *name*; None if there is no such node."""
        return self.history.node(name) if name in self._rows else None

    def _head(self) -> dict[str, Any]:
        return {
            "fleet": self.fleet,
            "at": self._at,
            "connected": self._connected,
            "summary": summarise_rows(list(self._rows.values())),
        }


def _is_news(before: NodeStatus | None, row: NodeStatus) -> bool:
    if before is None or before.without_age != row.without_age:
        return True
    return row.age_s is not None and row.age_s < (before.age_s or 0.0)


def _describe(row: NodeStatus, at: float) -> dict[str, Any]:
    """Return *row* with the time of its latest message in place of its age."""
    described: dict[str, Any] = msgspec.to_builtins(row)
    age_s = described.pop("age_s")
    heard_at = None if age_s is None else round(at - age_s, 1)
    return {**described, "heard_at": heard_at, "standing": row.standing}
