"""An undirected graph of nodes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Graph:
    """An undirected graph without self-loops.

    ids are in the fleet's order. An edge names the earlier node first, and edges are sorted.
    """

    ids: tuple[str, ...]
    edges: tuple[tuple[str, str], ...]

    def neighbours(self, node: str) -> tuple[str, ...]:
        """Return the nodes that share an edge with *node*, in the fleet's order."""
        return self._neighbours[node]

    def degree(self, node: str) -> int:
        """Return the number of neighbours of *node*."""
        return len(self._neighbours[node])

    @property
    def leaf(self) -> str | None:
        """The first node with one neighbour only, None if there is none."""
        return next((name for name in self.ids if self.degree(name) == 1), None)

    def distances(self, start: str) -> dict[str, int]:
        """Return the number of hops from *start* to every node it can reach, nearest first."""
        hops = {start: 0}
        waiting = deque([start])
        while waiting:
            node = waiting.popleft()
            for neighbour in self._neighbours[node]:
                if neighbour not in hops:
                    hops[neighbour] = hops[node] + 1
                    waiting.append(neighbour)
        return hops

    def parts(self) -> list[list[str]]:
        """Return the connected components, the largest first; one if the graph is connected."""
        left = dict.fromkeys(self.ids)
        found = []
        while left:
            found.append(list(self.distances(next(iter(left)))))
            for node in found[-1]:
                del left[node]
        return sorted(found, key=len, reverse=True)

    @property
    def mean_degree(self) -> float:
        """The average number of neighbours per node."""
        return 2 * len(self.edges) / len(self.ids)

    @cached_property
    def diameter(self) -> int:
        """The largest number of hops between two nodes; the graph must be connected."""
        return max(max(self.distances(node).values()) for node in self.ids)

    @cached_property
    def _neighbours(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {node: [] for node in self.ids}
        for a, b in self.edges:
            found[a].append(b)
            found[b].append(a)
        order = {node: place for place, node in enumerate(self.ids)}
        return {node: tuple(sorted(near, key=order.__getitem__)) for node, near in found.items()}


NO_GRAPH = Graph((), ())
