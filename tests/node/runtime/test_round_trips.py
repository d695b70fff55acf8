"""Round-trip and service times: which messages are paired, and which are left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cipherfleet_node.core.messages import TAG_BYTES, Answer, Query
from cipherfleet_node.runtime.round_trips import MAX_AWAITED, RoundTrips
from cipherfleet_node.runtime.spans import Spans
from tests.support.queries import query_of

TAG = bytes(TAG_BYTES)


def query(sender: str, k: int) -> Query:
    return query_of("fleet", sender, 1, k, [], [b"c"])


def answer(sender: str, receiver: str, k: int) -> Answer:
    return Answer("fleet", sender, 1, receiver, k, 0, bytes(32), [b"c"])


class Noted:
    def __init__(self, folder: Path) -> None:
        self.file = folder / "spans.jsonl"
        self.spans = Spans(self.file)
        self.trips = RoundTrips(self.spans)

    def lines(self) -> list[tuple[Any, ...]]:
        self.spans.flush(now=True)
        text = self.file.read_text() if self.file.exists() else ""
        names = ("phase", "round", "neighbour", "at", "ms")
        return [tuple(json.loads(line)[n] for n in names) for line in text.splitlines()]


@pytest.fixture
def noted(tmp_path: Path) -> Noted:
    return Noted(tmp_path)


def test_a_trip_lasts_from_the_query_to_each_answer(noted: Noted) -> None:
    noted.trips.sent(query("a", 7), 10.0, 10.5)
    noted.trips.arrived(answer("b", "a", 7), 11.0)
    noted.trips.arrived(answer("c", "a", 7), 13.0)
    assert noted.lines() == [("trip", 7, "b", 10.0, 1000.0), ("trip", 7, "c", 10.0, 3000.0)]


def test_a_service_lasts_from_the_query_to_the_answer_on_its_way(noted: Noted) -> None:
    noted.trips.arrived(query("b", 7), 20.0)
    noted.trips.sent(answer("a", "b", 7), 20.5, 20.75)
    assert noted.lines() == [("service", 7, "b", 20.0, 750.0)]


def test_of_repetitions_the_first_counts(noted: Noted) -> None:
    noted.trips.sent(query("a", 7), 10.0, 10.0)
    noted.trips.sent(query("a", 7), 15.0, 15.0)
    noted.trips.arrived(query("b", 7), 15.0)
    noted.trips.arrived(query("b", 7), 15.5)
    for at in (16.0, 17.0):
        noted.trips.arrived(answer("b", "a", 7), at)
        noted.trips.sent(answer("a", "b", 7), at, at)
    assert noted.lines() == [
        ("trip", 7, "b", 10.0, 6000.0),
        ("service", 7, "b", 15.0, 1000.0),
    ]


def test_answers_to_another_round_are_no_trip(noted: Noted) -> None:
    noted.trips.sent(query("a", 7), 10.0, 10.0)
    for k in (6, 8):
        noted.trips.arrived(answer("b", "a", k), 11.0)
    noted.trips.sent(answer("a", "b", 7), 12.0, 12.0)  # to a query that never came
    assert noted.lines() == []


def test_queries_that_are_never_answered_do_not_pile_up(noted: Noted) -> None:
    for k in range(10 * MAX_AWAITED):
        noted.trips.arrived(query("b", k), float(k))
    assert len(noted.trips._awaiting) == MAX_AWAITED
    last = 10 * MAX_AWAITED - 1
    noted.trips.sent(answer("a", "b", last), last + 1.0, last + 1.0)
    assert noted.lines() == [("service", last, "b", float(last), 1000.0)]
