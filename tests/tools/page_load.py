"""The page of a large fleet under load: time to draw, and memory while messages arrive.

    python -m tests.tools.page_load --nodes 200 --rate 1000 --seconds 300 --gate

Publishes signed health messages of a fleet without daemons through a real broker. A browser shows
the page. `--gate` fails unless the page is drawn in DRAWN_MS, and neither the server nor the page
has grown by more than GROWTH_MIB since the first fifth of the time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import paho.mqtt.client as paho
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paho.mqtt.enums import CallbackAPIVersion

from cipherfleet_broker import RunningBroker, start_broker
from cipherfleet_node.core.messages import Health, Message, Presence
from cipherfleet_node.core.wire import encode, topic_of
from tests.support.browser import Page, open_browser
from tests.support.page_server import PageServer, serve_page

FLEET = "flood"
DRAWN_MS = 1000.0
GROWTH_MIB = 10.0
MIB = 2.0**20


@dataclass(frozen=True)
class PageLoad:
    """What was measured."""

    nodes: int
    messages: int
    messages_per_s: float
    circles: int
    drawn_ms: float  # from the start of the navigation until all nodes are drawn in their states
    highest_round: int
    server_mib: float
    server_growth_mib: float  # since the first fifth of the time
    page_mib: float
    page_growth_mib: float


def write_fleet(folder: Path, count: int, port: int) -> Path:
    """Write the fleet.yaml of *count* nodes, each with four neighbours."""
    (folder / "t.csv").write_text("t\n1.5\n")
    file = folder / "fleet.yaml"
    file.write_text(f"""\
config_version: 1
fleet: {FLEET}
broker: {{port: {port}}}
crypto: {{key_bits: 512, allow_weak_keys: true}}
objective: {{kind: average, values: [{{field: t}}]}}
topology: {{kind: geometric, neighbours: 4, seed: 1}}
nodes:
  - {{each: {count}, id: "n{{n}}", sensor: {{kind: csv, path: t.csv}}}}
""")
    return file


class Flood:
    """Publishes messages of all nodes at a rate."""

    def __init__(self, broker: RunningBroker, names: Sequence[str]) -> None:
        self._names = names
        self._keys = {name: Ed25519PrivateKey.generate() for name in names}
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "flood")
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()
        self.sent = 0

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def announce(self) -> None:
        """Publish the presence of each node."""
        for name in self._names:
            self._publish(Presence(FLEET, name, 5, "ready"), retain=True)

    def run(self, rate: float, seconds: float) -> None:
        """Publish *rate* health messages each second."""
        began = time.monotonic()
        first = self.sent
        while (elapsed := time.monotonic() - began) < seconds:
            while self.sent - first < rate * elapsed:
                self._publish(self._health())
            time.sleep(0.005)

    def _health(self) -> Health:
        number, place = divmod(self.sent, len(self._names))
        return Health(
            FLEET, self._names[place], 5, number, "collecting", number, 250_000 + place, place % 2,
            3, {"signature": 2}, {}, 3, 8, 40, [], 0, number % 2 == 0, 51, None,
        )  # fmt: skip

    def _publish(self, message: Message, *, retain: bool = False) -> None:
        data = encode(message, self._keys[message.sender])
        self._client.publish(topic_of(message), data, qos=0, retain=retain)
        self.sent += 1


def measure(page: Page, nodes: int, rate: float, seconds: float) -> PageLoad:
    """Load the page of *nodes* nodes in *page*, and publish *rate* messages each second."""
    with tempfile.TemporaryDirectory() as folder, start_broker("embedded") as broker:
        file = write_fleet(Path(folder), nodes, broker.port)
        flood = Flood(broker, [f"n{n}" for n in range(1, nodes + 1)])
        try:
            flood.announce()
            with serve_page(file) as server:
                return _measure(page, server, flood, rate, seconds)
        finally:
            flood.close()


def _measure(page: Page, server: PageServer, flood: Flood, rate: float, seconds: float) -> PageLoad:
    nodes = len(flood._names)
    page.open(server.address)  # the first visit starts parts of the browser
    page.wait_for("state.summary?.standing.ready === state.nodes.size")
    page.open(server.address + "?again#fleet")
    page.wait_for("performance.getEntriesByName('drawn').length > 0")
    drawn = page.evaluate("performance.getEntriesByName('drawn')[0].startTime")
    circles = page.evaluate("document.querySelectorAll('#graph .s-ready circle').length")
    flood.run(rate, seconds / 5)
    server_before, page_before = server.memory_bytes, page.heap_bytes()
    before, began = flood.sent, time.monotonic()
    flood.run(rate, seconds * 4 / 5)
    speed = (flood.sent - before) / (time.monotonic() - began)
    page.wait_for("state.summary.highest_round > 1")
    server_after, page_after = server.memory_bytes, page.heap_bytes()
    return PageLoad(
        nodes=nodes,
        messages=flood.sent,
        messages_per_s=round(speed, 1),
        circles=circles,
        drawn_ms=round(drawn, 1),
        highest_round=page.evaluate("state.summary.highest_round"),
        server_mib=round(server_after / MIB, 1),
        server_growth_mib=round((server_after - server_before) / MIB, 1),
        page_mib=round(page_after / MIB, 1),
        page_growth_mib=round((page_after - page_before) / MIB, 1),
    )


def _fail(text: str) -> None:
    sys.exit(text)


def main() -> int:
    """Measure, print, and compare with the claims."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--nodes", type=int, default=200)
    options.add_argument("--rate", type=float, default=1000.0, help="messages each second")
    options.add_argument("--seconds", type=float, default=300.0)
    options.add_argument("--gate", action="store_true", help="fail if a claim does not hold")
    given = options.parse_args()
    with open_browser(_fail) as page:
        result = measure(page, given.nodes, given.rate, given.seconds)
    for name, value in asdict(result).items():
        print(f"{name:20} {value}")
    holds = (
        result.circles == given.nodes
        and result.drawn_ms < DRAWN_MS
        and max(result.server_growth_mib, result.page_growth_mib) < GROWTH_MIB
    )
    return 1 if given.gate and not holds else 0


if __name__ == "__main__":
    sys.exit(main())
