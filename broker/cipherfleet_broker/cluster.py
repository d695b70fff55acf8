"""Several brokers on this machine that are one to the nodes, whichever each speaks with."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from types import TracebackType
from typing import Self

from cipherfleet_node.errors import BrokerUnreachable, ConfigError

from .embedded import embedded
from .health import check_link
from .mosquitto import mosquitto
from .program import LOOPBACK, ClusterMember, Peer
from .running import RunningBroker, free_port, made_broker
from .security import Security

ENGINES = {"embedded": embedded, "mosquitto": mosquitto}
LINKED_WITHIN_S = 30.0  # measured: up to 7 s for nats-server, 2 s for mosquitto
TRY_TIMEOUT_S = 2.0


class RunningCluster:
    """Healthy brokers that hand on each other's messages; a context manager that stops them."""

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
        """Start all members, since none may be healthy alone; raises BrokerUnreachable."""
        for member in self.members:
            member.begin()
        for member in self.members:
            member.await_health()
        self.await_links()

    def await_links(self, within_s: float = LINKED_WITHIN_S) -> None:
        """Return once messages pass between all members, both ways; raises BrokerUnreachable."""
        ends = time.monotonic() + within_s
        for one, other in pairwise([(each.host, each.port) for each in self.members]):
            for source, target in ((one, other), (other, one)):
                _await_link(source, target, self._security, ends)

    def stop(self) -> None:
        """Stop all members and remove their folders."""
        for member in self.members:
            member.stop()


def start_cluster(choice: str, fleet: str, count: int, security: Security) -> RunningCluster:
    """*count* healthy brokers 'embedded' or 'mosquitto' on loopback, linked for *fleet*.

    Raises ConfigError and BrokerUnreachable, and leaves nothing behind then.
    """
    if choice not in ENGINES:
        raise ConfigError(
            f"broker is {choice!r}: a cluster that is started here is of embedded or mosquitto"
        )
    peers = tuple(_free_peers(count))
    cluster = RunningCluster([], security)
    try:
        for own, peer in enumerate(peers):
            make = partial(ENGINES[choice], member=ClusterMember(fleet, peers, own))
            cluster.members.append(made_broker(make(security), peer.port, security, make))
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
    source: tuple[str, int], target: tuple[str, int], security: Security, ends: float
) -> None:
    context = security.context()
    while True:
        try:
            check_link(source, target, TRY_TIMEOUT_S, context)
            return
        except BrokerUnreachable:
            if time.monotonic() > ends:
                raise
        time.sleep(0.05)
