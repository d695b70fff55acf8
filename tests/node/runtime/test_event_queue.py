"""The daemon's event queue: messages are bounded in bytes, other events are never dropped."""

from __future__ import annotations

import queue
import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipherfleet_node.core.wire import MAX_MESSAGE_BYTES
from cipherfleet_node.runtime.event_queue import MAX_QUEUED_BYTES, EventQueue, size_of
from cipherfleet_node.runtime.mqtt import Arrived, LinkDown, LinkUp

LIMIT = 20_000


def message(topic: str, size: int) -> Arrived:
    return Arrived(topic, bytes(size), False, 0.0)


def drain(events: EventQueue) -> list[object]:
    taken: list[object] = []
    while True:
        try:
            taken.append(events.get(0))
        except queue.Empty:
            return taken


def fill(events: EventQueue, topic: str, size: int) -> int:
    """Put messages until one is dropped; return how many were not."""
    count = 0
    while events.put(message(topic, size)):
        count += 1
    return count


arrivals = st.builds(message, st.sampled_from("abcd"), st.integers(0, 4000))
steps = st.lists(arrivals | st.sampled_from([LinkUp(), LinkDown(), None]), max_size=60)


@given(steps)
def test_what_waits_never_exceeds_the_limit_and_keeps_its_order(steps: list[object]) -> None:
    """None stands for a get. No topic ever gets more than half, nor more than is left free."""
    events, model = EventQueue(LIMIT), list[object]()
    for step in steps:
        if step is None:
            if model:
                assert events.get(0) is model.pop(0)
            continue
        waiting = [each for each in model if isinstance(each, Arrived)]
        used = sum(map(size_of, waiting))
        if events.put(step):
            model.append(step)
        else:
            assert isinstance(step, Arrived)
            own = sum(size_of(each) for each in waiting if each.topic == step.topic)
            assert own + size_of(step) > LIMIT - used
        waiting = [each for each in model if isinstance(each, Arrived)]
        assert sum(map(size_of, waiting)) <= LIMIT
    assert drain(events) == model


@given(st.integers(0, MAX_MESSAGE_BYTES))
def test_one_flood_leaves_half_of_the_queue_to_the_others(size: int) -> None:
    events = EventQueue()
    one = size_of(message("flood", size))
    assert fill(events, "flood", size) * one <= MAX_QUEUED_BYTES // 2 + one
    kept = sum(events.put(message(f"quiet {n % 63}", 1000)) for n in range(630))
    assert kept == 630


def test_floods_one_after_another_come_to_equal_shares_as_the_queue_moves() -> None:
    events = EventQueue(1 << 20)
    floods = [f"flood {number}" for number in range(7)]
    for topic in floods:
        fill(events, topic, 1000)  # the first has half now, the last 1/128
    for _ in range(2000):
        events.get(0)
        for topic in floods:
            events.put(message(topic, 1000))
    assert fill(events, "quiet", 1000) * size_of(message("quiet", 1000)) >= (1 << 20) // 16 - 4000


def test_topics_that_are_flooded_at_once_get_equal_shares() -> None:
    events, counts = EventQueue(), Counter[str]()
    topics = [f"n{number}" for number in range(7)]
    for _ in range(MAX_QUEUED_BYTES // 4096):
        for topic in topics:
            counts[topic] += events.put(message(topic, 4096))
    size = size_of(message("n0", 4096))
    assert max(counts.values()) - min(counts.values()) <= 1
    for count in counts.values():
        assert count * size == pytest.approx(MAX_QUEUED_BYTES / 8, abs=2 * size)
    assert fill(events, "quiet", 4096) * size >= MAX_QUEUED_BYTES / 16 - 2 * size


def test_a_drained_queue_takes_as_much_as_a_new_one() -> None:
    events = EventQueue(LIMIT)
    first = fill(events, "a", 500)
    assert len(drain(events)) == first >= 10
    assert fill(events, "b", 500) == first
    assert len(drain(events)) == first
    assert not events._waiting
    assert events._free == LIMIT


def test_other_events_are_never_dropped() -> None:
    events = EventQueue(LIMIT)
    fill(events, "a", 0)
    for topic in "bcdefgh":
        fill(events, topic, 0)
    assert all(events.put(LinkUp()) for _ in range(1000))
    assert sum(isinstance(event, LinkUp) for event in drain(events)) == 1000


def test_the_longest_message_has_room_beside_a_flood() -> None:
    events = EventQueue()
    fill(events, "flood", MAX_MESSAGE_BYTES)
    assert events.put(message("quiet", MAX_MESSAGE_BYTES))


def test_short_messages_and_long_topics_are_counted_too() -> None:
    events = EventQueue()
    assert fill(events, "a", 0) < 10_000
    assert not EventQueue(LIMIT).put(message("\U0001f600" + "a" * (LIMIT // 4), 0))


def test_threads_lose_nothing_and_free_everything() -> None:
    events, taken = EventQueue(200 * size_of(message("0", 50))), Counter[str]()
    kept = Counter[str]()

    def produce(topic: str) -> None:
        kept[topic] = sum(events.put(message(topic, 50)) for _ in range(3000))

    threads = [threading.Thread(target=produce, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        try:
            event = events.get(0.01)
        except queue.Empty:
            continue
        assert isinstance(event, Arrived)
        taken[event.topic] += 1
    taken.update(event.topic for event in drain(events) if isinstance(event, Arrived))
    assert taken == kept
    assert not events._waiting
