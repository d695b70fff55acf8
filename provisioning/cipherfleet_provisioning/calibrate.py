"""Measure this machine's calibration card: the node's own functions, one after the other.

CPU times are taken where something computes, so that a busy machine changes them little; only
disk and network are timed by the wall clock. About ten seconds for two key sizes.
"""

from __future__ import annotations

import os
import queue
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gmpy2 import mpz, powmod

from cipherfleet_broker import RunningBroker, start_broker
from cipherfleet_node import wire
from cipherfleet_node.comb import ROWS
from cipherfleet_node.config import Broker, Crypto
from cipherfleet_node.draws import SEED_BYTES
from cipherfleet_node.errors import BrokerUnreachable
from cipherfleet_node.keys import generate_keys
from cipherfleet_node.messages import DIGEST_BYTES, TAG_BYTES, Answer, Message, Query
from cipherfleet_node.mqtt import Arrived, Link, LinkUp
from cipherfleet_node.obfuscators import Full, OwnByTables
from cipherfleet_node.state import HISTORY_ROUNDS, STATE_VERSION, RoundRecord, State
from cipherfleet_node.store import Store
from cipherfleet_node.topics import answer_topic, query_topic

from .calibration import CARD_VERSION, Calibration, Powers

KEY_SIZES = (2048, 3072)
RECEIVERS = 3  # of a message, in the second of two contests
_PATIENCE_S = 20.0
_LEAVE_S = 5.0
_FLEET = "calibration"


def measure_calibration(board: str, sizes: Sequence[int] = KEY_SIZES) -> Calibration:
    """The card of this machine, under the name *board*; starts an embedded broker for a while.

    Raises BrokerUnreachable if that cannot be, or brings no messages.
    """
    powers = {str(bits): measure_powers(bits) for bits in sizes}
    save_ms, save_cpu_ms = _saving(max(sizes))
    with start_broker("embedded") as broker:
        send, receive, delivered = _messages(broker)
        round_trip = _round_trip(broker)
    return Calibration(
        version=CARD_VERSION,
        kind="measured",
        board=board,
        source=f"measured on this machine with {os.cpu_count()} cores",
        cores=os.cpu_count() or 1,
        powers=powers,
        send_ms=_rounded(send),
        receive_ms=_rounded(receive),
        broker_ms=_rounded(delivered),
        save_cpu_ms=_rounded(save_cpu_ms),
        save_ms=_rounded(save_ms),
        round_trip_ms=_rounded(round_trip),
    )


def measure_powers(bits: int) -> Powers:
    """Paillier's operations under a new key of *bits* bits; most of it goes into making tables."""
    keys = generate_keys(bits)
    key, generators, limit = keys.paillier, keys.generators, Crypto().table_kib * 1024
    assert generators is not None
    public, own = key.public, OwnByTables(key, generators, limit)
    full = Full(public, limit)
    for _ in range(ROWS):  # its first ones are uniform, and become its table
        full.make()
    base = mpz(secrets.randbelow(int(public.n_squared)))

    def products() -> None:
        number = base
        for _ in range(100):
            number = number * base % public.n_squared

    return Powers(
        powmod_ms=_rounded(_cpu_ms(lambda: powmod(base, public.n, public.n_squared), 9)),
        table_ms=_rounded(_cpu_ms(full.make, 25)),
        own_ms=_rounded(_cpu_ms(own.make, 25)),
        decrypt_ms=_rounded(_cpu_ms(lambda: key.decrypt(base), 15)),
        product_ms=_rounded(_cpu_ms(products, 9) / 100),
    )


def _cpu_ms(run: Callable[[], object], times: int) -> float:
    """The median CPU time of *run* in this thread, ms; the first time does not count."""
    run()
    return median(_timed(run, time.thread_time_ns) for _ in range(times))


def _timed(run: Callable[[], object], clock: Callable[[], int]) -> float:
    began = clock()
    run()
    return (clock() - began) / 1e6


def _rounded(figure: float) -> float:
    return float(f"{figure:.4g}")


# -- disk ---------------------------------------------------------------------------------------


def _saving(bits: int) -> tuple[float, float]:
    """Wall and CPU time of saving the state of a node, ms; on the disk of temporary files."""
    record = RoundRecord(0, [1 << 20] * 4, bytes(SEED_BYTES), [bytes(bits // 4)])
    state = State(
        STATE_VERSION, _FLEET, "node", bytes(TAG_BYTES), 1, 1, [0.5] * 4,
        [record] * HISTORY_ROUNDS, {}, continuous=True,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        try:
            cpu = _cpu_ms(lambda: store.save(state), 25)
            wall = median(_timed(lambda: store.save(state), time.monotonic_ns) for _ in range(25))
        finally:
            store.close()
    return wall, cpu


# -- messages -----------------------------------------------------------------------------------


class _Post:
    """A client of the broker as a node is one: signs what it sends, checks what it gets."""

    def __init__(self, broker: RunningBroker, name: str, key: Ed25519PrivateKey) -> None:
        self._key, self._name, self._verifiers = key, name, {"sender": key.public_key()}
        self._events: queue.Queue[Any] = queue.Queue()
        topics = [query_topic(_FLEET, "sender"), answer_topic(_FLEET, name, "sender")]
        address = Broker(host=broker.host, port=broker.port)
        chosen = f"{_FLEET}-{name}-{secrets.token_hex(4)}"
        self._link = Link(chosen, address, topics, None, self._events.put)
        self._link.start()
        self._await(LinkUp)

    def send(self, message: Message) -> None:
        """Sign and publish."""
        self._link.publish(wire.topic_of(message), wire.encode(message, self._key))

    def receive(self) -> None:
        """Wait for a message, and check it."""
        arrived = self._await(Arrived)
        wire.decode(arrived.payload, arrived.topic, _FLEET, self._verifiers)

    def close(self) -> None:
        """Leave."""
        self._link.stop(_LEAVE_S)

    def _await(self, kind: type) -> Any:
        try:
            event = self._events.get(timeout=_PATIENCE_S)
        except queue.Empty:
            raise BrokerUnreachable(
                f"the broker brought nothing within {_PATIENCE_S:g} s"
            ) from None
        return event if isinstance(event, kind) else self._await(kind)


def _messages(broker: RunningBroker) -> tuple[float, float, float]:
    """CPU ms of a node for a message sent, for one received, and of the broker for a delivery.

    Everything is in this process: messages with one receiver and with several tell sending from
    receiving apart.
    """
    key = Ed25519PrivateKey.generate()
    posts = [_Post(broker, f"receiver{index}", key) for index in range(RECEIVERS)]
    try:
        single = [_exchanged(broker, posts, _answer(0), posts[:1]) for _ in range(5)]
        shared = [_exchanged(broker, posts, _query(), posts) for _ in range(5)]
    finally:
        for post in posts:
            post.close()
    one, own_broker = (median(column) for column in zip(*single, strict=True))
    many, _ = (median(column) for column in zip(*shared, strict=True))
    receive = max(0.0, (many - one) / (RECEIVERS - 1))
    return max(0.0, one - receive), receive, own_broker


def _exchanged(
    broker: RunningBroker, posts: Sequence[_Post], message: Message, receivers: Sequence[_Post]
) -> tuple[float, float]:
    """CPU ms per message, ours and the broker's, of a row of them; one at a time, as in rounds."""
    count = 60
    ours, theirs = time.process_time_ns(), _cpu_of(broker)
    for _ in range(count):
        posts[0].send(message)
        for receiver in receivers:
            receiver.receive()
    spent = (time.process_time_ns() - ours) / 1e6 / count
    return spent, (_cpu_of(broker) - theirs) / count


def _round_trip(broker: RunningBroker) -> float:
    """Wall ms: a message there, and one back; the lower quartile of many."""
    key = Ed25519PrivateKey.generate()
    here, there = _Post(broker, "receiver0", key), _Post(broker, "receiver1", key)

    def trip() -> None:
        here.send(_answer(1))
        there.receive()
        there.send(_answer(0))
        here.receive()

    try:
        trip()
        times = sorted(_timed(trip, time.monotonic_ns) for _ in range(60))
    finally:
        here.close()
        there.close()
    return times[len(times) // 4]


def _query() -> Query:
    return Query(
        _FLEET, "sender", int(time.time()), 1, 0, [], bytes(TAG_BYTES), bytes(TAG_BYTES),
        [bytes(KEY_SIZES[0] // 4)],
    )  # fmt: skip


def _answer(receiver: int) -> Answer:
    return Answer(
        _FLEET, "sender", int(time.time()), f"receiver{receiver}", 1, 0, bytes(DIGEST_BYTES),
        [bytes(KEY_SIZES[0] // 4)],
    )  # fmt: skip


def _cpu_of(broker: RunningBroker) -> float:
    """CPU time that the broker's threads have taken, ms; Linux's scheduler counts nanoseconds."""
    threads = Path(f"/proc/{broker.pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e6
