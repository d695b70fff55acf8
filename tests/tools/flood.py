"""Flood a real node through a real mosquitto with its neighbour's long messages; print its memory.

    python -m tests.tools.flood --seconds 60
    python -m tests.tools.flood --seconds 15 --by-count

Node n2 of three publishes signed messages of 255 KiB on its own query topic, as fast as it can. The
daemon of its neighbour n1 runs under simulated slow work, so that messages wait in its queue. With
`--by-count` its queue is bounded to 4096 messages instead of bytes. Exit code 1 if n1 uses
LIMIT_MIB or more of resident memory.
"""

from __future__ import annotations

import argparse
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import paho.mqtt.client as paho
import psutil
from paho.mqtt.enums import CallbackAPIVersion

from cipherfleet_broker import start_broker
from cipherfleet_deploy.local.processes import NodeProcess
from cipherfleet_node.__main__ import main as run_command
from cipherfleet_node.core import wire
from cipherfleet_node.core.messages import Message
from cipherfleet_node.keys.key_files import read_keys
from cipherfleet_node.runtime import daemon
from cipherfleet_node.settings.node_yaml import load_node_config
from cipherfleet_node.settings.sections import Broker, Simulation
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.fleet.fleet import load_fleet
from tests.support.queries import query_of

LIMIT_MIB = 128
MESSAGE_BYTES = 255 * 1024
SLOW_S = 0.01  # per message: a Raspberry Pi Zero takes about this for a signature over 255 KiB
EVENTS = 4096
FLEET = """\
config_version: 1
fleet: flood
crypto: {key_bits: 512, allow_weak_keys: true}
algorithm: {period_s: 1, answer_timeout_s: 1}
objective: {kind: average, values: [{field: celsius}]}
topology: {kind: ring}
nodes:
  - {each: 3, id: "n{n}", sensor: {kind: synthetic, fields: {celsius: {mean: 20}}}}
"""


class QueueByCount:
    """The events of a daemon, bounded in their number only."""

    def __init__(self) -> None:
        self._events: queue.Queue[object] = queue.Queue(EVENTS)

    def put(self, event: object) -> bool:
        try:
            self._events.put_nowait(event)
        except queue.Full:
            return False
        return True

    def get(self, timeout: float) -> object:
        return self._events.get(timeout=timeout)

    @property
    def is_empty(self) -> bool:
        return self._events.empty()


def run_slow_node(folder: str, *, by_count: bool) -> int:
    """The command `run` of a node that takes SLOW_S more for each message."""
    decode = wire.decode

    def slow_decode(*args: Any, **named: Any) -> Message:
        time.sleep(SLOW_S)
        return decode(*args, **named)

    with ExitStack() as patches:
        patches.enter_context(patch.object(wire, "decode", slow_decode))
        if by_count:
            patches.enter_context(patch.object(daemon, "EventQueue", QueueByCount))
        return run_command(["run", folder])


def long_message(folder: Path) -> tuple[str, bytes]:
    """A query that the node of *folder* has signed, and its topic."""
    config = load_node_config(folder)
    ciphertexts = [bytes(MESSAGE_BYTES)]
    query = query_of(config.fleet, config.node, 2**40, 1, [], ciphertexts)
    return wire.topic_of(query), wire.encode(query, read_keys(folder, config.crypto).identity)


def flood(broker: Broker, topic: str, payload: bytes, until: threading.Event) -> int:
    """Publish until *until* is set; return the number of messages."""
    client = paho.Client(CallbackAPIVersion.VERSION2, "flood-n2")
    client.connect(broker.host, broker.port)
    client.loop_start()
    count = 0
    while not until.is_set():
        client.publish(topic, payload).wait_for_publish(10.0)
        count += 1
    client.disconnect()
    client.loop_stop()
    return count


def run(folder: Path, seconds: float, *, by_count: bool) -> float:
    """Return the most resident memory of n1 in MiB while n2 floods it.

    It ends *seconds* after the first message was dropped for want of room, or as soon as n1 uses
    twice the limit.
    """
    (folder / "fleet.yaml").write_text(FLEET)
    with start_broker("mosquitto") as running:
        broker = Broker(host=running.host, port=running.port)
        fleet = load_fleet(folder / "fleet.yaml")
        bundles = write_bundles(fleet, folder / "nodes", broker, Simulation())
        guard = ["--by-count"] if by_count else []
        node = NodeProcess(
            "n1", bundles["n1"], [sys.executable, "-m", "tests.tools.flood", *guard, "--node"]
        )
        node.start()
        assert node.process is not None
        stop = threading.Event()
        message = long_message(bundles["n2"])
        thread = threading.Thread(target=flood, args=(broker, *message, stop))
        try:
            thread.start()
            return watch(node, seconds)
        finally:
            stop.set()
            thread.join()
            node.process.terminate()
            node.process.wait()


def watch(node: NodeProcess, seconds: float) -> float:
    """Return the most resident memory in MiB, until *seconds* after the queue was full."""
    assert node.process is not None
    process, most, began = psutil.Process(node.process.pid), 0.0, time.monotonic()
    ends = None
    while ends is None or time.monotonic() < ends:
        assert node.process.poll() is None, node.log.read_text()
        most = max(most, process.memory_info().rss / 2**20)
        if most > 2 * LIMIT_MIB:
            break
        if ends is None and "n2: queue_full" in node.log.read_text():
            ends = time.monotonic() + seconds
        assert ends is not None or time.monotonic() < began + 120, "the flood does not arrive"
        time.sleep(0.05)
    return most


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--by-count", action="store_true", help="the queue bounded by count only")
    parser.add_argument("--node", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.node is not None:
        return run_slow_node(options.node, by_count=options.by_count)
    with tempfile.TemporaryDirectory() as folder:
        most = run(Path(folder), options.seconds, by_count=options.by_count)
    print(f"n1 has used up to {most:.0f} MiB of resident memory, limit {LIMIT_MIB}")
    return 0 if most < LIMIT_MIB else 1


if __name__ == "__main__":
    sys.exit(main())
