"""What a revocation leaves of a graph: its problems, and the edges that would repair it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from cipherfleet_node.settings.sections import LEAST_PARTICIPANTS

from .ledger import Ledger
from .topology.graph import Graph
from .topology.mixing import loosely_coupled

MAX_SHOWN = 5
Edge = tuple[str, str]


def find_problems(ledger: Ledger, gone: str) -> list[str]:
    """Return a warning for each problem of the graph, and then the remedy; empty without problems.

    *gone* is the node that has been revoked.
    """
    graph, needs_two = ledger.graph, ledger.exchange == "sealed" and ledger.leaves == "refuse"
    parts = graph.parts()
    alone = [name for name in graph.ids if graph.degree(name) == 0]
    leaves = [name for name in graph.ids if graph.degree(name) == 1]
    problems = []
    if len(parts) > 1:
        shown = " | ".join(_list_names(part) for part in parts[:MAX_SHOWN])
        problems.append(
            f"the fleet is in {len(parts)} parts, each with an answer of its own: {shown}"
        )
    if alone:
        problems.append(f"without a neighbour, these nodes wait: {_list_names(alone)}")
    if leaves and needs_two:
        problems.append(
            "with one neighbour only, these nodes keep their estimates, since a sealed sum over "
            f"one hides nothing: {_list_names(leaves)}"
        )
    problems += _find_shield_problems(ledger, graph, is_connected=len(parts) == 1)
    if not problems:
        return []
    edges = propose_edges(graph, least_degree=2 if needs_two else 1)
    least = LEAST_PARTICIPANTS if ledger.schedule is not None else 3 if needs_two else 2
    if len(graph.ids) < least:
        what = f"add nodes to fleet.yaml (this fleet needs {least})"
    else:
        shown = ", ".join(f"[{a}, {b}]" for a, b in edges)
        what = "add edges to fleet.yaml" + (f", such as {shown}" if shown else "")
    remedy = f"remedy: remove {gone!r} from fleet.yaml, {what}"
    return [*problems, f"{remedy}, and run: cipherfleet provision update FILE DIR"]


def _find_shield_problems(ledger: Ledger, graph: Graph, *, is_connected: bool) -> Iterator[str]:
    if ledger.schedule is None:
        return
    if len(graph.ids) < LEAST_PARTICIPANTS:
        yield f"with fewer than {LEAST_PARTICIPANTS} nodes there are no more generations"
    elif is_connected and not ledger.schedule.fits(graph):
        yield (
            f"the graph has diameter {graph.diameter}, and its generations allow "
            f"{ledger.schedule.roll_call // 2}: no new one takes place"
        )
    if ledger.is_quadratic and (loose := loosely_coupled(graph)):
        yield (
            "with links of little weight the quadratic shield may keep these nodes from settling: "
            f"{_list_names([name for name, _ in loose])}"
        )


def propose_edges(graph: Graph, least_degree: int) -> list[Edge]:
    """Return edges that connect *graph* and give each node *least_degree* neighbours, if possible.

    Nodes with the fewest neighbours come first.
    """
    added: list[Edge] = []
    for part, other in pairwise(graph.parts()):
        present = _with_edges(graph, added)
        added.append(_edge(graph, *(min(each, key=present.degree) for each in (part, other))))
    for name in graph.ids:
        present = _with_edges(graph, added)
        while present.degree(name) < least_degree:
            near = {name, *present.neighbours(name)}
            others = [other for other in graph.ids if other not in near]
            if not others:
                break
            added.append(_edge(graph, name, min(others, key=present.degree)))
            present = _with_edges(graph, added)
    return added


def _with_edges(graph: Graph, added: list[Edge]) -> Graph:
    return Graph(graph.ids, (*graph.edges, *added))


def _edge(graph: Graph, a: str, b: str) -> Edge:
    first, second = sorted((a, b), key=graph.ids.index)
    return first, second


def _list_names(names: list[str]) -> str:
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(map(repr, names[:MAX_SHOWN])) + more
