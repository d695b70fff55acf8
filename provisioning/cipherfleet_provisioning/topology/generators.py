"""Generated topologies: ring, grid, random regular, small world and others.

Each generator yields the edges as pairs of indices 0 .. n-1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import combinations, count, pairwise
from math import isqrt

import numpy as np

from cipherfleet_node.core.packing import MAX_DEGREE
from cipherfleet_node.core.randomness import FloatVector, RoundRandomness

from .section import Pair, Topology, TopologyError

SMALLEST_SIDE = 3  # of a torus: in a ring of two nodes, both directions are the same edge
TRIES = 100  # attempts to generate a connected small world
_BLOCK = 64  # number of nodes whose distances to all others are computed at once


def _ring(n: int, _: Topology) -> Iterable[Pair]:
    return ((i, (i + 1) % n) for i in range(n))


def _line(n: int, _: Topology) -> Iterable[Pair]:
    return pairwise(range(n))


def _star(n: int, _: Topology) -> Iterable[Pair]:
    return ((0, i) for i in range(1, n))


def _complete(n: int, _: Topology) -> Iterable[Pair]:
    return combinations(range(n), 2)


def _grid(n: int, _: Topology) -> Iterable[Pair]:
    """Yield a grid with rows of ceil(sqrt n) nodes; the last row may be shorter."""
    columns = isqrt(n - 1) + 1
    for i in range(n):
        if i % columns:
            yield i - 1, i
        if i >= columns:
            yield i - columns, i


def _torus(n: int, _: Topology) -> Iterable[Pair]:
    """Yield a grid, as square as n allows, whose rows and columns are rings: degree 4."""
    rows = _torus_rows(n)
    if rows is None:
        near = [next(m for m in numbers if _torus_rows(m)) for numbers in _outwards(n)]
        raise TopologyError(
            (),
            f"of kind torus needs {SMALLEST_SIDE} or more rows and columns, which {n} nodes do "
            f"not give; {' or '.join(map(str, near))} nodes would",
        )
    columns = n // rows
    for i in range(n):
        row, column = divmod(i, columns)
        yield i, row * columns + (column + 1) % columns
        yield i, (row + 1) % rows * columns + column


def _torus_rows(n: int) -> int | None:
    """Return the greatest divisor of n up to sqrt(n), None if it is below SMALLEST_SIDE."""
    return max((r for r in range(SMALLEST_SIDE, isqrt(n) + 1) if n % r == 0), default=None)


def _outwards(n: int) -> list[Iterable[int]]:
    """Return the numbers from n downwards, and those from n upwards."""
    smallest = SMALLEST_SIDE**2
    return [range(n, smallest - 1, -1), count(n)] if n > smallest else [count(n)]


def _random_regular(n: int, topology: Topology) -> Iterable[Pair]:
    """Return a random graph in which every node has *degree* neighbours (Steger, Wormald 1999)."""
    degree = topology.degree
    assert degree is not None
    _check_regular(n, degree)
    # Random pairing seldom succeeds for a nearly complete graph: generate the missing edges then.
    missing = n - 1 - degree
    if missing < degree:
        absent = {(min(pair), max(pair)) for pair in _pair_at_random(n, missing, topology)}
        return (pair for pair in combinations(range(n), 2) if pair not in absent)
    return _pair_at_random(n, degree, topology)


def _pair_at_random(n: int, degree: int, topology: Topology) -> Iterable[Pair]:
    import networkx as nx

    edges: Iterable[Pair] = nx.random_regular_graph(degree, n, seed=topology.seed or 0).edges
    return edges


def _check_regular(n: int, degree: int) -> None:
    if degree >= n:
        raise TopologyError(("degree",), f"is {degree}, must be below the number of nodes, {n}")
    if degree > MAX_DEGREE:
        raise TopologyError(("degree",), f"is {degree}, at most {MAX_DEGREE} are allowed")
    if n * degree % 2:
        raise TopologyError(
            ("degree",),
            f"is {degree}: {n} nodes cannot all have {degree} neighbours, since {n} x "
            f"{degree} is odd",
            remedy="choose an even degree or an even number of nodes",
        )
    if degree == 1 and n > 2:
        raise TopologyError(("degree",), f"is 1, must be at least 2 to connect {n} nodes")


def _erdos_renyi(n: int, topology: Topology) -> Iterable[Pair]:
    """Yield every pair of nodes with *probability*, independently."""
    assert topology.probability is not None
    samples = _randomness(topology).uniform("topology/erdos_renyi", n * (n - 1) // 2)
    linked = samples < topology.probability
    for i in range(n - 1):
        row, linked = linked[: n - 1 - i], linked[n - 1 - i :]
        yield from ((i, i + 1 + int(j)) for j in np.flatnonzero(row))


def _small_world(n: int, topology: Topology) -> Iterable[Pair]:
    """Return a ring lattice, each edge rewired with *probability* (Watts and Strogatz, 1998)."""
    neighbours = topology.neighbours
    assert neighbours is not None
    if n < 3:
        raise TopologyError((), f"of kind small_world needs at least 3 nodes, the fleet has {n}")
    most = min(n - 1, MAX_DEGREE) // 2 * 2
    if neighbours % 2 or not 2 <= neighbours <= most:
        raise TopologyError(
            ("neighbours",),
            f"is {neighbours}, must be an even number from 2 to {most} with {n} nodes",
        )
    import networkx as nx

    try:
        edges: Iterable[Pair] = nx.connected_watts_strogatz_graph(
            n, neighbours, topology.probability, TRIES, topology.seed or 0
        ).edges
    except nx.NetworkXError:
        raise TopologyError(
            (),
            f"of kind small_world was not connected in {TRIES} attempts",
            remedy="choose more neighbours or a smaller probability",
        ) from None
    return edges


def _geometric(n: int, topology: Topology) -> Iterable[Pair]:
    """Place nodes at random in the unit square; link each to its nearest *neighbours*."""
    assert topology.neighbours is not None
    return nearest_pairs(random_places(n, topology), topology.neighbours)


def random_places(n: int, topology: Topology) -> FloatVector:
    """Return the positions in a geometric *topology*: in the unit square, shape (n, 2)."""
    return _randomness(topology).uniform("topology/geometric", 2 * n).reshape(n, 2)


def nearest_pairs(places: FloatVector, neighbours: int) -> Iterator[Pair]:
    """Pair each of *places*, shape (n, 2), with its nearest *neighbours*.

    Of equally near places the earlier one is chosen. Time grows with n^2, memory with n.
    """
    n = len(places)
    near = min(neighbours, n - 1)
    for start in range(0, n, _BLOCK):
        block = places[start : start + _BLOCK]
        distances = ((block[:, None] - places[None]) ** 2).sum(axis=2)
        distances[range(len(block)), range(start, start + len(block))] = np.inf  # to itself
        farthest = np.partition(distances, near - 1, axis=1)[:, near - 1]
        for i, (row, limit) in enumerate(zip(distances, farthest, strict=True), start):
            within = np.flatnonzero(row <= limit)
            nearest = within[row[within].argsort(kind="stable")][:near]
            yield from ((i, int(j)) for j in nearest)


def _randomness(topology: Topology) -> RoundRandomness:
    return RoundRandomness(hashlib.sha256(str(topology.seed or 0).encode()).digest())


GENERATORS: Mapping[str, Callable[[int, Topology], Iterable[Pair]]] = {
    "ring": _ring,
    "line": _line,
    "star": _star,
    "grid": _grid,
    "torus": _torus,
    "complete": _complete,
    "random_regular": _random_regular,
    "erdos_renyi": _erdos_renyi,
    "small_world": _small_world,
    "geometric": _geometric,
}
