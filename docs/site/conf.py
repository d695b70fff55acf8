"""The settings of Sphinx for the documentation site; `make site` builds it."""

from __future__ import annotations

import functools
import re
import tomllib
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.search import languages
from sphinx.search.en import SearchEnglish

_PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]

project = _PROJECT["name"]
author = copyright = _PROJECT["authors"][0]["name"]  # noqa: A001 - Sphinx's name
version = release = _PROJECT["version"]
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "index"
language = "en_GB"
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # types of libraries, whose pages are elsewhere

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
myst_all_links_external = False

autodoc_typehints = "signature"
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"
pygments_style = "friendly"
pygments_dark_style = "monokai"


class _Search(SearchEnglish):
    """Finds the stem of a word once: most pages have the same words."""

    stem = functools.cache(SearchEnglish.stem)


def setup(app: Sphinx) -> dict[str, Any]:
    """Write formulas as MathML, which browsers show without a script or a font from elsewhere."""
    languages["en"] = _Search
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _visit_inline(translator: Any, node: nodes.Element) -> None:
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _visit_block(translator: Any, node: nodes.Element) -> None:
    r"""A formula on lines of its own, with the number of its \tag at the right."""
    text = node.astext()
    number = re.search(r"\\tag\{([^}]*)\}", text)
    formula = convert(text.replace(number[0], "") if number else text, display="block")
    shown = f'<span class="number">({number[1]})</span>' if number else ""
    translator.body.append(f'<div class="formula">{formula}{shown}</div>')
    raise nodes.SkipNode
