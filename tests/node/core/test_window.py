"""Windows that slide by count and by time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipherfleet_node.core.objective import make_objective
from cipherfleet_node.core.randomness import SEED_BYTES, RoundRandomness
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.core.window import Window, take_in, window_of
from cipherfleet_node.settings.sections import Column, Feature, ObjectiveSection

NO_DRAWS = RoundRandomness(bytes(SEED_BYTES))
ARRIVALS = st.lists(st.tuples(st.floats(0, 50), st.integers(0, 3)), min_size=1, max_size=20)


def values(window: Window) -> list[float]:
    return [float(row[0]) for row in window.rows]


@given(ARRIVALS, st.integers(1, 8), st.none() | st.floats(1, 100))
def test_a_window_holds_the_newest_readings_within_its_length_and_span(
    arrivals: list[tuple[float, int]], length: int, span_s: float | None
) -> None:
    numbers: list[tuple[float, float]] = []
    window, now = Window(1, length, span_s), 100.0
    for pause, count in arrivals:
        now += pause
        window.advance(now)
        fresh = [(float(len(numbers) + n), now) for n in range(count)]
        window.extend([[number] for number, _ in fresh])
        numbers += fresh
        young = [n for n, at in numbers if span_s is None or at >= now - span_s]
        newest = [n for n, _ in numbers[-1:]]
        assert values(window) == (young or newest)[-length:]
        assert len(window.ages_s(now)) == len(window)


def test_the_last_reading_stays_however_old_it_is() -> None:
    window = Window(1, 10, 5.0)
    window.extend([[1.0], [2.0]])
    window.advance(1000.0)
    assert values(window) == [2.0]


def test_rows_are_replaced_and_not_changed() -> None:
    """The curvature is kept for as long as the rows are the same object."""
    window = Window(1, 2)
    window.extend([[1.0]])
    before = window.rows
    window.advance(10.0)
    assert window.rows is before
    window.extend([[2.0]])
    assert window.rows is not before
    assert before.tolist() == [[1.0]]


def test_restored_rows_keep_their_ages_and_leave_when_their_time_is_over() -> None:
    window = Window(1, 10, 60.0)
    window.advance(1000.0)
    window.restore(np.array([[1.0], [2.0]]), np.array([50.0, 10.0]))
    np.testing.assert_allclose(window.ages_s(1000.0), [50.0, 10.0])
    window.advance(1015.0)
    assert values(window) == [2.0]


@pytest.mark.parametrize("kind", ["mean", "least_squares"])
def test_gradients_are_those_of_the_readings_in_the_span(kind: str) -> None:
    column = Column(field="t")
    section = (
        ObjectiveSection(kind=kind, values=[column], window_s=30.0)
        if kind == "mean"
        else ObjectiveSection(
            kind=kind, target=column, features=[Feature(constant=1.0)], window_s=30.0
        )
    )
    objective, x = make_objective(section), np.array([0.5])
    for now, value in ((0.0, 9.0), (20.0, 2.0), (40.0, 4.0)):
        take_in(objective, [Sample({"t": value})], now)
    np.testing.assert_allclose(objective.gradient(x, NO_DRAWS), x - 3.0)
    take_in(objective, [], 60.0)
    np.testing.assert_allclose(objective.gradient(x, NO_DRAWS), x - 4.0)
    take_in(objective, [], 600.0)
    assert objective.ready, "the newest reading stays"


def test_a_class_of_ones_own_may_keep_its_readings_itself() -> None:
    class Own:
        def __init__(self) -> None:
            self.samples: list[Sample] = []

        def absorb(self, samples: Sequence[Sample]) -> None:
            self.samples += samples

    own = Own()
    take_in(own, [Sample({"t": 1.0})], 5.0)
    assert len(own.samples) == 1
    assert window_of(own) is None
