"""A fleet in containers: brought up, watched to its end, taken down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from cipherfleet_analysis.advice import advice
from cipherfleet_broker.embedded import PACKAGE
from cipherfleet_broker.interrupts import defer_interrupts
from cipherfleet_deploy.local.record import FleetFailed, NodeRecord, Standstill
from cipherfleet_deploy.local.run import (
    Report,
    default_folder,
    patience,
    showing_progress,
    watch_hint,
)
from cipherfleet_deploy.progress import Lines, counting, print_line
from cipherfleet_node.errors import CipherfleetError
from cipherfleet_node.settings.sections import Simulation
from cipherfleet_provisioning.fleet.file import Overrides
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet

from .engine import NAME_LABEL, OUT_LABEL, Engine
from .limits import Profile
from .plan import BROKER_HOST, IMAGE, Container, prepare

POLL_S = 0.5
LISTED_EVERY_S = 2.0  # asking the engine costs more than reading files
WEIGHED_EVERY_S = 2.0


@dataclass(frozen=True)
class UpOptions:
    """The flags of `fleet up`."""

    overrides: Overrides = field(default_factory=Overrides)
    seed: int | None = None
    out: Path | None = None
    image: str = IMAGE
    profile: Profile | None = None


@dataclass
class NodeContainer(NodeRecord):
    """One node's record, with the engine at hand for its last words."""

    words: Callable[[], str]

    def last_words(self) -> str:
        """The last line of the container's log."""
        return self.words().strip() or "nothing"


class DockerFleet:
    """The containers of one fleet, made and started by `start`, removed by `stop`."""

    def __init__(
        self,
        engine: Engine,
        fleet: str,
        containers: Sequence[Container],
        stalled_after_s: float,
        console: Console | None = None,
    ) -> None:
        self.engine, self.fleet = engine, fleet
        self._console = console or Console(quiet=True)
        self._containers = containers
        self.nodes = {
            each.name: NodeContainer(each.name, each.folder, self._words_of(each.name))
            for each in containers
            if not each.is_broker
        }
        self._standstill = Standstill(stalled_after_s)
        self._listed_at = 0.0
        self.timing: dict[str, float] = {}
        self._weighed_at = 0.0
        self.memory: dict[str, float] = {}  # MiB

    def _words_of(self, name: str) -> Callable[[], str]:
        return lambda: self.engine.log(self.fleet, name, tail=1)

    def start(self, out: Path, image: str) -> None:
        """Create all containers, then start them together; takes down what a failure leaves."""
        began = time.monotonic()
        self._began = began
        try:
            with counting("containers made", len(self._containers), self._console) as advance:
                self.engine.create(self.fleet, out, image, self._containers, advance)
            self.timing["created_s"] = time.monotonic() - began
            self.engine.start(self.fleet, [BROKER_HOST])
            self._start_nodes()
        except BaseException:
            self.stop()
            raise
        self.timing["started_s"] = time.monotonic() - began

    def _start_nodes(self) -> None:
        """Start all nodes, and look at those that run while the engine starts the rest.

        A busy engine takes so long for the last that a short run is over by then. They are started
        from this thread: interrupted, it does not wait for those whose turn has not come.
        """
        started = threading.Event()

        def look() -> None:
            while not started.wait(WEIGHED_EVERY_S):
                self._read()
                self._weigh()

        with (
            counting("containers started", len(self.nodes), self._console) as advance,
            ThreadPoolExecutor(1) as pool,
        ):
            looking = pool.submit(look)
            try:
                self.engine.start(self.fleet, list(self.nodes), advance)
            finally:
                started.set()
            looking.result()

    @defer_interrupts()
    def stop(self) -> list[str]:
        """Remove all of the fleet; the names of what there was. Ctrl-C waits for it."""
        return self.engine.down(self.fleet)

    def poll(self) -> bool:
        """Read what is new; True once all nodes have finished.

        Raises FleetFailed for a container that has ended badly, or when nothing moves any more.
        """
        self._read()
        if time.monotonic() >= self._listed_at:
            self._listed_at = time.monotonic() + LISTED_EVERY_S
            self._look_after_all()
        if time.monotonic() >= self._weighed_at:
            self._weigh()
        self._standstill.check(self.nodes.values())
        return all(node.finished for node in self.nodes.values())

    def _read(self) -> None:
        """What the nodes have written, and when every one of them had closed a round."""
        for node in self.nodes.values():
            node.read()
        if "first_round_s" not in self.timing and all(n.round for n in self.nodes.values()):
            self.timing["first_round_s"] = time.monotonic() - self._began

    def _weigh(self) -> None:
        """Keep the most that each container was seen to hold."""
        self._weighed_at = time.monotonic() + WEIGHED_EVERY_S
        running = [name for name, node in self.nodes.items() if not node.finished]
        for name, mib in self.engine.memory_mib(self.fleet, [BROKER_HOST, *running]).items():
            self.memory[name] = max(mib, self.memory.get(name, 0.0))

    def _look_after_all(self) -> None:
        listed = self.engine.containers(self.fleet)
        names = {each["Labels"][NAME_LABEL] for each in listed}
        if gone := sorted(({BROKER_HOST} | set(self.nodes)) - names):
            raise FleetFailed(f"the container of {gone[0]} is gone: somebody removed it")
        for each in listed:
            if each["State"] in ("exited", "dead"):
                self._ended(each["Labels"][NAME_LABEL])

    def _ended(self, name: str) -> None:
        node = self.nodes.get(name)
        if node is not None and node.finished:
            return
        told = self.engine.inspect(self.fleet, name)
        code, killed = told["State"]["ExitCode"], told["State"]["OOMKilled"]
        if node is None or code != 0:
            memory = ", out of the memory of its profile" if killed else ""
            words = self.engine.log(self.fleet, name, tail=1).strip() or "nothing"
            raise FleetFailed(
                f"the container of {name} ended with exit code {code}{memory}, its last words: "
                f"{words}"
            )
        node.restarts = int(told["RestartCount"])
        node.read()
        node.finished = True

    def wait(self, on_poll: Callable[[], None] = lambda: None) -> None:
        """Poll until all nodes have finished; *on_poll* is called each time."""
        while not self.poll():
            on_poll()
            time.sleep(POLL_S)
        on_poll()

    def save_logs(self) -> None:
        """What the nodes have said, into their folders; as far as there are containers."""
        for each in self.engine.containers(self.fleet):
            node = self.nodes.get(each["Labels"][NAME_LABEL])
            if node is not None:
                node.log.parent.mkdir(exist_ok=True)
                node.log.write_text(self.engine.log(self.fleet, node.id))

    @defer_interrupts()
    def close(self) -> None:
        """Keep the logs, remove all else."""
        try:
            self.save_logs()
        finally:
            self.stop()

    def figures(self) -> dict[str, Any]:
        """What a fleet of containers has to tell beyond a fleet of processes."""
        nodes = [mib for name, mib in self.memory.items() if name != BROKER_HOST]
        return {
            "start": {name: round(seconds, 2) for name, seconds in self.timing.items()},
            "memory_mib": {
                "nodes_p50": round(float(np.median(nodes)), 1) if nodes else None,
                "nodes_max": round(max(nodes), 1) if nodes else None,
                "broker": round(self.memory.get(BROKER_HOST, 0.0), 1) or None,
            },
        }


def prepared(
    engine: Engine, fleet: Fleet, options: UpOptions, console: Console
) -> tuple[DockerFleet, Path]:
    """The containers of *fleet*, not yet made, and the folder that holds theirs, which are.

    Raises CipherfleetError, also where a fleet of that name is up already.
    """
    name = fleet.file.fleet
    engine.image_mib(options.image)
    if engine.containers(name):
        raise CipherfleetError(
            f"containers of a fleet {name!r} are there already: cipherfleet fleet down FILE "
            "removes them"
        )
    for line in advice(fleet):
        print_line(console, line)
    if options.profile is not None:
        print_line(console, f"note: {options.profile}; no figure is a device's")
    out = options.out or default_folder(fleet)
    simulation = Simulation(seed=options.seed, trace_estimates=True)
    containers = prepare(fleet, out, simulation, options.profile, console)
    return DockerFleet(engine, name, containers, patience(fleet), console), out


def bring_up(engine: Engine, file: Path, options: UpOptions, console: Console) -> dict[str, Any]:
    """Start the fleet of *file* and leave it running; what was started."""
    fleet = load_fleet(file, options.overrides)
    report = Report(fleet, options.out or default_folder(fleet), console)
    with report.whatever_happens():
        nodes, out = prepared(engine, fleet, replace(options, out=report.out), console)
        report.nodes = nodes
        nodes.start(out, options.image)
    return {
        "fleet": fleet.file.fleet,
        "nodes": len(nodes.nodes),
        "out": str(out),
        "emulated": _emulated(options.profile),
        **nodes.figures(),
    }


def run_to_end(engine: Engine, file: Path, options: UpOptions, console: Console) -> dict[str, Any]:
    """As `run_fleet`, in containers: the same figures and some more; nothing is left running."""
    fleet = load_fleet(file, options.overrides, endless=False)
    report = Report(fleet, options.out or default_folder(fleet), console)
    report.more = {
        "broker": f"{PACKAGE}, in a container",
        "backend": "docker",
        "emulated": _emulated(options.profile),
    }
    with report.whatever_happens():
        nodes, out = prepared(engine, fleet, replace(options, out=report.out), console)
        size = round(engine.image_mib(options.image), 1)
        report.more["image"] = {"name": options.image, "mib": size}
        report.nodes = nodes
        try:
            nodes.start(out, options.image)
            print_line(console, watch_hint(out))
            with showing_progress(fleet, nodes, console) as show:
                nodes.wait(show)
        finally:
            Lines(console).begin("taking the containers down")
            nodes.close()
            report.more |= nodes.figures()
    return report.conclude()


def _emulated(profile: Profile | None) -> str | None:
    return None if profile is None else str(profile)


def status(engine: Engine, fleet: str) -> list[dict[str, Any]]:
    """One object for each container of *fleet*; empty if there are none."""
    listed = engine.containers(fleet)
    running = [each["Labels"][NAME_LABEL] for each in listed if each["State"] == "running"]
    memory = engine.memory_mib(fleet, running)
    return [_state(each, memory) for each in listed]


def _state(container: Mapping[str, Any], memory: Mapping[str, float]) -> dict[str, Any]:
    labels = container["Labels"]
    name = labels[NAME_LABEL]
    state: dict[str, Any] = {"name": name, "state": container["State"], "told": container["Status"]}
    state["memory_mib"] = round(memory[name], 1) if name in memory else None
    state["round"] = None
    if name != BROKER_HOST:
        node = NodeRecord(name, Path(labels[OUT_LABEL]) / "nodes" / name)
        node.read()
        state["round"] = node.round
    return state
