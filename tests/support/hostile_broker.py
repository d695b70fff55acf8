"""A hostile broker: a proxy between daemons and a real broker that sees whole MQTT packets."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import msgspec

from cipherfleet_node.core import topics
from cipherfleet_node.core.messages import Answer, Message, Presence, Query
from cipherfleet_node.core.wire import _body_decoders, _envelope_decoder
from tests.support.tcp_proxy import CHUNK
from tests.support.wiretap import Wiretap

PUBLISH = 3  # the packet type, MQTT 3.1.1 section 3.3


@dataclass(frozen=True)
class Publication:
    """A PUBLISH packet on its way to a node; *header* is its first byte."""

    header: int
    topic: bytes
    identifier: bytes  # two bytes where the quality of service is above 0
    payload: bytes

    def encode(self) -> bytes:
        rest = struct.pack(">H", len(self.topic)) + self.topic + self.identifier + self.payload
        return bytes([self.header]) + _length(len(rest)) + rest

    def loose(self, payload: bytes, topic: bytes | None = None) -> bytes:
        """Another packet at quality of service 0, which asks for no acknowledgement."""
        topic = self.topic if topic is None else topic
        header = PUBLISH << 4
        return Publication(header, topic, b"", payload).encode()

    @property
    def message(self) -> Message:
        """What it carries, signature unchecked."""
        envelope = _envelope_decoder.decode(self.payload)
        message: Message = _body_decoders[envelope.kind].decode(envelope.body)
        return message


def _length(number: int) -> bytes:
    """MQTT's remaining length: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while True:
        number, low = divmod(number, 128)
        encoded.append(low | (128 if number else 0))
        if not number:
            return bytes(encoded)


def split_packets(stream: bytearray) -> list[bytes]:
    """Take the whole packets from the front of *stream*."""
    packets = []
    while (end := _end_of_first(stream)) is not None:
        packets.append(bytes(stream[:end]))
        del stream[:end]
    return packets


def _end_of_first(stream: bytearray) -> int | None:
    length, place = 0, 1
    while place < len(stream):
        byte = stream[place]
        length += (byte & 127) << 7 * (place - 1)
        place += 1
        if byte < 128:
            return place + length if len(stream) >= place + length else None
    return None


def read_publication(packet: bytes) -> Publication | None:
    """The PUBLISH packet in *packet*, None if it is of another type."""
    if packet[0] >> 4 != PUBLISH:
        return None
    place = 2
    while packet[place - 1] & 128:
        place += 1
    (size,) = struct.unpack_from(">H", packet, place)
    topic, place = packet[place + 2 : place + 2 + size], place + 2 + size
    identifier = packet[place : place + 2] if packet[0] & 0b110 else b""
    return Publication(packet[0], topic, identifier, packet[place + len(identifier) :])


Asked = tuple[str, int]  # the asker and its round

# What a broker makes of a publication: the packets that the node gets instead.
Meddle = Callable[["Meddler", Publication], list[bytes]]


@dataclass
class Meddler:
    """The memory and the chance of a hostile broker towards one node."""

    number: int  # of the connection, from 0
    chance: random.Random
    memory: list[Publication] = field(default_factory=list)
    made: Counter[str] = field(default_factory=Counter)
    asked: dict[Asked, list[str]] = field(default_factory=dict)  # the rosters it has seen

    def earlier(self, kind: type[Message]) -> Publication | None:
        """Something of *kind* that went to this node before, at random."""
        fitting = [p for p in self.memory if isinstance(p.message, kind)]
        return self.chance.choice(fitting) if fitting else None


class HostileBroker(Wiretap):
    """A proxy that hands all publications to *meddle* before a node gets them.

    What the nodes publish themselves passes unaltered.
    """

    def __init__(self, host: str, port: int, meddle: Meddle, seed: int = 0) -> None:
        super().__init__(host, port)
        self._meddle, self._seed = meddle, seed
        self.meddlers: list[Meddler] = []

    @property
    def made(self) -> Counter[str]:
        """How many lies of each kind were sent."""
        return sum((meddler.made for meddler in self.meddlers), Counter[str]())

    @property
    def asked(self) -> dict[Asked, list[str]]:
        """The roster of every query that went to anybody."""
        return {key: roster for meddler in self.meddlers for key, roster in meddler.asked.items()}

    def _pump(self, source: socket.socket, sink: socket.socket, stream: bytearray) -> None:
        if not self._comes_from_the_broker(source):
            super()._pump(source, sink, stream)
            return
        number = len(self.meddlers)
        meddler = Meddler(number, random.Random(f"{self._seed} {number}"))
        self.meddlers.append(meddler)
        pending = bytearray()
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                pending += data
                for packet in split_packets(pending):
                    sink.sendall(b"".join(self._instead(meddler, packet)))
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _comes_from_the_broker(self, source: socket.socket) -> bool:
        with contextlib.suppress(OSError):  # a connection that was lost already has no other end
            return bool(source.getpeername() == self.target)
        return False

    def _instead(self, meddler: Meddler, packet: bytes) -> list[bytes]:
        publication = read_publication(packet)
        if publication is None:
            return [packet]
        if isinstance(query := publication.message, Query):
            meddler.asked[query.sender, query.round] = query.roster
        packets = self._meddle(meddler, publication)
        meddler.memory = [*meddler.memory, publication][-200:]
        return packets


# -- ways of lying ----------------------------------------------------------------------------


def leave(_meddler: Meddler, genuine: Publication) -> list[bytes]:
    """An honest broker."""
    return [genuine.encode()]


def add(meddler: Meddler, genuine: Publication) -> list[bytes]:
    """Everything genuine in its order, with lies of all kinds between."""
    lies = []
    for _ in range(3):
        name = meddler.chance.choice(sorted(LIES))
        if (lie := LIES[name](meddler, genuine)) is not None:
            meddler.made[name] += 1
            lies.append(lie)
    place = meddler.chance.randrange(len(lies) + 1)
    return [*lies[:place], genuine.encode(), *lies[place:]]


def spoil(meddler: Meddler, genuine: Publication) -> list[bytes]:
    """One query or answer in thirty is altered or lost; the genuine one does not come.

    The first connection is ended by a packet that is none.
    """
    if meddler.number == 0 and len(meddler.memory) == 30:
        meddler.made["broken"] += 1
        return [bytes([PUBLISH << 4, 4]) + b"\xff\xff\0\0"]  # a topic beyond the packet's end
    if isinstance(genuine.message, Presence) or meddler.chance.random() >= 1 / 30:
        return [genuine.encode()]
    if meddler.chance.random() < 0.3:
        meddler.made["dropped"] += 1
        return []
    meddler.made["altered"] += 1
    return [replace(genuine, payload=_flipped(meddler, genuine.payload)).encode()]


def withhold(meddler: Meddler, genuine: Publication) -> list[bytes]:
    """What n1 answers to n3 in every fourth round is lost, as often as it is asked."""
    answer = genuine.message
    if not isinstance(answer, Answer) or (answer.sender, answer.receiver) != ("n1", "n3"):
        return [genuine.encode()]
    if answer.round % 4 != 2:
        return [genuine.encode()]
    meddler.made["dropped"] += 1
    return []


Lie = Callable[[Meddler, Publication], bytes | None]


def _flip(meddler: Meddler, genuine: Publication) -> bytes | None:
    return genuine.loose(_flipped(meddler, genuine.payload))


def _flipped(meddler: Meddler, payload: bytes) -> bytes:
    """One bit of the signature turned."""
    place = meddler.chance.randrange(len(payload) - 64, len(payload))
    return payload[:place] + bytes([payload[place] ^ 1]) + payload[place + 1 :]


def _truncate(meddler: Meddler, genuine: Publication) -> bytes | None:
    return genuine.loose(genuine.payload[: meddler.chance.randrange(len(genuine.payload))])


def _extend(meddler: Meddler, genuine: Publication) -> bytes | None:
    return genuine.loose(genuine.payload + meddler.chance.randbytes(30))


def _inject(meddler: Meddler, genuine: Publication) -> bytes | None:
    return genuine.loose(meddler.chance.randbytes(200))


def _swell(_meddler: Meddler, genuine: Publication) -> bytes | None:
    return genuine.loose(genuine.payload + bytes(300_000))


def _readdress(meddler: Meddler, genuine: Publication) -> bytes | None:
    forged_line = b"cf/v2/trial/q/n1\n2026 WARNING forged line"
    topic = meddler.chance.choice([b"cf/v2/trial/q/nobody", b"\xff\xfe", b"x", forged_line])
    return genuine.loose(genuine.payload, topic)


def _splice(meddler: Meddler, genuine: Publication) -> bytes | None:
    """The body of this message under the signature of an earlier one."""
    other = meddler.earlier(type(genuine.message))
    if other is None or other.payload[-64:] == genuine.payload[-64:]:
        return None
    return genuine.loose(genuine.payload[:-64] + other.payload[-64:])


def _reroster(meddler: Meddler, genuine: Publication) -> bytes | None:
    """Other names in a query's roster, under its signature."""
    query = genuine.message
    if not isinstance(query, Query):
        return None
    roster = meddler.chance.choice([["n1", "n2", "n3"], query.roster[:1], query.roster[::-1]])
    if roster == query.roster:
        return None
    envelope = msgspec.msgpack.decode(genuine.payload)
    envelope[2] = msgspec.msgpack.encode(msgspec.structs.replace(query, roster=roster))
    return genuine.loose(msgspec.msgpack.encode(envelope))


def _replay_answer(meddler: Meddler, _genuine: Publication) -> bytes | None:
    other = meddler.earlier(Answer)
    return other.loose(other.payload) if other else None


def _replay_query(meddler: Meddler, _genuine: Publication) -> bytes | None:
    other = meddler.earlier(Query)
    return other.loose(other.payload) if other else None


def _echo(_meddler: Meddler, genuine: Publication) -> bytes | None:
    """An answer to this node, as if it were the node's own query."""
    if not isinstance(genuine.message, Answer):
        return None
    topic = topics.query_topic(genuine.message.fleet, genuine.message.receiver)
    return genuine.loose(genuine.payload, topic.encode())


LIES: dict[str, Lie] = {
    "flipped": _flip,
    "truncated": _truncate,
    "extended": _extend,
    "injected": _inject,
    "swollen": _swell,
    "readdressed": _readdress,
    "spliced": _splice,
    "other roster": _reroster,
    "answer replayed": _replay_answer,
    "query replayed": _replay_query,
    "echoed": _echo,
}
# Under which reasons a node counts them.
COUNTED = {
    "flipped": {"signature"},
    "truncated": {"malformed"},
    "extended": {"malformed"},
    "injected": {"malformed"},
    "swollen": {"too_long"},
    "readdressed": {"topic", "unknown_sender"},
    "spliced": {"signature"},
    "other roster": {"signature"},
    "echoed": {"topic", "unknown_sender"},
    "answer replayed": {"late_answer", "repeated_answer", "early_answer"},
    "query replayed": {"repeated_query", "old_query", "late_refusal"},
}


# -- no broker at all -----------------------------------------------------------------------------


class Babbler:
    """Accepts connections and answers with packets that are broken in every way."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0

    def serve(self) -> None:
        """Until closed."""
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                with contextlib.suppress(OSError), connection:
                    connection.settimeout(10.0)
                    connection.recv(CHUNK)
                    connection.sendall(
                        bytes([0x20, 2, 0, self._chance.choice([0] * 8 + [1, 5, 99])])
                    )
                    connection.sendall(b"".join(self.packet() for _ in range(4)))
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(CHUNK):  # until the node has read it all and leaves
                        pass

    def close(self) -> None:
        """No more connections."""
        self._listener.close()

    def packet(self) -> bytes:
        """Some type, some bytes, and a length that is sometimes none."""
        first = self._chance.choice([*range(0, 256, 16), 0x30, 0x32, 0x34, 0x36, 0x3D, 0x62])
        size = self._chance.choice([0, 1, 2, 3, 4, 5, 10, 40])
        body = bytes(self._chance.choice([0, 0, 1, 2, 3, 4, 255]) for _ in range(size))
        if self._chance.random() < 0.3:
            body = struct.pack(">H", 3) + b"a/b" + body
        endless = self._chance.random() < 0.05
        return bytes([first]) + (b"\xff" * 5 if endless else _length(len(body))) + body
