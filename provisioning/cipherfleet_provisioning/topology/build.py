"""Build the graph that the topology section of fleet.yaml describes.

Every kind except `edges` and `file` is a recipe for any number of nodes. Random kinds use a seed,
so the same fleet.yaml gives the same graph on every machine.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from cipherfleet_node.core.packing import MAX_DEGREE
from cipherfleet_provisioning.topology.generators import GENERATORS, nearest_pairs
from cipherfleet_provisioning.topology.given import (
    MOST_SHOWN,
    pairs_of_file,
    pairs_of_names,
    position_faults,
    read_positions,
)
from cipherfleet_provisioning.topology.graph import Graph
from cipherfleet_provisioning.topology.section import (
    Pair,
    Topology,
    TopologyError,
    has_positions,
    key_faults,
    kind_of,
)

_ADVICE = {
    "random_regular": "try another seed or a greater degree",
    "erdos_renyi": "try another seed or a greater probability",
    "geometric": "try another seed or more neighbours",
    "positions": "ask for more neighbours, or move a part nearer",
    "file": "add an edge between its parts",
    "edges": "add an edge between their parts",
}


def build_graph(
    topology: Topology, ids: Sequence[str], folder: Path = Path(), others: Collection[str] = ()
) -> Graph:
    """Return the connected graph that *topology* describes over *ids* (two or more, all different).

    Relative paths of files start at *folder*. *others* are known nodes that are not part of this
    graph but may have positions. Raises TopologyError, which names the wrong key and a remedy.
    """
    for fault in section_faults(topology, ids, others):
        raise fault
    kind = kind_of(topology)
    assert kind is not None, "section_faults reports a missing kind"
    if len(ids) < 2:
        raise TopologyError((), f"needs at least 2 nodes, the fleet has {len(ids)}")
    graph = _graph_of_pairs(ids, _pairs(kind, topology, ids, folder, others))
    _check_degrees(graph, kind)
    _check_connected(graph, "positions" if has_positions(topology) else kind)
    return graph


def _pairs(
    kind: str, topology: Topology, ids: Sequence[str], folder: Path, others: Collection[str]
) -> Iterable[Pair]:
    """Yield the edges as pairs of indices 0 .. n-1, each edge once or twice."""
    if topology.edges is not None:
        return pairs_of_names(topology.edges, ids)
    if topology.file is not None:
        return pairs_of_file(topology.file, ids, folder)
    if has_positions(topology):
        assert topology.neighbours is not None
        return nearest_pairs(read_positions(topology, ids, folder, others), topology.neighbours)
    return GENERATORS[kind](len(ids), topology)


def section_faults(
    topology: Topology, ids: Sequence[str], others: Collection[str] = ()
) -> Iterator[TopologyError]:
    """Yield all errors in the keys of the section, or if there is none, in its positions."""
    faults = list(key_faults(topology))
    yield from faults
    if not faults and topology.positions is not None:
        yield from position_faults(topology.positions, ids, others)


def _graph_of_pairs(ids: Sequence[str], pairs: Iterable[Pair]) -> Graph:
    # A recipe yields an edge at most twice, so with more pairs some node has too many neighbours.
    enough = islice(pairs, len(ids) * MAX_DEGREE + 1)
    ordered = sorted({(min(pair), max(pair)) for pair in enough})
    return Graph(tuple(ids), tuple((ids[a], ids[b]) for a, b in ordered))


def _check_degrees(graph: Graph, kind: str) -> None:
    busiest = max(graph.ids, key=graph.degree)
    if graph.degree(busiest) > MAX_DEGREE:
        raise TopologyError(
            _path_of(kind),
            f"gives {busiest!r} {graph.degree(busiest)} neighbours, at most {MAX_DEGREE} are "
            "allowed",
            remedy="choose a sparser graph, for example {kind: geometric, neighbours: 6}",
        )


def _check_connected(graph: Graph, kind: str) -> None:
    """Raise TopologyError unless *graph* is connected.

    *kind* is "positions" for a geometric topology with given positions.
    """
    parts = graph.parts()
    if len(parts) > 1:
        # ring, line, star, grid, torus, complete and small_world are always connected
        a, b = parts[0][0], parts[1][0]
        sizes = [f"{len(part)} with {part[0]!r}" for part in parts]
        rest = [f"{len(sizes) - MOST_SHOWN} more"] if len(sizes) > MOST_SHOWN else []
        raise TopologyError(
            _path_of(kind),
            f"leaves {a!r} and {b!r} without a path between them; {len(parts)} parts, their "
            f"nodes: {', '.join(sizes[:MOST_SHOWN] + rest)}",
            remedy=_ADVICE[kind],
        )


def _path_of(kind: str) -> tuple[str, ...]:
    """Return the path of the key that an error of the whole graph is reported at."""
    return (kind,) if kind in ("edges", "file") else ()
