"""The container engine of this machine: one fleet's network and containers, told by their labels.

Everything of a fleet carries its name in a label, so it can be found and removed by whoever comes
later, also after a crash of the command that made it.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import Healthcheck, LogConfig, Mount

from cipherfleet_broker.interrupts import defer_interrupts
from cipherfleet_node.errors import CipherfleetError, ConfigError, one_line

from .plan import STOP_WITHIN_S, Container, container_user, hand_over

LABEL = "org.cipherfleet"
FLEET_LABEL, NAME_LABEL, OUT_LABEL = f"{LABEL}.fleet", f"{LABEL}.name", f"{LABEL}.out"
IMAGE_LABEL = "org.opencontainers.image.title=cipherfleet"  # as in deploy/Dockerfile
DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
TIMEOUT_S = 120  # an engine that makes a hundred containers on two cores is slow to answer
THREADS = 8  # measured: one by one takes twice as long, more threads gain nothing
MAX_RESTARTS = 5
MAX_PROCESSES = 128
LOG_BYTES = "10m"
MAX_LINES = 10_000  # of logs, before who reads them is waited for
HEALTH_EVERY_S, HEALTH_WITHIN_S, HEALTH_FROM_S = 30, 20, 120
_NS = 1_000_000_000
_MIB = 2**20

T = TypeVar("T")
R = TypeVar("R")


class EngineUnreachable(CipherfleetError):
    """No container engine answers."""

    exit_code: ClassVar[int] = 4


class EngineRefused(CipherfleetError):
    """The engine did not do what it was asked for; its own words are in the text."""


@contextmanager
def told(what: str) -> Iterator[None]:
    """Errors of the engine's library inside become ours, beginning with *what* was to be done."""
    try:
        yield
    except APIError as error:
        raise EngineRefused(f"{what}: the engine says {_words(error)}") from None
    except (DockerException, requests.RequestException) as error:
        raise _unreachable(what, type(error).__name__) from None


def _address() -> str:
    return os.environ.get("DOCKER_HOST") or DEFAULT_ADDRESS


def _unreachable(what: str, reason: str) -> EngineUnreachable:
    return EngineUnreachable(
        f"{what}: no Docker engine answers at {_address()} ({reason}); start it (systemctl start "
        "docker), join the group docker, set DOCKER_HOST, or say --backend process"
    )


def _words(error: APIError) -> str:
    return one_line(str(error.explanation or error))[:300]


def _knock() -> None:
    """Raise EngineUnreachable with the system's reason; the library's own hides it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(TIMEOUT_S)
        try:
            sock.connect(_address().removeprefix("unix://"))
        except OSError as error:
            raise _unreachable("containers", error.strerror or str(error)) from None


class Engine:
    """The engine that the environment names; a context manager."""

    def __init__(self) -> None:
        """Connect. Raises EngineUnreachable; ConfigError for an engine of another machine."""
        if not _address().startswith("unix://"):
            raise ConfigError(
                f"DOCKER_HOST is {_address()!r}: only an engine of this machine "
                "sees the nodes' folders; set it to a unix:// address, or unset it"
            )
        _knock()
        with told("containers"):
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
        """The size of *image*. Raises ConfigError where it is missing, with the mend."""
        try:
            with told(f"image {image}"):
                return float(self.client.images.get(image).attrs["Size"]) / _MIB
        except EngineRefused as refusal:
            if self._has_no(image):
                raise ConfigError(
                    f"the image {image} is not there: build it with cipherfleet fleet image, "
                    "where no registry can be reached with --offline"
                ) from None
            raise refusal from None

    def remove_superseded_images(self) -> None:
        """Remove images of ours that have lost their name to a newer one and that none uses."""
        with told("superseded images"):
            self.client.images.prune({"dangling": True, "label": IMAGE_LABEL})

    def _has_no(self, image: str) -> bool:
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
        """The network of *fleet* and its containers, not yet started; *advance* counts them."""
        labels = {FLEET_LABEL: fleet, OUT_LABEL: str(out.absolute())}
        # Once asked for, it comes: an interrupt before the engine's answer would not find it.
        with told(f"the network of {fleet}"), defer_interrupts():
            # Internal: nothing inside reaches anything else, nothing else reaches inside.
            self.client.networks.create(
                network_name(fleet), labels=labels, internal=True, check_duplicate=True
            )
        for each in containers:
            hand_over(each.folder, self.user)
        together(lambda each: self._create(fleet, image, each, labels), containers, advance)

    def _create(self, fleet: str, image: str, container: Container, labels: dict[str, str]) -> None:
        profile, network = container.profile, network_name(fleet)
        limits = {}
        if profile is not None:
            limits = {
                "nano_cpus": round(profile.cpu * _NS),
                "mem_limit": profile.memory,
                "memswap_limit": profile.memory,  # the same: no swap
            }
        with told(f"the container of {container.name}"):
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
                tmpfs={"/tmp": "size=16m,mode=1777"},  # noqa: S108  # inside
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
        """Start the containers called *names*, together; *advance* counts them."""

        def start(name: str) -> None:
            with told(f"the start of {name}"):
                self.client.api.start(container_name(fleet, name))

        together(start, names, advance)

    def containers(self, fleet: str) -> list[dict[str, Any]]:
        """What the engine tells of each container of *fleet*: Names, State, Status, Labels, ..."""
        with told(f"the containers of {fleet}"):
            found = self.client.api.containers(all=True, filters=_of(fleet))
        return sorted(found, key=lambda each: str(each["Labels"].get(NAME_LABEL)))

    def names(self, fleet: str) -> list[str]:
        """What the containers of *fleet* are called in it."""
        return [str(each["Labels"][NAME_LABEL]) for each in self.containers(fleet)]

    def inspect(self, fleet: str, name: str) -> dict[str, Any]:
        """All that the engine knows of one container."""
        with told(name):
            return dict(self.client.api.inspect_container(container_name(fleet, name)))

    def memory_mib(self, fleet: str, names: Sequence[str]) -> dict[str, float]:
        """What each container holds now, page cache left out; without those that do not run."""

        def memory(name: str) -> float:
            try:
                stats = self.client.api.stats(
                    container_name(fleet, name), stream=False, one_shot=True
                )
            except NotFound:
                return 0.0
            return resident_mib(stats.get("memory_stats", {}))

        with told("memory"):
            found = dict(zip(names, together(memory, names), strict=True))
        return {name: mib for name, mib in found.items() if mib > 0}

    def log(self, fleet: str, name: str, tail: int | str = "all") -> str:
        """What one container has said."""
        with told(f"the log of {name}"):
            text = self.client.api.logs(container_name(fleet, name), tail=tail)
        return bytes(text).decode(errors="replace")

    def follow(self, fleet: str, names: Sequence[str], tail: int) -> Iterator[tuple[str, str]]:
        """Lines of several containers as they are said, each with its container's name.

        Ends when all of them have ended.
        """
        said: queue.Queue[tuple[str, str | Exception | None]] = queue.Queue(MAX_LINES)
        for name in names:
            threading.Thread(target=self._say, args=(fleet, name, tail, said), daemon=True).start()
        left = len(names)
        while left:
            name, line = said.get()
            if isinstance(line, Exception):
                raise line
            if line is None:
                left -= 1
            else:
                yield name, line

    def _say(
        self,
        fleet: str,
        name: str,
        tail: int,
        said: queue.Queue[tuple[str, str | Exception | None]],
    ) -> None:
        """Put the lines of one container into *said*, and None or an error at their end."""
        rest = b""
        try:
            with told(f"the log of {name}"):
                chunks = self.client.api.logs(
                    container_name(fleet, name), stream=True, follow=True, tail=tail
                )
                for chunk in chunks:
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        said.put((name, line.decode(errors="replace")))
        except CipherfleetError as error:
            said.put((name, error))
        else:
            if rest:
                said.put((name, rest.decode(errors="replace")))
            said.put((name, None))

    def run(self, fleet: str, name: str, command: Sequence[str]) -> tuple[int, str]:
        """Run *command* in one container: its exit code, and what it printed."""
        with told(f"{command[0]} in {name}"):
            container = self.client.containers.get(container_name(fleet, name))
            code, output = container.exec_run(list(command))
        return int(code), bytes(output).decode(errors="replace")

    def down(self, fleet: str) -> list[str]:
        """Stop and remove all that carries the label of *fleet*; the names of what there was."""
        with told(f"the end of {fleet}"):
            containers = self.client.api.containers(all=True, filters=_of(fleet))
            together(self._remove, containers)
            networks = self.client.networks.list(filters=_of(fleet))
            for network in networks:
                network.remove()
        return [each["Names"][0].lstrip("/") for each in containers] + [n.name for n in networks]

    def _remove(self, container: dict[str, Any]) -> None:
        name = container["Id"]
        try:
            if container["State"] == "paused":
                self.client.api.unpause(name)
            if container["State"] not in ("created", "exited"):
                self.client.api.stop(name, timeout=STOP_WITHIN_S)
            self.client.api.remove_container(name, v=True, force=True)
        except NotFound:
            pass  # somebody else removes it, too


def resident_mib(memory: dict[str, Any]) -> float:
    """The figure that the docker command shows, of either generation of control groups."""
    details = memory.get("stats", {})
    cache = details.get("total_inactive_file", details.get("inactive_file", 0))
    return float(max(0, memory.get("usage", 0) - cache)) / _MIB


def network_name(fleet: str) -> str:
    """Fleets and nodes have no dot in their names, so no two of these are equal."""
    return f"cipherfleet.{fleet}"


def container_name(fleet: str, name: str) -> str:
    """As network_name."""
    return f"cipherfleet.{fleet}.{name}"


def together(
    function: Callable[[T], R], items: Iterable[T], advance: Callable[[], None] = lambda: None
) -> list[R]:
    """*function* of each, in several threads; when this returns or raises none is still running.

    *advance* is called for each that is done, in their order.
    """
    pool, results = ThreadPoolExecutor(THREADS), []
    try:
        for future in [pool.submit(function, item) for item in items]:
            results.append(future.result())
            advance()
        return results
    finally:
        pool.shutdown(cancel_futures=True)


def _of(fleet: str) -> dict[str, str]:
    return {"label": f"{FLEET_LABEL}={fleet}"}
