"""What the answers of a round do to the estimate: the step, late terms, and terms taken back.

`coupling.py` caps the terms. If a step would leave the headroom, it is not taken: nothing that a
neighbour sends can end this node. After REFUSED_STEPS such steps the estimate stops at its limit.
Otherwise a fleet that has lost its duals would stand there for good.

**Taking back.** In the pairwise exchange every query lists the neighbours whose answers its sender
has not counted in its latest closed rounds. A node that counted a neighbour alone takes that term
back: it opens the stored answer by itself and subtracts the term. In the sealed exchange nothing is
taken back, since that would show the term of a single neighbour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
from gmpy2 import mpz

from cipherfleet_node.errors import RemoteProtocolError

from . import agreement, progress
from .collector import Answers, CouplingTerm
from .coupling import cap_of, capped, is_within_headroom, size_of, within_headroom
from .events import Setup
from .exchange import UNIT
from .listening import listened
from .opening import Opener
from .optimiser import attenuation_factor, descend
from .quantiser import dequantise
from .randomness import FloatVector, RoundRandomness
from .settling import calmed
from .state import HISTORY_ROUNDS, RoundRecord, State

REFUSED_STEPS = 8  # that would leave the headroom; from then on a node stops at its limit
TAKEN_BACK_ROUNDS = 2 * HISTORY_ROUNDS  # a neighbour that jumps has records of older rounds


class Stepper:
    """Change the estimate of one node. What it holds is private to the node."""

    def __init__(self, setup: Setup, opener: Opener) -> None:
        self._setup, self._opener = setup, opener
        self._refused_steps = 0  # since the estimate was in the inner half of the headroom
        # Pairwise answers counted lately, by neighbour and round, and the records of these rounds.
        self._single: dict[tuple[str, int], tuple[RoundRecord, Sequence[mpz]]] = {}

    def step(
        self, state: State, record: RoundRecord, term: CouplingTerm, answers: Answers
    ) -> State | None:
        """Return *state* after the round of *record*, or None if the step is refused."""
        setup, k = self._setup, record.number
        state, coupling = self._limited(state, record, term, answers)
        if setup.exact_scale is not None:
            with setup.trace.span("update", k):
                estimate = dequantise(record.quantised, setup.resolution) + self._real(coupling)
        else:
            estimate = self._descended(state, record, self._real(coupling))
        if self._refused_steps >= REFUSED_STEPS and np.all(np.isfinite(estimate)):
            estimate = within_headroom(estimate, setup.resolution)
        elif not self._fits(estimate):
            self._refused_steps += 1
            return None
        if is_within_headroom(estimate, setup.resolution / 2):
            self._refused_steps = 0
        if not setup.exchange.sealed:
            self._keep_single(record, {name: answers[name] for name in term.included})
        state = self._opener.generations.with_term(state, record.averaging, term.averaged)
        state = self._calmed(self._booked(state, record, coupling), record, coupling)
        if record.listens:
            size = size_of(dequantise(record.quantised, setup.resolution))
            state = listened(state, size_of(self._real(coupling)), size, setup.resolution)
        return self._coupled(state, record, term, estimate, k + 1)

    def _calmed(self, state: State, record: RoundRecord, coupling: Sequence[int]) -> State:
        accuracy = self._setup.calm_accuracy
        is_follower = self._opener.generations.is_follower(state)
        if accuracy is None or state.agrees or record.listens:
            return state
        if self._setup.shield is not None and is_follower:
            return state
        distances = size_of(self._real(coupling)), self._opener.distance_from_rest(record)
        return calmed(state, distances, accuracy)

    def _descended(self, state: State, record: RoundRecord, coupling: FloatVector) -> FloatVector:
        """Return the next estimate of the article's method."""
        setup, k, randomness = self._setup, record.number, RoundRandomness(record.seed)
        estimate = np.array(state.estimate)
        with setup.trace.span("gradient", k):
            gradient = setup.objective.gradient(estimate, randomness)
        with setup.trace.span("update", k):
            return descend(estimate, coupling, gradient, k, setup.algorithm, randomness)

    def step_late(self, state: State, record: RoundRecord, term: CouplingTerm) -> State | None:
        """Return *state* with the term of a held round, or None if it cannot be counted.

        The local step of that round is not taken any more.
        """
        if not term.included:
            return None
        if self._is_over(state, record):
            return progress.closed(state, record.number, "coupled", term.included)
        state, coupling = self._limited(state, record, term, {})
        moved = self._attenuation(record) * self._real(coupling)
        estimate = np.array(state.estimate) + moved
        if not self._fits(estimate):
            return None
        state = self._opener.generations.with_term(state, record.averaging, term.averaged)
        state = self._booked(state, record, coupling)
        return self._coupled(state, record, term, estimate, state.round)

    def take_back(self, state: State, name: str, number: int) -> State:
        """Return *state* without the term of the neighbour *name* in round *number*, if any."""
        record, answer = self._single.pop((name, number), (None, []))
        if record is None or self._is_over(state, record):
            return state
        try:
            term = self._setup.exchange.open({name: answer}, RoundRandomness(record.seed))
        except RemoteProtocolError:  # in range together with the others only
            return progress.replaced(state, unbalanced=True)
        estimate = np.array(state.estimate) - self._attenuation(record) * self._real(term)
        latest = state.record(number)
        if latest is not None:
            others = [other for other in latest.counted if other != name]
            state = progress.closed(state, number, "coupled", others)
        if not self._fits(estimate):
            return progress.replaced(state, unbalanced=True)
        return progress.moved(self._booked(state, record, term, -1), estimate, state.round)

    def _booked(
        self, state: State, record: RoundRecord, term: Sequence[int], sign: int = 1
    ) -> State:
        """Return *state* with *term* in the ledger of the exact method.

        A term of a node that listens is not: its neighbours have no such term.
        """
        has_ledger = self._has_ledger(state) and not record.listens
        return progress.booked(state, term, sign) if has_ledger else state

    def _has_ledger(self, state: State) -> bool:
        return self._setup.exact_scale is not None and not state.agrees

    def _is_over(self, state: State, record: RoundRecord) -> bool:
        """True for a round of the agreement of the scale, after its end: its term means nothing."""
        return agreement.is_agreeing(self._setup.exact_scale, record.number) and not state.agrees

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
    ) -> tuple[State, list[int]]:
        """Return the coupling term, capped, and *state* with its size."""
        coupling, cap = term.combined, cap_of(state.sizes, self._setup.resolution)
        if size_of(self._real(coupling)) > cap:
            counted = {name: each for name, each in answers.items() if name in term.included}
            coupling = self._clipped(coupling, cap, counted, RoundRandomness(record.seed))
            state = progress.replaced(state, unbalanced=True)
        size = size_of(self._real(coupling))
        return self._opener.note_size(state, record.number, size), coupling

    def _clipped(
        self, coupling: list[int], cap: float, answers: Answers, randomness: RoundRandomness
    ) -> list[int]:
        """Return *coupling* with every pairwise answer capped alone, or capped as a whole."""
        exchange, unit = self._setup.exchange, self._setup.resolution * UNIT
        if exchange.sealed or not answers:
            return capped(coupling, unit, cap)
        parts = [[0] * len(coupling)]
        for name, each in answers.items():
            with suppress(RemoteProtocolError):  # alone it may be out of range: it counts as zero
                parts.append(capped(exchange.open({name: each}, randomness), unit, cap))
        return [sum(column) for column in zip(*parts, strict=True)]

    def _attenuation(self, record: RoundRecord) -> float:
        return attenuation_factor(self._setup.algorithm.attenuation, record.number)

    def _real(self, term: Sequence[int]) -> FloatVector:
        """Return an opened term in the objective's units, shape (d,)."""
        return dequantise(term, self._setup.resolution * UNIT)

    def _keep_single(self, record: RoundRecord, answers: Mapping[str, Sequence[mpz]]) -> None:
        """Keep the pairwise *answers* of the latest rounds, in case one must be taken back."""
        if record.listens:
            return
        fresh = {(name, record.number): (record, answer) for name, answer in answers.items()}
        oldest = record.number - TAKEN_BACK_ROUNDS
        kept = {key: value for key, value in self._single.items() if key[1] > oldest}
        self._single = kept | fresh
