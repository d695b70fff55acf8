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
    arrived: queue.Queue[tuple[int, bytes]] = queue.Queue()
    client = _connect(settings, neighbours, arrived)
    iteration, kept, sent = Iteration(settings), dict[tuple[int, int], Array](), 0
    with Path(settings.log).open("wb") as log:
        for k in range(settings.rounds):
            own = iteration.sent
            payload = HEAD.pack(k) + own.tobytes()
            # The first message waits at the broker for neighbours that start later.
            client.publish(_topic(settings.node), payload, qos=1, retain=k == 0)
            sent += len(payload)
            while not all((j, k) in kept for j in neighbours):
                sender, message = arrived.get(timeout=GIVE_UP_S)
                number = HEAD.unpack_from(message)[0]
                kept[sender, number] = np.frombuffer(message, np.float64, offset=HEAD.size)
            received = {j: kept.pop((j, k)) for j in neighbours}
            iteration.step(received | {settings.node: own}, k)
            line = PlainRound(
                round=k,
                estimate=iteration.x.tolist(),
                bytes_sent=sent,
                cpu_s=time.process_time(),
                at=time.monotonic(),
            )
            log.write(msgspec.json.encode(line) + b"\n")
    client.loop_stop()
    client.disconnect()


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
