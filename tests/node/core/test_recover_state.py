"""What a curious node computes from all it sees: with guards off, its neighbours' states."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from cipherfleet_lab.simulation.memory_fleet import Faults
from cipherfleet_node.core import exchange
from cipherfleet_node.core.messages import Answer, Message
from cipherfleet_node.core.randomness import FloatVector
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.settings.sections import Algorithm, Column, ObjectiveSection
from tests.support.memory_fleet import MemoryFleet
from tests.support.recover_state import View, decrypt, guess_from_sum, opened, recover

D = 9  # two ciphertexts of a toy key
FIELDS = [f"f{index}" for index in range(D)]
NAMES = [f"n{index}" for index in range(5)]
EDGES = [(a, b) for i, a in enumerate(NAMES) for b in NAMES[i + 1 :]]
ROUNDS = 12


@dataclass(frozen=True)
class Seen:
    """A node's view of one round, and what it must not learn."""

    view: View
    states: dict[str, list[int]]


def watched(*, sealed: bool, faults: Faults | None = None) -> list[Seen]:
    """Everything that n0 sees in a run of five nodes, each next to each."""
    chance = random.Random(f"recover {sealed}")
    samples = {name: [Sample({field: chance.uniform(-5, 5) for field in FIELDS})] for name in NAMES}
    answers: dict[tuple[int, str], Answer] = {}
    states: dict[tuple[int, str], list[int]] = {}

    def note(_sender: str, receiver: str, message: Message) -> Message:
        for name, seat in fleet.seats.items():
            if seat.saved is not None:
                for record in seat.saved.records:
                    states[record.number, name] = record.quantised
        if receiver == "n0" and isinstance(message, Answer):
            answers[message.round, message.sender] = message
        return message

    fleet = MemoryFleet(
        EDGES,
        samples,
        ObjectiveSection(kind="mean", values=[Column(field=field) for field in FIELDS]),
        Algorithm(rounds=ROUNDS, method="article"),
        faults or Faults(),
        resolution=2.0**-24,
        tap=note,
        sealed=sealed,
    )
    fleet.run()
    key, others = fleet.keys["n0"], NAMES[1:]
    return [
        Seen(
            View(
                int(key.p),
                int(key.q),
                59 if sealed else 71,
                states[k, "n0"],
                dict.fromkeys(others, 64 // 5),
                sealed,
                {
                    name: [int.from_bytes(c, "big") for c in answers[k, name].ciphertexts]
                    for name in others
                },
            ),
            {name: states[k, name] for name in others},
        )
        for k in range(ROUNDS)
    ]


@cache
def watched_sealed() -> list[Seen]:
    """A sealed run with all guards on."""
    return watched(sealed=True)


def far_below(difference: FloatVector) -> bool:
    """Whether *difference* is small against the states, which are of order 2^26."""
    return bool(np.abs(difference).max() < 2**12)


def errors(seen: Seen, guess: list[float]) -> Iterator[float]:
    for state in seen.states.values():
        yield float(np.sqrt(np.mean((np.array(guess) - np.array(state, dtype=float)) ** 2)))


def test_a_pairwise_run_without_dither_shows_every_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the script works."""
    monkeypatch.setattr(exchange, "dither", lambda *args: [0] * args[-1])
    for seen in watched(sealed=False):
        assert recover(seen.view) == seen.states


def test_a_pairwise_run_with_dither_shows_no_state_for_certain() -> None:
    """But each difference by itself, and so its direction."""
    for seen in watched(sealed=False):
        assert recover(seen.view) == {}
        for name, state in seen.states.items():
            values = opened(seen.view, [name])
            assert values is not None
            difference = np.array(state, dtype=float) - np.array(seen.view.own, dtype=float)
            # Near agreement the dither, of half a resolution, begins to show.
            assert np.corrcoef(values, difference)[0, 1] > 0.9999 or far_below(difference)


def test_a_sealed_run_shows_the_sum_and_nothing_of_one_neighbour() -> None:
    for seen in watched_sealed():
        assert recover(seen.view) == {}
        for name in seen.states:
            assert opened(seen.view, [name]) is None
            assert opened(seen.view, [other for other in seen.states if other != name]) is None
        guess = guess_from_sum(seen.view)
        assert guess is not None
        # The sum is right (it points to the neighbours' mean), and it is all there is.
        own = np.array(seen.view.own, dtype=float)
        mean = np.mean([np.array(s, dtype=float) for s in seen.states.values()], axis=0)
        towards = np.corrcoef(np.array(guess) - own, mean - own)[0, 1]
        assert towards > 0.9 or far_below(mean - own)


def test_without_masks_a_sealed_answer_would_show_its_sender(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The guard of the test above: masks off, dither off, and the script finds the states."""
    from cipherfleet_node.core import sealed as module

    monkeypatch.setattr(module, "mask", lambda _secret, _label, _modulus: 0)
    monkeypatch.setattr(module, "dither", lambda *args: [0] * args[-1])
    for seen in watched(sealed=True):
        assert recover(seen.view) == seen.states


def test_what_a_sealed_answer_holds_says_nothing_of_the_state_beyond_the_sum() -> None:
    """Each answer by itself is a number uniform below n, whatever its sender's state."""
    places: list[float] = []
    signs: list[tuple[float, float]] = []
    for seen in watched_sealed():
        guess = guess_from_sum(seen.view)
        assert guess is not None
        for name, ciphertexts in seen.view.answers.items():
            plaintexts = [decrypt(seen.view, c) / seen.view.n for c in ciphertexts]
            places += plaintexts
            left = np.array(seen.states[name], dtype=float) - np.array(guess)
            signs.append((plaintexts[0], float(np.sign(left[0]))))
    ordered = np.sort(places)
    steps = np.arange(1, len(ordered) + 1) / len(ordered)
    assert np.abs(ordered - steps).max() < 1.95 / np.sqrt(len(ordered))  # Kolmogorov: 1 in 1000
    value, sign = np.array(signs).T
    assert abs(np.corrcoef(value, sign)[0, 1]) < 3.9 / np.sqrt(len(signs))  # 1 in 10,000


def test_the_script_is_no_better_than_the_sum_in_a_sealed_run() -> None:
    """Its error is that of the guess from the sum: it has found nothing to improve on it."""
    for seen in watched_sealed():
        guess = guess_from_sum(seen.view)
        assert guess is not None
        found = recover(seen.view)
        best = [
            0.0 if name in found else error
            for name, error in zip(seen.states, errors(seen, guess), strict=True)
        ]
        assert best == list(errors(seen, guess))
        assert min(best) > 0
