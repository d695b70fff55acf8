"""Records everything that passes between daemons and their broker."""

from __future__ import annotations

import contextlib
import math
import socket
import struct
import threading
from types import TracebackType
from typing import Self

import msgspec

from cipherfleet_node.core.messages import Query
from cipherfleet_node.core.wire import _envelope_decoder

CHUNK = 65536


class Wiretap:
    """A TCP proxy on loopback that keeps a copy of all that passes, in both directions."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._streams: list[bytearray] = []
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

    @property
    def captured(self) -> list[bytes]:
        """One stream per connection and direction."""
        with self._lock:
            return [bytes(stream) for stream in self._streams]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                inner, _ = self._listener.accept()
                with contextlib.suppress(OSError):  # of one connection: others may come
                    self._join(inner)

    def _join(self, inner: socket.socket) -> None:
        outer = socket.create_connection(self._target)
        self._sockets += [inner, outer]
        for each in (inner, outer):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for source, sink in ((inner, outer), (outer, inner)):
            stream = bytearray()
            self._streams.append(stream)
            threading.Thread(target=self._pump, args=(source, sink, stream), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, stream: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                with self._lock:
                    stream += data
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def query_in(payload: bytes) -> Query:
    """The query in a message's bytes, signature unchecked."""
    return msgspec.msgpack.decode(_envelope_decoder.decode(payload).body, type=Query)


def forms_of(value: float) -> list[bytes]:
    """How a number may stand in a message: decimal, IEEE, and as integers of any resolution."""
    texts = {repr(value), f"{value:.4f}", f"{value:.3f}"} - {f"{value:.0f}"}
    forms = [text.encode() for text in texts if len(text) >= 6]
    for kind in ("d", "f"):
        forms += [struct.pack(order + kind, value) for order in "<>"]
    for bits in (16, 20, 24):
        scaled = round(math.ldexp(value, bits))
        for entry in (scaled, -scaled):
            for length in (5, 8):
                big = entry.to_bytes(length, "big", signed=True)
                forms += [big, big[::-1]]
    return forms
