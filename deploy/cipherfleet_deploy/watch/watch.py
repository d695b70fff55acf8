"""`cipherfleet watch`: how every node of a running fleet fares, as it says itself over MQTT."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from cipherfleet_node.core import topics
from cipherfleet_node.errors import ConfigError
from cipherfleet_provisioning.operator_session import OperatorSession

from .sources import Watched, find_fleet
from .table import Board, Row, headline, line, summary, table

EVERY_S = 1.0
ONCE_S = 10.0  # two words on health of every node
MAX_WAITING = 100_000  # messages; a flood beyond it is dropped


@dataclass(frozen=True)
class WatchOptions:
    """The flags of `watch`."""

    broker: str | None = None  # HOST:PORT; None: as the file or folder says
    once: bool = False
    seconds: float | None = None  # None: until interrupted; with *once*, ONCE_S
    as_json: bool = False

    @property
    def lasts_s(self) -> float | None:
        """How long to watch at most."""
        return ONCE_S if self.once and self.seconds is None else self.seconds


@dataclass(frozen=True)
class View:
    """The whole fleet at one moment."""

    fleet: str
    rows: list[Row]
    connected: bool


Show = Callable[[View], None]


def watch(place: Path, options: WatchOptions, console: Console) -> None:
    """Show the fleet of *place* until it is enough, all have finished, or it is interrupted.

    Raises ConfigError; BrokerUnreachable where no broker answers at the beginning. One that goes
    away later is waited for.
    """
    watched = find_fleet(place, options.broker)
    waiting: queue.Queue[tuple[str, bytes]] = queue.Queue(MAX_WAITING)

    def heard(topic: str, payload: bytes) -> None:
        if waiting.qsize() < MAX_WAITING:
            waiting.put((topic, payload))

    filters = [kind(watched.fleet, "+") for kind in (topics.presence_topic, topics.health_topic)]
    session = OperatorSession(watched.fleet, watched.where, watched.context, filters, heard)
    with session as link, _showing(options, console) as show:
        _follow(watched, waiting, options, lambda: link.connected, show)


def _follow(
    watched: Watched,
    waiting: queue.Queue[tuple[str, bytes]],
    options: WatchOptions,
    connected: Callable[[], bool],
    show: Show,
) -> None:
    board = Board(watched.fleet, watched.verifiers)
    lasts_s = options.lasts_s
    ends = None if lasts_s is None else time.monotonic() + lasts_s
    while True:
        tick = time.monotonic() + EVERY_S
        _take_in(board, waiting, tick if ends is None else min(tick, ends))
        if watched.outdated:
            watched = _anew(watched, options)
            board.know(watched.verifiers)
        now = time.monotonic()
        done = (ends is not None and now >= ends) or board.finished(now)
        done |= options.once and board.complete(now)
        if done or not options.once:
            show(View(watched.fleet, board.rows(now), connected()))
        if done:
            return


def _take_in(board: Board, waiting: queue.Queue[tuple[str, bytes]], until: float) -> None:
    while (left := until - time.monotonic()) > 0:
        try:
            topic, payload = waiting.get(timeout=left)
        except queue.Empty:
            return
        board.hear(topic, payload, time.monotonic())


def _anew(watched: Watched, options: WatchOptions) -> Watched:
    """What the set says now; where it is being replaced this very moment, what it said before."""
    assert watched.home is not None
    try:
        return find_fleet(watched.home, options.broker)
    except ConfigError:
        return watched


# -- showing ------------------------------------------------------------------------------------


@contextmanager
def _showing(options: WatchOptions, console: Console) -> Iterator[Show]:
    if options.as_json:
        yield Changes(lambda view, rows: _print_json(console, view, rows))
    elif console.is_terminal and not options.once:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda view: live.update(_picture(view), refresh=True)
    elif console.is_terminal:
        yield lambda view: console.print(_picture(view))
    else:
        yield Changes(lambda view, rows: _print_lines(console, view, rows))


class Changes:
    """Passes on the rows that are other than before, if any is or the broker comes or goes."""

    def __init__(self, tell: Callable[[View, list[Row]], None]) -> None:
        self._tell = tell
        self._before: dict[str, dict[str, Any]] = {}
        self._connected: bool | None = None

    def __call__(self, view: View) -> None:
        """Compare *view* with the one before."""
        lasting = {row.node: row.lasting for row in view.rows}
        changed = [row for row in view.rows if lasting[row.node] != self._before.get(row.node)]
        if changed or view.connected != self._connected:
            self._before, self._connected = lasting, view.connected
            self._tell(view, changed)


def _picture(view: View) -> Any:
    return table(headline(view.fleet, view.rows, connected=view.connected), view.rows)


def _print_json(console: Console, view: View, rows: list[Row]) -> None:
    told = {
        "at": round(time.time(), 1),
        "fleet": view.fleet,
        "connected": view.connected,
        "summary": summary(view.rows),
        "nodes": [asdict(row) for row in rows],
    }
    _print(console, json.dumps(told, allow_nan=False))


def _print_lines(console: Console, view: View, rows: list[Row]) -> None:
    _print(console, headline(view.fleet, view.rows, connected=view.connected).plain)
    for row in rows:
        _print(console, line(row))


def _print(console: Console, text: str) -> None:
    console.file.write(f"{text}\n")
    console.file.flush()  # a script waits for it
