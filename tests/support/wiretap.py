"""Records everything that passes between daemons and their broker."""

from __future__ import annotations

import contextlib
import math
import socket
import struct
import threading

import msgspec

from cipherfleet_node.core.messages import Query
from cipherfleet_node.core.wire import _envelope_decoder
from tests.support.tcp_proxy import CHUNK, TcpProxy


class Wiretap(TcpProxy):
    """A TCP proxy on loopback that keeps a copy of all that passes, in both directions."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__((host, port))
        self._lock = threading.Lock()
        self._streams: list[bytearray] = []

    @property
    def captured(self) -> list[bytes]:
        """One stream per connection and direction."""
        with self._lock:
            return [bytes(stream) for stream in self._streams]

    def join(self, inner: socket.socket, outer: socket.socket) -> None:
        """Pass bytes, and keep a copy."""
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
