"""Read the edges from a file of another program: GraphML, or a list with two node ids per line.

The reader keeps the line and column of every edge for error messages. It refuses document types and
entities in XML, because an attacker could use them to exhaust memory or to read other files.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

from cipherfleet_node.errors import ConfigError, Mark

MAX_FILE_BYTES = 32 * 2**20
MAX_EDGES = 1_000_000
GRAPHML_ENDINGS = (".graphml", ".xml")
LIST_ENDINGS = (".txt", ".edges", ".edgelist")
_NESTED = "is {}, must be a plain graph of <node> and <edge>"

# Line and column, from 1. A Mark for each of a million edges would take too much memory.
Place = tuple[int, int]


class FileEdge(NamedTuple):
    """Two node ids, and the line and column of each."""

    ends: tuple[str, str]
    places: tuple[Place, Place]


class GraphFile(NamedTuple):
    """The edges of a file in their order, and the nodes that it declares (GraphML only)."""

    file: Path
    edges: list[FileEdge]
    nodes: Mapping[str, Place]

    def mark(self, place: Place) -> Mark:
        """Return the place as file, line and column, for an error."""
        return Mark(str(self.file), *place)


def read_graph_file(file: Path) -> GraphFile:
    """Read *file* in the format of its ending; raises ConfigError with file, line and column."""
    ending = file.suffix.lower()
    if ending in GRAPHML_ENDINGS:
        found = _GraphmlReader(file).read(_read_bytes(file))
    elif ending in LIST_ENDINGS:
        found = GraphFile(file, _parse_edge_list(file, _read_text(file)), {})
    else:
        endings = ", ".join(LIST_ENDINGS)
        raise ConfigError(f"{file}: must end in .graphml (GraphML) or {endings} (a list of edges)")
    if not found.edges:
        raise ConfigError(f"{file}:1:1: has no edges, must link every node of the fleet")
    return found


def _read_bytes(file: Path) -> bytes:
    """Read *file*, at most MAX_FILE_BYTES; raises ConfigError."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # opening a pipe would block
            raise ConfigError(f"{file}: is not a regular file")
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError:  # a null character in the name
        raise ConfigError(f"{file}: cannot be read: the name is not allowed") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{file}: has more than {MAX_FILE_BYTES} bytes, the most allowed")
    return data


def _read_text(file: Path) -> str:
    data = _read_bytes(file)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{file}:{line}:1: is not UTF-8 text") from None


def _check_count(edges: list[FileEdge], mark: Mark) -> None:
    if len(edges) >= MAX_EDGES:
        raise ConfigError(f"{mark}: has more than {MAX_EDGES} edges, the most allowed")


def _parse_edge_list(file: Path, text: str) -> list[FileEdge]:
    """Parse two ids per line, separated by blanks, a tab or a comma; # begins a comment."""
    edges: list[FileEdge] = []
    for number, line in enumerate(text.split("\n"), 1):
        words = list(re.finditer(r"[^\s,]+", line.partition("#")[0]))
        if not words:
            continue
        places = [(number, word.start() + 1) for word in words[:2]]
        if len(words) != 2:
            raise ConfigError(
                f"{Mark(str(file), *places[0])}: has {len(words)} "
                f"word{'s' * (len(words) > 1)}, must be two node ids",
                remedy="remove weights and other data (networkx: write_edgelist(..., data=False))",
            )
        _check_count(edges, Mark(str(file), *places[0]))
        edges.append(FileEdge((words[0][0], words[1][0]), (places[0], places[1])))
    return edges


class _GraphmlReader:
    """Collects <node> and <edge> while the file is parsed, and ignores all other elements."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._edges: list[FileEdge] = []
        self._nodes: dict[str, Place] = {}
        self._elements = self._graphs = 0
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype
        self._parser.StartElementHandler = self._element

    def read(self, data: bytes) -> GraphFile:
        """Parse *data* and return its edges and nodes; raises ConfigError."""
        try:
            self._parser.Parse(data, True)
        except expat.ExpatError as error:
            mark = Mark(str(self._file), error.lineno, error.offset + 1)
            reason = expat.ErrorString(error.code)
            raise ConfigError(f"{mark}: is not valid XML: {reason}") from None
        except (LookupError, ValueError):
            raise self._error(
                "has an encoding that is not known", remedy="write it in UTF-8"
            ) from None
        return GraphFile(self._file, self._edges, self._nodes)

    def _place(self) -> Place:
        return self._parser.CurrentLineNumber, self._parser.CurrentColumnNumber + 1

    def _error(self, text: str, *, remedy: str = "") -> ConfigError:
        return ConfigError(f"{Mark(str(self._file), *self._place())}: {text}", remedy=remedy)

    def _refuse_doctype(self, *_: object) -> None:
        # Only a document type can declare entities. A few entities can expand to gigabytes, or
        # include other files.
        raise self._error("has a document type or entities, which GraphML never needs: remove them")

    def _element(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(" ")[2]  # without the namespace
        self._elements += 1
        if self._elements == 1 and local != "graphml":
            raise self._error(f"begins with <{local[:40]}>, must be GraphML, in <graphml>")
        match local:
            case "graph":
                self._graph(attributes)
            case "node":
                self._nodes.setdefault(self._value(local, attributes, "id"), self._place())
            case "edge":
                self._edge(attributes)
            case "hyperedge" | "port":
                raise self._error(_NESTED.format(f"a <{local}>"))

    def _graph(self, attributes: dict[str, str]) -> None:
        self._graphs += 1
        if self._graphs > 1:
            raise self._error(_NESTED.format("a second graph"))
        self._refuse_direction(attributes.get("edgedefault") == "directed")

    def _edge(self, attributes: dict[str, str]) -> None:
        self._refuse_direction(attributes.get("directed") == "true")
        place = self._place()
        _check_count(self._edges, Mark(str(self._file), *place))
        ends = [self._value("edge", attributes, key) for key in ("source", "target")]
        self._edges.append(FileEdge((ends[0], ends[1]), (place, place)))

    def _value(self, element: str, attributes: dict[str, str], key: str) -> str:
        if key not in attributes:
            raise self._error(f"is <{element}> without {key}")
        return attributes[key]

    def _refuse_direction(self, directed: bool) -> None:
        if directed:
            raise self._error(
                "is directed, must be undirected: neighbours query each other (networkx: "
                "G.to_undirected())"
            )
