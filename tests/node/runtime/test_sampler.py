"""Slow and hung sensors: what the agent gets, and when."""

from __future__ import annotations

import math
import queue
import threading

import pytest

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.runtime.sampler import GRACE_S, PATIENCE_S, Sampled, Sampler

TIMEOUT_S = 3.0


class Gate:
    """A sensor that gives a reading each time the gate is opened."""

    fields = ("t",)

    def __init__(self) -> None:
        self._open = threading.Semaphore(0)
        self.reads = 0

    def open(self) -> None:
        self._open.release()

    def read(self) -> list[Sample]:
        self.reads += 1
        self._open.acquire()
        return [Sample({"t": float(self.reads)})]

    def close(self) -> None:
        pass


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def sampler(gate: Gate) -> Sampler:
    delivered: queue.Queue[object] = queue.Queue()
    made = Sampler(gate, TIMEOUT_S, delivered.put)
    made.delivered = delivered  # type: ignore[attr-defined]
    made.start()
    return made


def finish_read(sampler: Sampler, gate: Gate, lasted_s: float) -> Sampled:
    """Let the read end; its duration is as stated, however fast the machine is."""
    gate.open()
    found = sampler.delivered.get(timeout=30)  # type: ignore[attr-defined]
    return Sampled(found.samples, 0.0, lasted_s)


def test_a_fast_reading_belongs_to_its_round(sampler: Sampler, gate: Gate) -> None:
    sampler.request(0.0, is_urgent=False)
    assert sampler.overdue(PATIENCE_S * 0.9) is None
    taken = sampler.accept(finish_read(sampler, gate, 0.01))
    assert taken is not None
    assert len(taken.samples) == 1
    assert sampler.deadline == math.inf


def test_without_an_objective_the_whole_timeout_is_granted(sampler: Sampler, gate: Gate) -> None:
    sampler.request(0.0, is_urgent=True)
    assert sampler.overdue(TIMEOUT_S) is None
    taken = sampler.overdue(TIMEOUT_S + GRACE_S)
    assert taken is not None
    assert not taken.samples
    gate.open()


def test_a_hung_sensor_holds_up_one_round_for_a_moment_and_no_other(
    sampler: Sampler, gate: Gate
) -> None:
    sampler.request(0.0, is_urgent=False)
    assert sampler.overdue(PATIENCE_S) is not None
    for now in range(1, 100):  # 99 rounds while the read does not end
        sampler.request(float(now), is_urgent=False)
        taken = sampler.overdue(float(now))
        assert taken is not None, "the round waits for the stuck read"
        assert not taken.samples
    finish_read(sampler, gate, 100.0)
    assert gate.reads == 1


def test_a_reading_that_comes_late_is_for_the_next_round(sampler: Sampler, gate: Gate) -> None:
    sampler.request(0.0, is_urgent=False)
    assert sampler.overdue(PATIENCE_S) is not None
    assert sampler.accept(finish_read(sampler, gate, 2.0)) is None
    sampler.request(3.0, is_urgent=False)
    taken = sampler.overdue(3.0)
    assert taken is not None
    assert [sample.values["t"] for sample in taken.samples] == [1.0]
    # Another read runs meanwhile, and holds up nothing although the sensor is slow.
    sampler.request(4.0, is_urgent=False)
    assert sampler.overdue(4.0) is not None
    gate.open()


def test_a_sensor_that_is_fast_again_is_awaited_again(sampler: Sampler, gate: Gate) -> None:
    sampler.request(0.0, is_urgent=False)
    sampler.accept(finish_read(sampler, gate, 2.0))
    sampler.request(1.0, is_urgent=False)
    sampler.overdue(1.0)
    sampler.accept(finish_read(sampler, gate, 0.01))
    sampler.request(2.0, is_urgent=False)
    sampler.overdue(2.0)
    sampler.request(3.0, is_urgent=False)
    assert sampler.overdue(3.0) is None
    gate.open()
    gate.open()


def test_a_stuck_read_is_reported_once(
    sampler: Sampler, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    for now in range(20):
        sampler.request(float(now), is_urgent=False)
        sampler.overdue(float(now))
    assert caplog.text.count("no reading within 3 s") == 1
    gate.open()
