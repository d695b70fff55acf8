"""How a round is opened: the draw, the kick, the quantised point and the query.

The article's method shares the estimate itself, the exact method the point u of `exact.py`.

A draw belongs to a state (see `randomness.py`). When a neighbour's roster has changed, the node
draws again: the counter rises, and the next round adds a kick to the estimate that it quantises.
The kick is normal noise, KICK times as large as the usual share of one neighbour in a coupling
term. Both ends of an edge use the kicked numbers, so no sum is disturbed.

The counter rises at most once in ROUNDS_PER_DRAW rounds. While the estimate stands still, every
further draw has to wait twice as long as the one before: many kicks around one estimate would
average out.

The usual share is measured by the sizes of the latest coupling terms. Terms of rounds that may
contain kicks are left out. Otherwise each kick would make the next one larger. Before any size is
known, the estimate itself is taken for the usual share.
"""

from __future__ import annotations

import statistics

import numpy as np

from cipherfleet_node.settings.sections import AGREE, Scale

from . import agreement, entry, exact, listening, progress, settling
from .coupling import TERMS, size_of, within_headroom
from .events import Setup
from .exchange import UNIT
from .generations import Generations
from .messages import Query, Uncounted
from .metric import Metric, Moments, StepInput
from .objective import Objective
from .optimiser import draw_factors
from .quadratic import WithQuadratic, symmetric
from .quantiser import START_NOISE, quantise, randomise_start
from .randomness import FloatVector, RoundRandomness
from .state import RoundRecord, State

KICK = 2.0
ROUNDS_PER_DRAW = 4
MOST_DOUBLINGS = 40
HEARD_ROUNDS = 4  # latest queries of a neighbour whose exponents are kept


class Opener:
    """Open the rounds of one node. Times are monotonic seconds."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._drawn_at = 0.0
        self._kicked_until = 0  # coupling terms of earlier rounds may contain kicks
        self._quadratic: list[float] = []  # of the objective in use
        self._use(setup.objective)
        self._is_unchecked = True  # the own curvature was not compared with c0 since the start
        self.far_off: bool | None = None  # see `agreement.is_far_off`
        self._heard: dict[str, dict[int, int]] = {}  # exponents of c0 by neighbour and round
        self.generations = Generations(setup)
        self._residual: tuple[bytes, float] | None = None  # of a draw; see `distance_from_rest`

    def draw_again(self, state: State, now: float, deadline_s: float) -> State | None:
        """Return *state* with the next draw, or None if it is too early for one."""
        drawing = state.drawing
        if state.round < drawing.at_round + ROUNDS_PER_DRAW:
            return None
        waits = max(drawing.times - ROUNDS_PER_DRAW, 0)
        if waits and now < self._drawn_at + deadline_s * 2.0 ** min(waits, MOST_DOUBLINGS):
            return None
        return self.draw_now(state, now)

    def draw_now(self, state: State, now: float) -> State:
        """Return *state* with the next draw."""
        self._drawn_at = now
        self.note_kicks(state.round)
        return progress.redrawn(state, self._kick_size(state))

    def note_kicks(self, round_number: int) -> None:
        """Measure no usual size in the rounds after *round_number*: they may contain kicks."""
        self._kicked_until = round_number + ROUNDS_PER_DRAW

    def note_size(self, state: State, round_number: int, size: float) -> State:
        """Return *state* with the *size* of the coupling term of *round_number*."""
        if round_number < self._kicked_until:
            return state
        return progress.replaced(state, sizes=[*state.sizes, size][-TERMS:])

    def open(self, state: State, asked: list[str]) -> State:
        """Return *state* with the record of its next round, which asks the neighbours *asked*.

        Raises HeadroomExceeded if the first estimate does not fit.
        """
        setup, k = self._setup, state.round
        state = self._prepared(state)
        estimate = np.array(state.estimate)
        randomness = self._randomness(state, estimate)
        state, quantised = self._quantised(state, estimate, randomness)
        averaging, averaged = self.generations.averaged(state)
        with setup.trace.span("encrypt", k):
            ciphertexts = setup.exchange.query(quantised)
            second = setup.exchange.query(averaged) if averaging else []
        roster = setup.exchange.roster(asked)
        with_term = roster if setup.exchange.sealed else asked
        record = RoundRecord(
            number=k,
            draw=self._draw_name(state, randomness.seed),
            quantised=quantised,
            seed=randomness.seed,
            query=ciphertexts,
            roster=roster,
            averaging=averaging,
            averaged=averaged,
            second=second,
            aside=sorted(setup.neighbours.keys() - set(with_term)) if averaging else [],
            listens=state.listens > 0,
        )
        return progress.opened(state, record, estimate)

    def _draw_name(self, state: State, seed: bytes) -> bytes:
        """Return the name of the draw of the next round, with its block if there are blocks."""
        setup = self._setup
        name = progress.draw_name(state, seed, sealed=setup.exchange.sealed)
        has_blocks = setup.has_blocks and not state.agrees
        return name + entry.block_of(state.drawing.since) if has_blocks else name

    def _quantised(
        self, state: State, estimate: FloatVector, randomness: RoundRandomness
    ) -> tuple[State, list[int]]:
        """Return what the next round shares. The same draw shares the same again."""
        latest = state.records[-1] if state.records else None
        if latest is not None and latest.seed == randomness.seed:
            # also if readings have come since: a frozen node stands still
            return state, latest.quantised
        setup, k = self._setup, state.round
        point = estimate
        if setup.exact_scale is not None and not state.agrees:
            state, point = self._point(setup.exact_scale, state, estimate, randomness)
        with setup.trace.span("quantise", k):
            kicked = self._kicked(state, point, randomness)
            return state, quantise(kicked, setup.resolution, randomness)

    def _point(
        self, scale: Scale, state: State, estimate: FloatVector, randomness: RoundRandomness
    ) -> tuple[State, FloatVector]:
        """Return u_i of the exact method; see `exact.py`."""
        setup, k = self._setup, state.round
        used = agreement.used_scale(scale, state)
        with setup.trace.span("gradient", k):
            self._use_shield(state)
            gradient = self._objective.gradient(estimate, randomness)
            if self.generations.is_follower(state) or state.listens:
                gradient = np.zeros_like(gradient)
            ledger = progress.ledger_of(state, estimate.size)
            dual = exact.dual(ledger, used, setup.resolution * UNIT)
            before = Moments.of_rows(state.moments) if state.moments else None
            place = StepInput(estimate, gradient, dual, k, used, randomness, before)
            factors = draw_factors(setup.algorithm.stepsize, estimate.size, randomness)
            step, moments = self._metric.step(place, factors)
        if self._is_unchecked:
            own = self._metric.curvature.at(estimate, k, randomness)
            self.far_off, self._is_unchecked = agreement.is_far_off(own, used), False
        self._residual = randomness.seed, settling.distance_from_rest(gradient, dual, used)
        state = progress.replaced(state, moments=moments.rows if moments else [])
        return state, within_headroom(estimate - step, setup.resolution)

    def _use(self, objective: Objective) -> None:
        algorithm = self._setup.algorithm
        self._objective = objective
        self._metric = Metric(objective, algorithm.metric, algorithm.stepsize.spread)

    def _use_shield(self, state: State) -> None:
        """Use the objective with the quadratic shield of *state*."""
        entries, objective = state.generation.quadratic, self._setup.objective
        if entries == self._quadratic:
            return
        self._quadratic = entries
        if entries:
            objective = WithQuadratic(objective, symmetric(entries, objective.dimension))
        self._use(objective)

    def _prepared(self, state: State) -> State:
        """Return *state* with the estimate that the next round begins with."""
        scale = self._setup.exact_scale
        agrees = agreement.is_agreeing(scale, state.round)
        if state.agrees and not agrees:
            state = agreement.agreed(state)
        if state.estimate is None:
            state = self._begun(state, agrees=agrees)
        if scale == AGREE and not state.agrees and state.own_power is None:
            alone = agreement.power_of(self._logarithm(state))
            state = progress.replaced(state, own_power=alone)
        for waiting in self._heard.values():
            for power in (power for k, power in waiting.items() if k < state.round):
                state = agreement.heard(state, power)
        return self.generations.advance(state)

    def _begun(self, state: State, *, agrees: bool) -> State:
        """Return *state* with a first estimate."""
        setup, start = self._setup, self._setup.objective.start()
        if agrees:
            start = np.zeros_like(start)
            start[0] = self._logarithm(state)
        first = randomise_start(start, setup.resolution, self._randomness(state, start))
        enters = not agrees and not state.records  # otherwise it comes from the agreement
        listens = listening.rounds_to_listen(setup, state.round) if enters else 0
        return progress.replaced(state, estimate=first.tolist(), agrees=agrees, listens=listens)

    def _logarithm(self, state: State) -> float:
        """Return log2 of the curvature L_i at the start."""
        start = self._setup.objective.start()
        randomness = self._randomness(state, start)
        curvature = self._metric.curvature.at(start, state.round, randomness)
        return agreement.logarithm(curvature, self._setup.algorithm.metric)

    def hear(self, query: Query, *, is_aside: bool) -> None:
        """Take in what *query* says of generations, and its exponent of c0.

        *is_aside* is true of a sender that this node has set aside; see `roster.py`.

        The exponent counts from the round after that of *query* on.

        So two runs with the same random choices use the same c0, whichever query comes first.
        """
        self.generations.hear(query, is_aside=is_aside)
        if query.scale is None:
            return
        waiting = self._heard.setdefault(query.sender, {})
        waiting[query.round] = query.scale
        for oldest in sorted(waiting)[:-HEARD_ROUNDS]:
            del waiting[oldest]

    def distance_from_rest(self, record: RoundRecord) -> float | None:
        """Return the distance from rest at the opening of *record*; None if it is not known."""
        if self._setup.exact_scale is None:
            return 0.0  # of an average: its gradient is zero
        residual = self._residual
        return residual[1] if residual is not None and residual[0] == record.seed else None

    def reported(self, state: State) -> FloatVector:
        """Return the estimate for the owner of the node, shape (d,)."""
        return self._setup.objective.start() if state.agrees else np.array(state.estimate)

    def _randomness(self, state: State, estimate: FloatVector) -> RoundRandomness:
        return RoundRandomness(self._setup.seeds(progress.next_draw(state, estimate)))

    def query(self, state: State, record: RoundRecord) -> Query:
        """Return the query of *record*."""
        setup = self._setup
        return Query(
            fleet=setup.fleet,
            sender=setup.node,
            epoch=state.epoch,
            round=record.number,
            roster=record.roster,
            uncounted=[] if setup.exchange.sealed else self._uncounted(state, record),
            unbalanced=state.unbalanced,
            scale=state.scale_power,
            settled=state.level,
            parameters=setup.parameters,
            key=setup.key_tag,
            ciphertexts=record.query,
            averaged=record.second,
            generation=self.generations.note(state, record),
        )

    def _uncounted(self, state: State, record: RoundRecord) -> list[Uncounted]:
        """Return the rounds before *record* that have not counted all neighbours."""
        closed = (r for r in state.records if r.outcome != "open" and r.number < record.number)
        missing = ((r.number, self._setup.neighbours.keys() - set(r.counted)) for r in closed)
        return [Uncounted(number, sorted(names)) for number, names in missing if names]

    def _kicked(
        self, state: State, estimate: FloatVector, randomness: RoundRandomness
    ) -> FloatVector:
        kick = state.drawing.kick
        if not kick:
            return estimate
        noise = kick * randomness.normal("kick", estimate.size)
        return within_headroom(estimate + noise, self._setup.resolution)

    def _kick_size(self, state: State) -> float:
        """Return the deviation of a kick: KICK usual shares of one neighbour in a term."""
        if self._setup.exact_scale and self._setup.algorithm.stepsize.spread and not state.agrees:
            return 0.0  # another draw of Lambda moves the shared point
        least = START_NOISE * self._setup.resolution
        weight = self._setup.exchange.mean_metropolis
        if not state.sizes or not weight:
            return max(size_of(np.array(state.estimate or [0.0])), least)
        share = statistics.median(state.sizes) / (weight * len(self._setup.neighbours) ** 0.5)
        return float(max(KICK * share, least))
