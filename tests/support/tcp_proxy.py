"""A TCP proxy on loopback: accepts connections and opens one to its target for each."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

CHUNK = 65536


class TcpProxy:
    """Joins each connection with one to *target*; subclasses say how bytes pass between them."""

    def __init__(self, target: tuple[str, int] | None = None) -> None:
        self.target = target  # None: connections are closed at once
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

    def join(self, inner: socket.socket, outer: socket.socket) -> None:
        """Begin to pass bytes between the two ends of a connection."""
        raise NotImplementedError

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                inner, _ = self._listener.accept()
                if self.target is None:
                    inner.close()
                    continue
                with contextlib.suppress(OSError):  # of one connection: others may come
                    outer = socket.create_connection(self.target)
                    self._sockets += [inner, outer]
                    for each in (inner, outer):
                        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self.join(inner, outer)
