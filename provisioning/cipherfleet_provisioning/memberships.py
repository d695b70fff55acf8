"""What the operator says to every node: its neighbours, their keys and neighbours, from a round on.

A node is told when all its neighbours, and all with whom it shares one, are known. Whoever runs
already is told together with the neighbours whose lists change with its own, or not yet.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cipherfleet_node.core import wire
from cipherfleet_node.core.messages import OPERATOR, Health, Member, Membership
from cipherfleet_provisioning.topology.graph import Graph

from .ledger import Halves, Ledger

FASTEST_ROUND_S = 0.02
HEALTH_EVERY_S = 5.0  # how old a node's word on its round may be
MARGIN_ROUNDS = 3


def content_of(ledger: Ledger, graph: Graph, name: str) -> Membership | None:
    """What *name* should be told, without version and round; None while keys are missing."""
    own = ledger.members[name]
    near = graph.neighbours(name)
    others = {other for each in near for other in graph.neighbours(each)} - {name}
    if any(ledger.members[other].halves is None for other in {name, *near, *others}):
        return None
    sealed = sorted(others) if ledger.exchange == "sealed" else []
    return Membership(
        fleet=ledger.fleet,
        sender=OPERATOR,
        epoch=0,
        receiver=name,
        from_round=0,
        fingerprint=own.fingerprint,
        members=[_member(ledger, graph, other) for other in near],
        seals=[(other, _halves(ledger, other).seal) for other in sealed],
        certificate=own.certificate.encode(),
        rekey=False,
    )


def _member(ledger: Ledger, graph: Graph, name: str) -> Member:
    halves = _halves(ledger, name)
    return Member(name, list(graph.neighbours(name)), halves.paillier, halves.identity, halves.seal)


def _halves(ledger: Ledger, name: str) -> Halves:
    halves = ledger.members[name].halves
    assert halves is not None
    return halves


def digest(content: Membership) -> str:
    """What the ledger remembers of what a node was told."""
    return hashlib.sha256(msgspec.msgpack.encode(content)).hexdigest()


def due(ledger: Ledger) -> dict[str, Membership]:
    """Who is to be told something new now, and what."""
    graph = ledger.graph
    contents = {name: content_of(ledger, graph, name) for name in graph.ids}
    changed = {
        name
        for name, content in contents.items()
        if content is None or digest(content) != ledger.members[name].holds
    }
    going = {name for name in changed if contents[name] is not None}
    while True:
        held = {
            name
            for name in going
            if ledger.members[name].holds
            and any(other in changed - going for other in graph.neighbours(name))
        }
        if not held:
            break
        going -= held
    return {
        name: content for name, content in contents.items() if content is not None and name in going
    }


def awaited(ledger: Ledger) -> list[str]:
    """Those whose neighbourhood is not complete yet."""
    graph, going = ledger.graph, due(ledger)
    return [
        name
        for name in graph.ids
        if name not in going
        and (
            (content := content_of(ledger, graph, name)) is None
            or digest(content) != ledger.members[name].holds
        )
    ]


def renewed(
    ledger: Ledger,
    contents: Mapping[str, Membership],
    from_round: int,
    operator: Ed25519PrivateKey,
    *,
    at_once: bool = False,
) -> tuple[Ledger, dict[str, bytes]]:
    """A ledger in which *contents* have been said, and the signed bytes that say so.

    Who has been told of a later round than *from_round* before, and has perhaps not come to it
    yet, keeps that round, unless it is to be *at_once*.
    """
    if not contents:
        return ledger, {}
    version = ledger.version + 1
    entries, said = {}, {}
    for name, content in contents.items():
        entry = ledger.members[name]
        start = from_round if at_once else max(from_round, entry.from_round)
        message = msgspec.structs.replace(content, epoch=version, from_round=start)
        said[name] = wire.encode(message, operator)
        entries[name] = msgspec.structs.replace(
            entry, version=version, from_round=start, holds=digest(content)
        )
    ledger = msgspec.structs.replace(ledger, version=version, from_round=from_round)
    return ledger.with_entries(entries), said


def rekeying(
    ledger: Ledger, name: str, operator: Ed25519PrivateKey
) -> tuple[Ledger, dict[str, bytes]]:
    """*name* is asked for new keys; all else stays as it was told."""
    content = content_of(ledger, ledger.graph, name)
    assert content is not None
    entry, version = ledger.members[name], ledger.version + 1
    message = msgspec.structs.replace(
        content, epoch=version, from_round=entry.from_round, rekey=True
    )
    entry = msgspec.structs.replace(entry, version=version, rekey=True)
    ledger = msgspec.structs.replace(ledger, version=version).with_entries({name: entry})
    return ledger, {name: wire.encode(message, operator)}


# -- from which round on ------------------------------------------------------------------------


@dataclass(frozen=True)
class Pace:
    """Where the fleet's nodes say that they are, and how long their rounds take."""

    highest: int  # the highest round that counts
    node: str  # who is there
    round_s: float
    heard: int  # how many nodes have told
    ignored: tuple[str, ...] = ()  # whose round is beyond all that rounds can drift apart


def pace_of(told: Mapping[str, Health], period_s: float | None) -> Pace | None:
    """The fleet's pace; None if nobody tells.

    Any node may say what it likes: a round further from the middle one than nodes can drift apart
    (two per hop, at most as many hops as nodes, and what a fast fleet does while its word is on
    the way) is ignored.
    """
    if not told:
        return None
    times = [1e-6 * health.round_us for health in told.values() if health.round_us > 0]
    round_s = max(statistics.median(times) if times else 0.0, period_s or 0.0, FASTEST_ROUND_S)
    middle = statistics.median_low([health.round for health in told.values()])
    limit = middle + 2 * len(told) + HEALTH_EVERY_S / round_s
    ignored = tuple(sorted(name for name, health in told.items() if health.round > limit))
    counted = {name: health.round for name, health in told.items() if name not in ignored}
    node = max(counted, key=lambda name: counted[name])
    return Pace(counted[node], node, round_s, len(told), ignored)


def safe_round(pace: Pace | None, margin_s: float) -> int:
    """A round that no node opens within *margin_s*: 0 for a fleet that does not run yet.

    The highest round told, the rounds that fit into the age of that word and the margin at the
    fleet's pace, and MARGIN_ROUNDS more.
    """
    if pace is None or pace.highest == 0:
        return 0
    later = math.ceil((HEALTH_EVERY_S + margin_s) / pace.round_s)
    return pace.highest + later + MARGIN_ROUNDS


def needs_round(ledger: Ledger, names: Collection[str]) -> bool:
    """Whether one of *names* has been told something before, and so may be in any round."""
    return any(ledger.members[name].holds for name in names)
