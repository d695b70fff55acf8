"""The schedule of generations, the fleet's list of participants, and the partners of each node.

All of this is public. Provisioning computes it once and gives it to every node. The secrets that
partners share are computed on the nodes, from their X25519 keys. Nodes with different lists of
participants take part in no common generation, because the digest of the list is in its name.

Every node has an index that no other node of the fleet ever gets. Up to ALL_PAIRS nodes all are
partners of each other. In a larger fleet every node draws DRAWN others by a public hash, and two
nodes are partners if either has drawn the other. When a node is added, few other pairs change.

Source: node/PROTOCOL.md#partners; checked by test_partners_are_symmetric_and_at_least_sixteen.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

import msgspec

from cipherfleet_node.core.messages import GenerationsEntry, PartnerEntry

from .topology.graph import Graph
from .topology.mixing import spectral_gap

ALL_PAIRS = 33  # 32 partners each; from 34 nodes on a node draws DRAWN others
DRAWN = 16
AVERAGING = range(32, 513)
MIXING_TIMES = 16  # of averaging: differences fall to about e^-16
EXACTLY = 1e-9  # of 16/gap: eigenvalues have rounding errors

Partners = Mapping[int, tuple[int, ...]]


class Schedule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rounds of a generation, equal on all nodes."""

    every: int  # G, rounds from one generation to the next
    roll_call: int  # D, rounds before a generation that list its participants
    averaging: int  # W, rounds in which the imbalance is averaged

    @property
    def longest_roll_call(self) -> int:
        """The longest roll call that leaves time for the votes and the retries."""
        return (self.every - self.averaging - 8) // 3

    def fits(self, graph: Graph) -> bool:
        """True if the roll call is long enough for *graph*: two rounds per hop."""
        return self.roll_call >= 2 * graph.diameter


class Participant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node in the fleet's list: its id, its index, and its X25519 key of 32 bytes."""

    id: str
    index: int
    seal: bytes


def plan_schedule(graph: Graph) -> Schedule:
    """Return the schedule of a new fleet: D = 2 (diameter + 2), W = 16/gap, G = 4 (W + 2 D).

    W is rounded up and lies within AVERAGING. *graph* must be connected.
    Checked by test_the_schedule_follows_diameter_and_spectral_gap.
    """
    roll_call = _roll_call(graph)
    gap = max(spectral_gap(graph), MIXING_TIMES / AVERAGING[-1])
    averaging = max(AVERAGING[0], math.ceil(MIXING_TIMES / gap - EXACTLY))
    every = 4 * (averaging + 2 * roll_call)
    return Schedule(every=every, roll_call=roll_call, averaging=averaging)


def adapt_schedule(schedule: Schedule, graph: Graph) -> Schedule:
    """Return *schedule* with a longer roll call, if *graph* needs one and G leaves room for it.

    G never changes: a generation's number follows from its round and G, and must rise. W is kept:
    with any W a generation is exact. A graph in several parts keeps the schedule.
    """
    if len(graph.parts()) > 1 or schedule.fits(graph):
        return schedule
    roll_call = min(_roll_call(graph), schedule.longest_roll_call)
    return msgspec.structs.replace(schedule, roll_call=max(roll_call, schedule.roll_call))


def _roll_call(graph: Graph) -> int:
    return 2 * (graph.diameter + 2)


@lru_cache(maxsize=4)
def draw_partners(fleet: str, indices: tuple[int, ...]) -> Partners:
    """Return the partners of each of *indices*, in rising order.

    The relation is symmetric. It depends on *fleet* and the set of *indices* only.
    """
    found: dict[int, set[int]] = {index: set() for index in indices}
    for index in indices:
        others = [other for other in indices if other != index]
        if len(indices) > ALL_PAIRS:
            others = heapq.nsmallest(DRAWN, others, key=_rank(fleet, index))
        for other in others:
            found[index].add(other)
            found[other].add(index)
    return {index: tuple(sorted(others)) for index, others in found.items()}


def digest_participants(
    fleet: str, participants: Sequence[Participant], partners: Partners
) -> bytes:
    """Return the SHA-256 over the fleet's list of participants and all pairs of partners."""
    listed = sorted(participants, key=lambda each: each.index)
    hashed = [b"cipherfleet/v2/participants\0", fleet.encode(), b"\0", _eight(len(listed))]
    for each in listed:
        name = each.id.encode()
        hashed += [_eight(each.index), _eight(len(name)), name, each.seal]
    pairs = sorted((i, j) for i, others in partners.items() for j in others if i < j)
    hashed += [_eight(len(pairs)), *(_eight(i) + _eight(j) for i, j in pairs)]
    return hashlib.sha256(b"".join(hashed)).digest()


def make_entries(
    fleet: str, participants: Iterable[Participant], schedule: Schedule
) -> dict[str, GenerationsEntry]:
    """Return what each of *participants* must know for generations, by node."""
    by_index = {each.index: each for each in participants}
    listed = list(by_index.values())
    partners = draw_partners(fleet, tuple(sorted(by_index)))
    members = digest_participants(fleet, listed, partners)
    ends = sum(map(len, partners.values()))
    return {
        each.id: GenerationsEntry(
            index=each.index,
            every=schedule.every,
            roll_call=schedule.roll_call,
            averaging=schedule.averaging,
            mean_partners=ends / len(listed),
            members=members,
            partners=[
                PartnerEntry(other, by_index[other].id, by_index[other].seal)
                for other in partners[each.index]
            ],
        )
        for each in listed
    }


def _rank(fleet: str, index: int) -> Callable[[int], bytes]:
    """Return the order in which *index* draws others: by the SHA-256 of fleet and both indices."""
    start = b"cipherfleet/v2/partners\0" + fleet.encode() + b"\0" + _eight(index)
    return lambda other: hashlib.sha256(start + _eight(other)).digest()


def _eight(number: int) -> bytes:
    return number.to_bytes(8, "big")
