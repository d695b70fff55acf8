"""`cipherfleet watch`: show the state of a running fleet, from what its nodes report over MQTT."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console, RenderableType
from rich.live import Live

from cipherfleet_node.core import topics
from cipherfleet_node.errors import ConfigError
from cipherfleet_provisioning.operator_session import OperatorSession
from cipherfleet_provisioning.topology.graph import NO_GRAPH, Graph

from .sources import WatchedFleet, find_fleet
from .table import FleetStatus, NodeStatus, WatchSummary, headline, line, summarise_rows, table

EVERY_S = 1.0
ONCE_S = 10.0  # each node sends two health messages in this time
MAX_WAITING = 100_000  # messages; further ones are dropped


@dataclass(frozen=True)
class WatchOptions:
    """The options of `cipherfleet watch`."""

    broker: str | None = None  # HOST:PORT; None: the address in the file or folder
    once: bool = False
    seconds: float | None = None  # None: until interrupted; with *once*, ONCE_S
    as_json: bool = False
    is_endless: bool = False  # True: go on when all nodes have finished

    @property
    def time_limit_s(self) -> float | None:
        """The time after which watching ends; None: no limit."""
        return ONCE_S if self.once and self.seconds is None else self.seconds


@dataclass(frozen=True)
class View:
    """The state of the whole fleet at one moment."""

    fleet: str
    rows: list[NodeStatus]
    connected: bool
    graph: Graph = NO_GRAPH  # as it is configured
    membership: tuple[int, int] | None = None  # version of the latest, and its first round


class WatchResult(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the fleet; `--json` prints one object for each."""

    at: float  # seconds since 1970
    fleet: str
    connected: bool  # False: the broker cannot be reached
    summary: WatchSummary  # of all nodes
    nodes: list[NodeStatus]  # those that have changed


Show = Callable[[View], None]


def watch(place: Path, options: WatchOptions, console: Console) -> None:
    """Show the fleet of *place*.

    It ends at the time limit, when all nodes have finished, or when it is interrupted. Raises
    ConfigError. Raises BrokerUnreachable if no broker answers at the start. If the broker
    disappears later, `watch` waits for it.
    """
    follow(place, options, _open_display(options, console))


def follow(place: Path, options: WatchOptions, display: AbstractContextManager[Show]) -> None:
    """Give the state of the fleet of *place* to *display*, once each EVERY_S.

    *display* is opened when the broker has answered. Ends and raises as `watch` does.
    """
    watched = find_fleet(place, options.broker)
    waiting: queue.Queue[tuple[str, bytes]] = queue.Queue(MAX_WAITING)

    def on_message(topic: str, payload: bytes) -> None:
        if waiting.qsize() < MAX_WAITING:
            waiting.put((topic, payload))

    kinds = topics.presence_topic, topics.health_topic, topics.claim_topic
    filters = [kind(watched.fleet, "+") for kind in kinds]
    session = OperatorSession(watched.fleet, watched.where, watched.context, filters, on_message)
    with session as link, display as show:
        _follow(watched, waiting, options, lambda: link.is_connected, show)


def _follow(
    watched: WatchedFleet,
    waiting: queue.Queue[tuple[str, bytes]],
    options: WatchOptions,
    connected: Callable[[], bool],
    show: Show,
) -> None:
    status = FleetStatus(watched.fleet, watched.verifiers, watched.expected)
    limit_s = options.time_limit_s
    ends = None if limit_s is None else time.monotonic() + limit_s
    while True:
        tick = time.monotonic() + EVERY_S
        _receive_until(status, waiting, tick if ends is None else min(tick, ends))
        if watched.is_outdated:
            watched = _read_again(watched, options)
            status.update(watched.verifiers, watched.expected)
        now = time.monotonic()
        done = ends is not None and now >= ends
        done |= status.is_finished(now) and not options.is_endless
        done |= options.once and status.has_all_reports(now)
        if done or not options.once:
            rows = status.rows(now)
            show(View(watched.fleet, rows, connected(), watched.graph, watched.membership))
        if done:
            return


def _receive_until(
    status: FleetStatus, waiting: queue.Queue[tuple[str, bytes]], until: float
) -> None:
    while (left := until - time.monotonic()) > 0:
        try:
            topic, payload = waiting.get(timeout=left)
        except queue.Empty:
            return
        status.receive(topic, payload, time.monotonic())


def _read_again(watched: WatchedFleet, options: WatchOptions) -> WatchedFleet:
    """Read the provisioned set again. Return *watched* if it is being replaced right now."""
    assert watched.home is not None
    try:
        return find_fleet(watched.home, options.broker)
    except ConfigError:
        return watched


# -- showing ------------------------------------------------------------------------------------


@contextmanager
def _open_display(options: WatchOptions, console: Console) -> Iterator[Show]:
    if options.as_json:
        yield ChangeFilter(lambda view, rows: _print_json(console, view, rows))
    elif console.is_terminal and not options.once:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda view: live.update(_render(view, console.width), refresh=True)
    elif console.is_terminal:
        yield lambda view: console.print(_render(view, console.width))
    else:
        yield ChangeFilter(lambda view, rows: _print_lines(console, view, rows))


class ChangeFilter:
    """Calls *on_change* with the rows that have changed.

    It is called when a row has changed, and when the broker appears or disappears.
    """

    def __init__(self, on_change: Callable[[View, list[NodeStatus]], None]) -> None:
        self._on_change = on_change
        self._before: dict[str, NodeStatus] = {}
        self._connected: bool | None = None

    def __call__(self, view: View) -> None:
        """Compare *view* with the previous one."""
        lasting = {row.node: row.without_age for row in view.rows}
        changed = [row for row in view.rows if lasting[row.node] != self._before.get(row.node)]
        if changed or view.connected != self._connected:
            self._before, self._connected = lasting, view.connected
            self._on_change(view, changed)


def _render(view: View, width: int) -> RenderableType:
    head = headline(view.fleet, view.rows, connected=view.connected)
    return table(head, view.rows, width)


def _print_json(console: Console, view: View, rows: list[NodeStatus]) -> None:
    result = WatchResult(
        at=round(time.time(), 1),
        fleet=view.fleet,
        connected=view.connected,
        summary=summarise_rows(view.rows),
        nodes=rows,
    )
    _print(console, json.dumps(msgspec.to_builtins(result), allow_nan=False))


def _print_lines(console: Console, view: View, rows: list[NodeStatus]) -> None:
    _print(console, headline(view.fleet, view.rows, connected=view.connected).plain)
    for row in rows:
        _print(console, line(row))


def _print(console: Console, text: str) -> None:
    console.file.write(f"{text}\n")
    console.file.flush()  # a script may wait for this line
