"""Predict the rounds that the exact method needs, how far its answer trails, and which link helps.

With readings a run is simulated without encryption. Without them a fit predicts the rounds from the
spectral gap of the graph. The slowest mode of the graph shrinks by about 3 c0 gap / curvature in
every round, so the rounds are a constant plus a multiple of 1/gap. The constant is in proportion to
1 + spread, since mean steps are (equation 17).

benchmarks/rounds_by_gap.py makes the fit and measures its error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np

from cipherfleet_node.core.agreement import is_agreeing
from cipherfleet_node.core.exact import LEAST_SPREAD
from cipherfleet_node.core.statistics import find_solutions
from cipherfleet_node.settings.sections import CsvSensor, Scale, exact_scale_of
from cipherfleet_provisioning.fleet.fleet import Fleet
from cipherfleet_provisioning.topology.graph import Graph

from .forecast import (
    MOST_ROUNDS,
    SEED,
    affordable_rounds,
    answer_of,
    mixing,
    objectives_to_simulate,
    relative_error,
)
from .links import best_link
from .random_choices import SeededRandomness
from .simulation import Links, run_objectives

ACCURACIES = ("1e-4", "1e-6")  # the keys of `rounds_to`
WORTH_A_LINK = 0.2  # part of the rounds that one more link must save to be worth a finding


@dataclass(frozen=True)
class Fit:
    """rounds = local (1 + spread) + mixing gap^-power, with spread at least LEAST_SPREAD."""

    local: float
    mixing: float
    power: float = 1.0

    def rounds(self, gap: float, spread: float) -> float:
        """Return the predicted rounds for a spectral *gap* in (0, 1]."""
        slowest = float(self.mixing / gap**self.power)
        return self.local * (1.0 + max(spread, LEAST_SPREAD)) + slowest


# With scale: agree. The result of: python benchmarks/rounds_by_gap.py
ROUNDS: Mapping[str, Fit] = {"1e-4": Fit(18.2, 1.76), "1e-6": Fit(25.4, 3.09)}
TRAILING = Fit(1.62, 0.49, 0.5)
WITHIN = 2.0  # nine of ten fleets are within this factor of ROUNDS and TRAILING, either way


@dataclass(frozen=True)
class Lag:
    """How far the answer trails behind an optimum that moves steadily."""

    rounds: float
    seconds: float | None  # None: the fleet has no period


@dataclass(frozen=True)
class LinkAdvice:
    """One more link, and the rounds to 1e-4 with it."""

    between: tuple[str, str]
    rounds: int
    saved: int


@dataclass(frozen=True)
class Convergence:
    """The expected rounds of the exact method, and what follows from them.

    A figure is None where the simulation has not reached it within the rounds that a few seconds
    allow. *lag* is None if all readings are there from the start.
    """

    source: Literal["simulation", "spectral gap"]
    within: float | None  # nine of ten fleets are within this factor; None for a simulation
    rounds_to: dict[str, int | None]  # by the keys ACCURACIES, relative errors
    lag: Lag | None
    link: LinkAdvice | None


@dataclass(frozen=True)
class Response:
    """The rounds to each accuracy, and those that the answer trails behind a moving optimum."""

    rounds_to: dict[str, int | None]
    trailing: float | None


def predict_convergence(fleet: Fleet) -> Convergence | None:
    """Predict the rounds of *fleet*; None unless it runs the exact method with a gradient."""
    file = fleet.file
    if exact_scale_of(file.algorithm, file.objective) is None:
        return None
    simulated = simulated_response(fleet, fleet.graph)
    response = simulated or fitted_response(fleet.graph, file.algorithm.stepsize.spread)
    return Convergence(
        source="simulation" if simulated else "spectral gap",
        within=None if simulated else WITHIN,
        rounds_to=response.rounds_to,
        lag=_lag(fleet, response),
        link=_advise_link(fleet, response, is_simulated=simulated is not None),
    )


def fitted_response(graph: Graph, spread: float) -> Response:
    """Return the response that the spectral gap of *graph* lets expect.

    For more than forecast.DENSE_NODES nodes the gap is its bound from above.
    """
    gap = mixing(graph).spectral_gap[1]
    rounds: dict[str, int | None] = {
        name: round(fit.rounds(gap, spread)) for name, fit in ROUNDS.items()
    }
    return Response(rounds, TRAILING.rounds(gap, spread))


def simulated_response(fleet: Fleet, graph: Graph) -> Response | None:
    """Return the response of a simulated run of *fleet* on *graph*; None without readings.

    The errors of a run from zero are the answer of the fleet to a step of its optimum. Behind a
    steady movement, which is a sum of small steps, it trails by the sum of their shares.
    Checked by test_the_answer_trails_a_steady_movement_by_the_predicted_rounds.
    """
    errors = list(_errors_until(fleet, graph, float(ACCURACIES[-1])))
    if not errors:
        return None
    reached = {name: first_below(errors, float(name)) for name in ACCURACIES}
    is_settled = reached[ACCURACIES[0]] is not None
    scale = exact_scale_of(fleet.file.algorithm, fleet.file.objective)
    return Response(reached, trailing_rounds(errors, scale) if is_settled else None)


def trailing_rounds(errors: Sequence[float], scale: Scale | None) -> float:
    """Return the sum of *errors* from the first step on, relative to the first of them.

    While the fleet agrees on its scale of curvature, no estimate moves. Method statistics has no
    solution in its first rounds, and so no error.
    """
    moving = [e for k, e in enumerate(errors) if not is_agreeing(scale, k) and not math.isnan(e)]
    return sum(moving) / moving[0]


def rounds_needed(fleet: Fleet, accuracy: float) -> tuple[int | None, int]:
    """Return the rounds until the simulated relative error is below *accuracy*, and the rounds run.

    The error must stay below *accuracy* for 10 % more rounds. The first value is None if that does
    not happen within the rounds that a few seconds allow. The fleet's forecast must have a
    relative_error; this is the same simulated run, continued.
    """
    errors = list(_errors_until(fleet, fleet.graph, accuracy))
    assert errors
    return first_below(errors, accuracy), len(errors)


def first_below(errors: Sequence[float], accuracy: float) -> int | None:
    """Return the number of rounds from which on *errors* stay below *accuracy*; None if never."""
    above = [k for k, error in enumerate(errors, 1) if not error < accuracy]  # NaN is not below
    first = above[-1] + 1 if above else 1
    return first if first <= len(errors) else None


def _errors_until(fleet: Fleet, graph: Graph, accuracy: float) -> Iterator[float]:
    """Yield simulated relative errors, until they were below *accuracy* for 10 % more rounds."""
    objectives, _ = objectives_to_simulate(fleet)
    answer = answer_of(fleet, objectives) if objectives else None
    if answer is None or not np.any(answer):
        return
    algorithm, section = fleet.file.algorithm, fleet.file.objective
    links, random = Links.of(graph), SeededRandomness(SEED)
    is_sealed = fleet.exchange == "sealed"
    running = run_objectives(links, objectives, algorithm, section, random, sealed=is_sealed)
    first = math.inf
    for k, closed in enumerate(islice(running, affordable_rounds(fleet, MOST_ROUNDS)), 1):
        found = find_solutions(closed.estimates, algorithm, section)
        error = relative_error(found, answer)
        yield math.nan if error is None else error
        first = min(first, k) if error is not None and error < accuracy else math.inf
        if k >= 1.1 * first:
            return


def _lag(fleet: Fleet, response: Response) -> Lag | None:
    if response.trailing is None or not has_moving_optimum(fleet):
        return None
    period = fleet.file.algorithm.period_s
    rounds = round(response.trailing, 1)
    return Lag(rounds, None if period is None else round(rounds * period, 1))


def has_moving_optimum(fleet: Fleet) -> bool:
    """True if a node takes in readings after its first round, so that the optimum moves."""
    sensors = [member.sensor for member in fleet.members if member.role != "follower"]
    return any(
        not isinstance(s, CsvSensor) or (s.rows_per_round or s.rounds_per_row) is not None
        for s in sensors
    )


def _advise_link(fleet: Fleet, response: Response, *, is_simulated: bool) -> LinkAdvice | None:
    """Return the link that saves WORTH_A_LINK of the rounds to 1e-4 or more, None if none does."""
    level = ACCURACIES[0]
    rounds = response.rounds_to[level]
    found = best_link(fleet.graph)
    if rounds is None or found is None:
        return None
    between, linked = found
    if is_simulated:
        better = simulated_response(fleet, linked)
    else:
        better = fitted_response(linked, fleet.file.algorithm.stepsize.spread)
    needed = better.rounds_to[level] if better else None
    if needed is None or rounds - needed < WORTH_A_LINK * rounds:
        return None
    return LinkAdvice(between, needed, rounds - needed)
