"""Spans: their contents, the size of their file, and how often it is written."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from cipherfleet_node.runtime import spans
from cipherfleet_node.runtime.mqtt import Sent
from cipherfleet_node.runtime.spans import Spans, resident_mib


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_span_takes_the_time_of_its_block(tmp_path: Path) -> None:
    made = Spans(tmp_path / "logs" / "spans.jsonl")
    before = time.monotonic()
    with made.span("decrypt", 3):
        time.sleep(0.02)
    made.flush(now=True)
    (line,) = lines(tmp_path / "logs" / "spans.jsonl")
    assert set(line) == {"round", "phase", "at", "ms", "cpu_ms"}
    assert (line["round"], line["phase"]) == (3, "decrypt")
    assert before <= line["at"] + 1e-6
    assert 20.0 <= line["ms"] < 60_000.0
    assert 0.0 <= line["cpu_ms"] < 20.0, "asleep, a thread uses no processor"


def test_a_span_that_fails_is_noted_too(tmp_path: Path) -> None:
    made = Spans(tmp_path / "spans.jsonl")
    with pytest.raises(ValueError, match="mishap"), made.span("encrypt", 1):
        raise ValueError("mishap")
    made.flush(now=True)
    assert lines(tmp_path / "spans.jsonl")[0]["phase"] == "encrypt"


def test_counts_are_written_beside_the_times(tmp_path: Path) -> None:
    made = Spans(tmp_path / "spans.jsonl")
    made.add("round", 5, 10.0, 10.25, silent=2)
    made.flush(now=True)
    expected = {"round": 5, "phase": "round", "at": 10.0, "ms": 250.0, "silent": 2}
    assert lines(tmp_path / "spans.jsonl") == [expected]


def test_the_disk_is_written_at_most_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    file = tmp_path / "spans.jsonl"
    made = Spans(file)
    made.add("a", 0, 0.0, 1.0)
    made.flush()
    assert not file.exists()
    clock[0] += 1.0
    made.flush()
    assert len(lines(file)) == 1
    made.add("b", 1, 0.0, 1.0)
    clock[0] += 0.5
    made.flush()
    assert len(lines(file)) == 1
    made.flush(now=True)
    assert len(lines(file)) == 2


def test_nothing_new_writes_nothing(tmp_path: Path) -> None:
    made = Spans(tmp_path / "spans.jsonl")
    made.flush(now=True)
    assert not (tmp_path / "spans.jsonl").exists()


def test_the_file_is_bounded_and_the_one_before_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "MAX_FILE_BYTES", 1000)
    file, older = tmp_path / "spans.jsonl", tmp_path / "spans.1.jsonl"
    made = Spans(file)
    for k in range(500):
        made.add("decrypt", k, 0.0, 0.001)
        made.flush(now=True)
        assert file.stat().st_size <= 1000 + 100
        assert not older.exists() or older.stat().st_size <= 1000 + 100
    assert sorted(tmp_path.iterdir()) == [older, file]
    numbers = [line["round"] for line in lines(older) + lines(file)]
    assert numbers == list(range(500 - len(numbers), 500)), "no line is lost in between"
    assert made._file == file


# -- what the daemon's thread did, each moment once ------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_each_moment_counts_for_the_innermost_phase_only(
    tmp_path: Path, clock: list[float]
) -> None:
    made = Spans(tmp_path / "spans.jsonl")
    made.restart(clock[0])
    with made.during("agent"):
        clock[0] += 1.0
        with made.span("save", 0):
            clock[0] += 2.0
        clock[0] += 4.0
    clock[0] += 8.0  # in no phase: nobody's
    with made.during("wait"):
        clock[0] += 16.0
    assert made.phases_ms(clock[0]) == {"agent": 5000.0, "save": 2000.0, "wait": 16000.0}


def test_a_phase_that_outlasts_a_round_is_divided_between_two(
    tmp_path: Path, clock: list[float]
) -> None:
    made = Spans(tmp_path / "spans.jsonl")
    made.restart(clock[0])
    with made.during("agent"):
        clock[0] += 1.0
        assert made.phases_ms(clock[0]) == {"agent": 1000.0}
        clock[0] += 2.0
    assert made.phases_ms(clock[0]) == {"agent": 2000.0}


def test_what_was_before_a_round_is_none_of_it(tmp_path: Path, clock: list[float]) -> None:
    made = Spans(tmp_path / "spans.jsonl")
    with made.during("wait"):
        clock[0] += 9.0
    made.restart(clock[0])
    assert made.phases_ms(clock[0]) == {}


def test_waiting_for_the_broker_is_told_apart_from_waiting_for_neighbours(
    tmp_path: Path, clock: list[float]
) -> None:
    made, sent = Spans(tmp_path / "spans.jsonl"), Sent(at=101.0, acknowledged=103.0)
    with made.during("wait"):
        clock[0] += 10.0
        made.move("wait", "acknowledge", sent.unacknowledged_s(100.0, clock[0]))
    assert made.phases_ms(clock[0]) == {"wait": 8000.0, "acknowledge": 2000.0}


@pytest.mark.parametrize(
    ("acknowledged", "within", "expected"),
    [
        (None, (2.0, 5.0), 3.0),
        (4.0, (2.0, 5.0), 2.0),
        (1.5, (2.0, 5.0), 0.0),
        (9.0, (2.0, 5.0), 3.0),
        (9.0, (0.0, 5.0), 4.0),  # not sent before 1.0
    ],
)
def test_how_long_a_message_was_unacknowledged(
    acknowledged: float | None, within: tuple[float, float], expected: float
) -> None:
    assert Sent(1.0, acknowledged).unacknowledged_s(*within) == expected


def test_resident_memory_is_that_of_this_process() -> None:
    result = resident_mib()
    assert result is not None
    assert result == pytest.approx(psutil.Process().memory_info().rss / 2**20, rel=0.2)
