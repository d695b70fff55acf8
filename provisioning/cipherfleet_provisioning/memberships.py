"""Memberships: signed messages in which the operator gives a node its neighbours and their keys.

A membership lists the node's neighbours, their public keys and their neighbours. It takes effect at
its `from_round`. Two rules decide when a node gets a new one:

* The public keys of its neighbours, and of all nodes with which it shares a neighbour, are known.
* If the node has a membership already, every neighbour whose list changes too gets its new
  membership at the same time. Otherwise the two ends of an edge would disagree about it.

With a shield a membership also has the partners of the node, out of the fleet's list of
participants. The list in force changes only when every node that has a membership can get the new
one: otherwise the fleet would split into two lists, with generations of their own. A node that is
not in the list in force, or is there with former keys, has a list of its own until then, and so
takes part in no generation.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cipherfleet_node.core import wire
from cipherfleet_node.core.messages import OPERATOR, Health, Membership, MembershipEntry
from cipherfleet_provisioning.topology.graph import Graph

from .generations import Participant, Schedule, make_entries
from .ledger import Ledger, PublicKeyBytes

FASTEST_ROUND_S = 0.02
HEALTH_EVERY_S = 5.0  # nodes publish their round this often, so a health message may be this old
MARGIN_ROUNDS = 3


def compose_links(ledger: Ledger, graph: Graph, name: str) -> Membership | None:
    """Return the membership of *name* without version, round and generations.

    The result is None if keys are missing.
    """
    near = graph.neighbours(name)
    others = {other for each in near for other in graph.neighbours(each)} - {name}
    if any(ledger.members[other].public_keys is None for other in {name, *near, *others}):
        return None
    sealed = sorted(others) if ledger.exchange == "sealed" else []
    members = [
        make_entry(other, graph.neighbours(other), _public_keys(ledger, other)) for other in near
    ]
    seals = [(other, _public_keys(ledger, other).seal) for other in sealed]
    return make_content(ledger, name, members, seals)


def make_content(
    ledger: Ledger, name: str, members: list[MembershipEntry], seals: list[tuple[str, bytes]]
) -> Membership:
    """Return a membership of *name* without version and round."""
    entry = ledger.members[name]
    return Membership(
        fleet=ledger.fleet,
        sender=OPERATOR,
        epoch=0,
        receiver=name,
        from_round=0,
        fingerprint=entry.fingerprint,
        members=members,
        seals=seals,
        certificate=entry.certificate.encode(),
        rekey=False,
    )


def make_entry(name: str, neighbours: Iterable[str], public: PublicKeyBytes) -> MembershipEntry:
    """Return the entry of the neighbour *name*: its neighbours and its public keys."""
    return MembershipEntry(name, list(neighbours), public.paillier, public.identity, public.seal)


def _public_keys(ledger: Ledger, name: str) -> PublicKeyBytes:
    public = ledger.members[name].public_keys
    assert public is not None
    return public


def digest_links(content: Membership, schedule: Schedule | None) -> str:
    """Return the digest by which the ledger remembers a node's neighbours, and the schedule."""
    data = msgspec.msgpack.encode(msgspec.structs.replace(content, generations=None))
    if schedule is not None:  # a neighbour with another schedule refuses the node's queries
        data += msgspec.msgpack.encode(schedule)
    return hashlib.sha256(data).hexdigest()


def digest_list(content: Membership) -> str:
    """Return the digest of the list of participants in hexadecimal digits; "" without a shield."""
    return content.generations.members.hex() if content.generations is not None else ""


@dataclass(frozen=True)
class Updates:
    """The memberships that change."""

    contents: dict[str, Membership]  # those that can be sent now, by node
    blocked: list[str]  # nodes whose new membership has to wait for the keys of other nodes
    participants: list[Participant]  # the fleet's list that *contents* bring into force


def plan_updates(ledger: Ledger) -> Updates:
    """Compare the ledger with the latest memberships of the nodes."""
    graph = ledger.graph
    links = {name: compose_links(ledger, graph, name) for name in graph.ids}
    changed = {
        name
        for name, content in links.items()
        if content is None
        or digest_links(content, ledger.schedule) != ledger.members[name].membership_digest
    }
    updatable = _find_updatable(ledger, graph, links, changed)
    blocked = [name for name in graph.ids if name in changed - updatable]
    is_waiting = any(ledger.members[name].membership_digest for name in blocked)
    participants = ledger.participants if is_waiting else ledger.enrolled
    complete = add_generations(ledger, links, participants)
    contents = {
        name: content
        for name, content in complete.items()
        if name in updatable
        or (name not in changed and digest_list(content) != ledger.members[name].list_digest)
    }
    return Updates(contents, blocked, participants)


def _find_updatable(
    ledger: Ledger, graph: Graph, links: Mapping[str, Membership | None], changed: set[str]
) -> set[str]:
    """Return the nodes out of *changed* whose neighbours can change at the same time."""
    updatable = {name for name in changed if links[name] is not None}
    while True:
        blocked = {
            name
            for name in updatable
            if ledger.members[name].membership_digest
            and any(other in changed - updatable for other in graph.neighbours(name))
        }
        if not blocked:
            return updatable
        updatable -= blocked


def add_generations(
    ledger: Ledger, links: Mapping[str, Membership | None], participants: list[Participant]
) -> dict[str, Membership]:
    """Return the contents of *links* with the partners that each node has among *participants*."""
    known = {name: content for name, content in links.items() if content is not None}
    if ledger.schedule is None:
        return known
    entries = make_entries(ledger.fleet, participants, ledger.schedule)
    for own in ledger.enrolled:
        if own not in participants:
            entries |= make_entries(ledger.fleet, [own], ledger.schedule)
    return {
        name: msgspec.structs.replace(content, generations=entries[name])
        for name, content in known.items()
    }


def compose_updates(ledger: Ledger) -> dict[str, Membership]:
    """Return the new memberships that can be sent now, by node."""
    return plan_updates(ledger).contents


def find_blocked(ledger: Ledger) -> list[str]:
    """Return the nodes whose new membership has to wait for the keys of other nodes."""
    return plan_updates(ledger).blocked


def record_contents(
    ledger: Ledger, contents: Mapping[str, Membership], participants: list[Participant]
) -> Ledger:
    """Return the ledger that remembers *contents* as the latest memberships of their nodes."""
    entries = {
        name: msgspec.structs.replace(
            ledger.members[name],
            membership_digest=digest_links(content, ledger.schedule),
            list_digest=digest_list(content),
        )
        for name, content in contents.items()
    }
    ledger = ledger.replace_entries(entries)
    if ledger.schedule is None:
        return ledger
    return msgspec.structs.replace(ledger, participants=participants)


def leave_out(held: Membership, gone: str) -> Membership | None:
    """Return the membership *held* without the node *gone*; None if it does not name *gone*.

    It is for a node whose new membership has to wait, and takes effect at once. Its partners stay
    as they are: *gone* takes part in no generation without a neighbour.
    """
    members = [
        msgspec.structs.replace(each, neighbours=[n for n in each.neighbours if n != gone])
        for each in held.members
        if each.id != gone
    ]
    if members == held.members:
        return None
    others = {name for each in members for name in each.neighbours} - {held.receiver}
    seals = [(name, seal) for name, seal in held.seals if name in others]
    return msgspec.structs.replace(
        held, epoch=0, from_round=0, members=members, seals=seals, rekey=False
    )


def sign_updates(
    ledger: Ledger,
    contents: Mapping[str, Membership],
    from_round: int,
    operator: Ed25519PrivateKey,
    *,
    at_once: bool = False,
) -> tuple[Ledger, dict[str, bytes]]:
    """Sign *contents*; return the ledger that records them, and the signed messages by node.

    They take effect at *from_round*. A node whose previous membership takes effect later keeps that
    later round, because it may not have reached it yet; *at_once* overrides this.
    """
    if not contents:
        return ledger, {}
    version, participants = ledger.version + 1, plan_updates(ledger).participants
    entries, signed = {}, {}
    for name, content in contents.items():
        entry = ledger.members[name]
        start = from_round if at_once else max(from_round, entry.from_round)
        message = msgspec.structs.replace(content, epoch=version, from_round=start)
        signed[name] = wire.encode(message, operator)
        entries[name] = msgspec.structs.replace(entry, version=version, from_round=start)
    ledger = msgspec.structs.replace(ledger, version=version, from_round=from_round)
    return record_contents(ledger.replace_entries(entries), contents, participants), signed


def sign_rekey_request(
    ledger: Ledger, name: str, operator: Ed25519PrivateKey
) -> tuple[Ledger, dict[str, bytes]]:
    """Sign a request for new keys from *name*; its other settings stay unchanged."""
    links = {name: compose_links(ledger, ledger.graph, name)}
    content = add_generations(ledger, links, ledger.participants)[name]
    entry, version = ledger.members[name], ledger.version + 1
    message = msgspec.structs.replace(
        content, epoch=version, from_round=entry.from_round, rekey=True
    )
    entry = msgspec.structs.replace(entry, version=version, rekey=True)
    ledger = msgspec.structs.replace(ledger, version=version).replace_entries({name: entry})
    return ledger, {name: wire.encode(message, operator)}


# -- the round at which memberships take effect --------------------------------------------------


@dataclass(frozen=True)
class Pace:
    """The fleet's highest round and its time per round, from the nodes' health messages."""

    highest: int  # the highest plausible round
    node: str  # the node that reported it
    round_s: float
    heard: int  # number of nodes that reported
    ignored: tuple[str, ...] = ()  # nodes whose round is implausibly high


def estimate_pace(health: Mapping[str, Health], period_s: float | None) -> Pace | None:
    """Return the fleet's pace; None without a health message.

    A faulty or hostile node may report any round. So a round is ignored if it is further above the
    median than nodes can drift apart: two rounds per hop, at most as many hops as nodes, and the
    rounds that a fast fleet completes within the age of a health message.
    """
    if not health:
        return None
    times = [1e-6 * each.round_us for each in health.values() if each.round_us > 0]
    round_s = max(statistics.median(times) if times else 0.0, period_s or 0.0, FASTEST_ROUND_S)
    middle = statistics.median_low([each.round for each in health.values()])
    limit = middle + 2 * len(health) + HEALTH_EVERY_S / round_s
    ignored = tuple(sorted(name for name, each in health.items() if each.round > limit))
    counted = {name: each.round for name, each in health.items() if name not in ignored}
    node = max(counted, key=lambda name: counted[name])
    return Pace(counted[node], node, round_s, len(health), ignored)


def safe_round(pace: Pace | None, margin_s: float) -> int:
    """Return a round that no node opens within *margin_s*; 0 if the fleet does not run yet.

    It is the sum of the highest reported round, the rounds that the fleet completes within the age
    of that report and the margin, and MARGIN_ROUNDS.
    """
    if pace is None or pace.highest == 0:
        return 0
    later = math.ceil((HEALTH_EVERY_S + margin_s) / pace.round_s)
    return pace.highest + later + MARGIN_ROUNDS


def needs_round(ledger: Ledger, names: Collection[str]) -> bool:
    """True if one of *names* has a membership already, and therefore may be in any round."""
    return any(ledger.members[name].membership_digest for name in names)
