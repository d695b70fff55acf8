"""What nodes that collude work out of their sealed sums, by linear algebra in one round.

Asker j knows S_j = sum_m M_jm h_m (x_m - x_j) over its neighbours. Among colluders the terms of
their own fall away; unknown are u_m = h_m x_m (d entries) and the half weight h_m of every node m
outside that one of them asks: d equations for each asker, d + 1 unknowns for each such node.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from cipherfleet_node.core.exchange import metropolis
from cipherfleet_node.core.packing import METROPOLIS_BITS
from cipherfleet_provisioning.topology.graph import Graph

MOST_UNKNOWNS = 1200  # in equations that hang together: half a second on two cores
_ZERO = 1e-7  # of a unit vector's entry

Sums = dict[str, set[str]]  # of every asker, the nodes outside in its sum


def determined(graph: Graph, coalition: Collection[str], dimension: int) -> frozenset[str]:
    """The nodes outside whose estimate the sums of *coalition* in one round leave no choice.

    For estimates in general position; those of the proof are drawn once and for all. Of equations
    with more than MOST_UNKNOWNS unknowns fewer entries than *dimension* are used, or nothing but
    the sums with one unknown node: the answer is then a part of the truth.
    Checked by test_an_estimate_that_is_said_to_be_known_can_be_worked_out.
    """
    found: set[str] = set()
    for sums in _parts(_core(graph, coalition)):
        found |= _solved(graph, sums, dimension)
    return frozenset(found)


def _core(graph: Graph, coalition: Collection[str]) -> Sums:
    """The sums without those that hold a node which no other sum holds.

    Whatever such a sum tells is taken up by that node's own unknowns, and nothing is left.
    """
    sums: Sums = {}
    askers: dict[str, set[str]] = defaultdict(set)
    for asker in coalition:
        outside = {node for node in graph.neighbours(asker) if node not in coalition}
        if outside:
            sums[asker] = outside
        for node in outside:
            askers[node].add(asker)
    waiting = [node for node, of in askers.items() if len(of) == 1]
    while waiting:
        for asker in list(askers[waiting.pop()]):
            for node in sums.pop(asker):
                askers[node].discard(asker)
                if len(askers[node]) == 1:
                    waiting.append(node)
    return sums


def _parts(sums: Sums) -> Iterator[Sums]:
    """Sums that share no unknown, apart; askers in order, so that the same draws are used."""
    askers: dict[str, list[str]] = defaultdict(list)
    for asker, nodes in sums.items():
        for node in nodes:
            askers[node].append(asker)
    left = set(sums)
    for start in sums:
        if start not in left:
            continue
        left.discard(start)
        part, waiting = [start], [start]
        while waiting:
            for node in sums[waiting.pop()]:
                more = [asker for asker in askers[node] if asker in left]
                left.difference_update(more)
                part += more
                waiting += more
        yield {asker: sums[asker] for asker in sorted(part)}


def _solved(graph: Graph, sums: Mapping[str, set[str]], dimension: int) -> set[str]:
    """The nodes whose d + 1 unknowns are the same in all solutions."""
    nodes = sorted(set().union(*sums.values()))
    entries = min(dimension, MOST_UNKNOWNS // len(nodes) - 1)
    if entries < 1:
        lone = Counter(node for unknown in sums.values() if len(unknown) == 1 for node in unknown)
        return {node for node, count in lone.items() if count > 1}
    system = _equations(graph, sums, nodes, entries)
    _, sizes, directions = np.linalg.svd(system)
    rank = int((sizes > sizes[0] * 1e-10).sum())
    loose = np.abs(directions[rank:]).max(axis=0, initial=0.0).reshape(len(nodes), entries + 1)
    return {node for node, entry in zip(nodes, loose.max(axis=1), strict=True) if entry < _ZERO}


def _equations(
    graph: Graph, sums: Mapping[str, set[str]], nodes: list[str], entries: int
) -> npt.NDArray[np.float64]:
    """Rows: entries of each asker's sum; columns: u_m and h_m of each node."""
    chance = np.random.default_rng(0)  # estimates in general position, nobody's
    place = {node: index for index, node in enumerate(nodes)}
    width = entries + 1
    system = np.zeros((len(sums) * entries, len(nodes) * width))
    for row, (asker, unknown) in enumerate(sums.items()):
        estimate = chance.normal(size=entries)
        rows = slice(row * entries, (row + 1) * entries)
        for node in unknown:
            factor = metropolis(graph.degree(asker), graph.degree(node)) / 2.0**METROPOLIS_BITS
            first = place[node] * width
            system[rows, first : first + entries] = factor * np.eye(entries)
            system[rows, first + entries] = -factor * estimate
    return system
