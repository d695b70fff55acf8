"""The topology section of fleet.yaml: its type, and the keys of each kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from msgspec import Meta

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import Count, Section
from cipherfleet_node.settings.type_errors import did_you_mean, dotted

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

# Required keys of their kinds, each with an example.
_EXAMPLES = {
    "degree": "degree: 4",
    "probability": "probability: 0.3",
    "neighbours": "neighbours: 6",
    "file": "file: net.graphml",
    "edges": "edges: [[a, b], [b, c]]",
}

COORDINATE = 1e9  # largest coordinate, in any unit; the square of a distance must be finite
Pair = tuple[int, int]  # of indices 0 .. n-1
Coordinate = Annotated[float, Meta(ge=-COORDINATE, le=COORDINATE)]


class Topology(Section, frozen=True):
    """The topology section as written; `build_graph` checks it and builds the graph.

    kind is one of KEYS_OF_KIND; it may be left out where edges or a file are given.
    """

    kind: Annotated[str, Meta(extra_json_schema={"enum": [*KEYS_OF_KIND]})] | None = None
    degree: Count | None = None  # random_regular: of every node
    probability: Annotated[float, Meta(gt=0, le=1)] | None = None  # of an edge, or of its rewiring
    neighbours: Count | None = None  # geometric: the nearest; small_world: before rewiring, even
    seed: Annotated[int, Meta(ge=0)] | None = None  # None: 0
    positions: dict[str, tuple[Coordinate, Coordinate]] | None = None  # of every node, by its id
    positions_file: str | None = None  # CSV with the columns id, x and y
    file: str | None = None  # GraphML, or two ids per line
    edges: list[tuple[str, str]] | None = None


class TopologyError(ConfigError):
    """The topology is not valid for the fleet.

    *path* leads from the topology section to the wrong value. With *path*, *message* and *remedy*
    the reader of the file can report the same error at its position.
    """

    path: tuple[str | int, ...]

    def __init__(self, path: tuple[str | int, ...], message: str, *, remedy: str = "") -> None:
        super().__init__(f"{dotted(('topology', *path))} {message}", path=path, remedy=remedy)
        self.message = message


def kind_of(topology: Topology) -> str | None:
    """Return the kind, which may be left out where edges or a file are given."""
    bare = next((key for key in ("edges", "file") if getattr(topology, key) is not None), None)
    return bare if topology.kind is None else topology.kind


def key_faults(topology: Topology) -> Iterator[TopologyError]:
    """Yield an error for an unknown kind, a missing key, and a key that the kind does not use."""
    kind = kind_of(topology)
    if kind is None:
        yield TopologyError(("kind",), f"is missing, must be {_one_of_kinds()}")
        return
    if kind not in KEYS_OF_KIND:
        text = f"is {kind!r}, must be {_one_of_kinds()}{did_you_mean(kind, KEYS_OF_KIND)}"
        yield TopologyError(("kind",), text)
        return
    for key in _KEYS:
        given = getattr(topology, key) is not None
        if given and key not in KEYS_OF_KIND[kind]:
            yield TopologyError((key,), f"does not belong to kind {kind}")
        if not given and key in KEYS_OF_KIND[kind] and key in _EXAMPLES:
            yield TopologyError((key,), f"is needed for kind {kind}, for example {_EXAMPLES[key]}")
    if kind == "geometric" and has_positions(topology):
        yield from _company_faults(topology)


_KEYS = [field for field in Topology.__struct_fields__ if field != "kind"]


def has_positions(topology: Topology) -> bool:
    return topology.positions is not None or topology.positions_file is not None


def _company_faults(topology: Topology) -> Iterator[TopologyError]:
    """Yield an error if positions are given twice, or together with a seed."""
    if topology.positions is not None and topology.positions_file is not None:
        yield TopologyError(
            ("positions_file",), "is given beside positions", remedy="leave one of them out"
        )
    if topology.seed is not None:
        text = "is for random positions, and the positions are given"
        yield TopologyError(("seed",), text, remedy="leave seed out")


def _one_of_kinds() -> str:
    *others, last = KEYS_OF_KIND
    return f"one of {', '.join(others)} or {last}: [[a, b], ...]"
