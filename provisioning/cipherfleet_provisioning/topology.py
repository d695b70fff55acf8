"""Who is whose neighbour: the topology section of fleet.yaml, and the graph it describes.

Every kind but `edges` is a recipe for any number of nodes. The random ones are drawn from a seed:
the same fleet.yaml gives the same graph on every machine.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from itertools import combinations, pairwise
from math import isqrt
from typing import Annotated

import numpy as np
from msgspec import Meta

from cipherfleet_node.config import Count, Section
from cipherfleet_node.document import dotted
from cipherfleet_node.draws import Draws
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.packing import MAX_DEGREE

KEYS_OF_KIND: Mapping[str, tuple[str, ...]] = {
    "ring": (),
    "line": (),
    "star": (),
    "grid": (),
    "complete": (),
    "random_regular": ("degree", "seed"),
    "erdos_renyi": ("probability", "seed"),
    "geometric": ("neighbours", "seed"),
    "edges": ("edges",),
}
_EXAMPLES = {
    "degree": "degree: 4",
    "probability": "probability: 0.3",
    "neighbours": "neighbours: 6",
    "edges": "edges: [[a, b], [b, c]]",
}
_ADVICE = {
    "random_regular": "try another seed or a greater degree",
    "erdos_renyi": "try another seed or a greater probability",
    "geometric": "try another seed or more neighbours",
    "edges": "add an edge between their parts",
}

Pair = tuple[int, int]


class Topology(Section, frozen=True):
    """The section as written; `build_graph` checks it and gives it a meaning.

    kind is one of KEYS_OF_KIND and may be left out when edges are given.
    """

    kind: str | None = None
    degree: Count | None = None
    probability: Annotated[float, Meta(gt=0, le=1)] | None = None
    neighbours: Count | None = None
    seed: Annotated[int, Meta(ge=0)] | None = None  # None: 0
    edges: list[tuple[str, str]] | None = None


class TopologyError(ConfigError):
    """A topology that no fleet can have.

    *path* leads from the topology section to the value at fault, so that the reader of a file can
    say where it stands: `document.error(("topology", *error.path), error.message)`.
    """

    def __init__(self, path: tuple[str | int, ...], message: str) -> None:
        super().__init__(f"{dotted(('topology', *path))} {message}")
        self.path = path
        self.message = message


@dataclass(frozen=True)
class Graph:
    """An undirected graph without self-loops.

    ids keep the fleet's order; an edge names the earlier node first, and edges are sorted by it.
    """

    ids: tuple[str, ...]
    edges: tuple[tuple[str, str], ...]

    def neighbours(self, node: str) -> tuple[str, ...]:
        """The nodes that share an edge with *node*, in the fleet's order."""
        return self._neighbours[node]

    def degree(self, node: str) -> int:
        """How many neighbours *node* has."""
        return len(self._neighbours[node])

    def distances(self, start: str) -> dict[str, int]:
        """Hops from *start* to every node that can be reached from it, nearest first."""
        hops = {start: 0}
        waiting = deque([start])
        while waiting:
            node = waiting.popleft()
            for neighbour in self._neighbours[node]:
                if neighbour not in hops:
                    hops[neighbour] = hops[node] + 1
                    waiting.append(neighbour)
        return hops

    @property
    def mean_degree(self) -> float:
        """Neighbours per node, on average."""
        return 2 * len(self.edges) / len(self.ids)

    @cached_property
    def diameter(self) -> int:
        """Hops between the two nodes farthest apart; the graph must be connected."""
        return max(max(self.distances(node).values()) for node in self.ids)

    @cached_property
    def _neighbours(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {node: [] for node in self.ids}
        for a, b in self.edges:
            found[a].append(b)
            found[b].append(a)
        order = {node: place for place, node in enumerate(self.ids)}
        return {node: tuple(sorted(near, key=order.__getitem__)) for node, near in found.items()}


def build_graph(topology: Topology, ids: Sequence[str]) -> Graph:
    """The connected graph that *topology* describes over *ids* (at least two, all different).

    Raises TopologyError, which names the key at fault and what would do instead.
    """
    kind = _kind_of(topology)
    if len(ids) < 2:
        raise TopologyError((), f"needs at least 2 nodes, the fleet has {len(ids)}")
    if kind == "edges":
        pairs = _named_pairs(topology.edges or [], ids)
    else:
        pairs = _RECIPES[kind](len(ids), topology)
    graph = _graph(ids, pairs)
    _check_degrees(graph)
    _check_connected(graph, kind)
    return graph


# -- the section itself -------------------------------------------------------------------------


def _kind_of(topology: Topology) -> str:
    """The kind, after checking that its keys, and no others, are given."""
    kind = topology.kind or ("edges" if topology.edges is not None else None)
    if kind is None:
        raise TopologyError(("kind",), f"is missing, must be {_one_of_kinds()}")
    if kind not in KEYS_OF_KIND:
        raise TopologyError(("kind",), f"is {kind!r}, must be {_one_of_kinds()}{_meant(kind)}")
    for key in ("degree", "probability", "neighbours", "seed", "edges"):
        given = getattr(topology, key) is not None
        if given and key not in KEYS_OF_KIND[kind]:
            raise TopologyError((key,), f"does not belong to kind {kind}")
        if not given and key in KEYS_OF_KIND[kind] and key in _EXAMPLES:
            raise TopologyError((key,), f"is needed for kind {kind}, for example {_EXAMPLES[key]}")
    return kind


def _one_of_kinds() -> str:
    *others, last = KEYS_OF_KIND
    return f"one of {', '.join(others)} or {last}: [[a, b], ...]"


def _meant(word: str, known: Iterable[str] = KEYS_OF_KIND) -> str:
    close = get_close_matches(word, list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


# -- recipes: pairs of places 0 .. n-1 ----------------------------------------------------------


def _ring(n: int, _: Topology) -> Iterable[Pair]:
    return ((i, (i + 1) % n) for i in range(n))


def _line(n: int, _: Topology) -> Iterable[Pair]:
    return pairwise(range(n))


def _star(n: int, _: Topology) -> Iterable[Pair]:
    return ((0, i) for i in range(1, n))


def _complete(n: int, _: Topology) -> Iterable[Pair]:
    return combinations(range(n), 2)


def _grid(n: int, _: Topology) -> Iterable[Pair]:
    """Rows of ceil(sqrt n) nodes; the last may be short, each of its nodes has one above it."""
    columns = isqrt(n - 1) + 1
    for i in range(n):
        if i % columns:
            yield i - 1, i
        if i >= columns:
            yield i - columns, i


def _random_regular(n: int, topology: Topology) -> Iterable[Pair]:
    """A random graph in which every node has *degree* neighbours (Steger and Wormald, 1999)."""
    degree = topology.degree
    assert degree is not None
    _check_regular(n, degree)
    # Pairing at random seldom succeeds near the complete graph: draw the missing edges there.
    missing = n - 1 - degree
    if missing < degree:
        absent = {(min(pair), max(pair)) for pair in _pairing(n, missing, topology)}
        return (pair for pair in combinations(range(n), 2) if pair not in absent)
    return _pairing(n, degree, topology)


def _pairing(n: int, degree: int, topology: Topology) -> Iterable[Pair]:
    import networkx as nx  # noqa: PLC0415 - slow to import, and this kind alone needs it

    edges: Iterable[Pair] = nx.random_regular_graph(degree, n, seed=topology.seed or 0).edges
    return edges


def _check_regular(n: int, degree: int) -> None:
    if degree >= n:
        raise TopologyError(("degree",), f"is {degree}, must be below the number of nodes, {n}")
    if n * degree % 2:
        raise TopologyError(
            ("degree",),
            f"is {degree}: {n} nodes cannot all have {degree} neighbours, since {n} x {degree} is "
            "odd; choose an even degree or an even number of nodes",
        )
    if degree == 1 and n > 2:
        raise TopologyError(("degree",), f"is 1, must be at least 2 to connect {n} nodes")


def _erdos_renyi(n: int, topology: Topology) -> Iterable[Pair]:
    """Every pair of nodes is an edge with *probability*, independently."""
    assert topology.probability is not None
    pairs = list(combinations(range(n), 2))
    chances = _draws(topology).uniform("topology/erdos_renyi", len(pairs))
    return (
        pair for pair, chance in zip(pairs, chances, strict=True) if chance < topology.probability
    )


def _geometric(n: int, topology: Topology) -> Iterable[Pair]:
    """Nodes at random in the unit square, each linked to its nearest *neighbours*."""
    assert topology.neighbours is not None
    places = _draws(topology).uniform("topology/geometric", 2 * n).reshape(n, 2)
    distances = ((places[:, None] - places[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argsort(axis=1, kind="stable")[:, : min(topology.neighbours, n - 1)]
    return ((i, int(j)) for i in range(n) for j in nearest[i])


def _draws(topology: Topology) -> Draws:
    return Draws(hashlib.sha256(str(topology.seed or 0).encode()).digest())


_RECIPES: Mapping[str, Callable[[int, Topology], Iterable[Pair]]] = {
    "ring": _ring,
    "line": _line,
    "star": _star,
    "grid": _grid,
    "complete": _complete,
    "random_regular": _random_regular,
    "erdos_renyi": _erdos_renyi,
    "geometric": _geometric,
}


def _named_pairs(edges: Sequence[tuple[str, str]], ids: Sequence[str]) -> Iterable[Pair]:
    """The places of explicit edges; raises TopologyError for what is no edge between two nodes."""
    place = {node: i for i, node in enumerate(ids)}
    first: dict[frozenset[str], int] = {}
    for index, edge in enumerate(edges):
        for side, node in enumerate(edge):
            if node not in place:
                raise TopologyError(
                    ("edges", index, side), f"is {node!r}, which is no node{_meant(node, ids)}"
                )
        a, b = edge
        if a == b:
            raise TopologyError(("edges", index), f"links {a!r} to itself")
        if frozenset(edge) in first:
            raise TopologyError(
                ("edges", index),
                f"links {a!r} and {b!r}, as edges[{first[frozenset(edge)]}] does already",
            )
        first[frozenset(edge)] = index
    return [(place[a], place[b]) for a, b in edges]


# -- the graph ----------------------------------------------------------------------------------


def _graph(ids: Sequence[str], pairs: Iterable[Pair]) -> Graph:
    ordered = sorted({(min(pair), max(pair)) for pair in pairs})
    return Graph(tuple(ids), tuple((ids[a], ids[b]) for a, b in ordered))


def _check_degrees(graph: Graph) -> None:
    busiest = max(graph.ids, key=graph.degree)
    if graph.degree(busiest) > MAX_DEGREE:
        raise TopologyError(
            (),
            f"gives {busiest!r} {graph.degree(busiest)} neighbours, at most {MAX_DEGREE} are "
            "allowed; choose a sparser graph, for example {kind: geometric, neighbours: 6}",
        )


def _check_connected(graph: Graph, kind: str) -> None:
    start = graph.ids[0]
    reached = graph.distances(start)
    lost = next((node for node in graph.ids if node not in reached), None)
    if lost is not None:
        # ring, line, star, grid and complete are connected for every number of nodes
        raise TopologyError(
            ("edges",) if kind == "edges" else (),
            f"leaves {start!r} and {lost!r} without a path between them ({len(reached)} of "
            f"{len(graph.ids)} nodes hang together with {start!r}): {_ADVICE[kind]}",
        )
