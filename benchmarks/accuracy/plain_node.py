"""A node without encryption: it sends its numbers to its neighbours over the same broker.

`python -m accuracy.plain_node FILE`, where FILE holds a PlainSettings in JSON. It neither signs nor
saves: it is what a round costs at least as a process of its own over this broker. The iterations
are those of the lab's baselines `Dsgd` and `GradientTracking`.
"""

from __future__ import annotations

import queue
import struct
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

Array = npt.NDArray[np.float64]
PlainKind = Literal["dsgd", "gradient-tracking"]
HEAD = struct.Struct(">I")  # the round
GIVE_UP_S = 120.0
REPEAT_S = 2.0  # a neighbour may have subscribed after a message, or a broker may have lost it


class PlainSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one node; *weights* are by node, its own included."""

    kind: PlainKind
    node: int
    weights: dict[int, float]
    hessian: list[list[float]]
    offset: list[float]
    initial: float  # the stepsize is initial / (1 + decay k)
    decay: float
    rounds: int
    host: str
    port: int
    log: str  # a line for each round: a PlainRound in JSON


class PlainRound(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a node after a round; counters are sums since its start."""

    round: int
    estimate: list[float]
    bytes_sent: int
    cpu_s: float
    at: float  # monotonic seconds


class Iteration:
    """The iteration of one node; what it sends is x, or x and the tracker t."""

    def __init__(self, settings: PlainSettings) -> None:
        self._settings = settings
        self._hessian, self._offset = np.array(settings.hessian), np.array(settings.offset)
        self.x = np.zeros(len(settings.offset))
        self._gradient = self._gradient_at(self.x)
        self._tracker = self._gradient

    @property
    def sent(self) -> Array:
        """The numbers of the next message."""
        is_tracking = self._settings.kind == "gradient-tracking"
        return np.concatenate([self.x, self._tracker]) if is_tracking else self.x

    def step(self, received: dict[int, Array], k: int) -> None:
        """Take the step of round *k*, with the numbers of all nodes in `weights`."""
        settings = self._settings
        mixed = np.sum([settings.weights[j] * sent for j, sent in received.items()], axis=0)
        step, d = settings.initial / (1.0 + settings.decay * k), len(self.x)
        if settings.kind == "dsgd":
            self.x = mixed - step * self._gradient_at(self.x)
            return
        self.x = mixed[:d] - step * self._tracker
        gradient = self._gradient_at(self.x)
        self._tracker = mixed[d:] + gradient - self._gradient
        self._gradient = gradient

    def _gradient_at(self, x: Array) -> Array:
        result: Array = self._hessian @ x + self._offset
        return result


def run(settings: PlainSettings) -> None:
    """Run all rounds, and write the log."""
    neighbours = sorted(set(settings.weights) - {settings.node})
    link = _Link(settings, neighbours)
    iteration = Iteration(settings)
    with Path(settings.log).open("wb") as log:
        for k in range(settings.rounds):
            own = iteration.sent
            received = link.exchange(own, k)
            iteration.step(received | {settings.node: own}, k)
            line = PlainRound(
                round=k,
                estimate=iteration.x.tolist(),
                bytes_sent=link.bytes_sent,
                cpu_s=time.process_time(),
                at=time.monotonic(),
            )
            log.write(msgspec.json.encode(line) + b"\n")
    link.close()


class _Link:
    """The connection of a node: it sends the numbers of a round, and waits for the neighbours'."""

    def __init__(self, settings: PlainSettings, neighbours: list[int]) -> None:
        self._node, self._neighbours = settings.node, neighbours
        self._arrived: queue.Queue[tuple[int, bytes]] = queue.Queue()
        self._kept: dict[tuple[int, int], Array] = {}  # by sender and round
        self._latest: deque[bytes] = deque(maxlen=2)  # a neighbour may still need the one before
        self._client = _connect(settings, neighbours, self._arrived)
        self.bytes_sent = 0

    def exchange(self, own: Array, k: int) -> dict[int, Array]:
        """Send *own*, and return the numbers of all neighbours in round *k*.

        Raises queue.Empty if one of them stays away for GIVE_UP_S.
        """
        self._latest.append(HEAD.pack(k) + own.tobytes())
        self._publish(self._latest[-1])
        began = time.monotonic()
        repeat_at = began + REPEAT_S
        while not all((j, k) in self._kept for j in self._neighbours):
            now = time.monotonic()
            if now > began + GIVE_UP_S:
                raise queue.Empty
            if now >= repeat_at:  # by the clock: repeats of others must not put it off
                repeat_at = now + REPEAT_S
                for payload in self._latest:
                    self._publish(payload)
            with suppress(queue.Empty):
                self._keep(*self._arrived.get(timeout=repeat_at - now), k)
        return {j: self._kept.pop((j, k)) for j in self._neighbours}

    def close(self) -> None:
        """Send the last messages, and disconnect."""
        time.sleep(REPEAT_S)  # neighbours may still need them
        for payload in self._latest:
            self._client.publish(_topic(self._node), payload, qos=1).wait_for_publish(REPEAT_S)
        self._client.loop_stop()
        self._client.disconnect()

    def _publish(self, payload: bytes) -> None:
        self._client.publish(_topic(self._node), payload, qos=1)
        self.bytes_sent += len(payload)

    def _keep(self, sender: int, message: bytes, k: int) -> None:
        number = HEAD.unpack_from(message)[0]
        if number >= k:
            self._kept[sender, number] = np.frombuffer(message, np.float64, offset=HEAD.size)


def _connect(
    settings: PlainSettings, neighbours: list[int], arrived: queue.Queue[tuple[int, bytes]]
) -> paho.Client:
    """Return a client that has subscribed to all *neighbours*."""
    subscribed: queue.Queue[bool] = queue.Queue()
    client = paho.Client(CallbackAPIVersion.VERSION2, f"plain-{settings.node}")
    client.on_message = lambda _client, _data, message: arrived.put(
        (int(message.topic.rpartition("/")[2]), bytes(message.payload))
    )
    client.on_subscribe = lambda *_: subscribed.put(True)
    client.connect(settings.host, settings.port)
    client.loop_start()
    client.subscribe([(_topic(j), 1) for j in neighbours])
    subscribed.get(timeout=GIVE_UP_S)
    return client


def _topic(node: int) -> str:
    return f"plain/{node}"


if __name__ == "__main__":
    run(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=PlainSettings))
