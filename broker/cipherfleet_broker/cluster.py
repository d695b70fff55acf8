"""A cluster: several linked brokers on this machine; a node may connect to any of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from types import TracebackType
from typing import Self

from cipherfleet_node.errors import BrokerUnreachable, ConfigError

from .embedded import make_embedded
from .health import check_link
from .mosquitto import make_mosquitto
from .program import LOOPBACK, ClusterMember, Peer
from .running import RunningBroker, configure_broker, free_port
from .security import Security

ENGINES = {"embedded": make_embedded, "mosquitto": make_mosquitto}
LINK_TIMEOUT_S = 30.0  # measured: up to 7 s for nats-server, 2 s for mosquitto
TRY_TIMEOUT_S = 2.0


class RunningCluster:
    """Linked brokers that forward each other's messages; a context manager that stops them."""

    def __init__(self, members: Sequence[RunningBroker], security: Security) -> None:
        self.members = list(members)
        self._security = security

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start all members and wait until they are linked. Raises BrokerUnreachable.

        All processes are started before the first health check, because a member alone may fail it.
        """
        for member in self.members:
            member.launch()
        for member in self.members:
            member.await_health()
        self.await_links()

    def await_links(self, timeout_s: float = LINK_TIMEOUT_S) -> None:
        """Return once messages pass between all members in both directions.

        Raises BrokerUnreachable after *timeout_s*.
        """
        deadline = time.monotonic() + timeout_s
        for one, other in pairwise([(each.host, each.port) for each in self.members]):
            for source, target in ((one, other), (other, one)):
                _await_link(source, target, self._security, deadline)

    def stop(self) -> None:
        """Stop all members and remove their folders."""
        for member in self.members:
            member.stop()


def start_cluster(choice: str, fleet: str, count: int, security: Security) -> RunningCluster:
    """Start *count* brokers on loopback, linked for *fleet*; *choice* is 'embedded' or 'mosquitto'.

    Raises ConfigError or BrokerUnreachable; then it leaves no process and no folder behind.
    """
    if choice not in ENGINES:
        raise ConfigError(
            f"broker is {choice!r}, must be embedded or mosquitto for a cluster started here"
        )
    peers = tuple(_free_peers(count))
    cluster = RunningCluster([], security)
    try:
        for own, peer in enumerate(peers):
            make = partial(ENGINES[choice], member=ClusterMember(fleet, peers, own))
            cluster.members.append(configure_broker(make(security), peer.port, security, make))
        cluster.start()
    except BaseException:
        cluster.stop()
        raise
    return cluster


def _free_peers(count: int) -> Iterator[Peer]:
    taken: set[int] = set()
    while len(taken) < 2 * count:
        taken.add(free_port())
    ports = sorted(taken)
    for port, link_port in zip(ports[:count], ports[count:], strict=True):
        yield Peer(LOOPBACK, port, link_port)


def _await_link(
    source: tuple[str, int], target: tuple[str, int], security: Security, deadline: float
) -> None:
    context = security.context()
    while True:
        try:
            check_link(source, target, TRY_TIMEOUT_S, context)
            return
        except BrokerUnreachable:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)
