"""How fast a graph mixes: the spectral gap of one round of averaging.

a_ij = m_ij h_ij h_ji is the coupling weight of one edge in one round, where m_ij is the public
Metropolis factor and h_ij the private half weight. L is the graph Laplacian weighted with a_ij.
Averaging is x <- (I - L) x.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cipherfleet_node.core.exchange import metropolis
from cipherfleet_node.core.packing import HALF_WEIGHT_BITS, METROPOLIS_BITS
from cipherfleet_node.core.quadratic import LEAST_COUPLING

from .graph import Graph

Matrix = npt.NDArray[np.float64]

# Every possible half weight h, all equally likely: H / 2^12, where H is odd and has 12 bits.
HALF_WEIGHTS = (
    np.arange(2 ** (HALF_WEIGHT_BITS - 1) + 1, 2**HALF_WEIGHT_BITS, 2) / 2.0**HALF_WEIGHT_BITS
)
MEAN = float(HALF_WEIGHTS.mean()) ** 2  # of a/m = h h', two independent half weights


def metropolis_laplacian(graph: Graph, power: int = 1) -> Matrix:
    """Return the Laplacian weighted with m_ij^power, shape (n, n), nodes in the graph's order."""
    place = {node: i for i, node in enumerate(graph.ids)}
    adjacency = np.zeros((len(graph.ids), len(graph.ids)))
    for a, b in graph.edges:
        adjacency[place[a], place[b]] = _metropolis(graph, a, b) ** power
    adjacency += adjacency.T
    laplacian: Matrix = np.diag(adjacency.sum(axis=1)) - adjacency
    return laplacian


def loosely_coupled(graph: Graph) -> list[tuple[str, float]]:
    """Return the nodes whose links are too weak for the quadratic shield, with their sums of m_ij.

    The least sum is LEAST_COUPLING. The weakest node comes first.
    """
    sums = dict.fromkeys(graph.ids, 0.0)
    for a, b in graph.edges:
        for node in (a, b):
            sums[node] += _metropolis(graph, a, b)
    found = [(node, weight) for node, weight in sums.items() if weight < LEAST_COUPLING]
    return sorted(found, key=lambda each: each[1])


def _metropolis(graph: Graph, a: str, b: str) -> float:
    """Return m_ij of the link between *a* and *b*."""
    return metropolis(graph.degree(a), graph.degree(b)) / 2.0**METROPOLIS_BITS


def spectral_gap(graph: Graph) -> float:
    """Return 1 minus the spectral norm of E[I - L] on disagreements, in (0, 1]; 0: no mixing."""
    rates = np.linalg.eigvalsh(metropolis_laplacian(graph))[1:]  # the first, 0, belongs to the mean
    return float(1 - np.abs(1 - MEAN * rates).max())
