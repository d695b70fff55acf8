"""Whole fleets of real agents with faults, and single agents that get wrong messages.

All of it is in one file: the tests share a few fleets and what they ask of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from gmpy2 import mpz
from hypothesis import Phase as HypothesisPhase
from hypothesis import given, settings
from hypothesis import strategies as st

from cipherfleet_lab.simulation.memory_fleet import Faults
from cipherfleet_lab.simulation.toy_keys import toy_key
from cipherfleet_node.core import exchange
from cipherfleet_node.core.agent import LINGER_TIMEOUTS
from cipherfleet_node.core.claims import FAR, PERIODS
from cipherfleet_node.core.events import (
    Effect,
    MessageReceived,
    Publish,
    ReadingTaken,
    Rejected,
    RoundClosed,
    Save,
    Surplus,
)
from cipherfleet_node.core.messages import Answer, Message, Presence, Query, Refusal
from cipherfleet_node.core.packing import Layout
from cipherfleet_node.core.paillier import encrypt
from cipherfleet_node.core.randomness import RoundRandomness
from cipherfleet_node.core.round import Phase
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.core.sealed import own_weight
from cipherfleet_node.errors import HeadroomExceeded, LocalProtocolError
from tests.support.memory_fleet import (
    FIELDS,
    SHAPES,
    TIMEOUT,
    MemoryFleet,
    agent_of,
    complete,
    coupled_of,
    deliver,
    drop,
    finish,
    fleet_of,
    garbling,
    line,
    mean_reading,
    names,
    random_graph,
    reading,
    rejections,
    reused_rounds,
    ring,
    rounds_of,
    sent,
    star,
    start_all,
    surpluses,
)

D = len(FIELDS)


# -- going on, whatever the links do --------------------------------------------------------------


FAULTS = {
    "no faults": Faults(),
    "losses": Faults(drop=0.3),
    "repetitions": Faults(duplicate=0.5),
    "reordering": Faults(duplicate=0.3, delay_s=(0.001, 3.0)),
    "delays beyond the deadline": Faults(drop=0.2, delay_s=(0.001, 12.0)),
}


both = pytest.mark.parametrize("sealed", [False, True], ids=["pairwise", "sealed"])


@both
@pytest.mark.parametrize("faults", FAULTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [4, 6])
def test_no_graph_and_no_fault_of_the_links_stops_a_fleet(
    shape: str, n: int, faults: str, sealed: bool
) -> None:
    fleet = fleet_of(SHAPES[shape](n), faults=FAULTS[faults], sealed=sealed, encrypted=n == 4)
    fleet.run(20_000.0)
    assert not reused_rounds(fleet)
    for name in fleet.seats:
        # A sealed sum of many needs all answers at once, so some nodes give up under heavy losses,
        # or where answers are late. A leaf may miss the last rounds of a neighbour that has ended.
        is_late = FAULTS[faults].delay_s[1] > TIMEOUT
        is_hard = sealed and (is_late or FAULTS[faults].drop > 0.1)
        assert coupled_of(fleet, name) >= (0 if is_hard else 4)
        done = rounds_of(fleet, name)
        assert done == sorted(set(done)), "a round is closed once, and in order"
    if faults in ("no faults", "repetitions"):
        assert all(rounds_of(fleet, name) == list(range(8)) for name in fleet.seats)
        assert fleet.silent() == 0
        last = max(seat.closed_at[-1] for seat in fleet.seats.values())
        assert last < 1.0, "no round waited for a deadline"


@settings(max_examples=25)
@given(
    n=st.integers(3, 12),
    graph_seed=st.integers(0, 10**6),
    drop=st.sampled_from([0.0, 0.1, 0.4]),
    duplicate=st.sampled_from([0.0, 0.4]),
    longest_s=st.sampled_from([0.01, 2.0, 15.0]),
    seed=st.integers(0, 10**6),
    sealed=st.booleans(),
)
def test_random_graphs_never_deadlock(
    n: int,
    graph_seed: int,
    drop: float,
    duplicate: float,
    longest_s: float,
    seed: int,
    sealed: bool,
) -> None:
    # A sealed sum needs all answers of its roster, so fewer losses stop it.
    faults = Faults(min(drop, 0.15) if sealed else drop, duplicate, (0.001, longest_s))
    edges = random_graph(n, graph_seed)
    fleet = fleet_of(edges, 5, faults=faults, seed=seed, sealed=sealed, encrypted=False)
    fleet.run(20_000.0)
    assert not reused_rounds(fleet)
    # Where answers are lost and many are late, a node may end after all of its neighbours.
    is_hard = drop > (0.0 if sealed else 0.1) and longest_s > TIMEOUT
    assert all(coupled_of(fleet, name) >= (0 if is_hard else 5) for name in fleet.seats)


def test_two_nodes_agree() -> None:
    fleet = fleet_of(line(2), rounds=60)
    fleet.run()
    mean = mean_reading(2)
    np.testing.assert_allclose(fleet.estimates(), [mean, mean], atol=1e-4)


@both
def test_faults_of_the_links_do_not_move_the_answer(sealed: bool) -> None:
    faults = Faults(duplicate=0.3, delay_s=(0.001, 0.5))
    fleet = fleet_of(ring(5), rounds=80, faults=faults, sealed=sealed)
    fleet.run()
    mean = mean_reading(5)
    np.testing.assert_allclose(fleet.estimates(), [mean] * 5, atol=1e-3)


def test_the_same_seed_gives_the_same_fleet() -> None:
    runs = [fleet_of(ring(4), faults=Faults(drop=0.2), seed=seed) for seed in (1, 1, 2)]
    for fleet in runs:
        fleet.run()
    first, again, other = (fleet.estimates().tolist() for fleet in runs)
    assert first == again
    assert first != other


# -- silence --------------------------------------------------------------------------------------


def test_silent_neighbour_closes_the_round_at_its_second_deadline() -> None:
    """n01 does not get the answer of n00 in round 2, however often it asks."""

    def lost(sender: str, receiver: str, message: Message) -> bool:
        is_answer = isinstance(message, Answer) and message.round == 2
        return is_answer and (sender, receiver) == ("n00", "n01")

    fleet = fleet_of(ring(4), tap=drop(lost))
    fleet.run()
    seat = fleet.seats["n01"]
    closed = {r.number: r for r in seat.reported}
    assert closed[2].silent == ("n00",)
    took_s = dict(zip(closed, seat.closed_at, strict=True))[2] - closed[2].opened
    # Each deadline is doubled if n00 was still in round 1 when it began.
    assert any(took_s == pytest.approx(count * TIMEOUT) for count in (2, 3, 4))
    assert all(not closed[k].silent for k in closed if k != 2)
    assert fleet.silent() == 1


def test_an_unanswered_query_is_sent_again_at_the_first_deadline() -> None:
    seen: list[tuple[float, Query]] = []

    def lost(sender: str, receiver: str, message: Message) -> bool:
        if isinstance(message, Query) and (sender, receiver, message.round) == ("n01", "n00", 2):
            seen.append((fleet.now, message))
            return len(seen) == 1
        return False

    fleet = fleet_of(line(3), tap=drop(lost))
    fleet.run()
    assert fleet.silent() == 0
    (first, query), (second, repeated), *_ = seen
    assert any(second - first == pytest.approx(count * TIMEOUT) for count in (1, 2))
    assert query == repeated


@pytest.mark.parametrize(
    ("shape", "sealed"),
    [*((shape, False) for shape in SHAPES), ("star", True), ("complete", True)],
)
def test_a_killed_node_without_a_last_will_costs_a_few_deadlines(shape: str, sealed: bool) -> None:
    """Whatever the number of rounds: it is asked less and less often."""
    fleet = fleet_of(SHAPES[shape](6), rounds=60, sealed=sealed, encrypted=False)
    start_all(fleet)
    fleet.advance(0.05)
    fleet.kill("n05", last_will=False)
    fleet.advance(2_000.0)
    others = [name for name in fleet.seats if name != "n05"]
    assert all(coupled_of(fleet, name) >= 60 for name in others)
    last = max(fleet.seats[name].closed_at[-1] for name in others)
    assert last < 40 * TIMEOUT, "of 55 rounds without it"


@both
@pytest.mark.parametrize("shape", ["ring", "star", "complete", "grid"])
def test_a_last_will_costs_a_pairwise_round_no_deadline_and_a_sealed_one_few(
    shape: str, sealed: bool
) -> None:
    """A sealed node closes its round at once, held; its next roster is another, refused once."""
    fleet = fleet_of(SHAPES[shape](6), rounds=20, sealed=sealed, encrypted=False)
    start_all(fleet)
    fleet.advance(0.05)
    fleet.kill("n01")
    fleet.advance(1_000.0)
    others = [name for name in fleet.seats if name != "n01"]
    if sealed and shape in ("ring", "grid"):  # a neighbour of two is left with one, and holds
        others = [name for name in others if len(fleet.neighbours[name]) > 2]
    assert all(coupled_of(fleet, name) >= 20 for name in others)
    if sealed:
        return
    assert max(fleet.seats[name].closed_at[-1] for name in others) < TIMEOUT
    assert all(fleet.seats[name].stopped for name in others)


def test_a_node_all_of_whose_neighbours_are_gone_waits_and_says_so() -> None:
    fleet = fleet_of(line(3), rounds=20)
    start_all(fleet)
    fleet.advance(0.05)
    fleet.kill("n01")
    fleet.advance(60.0)
    for name in ("n00", "n02"):
        assert agent_of(fleet, name).phase is Phase.READING
        assert fleet.presence[name].state == "waiting"
    fleet.start("n01")
    finish(fleet)
    assert not reused_rounds(fleet)
    for name in ("n00", "n02"):
        assert coupled_of(fleet, name) == 20
        held = [closed.number for closed in fleet.seats[name].reported if closed.silent]
        # The round that was open when its neighbour left, and those until that neighbour may draw
        # again: it has answered the node's query of another round with the same draw.
        assert len(held) <= 4


def test_a_node_that_has_waited_says_when_its_rounds_go_on() -> None:
    fleet = fleet_of(line(3), rounds=None, period_s=1.0)
    start_all(fleet)
    fleet.advance(2.5)
    fleet.kill("n01")
    fleet.advance(60.0)
    assert [fleet.presence[name].state for name in ("n00", "n02")] == ["waiting", "waiting"]
    fleet.start("n01")
    fleet.advance(70.0)
    assert [fleet.presence[name].state for name in ("n00", "n02")] == ["ready", "ready"]


# -- death and return -----------------------------------------------------------------------------


@both
def test_a_restarted_node_rejoins_and_agrees(sealed: bool) -> None:
    fleet = fleet_of(ring(5), rounds=100, period_s=0.1, sealed=sealed)
    start_all(fleet)
    fleet.advance(1.0)
    fleet.kill("n02")
    fleet.advance(3.0)
    before = rounds_of(fleet, "n02")[-1]
    fleet.start("n02")
    finish(fleet)
    assert coupled_of(fleet, "n02") >= 100
    coupled = [r.number for r in fleet.seats["n02"].reported if r.is_coupled]
    # The neighbours of a sealed node hold without it, one round in a deadline.
    ahead = 0 if sealed else 15
    assert min(k for k in coupled if k > before) > before + ahead, "it joins its neighbours' round"
    assert not reused_rounds(fleet)
    assert np.ptp(fleet.estimates(), axis=0).max() < 1e-4


@both
def test_a_restart_repeats_the_query_of_its_round_byte_for_byte(sealed: bool) -> None:
    queries: dict[int, list[Query]] = {}

    def note(sender: str, _receiver: str, message: Message) -> Message | None:
        if sender == "n00" and isinstance(message, Query):
            queries.setdefault(message.epoch, []).append(message)
        blocked = isinstance(message, Answer) and message.round == 3 and fleet.now < 1.0
        return None if blocked else message

    fleet = fleet_of(ring(3), tap=note, sealed=sealed)
    start_all(fleet)
    fleet.advance(0.5)
    assert agent_of(fleet, "n00").round_number == 3
    fleet.kill("n00", last_will=False)
    fleet.advance(1.0)
    fleet.start("n00")
    finish(fleet)
    before, after = queries[1][-1], queries[2][0]
    assert (before.round, after.round) == (3, 3)
    assert before.digest == after.digest
    assert rounds_of(fleet, "n00") == list(range(8))


def test_a_restart_repeats_its_answers_in_substance() -> None:
    """Half weight, state and dither again: fresh is only the blinding."""
    answers: list[Answer] = []

    def note(sender: str, receiver: str, message: Message) -> Message | None:
        if isinstance(message, Answer) and (sender, message.round) == ("n00", 3):
            if receiver == "n01":
                answers.append(message)
            return None if fleet.now < 1.0 else message
        return message

    fleet = fleet_of(ring(3), tap=note)
    start_all(fleet)
    fleet.advance(0.5)
    fleet.kill("n00", last_will=False)
    fleet.advance(1.0)
    fleet.start("n00")
    finish(fleet)
    key, layout = fleet.keys["n01"], Layout(512, D)
    first, last = (
        exchange.read_ciphertexts(key.public, layout, answer.ciphertexts)
        for answer in (answers[0], answers[-1])
    )
    assert answers[0].epoch < answers[-1].epoch
    assert first != last
    assert [key.decrypt(c) for c in first] == [key.decrypt(c) for c in last]


def saved_first(fleet: MemoryFleet) -> Callable[[str, str, Message], Message]:
    """A tap that fails where a message leaves before what it gives away is on the disk."""

    def check(sender: str, _receiver: str, message: Message) -> Message:
        saved = fleet.seats[sender].saved
        if isinstance(message, Presence):
            return message
        assert saved is not None
        records = {record.number: record for record in saved.records}
        if isinstance(message, Query):
            assert records[message.round].query == message.ciphertexts
            assert records[message.round].roster == message.roster
            assert message.round <= saved.round
        elif isinstance(message, Answer):
            assert records[message.round].answered[message.receiver] == message.query
        return message

    return check


@both
@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_sent_before_it_is_saved(shape: str, sealed: bool) -> None:
    fleet = fleet_of(SHAPES[shape](4), faults=Faults(drop=0.2, duplicate=0.2), sealed=sealed)
    fleet.tap = saved_first(fleet)
    fleet.run()


@both
@pytest.mark.parametrize("effects", range(14))
def test_a_crash_between_any_two_effects_is_harmless(effects: int, sealed: bool) -> None:
    """Also between a save and its sending, which is where a second query would be born."""
    fleet = fleet_of(ring(4), rounds=6, sealed=sealed)
    fleet.tap = saved_first(fleet)
    start_all(fleet)
    fleet.advance(0.02)
    fleet.kill_within("n01", effects)
    fleet.advance(0.06)
    fleet.kill("n01")
    fleet.start("n01")
    finish(fleet)
    assert not reused_rounds(fleet)


@st.composite
def mishaps(draw: st.DrawFn) -> list[tuple[float, int, str, int]]:
    """(time, node, what, effects) in order of time."""
    return sorted(
        draw(
            st.lists(
                st.tuples(
                    st.floats(0.0, 2.5),
                    st.integers(0, 4),
                    st.sampled_from(["kill", "kill within", "start", "damage", "cut", "connect"]),
                    st.integers(0, 8),
                ),
                min_size=3,
                max_size=20,
            )
        )
    )


# Without the phase that explains a failure: whole fleets are too slow for it.
@settings(max_examples=25, phases=[HypothesisPhase.explicit, HypothesisPhase.generate])
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    script=mishaps(),
    faults=st.sampled_from(sorted(FAULTS)),
    seed=st.integers(0, 1000),
    sealed=st.booleans(),
)
def test_no_round_number_ever_covers_two_queries(
    shape: str, script: list[tuple[float, int, str, int]], faults: str, seed: int, sealed: bool
) -> None:
    """Kills between any two effects, restarts, damaged generations, lost connections."""
    fleet = fleet_of(
        SHAPES[shape](5), 12, period_s=0.2, faults=FAULTS[faults], seed=seed, sealed=sealed
    )
    fleet.tap = saved_first(fleet)
    start_all(fleet)
    everyone = sorted(fleet.seats)
    for at, index, what, effects in script:
        fleet.advance(at)
        name = everyone[index % len(everyone)]
        seat = fleet.seats[name]
        if seat.stopped:
            continue
        match what:
            case "kill":
                fleet.kill(name)
            case "kill within":
                fleet.kill_within(name, effects)
            case "start" if seat.agent is None:
                fleet.start(name)
            case "damage":
                fleet.kill(name)
                fleet.damage_state(name)
                fleet.start(name)
            case "cut":
                fleet.cut(name)
            case "connect" if seat.agent is not None:
                fleet.connect(name)
    for name, seat in fleet.seats.items():
        seat.effects_left = None
        if seat.stopped:
            continue
        if seat.agent is None:
            fleet.start(name)
        elif not seat.connected:
            fleet.connect(name)
    # Whether such a fleet ends is the claim of other tests: here deadlines may have become long.
    fleet.advance(fleet.now + 2_000.0)
    assert not reused_rounds(fleet)


@both
@pytest.mark.parametrize(("shape", "n"), [("line", 2), ("star", 5)])
def test_a_neighbour_that_skipped_a_round_is_followed(shape: str, n: int, sealed: bool) -> None:
    """All neighbours of n00 wait for round 3, which n00 may not repeat: it waits in round 4."""
    unanswered = drop(lambda _s, _r, m: isinstance(m, Answer) and m.round == 3 and fleet.now < 1.0)
    fleet = fleet_of(SHAPES[shape](n), tap=unanswered, sealed=sealed)
    start_all(fleet)
    fleet.advance(0.5)
    assert all(agent_of(fleet, name).round_number == 3 for name in fleet.seats)
    fleet.kill("n00")
    fleet.damage_state("n00")
    fleet.advance(1.0)
    fleet.start("n00")
    finish(fleet)
    assert not reused_rounds(fleet)


@both
@pytest.mark.parametrize("away_s", [0.001, 0.2, 2.0])
def test_a_node_that_lost_its_state_ends_with_the_others_and_reuses_no_round_number(
    away_s: float, sealed: bool
) -> None:
    fleet = fleet_of(ring(5), rounds=45, period_s=0.1, sealed=sealed, encrypted=False)
    start_all(fleet)
    fleet.advance(0.5)
    fleet.kill("n00")
    fleet.advance(0.5 + away_s)
    fleet.lose_state("n00")
    fleet.start("n00")
    finish(fleet)
    assert rounds_of(fleet, "n00")[-1] >= 42
    assert np.ptp(fleet.estimates(), axis=0).max() < 0.1
    assert not reused_rounds(fleet)


@both
def test_a_damaged_generation_skips_the_rounds_that_may_have_been_sent(sealed: bool) -> None:
    fleet = fleet_of(ring(4), rounds=30, period_s=0.1, sealed=sealed)
    start_all(fleet)
    fleet.advance(1.05)
    closed = rounds_of(fleet, "n00")[-1]
    fleet.kill("n00")
    fleet.damage_state("n00")
    saved = fleet.seats["n00"].saved
    assert saved is not None
    assert not saved.continuous
    assert [record.number for record in saved.records][-1] == closed - 1
    assert saved.round == closed + 1
    fleet.start("n00")
    finish(fleet)
    assert closed + 1 <= rounds_of(fleet, "n00")[closed + 1] <= closed + 3
    assert not reused_rounds(fleet)


def test_a_jump_saves_both_generations() -> None:
    """Or the generation before would know nothing of the rounds jumped over, and reuse one."""
    fleet = fleet_of(ring(4), rounds=60, period_s=0.1)
    start_all(fleet)
    fleet.advance(0.55)
    fleet.kill("n00")
    fleet.advance(2.05)
    before = len(rounds_of(fleet, "n00"))
    fleet.start("n00")
    fleet.advance(2.06)
    seat = fleet.seats["n00"]
    while len(rounds_of(fleet, "n00")) == before:
        assert seat.saved is not None
        if seat.saved.round > before + 2:
            break
        fleet.advance(fleet.now + 0.001)
    assert seat.saved is not None
    assert seat.previous is not None
    assert seat.saved.round == seat.previous.round >= 15
    assert seat.previous.open_record is not None


# -- the broker -----------------------------------------------------------------------------------


@both
def test_a_fleet_whose_broker_was_gone_resumes(sealed: bool) -> None:
    fleet = fleet_of(ring(5), rounds=40, sealed=sealed)
    start_all(fleet)
    fleet.advance(0.1)
    for name in fleet.seats:
        fleet.cut(name)
    fleet.advance(500.0)
    assert all(agent_of(fleet, name).timer() is None for name in fleet.seats)
    for name in fleet.seats:
        fleet.connect(name)
    finish(fleet)
    assert all(rounds_of(fleet, name) == list(range(40)) for name in fleet.seats)
    assert fleet.silent() == 0, "deadlines stand still while the broker is gone"
    assert not reused_rounds(fleet)


@both
def test_a_node_alone_cut_off_comes_back(sealed: bool) -> None:
    fleet = fleet_of(ring(5), rounds=70, period_s=0.2, sealed=sealed)
    start_all(fleet)
    fleet.advance(1.0)
    fleet.cut("n03")
    fleet.advance(8.0)
    fleet.connect("n03")
    finish(fleet)
    assert rounds_of(fleet, "n03")[-1] == 69
    assert not reused_rounds(fleet)


# -- sealed rosters -------------------------------------------------------------------------------


def rosters_of(fleet: MemoryFleet, name: str) -> dict[int, str]:
    """The roster that *name* asked in each round."""
    mine = {k: rosters for (sender, k), rosters in fleet.rosters.items() if sender == name}
    return {k: " / ".join(rosters) for k, rosters in mine.items()}


def test_a_sum_over_a_roster_is_that_of_its_members_alone() -> None:
    """n03 never answers n00: the first coupled round of n00 is one that does not ask it."""
    quiet = drop(lambda s, r, m: isinstance(m, Answer) and (s, r) == ("n03", "n00"))
    fleet = fleet_of(complete(4), rounds=1, sealed=True, tap=quiet)
    start_all(fleet)
    while not any(closed.is_coupled for closed in fleet.seats["n00"].reported):
        fleet.advance(fleet.now + 0.001)
    closed = fleet.seats["n00"].reported[-1]
    k = closed.number
    assert rosters_of(fleet, "n00")[k] == "n01 n02"
    assert closed.silent == ("n03",)
    records = {name: agent_of(fleet, name).state.record(k) for name in names(3)}
    q, h = {}, {}
    for name, record in records.items():
        assert record is not None
        q[name] = np.array(record.quantised, dtype=float)
        h[name] = own_weight(RoundRandomness(record.seed)) / 4096
    m = exchange.metropolis(3, 3) / 64
    expected = sum(m * h["n00"] * h[name] * (q[name] - q["n00"]) for name in ("n01", "n02"))
    # An average has no gradient: one round moves the estimate by the coupling term alone.
    before = fleet.seats["n00"].reported[-2].estimate
    moved = (closed.estimate - before) / 2.0**-32
    np.testing.assert_allclose(moved, expected, atol=4)  # resolutions: rounding and dither


@pytest.fixture
def sealed_round() -> MemoryFleet:
    """Four nodes, each next to each, in round 3. No query and no answer of it arrives."""
    blocked = drop(lambda _s, _r, m: isinstance(m, Query | Answer) and m.round == 3)
    fleet = fleet_of(complete(4), rounds=8, sealed=True, tap=blocked)
    start_all(fleet)
    fleet.advance(0.5)
    assert all(agent_of(fleet, name).round_number == 3 for name in fleet.seats)
    return fleet


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"roster": ["n00"]}, "roster"),
        ({"roster": ["n00", "n01"]}, "roster"),  # the asker itself
        ({"roster": ["n02", "n00"]}, "roster"),
        ({"ciphertexts": [b"\1" * 127]}, "ciphertext_length"),
        ({"roster": ["n02", "n03"]}, None),  # not asked
        ({}, None),
    ],
)
def test_a_sealed_query_is_answered_if_it_is_valid_and_asks_this_node(
    sealed_round: MemoryFleet, changes: dict[str, Any], reason: str | None
) -> None:
    query = msgspec.structs.replace(query_of(sealed_round, "n01"), **changes)
    effects = deliver(sealed_round, "n00", query)
    assert rejections(effects) == ([reason] if reason else [])
    answers = [message for message in sent(effects) if isinstance(message, Answer)]
    assert len(answers) == (reason is None and "n00" in query.roster)


@pytest.mark.parametrize(
    "changes",
    [{"roster": ["n00", "n02"]}, {"roster": ["n00", "n02"], "ciphertexts": [b"\1" * 128]}],
)
def test_no_second_query_of_a_round_is_answered_with_fewer_members_either(
    sealed_round: MemoryFleet, changes: dict[str, Any]
) -> None:
    query = query_of(sealed_round, "n01")
    assert query.roster == ["n00", "n02", "n03"]
    deliver(sealed_round, "n00", query)
    effects = deliver(sealed_round, "n00", msgspec.structs.replace(query, **changes))
    assert rejections(effects) == ["second_query"]
    assert sent(effects) == []


def test_an_answer_from_outside_the_roster_is_refused() -> None:
    fleet = fleet_of(complete(4), rounds=None, sealed=True)
    start_all(fleet)
    fleet.advance(0.3)
    fleet.kill("n03")
    fleet.tap = drop(lambda _s, _r, m: isinstance(m, Answer) and m.round > 40)
    fleet.advance(100.0)
    record = agent_of(fleet, "n00").state.open_record
    assert record is not None
    assert record.roster == ["n01", "n02"]
    digest = query_of(fleet, "n00", record.number).digest
    answer = Answer("toy", "n03", 1, "n00", record.number, 0, digest, [b"\1" * 128])
    assert rejections(deliver(fleet, "n00", answer)) == ["not_asked"]


def test_a_sealed_answer_that_is_garbage_spoils_the_round_and_is_counted() -> None:
    """Nobody can tell whose it was: all of the roster are named, the estimate is held."""
    fleet = fleet_of(complete(4), rounds=4, sealed=True)
    fleet.tap = garbling(fleet, "n01", "n00", lambda k: k == 2)
    fleet.run()
    closed = {r.number: r for r in fleet.seats["n00"].reported}
    assert closed[2].spoiled == closed[2].silent == ("n01", "n02", "n03")
    assert np.array_equal(closed[2].estimate, closed[1].estimate)
    assert coupled_of(fleet, "n00") == 4
    assert agent_of(fleet, "n00").state.unbalanced


def test_a_node_with_too_few_neighbours_left_holds_its_estimate_and_serves_the_others() -> None:
    fleet = fleet_of(ring(6), rounds=30, sealed=True, encrypted=False)
    start_all(fleet)
    fleet.advance(0.05)
    fleet.kill("n00")
    fleet.advance(1_000.0)
    for name in ("n01", "n05"):  # a neighbour each is left
        closed = fleet.seats[name].reported
        held = [r for r in closed if not r.is_coupled]
        assert len(held) > 20
        assert all(np.array_equal(r.estimate, held[0].estimate) for r in held[1:])
    for name in ("n02", "n03", "n04"):
        assert coupled_of(fleet, name) >= 30
    assert all(r.is_coupled for r in fleet.seats["n03"].reported)


def test_a_leaf_of_a_sealed_fleet_holds_unless_it_is_allowed_to_ask() -> None:
    allowed, refused = (
        fleet_of(star(4), rounds=5, sealed=True, leaves_open=is_open) for is_open in (True, False)
    )
    allowed.run()
    assert allowed.silent() == 0
    start_all(refused)
    refused.advance(500.0)
    assert coupled_of(refused, "n00") >= 5
    assert refused.seats["n01"].reported
    assert not any(r.is_coupled for r in refused.seats["n01"].reported)


# -- claims ---------------------------------------------------------------------------------------


def test_a_claim_far_away_moves_no_node_that_couples() -> None:
    """Every node is shown the claim, and loses no round by it."""
    fleet = fleet_of(complete(5), rounds=30)
    start_all(fleet)
    fleet.advance(0.1)
    for name in names(5)[1:]:
        agent = agent_of(fleet, name)
        k = agent.state.records[-1].number
        lie = msgspec.structs.replace(query_of(fleet, "n00", k), round=10**12)
        assert rejections(deliver(fleet, name, lie)) == ["far_round"]
    finish(fleet)
    for name in names(5)[1:]:
        assert rounds_of(fleet, name) == list(range(30))


@both
@pytest.mark.parametrize("shape", ["line", "ring", "complete"])
def test_a_liar_moves_nobody_beyond_the_rounds_that_fit_in_the_time(
    shape: str, sealed: bool
) -> None:
    """Also a leaf, and a node that holds, and in every round."""

    def boast(sender: str, _receiver: str, message: Message) -> Message:
        if isinstance(message, Query) and sender == "n00" and message.round >= 3:
            return msgspec.structs.replace(message, round=10**12)
        return message

    fleet = fleet_of(SHAPES[shape](5), rounds=None, period_s=1.0, tap=boast, sealed=sealed)
    start_all(fleet)
    fleet.advance(10.0)
    shortest_s = 1.0 / PERIODS
    for name in names(5)[1:]:
        assert agent_of(fleet, name).round_number <= 10.0 / shortest_s + FAR + 1
        assert coupled_of(fleet, name) >= 3
    assert fleet.rejected()["far_round"] > 0


# -- wrong messages -------------------------------------------------------------------------------


@pytest.fixture
def collecting() -> MemoryFleet:
    """A ring of three in which nobody gets an answer of round 3."""
    fleet = fleet_of(ring(3), tap=drop(lambda _s, _r, m: isinstance(m, Answer) and m.round == 3))
    start_all(fleet)
    fleet.advance(0.5)
    assert agent_of(fleet, "n00").round_number == 3
    return fleet


def query_of(fleet: MemoryFleet, name: str, k: int = 3) -> Query:
    """The query of round *k*, which *name* has opened."""
    agent = agent_of(fleet, name)
    record = agent.state.record(k)
    assert record is not None
    return agent.opener.query(agent.state, record)


def answer_of(fleet: MemoryFleet, sender: str, receiver: str, plaintext: int) -> Answer:
    """An answer of round 3 under the receiver's key that decrypts to *plaintext*."""
    key = fleet.keys[receiver]
    c = encrypt(key.public, mpz(plaintext), key.obfuscator(mpz(7), mpz(9)))
    digest = query_of(fleet, receiver).digest
    return Answer("toy", sender, 1, receiver, 3, 0, digest, [c.to_bytes(128, "big")])


def test_a_repeated_query_gets_the_very_same_answer(collecting: MemoryFleet) -> None:
    query = query_of(collecting, "n01")
    first, second = (deliver(collecting, "n00", query) for _ in range(2))
    (answer,), (repeated,) = sent(first), sent(second)
    assert answer == repeated
    assert surpluses(second) == ["repeated_query"]


def test_a_second_query_of_a_round_is_refused(collecting: MemoryFleet) -> None:
    query = query_of(collecting, "n01")
    deliver(collecting, "n00", query)
    other = msgspec.structs.replace(query, ciphertexts=query_of(collecting, "n01", 2).ciphertexts)
    effects = deliver(collecting, "n00", other)
    assert rejections(effects) == ["second_query"]
    assert len(effects) == 1


REPLACEMENTS = [
    ({"parameters": b"elsewise"}, "parameters"),
    ({"key": b"elsewise"}, "other_key"),
    ({"ciphertexts": []}, "ciphertext_count"),
    ({"roster": ["n00", "n02"]}, "roster"),  # a pairwise query has none
    ({"round": 10**12}, "far_round"),
]


@pytest.mark.parametrize(("changes", "reason"), REPLACEMENTS)
def test_a_wrong_query_is_refused_under_its_reason(
    collecting: MemoryFleet, changes: dict[str, Any], reason: str
) -> None:
    wrong = msgspec.structs.replace(query_of(collecting, "n01"), **changes)
    effects = deliver(collecting, "n00", wrong)
    assert rejections(effects) == [reason]
    assert len(effects) == 1, "nothing is sent in return"


def refusals(effects: list[Effect]) -> list[tuple[str, int]]:
    """Reason and figure of each refusal that is sent."""
    return [(m.reason, m.theirs) for m in sent(effects) if isinstance(m, Refusal)]


def test_a_query_of_a_round_that_is_forgotten_is_refused_with_the_round_of_the_node() -> None:
    fleet = fleet_of(ring(3), tap=drop(lambda _s, _r, m: isinstance(m, Answer) and m.round == 7))
    start_all(fleet)
    fleet.advance(0.5)
    old = msgspec.structs.replace(query_of(fleet, "n01", 7), round=2)
    effects = deliver(fleet, "n00", old)
    assert refusals(effects) == [("old", 7)]
    assert rejections(effects) == [], "a late query is no fault"


def test_a_query_of_an_earlier_start_is_refused_with_the_epoch_of_the_later_one(
    collecting: MemoryFleet,
) -> None:
    query = query_of(collecting, "n01")
    deliver(collecting, "n00", Presence("toy", "n01", 7, "ready"))
    effects = deliver(collecting, "n00", query)
    assert refusals(effects) == [("stale_epoch", 7)]
    assert surpluses(effects) == ["stale_epoch"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (bytes(128), "ciphertext_range"),
        (b"\xff" * 128, "ciphertext_range"),
        (int(toy_key(1).p).to_bytes(128, "big"), "ciphertext_not_unit"),
        (bytes(127), "ciphertext_length"),
    ],
)
def test_a_query_that_is_no_ciphertext_is_not_answered(bad: bytes, reason: str) -> None:
    def spoil(sender: str, _receiver: str, message: Message) -> Message:
        if isinstance(message, Query) and sender == "n01":
            return msgspec.structs.replace(message, ciphertexts=[bad])
        return message

    fleet = fleet_of(ring(3), rounds=3, tap=spoil)
    start_all(fleet)
    fleet.advance(200.0)
    assert fleet.rejected()[reason] >= 6
    assert not any(closed.is_coupled for closed in fleet.seats["n01"].reported)
    assert coupled_of(fleet, "n00") >= 3


def test_an_answer_to_another_query_is_refused(collecting: MemoryFleet) -> None:
    answer = msgspec.structs.replace(answer_of(collecting, "n01", "n00", 5), query=bytes(16))
    effects = deliver(collecting, "n00", answer)
    assert rejections(effects) == ["other_query"]


def test_late_and_early_answers_are_counted_without_blame(collecting: MemoryFleet) -> None:
    for k, reason in ((0, "late"), (2, "late"), (4, "early"), (1000, "early")):
        answer = msgspec.structs.replace(answer_of(collecting, "n01", "n00", 5), round=k)
        assert deliver(collecting, "n00", answer) == [Surplus("n01", f"{reason}_answer")]


def test_an_answer_from_an_earlier_start_has_no_effect(collecting: MemoryFleet) -> None:
    answer = answer_of(collecting, "n01", "n00", 5)
    deliver(collecting, "n00", Presence("toy", "n01", 2, "ready"))
    assert deliver(collecting, "n00", answer) == [Surplus("n01", "stale_epoch")]


def test_a_last_will_from_an_earlier_start_is_ignored(collecting: MemoryFleet) -> None:
    deliver(collecting, "n00", Presence("toy", "n01", 2, "ready"))
    will = Presence("toy", "n01", 1, "lost")
    assert deliver(collecting, "n00", will) == [Surplus("n01", "stale_epoch")]
    assert "n01" in agent_of(collecting, "n00").neighbours.present


@pytest.mark.parametrize(
    "bad", [bytes(128), b"\xff" * 128, b"short", int(toy_key(0).p).to_bytes(128)]
)
def test_an_answer_that_is_no_ciphertext_is_refused_and_a_valid_one_still_counts(
    collecting: MemoryFleet, bad: bytes
) -> None:
    good = answer_of(collecting, "n01", "n00", 5)
    invalid = msgspec.structs.replace(good, ciphertexts=[bad])
    (reason,) = rejections(deliver(collecting, "n00", invalid))
    assert reason.startswith("ciphertext_")
    assert deliver(collecting, "n00", good) == []
    closing = deliver(collecting, "n00", answer_of(collecting, "n02", "n00", 5))
    assert [e.silent for e in closing if isinstance(e, RoundClosed)] == [()]


@pytest.mark.parametrize("plaintext", [1 << 142, 1 << 70, -(1 << 142) - 1, 1 << 500])
def test_a_neighbour_whose_answer_is_out_of_range_is_left_out_and_counted(
    collecting: MemoryFleet, plaintext: int
) -> None:
    honest = 12345 * 2049 + (54321 << 71)
    before = agent_of(collecting, "n00").state
    deliver(collecting, "n00", answer_of(collecting, "n01", "n00", plaintext))
    effects = deliver(collecting, "n00", answer_of(collecting, "n02", "n00", honest))
    assert Rejected("n01", "out_of_range") in effects
    assert rejections(effects) == ["out_of_range"]
    (closed,) = (effect for effect in effects if isinstance(effect, RoundClosed))
    assert closed.silent == ("n01",)
    # The honest answer counts, and it alone.
    record = before.open_record
    assert record is not None
    weight = exchange.half_weight(RoundRandomness(record.seed), "n02") * exchange.metropolis(2, 2)
    unit = 2.0**-32 * exchange.UNIT
    assert before.estimate is not None
    expected = np.array(before.estimate) + np.array([12345 * 2049, 54321]) * weight * unit
    np.testing.assert_allclose(closed.estimate, expected, rtol=1e-15)


def test_a_round_in_which_all_lie_moves_by_nothing(collecting: MemoryFleet) -> None:
    before = agent_of(collecting, "n00").state.estimate
    deliver(collecting, "n00", answer_of(collecting, "n01", "n00", 1 << 126))
    effects = deliver(collecting, "n00", answer_of(collecting, "n02", "n00", 1 << 127))
    assert rejections(effects) == ["out_of_range"] * 2
    (closed,) = (effect for effect in effects if isinstance(effect, RoundClosed))
    assert closed.silent == ("n01", "n02")
    assert closed.estimate.tolist() == before


def test_a_fleet_with_one_liar_goes_on() -> None:
    """The liar's answers to n01 are garbage under the right key, in every round."""
    fleet = fleet_of(complete(4), rounds=40)
    fleet.tap = garbling(fleet, "n00", "n01")
    fleet.run()
    assert 0 < fleet.seats["n01"].rejected["out_of_range"] < 10, "it is asked ever less often"
    assert all(closed.silent == ("n00",) for closed in fleet.seats["n01"].reported)
    assert fleet.now < 1.0


def test_a_neighbour_under_other_parameters_is_as_good_as_silent() -> None:
    def otherwise(sender: str, _receiver: str, message: Message) -> Message:
        if isinstance(message, Query) and sender == "n00":
            return msgspec.structs.replace(message, parameters=b"elsewise")
        return message

    fleet = fleet_of(ring(4), rounds=5, tap=otherwise)
    start_all(fleet)
    fleet.advance(500.0)
    assert fleet.rejected()["parameters"] > 0
    assert coupled_of(fleet, "n02") >= 5
    assert coupled_of(fleet, "n00") == 0, "nobody answers a query under other parameters"


# -- the end --------------------------------------------------------------------------------------


def test_a_done_node_stays_until_its_neighbour_has_its_rounds_as_well() -> None:
    asked: list[float] = []

    def late(sender: str, receiver: str, message: Message) -> bool:
        if isinstance(message, Query) and (sender, receiver, message.round) == ("n01", "n00", 7):
            asked.append(fleet.now)
            return len(asked) == 1
        return False

    fleet = fleet_of(line(2), tap=drop(late))
    start_all(fleet)
    fleet.advance(1.0)
    assert agent_of(fleet, "n00").phase is Phase.READING
    assert fleet.presence["n00"].state == "done"
    assert agent_of(fleet, "n01").phase is Phase.COLLECTING
    finish(fleet)
    assert fleet.silent() == 0
    assert coupled_of(fleet, "n00") == coupled_of(fleet, "n01") == 8
    assert fleet.now < 3 * TIMEOUT


def test_a_last_answer_that_is_lost_is_replaced_by_that_of_a_further_round() -> None:
    fleet = fleet_of(
        line(2),
        tap=drop(lambda s, _r, m: isinstance(m, Answer) and (s, m.round) == ("n00", 7)),
    )
    fleet.run()
    assert coupled_of(fleet, "n00") >= 8
    assert coupled_of(fleet, "n01") == 8, "n00 goes on for it"
    assert fleet.now < 12 * TIMEOUT


@pytest.mark.parametrize("last_will", [True, False])
def test_a_finished_node_does_not_stay_for_ever(last_will: bool) -> None:
    """Its neighbour is done, and does not say any more that it has finished."""
    fleet = fleet_of(line(2))
    farewell = Presence("toy", "n01", 1, "finished")
    fleet.tap = drop(lambda _s, _r, message: message == farewell)
    start_all(fleet)
    fleet.advance(0.5)
    assert agent_of(fleet, "n00").phase is Phase.FINISHED
    fleet.kill("n01", last_will=last_will)
    fleet.advance(1.0)
    assert fleet.seats["n00"].stopped == last_will
    fleet.advance(LINGER_TIMEOUTS * TIMEOUT + 1.0)
    assert fleet.seats["n00"].stopped


def test_a_node_restarted_after_its_end_ends_again() -> None:
    fleet = fleet_of(ring(3))
    fleet.run()
    fleet.seats["n00"].stopped = False
    fleet.start("n00")
    finish(fleet, 100.0)
    assert rounds_of(fleet, "n00") == list(range(8))
    assert not reused_rounds(fleet)


def said_by(fleet: MemoryFleet, name: str) -> str:
    return fleet.presence[name].state


# -- readings and periods -------------------------------------------------------------------------


def test_an_endless_fleet_opens_a_round_every_period() -> None:
    fleet = fleet_of(ring(3), rounds=None, period_s=2.0)
    start_all(fleet)
    fleet.advance(21.0)
    for seat in fleet.seats.values():
        opened = [closed.opened for closed in seat.reported]
        assert len(opened) in (10, 11)
        assert np.allclose(np.diff(opened), 2.0, atol=0.05)
        assert not seat.stopped


def test_a_node_without_a_reading_says_so_and_joins_when_it_has_one() -> None:
    fleet = fleet_of(ring(3), rounds=400, period_s=1.0)
    reading_of, fleet.seats["n00"].samples = fleet.seats["n00"].samples, ()
    start_all(fleet)
    fleet.advance(30.0)
    assert said_by(fleet, "n00") == "alert"
    assert agent_of(fleet, "n00").phase is Phase.STARTING
    fleet.advance(90.0)
    assert rounds_of(fleet, "n01"), "the others begin without it after start_timeout_s"
    fleet.seats["n00"].unread = reading_of
    fleet.advance(120.0)
    assert rounds_of(fleet, "n00")
    assert said_by(fleet, "n00") == "ready"
    assert not reused_rounds(fleet)


def test_a_round_without_a_new_reading_goes_on_with_the_old_ones() -> None:
    fleet = fleet_of(ring(3), rounds=5)
    fleet.run()
    assert all(seat.unread == () for seat in fleet.seats.values())


def test_headroom_is_refused_before_anything_is_sent() -> None:
    fleet = fleet_of(line(2))
    fleet.seats["n00"].samples = [Sample({"u": 1e6, "v": 0.0})]
    with pytest.raises(HeadroomExceeded, match="coarser resolution") as refused:
        fleet.run()
    assert "1000000" not in str(refused.value)
    assert not any(name == "n00" for name, _ in fleet.queries)
    blinding = fleet.seats["n00"].blinding
    assert blinding is not None
    assert not blinding.taken


# -- blinding -------------------------------------------------------------------------------------


def test_every_ciphertext_is_blinded_afresh() -> None:
    """One obfuscator for each query, and one for each answer: made ahead or when it is asked."""
    fleet = fleet_of(ring(4), faults=Faults(duplicate=0.5))
    fleet.run()
    for seat in fleet.seats.values():
        assert seat.blinding is not None
        assert seat.blinding.taken["own"] == 8
        # Answers prepared for a neighbour that was answered from another round are not used.
        assert all(8 <= count <= 10 for count in seat.blinding.taken.values())


# -- what is shown --------------------------------------------------------------------------------


def test_nothing_private_is_in_a_repr(collecting: MemoryFleet) -> None:
    state = agent_of(collecting, "n00").state
    record = state.records[-1]
    closed = RoundClosed(3, 1.0, (), np.array([2.718281828]))
    shown = [
        state,
        record,
        Save(state),
        Publish(query_of(collecting, "n01")),
        MessageReceived(query_of(collecting, "n01")),
        ReadingTaken([reading("n00")]),
        reading("n00"),
        closed,
        collecting.keys["n00"],
        agent_of(collecting, "n00"),
        agent_of(collecting, "n00")._setup,
        RoundRandomness(record.seed),
    ]
    assert state.estimate is not None
    secrets = [
        *(str(entry) for entry in state.estimate),
        *(str(entry) for entry in record.quantised),
        str(record.seed),
        record.seed.hex(),
        "2.718",
        *(str(value) for value in reading("n00").values.values()),
        str(collecting.keys["n00"].p),
    ]
    for thing in shown:
        for text in (repr(thing), str(thing), f"{[thing]}"):
            assert not any(secret in text for secret in secrets)


def test_an_event_that_the_phase_does_not_allow_is_our_own_bug(collecting: MemoryFleet) -> None:
    agent = agent_of(collecting, "n00")
    with pytest.raises(LocalProtocolError, match="OPEN is not allowed while collecting"):
        list(agent._open(collecting.now))
