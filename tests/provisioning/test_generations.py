"""The schedule of generations, the list of participants, and the partners of each node."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cipherfleet_node.core.messages import GenerationsEntry
from cipherfleet_node.runtime.membership import make_section
from cipherfleet_node.settings.sections import MAX_PARTNERS
from cipherfleet_provisioning.generations import (
    ALL_PAIRS,
    DRAWN,
    Participant,
    Schedule,
    adapt_schedule,
    digest_participants,
    draw_partners,
    make_entries,
    plan_schedule,
)
from cipherfleet_provisioning.topology.build import build_graph
from cipherfleet_provisioning.topology.graph import Graph
from cipherfleet_provisioning.topology.mixing import MEAN, spectral_gap
from cipherfleet_provisioning.topology.section import Topology

SCHEDULE = Schedule(every=208, roll_call=10, averaging=32)


def graph_of(kind: str, count: int) -> Graph:
    return build_graph(Topology(kind=kind), [f"n{i}" for i in range(count)])


def listed(indices: set[int]) -> list[Participant]:
    return [Participant(f"n{i}", i, i.to_bytes(32, "big")) for i in sorted(indices)]


def entries_of(indices: set[int], fleet: str = "f") -> dict[str, GenerationsEntry]:
    return make_entries(fleet, listed(indices), SCHEDULE)


# -- partners -----------------------------------------------------------------------------------

lists = st.sets(st.integers(0, 1023), min_size=1, max_size=80)


@settings(max_examples=40)
@given(lists)
def test_partners_are_symmetric_and_at_least_sixteen(indices: set[int]) -> None:
    drawn = draw_partners("f", tuple(sorted(indices)))
    assert drawn.keys() == indices
    for index, others in drawn.items():
        assert index not in others
        assert list(others) == sorted(set(others))
        assert all(index in drawn[other] for other in others)
        assert min(len(indices) - 1, DRAWN) <= len(others) <= MAX_PARTNERS


@pytest.mark.parametrize("count", [2, 3, ALL_PAIRS])
def test_up_to_33_nodes_all_are_partners(count: int) -> None:
    drawn = draw_partners("f", tuple(range(count)))
    assert all({i, *others} == set(range(count)) for i, others in drawn.items())


def test_in_a_fleet_of_40_every_node_has_at_least_16_partners() -> None:
    drawn = draw_partners("f", tuple(range(40)))
    counts = [len(others) for others in drawn.values()]
    assert min(counts) >= 16
    assert max(counts) < 39
    assert drawn != draw_partners("g", tuple(range(40)))  # every fleet draws its own


def test_a_new_node_leaves_most_pairs_as_they_were() -> None:
    before, after = (draw_partners("f", tuple(range(count))) for count in (60, 61))
    kept = [set(before[i]) & set(after[i]) for i in range(60)]
    lost = sum(len(before[i]) - len(kept[i]) for i in range(60)) / 2
    assert lost <= len(after[60])  # each pair that is lost made room for one with the new node


def test_the_largest_fleet_keeps_within_the_limit_of_a_message() -> None:
    drawn = draw_partners("f", tuple(range(1024)))
    assert DRAWN <= min(map(len, drawn.values())) <= max(map(len, drawn.values())) <= MAX_PARTNERS


# -- the list -----------------------------------------------------------------------------------


def test_every_node_has_the_digest_and_the_keys_of_one_list() -> None:
    entries = entries_of({0, 2, 3, 9})
    assert {entry.members for entry in entries.values()} == {entries["n0"].members}
    assert [(p.index, p.id) for p in entries["n2"].partners] == [(0, "n0"), (3, "n3"), (9, "n9")]
    assert all(p.seal == p.index.to_bytes(32, "big") for p in entries["n2"].partners)
    assert {entry.mean_partners for entry in entries.values()} == {3.0}
    for name, entry in entries.items():
        assert list(make_section(entry).list_faults(name)) == []


def test_a_node_that_is_alone_in_its_list_has_no_partners() -> None:
    (entry,) = entries_of({5}).values()
    assert (entry.index, entry.mean_partners, entry.partners) == (5, 0.0, [])


def test_whatever_differs_in_a_list_changes_its_digest() -> None:
    base = listed({0, 1, 2})
    partners = draw_partners("f", (0, 1, 2))
    replace = msgspec.structs.replace
    others = [
        ("g", base, partners),
        ("f", base[:2], draw_partners("f", (0, 1))),
        ("f", [replace(base[0], id="m0"), *base[1:]], partners),
        ("f", [replace(base[0], seal=bytes(31) + b"\7"), *base[1:]], partners),
        ("f", [replace(base[0], index=3), *base[1:]], draw_partners("f", (1, 2, 3))),
        ("f", base, {0: (1,), 1: (0, 2), 2: (1,)}),
    ]
    digests = {digest_participants(*each) for each in [("f", base, partners), *others]}
    assert len(digests) == 7
    assert digest_participants("f", base[::-1], partners) in digests  # in any order


# -- the schedule -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "count", "diameter", "averaging"),
    [
        ("complete", 3, 1, 32),
        ("complete", 10, 1, 32),
        ("ring", 5, 2, 63),
        ("ring", 10, 5, 227),
        ("ring", 40, 20, 512),
    ],
)
def test_the_schedule_follows_diameter_and_spectral_gap(
    kind: str, count: int, diameter: int, averaging: int
) -> None:
    schedule = plan_schedule(graph_of(kind, count))
    assert schedule.roll_call == 2 * (diameter + 2)
    assert schedule.averaging == averaging
    assert schedule.every == 4 * (schedule.averaging + 2 * schedule.roll_call)


@pytest.mark.parametrize("count", [5, 8, 10, 15])
def test_the_averaging_on_a_ring_is_sixteen_over_its_gap(count: int) -> None:
    """The Metropolis factor of a ring is 1/3, of which the exchange uses 21/64."""
    graph = graph_of("ring", count)
    gap = MEAN * 21 / 64 * 2 * (1 - math.cos(2 * math.pi / count))
    assert spectral_gap(graph) == pytest.approx(gap, rel=1e-9)
    assert plan_schedule(graph).averaging == min(512, max(32, math.ceil(16 / gap)))


def test_a_wider_graph_gets_a_longer_roll_call_and_the_same_generations() -> None:
    first = plan_schedule(graph_of("ring", 10))
    assert adapt_schedule(first, graph_of("ring", 12)) == first  # within the slack of two hops
    wider = adapt_schedule(first, graph_of("ring", 20))
    assert wider == msgspec.structs.replace(first, roll_call=2 * (10 + 2))
    assert adapt_schedule(wider, graph_of("ring", 10)) == wider
    assert not adapt_schedule(SCHEDULE, graph_of("ring", 300)).fits(graph_of("ring", 300))


@given(st.sampled_from(["ring", "line", "star"]), st.integers(3, 60), st.integers(3, 60))
@settings(max_examples=30)
def test_every_schedule_passes_the_checks_of_a_node(kind: str, before: int, after: int) -> None:
    schedule = adapt_schedule(plan_schedule(graph_of(kind, before)), graph_of(kind, after))
    (entry,) = make_entries("f", listed({0}), schedule).values()
    assert list(make_section(entry).list_faults("n0")) == []


def test_a_graph_in_parts_keeps_the_schedule() -> None:
    assert adapt_schedule(SCHEDULE, Graph(("a", "b", "c"), (("a", "b"),))) == SCHEDULE
