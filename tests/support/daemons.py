"""Single daemons of one small fleet, which a test starts, copies, breaks and stops."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cipherfleet_broker import RunningBroker, start_broker
from cipherfleet_deploy.local.launched import DaemonProcess
from cipherfleet_deploy.local.processes import NODE_COMMAND, NodeProcess
from cipherfleet_node.core.state import State
from cipherfleet_node.runtime.store import read_state
from cipherfleet_node.settings.sections import Broker, Simulation
from cipherfleet_provisioning.bundles import write_bundles
from cipherfleet_provisioning.certificates import make_authority, secure
from cipherfleet_provisioning.fleet.fleet import load_fleet
from tests.support.faulty_path import FaultyPath
from tests.support.launcher import shared_launcher

FLEET_FILE = """\
config_version: 1
fleet: trial
crypto: {{key_bits: 512, allow_weak_keys: true, exchange: {exchange}}}
algorithm: {{{algorithm}}}
answer: {answer}
objective: {{kind: mean, values: [{{field: t}}]}}
topology: {{kind: {topology}}}
nodes:
  - {{each: {nodes}, id: "n{{n}}", sensor: {sensor}}}
"""
SENSOR = "{kind: synthetic, fields: {t: {mean: 20, deviation: 1}}}"
# Runs the program with one of its names replaced: `time.time`, or a limit of a module.
PATCHED = """\
import sys, time
real_time = time.time
{patch}
from cipherfleet_node.__main__ import main
sys.exit(main(["run", sys.argv[1]]))
"""


def patched(patch: str) -> Sequence[str]:
    """Return the command of a daemon that first runs the Python lines *patch*."""
    return (sys.executable, "-c", PATCHED.format(patch=patch))


def clock_at(year: int) -> Sequence[str]:
    """Return the command of a daemon whose clock shows *year*."""
    offset_s = (year - time.gmtime().tm_year) * 365.25 * 86400
    return patched(f"time.time = lambda: real_time() + {offset_s!r}")


@dataclass
class Daemons:
    """The node folders of a fleet, and the daemons that were started from them or from copies."""

    bundles: dict[str, Path]
    broker: RunningBroker
    running: dict[str, NodeProcess] = field(default_factory=dict)

    def start(self, *names: str, command: Sequence[str] | None = None) -> None:
        """Start a daemon from each folder of *names*: forked, or the program *command*."""
        launcher = shared_launcher() if command is None else None
        for name in names:
            node = NodeProcess(name, self.bundles[name], command or NODE_COMMAND, launcher)
            node.start()
            self.running[name] = node

    def copy(self, name: str, copy: str) -> None:
        """Copy the folder of *name* as it is now; it is the folder of *copy*."""
        place = self.bundles[name].with_name(copy)
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.bundles[name], place)
        (place / "logs").mkdir(exist_ok=True)
        for file in (place / "logs").iterdir():
            file.unlink()
        self.bundles[copy] = place

    def signal(self, name: str, number: int = signal.SIGTERM) -> int:
        """Send a signal to the daemon of *name*, and return its exit code."""
        process = self._process(name)
        process.send_signal(number)
        return process.wait(30)

    def exit_code(self, name: str) -> int | None:
        """Return the exit code of the daemon of *name*; None while it runs."""
        return self._process(name).poll()

    def round(self, name: str) -> int:
        """Return the number of rounds that *name* has closed, as its spans show."""
        node = self.running[name]
        node.read()
        return len(node.rounds)

    def log(self, name: str) -> str:
        return self.running[name].log.read_text()

    def state(self, name: str) -> State | None:
        """Return the saved state in the folder of *name*."""
        return read_state(self.bundles[name])

    def wait(self, condition: Callable[[], bool], what: str, within_s: float = 60.0) -> float:
        """Wait until *condition* is true; return the seconds that it took."""
        began = time.monotonic()
        while not condition():
            waited = time.monotonic() - began
            assert waited < within_s, f"after {waited:.0f} s still no {what}"
            time.sleep(0.05)
        return time.monotonic() - began

    def wait_for_rounds(self, names: Sequence[str], more: int, within_s: float = 60.0) -> float:
        """Wait until each of *names* has closed *more* rounds than now; return the seconds."""
        wanted = {name: self.round(name) + more for name in names}
        return self.wait(
            lambda: all(self.round(name) >= wanted[name] for name in names),
            f"{more} rounds of {', '.join(names)}",
            within_s,
        )

    def _process(self, name: str) -> DaemonProcess:
        process = self.running[name].process
        assert process is not None
        return process

    def end(self) -> None:
        """Kill all daemons."""
        for node in self.running.values():
            if node.process is not None and node.process.poll() is None:
                node.process.kill()
                node.process.wait()


@contextmanager
def open_daemons(
    folder: Path,
    *,
    broker: str = "embedded",
    nodes: int = 3,
    topology: str = "complete",
    algorithm: str = "period_s: 0.2, answer_timeout_s: 2, start_timeout_s: 5",
    exchange: str = "sealed",
    sensor: str = SENSOR,
    answer: str = "{}",
    simulation: Simulation | None = None,
    text: str | None = None,
    path: FaultyPath | None = None,
    tls: bool = False,
) -> Iterator[Daemons]:
    """The folders of a fleet on a broker of its own, which n1 reaches through *path* if given.

    *text* is the whole fleet.yaml, in place of the settings before it.
    """
    file = folder / "fleet.yaml"
    settings = FLEET_FILE.format(
        exchange=exchange,
        algorithm=algorithm,
        answer=answer,
        topology=topology,
        nodes=nodes,
        sensor=sensor,
    )
    file.write_text(settings if text is None else text)
    fleet, now = load_fleet(file), datetime.now(UTC)
    authority = make_authority("trial", now) if tls else None
    security = secure(fleet, authority, folder, now) if authority else None
    with start_broker(broker, security=security) as running:
        brokers = {
            member.id: Broker(host=running.host, port=running.port, tls=tls)
            for member in fleet.members
        }
        if path is not None:
            path.target = running.host, running.port
            brokers["n1"] = Broker(host=running.host, port=path.port, tls=tls)
        place = folder / "nodes"
        bundles = write_bundles(
            fleet, place, brokers, simulation or Simulation(), authority=authority
        )
        daemons = Daemons(dict(bundles), running)
        try:
            yield daemons
        finally:
            daemons.end()
