"""What the pages on outputs say to copy is valid."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import yaml

from cipherfleet_node.settings.sections import AnswerSection, Drift
from tests.support.paths import ROOT

HOW_TO = ROOT / "docs" / "how-to"
PAGES = [HOW_TO / "use-the-answer.md", *sorted(HOW_TO.glob("output-*.md"))]
TEXTS = [page.read_text(encoding="utf-8") for page in PAGES]
BLOCKS = [
    yaml.safe_load(text)
    for page in TEXTS
    for text in re.findall(r"^```yaml\n(.*?)^```", page, re.S | re.M)
]


def values(section: str) -> list[Any]:
    """What the blocks of the pages have as *section*."""
    return [block[section] for block in BLOCKS if section in block]


def test_what_the_page_says_to_copy_is_valid() -> None:
    assert [len(values(name)) for name in ("answer", "objective")] == [6, 1]
    for value in values("answer"):
        msgspec.convert(value, AnswerSection)
    for value in values("objective"):
        msgspec.convert(value["drift"], Drift)


def test_prometheus_is_sent_to_the_port_of_the_page() -> None:
    (job,) = values("scrape_configs")[0]
    port = next(value["metrics"]["port"] for value in values("answer") if "metrics" in value)
    assert job["static_configs"] == [{"targets": [f"127.0.0.1:{port}"]}]


def test_the_pages_name_every_setting() -> None:
    assert len(PAGES) == 5
    whole = "\n".join(TEXTS)
    assert [name for name in AnswerSection.__struct_fields__ if name not in whole] == []
