"""The rules of a round, one by one, in whole fleets with faults and in single agents.

All of it is in one file: the rules act together, and the tests share their faults and lies.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from gmpy2 import mpz

from cipherfleet_lab.simulation.memory_fleet import Faults
from cipherfleet_lab.simulation.plaintext_exchange import PlaintextExchange
from cipherfleet_node.core.agent import GIVE_UP_DEADLINES, GREATEST_EPOCH_FOLLOWED
from cipherfleet_node.core.events import (
    Effect,
    Restart,
    RoundClosed,
    Stop,
    TimerFired,
)
from cipherfleet_node.core.messages import Answer, Message, Presence, Query, Refusal
from cipherfleet_node.core.opening import ROUNDS_PER_DRAW
from cipherfleet_node.core.paillier import encrypt
from cipherfleet_node.core.round import Phase
from cipherfleet_node.core.state import (
    HISTORY_ROUNDS,
    PENDING_ROUNDS,
    Known,
    RoundRecord,
    first_state,
)
from cipherfleet_node.core.stepping import Stepper
from tests.support.memory_fleet import (
    TIMEOUT,
    MemoryFleet,
    agent_of,
    complete,
    coupled_of,
    deliver,
    drop,
    finish,
    fleet_of,
    mean_reading,
    names,
    record_of,
    rejections,
    reused_rounds,
    ring,
    rounds_of,
    run_until,
    sent,
    star,
    start_all,
    surpluses,
)


def plain_fleet(*args: Any, **changes: Any) -> MemoryFleet:
    """In plaintext, with seeds as the daemons make them."""
    return fleet_of(*args, **{"encrypted": False, "by_state": True, **changes})


def is_answer(message: Message, *rounds: int) -> bool:
    return isinstance(message, Answer) and message.round in rounds


def query_of(fleet: MemoryFleet, name: str, k: int, **changes: Any) -> Query:
    """The query of round *k* of *name*, changed."""
    agent = agent_of(fleet, name)
    record = agent.state.record(k)
    assert record is not None
    return msgspec.structs.replace(agent.opener.query(agent.state, record), **changes)


def estimate_of(fleet: MemoryFleet, name: str) -> list[float]:
    estimate = agent_of(fleet, name).state.estimate
    assert estimate is not None
    return estimate


def phase_of(fleet: MemoryFleet, name: str) -> Phase:
    return agent_of(fleet, name).phase


def refusals(effects: list[Effect]) -> list[str]:
    return [message.reason for message in sent(effects) if isinstance(message, Refusal)]


# -- draws belong to states -----------------------------------------------------------------------


def twice_held(first: int, *, sealed: bool) -> list[RoundRecord]:
    """The records of n00 of two held rounds from *first* on, and of the round after them."""
    lost = drop(lambda _s, _r, m: is_answer(m, first, first + 1))
    fleet = plain_fleet(complete(4), rounds=8, sealed=sealed, tap=lost)
    start_all(fleet)
    run_until(fleet, lambda: rounds_of(fleet, "n00")[-1:] == [first + 2])
    return [record_of(fleet, "n00", first + n) for n in range(3)]


@pytest.mark.parametrize("first", [0, 3])
def test_a_node_that_stands_still_shows_the_same_numbers_again(first: int) -> None:
    """Quantised state, half weights and dither all come from the seed; also in the first rounds."""
    held, again, coupled = twice_held(first, sealed=True)
    assert (held.outcome, again.outcome) == ("held", "held")
    assert held.quantised == again.quantised == coupled.quantised
    assert held.seed == again.seed == coupled.seed
    assert held.draw == coupled.draw


@pytest.mark.parametrize("first", [0, 3])
def test_a_pairwise_node_that_stands_still_answers_one_query_with_each_draw(first: int) -> None:
    """The answers to two would show the half weight, since the asker knows its own move."""
    digests: dict[tuple[bytes, str], set[bytes]] = defaultdict(set)
    for record in twice_held(first, sealed=False)[:2]:
        for asker, digest in record.answered.items():
            digests[record.draw, asker].add(digest)
    assert digests
    assert all(len(different) == 1 for different in digests.values())


def test_a_node_that_has_moved_shows_other_numbers() -> None:
    fleet = plain_fleet(complete(4), rounds=6, sealed=True)
    fleet.run()
    records = agent_of(fleet, "n00").state.records
    assert len({record.seed for record in records}) == len(records) == HISTORY_ROUNDS
    assert len({tuple(record.quantised) for record in records}) == len(records)


# -- one query and one roster ---------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["running", "restarted"])
def answered(request: pytest.FixtureRequest) -> MemoryFleet:
    """Round 3: n00 has answered n01, whose roster was n00, n02, n03; n00 may have restarted."""
    fleet = plain_fleet(complete(4), rounds=20, sealed=True)
    fleet.tap = drop(lambda _s, _r, m: is_answer(m, 3))
    start_all(fleet)
    fleet.advance(0.5)
    if request.param:
        fleet.kill("n00", last_will=False)
        fleet.start("n00")
        fleet.advance(0.6)
    return fleet


def test_a_query_is_answered_once_and_with_the_same_numbers(answered: MemoryFleet) -> None:
    record = record_of(answered, "n00", 3)
    query = query_of(answered, "n01", 3)
    assert record.answered["n01"] == query.digest
    answers = [sent(deliver(answered, "n00", query))[-1] for _ in range(2)]
    assert all(isinstance(answer, Answer) for answer in answers)
    assert answers[0] == answers[1]
    other = query_of(answered, "n01", 3, ciphertexts=query_of(answered, "n01", 2).ciphertexts)
    assert rejections(deliver(answered, "n00", other)) == ["second_query"]


def test_another_roster_is_not_answered_with_the_same_draw(answered: MemoryFleet) -> None:
    """Also for an earlier round, which has another state, and after a restart."""
    for k in (2, 3):
        assert "n01" in record_of(answered, "n00", k).answered
    draw = record_of(answered, "n00", 3).draw
    agent = agent_of(answered, "n00")
    unseen = msgspec.structs.replace(record_of(answered, "n00", 3), answered={})
    records = [r if r.number < 3 else unseen for r in agent.state.records]
    agent._state = msgspec.structs.replace(agent.state, records=records)  # n01 has not asked yet
    narrower = query_of(answered, "n01", 3, roster=["n00", "n02"])
    assert refusals(deliver(answered, "n00", narrower)) == ["roster"]
    assert "n01" in agent.state.rosters[draw]
    # Without that memory it would be answered.
    agent._state = msgspec.structs.replace(agent.state, rosters={})
    agent.answerer._sent.clear()
    (answer,) = sent(deliver(answered, "n00", narrower))
    assert isinstance(answer, Answer)


def test_a_changed_roster_is_answered_after_another_draw_with_a_kick() -> None:
    """n03 leaves: n00 refuses n01's new roster in one round, and answers it in a later one."""
    fleet = plain_fleet(complete(5), rounds=40, sealed=True)
    start_all(fleet)
    fleet.advance(0.2)
    before = agent_of(fleet, "n00").state
    fleet.kill("n03")
    drawn: list[tuple[int, float]] = []
    while coupled_of(fleet, "n00") < before.coupled + 6:
        fleet.advance(fleet.now + 0.005)
        drawing = agent_of(fleet, "n00").state.drawing
        drawn.append((drawing.number, drawing.kick))
    numbers = sorted({number for number, _ in drawn})
    assert len(numbers) >= 2
    assert max(kick for _, kick in drawn) > 0.0
    assert agent_of(fleet, "n00").state.drawing.kick == 0.0, "a coupled step ends the kick"
    assert fleet.seats["n00"].surplus["refused_roster"] > 0
    fleet.advance(fleet.now + 200 * TIMEOUT)
    others = [name for name in fleet.seats if name != "n03"]
    assert all(coupled_of(fleet, name) >= 40 for name in others)
    spread = np.ptp([estimate_of(fleet, name) for name in others], axis=0)
    assert spread.max() < 1e-2


def draws_of(fleet: MemoryFleet, name: str, rounds: int) -> list[int]:
    """Make a node want another draw in every round; return the rounds in which it drew."""
    agent, drawn = agent_of(fleet, name), []
    while agent.round_number < rounds:
        agent.answerer.is_draw_wanted = True
        before = agent.state.drawing.number
        fleet.advance(fleet.now + 0.01)
        if agent.state.drawing.number != before:
            drawn.append(agent.state.drawing.at_round)
    return drawn


def test_there_is_at_most_one_draw_in_four_rounds() -> None:
    fleet = plain_fleet(ring(4), rounds=None, sealed=True)
    start_all(fleet)
    drawn = draws_of(fleet, "n00", 60)
    assert len(drawn) > 8
    assert np.diff(drawn).min() >= ROUNDS_PER_DRAW


def test_draws_become_slow_while_the_state_stands_still() -> None:
    """Many kicks around one estimate would average out."""
    fleet = plain_fleet(ring(4), rounds=None, sealed=True)
    start_all(fleet)
    fleet.advance(0.2)
    fleet.tap = drop(lambda _s, receiver, m: isinstance(m, Answer) and receiver == "n00")
    agent, at = agent_of(fleet, "n00"), list[float]()
    for _ in range(3_000):
        agent.answerer.is_draw_wanted = True
        before = agent.state.drawing.number
        fleet.advance(fleet.now + 1.0)
        if agent.state.drawing.number != before:
            at.append(fleet.now)
    gaps = np.diff(at) / TIMEOUT
    assert 6 <= len(at) <= 16
    assert gaps[-1] >= 2.0 ** (len(gaps) - ROUNDS_PER_DRAW) / 2, "each one waits twice as long"


# -- held rounds ----------------------------------------------------------------------------------


def held_fleet(after: int, *missing: str) -> tuple[MemoryFleet, dict[str, Answer]]:
    """n00 has closed round 3 held, for want of answers of *missing*, and *after* - 1 more rounds.

    Returns the fleet and the missing answers.
    """
    kept: dict[str, Answer] = {}

    def late(sender: str, receiver: str, message: Message) -> Message | None:
        is_lost = receiver == "n00" and sender in missing
        if not is_lost or not isinstance(message, Answer | Query) or message.round < 3:
            return message
        if isinstance(message, Answer) and message.round == 3:
            kept[sender] = message
        return None

    fleet = plain_fleet(complete(6), rounds=60, sealed=True, tap=late)
    start_all(fleet)
    run_until(fleet, lambda: len(rounds_of(fleet, "n00")) >= 3 + after)
    assert not fleet.seats["n00"].reported[3].is_coupled
    return fleet, kept


def kinds(effects: list[Effect]) -> list[str]:
    return [type(effect).__name__ for effect in effects]


@pytest.mark.parametrize("after", range(1, PENDING_ROUNDS + 1))
def test_a_held_round_is_coupled_when_its_last_answer_comes(after: int) -> None:
    fleet, kept = held_fleet(after, "n05")
    before = coupled_of(fleet, "n00")
    assert kinds(deliver(fleet, "n00", kept["n05"])) == ["Save", "LateCoupling"]
    record = agent_of(fleet, "n00").state.record(3)
    assert record is not None
    assert record.outcome == "coupled"
    assert record.counted == names(6)[1:]
    assert not record.answers, "the answers are not kept any longer"
    assert coupled_of(fleet, "n00") == before + 1
    # It is counted once.
    assert surpluses(deliver(fleet, "n00", kept["n05"])) == ["late_answer"]
    assert coupled_of(fleet, "n00") == before + 1


def test_a_held_round_is_dropped_in_the_end() -> None:
    fleet, kept = held_fleet(PENDING_ROUNDS + 2, "n05")
    assert surpluses(deliver(fleet, "n00", kept["n05"])) == ["late_answer"]
    assert agent_of(fleet, "n00").state.unbalanced


def test_a_held_round_is_never_opened_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two answers are missing, and one of them comes: nothing is decrypted."""
    fleet, kept = held_fleet(1, "n04", "n05")
    opened: list[object] = []
    monkeypatch.setattr(PlaintextExchange, "open", lambda *args, **_more: opened.append(args))
    assert deliver(fleet, "n00", kept["n05"]) == []
    record = agent_of(fleet, "n00").state.record(3)
    assert record is not None
    assert record.outcome == "held"
    assert sorted(record.answers) == ["n01", "n02", "n03", "n05"]
    assert opened == []


def test_a_last_will_closes_a_sealed_round_held() -> None:
    fleet = plain_fleet(complete(5), rounds=20, sealed=True)
    fleet.tap = drop(lambda s, _r, m: is_answer(m, 3) and s == "n04")
    start_all(fleet)
    fleet.advance(0.5)
    assert agent_of(fleet, "n00").round_number == 3
    effects = deliver(fleet, "n00", Presence("toy", "n04", 1, "lost"))
    (closed,) = (effect for effect in effects if isinstance(effect, RoundClosed))
    assert (closed.number, closed.is_coupled) == (3, False)


# -- closed rounds and refusals -------------------------------------------------------------------


def closed_round(*, sealed: bool) -> tuple[MemoryFleet, Query]:
    """n00 has closed round 3 without having seen n03's query of it, which is returned."""
    fleet = plain_fleet(complete(4), rounds=60, sealed=sealed)
    fleet.tap = drop(
        lambda s, r, m: isinstance(m, Query | Answer) and (s, r) == ("n03", "n00") and m.round >= 3
    )
    start_all(fleet)
    run_until(fleet, lambda: rounds_of(fleet, "n00")[-1:] == [3])
    return fleet, query_of(fleet, "n03", 3)


def test_a_sealed_round_that_is_closed_is_answered_from_its_record() -> None:
    fleet, query = closed_round(sealed=True)
    assert record_of(fleet, "n00", 3).outcome == "held"
    (answer,) = sent(deliver(fleet, "n00", query))
    assert isinstance(answer, Answer)
    assert agent_of(fleet, "n00").state.record(3).answered["n03"] == query.digest  # type: ignore[union-attr]


def test_a_pairwise_round_that_was_closed_without_the_asker_is_refused() -> None:
    """Or it would be counted at one end only."""
    fleet, query = closed_round(sealed=False)
    effects = deliver(fleet, "n00", query)
    assert refusals(effects) == ["closed"]
    assert surpluses(effects) == ["closed_query"]


def test_a_refusal_closes_no_open_round_but_old_does() -> None:
    fleet = plain_fleet(complete(4), rounds=20, sealed=True)
    fleet.tap = drop(lambda _s, r, m: is_answer(m, 3) and r == "n00")
    start_all(fleet)
    fleet.advance(0.5)
    digest = query_of(fleet, "n00", 3).digest
    head = ("toy", "n01", 1, "n00", 3, 0, digest)
    assert not [e for e in deliver(fleet, "n00", Refusal(*head, "roster", 3)) if is_closing(e)]
    assert agent_of(fleet, "n00").phase is Phase.COLLECTING
    assert [e for e in deliver(fleet, "n00", Refusal(*head, "old", 3)) if is_closing(e)]


def is_closing(effect: Effect) -> bool:
    return isinstance(effect, RoundClosed)


# -- deadlines ------------------------------------------------------------------------------------


def test_a_round_has_two_deadlines_but_one_for_those_that_missed_before() -> None:
    """The query is sent again at the first one: twice in the round that n03 misses first."""
    sent_in: Counter[int] = Counter()

    def count(sender: str, receiver: str, message: Message) -> Message | None:
        if isinstance(message, Query) and (sender, receiver) == ("n00", "n01"):
            sent_in[message.round] += 1
        return None if sender == "n03" and fleet.now > 2.0 else message

    fleet = plain_fleet(star(4), rounds=None, sealed=True, period_s=0.1, tap=count)
    start_all(fleet)
    fleet.advance(100.0)
    held = [
        r.number
        for r in fleet.seats["n00"].reported
        if not r.is_coupled and "n03" in rosters_of(fleet, "n00", r.number)
    ]
    assert len(held) > 3
    # A pending round is asked for once more, together with the next one.
    first, *later = (sent_in[k] for k in held)
    assert set(later) == {first - 1}


def rosters_of(fleet: MemoryFleet, name: str, k: int) -> list[str]:
    (roster,) = fleet.rosters[name, k]
    return roster.split()


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("round_trip", [2.8, 4.0])
def test_deadlines_learn_a_round_trip_that_is_longer(round_trip: float, sealed: bool) -> None:
    """In deadlines. Without learning such a fleet counts rounds and learns nothing."""
    one_way = round_trip * TIMEOUT / 2
    faults = Faults(delay_s=(one_way, one_way * 1.01))
    fleet = plain_fleet(complete(5), rounds=40, sealed=sealed, faults=faults)
    fleet.run(20_000.0)
    assert all(coupled_of(fleet, name) >= 40 for name in fleet.seats)
    np.testing.assert_allclose(fleet.estimates(), [mean_reading(5)] * 5, atol=0.3)
    assert np.ptp(fleet.estimates(), axis=0).max() < 0.05


@pytest.mark.parametrize("sealed", [False, True])
def test_a_mute_member_costs_a_few_deadlines(sealed: bool) -> None:
    """After 20 rounds half of the rounds last as long as those of a fleet without it."""
    medians = []
    for mute in ((), ("n05",)):
        fleet = plain_fleet(complete(6), rounds=None, sealed=sealed)
        fleet.tap = drop(lambda s, _r, m, mute=mute: isinstance(m, Answer) and s in mute)  # type: ignore[misc]
        start_all(fleet)
        while agent_of(fleet, "n00").round_number < 70:
            fleet.advance(fleet.now + 1.0)
        seat = fleet.seats["n00"]
        lasted = [at - r.opened for r, at in zip(seat.reported, seat.closed_at, strict=True)]
        medians.append(statistics.median(lasted[20:70]))
    assert medians[1] < 1.5 * medians[0]


# -- periods and the schedule ---------------------------------------------------------------------


def test_no_period_is_waited_for_while_a_neighbour_is_ahead() -> None:
    fleet = plain_fleet(ring(5), rounds=None, period_s=10.0)
    start_all(fleet)
    fleet.advance(105.0)
    fleet.cut("n02")
    fleet.advance(205.0)
    fleet.connect("n02")
    fleet.advance(235.0)
    behind = agent_of(fleet, "n00").round_number - agent_of(fleet, "n02").round_number
    assert abs(behind) <= 2


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("last_will", [False, True])
def test_a_member_that_is_away_for_long_ends_with_all_its_rounds(
    sealed: bool, last_will: bool
) -> None:
    """`rounds` counts coupled rounds, so its neighbours go on for it."""
    fleet = plain_fleet(ring(6), rounds=60, sealed=sealed)
    start_all(fleet)
    fleet.advance(0.15)
    fleet.kill("n00", last_will=last_will)
    fleet.advance(40 * TIMEOUT)
    # A node whose neighbours are all done has finished, and no neighbour of it is alone with n00.
    running = [name for name in ("n01", "n05") if not fleet.seats[name].stopped]
    fleet.start("n00")
    fleet.advance(fleet.now + 200 * TIMEOUT)
    assert not reused_rounds(fleet)
    if sealed:
        assert running == ["n01", "n05"], "they hold: each has one neighbour left"
    if running:
        assert all(coupled_of(fleet, name) >= 60 for name in fleet.seats)


def test_a_node_that_couples_nothing_gives_up_and_says_so() -> None:
    fleet = plain_fleet(ring(4), rounds=60, sealed=True)
    start_all(fleet)
    fleet.advance(0.15)
    fleet.tap = drop(lambda _s, r, m: isinstance(m, Answer) and r == "n00")
    fleet.advance(GIVE_UP_DEADLINES * TIMEOUT - 10 * TIMEOUT)
    agent = agent_of(fleet, "n00")
    assert phase_of(fleet, "n00") is not Phase.FINISHED
    fleet.advance(GIVE_UP_DEADLINES * TIMEOUT + 3 * TIMEOUT)
    assert phase_of(fleet, "n00") is Phase.FINISHED
    ended = list(agent.handle(TimerFired(), fleet.now + 100 * TIMEOUT))
    assert ended == [Stop(is_complete=False)]


def test_an_outage_of_the_broker_is_no_reason_to_give_up() -> None:
    fleet = plain_fleet(ring(4), rounds=60, sealed=True)
    start_all(fleet)
    fleet.advance(0.15)
    for name in fleet.seats:
        fleet.cut(name)
    fleet.advance(2 * GIVE_UP_DEADLINES * TIMEOUT)
    for name in fleet.seats:
        fleet.connect(name)
    finish(fleet)
    assert all(coupled_of(fleet, name) >= 60 for name in fleet.seats)


# -- lost states and epochs -----------------------------------------------------------------------


def node_without_state(fleet: MemoryFleet) -> None:
    """n00 has run, and starts without its state; nothing reaches it but what a test delivers."""
    start_all(fleet)
    fleet.advance(0.3)
    fleet.kill("n00")
    fleet.lose_state("n00")
    fleet.tap = drop(lambda _s, r, m: r == "n00" and not isinstance(m, Presence))
    fleet.start("n00")
    fleet.advance(fleet.now + 0.1)


def test_a_node_that_lost_its_state_waits_for_two_claims_and_goes_beyond() -> None:
    fleet = plain_fleet(complete(4), rounds=None, sealed=True)
    node_without_state(fleet)
    agent = agent_of(fleet, "n00")
    assert (agent.phase, fleet.presence["n00"].state) == (Phase.STARTING, "waiting")
    for name, k in (("n01", 30), ("n02", 28)):
        latest = agent_of(fleet, name).state.records[-1].number
        assert phase_of(fleet, "n00") is Phase.STARTING
        effects = deliver(fleet, "n00", query_of(fleet, name, latest, round=k))
    (query,) = (m for m in sent(effects) if isinstance(m, Query))
    assert query.round == 32, "the highest claim, and two more: the second is near"
    assert agent.state.drawing.number > 0


def test_one_claim_suffices_after_two_deadlines() -> None:
    fleet = plain_fleet(complete(4), rounds=None, sealed=True)
    node_without_state(fleet)
    agent = agent_of(fleet, "n00")
    latest = agent_of(fleet, "n01").state.records[-1].number
    deliver(fleet, "n00", query_of(fleet, "n01", latest, round=30))
    fleet.advance(fleet.now + 1.9 * TIMEOUT)
    assert phase_of(fleet, "n00") is Phase.STARTING
    fleet.advance(fleet.now + 0.3 * TIMEOUT)
    assert phase_of(fleet, "n00") is Phase.COLLECTING
    assert agent.round_number == 32


def test_neighbours_that_lost_their_states_do_not_wait_for_each_other_for_ever() -> None:
    fleet = plain_fleet(ring(4), rounds=None, period_s=0.5, sealed=False)
    start_all(fleet)
    fleet.advance(5.0)
    for name in ("n00", "n01"):
        fleet.kill(name)
        fleet.lose_state(name)
    for name in ("n00", "n01"):
        fleet.start(name)
    fleet.advance(60.0)
    assert not reused_rounds(fleet)
    last = [agent_of(fleet, name).round_number for name in fleet.seats]
    assert max(last) - min(last) <= 2


def test_epochs_are_forgotten_with_the_identity() -> None:
    state = first_state("f", "n", b"", 3, draw=0)
    known = {"a": Known(b"old", epoch=9, round=7), "b": Known(b"same", epoch=5, round=7)}
    state = msgspec.structs.replace(state, neighbours=known)
    found = state.known({"a": b"new", "b": b"same", "c": b"first"})
    assert found == {"a": Known(b"new"), "b": known["b"], "c": Known(b"first")}


def stale(fleet: MemoryFleet, theirs: int, sender: str = "n01") -> list[Effect]:
    head = ("toy", sender, 1, "n00", 3, 0, query_of(fleet, "n00", 3).digest)
    return deliver(fleet, "n00", Refusal(*head, "stale_epoch", theirs))


def test_a_node_whose_epoch_is_too_small_restarts_above_it() -> None:
    """Unless a neighbour has replied to this start: then its epoch is good enough."""
    fleet = plain_fleet(ring(3), rounds=20)
    fleet.tap = drop(lambda _s, r, m: r == "n00" and isinstance(m, Answer) and m.round == 3)
    start_all(fleet)
    fleet.advance(0.5)
    effects = stale(fleet, 40)
    assert surpluses(effects) == ["late_refusal"]
    assert not [effect for effect in effects if isinstance(effect, Restart)]
    agent_of(fleet, "n00")._was_answered = False
    effects = stale(fleet, 40)
    assert isinstance(effects[-1], Restart)
    assert agent_of(fleet, "n00").state.epoch == 40


@pytest.mark.parametrize("theirs", [0, 1, GREATEST_EPOCH_FOLLOWED, 2**62])
def test_no_refusal_moves_an_epoch_down_or_far(theirs: int) -> None:
    fleet = plain_fleet(ring(3), rounds=20)
    fleet.tap = drop(lambda _s, r, m: r == "n00" and isinstance(m, Answer) and m.round == 3)
    start_all(fleet)
    fleet.advance(0.5)
    agent_of(fleet, "n00")._was_answered = False
    assert surpluses(stale(fleet, theirs)) == ["late_refusal"]
    assert agent_of(fleet, "n00").state.epoch == 1


@pytest.mark.parametrize("kind", ["query", "answer", "refusal"])
def test_retained_messages_of_a_round_are_refused(kind: str) -> None:
    fleet = plain_fleet(ring(3), rounds=20)
    fleet.tap = drop(lambda _s, r, m: r == "n00" and is_answer(m, 3))
    start_all(fleet)
    fleet.advance(0.5)
    digest = query_of(fleet, "n00", 3).digest
    messages: dict[str, Message] = {
        "query": query_of(fleet, "n01", 3, round=10**12),
        "answer": Answer("toy", "n01", 1, "n00", 3, 0, digest, [bytes(9)] * 2),
        "refusal": Refusal("toy", "n01", 1, "n00", 3, 0, digest, "old", 9),
    }
    before = agent_of(fleet, "n00").claims.rounds["n01"]
    effects = deliver(fleet, "n00", messages[kind], retained=True)
    assert rejections(effects) == ["retained"]
    assert len(effects) == 1
    assert agent_of(fleet, "n00").claims.rounds["n01"] == before


# -- members that lie -----------------------------------------------------------------------------


def lying(
    liar: str, receiver: str, entry: int, spoils: Callable[[int], bool]
) -> Callable[[str, str, Message], Message]:
    """A tap that makes every entry of the answers of *liar* to *receiver* the same *entry*."""

    def tap(sender: str, to: str, message: Message) -> Message:
        is_theirs = (sender, to) == (liar, receiver)
        if is_theirs and isinstance(message, Answer) and spoils(message.round):
            data = entry.to_bytes(9, "big", signed=True)
            return msgspec.structs.replace(message, ciphertexts=[data] * 2)
        return message

    return tap


LARGEST = 2**52 - 1  # of what an answer can hold, as the range check allows it


@pytest.mark.parametrize("sealed", [False, True])
def test_a_term_that_would_leave_the_headroom_is_not_counted(
    sealed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends no node. The node names the roster, and goes on. The cap is off, or none would."""
    monkeypatch.setattr("cipherfleet_node.core.stepping.cap_of", lambda *_: float("inf"))
    fleet = plain_fleet(complete(4), rounds=30, sealed=sealed)
    fleet.tap = lying("n03", "n00", 2**70, lambda k: k == 2)
    fleet.run()
    seat = fleet.seats["n00"]
    closed = {r.number: r for r in seat.reported}
    assert seat.rejected["overreach"] >= 1
    assert "n03" in closed[2].spoiled
    assert np.array_equal(closed[2].estimate, closed[1].estimate)
    assert coupled_of(fleet, "n00") >= 30
    assert agent_of(fleet, "n00").state.unbalanced


@pytest.mark.parametrize("sealed", [False, True])
def test_a_lie_within_the_range_moves_an_estimate_by_the_cap_at_most(
    sealed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the cap off, the same answer moves it by a large part of the range."""
    monkeypatch.setattr("cipherfleet_node.core.coupling.FLOOR", 2.0**22)  # else no lie reaches it
    moves = []
    for is_capped in (True, False):
        if not is_capped:
            monkeypatch.setattr("cipherfleet_node.core.stepping.cap_of", lambda *_: float("inf"))
        fleet = plain_fleet(complete(4), rounds=60, sealed=sealed)
        fleet.tap = lying("n03", "n00", LARGEST, lambda k: k == 50)
        fleet.run()
        closed = {r.number: r.estimate for r in fleet.seats["n00"].reported}
        moves.append(float(np.abs(closed[50] - closed[49]).max()))
    assert 0.0 < moves[0] < 0.01
    assert moves[1] > 1.0


def test_an_answer_that_is_in_range_only_with_the_others_ends_no_process() -> None:
    """It opens in the sum of all answers. Alone, when it is to be capped, it does not."""
    fleet = fleet_of(complete(4), rounds=20)

    def reaching(sender: str, receiver: str, message: Message) -> Message:
        if isinstance(message, Answer) and (sender, receiver, message.round) == ("n03", "n00", 15):
            key = fleet.keys[receiver]
            plain = mpz(2 * LARGEST) * (1 + (mpz(1) << 71))
            c = encrypt(key.public, plain, key.obfuscator(mpz(7), mpz(9)))
            return msgspec.structs.replace(message, ciphertexts=[c.to_bytes(128, "big")])
        return message

    fleet.tap = reaching
    fleet.run()
    closed = {r.number: r.estimate for r in fleet.seats["n00"].reported}
    assert np.abs(closed[15] - closed[14]).max() < 1.0
    assert coupled_of(fleet, "n00") >= 20
    assert agent_of(fleet, "n00").state.unbalanced


def test_a_member_whose_sealed_answers_do_not_open_is_found_and_left_out() -> None:
    """The others converge, and the log has its name."""
    fleet = fleet_of(complete(6), rounds=60, sealed=True)

    def garbled(sender: str, receiver: str, message: Message) -> Message:
        if isinstance(message, Answer) and sender == "n04":
            key = fleet.keys[receiver]
            c = encrypt(key.public, mpz(3) ** 300, key.obfuscator(mpz(7), mpz(9)))
            return msgspec.structs.replace(message, ciphertexts=[c.to_bytes(128, "big")])
        return message

    fleet.tap = garbled
    start_all(fleet)
    fleet.advance(3_000.0)
    others = [name for name in fleet.seats if name != "n04"]
    for name in others:
        assert fleet.seats[name].reported[-1].left_out == ("n04",)
        assert coupled_of(fleet, name) >= 60
    spread = np.ptp([estimate_of(fleet, name) for name in others], axis=0)
    assert spread.max() < 1e-2


# -- taking back ----------------------------------------------------------------------------------


def drift(fleet: MemoryFleet, n: int) -> float:
    """How far the mean of the estimates is from that of the readings, in resolutions."""
    mean = np.mean([estimate_of(fleet, name) for name in fleet.seats], axis=0)
    return float(np.abs(mean - mean_reading(n)).max() / fleet.resolution)


def lossy(seed: int, kinds: Any, share: float) -> MemoryFleet:
    """A pairwise fleet that loses a *share* of its messages for 60 deadlines, and then none."""
    fleet = plain_fleet(complete(5), rounds=None, period_s=1.0, seed=seed)
    chance = np.random.default_rng(seed)
    fleet.tap = drop(lambda _s, _r, m: isinstance(m, kinds) and chance.random() < share)
    start_all(fleet)
    fleet.advance(60 * TIMEOUT)
    assert fleet.silent() > 5, "some answers were missing"
    fleet.tap = None
    fleet.advance(fleet.now + 10 * TIMEOUT)
    return fleet


# 16 resolutions of start noise for each node, and some dither in each round.
FEW_RESOLUTIONS = 100.0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.1, 0.3])
def test_lost_answers_leave_no_scar_in_a_pairwise_average(seed: int, share: float) -> None:
    """What one end alone counted is taken back, so the mean of the start values is kept."""
    assert drift(lossy(seed, Answer, share), 5) < FEW_RESOLUTIONS


@pytest.mark.parametrize("seed", range(3))
def test_without_taking_back_lost_answers_leave_a_scar(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stepper, "take_back", lambda _self, state, *_: state)
    assert drift(lossy(seed, Answer, 0.3), 5) > 100 * FEW_RESOLUTIONS


def test_lost_queries_leave_no_scar_in_a_pairwise_average() -> None:
    drifts = [drift(lossy(seed, Answer | Query, 0.3), 5) for seed in range(3)]
    assert max(drifts) < FEW_RESOLUTIONS


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "pairwise"])
def test_a_node_without_state_is_not_taken_back_by_a_neighbour_that_was_away(sealed: bool) -> None:
    """The second highest claim is that of the neighbour, below rounds that the node has used."""
    fleet = fleet_of(ring(4), rounds=None, period_s=0.5, sealed=sealed)
    start_all(fleet)
    fleet.advance(5.0)
    fleet.kill("n01")
    fleet.advance(65.0)
    fleet.kill("n00")
    fleet.lose_state("n00")
    fleet.start("n01")
    fleet.start("n00")
    fleet.advance(fleet.now + 60.0)
    assert reused_rounds(fleet) == []
    assert coupled_of(fleet, "n00") > 20


def test_a_node_without_state_waits_no_longer_than_16_deadlines_for_claims_that_agree() -> None:
    """A neighbour that lies about its round for ever is not believed, and not waited for either."""
    fleet = fleet_of(ring(4), rounds=None, period_s=0.5)
    start_all(fleet)
    fleet.advance(10.0)
    fleet.kill("n00")
    fleet.lose_state("n00")
    fleet.start("n00")
    agent = agent_of(fleet, "n00")
    agent.claims.record("n01", 10**6, fleet.now)
    near = agent_of(fleet, "n03").round_number
    fleet.advance(fleet.now + 17 * TIMEOUT)
    assert near < agent.round_number < near + 400
    assert reused_rounds(fleet) == []
