"""A network path that breaks: a TCP proxy which ends, delays or refuses connections."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time

from tests.support.tcp_proxy import CHUNK, TcpProxy


class FaultyPath(TcpProxy):
    """Passes bytes to a broker. It sees no more than a router: TLS passes unread.

    Each connection is closed *lifetime_s* after it was opened; None: never. Each piece of data
    arrives *delay_s* late. Both may be changed at any time; a lifetime counts for new connections.
    """

    def __init__(self, lifetime_s: float | None = None, delay_s: float = 0.0) -> None:
        super().__init__()
        self.lifetime_s, self.delay_s = lifetime_s, delay_s
        self.cuts = 0  # connections that were closed after their lifetime

    def join(self, inner: socket.socket, outer: socket.socket) -> None:
        """Pass bytes with the delay, for the lifetime."""
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
