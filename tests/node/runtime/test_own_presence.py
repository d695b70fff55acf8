"""Which of two devices with one identity ends: exactly one, in every order of connections."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from cipherfleet_node.runtime import epochs
from cipherfleet_node.runtime.epochs import (
    ANSWERS,
    EARLIEST,
    LATEST,
    RANDOM_BITS,
    answer_to,
    is_answer,
    new_epoch,
)
from cipherfleet_node.runtime.own_presence import Conclusion, OwnPresence

NOW = EARLIEST.timestamp() + 86400.0


# -- epochs ---------------------------------------------------------------------------------------


@given(saved=st.integers(0, 2**60), clock_s=st.floats(0, 1e11))
def test_an_epoch_is_above_the_saved_one_and_never_the_answer_to_it(
    saved: int, clock_s: float
) -> None:
    assert new_epoch(saved, clock_s) > saved
    assert not is_answer(new_epoch(saved, clock_s), saved)
    assert is_answer(answer_to(saved), saved)


def test_a_later_start_has_a_greater_epoch_without_a_saved_state() -> None:
    assert new_epoch(0, NOW + 1.0) > new_epoch(0, NOW)


def test_clocks_outside_the_life_of_this_version_are_not_used() -> None:
    for wrong in (0.0, EARLIEST.timestamp() - 1.0, LATEST.timestamp() + 1.0, 4.1e9):
        assert not epochs.is_plausible(wrong)
        assert new_epoch(7, wrong) <= 7 + ANSWERS + 2**RANDOM_BITS
    # The state that was written under such a clock is no obstacle for the right one.
    assert new_epoch(new_epoch(0, 4.1e9), NOW) >= int(NOW) << RANDOM_BITS


def test_two_starts_within_one_second_have_different_epochs() -> None:
    found = {new_epoch(41, NOW) for _ in range(20)}
    assert len(found) > 15  # 20 of 2^20: two are equal once in 5,500 runs, five never


# -- one message ----------------------------------------------------------------------------------


def test_messages_of_this_start_and_earlier_ones_mean_nothing() -> None:
    own = OwnPresence(saved=100, epoch=200)
    assert own.judge(100) is Conclusion.NOTHING_NEW  # the start before
    assert own.judge(40) is Conclusion.NOTHING_NEW
    own.has_spoken = True
    for epoch in (40, 100, 199, 200):
        assert own.judge(epoch) is Conclusion.NOTHING_NEW


def test_an_epoch_above_the_saved_one_shows_an_old_state_before_the_first_message() -> None:
    own = OwnPresence(saved=100, epoch=200)
    assert own.judge(150) is Conclusion.STATE_IS_OLD  # below our own, thanks to the clock
    assert own.judge(201) is Conclusion.STATE_IS_OLD
    assert OwnPresence(saved=0, epoch=5).judge(3) is Conclusion.STATE_IS_OLD  # the state is lost


def test_only_the_answer_to_this_very_start_ends_it() -> None:
    own = OwnPresence(saved=100, epoch=200, has_spoken=True)
    assert own.judge(201) is Conclusion.WAS_FIRST
    assert own.judge(200 + ANSWERS) is Conclusion.WAS_FIRST
    assert own.judge(200 + ANSWERS + 1) is Conclusion.STARTED_LATER


# -- two or more devices on one broker ------------------------------------------------------------


@dataclass
class Device:
    """A card or a copy of it, which acts as runtime/daemon.py does."""

    name: str
    saved: int
    clock_s: float
    chance: random.Random
    own: OwnPresence = field(init=False)
    has_ended: bool = False

    def __post_init__(self) -> None:
        self._begin(self._fresh(self.saved))

    def _fresh(self, latest: int) -> int:
        return new_epoch(latest, self.clock_s, self.chance.randrange)

    def _begin(self, epoch: int) -> None:
        self.own = OwnPresence(self.saved, epoch)
        self.saved = max(self.saved, epoch)

    def hear(self, epoch: int) -> bool:
        """Act on a retained or live presence; False if the device leaves its connection."""
        conclusion = self.own.judge(epoch)
        if conclusion is Conclusion.NOTHING_NEW:
            return True
        if conclusion is Conclusion.WAS_FIRST:
            self.has_ended = True
        elif conclusion is Conclusion.STARTED_LATER:
            self.saved = answer_to(epoch, self.chance.randrange)
            self._begin(self.saved)
        else:
            self._begin(self._fresh(max(epoch, self.own.epoch)))
        return False


@dataclass
class BrokerModel:
    """Holds one retained presence and one connection, as brokers do for one client id."""

    retained: int | None = None
    connected: Device | None = None
    publishes_wills: bool = True

    def connect(self, device: Device) -> None:
        if self.connected not in (None, device) and self.publishes_wills:
            assert self.connected is not None
            self.retained = self.connected.own.epoch  # its last will
        self.connected = device
        if self.retained is not None and not device.hear(self.retained):
            self.connected = None  # it restarts, or has ended
            return
        device.own.has_spoken = True
        self.retained = device.own.epoch


def settle(broker: BrokerModel, devices: list[Device], chance: random.Random) -> int:
    """Let the devices that are not connected reconnect in any order; return the tries."""
    for tries in range(200):
        waiting = [d for d in devices if not d.has_ended and d is not broker.connected]
        if not waiting:
            return tries
        broker.connect(chance.choice(waiting))
    raise AssertionError("the devices still end each other's connection")


SECONDS = st.sampled_from([0.0, 0.0, 1.0, 5000.0])


@given(
    seed=st.integers(0, 2**32),
    copies=st.integers(1, 3),
    later_s=SECONDS,
    wills=st.booleans(),
    clock=st.sampled_from([NOW, 0.0]),
)
def test_exactly_one_of_several_copies_goes_on(
    seed: int, copies: int, later_s: float, wills: bool, clock: float
) -> None:
    chance = random.Random(seed)
    broker = BrokerModel(publishes_wills=wills)
    names = ["card", *(f"copy {n}" for n in range(copies))]
    devices = [Device(name, 40, clock + n * later_s, chance) for n, name in enumerate(names)]
    settle(broker, devices, chance)
    assert [d.has_ended for d in devices].count(False) == 1


@given(
    seed=st.integers(0, 2**32),
    wills=st.booleans(),
    card_clock=st.sampled_from([NOW, 0.0]),
    copy_clock=st.sampled_from([NOW, NOW + 5000.0, 0.0, NOW - 3600.0]),
)
def test_the_card_that_runs_already_goes_on_and_its_copy_ends(
    seed: int, wills: bool, card_clock: float, copy_clock: float
) -> None:
    chance = random.Random(seed)
    broker = BrokerModel(publishes_wills=wills)
    card = Device("card", 40, card_clock, chance)
    broker.connect(card)
    copy = Device("copy", chance.choice([card.saved, 40, 0]), copy_clock, chance)
    assert settle(broker, [card, copy], chance) < 12
    assert (card.has_ended, copy.has_ended) == (False, True)
    assert broker.connected is card


@given(seed=st.integers(0, 2**32), flaps=st.integers(1, 50))
def test_a_connection_that_breaks_again_and_again_ends_no_node(seed: int, flaps: int) -> None:
    chance = random.Random(seed)
    broker = BrokerModel()
    card = Device("card", 40, NOW, chance)
    for _ in range(flaps):
        broker.connect(card)
        broker.connected, broker.retained = None, card.own.epoch
    assert not card.has_ended


@given(seed=st.integers(0, 2**32), replayed=st.lists(st.integers(0, 9), max_size=30))
def test_repeated_messages_of_earlier_starts_end_no_node(seed: int, replayed: list[int]) -> None:
    chance = random.Random(seed)
    past = [41]
    for _ in range(9):
        past.append(new_epoch(past[-1], 0.0, chance.randrange))
    card = Device("card", past[-1], 0.0, chance)
    broker = BrokerModel()
    broker.connect(card)
    for place in replayed:
        card.hear(past[place])
    assert not card.has_ended
