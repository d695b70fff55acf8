"""Measure this machine's calibration card: the node's own functions, and two small fleets.

Computations are measured in CPU time, which a busy machine changes little; only disk and network
are timed with the wall clock. Two fleets of real daemons, with 2 and 6 neighbours per node and with
keys so small that encryption costs almost nothing, show the other costs of a round and of a
neighbour. The measurement takes about half a minute.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gmpy2 import mpz, powmod

from cipherfleet_analysis.cost.board_card import CARD_VERSION, Calibration, Powers
from cipherfleet_broker import RunningBroker, start_broker
from cipherfleet_broker.die_with_parent import die_with_parent
from cipherfleet_node.core import wire
from cipherfleet_node.core.messages import DIGEST_BYTES, TAG_BYTES, Answer, Message
from cipherfleet_node.core.randomness import SEED_BYTES
from cipherfleet_node.core.state import HISTORY_ROUNDS, RoundRecord, first_state
from cipherfleet_node.core.topics import answer_topic
from cipherfleet_node.errors import BrokerUnreachable, CipherfleetError
from cipherfleet_node.keys.fixed_base import ROWS
from cipherfleet_node.keys.key_files import generate_keys
from cipherfleet_node.keys.obfuscators import Full, OwnByTables
from cipherfleet_node.runtime.epochs import new_epoch
from cipherfleet_node.runtime.mqtt import Arrived, Link, LinkUp
from cipherfleet_node.runtime.store import Store
from cipherfleet_node.runtime.telemetry import SPANS_FILE
from cipherfleet_node.settings.node_yaml import LOGS_FOLDER
from cipherfleet_node.settings.sections import Broker, Crypto, Simulation
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.fleet.fleet import load_fleet


class CalibrationFailed(CipherfleetError):
    """A daemon or fleet that was run for the measurement did not finish."""

    exit_code: ClassVar[int] = 5


KEY_SIZES = (2048, 3072)
PAUSE_S = 0.01  # before each timing of work that a node does after waiting, with cold caches
TINY_BITS = 512  # key size of the small fleets: a full power takes 0.1 ms
SMALL_FLEETS = (3, 7)  # numbers of nodes; the graphs are complete
ROUNDS, WARM_UP = 90, 25
_PATIENCE_S = 20.0
_LEAVE_S = 5.0
_SMALL_FLEET_S = 120.0
_FLEET = "calibration"
_FLEET_FILE = """\
config_version: 1
fleet: calibration
crypto: {{exchange: sealed, key_bits: {bits}, allow_weak_keys: true, table_kib: 1024}}
algorithm: {{rounds: {rounds}, answer_timeout_s: 20}}
objective: {{kind: mean, values: [{{field: t}}]}}
topology: {{kind: complete}}
nodes: [{{each: {nodes}, id: "n{{n}}", sensor: {{kind: synthetic, fields: {{t: {{mean: 1}}}}}}}}]
"""


class CalibrateResult(Calibration, frozen=True):
    """The result of `bench calibrate` as `--json` prints it: the file, then the card's keys."""

    # Fields that are not keyword-only are printed before those of the base class.
    card: str


def measure_calibration(board: str, sizes: Sequence[int] = KEY_SIZES) -> Calibration:
    """Measure the card of this machine, under the name *board*, with an embedded broker.

    Raises BrokerUnreachable if the broker does not start or delivers no messages, and
    CalibrationFailed.
    """
    save_ms = _saving_ms(max(sizes))
    with start_broker("embedded") as broker:
        round_trip = _round_trip_ms(broker)
        few, many = (_run_small(broker, nodes) for nodes in SMALL_FLEETS)
    neighbour = max(0.0, (many.node_ms - few.node_ms) / (SMALL_FLEETS[1] - SMALL_FLEETS[0]))
    return Calibration(
        version=CARD_VERSION,
        kind="measured",
        board=board,
        source=f"measured on this machine with {os.cpu_count()} cores",
        cores=os.cpu_count() or 1,
        powers={str(bits): measure_powers(bits) for bits in sizes},
        round_ms=_round_figure(max(0.0, few.node_ms - (SMALL_FLEETS[0] - 1) * neighbour)),
        neighbour_ms=_round_figure(neighbour),
        broker_ms=_round_figure((few.broker_ms + many.broker_ms) / 2),
        shared_use=_round_figure(min(1.0, many.use)),
        save_ms=_round_figure(save_ms),
        round_trip_ms=_round_figure(round_trip),
    )


def measure_powers(bits: int) -> Powers:
    """Time Paillier's operations under a new key; most of the duration is the making of tables."""
    keys = generate_keys(bits)
    key, generators, limit = keys.paillier, keys.generators, Crypto().table_kib * 1024
    assert generators is not None
    public, own = key.public, OwnByTables(key, generators, limit)
    full = Full(public, limit)
    for _ in range(ROWS):  # the first ones are uniform and become the table
        full.make()
    base = mpz(secrets.randbelow(int(public.n_squared)))

    def products() -> None:
        number = base
        for _ in range(100):
            number = number * base % public.n_squared

    return Powers(
        powmod_ms=_round_figure(
            _median_cpu_ms(lambda: powmod(base, public.n, public.n_squared), 9)
        ),
        table_ms=_round_figure(_median_cpu_ms(full.make, 25)),
        own_ms=_round_figure(_median_cpu_ms(own.make, 25)),
        decrypt_ms=_round_figure(_median_cpu_ms(lambda: key.decrypt(base), 15)),
        product_ms=_round_figure(_median_cpu_ms(products, 9) / 100),
    )


def _median_cpu_ms(run: Callable[[], object], times: int) -> float:
    """Return the median CPU time of *run* in this thread, ms; the first run does not count."""
    run()
    return median(_measure_ms(run, time.thread_time_ns) for _ in range(times))


def _median_after_pauses_ms(run: Callable[[], object], clock: Callable[[], int]) -> float:
    """Return the median time of *run* after a pause, ms; the first run does not count."""
    times = []
    for _ in range(26):
        time.sleep(PAUSE_S)
        times.append(_measure_ms(run, clock))
    return median(times[1:])


def _measure_ms(run: Callable[[], object], clock: Callable[[], int]) -> float:
    began = clock()
    run()
    return (clock() - began) / 1e6


def _round_figure(figure: float) -> float:
    return float(f"{figure:.4g}")


# -- disk ---------------------------------------------------------------------------------------


def _saving_ms(bits: int) -> float:
    """Return the wall time of saving a node's state to the disk of temporary files, ms."""
    record = RoundRecord(0, bytes(8), [1 << 20] * 4, bytes(SEED_BYTES), [bytes(bits // 4)])
    first = first_state(_FLEET, "node", bytes(TAG_BYTES), epoch=1, draw=0)
    records = [record] * HISTORY_ROUNDS
    state = msgspec.structs.replace(first, estimate=[0.5] * 4, records=records)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        try:
            return _median_after_pauses_ms(lambda: store.save(state), time.monotonic_ns)
        finally:
            store.close()


# -- messages -----------------------------------------------------------------------------------


class _SignedClient:
    """A client of the broker like a node: it signs what it sends and verifies what it receives."""

    def __init__(self, broker: RunningBroker, name: str, key: Ed25519PrivateKey) -> None:
        self._key, self._verifiers = key, {"sender": key.public_key()}
        self._events: queue.Queue[Any] = queue.Queue()
        topics = [answer_topic(_FLEET, name, "sender")]
        address = Broker(host=broker.host, port=broker.port)
        chosen = f"{_FLEET}-{name}-{secrets.token_hex(4)}"
        self._link = Link(chosen, address, topics, None, self._events.put)
        self._link.start()
        self._await(LinkUp)

    def send(self, message: Message) -> None:
        self._link.publish(wire.topic_of(message), wire.encode(message, self._key))

    def receive(self) -> None:
        """Wait for a message and verify it."""
        arrived = self._await(Arrived)
        wire.decode(arrived.payload, arrived.topic, _FLEET, self._verifiers)

    def close(self) -> None:
        self._link.stop(_LEAVE_S)

    def _await(self, kind: type) -> Any:
        try:
            event = self._events.get(timeout=_PATIENCE_S)
        except queue.Empty:
            raise BrokerUnreachable(
                f"the broker delivered no message within {_PATIENCE_S:g} s"
            ) from None
        return event if isinstance(event, kind) else self._await(kind)


def _round_trip_ms(broker: RunningBroker) -> float:
    """Return the wall time of a message there and one back, ms: the lower quartile of 60."""
    key = Ed25519PrivateKey.generate()
    here, there = _SignedClient(broker, "receiver0", key), _SignedClient(broker, "receiver1", key)

    def exchange_messages() -> None:
        here.send(_answer(1))
        there.receive()
        there.send(_answer(0))
        here.receive()

    try:
        exchange_messages()
        times = sorted(_measure_ms(exchange_messages, time.monotonic_ns) for _ in range(60))
    finally:
        here.close()
        there.close()
    return times[len(times) // 4]


def _answer(receiver: int) -> Answer:
    return Answer(
        fleet=_FLEET,
        sender="sender",
        epoch=new_epoch(0, time.time()),
        receiver=f"receiver{receiver}",
        round=1,
        waited_ms=0,
        query=bytes(DIGEST_BYTES),
        ciphertexts=[bytes(KEY_SIZES[0] // 4)],
    )


# -- small fleets -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _FleetCosts:
    """CPU costs of a small fleet, and its share of the cores' time while it ran.

    During the rest the cores wait, because nodes wait for each other, or run other programs.
    """

    node_ms: float  # CPU ms of a node per round, without the threads that fill pools
    broker_ms: float  # CPU ms of the broker per delivered message
    use: float


def _run_small(broker: RunningBroker, nodes: int) -> _FleetCosts:
    """Run a fleet of *nodes* real daemons. Raises CalibrationFailed if it does not finish."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "fleet.yaml"
        file.write_text(_FLEET_FILE.format(bits=TINY_BITS, rounds=ROUNDS, nodes=nodes))
        address = Broker(host=broker.host, port=broker.port)
        bundles = write_bundles(load_fleet(file), Path(name) / "nodes", address, Simulation())
        before = _cpu_time_ms(broker)
        _await_end([_spawn(folder) for folder in bundles.values()])
        delivered = 2 * nodes * (nodes - 1)  # messages per round
        broker_ms = (_cpu_time_ms(broker) - before) / (delivered * ROUNDS)
        costs = [_round_costs_ms(folder) for folder in bundles.values()]
        all_ms, node_ms, wall_ms = (median(column) for column in zip(*costs, strict=True))
        spent = nodes * all_ms + delivered * broker_ms
        return _FleetCosts(node_ms, broker_ms, spent / wall_ms / (os.cpu_count() or 1))


def _spawn(folder: Path) -> subprocess.Popen[bytes]:
    """Start a daemon that is killed when this process ends, for any reason."""
    command = die_with_parent([sys.executable, "-m", "cipherfleet_node", "run", str(folder)])
    with (folder / "node.log").open("wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _await_end(daemons: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _SMALL_FLEET_S
    try:
        for daemon in daemons:
            if daemon.wait(max(0.0, deadline - time.monotonic())) != 0:
                raise CalibrationFailed(
                    "a daemon of a small fleet failed", remedy="run the calibration again"
                )
    except subprocess.TimeoutExpired:
        raise CalibrationFailed(
            f"a small fleet did not finish {ROUNDS} rounds within {_SMALL_FLEET_S:g} s",
            remedy="run the calibration again when the machine is less busy",
        ) from None
    finally:
        for daemon in daemons:
            daemon.kill()
            daemon.wait()


def _round_costs_ms(folder: Path) -> tuple[float, float, float]:
    """Return a node's ms per round after warm-up: CPU, CPU without the pools' threads, wall."""
    lines = (folder / LOGS_FOLDER / SPANS_FILE).read_text().splitlines()
    spans = [json.loads(line) for line in lines]
    rounds = [span for span in spans if span["phase"] == "round" and span["round"] >= WARM_UP]
    first, last = rounds[0], rounds[-1]
    spent, pools = (1000.0 * (last[name] - first[name]) for name in ("cpu_s", "pool_cpu_s"))
    count = last["round"] - first["round"]
    wall = median(span["ms"] for span in rounds)
    return spent / count, (spent - pools) / count, wall


def _cpu_time_ms(broker: RunningBroker) -> float:
    """Return the CPU time of the broker's threads so far, ms; Linux counts nanoseconds."""
    threads = Path(f"/proc/{broker.pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e6
