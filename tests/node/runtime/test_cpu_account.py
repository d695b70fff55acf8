"""The CPU time of a daemon is divided into parts that add up to that of its process."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import pytest

from cipherfleet_node.runtime.cpu_account import CollectionClock, cpu_by_part, thread_cpu_s
from cipherfleet_node.runtime.spans import Spans

NO_THREAD = 2**22 + 1  # above the largest id that Linux gives


def use_cpu(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_the_clock_of_another_thread_shows_its_cpu_time() -> None:
    used, done = threading.Event(), threading.Event()

    def work() -> None:
        use_cpu(0.05)
        used.set()
        done.wait()

    thread = threading.Thread(target=work)
    thread.start()
    used.wait()
    assert thread.native_id is not None
    assert 0.05 <= thread_cpu_s(thread.native_id) <= time.process_time()
    done.set()
    thread.join()


def test_an_ended_thread_counts_nothing() -> None:
    assert thread_cpu_s(NO_THREAD) == 0.0


@pytest.mark.parametrize(
    ("name", "part"),
    [("paho-mqtt-client-x", "network"), ("pool-0", "pools"), ("sampler", "sensor")],
)
def test_the_parts_add_up_to_the_process(name: str, part: str) -> None:
    used, done = threading.Event(), threading.Event()

    def work() -> None:
        use_cpu(0.02)
        used.set()
        done.wait()

    thread = threading.Thread(target=work, name=name)
    thread.start()
    used.wait()
    before = time.process_time()
    parts = cpu_by_part({"start": 0.001})
    after = time.process_time()
    done.set()
    thread.join()
    assert parts[part] >= 0.02
    assert before - 0.001 <= sum(parts.values()) <= after + 0.001  # each is rounded to 0.1 ms


def test_the_daemons_thread_is_divided_by_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([10.0, 11.0, 13.0, 17.0, 25.0, 41.0])
    monkeypatch.setattr(time, "thread_time", lambda: next(clock))
    spans = Spans(tmp_path / "spans.jsonl")  # 10 s were used before
    spans.begin_loop()  # 11
    with spans.during("agent"), spans.during("decrypt"):  # at 13 and at 17
        pass  # at 25 and at 41
    assert spans._cpu == {"start": 11.0, "loop": 2.0, "agent": 4.0 + 16.0, "decrypt": 8.0}


def test_garbage_collections_are_measured() -> None:
    clock = CollectionClock()
    try:
        gc.collect()
        assert 0.0 < clock.seconds < time.process_time()
    finally:
        clock.close()
    before = clock.seconds
    gc.collect()
    assert clock.seconds == before
