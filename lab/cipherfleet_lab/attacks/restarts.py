"""Attacks after a restart: a second query of one round, and an old copy of a node's card."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import msgspec
import numpy as np

from cipherfleet_lab.simulation.memory_fleet import Faults
from cipherfleet_lab.simulation.plaintext_exchange import read_integers
from cipherfleet_node.core.messages import Answer, Message, Query
from cipherfleet_node.core.randomness import FloatVector
from cipherfleet_node.core.state import after_loss

from .result import AttackResult
from .round_fleet import RoundFleet, RoundScene, circulant, complete
from .subjects import AttackCase

ASKER, VICTIM = "n0", "n1"
LINKS = Faults(delay_s=(0.05, 0.1))
SCENE = RoundScene(complete(5), faults=LINKS)
RING = RoundScene(circulant(5, 2), faults=LINKS)  # its neighbours cannot go far without a node
BEFORE = 6  # rounds before the restart
ADDED = 10**6  # to every entry of the second query, in resolutions
OFF_S = 0.5
AGE = 8  # rounds since the card was copied, at most
REPEATS = 4  # restarts for each fleet of a case


# -- a second query -----------------------------------------------------------------------------


@dataclass
class TwoQueries:
    """What a dishonest asker sends and receives in one round, before and after a restart."""

    fleet: RoundFleet
    round: int
    first: Query | None = None
    second: Query | None = None
    answers: dict[tuple[str, bytes], FloatVector] = field(default_factory=dict)
    truth: FloatVector | None = None  # the victim's estimate in that round

    def tap(self, sender: str, receiver: str, message: Message) -> Message | None:
        """Keep the asker's query of the round and all answers to it."""
        if isinstance(message, Query) and (sender, message.round) == (ASKER, self.round):
            self.first = message
        if isinstance(message, Answer) and (receiver, message.round) == (ASKER, self.round):
            self.answers[sender, message.query] = read_integers(message.ciphertexts)
            if sender == VICTIM:
                quantised = self.fleet.record(VICTIM, self.round).quantised
                self.truth = np.array(quantised, dtype=float)
        return message

    def ask_again(self, second: Query) -> None:
        """Send *second* to everybody that it asks."""
        self.second = second
        for name in self.fleet.neighbours[ASKER]:
            self.fleet.send(name, second, 0.001)

    def of(self, name: str, query: Query | None) -> FloatVector | None:
        """Return the answer of *name* to *query*, if it came."""
        return self.answers.get((name, query.digest)) if query else None


def second_query_after_restart(case: AttackCase) -> AttackResult | None:
    """A neighbour's estimate or term: it restarts and is asked a second query of one round."""
    kind = case.subject.kind
    if kind is None:
        return None
    find = _finds_term if kind == "sealed" else _finds_estimate
    trials = case.fleets * REPEATS
    found = [find(_ask_twice(case, trial)) for trial in range(trials)]
    return AttackResult(
        attack="second-query-after-restart",
        system=case.name,
        sought="a neighbour's term in a sum" if kind == "sealed" else "a neighbour's estimate",
        saw="answers to two queries of one round, which its neighbours restarted in between",
        knew="its own estimate, both queries",
        measure="fraction",
        value=sum(found) / trials,
        chance=0.0,
        guess="none is exact",
        trials=trials,
    )


def _ask_twice(case: AttackCase, trial: int) -> TwoQueries:
    """Run until the round is closed, restart all neighbours of the asker, and ask again."""
    fleet = SCENE.fleet(case, trial)
    asked = TwoQueries(fleet, BEFORE)
    fleet.tap = asked.tap
    fleet.begin()
    while _round_of(fleet, ASKER) <= BEFORE:
        fleet.advance(fleet.now + 0.01)
    for name in fleet.neighbours[ASKER]:
        fleet.kill(name, last_will=False)
        fleet.start(name)
    assert asked.first is not None
    asked.ask_again(_otherwise(asked.first))
    fleet.advance(fleet.now + 0.5)
    return asked


def _otherwise(query: Query) -> Query:
    """Return the query with another estimate (pairwise) or without the victim (sealed)."""
    if query.roster:
        roster = [name for name in query.roster if name != VICTIM]
        return msgspec.structs.replace(query, roster=roster)
    shifted = [
        (int.from_bytes(c, "big", signed=True) + ADDED).to_bytes(len(c), "big", signed=True)
        for c in query.ciphertexts
    ]
    return msgspec.structs.replace(query, ciphertexts=shifted)


def _finds_estimate(asked: TwoQueries) -> bool:
    """Compute the half weight from two answers, and the estimate from the half weight."""
    first, second = asked.of(VICTIM, asked.first), asked.of(VICTIM, asked.second)
    if first is None or second is None or asked.first is None or asked.truth is None:
        return False
    weight = (second - first)[0] / ADDED
    found = np.rint(first / weight) - read_integers(asked.first.ciphertexts)
    return bool(np.array_equal(found, asked.truth))


def _finds_term(asked: TwoQueries) -> bool:
    """Subtract the sum without the victim from the sum with it."""
    roster = asked.first.roster if asked.first else []
    term, others = asked.of(VICTIM, asked.first), [name for name in roster if name != VICTIM]
    more, fewer = _sum(asked, roster, asked.first), _sum(asked, others, asked.second)
    if term is None or more is None or fewer is None:
        return False
    return bool(np.array_equal(more - fewer, term))


def _sum(asked: TwoQueries, names: list[str], query: Query | None) -> FloatVector | None:
    """Return the sum of the answers of *names* to *query*, or None if one is missing."""
    answers = [asked.of(name, query) for name in names]
    there = [answer for answer in answers if answer is not None]
    return np.array(there).sum(axis=0) if there and len(there) == len(answers) else None


def _round_of(fleet: RoundFleet, name: str) -> int:
    saved = fleet.seats[name].saved
    return saved.round if saved else 0


# -- an old card --------------------------------------------------------------------------------


def old_card(case: AttackCase) -> AttackResult | None:
    """Two estimates under one round number: a card is put back from an older copy."""
    if case.subject.kind is None:
        return None
    trials = case.fleets * REPEATS
    found = [_has_two_queries(_put_back(case, trial)) for trial in range(trials)]
    return AttackResult(
        attack="old-card",
        system=case.name,
        sought="queries of two estimates with one round number",
        saw="all queries of the node",
        knew="nothing else",
        measure="fraction",
        value=sum(found) / trials,
        chance=0.0,
        guess="a node that continues has none",
        trials=trials,
    )


def _put_back(case: AttackCase, trial: int) -> RoundFleet:
    """Run, copy the state, run on, put the copy back, and run on."""
    fleet, chance = RING.fleet(case, trial), random.Random(f"card {case.seed} {trial}")
    fleet.begin()
    fleet.run_rounds(BEFORE, [VICTIM])
    copied = fleet.seats[VICTIM].saved
    assert copied is not None
    _pass_rounds(fleet, chance.randint(1, AGE))
    fleet.kill(VICTIM)
    fleet.advance(fleet.now + chance.uniform(0.0, OFF_S))
    seat = fleet.seats[VICTIM]
    seat.saved = copied
    if "own-presence" not in case.off:  # the node's own retained presence has a later epoch
        seat.saved = after_loss(copied, chance.getrandbits(32))
        seat.has_lost_state = True
    fleet.start(VICTIM)
    fleet.advance(fleet.now + 5.0)
    return fleet


def _pass_rounds(fleet: RoundFleet, count: int) -> None:
    until = _round_of(fleet, VICTIM) + count
    while _round_of(fleet, VICTIM) < until:
        fleet.advance(fleet.now + 0.01)


def _has_two_queries(fleet: RoundFleet) -> bool:
    return any(len(sent) > 1 for (name, _), sent in fleet.queries.items() if name == VICTIM)
