"""The container engine of this machine: creates, reads and removes the containers of a fleet.

The network and all containers of a fleet carry the fleet's name in a label. A later command finds
and removes them by this label, even if the command that created them crashed.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import docker
from docker.errors import ImageNotFound, NotFound
from docker.types import Healthcheck, LogConfig, Mount

from cipherfleet_broker.interrupts import defer_interrupts
from cipherfleet_node.errors import CipherfleetError, ConfigError

from .engine_errors import (
    TIMEOUT_S,
    EngineRefused,
    check_socket,
    engine_address,
    engine_errors,
)
from .plan import STOP_WITHIN_S, Container, container_user, hand_over

LABEL = "org.cipherfleet"
FLEET_LABEL, NAME_LABEL, OUT_LABEL = f"{LABEL}.fleet", f"{LABEL}.name", f"{LABEL}.out"
IMAGE_LABEL = "org.opencontainers.image.title=cipherfleet"  # as in deploy/Dockerfile
THREADS = 8  # measured: one thread takes twice as long, more threads are no faster
MAX_RESTARTS = 5
MAX_PROCESSES = 128
LOG_BYTES = "10m"
MAX_LINES = 10_000  # of logs in memory; then the threads that read logs wait for the consumer
HEALTH_EVERY_S, HEALTH_WITHIN_S, HEALTH_FROM_S = 30, 20, 120
_NS = 1_000_000_000
_MIB = 2**20

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class ListedContainer:
    """The engine's entry of one container of a fleet."""

    name: str  # the node's id, or the broker's host name
    state: str  # such as "running" or "exited"
    status: str  # in the engine's words, such as "Up 5 minutes"
    out: Path  # the folder of --out
    address: str  # on the fleet's network; empty if it does not run


class ContainerEngine:
    """The engine that DOCKER_HOST names, or the one of this machine. It is a context manager."""

    def __init__(self) -> None:
        """Connect. Raises EngineUnreachable. Raises ConfigError for an engine elsewhere."""
        if not engine_address().startswith("unix://"):
            raise ConfigError(
                f"DOCKER_HOST is {engine_address()!r}, must be a unix:// address: only an engine "
                "on this machine sees the nodes' folders",
                remedy="set it to one, or unset it",
            )
        check_socket()
        with engine_errors("containers"):
            self.client = docker.from_env(timeout=TIMEOUT_S, max_pool_size=2 * THREADS)
            options = self.client.info().get("SecurityOptions") or []
        self.user = container_user(rootless=any("name=rootless" in each for each in options))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.client.close()

    def image_mib(self, image: str) -> float:
        """Return the size of *image*. Raises ConfigError, with the remedy, if it is missing."""
        try:
            with engine_errors(f"image {image}"):
                return float(self.client.images.get(image).attrs["Size"]) / _MIB
        except EngineRefused as refusal:
            if self._is_missing(image):
                raise ConfigError(
                    f"the image {image} does not exist",
                    remedy=(
                        "build it with cipherfleet fleet image (--offline if no image registry "
                        "can be reached)"
                    ),
                ) from None
            raise refusal from None

    def remove_superseded_images(self) -> None:
        """Remove our images whose name now belongs to a newer image and that are not in use."""
        with engine_errors("superseded images"):
            self.client.images.prune({"dangling": True, "label": IMAGE_LABEL})

    def _is_missing(self, image: str) -> bool:
        try:
            self.client.images.get(image)
        except ImageNotFound:
            return True
        return False

    # -- one fleet ------------------------------------------------------------------------------

    def create(
        self,
        fleet: str,
        out: Path,
        image: str,
        containers: Sequence[Container],
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        """Create the network of *fleet* and its containers, without starting them.

        Calls *advance* after each container.
        """
        labels = {FLEET_LABEL: fleet, OUT_LABEL: str(out.absolute())}
        # The engine finishes a request once it has it. If an interrupt came before the engine's
        # answer, the clean-up would not find the network.
        with engine_errors(f"the network of {fleet}"), defer_interrupts():
            # An internal network has no route in or out.
            self.client.networks.create(
                network_name(fleet), labels=labels, internal=True, check_duplicate=True
            )
        for each in containers:
            hand_over(each.folder, self.user)
        run_in_threads(lambda each: self._create(fleet, image, each, labels), containers, advance)

    def _create(self, fleet: str, image: str, container: Container, labels: dict[str, str]) -> None:
        profile, network = container.profile, network_name(fleet)
        limits = {}
        if profile is not None:
            limits = {
                "nano_cpus": round(profile.cpu * _NS),
                "mem_limit": profile.memory,
                "memswap_limit": profile.memory,  # the same limit: no swap
            }
        with engine_errors(f"the container of {container.name}"):
            self.client.containers.create(
                container.image or image,
                list(container.command),
                name=container_name(fleet, container.name),
                labels=labels | {NAME_LABEL: container.name},
                network=network,
                networking_config={
                    network: self.client.api.create_endpoint_config(aliases=[container.name])
                },
                mounts=[Mount(container.place, str(container.folder.absolute()), type="bind")],
                working_dir=container.place,
                user=self.user,
                read_only=True,
                tmpfs={"/tmp": "size=16m,mode=1777"},  # noqa: S108  # in the container
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                pids_limit=MAX_PROCESSES,
                init=True,
                restart_policy={"Name": "on-failure", "MaximumRetryCount": MAX_RESTARTS},
                log_config=LogConfig(config={"max-size": LOG_BYTES, "max-file": "1"}),
                healthcheck=Healthcheck(
                    test=["CMD", *container.health],
                    interval=HEALTH_EVERY_S * _NS,
                    timeout=HEALTH_WITHIN_S * _NS,
                    start_period=HEALTH_FROM_S * _NS,
                    retries=3,
                ),
                **limits,
            )

    def start(
        self, fleet: str, names: Sequence[str], advance: Callable[[], None] = lambda: None
    ) -> None:
        """Start the containers *names* in parallel. Calls *advance* after each."""

        def start(name: str) -> None:
            with engine_errors(f"the start of {name}"):
                self.client.api.start(container_name(fleet, name))

        run_in_threads(start, names, advance)

    def containers(self, fleet: str) -> list[ListedContainer]:
        """Return the containers of *fleet*, sorted by name."""
        with engine_errors(f"the containers of {fleet}"):
            entries = self.client.api.containers(all=True, filters=_label_filter(fleet))
        return sorted(map(_read_entry, entries), key=lambda each: each.name)

    def names(self, fleet: str) -> list[str]:
        """Return the names of the containers within *fleet*: node ids and broker hosts."""
        return [each.name for each in self.containers(fleet)]

    def inspect(self, fleet: str, name: str) -> dict[str, Any]:
        """Return everything that the engine knows about one container."""
        with engine_errors(name):
            return dict(self.client.api.inspect_container(container_name(fleet, name)))

    def memory_mib(self, fleet: str, names: Sequence[str]) -> dict[str, float]:
        """Return the present memory of each running container, without the page cache."""

        def memory(name: str) -> float:
            try:
                stats = self.client.api.stats(
                    container_name(fleet, name), stream=False, one_shot=True
                )
            except NotFound:
                return 0.0
            return resident_mib(stats.get("memory_stats", {}))

        with engine_errors("memory"):
            sizes = dict(zip(names, run_in_threads(memory, names), strict=True))
        return {name: mib for name, mib in sizes.items() if mib > 0}

    def log(self, fleet: str, name: str, tail: int | str = "all") -> str:
        """Return the log of one container, or its last *tail* lines."""
        with engine_errors(f"the log of {name}"):
            text = self.client.api.logs(container_name(fleet, name), tail=tail)
        return bytes(text).decode(errors="replace")

    def follow(self, fleet: str, names: Sequence[str], tail: int) -> Iterator[tuple[str, str]]:
        """Yield new log lines of several containers, each with its container's name.

        Ends when all of the containers have ended.
        """
        received: queue.Queue[tuple[str, str | Exception | None]] = queue.Queue(MAX_LINES)
        for name in names:
            arguments = (fleet, name, tail, received)
            threading.Thread(target=self._read_log, args=arguments, daemon=True).start()
        running = len(names)
        while running:
            name, line = received.get()
            if isinstance(line, Exception):
                raise line
            if line is None:
                running -= 1
            else:
                yield name, line

    def _read_log(
        self,
        fleet: str,
        name: str,
        tail: int,
        received: queue.Queue[tuple[str, str | Exception | None]],
    ) -> None:
        """Put the lines of one container into *received*, then None or an error."""
        rest = b""
        try:
            with engine_errors(f"the log of {name}"):
                chunks = self.client.api.logs(
                    container_name(fleet, name), stream=True, follow=True, tail=tail
                )
                for chunk in chunks:
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        received.put((name, line.decode(errors="replace")))
        except CipherfleetError as error:
            received.put((name, error))
        else:
            if rest:
                received.put((name, rest.decode(errors="replace")))
            received.put((name, None))

    def run(self, fleet: str, name: str, command: Sequence[str]) -> tuple[int, str]:
        """Run *command* in one container. Return its exit code and its output."""
        with engine_errors(f"{command[0]} in {name}"):
            container = self.client.containers.get(container_name(fleet, name))
            code, output = container.exec_run(list(command))
        return int(code), bytes(output).decode(errors="replace")

    def down(self, fleet: str) -> list[str]:
        """Stop and remove everything with the label of *fleet*. Return the names of it."""
        with engine_errors(f"removing {fleet}"):
            containers = self.client.api.containers(all=True, filters=_label_filter(fleet))
            run_in_threads(lambda each: self._remove(each["Id"], each["State"]), containers)
            networks = self.client.networks.list(filters=_label_filter(fleet))
            for network in networks:
                network.remove()
        return [each["Names"][0].lstrip("/") for each in containers] + [n.name for n in networks]

    def _remove(self, identifier: str, state: str) -> None:
        try:
            if state == "paused":
                self.client.api.unpause(identifier)
            if state not in ("created", "exited"):
                self.client.api.stop(identifier, timeout=STOP_WITHIN_S)
            self.client.api.remove_container(identifier, v=True, force=True)
        except NotFound:
            pass  # another command is removing it, too


def _read_entry(entry: dict[str, Any]) -> ListedContainer:
    labels, networks = entry["Labels"], [*entry["NetworkSettings"]["Networks"].values()]
    return ListedContainer(
        name=labels[NAME_LABEL],
        state=entry["State"],
        status=entry["Status"],
        out=Path(labels[OUT_LABEL]),
        address=networks[0]["IPAddress"] if networks else "",
    )


def resident_mib(memory: dict[str, Any]) -> float:
    """Return the memory that the docker command shows, for both versions of control groups."""
    details = memory.get("stats", {})
    cache = details.get("total_inactive_file", details.get("inactive_file", 0))
    return float(max(0, memory.get("usage", 0) - cache)) / _MIB


def network_name(fleet: str) -> str:
    """Return the name of the fleet's network.

    Names of fleets and nodes contain no dot, so the names of all networks and containers differ.
    """
    return f"cipherfleet.{fleet}"


def container_name(fleet: str, name: str) -> str:
    """Return the engine's name of the container *name* of *fleet*."""
    return f"cipherfleet.{fleet}.{name}"


def run_in_threads(
    function: Callable[[T], R], items: Iterable[T], advance: Callable[[], None] = lambda: None
) -> list[R]:
    """Call *function* on each of *items* in THREADS threads, and return the results in order.

    When this returns or raises, no call is still running. Calls *advance* for each result.
    """
    pool, results = ThreadPoolExecutor(THREADS), []
    try:
        for future in [pool.submit(function, item) for item in items]:
            results.append(future.result())
            advance()
        return results
    finally:
        pool.shutdown(cancel_futures=True)


def _label_filter(fleet: str) -> dict[str, str]:
    return {"label": f"{FLEET_LABEL}={fleet}"}
