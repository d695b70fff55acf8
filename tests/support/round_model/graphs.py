"""The graphs of the model."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, pairwise

from .model_nodes import Graph


def _graph(edges: Iterable[tuple[str, str]]) -> Graph:
    graph: dict[str, list[str]] = {}
    for a, b in edges:
        graph.setdefault(a, []).append(b)
        graph.setdefault(b, []).append(a)
    return {name: sorted(graph[name]) for name in sorted(graph)}


def complete(n: int) -> Graph:
    return _graph(combinations("abcdef"[:n], 2))


def star(leaves: int) -> Graph:
    """Return the graph of a hub `a` with *leaves* leaves."""
    return _graph([("a", leaf) for leaf in "bcdef"[:leaves]])


def line(n: int) -> Graph:
    names = "abcdef"[:n]
    return _graph(pairwise(names))


def ring(n: int) -> Graph:
    names = "abcdef"[:n]
    return _graph(zip(names, names[1:] + names[:1], strict=True))


GRAPHS = {
    "complete3": complete(3),
    "complete4": complete(4),
    "line3": line(3),
    "ring4": ring(4),
    "star4": star(3),
}
