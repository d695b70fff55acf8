"""Attacks that look for two sealed sums whose difference is the term of one neighbour.

Every asker is curious: it keeps every answer that it ever receives, late ones included, and opens
every sum whose roster has answered. The broker decides when messages arrive. It makes a roster
change while the other answerers show the same numbers again.

Only exact results count: the difference of two sums, apart from a multiple of the asker's own move
between them, equals the term of one neighbour in every digit. The note adds how well the
differences of sums of nearby rounds resemble the term of the neighbour that only one of them has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from cipherfleet_lab.simulation.plaintext_exchange import read_integers
from cipherfleet_node.core.exchange import metropolis
from cipherfleet_node.core.messages import Answer, Message, Presence, Query
from cipherfleet_node.core.packing import HALF_WEIGHT_BITS
from cipherfleet_node.core.randomness import FloatVector
from cipherfleet_node.settings.sections import Stepsize

from .result import AttackResult, percent
from .round_fleet import RoundFleet, RoundScene, circulant
from .subjects import AttackCase

DEGREE, NODES = 4, 10
ROUNDS = 40  # of every node in a trial
NEARBY = 8  # rounds
NEAR_ERROR = 0.3  # of a difference, as a share of the term
MEAN_WEIGHT = 0.75 * 2**HALF_WEIGHT_BITS
Numbers = tuple[str, bytes]  # an answerer and its seed: equal seeds, equal estimate and half weight


@dataclass
class OpenedSum:
    """The answers to one query, and what they are made of."""

    query: Query
    terms: dict[str, FloatVector] = field(default_factory=dict)  # by answerer
    numbers: dict[str, bytes] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """True if the masks of the whole roster cancel."""
        return len(self.terms) == len(self.query.roster)

    @property
    def total(self) -> FloatVector:
        """The sum, exact in floating point."""
        result: FloatVector = np.sum(list(self.terms.values()), axis=0)
        return result

    @property
    def own(self) -> FloatVector:
        """The asker's own quantised estimate."""
        return -read_integers(self.query.ciphertexts)


@dataclass
class CuriousAskers:
    """All that the askers of a fleet have received."""

    fleet: RoundFleet
    sums: dict[bytes, OpenedSum] = field(default_factory=dict)  # by digest of the query

    def note(self, message: Message) -> None:
        """Keep a message that is sent, and the secrets behind it, which only the count uses."""
        if isinstance(message, Query) and message.roster:
            self.sums.setdefault(message.digest, OpenedSum(message))
        elif isinstance(message, Answer) and message.query in self.sums:
            kept = self.sums[message.query]
            kept.terms[message.sender] = read_integers(message.ciphertexts)
            kept.numbers[message.sender] = self.fleet.record(message.sender, message.round).seed

    def isolated(self) -> set[tuple[str, str, bytes]]:
        """Return the terms that two sums isolate: asker, answerer and its seed."""
        known: dict[tuple[str, frozenset[Numbers]], OpenedSum] = {}
        for kept in self._complete:
            known.setdefault((kept.query.sender, frozenset(kept.numbers.items())), kept)
        found = set()
        for (asker, numbers), kept in known.items():
            for name, seed in numbers:
                fewer = known.get((asker, numbers - {(name, seed)}))
                if fewer is not None and _is_term(kept, fewer, name):
                    found.add((asker, name, seed))
        return found

    def answers(self) -> int:
        """Return the number of answers that came: without masks each opens by itself."""
        return len({(k.query.sender, *n) for k in self.sums.values() for n in k.numbers.items()})

    def near_errors(self) -> list[float]:
        """Return the errors of differences of nearby sums as terms, for rosters one apart."""
        return [e for name in self.fleet.seats for e in _near_errors(self.sums_of(name))]

    def sums_of(self, asker: str) -> list[OpenedSum]:
        """Return the complete sums of *asker*, in the order of its queries."""
        return [kept for kept in self._complete if kept.query.sender == asker]

    @property
    def _complete(self) -> Iterator[OpenedSum]:
        return (kept for kept in self.sums.values() if kept.is_complete)


def _is_term(more: OpenedSum, fewer: OpenedSum, name: str) -> bool:
    """True if the difference is the term of *name* plus a multiple of the asker's own move."""
    rest, move = more.total - fewer.total - more.terms[name], fewer.own - more.own
    crossed = np.outer(rest, move)
    return bool(np.allclose(crossed, crossed.T, rtol=1e-9, atol=0.0))


def _near_errors(sums: list[OpenedSum]) -> Iterator[float]:
    for more in sums:
        for fewer in sums:
            gone = set(more.query.roster) - set(fewer.query.roster)
            is_one_apart = len(gone) == 1 and len(fewer.terms) == len(more.terms) - 1
            if is_one_apart and abs(more.query.round - fewer.query.round) <= NEARBY:
                yield _error_as_term(more, fewer, *gone)


def _error_as_term(more: OpenedSum, fewer: OpenedSum, name: str) -> float:
    """Return the error of the difference as the term of *name*, corrected for the own move."""
    factor = metropolis(DEGREE, DEGREE) * len(fewer.terms)
    difference = more.total - fewer.total - factor * MEAN_WEIGHT * (fewer.own - more.own)
    term = more.terms[name]
    return float(np.linalg.norm(difference - term) / np.linalg.norm(term))


# -- what the broker does -----------------------------------------------------------------------

Tap = Callable[[str, str, Message], Message | None]
SCENE = RoundScene(circulant(NODES, DEGREE))


def _is_victim(askers: CuriousAskers, answer: Answer) -> bool:
    """True for one answer to each query of three and more: the broker sees the rosters."""
    kept = askers.sums.get(answer.query)
    roster = kept.query.roster if kept else []
    return len(roster) > 2 and roster[0] == answer.sender


def delaying(fleet: RoundFleet, askers: CuriousAskers) -> Tap:
    """Hold one answer of each round back until the asker has opened its next round."""
    held: dict[str, list[Answer]] = defaultdict(list)

    def tap(sender: str, receiver: str, message: Message) -> Message | None:
        askers.note(message)
        if isinstance(message, Query):
            due = [answer for answer in held[sender] if answer.round < message.round]
            held[sender] = [answer for answer in held[sender] if answer not in due]
            for answer in due:
                fleet.send(sender, answer, 0.02)
        elif isinstance(message, Answer) and _is_victim(askers, message):
            held[receiver].append(message)
            return None
        return message

    return tap


def speaking_wills(fleet: RoundFleet, askers: CuriousAskers) -> Tap:
    """Publish the last will of one answerer of each round, and deliver its answer after that."""

    def tap(sender: str, receiver: str, message: Message) -> Message | None:
        askers.note(message)
        if not isinstance(message, Answer) or not _is_victim(askers, message):
            return message
        fleet.send(receiver, Presence(fleet.name, sender, message.epoch, "lost"), 0.0)
        fleet.send(receiver, message, 0.03)
        fleet.send(receiver, Presence(fleet.name, sender, message.epoch, "ready"), 0.05)
        return None

    return tap


def watch(
    case: AttackCase,
    trial: int,
    tap: Callable[[RoundFleet, CuriousAskers], Tap],
    rounds: int = ROUNDS,
) -> CuriousAskers:
    """Run the fleet of *trial*, and return what its askers have received."""
    fleet = SCENE.fleet(case, trial)
    askers = CuriousAskers(fleet)
    fleet.tap = tap(fleet, askers)
    fleet.begin()
    fleet.run_rounds(rounds, SCENE.names)
    return askers


# -- attacks ------------------------------------------------------------------------------------


def late_answers(case: AttackCase) -> AttackResult | None:
    """A neighbour's term from two sums; the broker delays one answer of every round."""
    return _isolation(case, "late-answers", delaying)


def last_will(case: AttackCase) -> AttackResult | None:
    """A neighbour's term from two sums; the broker publishes a last will in every round."""
    return _isolation(case, "last-will", speaking_wills)


def _isolation(
    case: AttackCase,
    name: str,
    tap: Callable[[RoundFleet, CuriousAskers], Tap],
) -> AttackResult | None:
    if case.subject.kind != "sealed":
        return None
    fleets = [watch(case, trial, tap) for trial in range(case.fleets)]
    rounds = sum(len(seat.reported) for each in fleets for seat in each.fleet.seats.values())
    if "masks" in case.off:
        found = sum(each.answers() for each in fleets)
    else:
        found = sum(len(each.isolated()) for each in fleets)
    errors = [error for each in fleets for error in each.near_errors()]
    return AttackResult(
        attack=name,
        system=case.name,
        sought="the term of one neighbour in a sealed sum",
        saw="all answers that came, late ones included",
        knew="its own estimates and queries",
        measure="fraction",
        value=min(found / rounds, 1.0),
        chance=0.0,
        guess="none is exact",
        trials=rounds,
        note=_note(found, rounds, errors),
    )


def _note(found: int, rounds: int, errors: list[float]) -> str:
    isolated = f"{1000 * found / rounds:.0f} terms isolated in 1,000 rounds"
    if not errors:
        return f"{isolated}; no two nearby sums are one neighbour apart"
    near = np.mean(np.array(errors) < NEAR_ERROR)
    return (
        f"{isolated}; {len(errors)} nearby sums are one neighbour apart, "
        f"median error {percent(float(np.median(errors)))}, {percent(float(near))} below "
        f"{percent(NEAR_ERROR)}"
    )


# -- a neighbour that leaves --------------------------------------------------------------------

LEAVING = "n1"
SETTLED = 40  # rounds before the sums that are compared
AVERAGED = 50  # rounds
LEAVES = RoundScene(
    circulant(8, 3), dimension=8, stepsize=Stepsize(initial=0.3, decay=0.0, spread=0.0)
)


def departure(case: AttackCase) -> AttackResult | None:
    """The term of a neighbour that leaves, from the last sum with it and the first without it."""
    if case.subject.kind != "sealed":
        return None
    trials = [departed_errors(case, trial) for trial in range(case.fleets)]
    first, averaged = (np.concatenate(part) for part in zip(*trials, strict=True))
    return AttackResult(
        attack="departure",
        system=case.name,
        sought="the term of a neighbour that leaves",
        saw="the last sum with it and the first one without it",
        knew="its own estimates, the half weights' law",
        measure="error",
        value=float(np.sqrt(np.mean(first**2))),
        chance=1.0,
        guess="zero",
        trials=len(first),
        note=(
            f"with the averages of {AVERAGED} sums before and after "
            f"{percent(float(np.sqrt(np.mean(averaged**2))))}"
        ),
    )


def departed_errors(case: AttackCase, trial: int) -> tuple[FloatVector, FloatVector]:
    """Return the errors of LEAVING's neighbours: from one sum each, and from averages."""
    fleet = LEAVES.fleet(case, trial)
    askers, watched = CuriousAskers(fleet), fleet.neighbours[LEAVING]
    fleet.tap = _listening(askers)
    fleet.begin()
    fleet.run_rounds(SETTLED + AVERAGED, watched)
    fleet.kill(LEAVING)
    fleet.run_rounds(2 * (SETTLED + AVERAGED), watched)
    errors = [[_departed_error(askers, name, count) for name in watched] for count in (1, AVERAGED)]
    return np.array(errors[0]), np.array(errors[1])


def _departed_error(askers: CuriousAskers, asker: str, count: int) -> float:
    """Return the error of LEAVING's term at *asker*, from *count* sums before and after."""
    sums = askers.sums_of(asker)
    before = [kept for kept in sums if LEAVING in kept.terms][-count:]
    after = [kept for kept in sums if kept.query.round > before[-1].query.round][:count]
    own = np.mean([kept.own for kept in before], axis=0)
    found = _at(before, own) - _at(after, own)
    term = np.mean([kept.terms[LEAVING] for kept in before], axis=0)
    return float(np.linalg.norm(found - term) / np.linalg.norm(term))


def _at(sums: list[OpenedSum], own: FloatVector) -> FloatVector:
    """Return the mean of *sums* as if the asker had stood at *own*, by the mean half weight."""
    degree = len(LEAVES.links) * 2 // len(LEAVES.names)
    factor = metropolis(degree, degree) * MEAN_WEIGHT
    moved = [kept.total + factor * len(kept.terms) * (kept.own - own) for kept in sums]
    result: FloatVector = np.mean(moved, axis=0)
    return result


def _listening(askers: CuriousAskers) -> Tap:
    def tap(_sender: str, _receiver: str, message: Message) -> Message | None:
        askers.note(message)
        return message

    return tap
