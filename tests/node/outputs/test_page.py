"""The sections of docs/how-to/use-the-answer.md are valid settings."""

from __future__ import annotations

import re

import msgspec
import pytest
import yaml

from cipherfleet_node.settings.sections import AnswerSection
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "how-to" / "use-the-answer.md"
SECTIONS = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)


@pytest.mark.parametrize("text", SECTIONS)
def test_what_the_page_says_to_copy_is_valid(text: str) -> None:
    msgspec.convert(yaml.safe_load(text)["answer"], AnswerSection)


def test_the_page_names_every_setting() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert len(SECTIONS) == 2
    assert [name for name in AnswerSection.__struct_fields__ if name not in page] == []
