"""Linear disclosure: what colluding nodes can compute from their sealed sums of one round.

A node j that asks its neighbours learns S_j = sum_m M_jm h_m (x_m - x_j). A coalition can subtract
the terms of its own nodes. The unknowns are u_m = h_m x_m (d entries) and the half weight h_m of
every neighbour m outside: d equations for each asker, d + 1 unknowns for each such neighbour.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from cipherfleet_node.core.exchange import metropolis
from cipherfleet_node.core.packing import METROPOLIS_BITS
from cipherfleet_provisioning.topology.graph import Graph

MOST_UNKNOWNS = 1200  # in one connected system of equations: half a second on two cores
_ZERO = 1e-7  # of a unit vector's entry

Sums = dict[str, set[str]]  # by asker: the nodes outside in its sum


def identifiable_nodes(graph: Graph, coalition: Collection[str], dimension: int) -> frozenset[str]:
    """Return the nodes outside *coalition* whose estimate its sums of one round determine uniquely.

    The result is for estimates in general position, which a fixed random sample stands for. For
    systems with more than MOST_UNKNOWNS unknowns it uses fewer entries than *dimension*, or only
    the sums with a single unknown node. The result may then be incomplete.
    Checked by test_an_estimate_that_is_said_to_be_known_can_be_worked_out.
    """
    found: set[str] = set()
    for sums in _components(_prune(graph, coalition)):
        found |= _identifiable(graph, sums, dimension)
    return frozenset(found)


def _prune(graph: Graph, coalition: Collection[str]) -> Sums:
    """Return the sums, without each sum that contains a node which occurs in no other sum.

    Such a sum adds d equations and at least d + 1 unknowns, so it determines nothing. The step is
    repeated until no such sum is left.
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


def _components(sums: Sums) -> Iterator[Sums]:
    """Split the sums into systems without common unknowns.

    The askers of a system are sorted, so that they always get the same random sample.
    """
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


def _identifiable(graph: Graph, sums: Mapping[str, set[str]], dimension: int) -> set[str]:
    """Return the nodes whose d + 1 unknowns have a unique solution.

    Such a node has zero entries in every direction of the null space.
    """
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
    """Return the system's matrix; rows: entries of each asker's sum; columns: u_m and h_m."""
    random = np.random.default_rng(0)  # estimates in general position, not those of any node
    place = {node: index for index, node in enumerate(nodes)}
    width = entries + 1
    system = np.zeros((len(sums) * entries, len(nodes) * width))
    for row, (asker, unknown) in enumerate(sums.items()):
        estimate = random.normal(size=entries)
        rows = slice(row * entries, (row + 1) * entries)
        for node in unknown:
            factor = metropolis(graph.degree(asker), graph.degree(node)) / 2.0**METROPOLIS_BITS
            first = place[node] * width
            system[rows, first : first + entries] = factor * np.eye(entries)
            system[rows, first + entries] = -factor * estimate
    return system
