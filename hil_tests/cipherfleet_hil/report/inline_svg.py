"""Matplotlib figures as inline SVG: in the page's colours, without ids and external resources."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

COLOURS = 8  # matplotlib's C0 to C7 are the page's --c0 to --c7
SOFT = "#000001"
_VARIABLES = {"#000000": "ink", SOFT: "soft", "#000002": "rule"} | {
    f"#00001{number}": f"c{number}" for number in range(COLOURS)
}
_STYLE_FILE = Path(__file__).parent / "page.mplstyle"
_TOOLTIP = "tip: "


@contextmanager
def page_style() -> Iterator[None]:
    """Draw in the style of the page, independent of this machine's matplotlib settings."""
    from matplotlib import rc_context

    with rc_context(fname=_STYLE_FILE), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph"
        )  # our font may lack a glyph; the browser has other fonts
        yield


def empty_figure(width: float, height: float) -> tuple[Any, Any]:
    """Return a figure of this size in pixels, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure((width / 72, height / 72))
    axes = figure.subplots()
    axes.patch.set_visible(False)
    return figure, axes


def tooltip(text: str) -> str:
    """Return the gid of an artist that shows *text* as a tooltip."""
    return _TOOLTIP + text


def inline(figure: Any, label: str) -> str:
    """Return the SVG element of *figure*; *label* is for screen readers."""
    file = StringIO()
    figure.savefig(file, format="svg")
    drawn = ElementTree.fromstring(file.getvalue())  # noqa: S314  # drawn here
    box = drawn.attrib["viewBox"]
    width, height = box.split()[2:]
    look = {"viewBox": box, "width": width, "height": height, "role": "img", "aria-label": label}
    svg = ElementTree.Element("svg", look)
    svg.extend(part for part in drawn if part.tag.endswith("}g"))  # no metadata, no definitions
    for element in svg.iter():
        _adapt(element)
    return ElementTree.tostring(svg, encoding="unicode")


def _adapt(element: ElementTree.Element) -> None:
    """Adapt *element* to the page: variables for colours, tooltips, no ids."""
    element.tag = element.tag.rpartition("}")[2]
    element.attrib.pop("clip-path", None)
    if style := element.get("style"):
        page = re.sub("#[0-9a-f]{6}", lambda found: f"var(--{_VARIABLES[found[0]]})", style)
        element.set("style", page)
    name = element.attrib.pop("id", "")
    if name.startswith(_TOOLTIP):
        title = ElementTree.Element("title")
        title.text = name.removeprefix(_TOOLTIP)
        element.insert(0, title)
