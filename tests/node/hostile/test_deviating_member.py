"""Real daemons beside a member that lies, says nothing, or claims to be far ahead."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from cipherfleet_node.core.messages import TAG_BYTES, Query
from cipherfleet_node.core.parameters import shared_parameters
from cipherfleet_node.core.wire import encode, topic_of
from cipherfleet_node.keys.key_files import read_keys
from cipherfleet_node.settings.node_yaml import load_node_config
from cipherfleet_node.settings.sections import exact_scale_of
from tests.support.daemons import Daemons, open_daemons, patched
from tests.support.faulty_path import FaultyPath

pytestmark = pytest.mark.fleet

FAR = 10**12
# No fleet here can reach this round in the time of a test.
NEAR = 100_000
FAST = "period_s: 0.05, answer_timeout_s: 1, start_timeout_s: 10"

LIAR = """
from cipherfleet_node.core import exchange, sealed
def lie(kind):
    genuine = kind.prepare
    kind.prepare = lambda self, name, quantised, randomness: genuine(
        self, name, [2**39 - 1] * len(quantised), randomness)
lie(exchange.Pairwise)
lie(sealed.Sealed)
"""
GARBAGE = """
import os
from cipherfleet_node.core import exchange, sealed
def answer(self, query, randomness, prepared):
    return [bytes(1) + os.urandom(len(each) - 1) for each in query.ciphertexts]
exchange.Pairwise.answer = sealed.Sealed.answer = answer
"""
MUTE = """
from cipherfleet_node.core.answerer import Answerer
Answerer.reply = lambda self, query, state, waited_s: None
"""


def coupled(daemons: Daemons, name: str) -> int:
    """Return the number of coupled rounds in the saved state of *name*."""
    state = daemons.state(name)
    return state.coupled if state else 0


def wait_until_coupled(
    daemons: Daemons, names: Sequence[str], more: int, within_s: float = 120.0
) -> None:
    wanted = {name: coupled(daemons, name) + more for name in names}

    def are_there() -> bool:
        return all(coupled(daemons, name) >= wanted[name] for name in names)

    daemons.wait(are_there, f"{more} coupled rounds of {', '.join(names)}", within_s)


def check_alive(daemons: Daemons, names: Sequence[str]) -> None:
    assert {daemons.exit_code(name) for name in names} == {None}
    assert not any("Traceback" in daemons.log(name) for name in names)


@pytest.mark.parametrize("exchange", ["sealed", "pairwise"])
def test_the_largest_answers_end_no_process(tmp_path: Path, exchange: str) -> None:
    others = ["n2", "n3", "n4", "n5"]
    with open_daemons(tmp_path, nodes=5, algorithm=FAST, exchange=exchange) as daemons:
        daemons.start("n1", command=patched(LIAR))
        daemons.start(*others)
        daemons.wait_for_rounds(others, 40, 120)
        check_alive(daemons, others)
        moved = [daemons.state(name) for name in others]
        assert any(s is not None and s.estimate and abs(s.estimate[0]) > 40 for s in moved), (
            "the lie had no effect, so this test shows nothing"
        )


def test_a_member_that_sends_garbage_is_named_and_left_out(tmp_path: Path) -> None:
    others = ["n2", "n3", "n4", "n5", "n6"]
    with open_daemons(tmp_path, nodes=6, algorithm=FAST) as daemons:
        daemons.start("n1", command=patched(GARBAGE))
        daemons.start(*others)
        daemons.wait(
            lambda: all("n1 is not asked any more" in daemons.log(name) for name in others),
            "naming of the faulty member",
            180,
        )
        wait_until_coupled(daemons, others, 20)
        check_alive(daemons, others)


def test_a_member_that_never_answers_costs_few_rounds(tmp_path: Path) -> None:
    others = ["n2", "n3", "n4", "n5"]
    with open_daemons(tmp_path, nodes=5, algorithm=FAST) as daemons:
        daemons.start("n1", command=patched(MUTE))
        daemons.start(*others)
        wait_until_coupled(daemons, others, 10)
        before = {name: (daemons.round(name), coupled(daemons, name)) for name in others}
        wait_until_coupled(daemons, others, 40)
        for name, (rounds, done) in before.items():
            share = (coupled(daemons, name) - done) / (daemons.round(name) - rounds)
            assert share > 0.6, f"{name} has coupled {share:.0%} of its rounds"


def far_query(daemons: Daemons, name: str) -> Query:
    """Return a query of *name* for a round far ahead, correct in everything else."""
    folder, state = daemons.bundles[name], daemons.state(name)
    assert state is not None
    config = load_node_config(folder)
    assert config.crypto.exchange is not None
    keys = read_keys(folder, config.crypto)
    scale = exact_scale_of(config.algorithm, config.objective)
    parameters = shared_parameters(config.algorithm, config.crypto.exchange, 1, scale).tag
    length = keys.paillier.public.bits // 4
    return Query(
        fleet=config.fleet,
        sender=name,
        epoch=state.epoch,
        round=FAR,
        roster=[],
        uncounted=[],
        unbalanced=False,
        scale=None,
        settled=0,
        parameters=parameters,
        key=keys.paillier.public.fingerprint[:TAG_BYTES],
        ciphertexts=[(1).to_bytes(length, "big")],
    )


def publish(daemons: Daemons, name: str, query: Query, *, retain: bool) -> None:
    """Publish *query*, signed by *name*, on its topic."""
    folder = daemons.bundles[name]
    identity = read_keys(folder, load_node_config(folder).crypto).identity
    client = paho.Client(CallbackAPIVersion.VERSION2, "far")
    client.connect(daemons.broker.host, daemons.broker.port)
    client.loop_start()
    client.publish(topic_of(query), encode(query, identity), 1, retain).wait_for_publish(30)
    client.disconnect()
    client.loop_stop()


def check_near(daemons: Daemons, names: Sequence[str]) -> None:
    for name in names:
        state = daemons.state(name)
        assert state is not None
        assert state.round < NEAR, f"{name} has been moved to round {state.round}"


def test_a_retained_query_of_a_far_round_moves_nobody_at_a_reboot(tmp_path: Path) -> None:
    names = ["n1", "n2", "n3", "n4"]
    with open_daemons(tmp_path, nodes=4, algorithm=FAST) as daemons:
        daemons.start(*names)
        daemons.wait_for_rounds(names, 10)
        publish(daemons, "n1", far_query(daemons, "n1"), retain=True)
        for name in ("n2", "n3"):
            daemons.signal(name)
            daemons.start(name)
            wait_until_coupled(daemons, names, 5)
        check_near(daemons, names)
        assert "retained" in daemons.log("n2")


def test_a_live_query_of_a_far_round_moves_a_leaf_to_the_bound_at_most(tmp_path: Path) -> None:
    names = ["n1", "n2", "n3", "n4"]  # a star: n2 is a leaf, n1 its only neighbour
    with open_daemons(
        tmp_path, nodes=4, topology="star", algorithm=FAST, exchange="pairwise"
    ) as daemons:
        daemons.start(*names)
        daemons.wait_for_rounds(names, 10)
        began = time.monotonic()
        publish(daemons, "n1", far_query(daemons, "n1"), retain=False)
        daemons.wait_for_rounds(["n1"], 10)
        check_near(daemons, names)
        assert time.monotonic() - began < 300, "the bound grows with time: this test was too slow"


def test_a_round_trip_of_three_timeouts_does_not_stop_a_sealed_fleet(tmp_path: Path) -> None:
    names = ["n1", "n2", "n3"]
    timeouts = "answer_timeout_s: 0.5, start_timeout_s: 20, period_s: 0.05"
    with (
        FaultyPath(delay_s=0.7) as path,  # both ways: a round trip of 2.8 timeouts
        open_daemons(tmp_path, algorithm=timeouts, path=path) as daemons,
    ):
        daemons.start(*names)
        wait_until_coupled(daemons, names, 8, 240)
        check_alive(daemons, names)


def rate(daemons: Daemons, names: Sequence[str], rounds: int, within_s: float) -> float:
    """Return the coupled rounds per second of the slowest of *names*."""
    began = time.monotonic()
    wait_until_coupled(daemons, names, rounds, within_s)
    return rounds / (time.monotonic() - began)


@pytest.mark.parametrize("away_s", [10.0])
def test_a_sealed_ring_is_fast_again_after_two_were_away(tmp_path: Path, away_s: float) -> None:
    names = [f"n{k}" for k in range(1, 7)]
    with open_daemons(tmp_path, nodes=6, topology="ring", algorithm=FAST) as daemons:
        daemons.start(*names)
        daemons.wait_for_rounds(names, 10)
        usual = rate(daemons, names, 40, 120)
        for name in ("n1", "n4"):  # n2 and n3 are left between them
            daemons.signal(name)
        time.sleep(away_s)
        daemons.start("n1", "n4")
        daemons.wait_for_rounds(names, 1, 60)
        again = eventually(lambda: rate(daemons, names, 40, 120), lambda r: r > usual / 2)
        assert again > usual / 2, f"{again:.1f} rounds a second after {usual:.1f} before"


def eventually(measure: Callable[[], float], is_good: Callable[[float], bool]) -> float:
    """Measure up to three times, since other work on the machine may disturb one measurement."""
    for _ in range(2):
        if is_good(value := measure()):
            return value
    return measure()
