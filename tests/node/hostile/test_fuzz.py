"""A short run of the fuzzer: python -m tests.tools.fuzz_frames runs the long one, times "
"included."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable

import msgspec
import pytest

from cipherfleet_node.core.agent import Agent
from cipherfleet_node.core.messages import Health, Membership, Message
from tests.support.wire_fleet import Frame
from tests.tools.fuzz_frames import (
    LIMIT_BYTES,
    LONG,
    Figures,
    Run,
    Target,
    jobs,
    measure,
    take_one,
    topics_of,
)

FRAMES = 3_000


def test_mutated_frames_raise_nothing_and_take_little_memory() -> None:
    figures = Figures()
    for job in jobs(FRAMES):
        figures.add(measure(job))
    assert figures.outcomes.total() == FRAMES
    assert figures.failures == 0
    assert len(figures.peaks) > FRAMES // 20
    assert max(figures.peaks) < LIMIT_BYTES
    # The mutations must get past the first checks, or they try nothing else.
    assert {"signature", "late_answer", "second_query", "taken in"} <= figures.outcomes.keys()
    assert {"roster", "late_refusal", "other_receiver"} <= figures.outcomes.keys()
    assert {"topic", "encoding", "retained", "membership"} <= figures.outcomes.keys()


def test_an_exception_in_the_agent_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target, run = Target(1), Run()
    monkeypatch.setattr(Agent, "_check_kind", None)
    frame = target.templates[0]
    take_one(target, (frame.topic, frame.payload, False), run, memory=False)
    assert run.outcomes == ["EXCEPTION"]
    assert "TypeError" in capsys.readouterr().err


@pytest.mark.parametrize("make", LONG)
def test_long_lists_of_every_kind_take_little_memory(
    make: Callable[[random.Random], Message],
) -> None:
    """Signed by a neighbour, on every topic on which the node hears it."""
    target, run, chance = Target(1), Run(), random.Random(make.__name__)
    (sender, *_) = target.neighbours
    tracemalloc.start()
    try:
        for _ in range(12):
            message = make(chance)
            if not isinstance(message, Membership):
                message = msgspec.structs.replace(message, sender=sender)
            payload = target.sign(sender, message.KIND, msgspec.msgpack.encode(message))
            for topic in topics_of(sender):
                take_one(target, (topic, payload, False), run, memory=True)
    finally:
        tracemalloc.stop()
    assert max(run.peaks) < LIMIT_BYTES
    assert "membership" not in run.outcomes
    assert run.outcomes.count("topic") + run.outcomes.count("too_long") >= 4 * 12


@pytest.mark.parametrize("seed", [2, 5])  # pairwise, sealed
def test_a_target_takes_genuine_frames_in(seed: int) -> None:
    target = Target(seed)
    theirs: list[Frame] = []
    health: list[Frame] = []
    for frame in target.templates:
        if not isinstance(frame.message, Membership):
            (health if isinstance(frame.message, Health) else theirs).append(frame)
    outcomes = {target.take(frame.topic, frame.payload) for frame in theirs}
    harmless = {
        *("repeated_answer", "repeated_query", "late_answer", "late_refusal"),
        *("old_query", "roster_query", "closed_query"),
        *("refused_old", "refused_roster", "refused_closed"),
    }
    assert outcomes <= {"taken in", "round", *harmless}
    assert outcomes
    assert {target.take(frame.topic, frame.payload) for frame in health} == {"other_receiver"}
