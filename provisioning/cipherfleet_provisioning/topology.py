"""Who is whose neighbour: the topology section of fleet.yaml, and the graph it describes.

Every kind but `edges` and `file` is a recipe for any number of nodes. The random ones are drawn
from a seed: the same fleet.yaml gives the same graph on every machine.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, count, islice, pairwise
from math import isqrt
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta

from cipherfleet_node.core.packing import MAX_DEGREE
from cipherfleet_node.core.randomness import Draws, FloatVector
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.sensors import CsvTable
from cipherfleet_node.settings.sections import Count, Section
from cipherfleet_node.settings.type_errors import dotted, meant, nearest

from .graph_file import FileEdge, read_graph_file

KEYS_OF_KIND: Mapping[str, tuple[str, ...]] = {
    "ring": (),
    "line": (),
    "star": (),
    "grid": (),
    "torus": (),
    "complete": (),
    "random_regular": ("degree", "seed"),
    "erdos_renyi": ("probability", "seed"),
    "small_world": ("neighbours", "probability", "seed"),
    "geometric": ("neighbours", "seed", "positions", "positions_file"),
    "file": ("file",),
    "edges": ("edges",),
}
# Keys without which their kinds mean nothing.
_EXAMPLES = {
    "degree": "degree: 4",
    "probability": "probability: 0.3",
    "neighbours": "neighbours: 6",
    "file": "file: net.graphml",
    "edges": "edges: [[a, b], [b, c]]",
}
_ADVICE = {
    "random_regular": "try another seed or a greater degree",
    "erdos_renyi": "try another seed or a greater probability",
    "geometric": "try another seed or more neighbours",
    "positions": "ask for more neighbours, or move a part nearer",
    "file": "add an edge between its parts",
    "edges": "add an edge between their parts",
}
COORDINATE = 1e9  # of a position, in any unit; the square of a distance must be finite
SMALLEST_SIDE = 3  # of a torus: with two nodes in a row, both ways round are one edge
TRIES = 100  # to draw a small world that is connected
_BLOCK = 64  # nodes whose distances to all others are worked out at once
_WORD = 80  # characters of an unknown word that are looked at
_SHOWN = 4  # parts or ids that a message names

Pair = tuple[int, int]
Coordinate = Annotated[float, Meta(ge=-COORDINATE, le=COORDINATE)]


class Topology(Section, frozen=True):
    """The section as written; `build_graph` checks it and gives it a meaning.

    kind is one of KEYS_OF_KIND and may be left out where edges or a file are given.
    """

    kind: Annotated[str, Meta(extra_json_schema={"enum": [*KEYS_OF_KIND]})] | None = None
    degree: Count | None = None  # random_regular: of every node
    probability: Annotated[float, Meta(gt=0, le=1)] | None = None  # of an edge, or of its rewiring
    neighbours: Count | None = None  # geometric: the nearest; small_world: before rewiring, even
    seed: Annotated[int, Meta(ge=0)] | None = None  # None: 0
    positions: dict[str, tuple[Coordinate, Coordinate]] | None = None  # of every node, by its id
    positions_file: str | None = None  # CSV with the columns id, x and y
    file: str | None = None  # GraphML, or two ids a line
    edges: list[tuple[str, str]] | None = None


class TopologyError(ConfigError):
    """A topology that no fleet can have.

    *path* leads from the topology section to the value at fault, so that the reader of a file can
    say where it stands: `document.error(("topology", *error.path), error.message)`.
    """

    path: tuple[str | int, ...]

    def __init__(self, path: tuple[str | int, ...], message: str) -> None:
        super().__init__(f"{dotted(('topology', *path))} {message}", path=path)
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


def build_graph(
    topology: Topology, ids: Sequence[str], folder: Path = Path(), others: Collection[str] = ()
) -> Graph:
    """The connected graph that *topology* describes over *ids* (at least two, all different).

    Files are looked for in *folder*; *others* are known nodes that are left out of this graph, and
    may have positions. Raises TopologyError, which names the key at fault and what would do
    instead.
    """
    for fault in section_faults(topology, ids, others):
        raise fault
    kind = _kind_of(topology)
    assert kind is not None, "is a fault of the section"
    if len(ids) < 2:
        raise TopologyError((), f"needs at least 2 nodes, the fleet has {len(ids)}")
    graph = _graph(ids, _pairs(kind, topology, ids, folder, others))
    _check_degrees(graph, kind)
    _check_connected(graph, "positions" if _has_positions(topology) else kind)
    return graph


def _pairs(
    kind: str, topology: Topology, ids: Sequence[str], folder: Path, others: Collection[str]
) -> Iterable[Pair]:
    """The edges as places 0 .. n-1, each of them once or twice."""
    if topology.edges is not None:
        return _named_pairs(topology.edges, ids)
    if topology.file is not None:
        return _pairs_of_file(topology.file, ids, folder)
    if _has_positions(topology):
        assert topology.neighbours is not None
        return _nearest(_positions(topology, ids, folder, others), topology.neighbours)
    return _RECIPES[kind](len(ids), topology)


# -- the section itself -------------------------------------------------------------------------


def section_faults(
    topology: Topology, ids: Sequence[str], others: Collection[str] = ()
) -> Iterator[TopologyError]:
    """All that is wrong with the keys of the section, or else with the positions in it."""
    faults = list(_key_faults(topology))
    yield from faults
    if not faults and topology.positions is not None:
        yield from _position_faults(topology.positions, ids, others)


def _kind_of(topology: Topology) -> str | None:
    """The kind, which edges and a file need not say."""
    bare = next((key for key in ("edges", "file") if getattr(topology, key) is not None), None)
    return topology.kind or bare


def _key_faults(topology: Topology) -> Iterator[TopologyError]:
    """Keys that the kind lacks or has no use for, and a kind that there is not."""
    kind = _kind_of(topology)
    if kind is None:
        yield TopologyError(("kind",), f"is missing, must be {_one_of_kinds()}")
        return
    if kind not in KEYS_OF_KIND:
        text = f"is {kind!r}, must be {_one_of_kinds()}{meant(kind, KEYS_OF_KIND)}"
        yield TopologyError(("kind",), text)
        return
    for key in _KEYS:
        given = getattr(topology, key) is not None
        if given and key not in KEYS_OF_KIND[kind]:
            yield TopologyError((key,), f"does not belong to kind {kind}")
        if not given and key in KEYS_OF_KIND[kind] and key in _EXAMPLES:
            yield TopologyError((key,), f"is needed for kind {kind}, for example {_EXAMPLES[key]}")
    if kind == "geometric" and _has_positions(topology):
        yield from _company_faults(topology)


_KEYS = [field for field in Topology.__struct_fields__ if field != "kind"]


def _has_positions(topology: Topology) -> bool:
    return topology.positions is not None or topology.positions_file is not None


def _company_faults(topology: Topology) -> Iterator[TopologyError]:
    """Positions are given once, and leave nothing to chance."""
    if topology.positions is not None and topology.positions_file is not None:
        yield TopologyError(("positions_file",), "is given beside positions; leave one of them out")
    if topology.seed is not None:
        yield TopologyError(("seed",), "draws positions, which are given; leave seed out")


def _one_of_kinds() -> str:
    *others, last = KEYS_OF_KIND
    return f"one of {', '.join(others)} or {last}: [[a, b], ...]"


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


def _torus(n: int, _: Topology) -> Iterable[Pair]:
    """As square as n allows, each row and column closed to a ring: 4 neighbours everywhere."""
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
    """The greatest divisor of n up to its root, None where that is too small."""
    return max((r for r in range(SMALLEST_SIDE, isqrt(n) + 1) if n % r == 0), default=None)


def _outwards(n: int) -> list[Iterable[int]]:
    """The numbers below n, nearest first, and those above it."""
    smallest = SMALLEST_SIDE**2
    return [range(n, smallest - 1, -1), count(n)] if n > smallest else [count(n)]


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
    if degree > MAX_DEGREE:
        raise TopologyError(("degree",), f"is {degree}, at most {MAX_DEGREE} are allowed")
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
    chances = _draws(topology).uniform("topology/erdos_renyi", n * (n - 1) // 2)
    linked = chances < topology.probability
    for i in range(n - 1):
        row, linked = linked[: n - 1 - i], linked[n - 1 - i :]
        yield from ((i, i + 1 + int(j)) for j in np.flatnonzero(row))


def _small_world(n: int, topology: Topology) -> Iterable[Pair]:
    """A ring lattice, each edge rewired with *probability* (Watts and Strogatz, 1998)."""
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
    import networkx as nx  # noqa: PLC0415 - as above

    try:
        edges: Iterable[Pair] = nx.connected_watts_strogatz_graph(
            n, neighbours, topology.probability, TRIES, topology.seed or 0
        ).edges
    except nx.NetworkXError:
        raise TopologyError(
            (),
            f"of kind small_world was in pieces {TRIES} times; ask for more neighbours or a "
            "smaller probability",
        ) from None
    return edges


def _geometric(n: int, topology: Topology) -> Iterable[Pair]:
    """Nodes at random in the unit square, each linked to its nearest *neighbours*."""
    assert topology.neighbours is not None
    return _nearest(random_places(n, topology), topology.neighbours)


def random_places(n: int, topology: Topology) -> FloatVector:
    """In the unit square, shape (n, 2): those of a geometric *topology*."""
    return _draws(topology).uniform("topology/geometric", 2 * n).reshape(n, 2)


def _nearest(places: FloatVector, neighbours: int) -> Iterator[Pair]:
    """Each place, shape (n, 2), with the *neighbours* nearest to it; the earlier of equally near.

    The work is n^2, done in blocks: the memory is not.
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


def _draws(topology: Topology) -> Draws:
    return Draws(hashlib.sha256(str(topology.seed or 0).encode()).digest())


_RECIPES: Mapping[str, Callable[[int, Topology], Iterable[Pair]]] = {
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


# -- given positions ----------------------------------------------------------------------------


def _positions(
    topology: Topology, ids: Sequence[str], folder: Path, others: Collection[str]
) -> FloatVector:
    """Where the nodes stand, shape (n, 2), in the order of *ids*."""
    if topology.positions is not None:
        found = topology.positions
    else:
        assert topology.positions_file is not None
        file = folder / topology.positions_file
        try:
            found = _read_positions(file, {*ids, *others})
        except ConfigError as error:
            raise TopologyError(("positions_file",), f"leads to {error}{near(file)}") from None
        missing = [node for node in ids if node not in found]
        if missing:
            text = f"is {topology.positions_file!r}, which {_lacks(missing)}"
            raise TopologyError(("positions_file",), text)
    return np.array([found[node] for node in ids], dtype=np.float64)


def _position_faults(
    positions: Mapping[str, object], ids: Sequence[str], others: Collection[str]
) -> Iterator[TopologyError]:
    """Positions of no node, and nodes that are not meant by one of those and have none."""
    known = {*ids, *others}
    missing = [node for node in ids if node not in positions]
    for node in positions:
        if node not in known:
            close = nearest(node, missing)
            hint = meant(node, [close] if close else ids)
            yield TopologyError(("positions", node), f"belongs to no node{hint}")
            missing = [other for other in missing if other != close]
    if missing:
        yield TopologyError(("positions",), _lacks(missing))


def _lacks(missing: Sequence[str]) -> str:
    return f"lacks {_some(missing)}: every node needs a position"


def near(file: Path) -> str:
    """Which file of the folder was meant, if *file* is none."""
    try:
        return "" if file.exists() else meant(file.name, [f.name for f in file.parent.iterdir()])
    except (OSError, ValueError):
        return ""


def _read_positions(file: Path, known: Collection[str]) -> dict[str, tuple[float, float]]:
    """The columns id, x and y of *file*; raises ConfigError with its line."""
    table = CsvTable(file)
    for column in ("id", "x", "y"):
        if column not in table.columns:
            raise ConfigError(f"{file}:1: has no column {column!r}, must have id, x and y")
    limits = dict.fromkeys(("x", "y"), (-COORDINATE, COORDINATE))
    samples = table.samples({}, ("x", "y"), limits)
    found: dict[str, tuple[float, float]] = {}
    for row, sample in zip(table.select({}), samples, strict=True):
        node = row.cells[table.columns.index("id")].strip()
        if node not in known:
            text = f"{node[:_WORD]!r} is no node{meant(node, known)}"
            raise ConfigError(f"{file}:{row.line}: {text}")
        if node in found:
            raise ConfigError(f"{file}:{row.line}: gives {node!r} a second position")
        found[node] = sample.values["x"], sample.values["y"]
    return found


def _some(names: Sequence[str]) -> str:
    """'a', 'b' and 7 others."""
    shown = ", ".join(map(repr, names[:_SHOWN]))
    rest = len(names) - _SHOWN
    return f"{shown} and {rest} other{'s' * (rest > 1)}" if rest > 0 else shown


# -- given edges --------------------------------------------------------------------------------


def _named_pairs(edges: Sequence[tuple[str, str]], ids: Sequence[str]) -> list[Pair]:
    """The places of the edges in the section."""

    def refusal(index: int, side: int | None, text: str) -> TopologyError:
        end = () if side is None else (side,)
        return TopologyError(("edges", index, *end), text)

    return _checked_pairs(edges, ids, refusal, lambda index: f"edges[{index}]")


def _pairs_of_file(name: str, ids: Sequence[str], folder: Path) -> list[Pair]:
    """The places of the edges in a file, which must link every node."""
    try:
        listed = read_graph_file(folder / name)
    except ConfigError as error:
        raise TopologyError(("file",), f"leads to {error}{near(folder / name)}") from None
    edges: list[FileEdge] = listed.edges

    def refusal(index: int, side: int | None, text: str) -> TopologyError:
        what = "an edge" if side is None else "an end of an edge"
        mark = listed.mark(edges[index].places[side or 0])
        return TopologyError(("file",), f"leads to {mark}: {what} {text}")

    pairs = _checked_pairs(
        [edge.ends for edge in edges],
        ids,
        refusal,
        lambda index: f"the one in line {edges[index].places[0][0]}",
    )
    known = set(ids)
    for node, place in listed.nodes.items():
        if node not in known:
            text = f"{node[:_WORD]!r} is no node of the fleet{meant(node, ids)}"
            raise TopologyError(("file",), f"leads to {listed.mark(place)}: {text}")
    linked = {end for pair in pairs for end in pair}
    missing = [node for end, node in enumerate(ids) if end not in linked]
    if missing:
        text = f"is {name!r}, which has no edge of {_some(missing)}: every node needs a neighbour"
        raise TopologyError(("file",), text)
    return pairs


def _checked_pairs(
    edges: Sequence[tuple[str, str]],
    ids: Sequence[str],
    refusal: Callable[[int, int | None, str], TopologyError],
    name: Callable[[int], str],
) -> list[Pair]:
    """The places of *edges*; raises *refusal* for what is no edge between two nodes."""
    place = {node: i for i, node in enumerate(ids)}
    first: dict[frozenset[str], int] = {}
    for index, edge in enumerate(edges):
        for side, node in enumerate(edge):
            if node not in place:
                text = f"is {node[:_WORD]!r}, which is no node{meant(node, ids)}"
                raise refusal(index, side, text)
        a, b = edge
        if a == b:
            raise refusal(index, None, f"links {a!r} to itself")
        earlier = first.setdefault(frozenset(edge), index)
        if earlier != index:
            raise refusal(index, None, f"links {a!r} and {b!r}, as {name(earlier)} does already")
    return [(place[a], place[b]) for a, b in edges]


# -- the graph ----------------------------------------------------------------------------------


def _graph(ids: Sequence[str], pairs: Iterable[Pair]) -> Graph:
    # A recipe gives an edge at most twice: of more pairs than these, some node has too many.
    enough = islice(pairs, len(ids) * MAX_DEGREE + 1)
    ordered = sorted({(min(pair), max(pair)) for pair in enough})
    return Graph(tuple(ids), tuple((ids[a], ids[b]) for a, b in ordered))


def _check_degrees(graph: Graph, kind: str) -> None:
    busiest = max(graph.ids, key=graph.degree)
    if graph.degree(busiest) > MAX_DEGREE:
        raise TopologyError(
            _path_of(kind),
            f"gives {busiest!r} {graph.degree(busiest)} neighbours, at most {MAX_DEGREE} are "
            "allowed; choose a sparser graph, for example {kind: geometric, neighbours: 6}",
        )


def _check_connected(graph: Graph, kind: str) -> None:
    """*kind* may be "positions": geometric, without anything drawn."""
    parts = graph.parts()
    if len(parts) > 1:
        # ring, line, star, grid, torus, complete and small_world are connected once they are built
        a, b = parts[0][0], parts[1][0]
        sizes = [f"{len(part)} with {part[0]!r}" for part in parts]
        rest = [f"{len(sizes) - _SHOWN} more"] if len(sizes) > _SHOWN else []
        raise TopologyError(
            _path_of(kind),
            f"leaves {a!r} and {b!r} without a path between them; {len(parts)} parts, their nodes: "
            f"{', '.join(sizes[:_SHOWN] + rest)}; {_ADVICE[kind]}",
        )


def _path_of(kind: str) -> tuple[str, ...]:
    """The key at fault where the graph as a whole is."""
    return (kind,) if kind in ("edges", "file") else ()
