"""The table of refusal reasons in node/PROTOCOL.md is that of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from tests.node.core.test_wire import FAULTS
from tests.support.paths import ROOT

NODE = ROOT / "node" / "cipherfleet_node"
ROW = re.compile(r"^\| `(\w+)` \| (rejected|surplus) \|", re.MULTILINE)
# Which argument of a call is the reason, and how a message with it is counted.
CALLS = {
    "WireError": (0, "rejected"),
    "RemoteProtocolError": (0, "rejected"),
    "Rejected": (1, "rejected"),
    "reject": (1, "rejected"),
    "_reject": (1, "rejected"),
    "Surplus": (1, "surplus"),
}


def table() -> list[tuple[str, str]]:
    text = (ROOT / "node" / "PROTOCOL.md").read_text()
    return ROW.findall(text[text.index("### 2.3 Checks") :])


def texts_in(node: ast.expr) -> Iterator[str]:
    """The texts that the expression may have; none where it is a name."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from texts_in(node.body)
        yield from texts_in(node.orelse)


def reasons_in(file: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        place, counted = CALLS.get(name, (99, ""))
        for reason in texts_in(node.args[place]) if place < len(node.args) else ():
            yield reason, counted


def test_every_reason_is_in_the_table_with_how_it_is_counted() -> None:
    used = {pair for file in NODE.rglob("*.py") for pair in reasons_in(file)}
    assert set(table()) == used


def test_the_table_has_the_order_of_the_checks() -> None:
    """FAULTS is the order that test_the_checks_come_in_their_order tries out."""
    tried = [reason for reason, _ in groupby(FAULTS.values())]
    listed = [reason for reason, _ in table()]
    begin = listed.index("too_long")
    assert listed[begin : begin + len(tried)] == tried


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('raise WireError("a", "b")', {("a", "rejected")}),
        ('yield Surplus(sender, "x" if late else "y")', {("x", "surplus"), ("y", "surplus")}),
        ("self._telemetry.reject(known, error.reason)", set()),
    ],
)
def test_reasons_are_found(text: str, found: set[tuple[str, str]], tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(f"def code():\n    {text}\n")
    assert set(reasons_in(tmp_path / "code.py")) == found
