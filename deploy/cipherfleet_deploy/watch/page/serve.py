"""Serve the page of a fleet until the command is interrupted."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import uvicorn
from starlette.types import ASGIApp

from cipherfleet_deploy.watch.sources import find_fleet
from cipherfleet_deploy.watch.watch import Show, View, WatchOptions, follow
from cipherfleet_node.errors import CipherfleetError, ConfigError

from .access import Access
from .app import make_app
from .broadcast import Broadcaster
from .finished import is_finished_run, read_finished_run
from .replay import read_graph, replay
from .state import PageState

LOOPBACK = "127.0.0.1"
OWN = (LOOPBACK, "::1", "localhost")  # only this machine reaches these
START_S = 30.0
STOP_S = 10.0
MIN_TOKEN = 16  # characters


@dataclass(frozen=True)
class PageOptions:
    """The options of `cipherfleet watch --page`."""

    port: int = 8080  # 0: any free port
    host: str = LOOPBACK
    token: str | None = None
    replay: Path | None = None


def show_page(
    place: Path, watching: WatchOptions, page: PageOptions, announce: Callable[[str], None]
) -> None:
    """Serve the page of the fleet, the recording or the finished run of *place*.

    It ends as `watch` does, but not when all nodes have finished. *announce* gets the page's
    address. Raises ConfigError, also for an address that cannot be used. Raises BrokerUnreachable.
    """
    if page.replay is not None:
        _serve(replay(page.replay, read_graph(place)), watching, page, announce)
    elif is_finished_run(place):
        run, view = read_finished_run(place)
        state = PageState(view.fleet, f"finished run {place.name}", run)
        state.take(view, time.time())
        _serve(state, watching, page, announce)
    else:
        watched = find_fleet(place, watching.broker)
        state = PageState(watched.fleet, "live")
        state.draw(watched.graph)
        follow(place, watching, open_page(state, page, announce))


def _serve(
    state: PageState, watching: WatchOptions, page: PageOptions, announce: Callable[[str], None]
) -> None:
    """Serve a state that does not change."""
    with open_page(state, page, announce):
        Event().wait(watching.time_limit_s)


def access_problem(page: PageOptions) -> str | None:
    """Return why *page* would be open to others without a sufficient token; None if it is not."""
    if page.token is not None and len(page.token) < MIN_TOKEN:
        return (
            f"--token has {len(page.token)} characters and needs {MIN_TOKEN}; make one with "
            "openssl rand -hex 16"
        )
    if page.host not in OWN and page.token is None:
        return (
            f"--host {page.host} lets other machines load the page, so it needs --token; or leave "
            "--host out and use an SSH tunnel"
        )
    return None


@contextmanager
def open_page(
    state: PageState, page: PageOptions, announce: Callable[[str], None]
) -> Iterator[Show]:
    """Serve *state* in another thread. Yields a function that takes each new state of the fleet."""
    hub = Broadcaster(state.snapshot)
    access = Access(page.host, page.token)
    with _listen(page) as listener, _running(make_app(state, hub, access), listener, hub) as loop:
        announce(_address(page, listener.getsockname()[1]))

        def show(view: View) -> None:
            try:
                loop.call_soon_threadsafe(lambda: hub.send(state.take(view, time.time())))
            except RuntimeError:
                raise CipherfleetError("the server of the page has ended") from None

        yield show


@contextmanager
def _running(
    app: ASGIApp, listener: socket.socket, hub: Broadcaster
) -> Iterator[asyncio.AbstractEventLoop]:
    """Run *app* in a thread of its own: signals and the broker's messages stay in this one."""
    config = uvicorn.Config(
        app, lifespan="off", ws="none", server_header=False, proxy_headers=False,
        log_config=None, log_level="critical", access_log=False,
        timeout_graceful_shutdown=2, limit_concurrency=100,
    )  # fmt: skip
    server = uvicorn.Server(config)
    loop = asyncio.new_event_loop()
    thread = Thread(
        target=lambda: loop.run_until_complete(server.serve([listener])), name="page", daemon=True
    )
    thread.start()
    try:
        began = time.monotonic()
        while not server.started:
            if not thread.is_alive() or time.monotonic() - began > START_S:
                raise CipherfleetError("the server of the page did not start")
            time.sleep(0.01)
        yield loop
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(hub.close)
        server.should_exit = True
        thread.join(STOP_S)
        if not thread.is_alive():
            loop.close()


def _listen(page: PageOptions) -> socket.socket:
    try:
        family, _, _, _, where = socket.getaddrinfo(
            page.host, page.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(where[:2], family=family, backlog=100)
    except OSError as error:
        raise ConfigError(
            f"--host {page.host} --port {page.port}: cannot listen there ({error.strerror})",
            remedy="give another --port; --port 0 takes a free one",
        ) from None


def _address(page: PageOptions, port: int) -> str:
    host = f"[{page.host}]" if ":" in page.host else page.host
    return f"http://{host}:{port}/" + ("?token=TOKEN" if page.token else "")
