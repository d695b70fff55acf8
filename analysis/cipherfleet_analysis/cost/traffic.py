"""Bytes on the wire, from the wire format's own encoder: messages of the very sizes of a fleet.

Counted is what MQTT carries: payloads, topics, headers, acknowledgements. What TCP, IP and TLS
add depends on how the system cuts segments, and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from cipherfleet_node.core import wire
from cipherfleet_node.core.messages import DIGEST_BYTES, TAG_BYTES, Answer, Message, Query
from cipherfleet_node.core.packing import Layout
from cipherfleet_provisioning.fleet.fleet import Fleet

ACKNOWLEDGEMENT = 4  # PUBACK: header, length, packet id
ENDLESS_ROUNDS = 100_000  # whose numbers' size stands for those of an endless fleet
_EPOCH = 1_800_000_000  # a start's number is at least the clock's seconds: five bytes till 2106
_SIGNATURE = bytes(64)


class _Blank:
    """Signs with nothing: the length is that of every Ed25519 signature."""

    def sign(self, data: bytes, /) -> bytes:
        """64 bytes."""
        del data
        return _SIGNATURE


@dataclass(frozen=True)
class Traffic:
    """Bytes of one round in which everybody answers at once.

    *payload* counts signed messages where they are sent, and nothing else: what a run reports as
    bytes_per_edge_round is little more. All else holds MQTT's part as well, of both directions.
    """

    payload_per_edge: float
    query: float  # a signed query, mean over nodes
    answer: float
    per_node: float  # sent and received by a node, mean
    busiest: int  # the same of the node with most
    busiest_node: str
    per_edge: float  # what all nodes send to and get from the broker, for each edge
    overhead: float  # MQTT's part of per_edge, 0 to 1


def traffic(fleet: Fleet) -> Traffic:
    """What a round of *fleet* moves, in its last round, whose number is the longest."""
    graph, sealed = fleet.graph, fleet.exchange == "sealed"
    layout = layout_of(fleet)
    k = (fleet.file.algorithm.rounds or ENDLESS_ROUNDS) - 1
    name = fleet.file.fleet
    sizes: list[int] = []
    totals = dict.fromkeys(graph.ids, 0)
    overhead = 0

    def carry(size: _Size, sender: str, receivers: Sequence[str]) -> None:
        nonlocal overhead
        sizes.append(size.payload)
        for node, moved in ((sender, size.sent), *((each, size.received) for each in receivers)):
            totals[node] += moved
            overhead += moved - size.payload

    for node in graph.ids:
        neighbours = graph.neighbours(node)
        roster = sorted(neighbours) if sealed else []
        carry(_query(name, node, tuple(map(len, roster)), k, layout), node, neighbours)
    queries = sum(sizes)
    for node in graph.ids:
        for other in graph.neighbours(node):
            carry(_answer(name, len(node), len(other), k, layout), node, (other,))
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
    """How estimates lie in plaintexts, under the exchange of *fleet*."""
    half_weights = 1 if fleet.exchange == "sealed" else 2
    return Layout(fleet.file.crypto.key_bits, fleet.dimension, half_weights)


@dataclass(frozen=True)
class _Size:
    payload: int
    sent: int  # PUBLISH at QoS 1: with header, length, topic, packet id; and the acknowledgement
    received: int  # at QoS 0


def _size(message: Message) -> _Size:
    payload = len(wire.encode(message, _Blank()))
    received = 2 + len(wire.topic_of(message).encode()) + payload
    return _Size(payload, _packet(received + 2) + ACKNOWLEDGEMENT, _packet(received))


def _packet(rest: int) -> int:
    """With its header and its length, which has seven bits in a byte."""
    return 1 + -(-rest.bit_length() // 7) + rest


def _query(fleet: str, node: str, roster: tuple[int, ...], k: int, layout: Layout) -> _Size:
    return _size_of_query(fleet, len(node), roster, k, layout.ciphertexts, layout.ciphertext_bytes)


def _answer(fleet: str, sender: int, receiver: int, k: int, layout: Layout) -> _Size:
    sizes = layout.ciphertexts, layout.ciphertext_bytes
    return _size_of_answer(fleet, sender, receiver, k, *sizes)


@lru_cache(maxsize=4096)
def _size_of_query(
    fleet: str, sender: int, roster: tuple[int, ...], k: int, count: int, length: int
) -> _Size:
    """By the lengths of names: nothing else of them counts."""
    names = ["x" * name for name in roster]
    tag, ciphertexts = bytes(TAG_BYTES), [bytes(length)] * count
    return _size(Query(fleet, "x" * sender, _EPOCH, k, 0, names, tag, tag, ciphertexts))


@lru_cache(maxsize=4096)
def _size_of_answer(
    fleet: str, sender: int, receiver: int, k: int, count: int, length: int
) -> _Size:
    ciphertexts = [bytes(length)] * count
    digest = bytes(DIGEST_BYTES)
    return _size(Answer(fleet, "x" * sender, _EPOCH, "x" * receiver, k, 0, digest, ciphertexts))
