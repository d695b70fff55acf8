"""The one link more that raises the spectral gap of a graph most."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from cipherfleet_node.core.packing import MAX_DEGREE
from cipherfleet_provisioning.topology.graph import Graph
from cipherfleet_provisioning.topology.mixing import metropolis_laplacian, spectral_gap

MOST_NODES = 400  # for more, the eigenvalues of all candidates take too long
CANDIDATES = 12  # the links whose gap is computed
HIGHER_GAP = 1.05  # a link that raises the gap by less is not worth a simulation


def best_link(graph: Graph) -> tuple[tuple[str, str], Graph] | None:
    """Return the link more that raises the spectral gap most, and *graph* with it.

    None if no link raises the gap by HIGHER_GAP, or for more than MOST_NODES nodes. The candidates
    are the pairs whose entries in the slowest mode differ most: to first order, a link with weight
    w between a and b raises the eigenvalue of the mode v by w (v_a - v_b)^2.
    """
    if not 2 < len(graph.ids) <= MOST_NODES:
        return None
    linked = [(pair, with_link(graph, pair)) for pair in _candidates(graph)]
    if not linked:
        return None
    best = max(linked, key=lambda each: spectral_gap(each[1]))
    return best if spectral_gap(best[1]) >= HIGHER_GAP * spectral_gap(graph) else None


def with_link(graph: Graph, pair: tuple[str, str]) -> Graph:
    """Return *graph* with one more edge; *pair* names the earlier node first."""
    place = {node: index for index, node in enumerate(graph.ids)}
    edges = sorted([*graph.edges, pair], key=lambda edge: (place[edge[0]], place[edge[1]]))
    return Graph(graph.ids, tuple(edges))


def _candidates(graph: Graph) -> list[tuple[str, str]]:
    mode = np.linalg.eigh(metropolis_laplacian(graph))[1][:, 1]
    place = {node: index for index, node in enumerate(graph.ids)}
    existing = set(graph.edges)
    free = [node for node in graph.ids if graph.degree(node) < MAX_DEGREE]
    pairs = [pair for pair in combinations(free, 2) if pair not in existing]

    def distance(pair: tuple[str, str]) -> float:
        return abs(float(mode[place[pair[0]]] - mode[place[pair[1]]]))

    return sorted(pairs, key=distance, reverse=True)[:CANDIDATES]
