"""What a curious asker isolates of one neighbour by subtracting two sums that it has opened.

The broker helps it: it delays answers beyond the deadlines and speaks last wills. An asker opens
every sum whose answers have all come, whether its node counted it or not. Two sums isolate the term
of a neighbour if their rosters differ by that neighbour and all others have shown the same state.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest

from cipherfleet_node.core import progress
from cipherfleet_node.core.answerer import Answerer
from cipherfleet_node.core.events import Event, MessageReceived
from cipherfleet_node.core.messages import Answer, Message
from cipherfleet_node.core.randomness import Seeds
from cipherfleet_node.core.state import State
from cipherfleet_node.settings.sections import Algorithm
from tests.support.memory_fleet import (
    OBJECTIVE,
    TIMEOUT,
    MemoryFleet,
    complete,
    names,
    reading,
    saved_of,
    start_all,
)

N = 5
SAME = 2  # resolutions: two roundings of one state differ by less
FAR = 2**12  # resolutions: nearer states than this are not worth isolating


@dataclass
class WatchedFleet(MemoryFleet):
    """A sealed fleet in plaintext whose broker delays one answer in ten, by up to 8 deadlines."""

    shown: dict[tuple[str, int], list[int]] = field(default_factory=dict)  # by node and round
    # By asker and round: the answerers whose answers have come, in the order of their coming.
    come: dict[tuple[str, int], list[str]] = field(default_factory=lambda: defaultdict(list))

    def _post(
        self, sender: str, receiver: str, message: Message, *, retained: bool = False
    ) -> None:
        if isinstance(message, Answer):
            record = saved_of(self, sender).record(message.round)
            assert record is not None
            self.shown[sender, message.round] = record.quantised
            if self._rng.random() < 0.1:
                late = self.now + self._rng.uniform(0.8, 8.0) * TIMEOUT
                self._push(late, receiver, MessageReceived(message))
                return
        super()._post(sender, receiver, message, retained=retained)

    def _deliver(self, name: str, event: Event) -> None:
        if isinstance(event, MessageReceived) and isinstance(event.message, Answer):
            self.come[name, event.message.round].append(event.message.sender)
        super()._deliver(name, event)


@dataclass
class RoundSeedFleet(WatchedFleet):
    """Its draws belong to rounds and not to states."""

    def seeds(self, name: str) -> Seeds:
        rounds = itertools.count()
        return lambda _draw: self.round_seed(name, next(rounds))


def watched(seed: int, kind: type[WatchedFleet] = WatchedFleet) -> WatchedFleet:
    """Run a fleet in which one node after another dies, with a last will, and comes back."""
    chance = random.Random(f"curious {seed}")
    samples = {name: [reading(name)] for name in names(N)}
    algorithm = Algorithm(period_s=1.0, answer_timeout_s=TIMEOUT)
    changes: dict[str, Any] = {"seed": seed, "sealed": True, "encrypted": False, "by_state": True}
    fleet = kind(complete(N), samples, OBJECTIVE, algorithm, **changes)
    start_all(fleet)
    for _ in range(12):
        fleet.advance(fleet.now + chance.uniform(3.0, 15.0))
        name = chance.choice(names(N))
        fleet.kill(name)
        fleet.advance(fleet.now + chance.uniform(0.0, 10.0))
        fleet.start(name)
    fleet.advance(fleet.now + 10 * TIMEOUT)
    return fleet


def sums_of(fleet: WatchedFleet, asker: str, *, in_part: bool) -> dict[frozenset[str], list[int]]:
    """The rounds of each roster whose sum the asker can open; with *in_part* also of its parts."""
    found: dict[frozenset[str], list[int]] = defaultdict(list)
    for (name, k), answerers in fleet.come.items():
        if name != asker:
            continue
        (roster,) = fleet.rosters[asker, k]
        members, come = frozenset(roster.split()), list(dict.fromkeys(answerers))
        parts = [frozenset(come[:count]) for count in range(2, len(come) + 1)]
        for part in parts:
            if part == members or (in_part and part < members):
                found[part].append(k)
    return found


def isolated(fleet: WatchedFleet, *, in_part: bool = False) -> Iterator[tuple[str, str, int, int]]:
    """Asker, neighbour and both rounds of each term that the difference of two sums isolates."""
    for asker in names(N):
        sums = sums_of(fleet, asker, in_part=in_part)
        for wide, narrow in itertools.product(sums, repeat=2):
            if narrow < wide and len(wide - narrow) == 1:
                (name,) = wide - narrow
                for k, other in itertools.product(sums[wide], sums[narrow]):
                    if are_same(fleet, narrow, k, other) and is_far(fleet, asker, name, k):
                        yield asker, name, k, other


def are_same(fleet: WatchedFleet, answerers: frozenset[str], k: int, other: int) -> bool:
    pairs = ((fleet.shown[name, k], fleet.shown[name, other]) for name in answerers)
    return all(np.abs(np.subtract(a, b)).max() <= SAME for a, b in pairs)


def is_far(fleet: WatchedFleet, asker: str, name: str, k: int) -> bool:
    asked = fleet.shown.get((asker, k))
    return asked is not None and np.abs(np.subtract(fleet.shown[name, k], asked)).max() > FAR


SEEDS = range(6, 14)


@cache
def with_all_rules(seed: int) -> WatchedFleet:
    return watched(seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_difference_of_two_sums_isolates_a_term(seed: int) -> None:
    fleet = with_all_rules(seed)
    held = sum(not r.is_coupled for seat in fleet.seats.values() for r in seat.reported)
    assert held > 20
    rosters = {roster for rosters in fleet.rosters.values() for roster in rosters}
    assert len(rosters) > 2 * N, "rosters changed"
    assert list(isolated(fleet)) == []


def test_if_draws_belonged_to_rounds_terms_would_be_isolated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every round would be a draw of its own, so a changed roster would be answered at once."""

    def of_round(state: State, _seed: bytes, *, sealed: bool) -> bytes:
        assert sealed
        return state.round.to_bytes(8, "big")

    monkeypatch.setattr(progress, "draw_name", of_round)
    assert any(list(isolated(watched(seed, RoundSeedFleet))) for seed in reversed(SEEDS))


def test_if_held_rounds_were_opened_in_part_terms_would_be_isolated() -> None:
    """No mask would prevent it, and a late answer would then be a difference of two sums."""
    assert any(list(isolated(with_all_rules(seed), in_part=True)) for seed in SEEDS)


def test_if_rosters_were_not_remembered_terms_would_be_isolated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Answerer, "_may_see", lambda *_: True)
    assert any(list(isolated(watched(seed))) for seed in reversed(SEEDS))
