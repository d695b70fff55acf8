"""Run a fleet in containers: start it, watch it to its end, and remove the containers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from cipherfleet_analysis.advice import advice, advice_line
from cipherfleet_broker.embedded import PACKAGE
from cipherfleet_broker.interrupts import defer_interrupts
from cipherfleet_deploy.local.record import FleetFailed, NodeRecord, StallDetector
from cipherfleet_deploy.local.results import ContainerImage, ContainerMemory, RunResult
from cipherfleet_deploy.local.run import (
    NODES_FOLDER,
    Report,
    default_folder,
    show_progress,
    stall_timeout_s,
    watch_hint,
)
from cipherfleet_deploy.progress import Lines, print_line, show_count
from cipherfleet_node.errors import CipherfleetError
from cipherfleet_node.settings.sections import Simulation
from cipherfleet_provisioning.fleet.file import Overrides
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet

from .engine import ContainerEngine, ListedContainer
from .limits import Profile
from .plan import BROKER_HOST, IMAGE, Container, prepare_containers
from .results import ContainerStatus, StatusResult, UpResult

POLL_S = 0.5
LIST_EVERY_S = 2.0  # a request to the engine costs more than reading files
MEMORY_EVERY_S = 2.0


@dataclass(frozen=True)
class ContainerOptions:
    """The options of `fleet up`."""

    overrides: Overrides = field(default_factory=Overrides)
    seed: int | None = None
    out: Path | None = None
    image: str = IMAGE
    profile: Profile | None = None


@dataclass
class NodeContainer(NodeRecord):
    """The record of one node, with access to the log of its container."""

    read_last_line: Callable[[], str]

    def last_log_line(self) -> str:
        """Return the last line of the container's log, or "nothing" if the log is empty."""
        return self.read_last_line().strip() or "nothing"


class DockerFleet:
    """The containers of one fleet: `start` creates and starts them, `stop` removes them."""

    def __init__(
        self,
        engine: ContainerEngine,
        fleet: str,
        containers: Sequence[Container],
        stalled_after_s: float,
        console: Console | None = None,
    ) -> None:
        self.engine, self.fleet = engine, fleet
        self._console = console or Console(quiet=True)
        self._containers = containers
        self.nodes = {
            each.name: NodeContainer(each.name, each.folder, self._last_line_reader(each.name))
            for each in containers
            if not each.is_broker
        }
        self._stall_detector = StallDetector(stalled_after_s)
        self._next_list = 0.0
        self.timing: dict[str, float] = {}
        self._next_memory = 0.0
        self.memory: dict[str, float] = {}  # the most seen, in MiB

    def _last_line_reader(self, name: str) -> Callable[[], str]:
        return lambda: self.engine.log(self.fleet, name, tail=1)

    def start(self, out: Path, image: str) -> None:
        """Create all containers, then start them. After a failure, remove all of them."""
        began = time.monotonic()
        self._began = began
        try:
            with show_count("containers created", len(self._containers), self._console) as advance:
                self.engine.create(self.fleet, out, image, self._containers, advance)
            self.timing["created_s"] = time.monotonic() - began
            self.engine.start(self.fleet, [BROKER_HOST])
            self._start_nodes()
        except BaseException:
            self.stop()
            raise
        self.timing["started_s"] = time.monotonic() - began

    def _start_nodes(self) -> None:
        """Start all nodes. Meanwhile, read the records and the memory of those that run already.

        A busy engine takes so long to start the last node that a short run may be over by then. The
        nodes are started from this thread: an interrupt then skips the nodes that are still
        waiting.
        """
        started = threading.Event()

        def observe() -> None:
            while not started.wait(MEMORY_EVERY_S):
                self._read()
                self._measure_memory()

        with (
            show_count("containers started", len(self.nodes), self._console) as advance,
            ThreadPoolExecutor(1) as pool,
        ):
            observing = pool.submit(observe)
            try:
                self.engine.start(self.fleet, list(self.nodes), advance)
            finally:
                started.set()
            observing.result()

    @defer_interrupts()
    def stop(self) -> list[str]:
        """Remove everything of the fleet. Return the names of it. Ctrl-C waits for this."""
        return self.engine.down(self.fleet)

    def poll(self) -> bool:
        """Read new records. Return True once all nodes have finished.

        Raises FleetFailed if a container failed, or if the fleet has stalled.
        """
        self._read()
        if time.monotonic() >= self._next_list:
            self._next_list = time.monotonic() + LIST_EVERY_S
            self._check_containers()
        if time.monotonic() >= self._next_memory:
            self._measure_memory()
        self._stall_detector.check(self.nodes.values())
        return all(node.finished for node in self.nodes.values())

    def _read(self) -> None:
        """Read new records. Note the time at which every node has closed its first round."""
        for node in self.nodes.values():
            node.read()
        if "first_round_s" not in self.timing and all(n.round for n in self.nodes.values()):
            self.timing["first_round_s"] = time.monotonic() - self._began

    def _measure_memory(self) -> None:
        """Measure the memory of each container, and keep the largest value of each."""
        self._next_memory = time.monotonic() + MEMORY_EVERY_S
        running = [name for name, node in self.nodes.items() if not node.finished]
        for name, mib in self.engine.memory_mib(self.fleet, [BROKER_HOST, *running]).items():
            self.memory[name] = max(mib, self.memory.get(name, 0.0))

    def _check_containers(self) -> None:
        listed = self.engine.containers(self.fleet)
        names = {each.name for each in listed}
        if gone := sorted(({BROKER_HOST} | set(self.nodes)) - names):
            raise FleetFailed(
                f"the container of {gone[0]} does not exist any more: another command removed it"
            )
        for each in listed:
            if each.state in ("exited", "dead"):
                self._check_ended(each.name)

    def _check_ended(self, name: str) -> None:
        node = self.nodes.get(name)
        if node is not None and node.finished:
            return
        result = self.engine.inspect(self.fleet, name)
        code, killed = result["State"]["ExitCode"], result["State"]["OOMKilled"]
        if node is None or code != 0:
            memory = ", it exceeded the memory of its profile" if killed else ""
            line = self.engine.log(self.fleet, name, tail=1).strip() or "nothing"
            raise FleetFailed(
                f"the container of {name} ended with exit code {code}{memory}, its last log line: "
                f"{line}"
            )
        node.restarts = int(result["RestartCount"])
        node.read()
        node.finished = True

    def wait(self, on_poll: Callable[[], None] = lambda: None) -> None:
        """Poll until all nodes have finished. Calls *on_poll* after each poll."""
        while not self.poll():
            on_poll()
            time.sleep(POLL_S)
        on_poll()

    def save_logs(self) -> None:
        """Write the log of each node that still has a container into the node's folder."""
        for each in self.engine.containers(self.fleet):
            node = self.nodes.get(each.name)
            if node is not None:
                node.log.parent.mkdir(exist_ok=True)
                node.log.write_text(self.engine.log(self.fleet, node.id))

    @defer_interrupts()
    def close(self) -> None:
        """Save the logs, then remove everything else of the fleet."""
        try:
            self.save_logs()
        finally:
            self.stop()

    @property
    def start_times_s(self) -> dict[str, float]:
        """Seconds from the beginning to each phase of the start, by the name of the phase."""
        return {name: round(seconds, 2) for name, seconds in self.timing.items()}

    @property
    def memory_mib(self) -> ContainerMemory:
        """The largest memory seen of the nodes and of the broker."""
        nodes = [mib for name, mib in self.memory.items() if name != BROKER_HOST]
        return ContainerMemory(
            nodes_p50=round(float(np.median(nodes)), 1) if nodes else None,
            nodes_max=round(max(nodes), 1) if nodes else None,
            broker=round(self.memory.get(BROKER_HOST, 0.0), 1) or None,
        )


def plan_fleet(
    engine: ContainerEngine, fleet: Fleet, options: ContainerOptions, console: Console
) -> tuple[DockerFleet, Path]:
    """Write the folders of *fleet*. Return its containers, not yet created, and the folder.

    Raises CipherfleetError, also if a fleet of the same name has containers already.
    """
    name = fleet.file.fleet
    engine.image_mib(options.image)
    if engine.containers(name):
        raise CipherfleetError(
            f"the fleet {name!r} has containers on this machine already",
            remedy="remove them with cipherfleet fleet down FILE",
        )
    for finding in advice(fleet):
        print_line(console, advice_line(finding))
    if options.profile is not None:
        print_line(console, f"note: {options.profile}; the figures are not those of a device")
    out = options.out or default_folder(fleet)
    simulation = Simulation(seed=options.seed, trace_estimates=True)
    containers = prepare_containers(fleet, out, simulation, options.profile, console)
    return DockerFleet(engine, name, containers, stall_timeout_s(fleet), console), out


def bring_up(
    engine: ContainerEngine, file: Path, options: ContainerOptions, console: Console
) -> UpResult:
    """Start the fleet of *file* and leave it running."""
    fleet = load_fleet(file, options.overrides)
    report = Report(fleet, options.out or default_folder(fleet), console)
    with report.report_failures():
        nodes, out = plan_fleet(engine, fleet, replace(options, out=report.out), console)
        report.nodes = nodes
        nodes.start(out, options.image)
    return UpResult(
        fleet=fleet.file.fleet,
        nodes=len(nodes.nodes),
        out=str(out),
        emulated=_profile_text(options.profile),
        start=nodes.start_times_s,
        memory_mib=nodes.memory_mib,
    )


def run_to_end(
    engine: ContainerEngine, file: Path, options: ContainerOptions, console: Console
) -> RunResult:
    """Run the fleet of *file* in containers to its end, then remove them.

    Returns the figures of `run_fleet` and those that only containers have.
    """
    fleet = load_fleet(file, options.overrides, endless=False)
    report = Report(fleet, options.out or default_folder(fleet), console)
    report.more = {
        "broker": f"{PACKAGE}, in a container",
        "backend": "docker",
        "emulated": _profile_text(options.profile),
    }
    with report.report_failures():
        nodes, out = plan_fleet(engine, fleet, replace(options, out=report.out), console)
        size = round(engine.image_mib(options.image), 1)
        report.more["image"] = ContainerImage(options.image, size)
        report.nodes = nodes
        try:
            nodes.start(out, options.image)
            print_line(console, watch_hint(out))
            with show_progress(fleet, nodes, console) as show:
                nodes.wait(show)
        finally:
            Lines(console).begin("removing the containers")
            nodes.close()
            report.more |= {"start": nodes.start_times_s, "memory_mib": nodes.memory_mib}
    return report.conclude()


def _profile_text(profile: Profile | None) -> str | None:
    return None if profile is None else str(profile)


def read_status(engine: ContainerEngine, fleet: str) -> StatusResult:
    """Return the state of each container of *fleet*."""
    listed = engine.containers(fleet)
    running = [each.name for each in listed if each.state == "running"]
    memory = engine.memory_mib(fleet, running)
    return StatusResult(
        fleet=fleet, containers=[_read_container_status(each, memory) for each in listed]
    )


def _read_container_status(
    container: ListedContainer, memory: Mapping[str, float]
) -> ContainerStatus:
    closed = None
    if container.name != BROKER_HOST:
        node = NodeRecord(container.name, container.out / NODES_FOLDER / container.name)
        node.read()
        closed = node.round
    return ContainerStatus(
        name=container.name,
        state=container.state,
        status=container.status,
        memory_mib=round(memory[container.name], 1) if container.name in memory else None,
        round=closed,
    )
