"""The guards of the exchange and of the rounds, and nodes with some of them switched off.

Guards that are random choices are switched off in `GuardedRandomness`, so that the node's own code
runs unchanged. The rules of rounds are switched off in `make_agent`: it replaces a part of the
agent by one that lacks one rule. The guard `own-presence` is in the daemon; restarts.py has both.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from cipherfleet_node.core.agent import Agent
from cipherfleet_node.core.answerer import Answerer
from cipherfleet_node.core.claims import Claims
from cipherfleet_node.core.collector import Answers, CouplingTerm
from cipherfleet_node.core.events import Setup
from cipherfleet_node.core.messages import Query
from cipherfleet_node.core.opening import Opener
from cipherfleet_node.core.randomness import FloatVector, RoundRandomness, Seeds, numbered
from cipherfleet_node.core.roster import Roster
from cipherfleet_node.core.state import RoundRecord, State
from cipherfleet_node.core.stepping import Stepper

from .names import GUARDS, Guard

# -- the exchange -------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class GuardedRandomness(RoundRandomness):
    """Random choices of one node in one round; guards that are off give the middle of the range."""

    off: Collection[Guard] = ()

    def uniform(self, label: str, count: int) -> FloatVector:
        """Without the guard `stepsizes`, every stepsize is the mean."""
        drawn = super().uniform(label, count)
        return 0.0 * drawn + 0.5 if label == "stepsize" and "stepsizes" in self.off else drawn

    def integers_below(self, bound: int, label: str, count: int) -> list[int]:
        """Without their guards, dither is zero and half weights are equal."""
        kind = label.split("/", maxsplit=1)[0]
        if (kind == "dither" and "dither" in self.off) or (
            kind == "half-weight" and "half-weights" in self.off
        ):
            return [(bound - 1) // 2] * count
        return super().integers_below(bound, label, count)


# -- the rounds ---------------------------------------------------------------------------------


class AnyRoster(Answerer):
    """Without `rosters`: answers every roster of an asker with the same draw."""

    def _may_see(self, query: Query, record: RoundRecord, state: State) -> bool:
        del query, record, state
        return True


class NoKicks(Opener):
    """Without `kicks`: another draw has other half weights, but shows the same estimate."""

    def _kick_size(self, state: State) -> float:
        del state
        return 0.0


class AnyClaim(Claims):
    """Without `claims`: follows the highest claim at once, however far."""

    def bound(self, now: float) -> float:
        """Return infinity: a node may have reached any round."""
        del now
        return float("inf")

    def target(self, current: int, *_: Any, **__: Any) -> int | None:
        """Return the highest claim that is two or more rounds ahead, whatever else is given."""
        highest = max(self.rounds.values(), default=current)
        return highest if highest >= current + 2 else None


class NoHeadroom(Stepper):
    """Without `headroom`: takes every step, however far it goes."""

    def _fits(self, estimate: FloatVector) -> bool:
        del estimate
        return True

    def _limited(
        self, state: State, record: RoundRecord, term: CouplingTerm, answers: Answers
    ) -> tuple[State, list[int]]:
        del record, answers
        return state, term.combined


class NoBackOff(Roster):
    """Without `back-off`: asks every present neighbour in every round, and waits for it."""

    def missed(self, names: Iterable[str]) -> None:
        """Forget that *names* have missed."""


class NoHalves(Roster):
    """Without `halves`: goes on asking all neighbours when their sum is out of range."""

    def spoiled(self, roster: Collection[str], round_number: int) -> None:
        """Forget that the sum of *roster* was out of range."""


def make_agent(setup: Setup, state: State, off: Collection[Guard]) -> Agent:
    """Return a node's agent without the rules *off*."""
    if "draws" in off:
        setup = replace(setup, seeds=_seeds_of_rounds(setup.seeds))
    if "digests" in off:
        state = _without_digests(state)
    agent = Agent(setup, state)
    if "rosters" in off:
        agent.answerer = AnyRoster(setup)
    if "claims" in off:
        agent.claims = AnyClaim(agent.claims.rounds, setup.algorithm.period_s, setup.away_s)
    if "back-off" in off:
        agent.roster = NoBackOff(setup.exchange.least)
    if "halves" in off:
        agent.roster = NoHalves(setup.exchange.least)
    if "kicks" in off:
        agent.opener = NoKicks(setup)
    stepper = NoHeadroom if "headroom" in off else Stepper
    agent.stepper = stepper(setup, agent.opener)
    return agent


def _seeds_of_rounds(seeds: Seeds) -> Seeds:
    """Without `draws`: every round has random numbers of its own, also with an unchanged state."""
    count = itertools.count(2**32)
    return lambda draw: numbered(seeds(draw), next(count))


def _without_digests(state: State) -> State:
    """Without `digests`: a node that starts has forgotten which queries it answered."""
    records = [msgspec.structs.replace(record, answered={}) for record in state.records]
    return msgspec.structs.replace(state, records=records, rosters={})


def describe_guards(off: Iterable[Guard]) -> str:
    """Return the suffix of a system's name for the guards that are off."""
    names = ", ".join(guard for guard in GUARDS if guard in off)
    return f" without {names}" if names else ""
