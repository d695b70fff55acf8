"""When an answer is published, and what an output that fails or hangs does to the others."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipherfleet_node.outputs.answer import Answer, Model
from cipherfleet_node.outputs.publisher import OutputThread, Publisher

ANSWER = Answer(
    fleet="f", node="n", settled=True, round=0, at="", kind="mean", digits=4, model=Model()
)
EVERY_S = 60.0


class Collected:
    """An output that keeps what it gets."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.is_closed = False
        self.news = threading.Condition()

    def put(self, answer: Answer) -> None:
        self.publish(answer)

    def publish(self, answer: Answer) -> None:
        with self.news:
            self.answers.append(answer)
            self.news.notify_all()

    def close(self) -> None:
        self.is_closed = True

    def wait_for(self, count: int) -> None:
        with self.news:
            assert self.news.wait_for(lambda: len(self.answers) >= count, 60.0)


def numbered(number: int) -> Answer:
    return msgspec.structs.replace(ANSWER, round=number)


def run(settled: list[bool], step_s: float = 10.0, latest: Answer | None = None) -> list[Answer]:
    """The answers of a node that is settled or not at 0 s, step_s, 2 step_s, ..."""
    sink = Collected()
    publisher = Publisher([sink], EVERY_S, 0.0, latest)
    for place, is_settled in enumerate(settled):
        publisher.tend(place * step_s, lambda n=place: numbered(n), is_settled=is_settled)  # type: ignore[misc]
    return sink.answers


def test_nothing_is_published_before_the_node_has_settled() -> None:
    assert run([False] * 100) == []


@given(st.lists(st.booleans(), max_size=60), st.floats(0.1, 200.0))
def test_answers_are_at_least_every_s_apart_and_an_unsettled_one_repeats_the_latest(
    settled: list[bool], step_s: float
) -> None:
    sink, times = Collected(), []
    publisher = Publisher([sink], EVERY_S, 0.0)
    for place, is_settled in enumerate(settled):
        before = len(sink.answers)
        publisher.tend(place * step_s, lambda n=place: numbered(n), is_settled=is_settled)  # type: ignore[misc]
        times += [place * step_s] * (len(sink.answers) - before)
    assert all(later - earlier >= EVERY_S for earlier, later in pairwise(times))
    for earlier, later in zip([None, *sink.answers], sink.answers, strict=False):
        if not later.settled:
            assert earlier == msgspec.structs.replace(later, settled=True)


def test_a_settled_node_publishes_at_once_and_then_at_the_pace() -> None:
    assert [answer.round for answer in run([False] * 3 + [True] * 15)] == [3, 9, 15]


def test_an_unsettled_node_keeps_its_values_and_says_so_once() -> None:
    first, second = run([True] + [False] * 30)
    assert (first.settled, second.settled) == (True, False)
    assert second == msgspec.structs.replace(first, settled=False)


def test_a_restart_keeps_the_distance_and_marks_the_old_answer() -> None:
    old = numbered(3)
    assert [a.round for a in run([True] * 8, latest=old)] == [6]
    assert run([False] * 8, latest=old) == [msgspec.structs.replace(old, settled=False)]


def test_no_answer_is_made_without_an_output() -> None:
    def fail() -> Answer:
        raise AssertionError

    Publisher([], EVERY_S, 0.0).tend(1.0, fail, is_settled=True)


def test_a_solution_that_is_not_determined_counts_as_not_settled() -> None:
    sink = Collected()
    publisher = Publisher([sink], EVERY_S, 0.0)
    publisher.tend(0.0, lambda: None, is_settled=True)
    assert sink.answers == []


# -- threads ------------------------------------------------------------------------------------


def test_an_output_is_opened_with_its_first_answer_and_closed_at_the_end() -> None:
    output, opened = Collected(), []

    def make() -> Collected:
        opened.append(threading.current_thread().name)
        return output

    thread = OutputThread("trial", make)
    assert opened == []
    for number in range(3):
        thread.put(numbered(number))
        output.wait_for(number + 1)
    thread.close()
    assert opened == ["trial"]
    assert output.is_closed


def test_an_output_that_hangs_keeps_only_the_newest_answer_and_delays_no_other() -> None:
    class Hanging(Collected):
        def publish(self, answer: Answer) -> None:
            super().publish(answer)
            may_go_on.wait(60.0)

    may_go_on = threading.Event()
    hanging, free = Hanging(), Collected()
    sinks = [OutputThread("hanging", lambda: hanging), OutputThread("free", lambda: free)]
    publisher = Publisher(sinks, EVERY_S, 0.0)
    for number in range(5):
        publisher.tend(number * EVERY_S, lambda n=number: numbered(n), is_settled=True)  # type: ignore[misc]
        free.wait_for(number + 1)
        hanging.wait_for(1)
    may_go_on.set()
    hanging.wait_for(2)
    publisher.close()
    assert [answer.round for answer in free.answers] == [0, 1, 2, 3, 4]
    assert [answer.round for answer in hanging.answers] == [0, 4]


@pytest.mark.parametrize("where", ["open", "publish"])
def test_a_failing_output_is_one_line_in_the_log_and_shows_no_reading(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    attempts = Collected()
    is_broken = True

    class Broken(Collected):
        def publish(self, answer: Answer) -> None:
            attempts.publish(answer)
            if is_broken and where == "publish":
                raise ValueError("the reading was 12345")

    def make() -> Broken:
        if is_broken and where == "open":
            attempts.publish(ANSWER)
            raise ValueError("the reading was 12345")
        return Broken()

    thread = OutputThread("trial", make)
    for number in range(4):
        is_broken = number < 3
        thread.put(numbered(number))
        attempts.wait_for(number + 1)
    thread.close()
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [
        "the output trial fails: ValueError; trying again with each answer",
        "the output trial works again",
    ]


def test_closing_waits_for_no_output_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    from cipherfleet_node.outputs import publisher

    monkeypatch.setattr(publisher, "CLOSE_WITHIN_S", 0.05)
    never = threading.Event()
    begun = threading.Event()

    class Hanging(Collected):
        def publish(self, answer: Answer) -> None:
            super().publish(answer)
            begun.set()
            never.wait(60.0)

    make: Callable[[], Collected] = Hanging
    thread = OutputThread("hanging", make)
    thread.put(ANSWER)
    assert begun.wait(60.0)
    thread.close()
    never.set()
