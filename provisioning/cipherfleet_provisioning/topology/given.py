"""Topologies that are given by edges, by positions or by a file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cipherfleet_node.core.randomness import FloatVector
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.sensors import CsvTable
from cipherfleet_node.settings.type_errors import did_you_mean, nearest

from .graph_file import FileEdge, read_graph_file
from .section import COORDINATE, Pair, Topology, TopologyError

_WORD = 80  # an error shows at most so many characters of an unknown id
MOST_SHOWN = 4  # an error names at most so many parts or ids


def read_positions(
    topology: Topology, ids: Sequence[str], folder: Path, others: Collection[str]
) -> FloatVector:
    """Return the positions of the nodes, shape (n, 2), in the order of *ids*."""
    if topology.positions is not None:
        found = topology.positions
    else:
        assert topology.positions_file is not None
        file = folder / topology.positions_file
        try:
            found = _read_positions(file, {*ids, *others})
        except ConfigError as error:
            text = f"leads to {error.text}{near(file)}"
            raise TopologyError(("positions_file",), text, remedy=error.remedy) from None
        missing = [node for node in ids if node not in found]
        if missing:
            text = f"is {topology.positions_file!r}, which {_lacking_text(missing)}"
            raise TopologyError(("positions_file",), text)
    return np.array([found[node] for node in ids], dtype=np.float64)


def position_faults(
    positions: Mapping[str, object], ids: Sequence[str], others: Collection[str]
) -> Iterator[TopologyError]:
    """Yield an error for each position of an unknown node, and one for nodes without a position.

    A node whose misspelt id has a position is not reported as missing.
    """
    known = {*ids, *others}
    missing = [node for node in ids if node not in positions]
    for node in positions:
        if node not in known:
            close = nearest(node, missing)
            hint = did_you_mean(node, [close] if close else ids)
            yield TopologyError(("positions", node), f"belongs to no node{hint}")
            missing = [other for other in missing if other != close]
    if missing:
        yield TopologyError(("positions",), _lacking_text(missing))


def _lacking_text(missing: Sequence[str]) -> str:
    return f"lacks {_list_some(missing)}: every node needs a position"


def near(file: Path) -> str:
    """Return a suggestion from the files in the folder, if *file* does not exist."""
    try:
        return (
            ""
            if file.exists()
            else did_you_mean(file.name, [f.name for f in file.parent.iterdir()])
        )
    except (OSError, ValueError):
        return ""


def _read_positions(file: Path, known: Collection[str]) -> dict[str, tuple[float, float]]:
    """Read the columns id, x and y of *file*; raises ConfigError with file and line."""
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
            text = f"{node[:_WORD]!r} is no node{did_you_mean(node, known)}"
            raise ConfigError(f"{file}:{row.line}: {text}")
        if node in found:
            raise ConfigError(f"{file}:{row.line}: gives {node!r} a second position")
        found[node] = sample.values["x"], sample.values["y"]
    return found


def _list_some(names: Sequence[str]) -> str:
    """Return a list for a message, such as: 'a', 'b' and 7 others."""
    shown = ", ".join(map(repr, names[:MOST_SHOWN]))
    rest = len(names) - MOST_SHOWN
    return f"{shown} and {rest} other{'s' * (rest > 1)}" if rest > 0 else shown


def pairs_of_names(edges: Sequence[tuple[str, str]], ids: Sequence[str]) -> list[Pair]:
    """Return the edges of the section as pairs of indices into *ids*."""

    def refusal(index: int, side: int | None, text: str) -> TopologyError:
        end = () if side is None else (side,)
        return TopologyError(("edges", index, *end), text)

    return _checked_pairs(edges, ids, refusal, lambda index: f"edges[{index}]")


def pairs_of_file(name: str, ids: Sequence[str], folder: Path) -> list[Pair]:
    """Return the edges in a file as pairs of indices into *ids*; the file must link every node."""
    try:
        listed = read_graph_file(folder / name)
    except ConfigError as error:
        text = f"leads to {error.text}{near(folder / name)}"
        raise TopologyError(("file",), text, remedy=error.remedy) from None
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
            text = f"{node[:_WORD]!r} is no node of the fleet{did_you_mean(node, ids)}"
            raise TopologyError(("file",), f"leads to {listed.mark(place)}: {text}")
    linked = {end for pair in pairs for end in pair}
    missing = [node for end, node in enumerate(ids) if end not in linked]
    if missing:
        text = (
            f"is {name!r}, which has no edge of {_list_some(missing)}: every node needs a neighbour"
        )
        raise TopologyError(("file",), text)
    return pairs


def _checked_pairs(
    edges: Sequence[tuple[str, str]],
    ids: Sequence[str],
    refusal: Callable[[int, int | None, str], TopologyError],
    name: Callable[[int], str],
) -> list[Pair]:
    """Return *edges* as pairs of indices; raises *refusal* if one does not link two nodes."""
    place = {node: i for i, node in enumerate(ids)}
    first: dict[frozenset[str], int] = {}
    for index, edge in enumerate(edges):
        for side, node in enumerate(edge):
            if node not in place:
                text = f"is {node[:_WORD]!r}, which is no node{did_you_mean(node, ids)}"
                raise refusal(index, side, text)
        a, b = edge
        if a == b:
            raise refusal(index, None, f"links {a!r} to itself")
        earlier = first.setdefault(frozenset(edge), index)
        if earlier != index:
            raise refusal(index, None, f"links {a!r} and {b!r}, as {name(earlier)} does already")
    return [(place[a], place[b]) for a, b in edges]
