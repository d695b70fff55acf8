"""Rules: a list of checks that one loop applies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.node_yaml import NODE_RULES
from cipherfleet_node.settings.rules import ItemDraft, Rule, apply_rules
from cipherfleet_node.settings.type_errors import EACH, Path_, overlaps
from cipherfleet_node.settings.yaml_document import Unchecked, parse_document

Lists = dict[str, list[dict[str, int]]]
DOCUMENT = parse_document("a: [{x: 1, y: 1}, {x: wrong, y: 1}]\nb: [{x: 1}]\n", Path("f.yaml"))


def draft() -> Unchecked[Lists]:
    return DOCUMENT.unchecked(Lists)


def fails(_: object) -> Iterator[ConfigError]:
    """Nothing is right.

    This line is no part of the description.
    """
    yield DOCUMENT.error(("b",), "is refused")


def passes(_: object) -> Iterator[ConfigError]:
    yield from ()


@pytest.mark.parametrize(
    ("needs", "applies"),
    [
        ((), True),
        (((),), False),  # the whole file
        ((("b",),), True),
        ((("a",),), False),
        ((("a", 0),), True),
        ((("a", 0), ("a", 1)), False),
        ((("a", EACH, "y"),), True),
        ((("a", EACH, "x"),), False),
        ((("b", EACH, "x"),), True),
    ],
)
def test_a_rule_is_skipped_while_a_place_that_it_needs_is_wrong(
    needs: tuple[Path_, ...], applies: bool
) -> None:
    checked = draft()
    apply_rules([Rule(needs, fails)], checked)
    assert [str(e) for e in checked.findings[1:]] == ["f.yaml:2:1: b is refused"] * applies


def test_rules_apply_in_their_order_and_an_error_stops_later_rules_that_need_its_place() -> None:
    checked = draft()
    on_b = Rule[Unchecked[Lists]]((("b",),), lambda _: [DOCUMENT.error(("b", 0), "is refused")])
    apply_rules([Rule((), passes), on_b, on_b], checked)
    assert [error.path for error in checked.findings[1:]] == [("b", 0)]


@pytest.mark.parametrize(("index", "count"), [(0, 1), (1, 0)])
def test_each_is_the_index_of_an_item_in_the_rules_of_items(index: int, count: int) -> None:
    checked = draft()
    apply_rules([Rule((("a", EACH, "x"),), fails)], ItemDraft(checked, index))
    assert len(checked.findings) == 1 + count


def test_a_path_overlaps_with_what_it_leads_to_and_each_is_any_index() -> None:
    assert overlaps((), ("a", 0))
    assert overlaps(("a", 0), ("a",))
    assert not overlaps(("a", 0), ("a", 1))
    assert overlaps(("a", EACH, "x"), ("a", 1))
    assert overlaps(("a", EACH, "x"), ("a", 1, "x", "z"))
    assert not overlaps(("a", EACH, "x"), ("a", 1, "y"))


def test_a_rule_is_one_line_with_the_places_that_it_needs() -> None:
    assert str(Rule((), fails)) == "Nothing is right."
    assert str(Rule(((), ("a", EACH, "x")), fails)) == (
        "Nothing is right. Needs: the whole file, a[].x."
    )


def test_every_rule_of_node_yaml_says_what_must_hold() -> None:
    texts = [str(rule) for rule in NODE_RULES]
    assert len(set(texts)) == len(texts)
    assert all(text[0].isupper() and text.endswith(".") for text in texts)
