"""The documentation site builds without a warning and needs nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import pytest

from tests.support.paths import ROOT
from tests.tools.documentation_site import (
    LINK,
    build,
    copy_pages,
    link_for_site,
    page_text,
    sphinx_command,
)
from tests.tools.documentation_site import run as run_sphinx

# What a browser fetches by itself: a link that a reader may follow is none.
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc=["']?(?:https?:)?//"""
    r"""|<link\b[^>]*\bhref=["']?(?:https?:)?//|@import\s+["']?(?:url\()?["']?(?:https?:)?//"""
    r"""|url\(["']?(?:https?:)?//""",
    re.I,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(folder, folder / "html", jobs="1")  # beside other tests two are no faster
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return folder / "html"


def test_the_site_has_every_document(site: Path) -> None:
    for file in ("index", "README", "SECURITY", "node/PROTOCOL", "docs/reference/fleet-yaml"):
        assert (site / f"{file}.html").is_file(), file
    front = (site / "index.html").read_text()
    for caption in ("Tutorials", "How-to", "Reference", "Explanation", "Results"):
        assert f'<span class="caption-text">{caption}</span>' in front


def test_a_browser_fetches_nothing_from_elsewhere(site: Path) -> None:
    assert FETCHED.search('<script src="https://cdn.example/x.js">')
    files = [each for kind in ("html", "css") for each in site.rglob(f"*.{kind}")]
    assert len(files) > 40
    found = [(str(file), each) for file in files for each in FETCHED.findall(file.read_text())]
    assert not found


def test_the_search_works_without_a_server(site: Path) -> None:
    index = (site / "searchindex.js").read_text()
    assert index.startswith("Search.setIndex(")  # a script, not a file that a page would fetch
    for word in ("paillier", "homeassist", "enrol"):
        assert f'"{word}"' in index or f"{word}:" in index, word


def test_formulas_are_mathml_and_pages_have_a_dark_scheme(site: Path) -> None:
    page = (site / "docs/explanation/algorithm.html").read_text()
    assert page.count("<math ") > 50
    assert not re.search(r"<script[^>]*mathjax", page, re.I)
    assert "prefers-color-scheme: dark" in page
    assert "theme-toggle" in page


def test_the_python_api_has_the_docstrings(site: Path) -> None:
    page = (site / "docs/reference/python-api.html").read_text()
    for name in ("outputs.load", "Answer.predict", "Objective.gradient", "Output.publish"):
        assert name in page
    assert "unbiased over" in page  # of Objective.gradient


def test_every_fault_in_a_page_is_named_and_ends_the_build(tmp_path: Path) -> None:
    page = "# A\n\n[x](nowhere.md)\n\n[x](#no-heading)\n\n![x](nowhere.svg)\n\n### C\n"
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/index.md").write_text(page)
    (tmp_path / "pages/forgotten.md").write_text("# B\n")
    done = run_sphinx(sphinx_command(tmp_path, tmp_path / "html"))
    assert done.returncode != 0
    for complaint in ("nowhere.md", "no-heading", "nowhere.svg", "header level", "forgotten.md"):
        assert complaint in done.stderr


def test_links_to_files_that_are_no_pages_lead_to_the_source(tmp_path: Path) -> None:
    pages = {PurePosixPath("node/PROTOCOL.md"), PurePosixPath("docs/README.md")}
    text = page_text(PurePosixPath("docs/how-to/devices.md"), pages)
    assert "](https://code.cipherfleet.example/cipherfleet/blob/v" in text
    assert "deploy/devices/install.sh)" in text
    dead = "see [a file](../../node/nowhere.py)"
    page = PurePosixPath("docs/how-to/devices.md")
    assert LINK.sub(lambda found: link_for_site(found, page, pages), dead) == (
        "see [a file](../../node/nowhere.py)"
    )
    copy_pages(tmp_path / "pages")
    assert "](tutorials/attacks.md)" not in (tmp_path / "pages/index.md").read_text()
    assert (tmp_path / "pages/docs/images/demo.png").read_bytes() == (
        ROOT / "docs/images/demo.png"
    ).read_bytes()
