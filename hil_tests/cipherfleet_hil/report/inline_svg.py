"""Figures of matplotlib as parts of a page: in its colours, fetching nothing, without ids."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.figure import Figure

COLOURS = 8  # matplotlib's C0 to C7 are the page's --c0 to --c7
SOFT = "#000001"
_VARIABLES = {"#000000": "ink", SOFT: "soft", "#000002": "rule"} | {
    f"#00001{number}": f"c{number}" for number in range(COLOURS)
}
_STYLE_FILE = Path(__file__).parent / "page.mplstyle"
_TIP = "tip: "


@contextmanager
def page_look() -> Iterator[None]:
    """What is drawn within has the look of the page, whatever this machine's settings are."""
    with rc_context(fname=_STYLE_FILE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # that our font lacks: the browser has others
        yield


def blank(width: float, height: float) -> tuple[Any, Any]:
    """A figure of so many pixels, and its axes."""
    figure = Figure((width / 72, height / 72))
    axes = figure.subplots()
    axes.patch.set_visible(False)
    return figure, axes


def tip(text: str) -> str:
    """The gid of an artist that shows *text* under the pointer."""
    return _TIP + text


def inline(figure: Any, label: str) -> str:
    """The SVG element of *figure*, *label* for those who hear the page."""
    file = StringIO()
    figure.savefig(file, format="svg")
    drawn = ElementTree.fromstring(file.getvalue())  # noqa: S314  # our own
    box = drawn.attrib["viewBox"]
    width, height = box.split()[2:]
    look = {"viewBox": box, "width": width, "height": height, "role": "img", "aria-label": label}
    svg = ElementTree.Element("svg", look)
    svg.extend(part for part in drawn if part.tag.endswith("}g"))  # no metadata, no definitions
    for element in svg.iter():
        _settle(element)
    return ElementTree.tostring(svg, encoding="unicode")


def _settle(element: ElementTree.Element) -> None:
    """Make *element* one of the page's."""
    element.tag = element.tag.rpartition("}")[2]
    element.attrib.pop("clip-path", None)
    if style := element.get("style"):
        page = re.sub("#[0-9a-f]{6}", lambda found: f"var(--{_VARIABLES[found[0]]})", style)
        element.set("style", page)
    name = element.attrib.pop("id", "")
    if name.startswith(_TIP):
        title = ElementTree.Element("title")
        title.text = name.removeprefix(_TIP)
        element.insert(0, title)
