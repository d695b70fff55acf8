"""What the answers of a round do to the estimate: the step, late terms, and terms taken back.

`coupling.py` caps the terms. If a step would leave the headroom, it is not taken: nothing that a
neighbour sends can end this node.

**Taking back.** In the pairwise exchange every query lists the neighbours whose answers its sender
counted in the round before. A node that counted a neighbour alone takes that term back: it opens
the stored answer by itself and subtracts the term. In the sealed exchange nothing is taken back,
since that would show the term of a single neighbour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from gmpy2 import mpz

from . import progress
from .collector import Answers, CouplingTerm
from .coupling import cap_of, capped, is_within_headroom, size_of
from .events import Setup
from .exchange import UNIT
from .messages import Query
from .opening import Opener
from .optimiser import attenuation_factor, descend
from .quantiser import dequantise
from .randomness import FloatVector, RoundRandomness
from .state import HISTORY_ROUNDS, RoundRecord, State


class Stepper:
    """Change the estimate of one node. What it holds is private to the node."""

    def __init__(self, setup: Setup, opener: Opener) -> None:
        self._setup, self._opener = setup, opener
        self._single: dict[tuple[str, int], Sequence[mpz]] = {}  # pairwise answers counted lately

    def step(
        self, state: State, record: RoundRecord, term: CouplingTerm, answers: Answers
    ) -> State | None:
        """Return *state* after the round of *record*, or None if its headroom does not suffice."""
        setup, k, randomness = self._setup, record.number, RoundRandomness(record.seed)
        estimate = np.array(state.estimate)
        state, coupling = self._limited(state, record, term, answers)
        with setup.trace.span("gradient", k):
            gradient = setup.objective.gradient(estimate, randomness)
        with setup.trace.span("update", k):
            estimate = descend(estimate, coupling, gradient, k, setup.algorithm, randomness)
        if not self._fits(estimate):
            return None
        if not setup.exchange.sealed:
            self._keep_single(answers, k)
        return self._coupled(state, record, term, estimate, k + 1)

    def step_late(self, state: State, record: RoundRecord, term: CouplingTerm) -> State | None:
        """Return *state* with the term of a held round, or None if it cannot be counted.

        The local step of that round is not taken any more.
        """
        if not term.included:
            return None
        state, coupling = self._limited(state, record, term, {})
        estimate = np.array(state.estimate) + self._attenuation(record) * coupling
        if not self._fits(estimate):
            return None
        return self._coupled(state, record, term, estimate, state.round)

    def take_back(self, state: State, query: Query) -> State:
        """Return *state* without the term of the sender of *query*, if it counted us not."""
        setup, name = self._setup, query.sender
        if setup.exchange.sealed or setup.node in query.counted:
            return state
        record = state.record(query.previous)
        answer = self._single.pop((name, query.previous), None)
        if record is None or answer is None or name not in record.counted:
            return state
        term = setup.exchange.open({name: answer}, RoundRandomness(record.seed))
        estimate = np.array(state.estimate) - self._attenuation(record) * self._real(term)
        others = [other for other in record.counted if other != name]
        state = progress.closed(state, record.number, "coupled", others)
        if not self._fits(estimate):
            return progress.replaced(state, unbalanced=True)
        return progress.moved(state, estimate, state.round)

    def _fits(self, estimate: FloatVector) -> bool:
        return is_within_headroom(estimate, self._setup.resolution)

    def _coupled(
        self, state: State, record: RoundRecord, term: CouplingTerm, x: FloatVector, since: int
    ) -> State:
        state = progress.closed(state, record.number, "coupled", term.included)
        state = progress.replaced(state, coupled=state.coupled + 1)
        return progress.moved(state, x, since)

    def _limited(
        self, state: State, record: RoundRecord, term: CouplingTerm, answers: Answers
    ) -> tuple[State, FloatVector]:
        """Return the coupling term in the objective's units, capped, and its size in the state."""
        coupling, cap = self._real(term.combined), cap_of(state.sizes, self._setup.resolution)
        if size_of(coupling) > cap:
            coupling = self._clipped(coupling, cap, answers, RoundRandomness(record.seed))
            state = progress.replaced(state, unbalanced=True)
        return self._opener.note_size(state, record.number, size_of(coupling)), coupling

    def _clipped(
        self, coupling: FloatVector, cap: float, answers: Answers, randomness: RoundRandomness
    ) -> FloatVector:
        """Return *coupling* with every pairwise answer capped alone, or capped as a whole."""
        exchange = self._setup.exchange
        if exchange.sealed or not answers:
            return capped(coupling, cap)
        total = np.zeros_like(coupling)
        for name, answer in answers.items():
            total += capped(self._real(exchange.open({name: answer}, randomness)), cap)
        return total

    def _attenuation(self, record: RoundRecord) -> float:
        return attenuation_factor(self._setup.algorithm.attenuation, record.number)

    def _real(self, term: Sequence[int]) -> FloatVector:
        """Return an opened term in the objective's units, shape (d,)."""
        return dequantise(term, self._setup.resolution * UNIT)

    def _keep_single(self, answers: Mapping[str, Sequence[mpz]], number: int) -> None:
        """Keep the pairwise answers of the latest rounds, in case one must be taken back."""
        fresh = {(name, number): answer for name, answer in answers.items()}
        oldest = number - HISTORY_ROUNDS
        kept = {key: answer for key, answer in self._single.items() if key[1] > oldest}
        self._single = kept | fresh
