"""The generated reference is up to date, and the pages about choices and symptoms state facts."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import msgspec
import pytest

from cipherfleet_provisioning.fleet.schema import fleet_schema
from tests.support.paths import ROOT
from tests.tools.reference_examples import EXAMPLES, EXIT_CODES
from tests.tools.reference_pages import (
    default_of,
    example_of,
    fleet_page,
    kind_of,
    pages,
    raised_codes,
)

HOW_TO = ROOT / "docs" / "how-to"


@pytest.mark.parametrize("file", pages(), ids=lambda file: file.name)
def test_a_generated_page_is_up_to_date(file: Path) -> None:
    assert file.read_text() == pages()[file], "make reference"


def test_every_key_of_the_reference_has_a_meaning() -> None:
    rows = re.findall(r"^\| `.*\|$", fleet_page(), re.M)
    assert len(rows) > 100
    assert not [row for row in rows if row.endswith("|  |")], "add it to reference_examples.py"


def test_an_example_that_its_type_refuses_stops_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    types = fleet_schema()["$defs"]
    assert example_of("Crypto", types["Crypto"]).startswith("crypto:")
    monkeypatch.setitem(EXAMPLES, "Crypto", "crypto: {key_bits: 12}\n")
    with pytest.raises(msgspec.ValidationError):
        example_of("Crypto", types["Crypto"])


def test_types_and_defaults_are_put_into_words() -> None:
    assert kind_of({"type": "integer", "minimum": 1, "maximum": 65535}, {}) == (
        "whole number, at least 1, at most 65,535"
    )
    assert kind_of({"anyOf": [{"type": "number"}, {"type": "null"}]}, {}) == "number"
    assert default_of({"default": False}) == "`false`"
    assert default_of({"default": None}) == "-"


def test_the_table_of_exit_codes_has_every_code_that_an_exception_gives() -> None:
    assert raised_codes() <= set(EXIT_CODES)
    assert raised_codes() >= {1, 3, 4, 5, 6, 7, 8}


# -- symptoms -------------------------------------------------------------------------------------


@cache
def texts_of_the_programs() -> str:
    """All texts in the programs' code, f-strings with ... for each value."""
    found = []
    for room in ("node", "broker", "provisioning", "analysis", "deploy", "hil_tests", "lab"):
        for file in (ROOT / room).rglob("*.py"):
            for part in ast.walk(ast.parse(file.read_text())):
                if isinstance(part, ast.JoinedStr):
                    found.append("".join(_text(value) for value in part.values))
                elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                    found.append(part.value)
    return "\n".join(found)


def _text(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else "..."


def is_printed(message: str) -> bool:
    """Whether each part of *message* between dots is in a text of the programs."""
    parts = [part.strip(" ;:") for part in message.split("...")]
    return all(part in texts_of_the_programs() for part in parts if len(part) > 3)


def symptoms() -> list[str]:
    text = (HOW_TO / "troubleshooting.md").read_text()
    firsts = re.findall(r"^\| (`.*?) \|", text, re.M)
    return [each for first in firsts for each in re.findall(r"`([^`]+)`", first)]


def test_every_message_of_the_troubleshooting_page_is_one_of_the_programs() -> None:
    assert len(symptoms()) > 40
    shown = {"settled  no"}  # a row of a table
    missing = [each for each in symptoms() if each not in shown and not is_printed(each)]
    assert not missing
    assert not is_printed("a message that ... no program prints")


# -- choices --------------------------------------------------------------------------------------

# A figure of choose.md, and the page that has it: the row's beginning, and what the row holds.
FIGURES = {
    "235 rounds, 62 s, 942 kB": ("to-accuracy.md", "| exact method | 81", "235 / 62.1 / 118 / 942"),
    "39 rounds, 20 s, 157 kB": ("to-accuracy.md", "| mean of the normal", "39 / 19.6 / 37.8 / 157"),
    "144 rounds to 1e-6": ("metrics.md", "| as in the example | newton", "144"),
    "more than 1500": ("consensus.md", "| ring", "more"),
    "655 to 1210": ("metrics.md", "| temperature x 0.3 | step", "1210"),
    "an error of 0.10": ("streaming.md", "| 20 |", "0.1039"),
}


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_of_the_page_of_choices_is_in_the_results(figure: str) -> None:
    page, begin, content = FIGURES[figure]
    assert figure in " ".join((HOW_TO / "choose.md").read_text().split())
    rows = (ROOT / "docs/results" / page).read_text().splitlines()
    assert any(row.startswith(begin) and content in row for row in rows)
