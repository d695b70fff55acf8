"""One sender, many browsers: a browser that does not keep up never holds the others back.

Each client has a queue of at most MAX_WAITING messages. If it is full, the queue is emptied, and
the client gets the whole state next. All methods run in one thread, that of the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

MAX_CLIENTS = 32
MAX_WAITING = 16
PING_S = 15.0  # a connection without messages is closed by some proxies, and a lost one is noticed
PING = b": ping\n\n"
_SNAPSHOT, _END = b"snapshot", b""


class Broadcaster:
    """Sends messages to all clients. *snapshot* gives the whole state as a message."""

    def __init__(self, snapshot: Callable[[], bytes], ping_s: float = PING_S) -> None:
        self._snapshot, self._ping_s = snapshot, ping_s
        self._queues: set[asyncio.Queue[bytes]] = set()
        self._is_closed = False

    @property
    def clients(self) -> int:
        """The number of clients."""
        return len(self._queues)

    @property
    def is_full(self) -> bool:
        """True if no further client is admitted."""
        return self._is_closed or len(self._queues) >= MAX_CLIENTS

    def send(self, message: bytes) -> None:
        """Put *message* into the queue of each client."""
        for waiting in self._queues:
            self._put(waiting, message)

    def close(self) -> None:
        """End the streams of all clients."""
        self._is_closed = True
        for waiting in self._queues:
            _clear(waiting)
            waiting.put_nowait(_END)

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the whole state, then every message, and a ping when there is none for a while."""
        waiting: asyncio.Queue[bytes] = asyncio.Queue(MAX_WAITING)
        waiting.put_nowait(_SNAPSHOT)
        self._queues.add(waiting)
        try:
            while True:
                message = PING
                with suppress(TimeoutError):
                    message = await asyncio.wait_for(waiting.get(), self._ping_s)
                if message == _END:
                    return
                yield self._snapshot() if message == _SNAPSHOT else message
        finally:
            self._queues.discard(waiting)

    def _put(self, waiting: asyncio.Queue[bytes], message: bytes) -> None:
        if waiting.full():
            _clear(waiting)
            message = _SNAPSHOT
        waiting.put_nowait(message)


def _clear(waiting: asyncio.Queue[bytes]) -> None:
    while not waiting.empty():
        waiting.get_nowait()


def encode_event(name: str, data: bytes) -> bytes:
    """Return the server-sent event *name* with *data*, one line of JSON."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
