"""Predict the bytes on the wire by encoding messages of the sizes of a fleet.

The counts include the payloads, topics, headers and acknowledgements of MQTT. They do not include
TCP, IP and TLS, whose share depends on the segmentation by the operating system.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from cipherfleet_node.core import wire
from cipherfleet_node.core.messages import DIGEST_BYTES, TAG_BYTES, Answer, Message, Query
from cipherfleet_node.core.packing import Layout
from cipherfleet_node.runtime.epochs import RANDOM_BITS
from cipherfleet_provisioning.fleet.fleet import Fleet

ACKNOWLEDGEMENT = 4  # PUBACK: header, length, packet id
ENDLESS_ROUNDS = 100_000  # an endless fleet's round numbers are taken to be as long as this one
_EPOCH = 1_800_000_000 << RANDOM_BITS  # an epoch begins with the clock's seconds: nine bytes
_SIGNATURE = bytes(64)


class _NullSigner:
    """Signs with zero bytes, as many as an Ed25519 signature has."""

    def sign(self, data: bytes, /) -> bytes:
        """Return 64 zero bytes for any data."""
        del data
        return _SIGNATURE


@dataclass(frozen=True)
class Traffic:
    """Bytes of one round in which every node answers the first query.

    *payload_per_edge* counts signed messages at their sender only; a run reports slightly more as
    bytes_per_edge_round. *per_node*, *busiest* and *per_edge* include MQTT's overhead, and count
    both directions.
    """

    payload_per_edge: float
    query: float  # a signed query, mean over nodes
    answer: float  # a signed answer, mean over all answers
    per_node: float  # sent and received by a node, mean
    busiest: int  # sent and received by the node with the most traffic
    busiest_node: str
    per_edge: float  # sent to and received from the broker by all nodes, per edge
    overhead: float  # MQTT's share of per_edge, 0 to 1


def traffic(fleet: Fleet) -> Traffic:
    """Return the traffic of *fleet* in its last round, whose round number is the longest."""
    graph, sealed = fleet.graph, fleet.exchange == "sealed"
    layout = layout_of(fleet)
    k = (fleet.file.algorithm.rounds or ENDLESS_ROUNDS) - 1
    name = fleet.file.fleet
    sizes: list[int] = []
    totals = dict.fromkeys(graph.ids, 0)
    overhead = 0

    def count(size: _Size, sender: str, receivers: Sequence[str]) -> None:
        nonlocal overhead
        sizes.append(size.payload)
        for node, size_there in (
            (sender, size.sent),
            *((each, size.received) for each in receivers),
        ):
            totals[node] += size_there
            overhead += size_there - size.payload

    for node in graph.ids:
        neighbours = graph.neighbours(node)
        roster = tuple(map(len, sorted(neighbours))) if sealed else ()
        size = _query_size(name, node, roster, k, layout)
        count(size, node, neighbours)
    queries = sum(sizes)
    for node in graph.ids:
        for other in graph.neighbours(node):
            count(_answer_size(name, len(node), len(other), k, layout), node, (other,))
    edges, nodes, total = len(graph.edges), len(graph.ids), sum(totals.values())
    busiest = max(totals, key=totals.__getitem__)
    return Traffic(
        payload_per_edge=sum(sizes) / edges,
        query=queries / nodes,
        answer=(sum(sizes) - queries) / (2 * edges),
        per_node=total / nodes,
        busiest=totals[busiest],
        busiest_node=busiest,
        per_edge=total / edges,
        overhead=overhead / total,
    )


def layout_of(fleet: Fleet) -> Layout:
    """Return the layout of estimates in plaintexts, for the exchange of *fleet*."""
    return Layout.of(fleet.exchange, fleet.file.crypto.key_bits, fleet.dimension)


@dataclass(frozen=True)
class _Size:
    payload: int
    sent: int  # PUBLISH at QoS 1: with header, length, topic, packet id; and the acknowledgement
    received: int  # at QoS 0


def _message_size(message: Message) -> _Size:
    payload = len(wire.encode(message, _NullSigner()))
    received = 2 + len(wire.topic_of(message).encode()) + payload
    return _Size(payload, _packet_bytes(received + 2) + ACKNOWLEDGEMENT, _packet_bytes(received))


def _packet_bytes(rest: int) -> int:
    """Return the size of a packet with its header byte and its length, 7 bits per byte."""
    return 1 + -(-rest.bit_length() // 7) + rest


def _query_size(fleet: str, node: str, roster: tuple[int, ...], k: int, layout: Layout) -> _Size:
    sizes = layout.ciphertexts, layout.ciphertext_bytes
    return _padded_query_size(fleet, len(node), roster, k, *sizes)


def _answer_size(fleet: str, sender: int, receiver: int, k: int, layout: Layout) -> _Size:
    sizes = layout.ciphertexts, layout.ciphertext_bytes
    return _padded_answer_size(fleet, sender, receiver, k, *sizes)


@lru_cache(maxsize=4096)
def _padded_query_size(
    fleet: str, sender: int, roster: tuple[int, ...], k: int, count: int, length: int
) -> _Size:
    """Return the size for a roster of names of these lengths; their characters do not matter.

    All answers of the rounds before are counted.
    """
    names = ["x" * name for name in roster]
    tag, ciphertexts = bytes(TAG_BYTES), [bytes(length)] * count
    head = fleet, "x" * sender, _EPOCH, k, names
    return _message_size(Query(*head, [], False, None, 0, tag, tag, ciphertexts))


@lru_cache(maxsize=4096)
def _padded_answer_size(
    fleet: str, sender: int, receiver: int, k: int, count: int, length: int
) -> _Size:
    ciphertexts = [bytes(length)] * count
    digest = bytes(DIGEST_BYTES)
    return _message_size(
        Answer(fleet, "x" * sender, _EPOCH, "x" * receiver, k, 0, digest, ciphertexts)
    )
