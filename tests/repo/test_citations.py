"""Every document and anchor that code or a document cites exists."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

FOLDERS = "node|broker|provisioning|analysis|deploy|hil_tests|lab|docs|examples|benchmarks|tests"
# docs/explanation/algorithm.md#quantiser, or PROTOCOL.md where one file alone has that name
CITATION = re.compile(
    rf"(?<![\w./-])((?:(?:{FOLDERS})/(?:[\w-]+/)*)?(?:[A-Z]+|(?<=/)[\w-]+)\.md)(?:#([\w-]+))?"
)
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
# A document by its old short name, which leads nowhere: ALGORITHM with a number of a section.
SHORT_NAME = re.compile(r"\b[A-Z]{4,} (?:section|decision|rule)s? \d")
FENCE = re.compile(r"^```.*?^```", re.S | re.M)


def anchors_of(document: str) -> set[str]:
    """The anchors of a Markdown text: explicit ones, and its headings as GitHub spells them."""
    text = FENCE.sub("", document)
    anchors = set(re.findall(r'<a id="([\w-]+)">', text))
    for heading in re.findall(r"^#{1,6} +(.*?) *$", text, re.M):
        words = re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", heading)).lower()
        slug = words.strip().replace(" ", "-")
        count = 0
        while (anchor := f"{slug}-{count}" if count else slug) in anchors:
            count += 1
        anchors.add(anchor)
    return anchors


def faults_of(file: Path, root: Path) -> Iterator[str]:
    """What *file* (.py or .md), somewhere beneath *root*, cites that is not there."""
    text = file.read_text()
    place = file.relative_to(root)
    for found in SHORT_NAME.findall(text):
        yield f"{place}: {found!r} names no file"
    for target, anchor in CITATION.findall(text):
        yield from _missing(place, _cited(target, root), target, anchor)
    if file.suffix != ".md":
        return
    for target, anchor in LINK.findall(FENCE.sub("", text)):
        if "://" not in target:
            yield from _missing(place, file.parent / target if target else file, target, anchor)


def _cited(target: str, root: Path) -> Path:
    """The file that *target* means: from the root, or the only one of that name."""
    if "/" in target or (root / target).exists():
        return root / target
    named = [found for found in documents(root) if found.name == target]
    return named[0] if len(named) == 1 else root / target


def _missing(place: Path, target: Path, spelt: str, anchor: str) -> Iterator[str]:
    if not target.exists():
        yield f"{place}: {spelt} does not exist"
    elif anchor and target.suffix == ".md" and anchor not in anchors_of(target.read_text()):
        yield f"{place}: {spelt} has no anchor #{anchor}"


def documents(root: Path) -> list[Path]:
    """The Markdown files beneath *root* that belong to the repository."""
    hidden = {".git", ".venv", ".pytest_cache", "cipherfleet-out"}
    return [file for file in root.rglob("*.md") if not hidden & set(file.parts)]


def cited_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    files = [ROOT / name for name in listed] or [  # no checkout: an unpacked archive
        file
        for folder in FOLDERS.split("|")
        for suffix in ("*.py", "*.md")
        for file in (ROOT / folder).rglob(suffix)
    ]
    return [file for file in files if file != Path(__file__) and file.is_file()]


def test_every_citation_leads_to_a_file_and_an_anchor() -> None:
    files = cited_files()
    assert len(files) > 300
    assert [fault for file in files for fault in faults_of(file, ROOT)] == []


def test_the_code_cites_the_explanations() -> None:
    found = {
        target
        for file in cited_files()
        if file.suffix == ".py"
        for target, _ in CITATION.findall(file.read_text())
    }
    for name in ("algorithm", "cryptography"):
        assert f"docs/explanation/{name}.md" in found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('"""Source: docs/page.md#the-first-part."""', None),
        ('"""Source: docs/page.md#eq-1; node/PROTOCOL.md."""', None),
        ("# as PROTOCOL.md says", None),
        ("Path('results') / 'attacks.md'", None),
        ("'results/attacks.md'", None),
        ('"""Source: docs/page.md#the-second-part."""', "has no anchor #the-second-part"),
        ('"""Source: docs/other.md."""', "docs/other.md does not exist"),
        ("# see OTHER.md", "OTHER.md does not exist"),
        ('"""Source: ALGORITHM section 2."""', "names no file"),
    ],
)
def test_a_wrong_citation_in_code_is_found(tmp_path: Path, text: str, fault: str | None) -> None:
    repository(tmp_path)
    file = tmp_path / "module.py"
    file.write_text(text)
    assert_faults(list(faults_of(file, tmp_path)), fault)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[part](page.md#the-first-part), [here](#title)\n# Title", None),
        ("[web](https://example.org/x#y)", None),
        ("```\n[not a link](nowhere.md)\n```", None),
        ("[part](page.md#no-part)", "has no anchor #no-part"),
        ("[part](pages.md)", "pages.md does not exist"),
        ("[here](#nowhere)", "has no anchor #nowhere"),
        ("`docs/page.md#no-part`", "has no anchor #no-part"),
    ],
)
def test_a_wrong_link_in_a_document_is_found(tmp_path: Path, text: str, fault: str | None) -> None:
    repository(tmp_path)
    file = tmp_path / "docs" / "index.md"
    file.write_text(text)
    assert_faults(list(faults_of(file, tmp_path)), fault)


def test_anchors_are_spelt_as_github_spells_them() -> None:
    text = "# The *first* part: a `word`\n## Twice\n## Twice\n```\n# not a heading\n```\n"
    text += '<a id="eq-1"></a>\n'
    assert anchors_of(text) == {"the-first-part-a-word", "twice", "twice-1", "eq-1"}


def repository(root: Path) -> None:
    for name, text in {
        "docs/page.md": '# The first part\n<a id="eq-1"></a>\n',
        "node/PROTOCOL.md": "# Protocol\n",
    }.items():
        (root / name).parent.mkdir()
        (root / name).write_text(text)


def assert_faults(found: list[str], fault: str | None) -> None:
    assert len(found) == (fault is not None), found
    assert fault is None or fault in found[0]


def test_every_page_is_in_the_index() -> None:
    docs = ROOT / "docs"
    index = docs / "README.md"
    listed = {(docs / target).resolve() for target, _ in LINK.findall(index.read_text()) if target}
    assert {page for page in documents(docs) if page != index} <= listed


def test_every_test_that_a_page_names_exists() -> None:
    tests = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"def (test_\w+)", tests))
    pages = documents(ROOT / "docs" / "explanation")
    named = {name for page in pages for name in re.findall(r"`(test_\w+)`", page.read_text())}
    assert len(named) > 50
    assert named <= defined


def test_each_task_of_where_things_are_leads_to_a_file() -> None:
    page = ROOT / "docs" / "explanation" / "where-things-are.md"
    tasks = [line for line in page.read_text().splitlines() if line.startswith("| ")][1:]
    assert len(tasks) >= 12
    for task in tasks:
        files = [target for target, _ in LINK.findall(task)]
        assert files, task
        assert all((page.parent / file).is_file() for file in files), task
