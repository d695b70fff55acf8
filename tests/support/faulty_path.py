"""A network path that breaks: a TCP proxy which ends, delays or refuses connections."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from types import TracebackType
from typing import Self

CHUNK = 65536


class FaultyPath:
    """Passes bytes to a broker. It sees no more than a router: TLS passes unread.

    Each connection is closed *lifetime_s* after it was opened; None: never. Each piece of data
    arrives *delay_s* late. Both may be changed at any time; a lifetime counts for new connections.
    """

    def __init__(self, lifetime_s: float | None = None, delay_s: float = 0.0) -> None:
        self.lifetime_s, self.delay_s = lifetime_s, delay_s
        self.target: tuple[str, int] | None = None  # None: connections are closed at once
        self.cuts = 0  # connections that were closed after their lifetime
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.close()
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                inner, _ = self._listener.accept()
                if self.target is None:
                    inner.close()
                    continue
                with contextlib.suppress(OSError):  # of one connection: others may come
                    self._join(inner, socket.create_connection(self.target))

    def _join(self, inner: socket.socket, outer: socket.socket) -> None:
        self._sockets += [inner, outer]
        for each in (inner, outer):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for source, sink in ((inner, outer), (outer, inner)):
            waiting: queue.Queue[tuple[float, bytes]] = queue.Queue()
            threading.Thread(target=self._read, args=(source, waiting), daemon=True).start()
            threading.Thread(target=self._write, args=(sink, waiting), daemon=True).start()
        if self.lifetime_s is not None:
            threading.Timer(self.lifetime_s, self._cut, args=(inner, outer)).start()

    def _read(self, source: socket.socket, waiting: queue.Queue[tuple[float, bytes]]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                waiting.put((time.monotonic() + self.delay_s, data))
        waiting.put((0.0, b""))

    def _write(self, sink: socket.socket, waiting: queue.Queue[tuple[float, bytes]]) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = waiting.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)

    def _cut(self, inner: socket.socket, outer: socket.socket) -> None:
        self.cuts += 1
        for each in (inner, outer):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
