"""An undirected graph of nodes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cached_property


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

    def parts(self) -> list[list[str]]:
        """The connected parts, the largest first; one if all hang together."""
        left = dict.fromkeys(self.ids)
        found = []
        while left:
            found.append(list(self.distances(next(iter(left)))))
            for node in found[-1]:
                del left[node]
        return sorted(found, key=len, reverse=True)

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
