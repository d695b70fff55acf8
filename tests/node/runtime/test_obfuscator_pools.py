"""Pools of obfuscators: each is fresh and used once; an empty pool makes one on demand."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import pytest
from gmpy2 import mpz

from cipherfleet_lab.simulation.toy_keys import toy_key
from cipherfleet_node.core.paillier import PublicKey
from cipherfleet_node.keys.obfuscators import OwnByCrt, Uniform
from cipherfleet_node.runtime.obfuscator_pools import OWN, Pools

OTHER = toy_key(1)


def pools_of(capacity: int, threads: int) -> Pools:
    return Pools({OWN: OwnByCrt(toy_key(0)), "b": Uniform(OTHER.public)}, capacity, threads)


def level(pools: Pools) -> int:
    return min(pools.figures().levels.values())


def inline(pools: Pools) -> dict[str, int]:
    return pools.figures().inline


@pytest.fixture
def pools() -> Iterator[Pools]:
    made = pools_of(capacity=8, threads=2)
    made.start()
    yield made
    made.close()


def wait_until_full(pools: Pools, wanted: int, within_s: float = 120.0) -> None:
    deadline = time.monotonic() + within_s
    while level(pools) < wanted:
        assert time.monotonic() < deadline, "the pools do not fill"
        time.sleep(0.002)


def test_pools_fill_to_their_capacity_and_no_further(pools: Pools) -> None:
    wait_until_full(pools, 8)
    time.sleep(0.05)
    # Both threads may have seen the same pool one short of its capacity.
    assert all(8 <= ready <= 9 for ready in pools.figures().levels.values())


def test_what_is_taken_is_made_again(pools: Pools) -> None:
    wait_until_full(pools, 8)
    for _ in range(6):
        pools.own()
        pools.towards("b")
    wait_until_full(pools, 8)
    assert pools.figures().refilled_per_s > 0
    assert not inline(pools)


def test_an_obfuscator_decrypts_to_zero_under_its_own_key(pools: Pools) -> None:
    wait_until_full(pools, 8)
    for _ in range(12):  # some from the pool, some made on the spot
        assert toy_key(0).decrypt(pools.own()) == 0
        assert OTHER.decrypt(pools.towards("b")) == 0


def test_no_obfuscator_is_handed_out_twice() -> None:
    """Thousands, taken by four threads at once while two threads refill."""
    pools = pools_of(capacity=64, threads=2)
    pools.start()
    wait_until_full(pools, 64)
    taken: list[list[mpz]] = [[] for _ in range(4)]

    def take(place: int) -> None:
        for _ in range(600):
            taken[place].append(pools.towards("b"))
            taken[place].append(pools.own())

    threads = [threading.Thread(target=take, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pools.close()
    everything = [obfuscator for part in taken for obfuscator in part]
    assert len(everything) == 4800
    assert len(set(everything)) == 4800
    assert sum(inline(pools).values()) < 4800, "made on the spot, all of them: no pool took part"


def test_an_empty_pool_never_skips_blinding_and_counts() -> None:
    pools = pools_of(capacity=0, threads=3)
    pools.start()
    made = [pools.own() for _ in range(5)] + [pools.towards("b") for _ in range(7)]
    assert len(set(made)) == 12
    assert mpz(1) not in made
    assert inline(pools) == {OWN: 5, "b": 7}
    assert pools.figures().refilled_per_s == level(pools) == 0
    pools.close()


def test_without_threads_everything_is_made_on_the_spot() -> None:
    pools = pools_of(capacity=8, threads=0)
    pools.start()
    assert OTHER.decrypt(pools.towards("b")) == 0
    assert inline(pools) == {"b": 1}
    pools.close()


def test_closing_ends_the_threads() -> None:
    for full in (True, False):
        before = threading.active_count()
        pools = pools_of(capacity=4 if full else 256, threads=3)
        pools.start()
        assert threading.active_count() == before + 3
        if full:
            wait_until_full(pools, 4)
        pools.close()
        assert threading.active_count() == before


def test_closed_pools_still_blind() -> None:
    pools = pools_of(capacity=2, threads=1)
    pools.start()
    pools.close()
    assert len({pools.own() for _ in range(10)}) == 10


class FailsInThreads(Uniform):
    """No randomness but in the main thread."""

    def make(self) -> mpz:
        if threading.current_thread() is not threading.main_thread():
            raise OSError("no randomness")
        return super().make()


def test_a_refill_thread_that_fails_says_so_and_the_node_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pools = Pools({"b": FailsInThreads(OTHER.public)}, capacity=4, threads=1)
    with caplog.at_level(logging.ERROR):
        pools.start()
        end = time.monotonic() + 60.0
        while "made on demand from now on" not in caplog.text:
            assert time.monotonic() < end, "the thread has not said that it failed"
            time.sleep(0.01)
        pools.close()
    assert OTHER.decrypt(pools.towards("b")) == 0
    assert inline(pools) == {"b": 1}


class OneLongPower(Uniform):
    """Takes about a second, and says when it begins and ends."""

    def __init__(self, key: PublicKey) -> None:
        super().__init__(key)
        self.began, self.ended = threading.Event(), threading.Event()

    def make(self) -> mpz:
        self.began.set()
        made = super().make()
        self.ended.set()
        return made


def test_the_refill_does_not_delay_other_threads() -> None:
    """A thread that holds the interpreter during a power stops all other threads until it ends.

    Then others take a few turns, before the power begins; else thousands, on a busy machine, too.
    """
    modulus = mpz(2) ** 8192 - 1  # large enough for a power of a second
    source, turns = OneLongPower(PublicKey(modulus)), 0
    pools = Pools({"b": source}, capacity=1, threads=1)
    pools.start()
    try:
        assert source.began.wait(120)
        while not source.ended.is_set():
            time.sleep(0)  # hands the interpreter to the next
            turns += 1
    finally:
        pools.close()
    assert turns > 100


def test_pools_do_not_show_their_content(pools: Pools) -> None:
    wait_until_full(pools, 1)
    assert str(pools.own()) not in repr(pools)
    assert str(toy_key(0).p) not in repr(pools)
