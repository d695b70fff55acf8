"""How a fleet notices, without a server, that every node has reached the accuracy asked for.

A node is *calm* in a round whose coupling term, and whose distance from rest, are below MARGIN of
the accuracy. The distance from rest of the exact method is the largest entry of |g_i + y_i| / c0.
A node is *settled* after CALM_ROUNDS calm rounds in a row.

Every query carries a *level*: 0 while its sender is not settled, otherwise one more than the least
level of the sender's neighbours. So a level of h says that all nodes within h - 1 hops are settled,
and a level above the graph's diameter that the whole fleet is. A fleet with a number of rounds then
ends. A fleet with a period then waits for it between rounds, which it does not do before.

A member that lies about its level ends no fleet early: the levels of all others still count, except
across a node that cuts the graph in two. It can keep a fleet running to its last round.

**Without `until`.** A node counts its calm rounds for itself alone, with an accuracy of its own, to
know when its outputs may show the answer. Its level stays 0, and the fleet does not end.

Only levels leave the node, never a distance. Source: docs/explanation/algorithm.md#settled;
checked by test_a_level_above_the_diameter_means_that_all_are_settled.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from . import progress
from .events import Setup
from .messages import MAX_LEVEL
from .randomness import FloatVector
from .state import State

CALM_ROUNDS = 10
MARGIN = 0.1  # of the accuracy


def distance_from_rest(gradient: FloatVector, dual: FloatVector, scale: float) -> float:
    """Return the largest entry of |g_i + y_i| / c0, in the objective's units."""
    return float(np.abs(gradient + dual).max()) / scale


def calmed(state: State, distances: Iterable[float | None], accuracy: float) -> State:
    """Return *state* after a coupled round with these *distances*; None is an unknown one."""
    is_calm = all(each is not None and each < MARGIN * accuracy for each in distances)
    return progress.replaced(state, calm=state.calm + 1 if is_calm else 0)


class Settling:
    """Whether one node, and the whole fleet, has settled."""

    def __init__(self, setup: Setup) -> None:
        self._until, self._rounds = setup.algorithm.until, setup.algorithm.rounds
        self._diameter = setup.diameter
        self._only_answers = setup.only_answers
        self._levels = dict.fromkeys(setup.neighbours, 0)

    def record(self, name: str, level: int) -> None:
        """Record the *level* in a query of the neighbour *name*."""
        self._levels[name] = level

    def levelled(self, state: State, present: Iterable[str]) -> State:
        """Return *state* with its level after a round; *present* are the neighbours that count."""
        if self._until is None or (self._rounds is not None and self.is_over(state)):
            return state
        levels = [self._levels[name] for name in present]
        settled = state.calm >= CALM_ROUNDS and bool(levels)
        level = min(MAX_LEVEL, 1 + min(levels)) if settled else 0
        # A node that asks nobody never moves, so it holds nobody up.
        return progress.replaced(state, level=MAX_LEVEL if self._only_answers else level)

    def is_over(self, state: State) -> bool:
        """True if the whole fleet has settled, as far as *state* tells."""
        return self._until is not None and state.level > self._diameter
