"""The tolerance for trajectories: which differences it accepts, and which not."""

from __future__ import annotations

import numpy as np
import pytest

from cipherfleet_lab.reference import iterate
from cipherfleet_node.core.randomness import FloatVector, RoundRandomness, simulated_seed
from cipherfleet_node.settings.sections import Algorithm, Stepsize
from tests.support.tolerances import assert_same_text, assert_same_trajectories, rounding_of_sums

RESOLUTION = 2.0**-32
ROUNDS, NODES, D = 10, 4, 3
NAMES = [f"n{i}" for i in range(NODES)]
RING = [(NAMES[i], NAMES[i - 1]) for i in range(NODES)]
PLAIN: FloatVector = np.random.default_rng(1).normal(size=(ROUNDS, NODES, D))


def passes(got: FloatVector, expected: FloatVector = PLAIN) -> bool:
    try:
        assert_same_trajectories(got, expected, RESOLUTION, operations=20)
    except AssertionError:
        return False
    return True


def moved(by: float, *, first: int = 4, columns: slice = slice(1, 2)) -> FloatVector:
    """The plain trajectories, two nodes off by so many resolutions from round *first* on."""
    got = PLAIN.copy()
    got[first:, :2, columns] += by * RESOLUTION
    return got


def test_units_in_the_last_place_pass() -> None:
    assert passes(PLAIN)
    assert passes(PLAIN * (1 + 2.0**-52))


def test_a_single_entry_that_was_rounded_the_other_way_passes() -> None:
    assert passes(moved(0.3))


@pytest.mark.parametrize(
    "got",
    [
        moved(0.3, columns=slice(0, 2)),
        moved(1.5),
        moved(1e-3, first=0, columns=slice(None)),
        np.where(np.arange(ROUNDS)[:, None, None] < 6, moved(0.3), moved(100.0)),
        PLAIN + 1e-9,
        PLAIN[1:],
    ],
    ids=["two columns", "1.5 resolutions", "dither", "it grows", "an offset", "a round less"],
)
def test_a_mistake_in_the_arithmetic_does_not_pass(got: FloatVector) -> None:
    assert not passes(got)


class Nudged:
    """An objective of gradient zero, whose node starts a little off."""

    def __init__(self, start: FloatVector) -> None:
        self._start = start

    def start(self) -> FloatVector:
        return self._start

    def gradient(self, x: FloatVector, randomness: RoundRandomness) -> FloatVector:
        del randomness
        return np.zeros_like(x)


def averaging(nudge: float) -> FloatVector:
    """The estimates of a ring that averages; one entry of one node starts *nudge* higher."""
    starts = PLAIN[0].copy()
    starts[2, 1] += nudge
    objectives = {name: Nudged(start) for name, start in zip(NAMES, starts, strict=True)}
    algorithm = Algorithm(rounds=ROUNDS, stepsize=Stepsize(initial=0.1), attenuation="none")
    return iterate(
        RING,
        objectives,
        algorithm,
        RESOLUTION,
        lambda name, k: simulated_seed(1, "nudged", name, k),
        ROUNDS,
    )[1:]


def to_the_next_whole_number() -> float:
    """How far the nudged entry is below the next number of resolutions that rounds up."""
    randomness = RoundRandomness(simulated_seed(1, "nudged", NAMES[2], 0))
    noise = 16.0 * RESOLUTION * (2.0 * randomness.uniform("start", D) - 1.0)
    place = (PLAIN[0, 2] + noise) / RESOLUTION + randomness.uniform("quantise", D)
    return float((np.ceil(place) - place)[1]) * RESOLUTION


def test_a_rounding_that_the_last_bits_decide_passes_in_a_real_run() -> None:
    """An entry starts on either side of where it is rounded up, within the rounding of sums."""
    edge, ulps = to_the_next_whole_number(), rounding_of_sums(10, 1.0)
    below, above = averaging(edge - ulps), averaging(edge + ulps)
    assert np.abs(above - below).max() > 0.1 * RESOLUTION, "both were rounded alike"
    assert passes(above, below)


@pytest.mark.parametrize(
    ("got", "same"),
    [
        ("5 nodes: it is 4.125 of 1e-05", True),
        ("5 nodes: it is 4.126 of 1e-05", True),
        ("5 nodes: it is 4.127 of 1e-05", False),
        ("5 nodes: it is 4.125 of 3e-05", False),
        ("6 nodes: it is 4.125 of 1e-05", False),
        ("it was 4.125 of 1e-05", False),
        ("5 nodes: it is 4.125 of 1e-05 or 2", False),
        ("5 nodes: it is 4.13 of 1e-05", False),
    ],
)
def test_printed_figures_may_differ_in_their_last_digit_and_words_not_at_all(
    got: str, same: bool
) -> None:
    expected = "5 nodes: it is 4.125 of 1e-05"
    if same:
        assert_same_text(got, expected)
    else:
        with pytest.raises(AssertionError):
            assert_same_text(got, expected)
