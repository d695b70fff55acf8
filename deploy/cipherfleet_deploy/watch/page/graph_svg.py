"""The graph of a fleet as SVG, with a link for each node. Its states are set by page.js."""

from __future__ import annotations

from html import escape

from cipherfleet_deploy.watch.table import ABSENT
from cipherfleet_provisioning.topology.graph import Graph

from .layout import lay_out

RADIUS = 17
MAX_NAMED = 120  # nodes; in a larger graph the names would be unreadable, and only links have them
MAX_NAME = 13  # characters


def draw_graph(graph: Graph) -> str:
    """Return the SVG element of *graph*. Equal graphs give the same text."""
    layout = lay_out(graph)
    lines = [_line(layout.positions[a], layout.positions[b], a, b) for a, b in graph.edges]
    nodes = [_node(name, layout.positions[name], len(graph.ids)) for name in graph.ids]
    label = f"graph of the fleet: {len(graph.ids)} nodes, {len(graph.edges)} links"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" id="graph" role="group" aria-label="{label}" '
        f'viewBox="0 0 {layout.width} {layout.height}" width="{layout.width}">'
        f'<g class="edges" aria-hidden="true">{"".join(lines)}</g>'
        f"<g>{''.join(nodes)}</g></svg>"
    )


def _line(start: tuple[float, float], end: tuple[float, float], a: str, b: str) -> str:
    (x1, y1), (x2, y2) = start, end
    return (
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" data-a="{escape(a)}" data-b="{escape(b)}"/>'
    )


def _node(name: str, place: tuple[float, float], count: int) -> str:
    x, y = place
    text = escape(name)
    shown = text if len(name) <= MAX_NAME else f"{escape(name[: MAX_NAME - 1])}…"
    below = f'<text class="name" x="{x}" y="{y + RADIUS + 15}">{shown}</text>'
    return (
        f'<a href="#node/{text}" class="node s-{ABSENT}" data-node="{text}" '
        f'aria-label="{text}: {ABSENT}"><title>{text}: {ABSENT}</title>'
        f'<circle cx="{x}" cy="{y}" r="{RADIUS}"/>'
        f'<text class="sign" x="{x}" y="{y}"></text>'
        f"{below if count <= MAX_NAMED else ''}</a>"
    )
