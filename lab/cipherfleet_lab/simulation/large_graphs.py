"""Graphs of a million nodes in seconds: edges as arrays, shape (m, 2), of node numbers 0 .. n-1.

The provisioning package generates the topologies of fleet.yaml edge by edge; that is fast enough
for real fleets, but not for these.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cipherfleet_node.errors import ConfigError
from cipherfleet_provisioning.topology.generators import random_places
from cipherfleet_provisioning.topology.section import Topology

Edges = npt.NDArray[np.int64]
KINDS = ("ring", "random_regular", "geometric")
ALTERNATIVE = "or give --degree, for a random regular graph"
_TRIES = 1000


def large_graph(topology: Topology, nodes: int) -> Edges:
    """Generate a connected graph of the kind of *topology*. Raises ConfigError if there is none.

    Rings and geometric graphs equal those of a real fleet of this size.
    """
    seed = topology.seed or 0
    match topology.kind:
        case "ring":
            return _ring(nodes)
        case "random_regular" if topology.degree is not None:
            return random_regular(nodes, topology.degree, seed)
        case "geometric" if topology.neighbours is not None and _is_random(topology):
            edges = link_nearest(random_places(nodes, topology), topology.neighbours)
            return _require_connected(edges, nodes, f"with {topology.neighbours} neighbours each")
    description = "names its nodes" if topology.kind in KINDS else f"is {topology.kind or 'a list'}"
    raise ConfigError(
        f"topology {description} and cannot be enlarged to {nodes} nodes",
        remedy=f"use {', '.join(KINDS)}, {ALTERNATIVE}",
    )


def _is_random(topology: Topology) -> bool:
    return topology.positions is None and topology.positions_file is None


def random_regular(nodes: int, degree: int, seed: int) -> Edges:
    """Generate a random graph in which every node has *degree* neighbours."""
    if not 2 <= degree < nodes or nodes * degree % 2:
        raise ConfigError(
            f"a regular graph of {nodes} nodes cannot have degree {degree}",
            remedy=f"choose a degree from 2 to {nodes - 1}, even if the number of nodes is odd",
        )
    rng, missing = np.random.default_rng(seed), nodes - 1 - degree
    if missing < degree:  # almost complete: generate the missing edges instead
        absent = _codes(_pair_ends(nodes, missing, rng), nodes)
        edges = np.column_stack(np.triu_indices(nodes, 1))
        return edges[~np.isin(_codes(edges, nodes), absent)]
    return _require_connected(_pair_ends(nodes, degree, rng), nodes, f"of degree {degree}")


def _pair_ends(nodes: int, degree: int, rng: np.random.Generator) -> Edges:
    """Pair stubs at random, then remove loops and duplicate pairs.

    There are about degree^2/4 of those, independent of the number of nodes. Each swaps an end with
    a random other pair if that makes two new edges.
    """
    pairs = rng.permutation(np.repeat(np.arange(nodes), degree)).reshape(-1, 2)
    for _ in range(_TRIES):
        pairs.sort(axis=1)
        codes = _codes(pairs, nodes)
        order = np.argsort(codes)
        known = codes[order]
        doubles = order[1:][known[1:] == known[:-1]]
        unfit = np.union1d(doubles, np.flatnonzero(pairs[:, 0] == pairs[:, 1]))
        if not len(unfit):
            return pairs
        for place in unfit:
            _change_partners(pairs, place, rng, known, nodes)
    raise ConfigError(
        f"no graph of {nodes} nodes with {degree} neighbours each was found",
        remedy="try more nodes or another degree",
    )


def _change_partners(
    pairs: Edges,
    place: np.intp,
    rng: np.random.Generator,
    known: npt.NDArray[np.int64],
    nodes: int,
) -> None:
    """Swap an end of the pair at *place* with a random other pair's, if both results are new."""
    other, side = rng.integers(len(pairs)), rng.integers(2)
    (a, b), (c, d) = pairs[place], pairs[other, ::-1] if side else pairs[other]
    fresh = np.sort([[a, d], [c, b]], axis=1)
    codes = _codes(fresh, nodes)
    found = known[np.searchsorted(known, codes).clip(max=len(known) - 1)]
    if a == d or c == b or np.any(found == codes) or codes[0] == codes[1]:
        return
    pairs[place], pairs[other] = fresh


def link_nearest(places: npt.NDArray[np.float64], neighbours: int) -> Edges:
    """Link each of the *places*, shape (n, 2), to its nearest *neighbours*."""
    from scipy.spatial import cKDTree  # slow: only this kind of graph pays for it

    nodes = len(places)
    near = min(neighbours, nodes - 1)
    _, found = cKDTree(places).query(places, k=range(2, near + 2), workers=-1)
    pairs = np.column_stack([np.repeat(np.arange(nodes), near), found.ravel()])
    pairs.sort(axis=1)
    return np.column_stack(np.divmod(np.unique(_codes(pairs, nodes)), nodes))


def _codes(pairs: Edges, nodes: int) -> npt.NDArray[np.int64]:
    """Encode every pair as one number, shape (m,)."""
    return pairs[:, 0] * nodes + pairs[:, 1]


def _ring(nodes: int) -> Edges:
    places = np.arange(nodes)
    return np.unique(np.sort(np.column_stack([places, np.roll(places, -1)]), axis=1), axis=0)


def _require_connected(edges: Edges, nodes: int, kind: str) -> Edges:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(edges), dtype=np.int8)
    parts, _ = connected_components(
        coo_array((ones, (edges[:, 0], edges[:, 1])), shape=(nodes, nodes)), directed=False
    )
    if parts > 1:
        raise ConfigError(
            f"a graph of {nodes} nodes {kind} has {parts} components, must have 1",
            remedy=f"use more neighbours, {ALTERNATIVE}",
        )
    return edges
