"""Deep leakage: recover readings from gradients.

A linear or logistic model with a bias has, for one sample, grad = slope * (phi, 1). The features
are then the other entries over the bias entry, in closed form. For several samples the attack
searches readings whose gradients match at several estimates (L-BFGS from random starts). Source:
Zhu, Liu and Han, 2019; the closed form is checked by
test_deep_leakage_from_a_true_gradient_is_exact_for_one_sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from typing import Literal

import numpy as np

from cipherfleet_lab.problems import (
    FIVE_EDGES,
    SQUARED,
    Edges,
    Readings,
    RegressionLoss,
    regression,
)
from cipherfleet_lab.systems import Array, Problem
from cipherfleet_node.settings.sections import Stepsize

from .result import AttackResult, relative_error
from .subjects import SETTLED, AttackCase
from .telescoping import mean_gradients

FEATURES = 2  # without the bias, which is the last entry
STEPSIZE = Stepsize(initial=0.1, decay=0.02, exponent=1.0, spread=1.0)
SEVERAL = 2  # samples
WATCHED = 12  # rounds
STARTS = 4  # starts of L-BFGS
LIMIT = {"maxiter": 300}
SEVERAL_EACH = 10  # one trial with several samples takes as long as ten others
_CLOSED = "the model; the features are the gradient over its last entry"

Source = Literal["true", "round", "telescoped"]


def samples(seed: int, rows: int, loss: RegressionLoss = SQUARED) -> Readings:
    """Return *rows* samples for each of five nodes: features of order one, the bias last."""
    rng = np.random.default_rng(seed)
    phi = np.concatenate([rng.normal(size=(5, rows, FEATURES)), np.ones((5, rows, 1))], axis=2)
    heights = phi @ np.array([0.5, -1.0, 0.3]) + rng.normal(size=(5, rows))
    targets = heights if loss is SQUARED else (heights > 0).astype(np.float64)
    return Readings(phi, targets, loss, penalty=0.0 if loss is SQUARED else 0.01)


def make_regression_problem(readings: Readings, edges: Edges = FIVE_EDGES) -> Problem:
    """Return the regression problem of five nodes on *readings*."""
    start = np.zeros(readings.phi.shape[::2])
    return regression("leakage", readings, edges, start, None)


def solve_closed_form(gradient: Array) -> Array:
    """Return the features of the one sample behind *gradient*, shape (features,), or zeros."""
    if gradient[-1] == 0.0:
        return np.zeros(len(gradient) - 1)
    result: Array = gradient[:-1] / gradient[-1]
    return result


def leakage_of_truth(case: AttackCase) -> AttackResult | None:
    """The one sample of a node from its true gradient, which no participant sees."""
    return _one_sample(case, "leakage-true", "true", "the true gradient of one round")


def leakage_of_round(case: AttackCase) -> AttackResult | None:
    """The one sample of a node from its step in one round."""
    return _one_sample(case, "leakage-round", "round", "what all neighbours know of one round")


def leakage_of_telescoped(case: AttackCase) -> AttackResult | None:
    """The one sample of a node from its mean gradient over many rounds."""
    return _one_sample(
        case, "leakage-telescoped", "telescoped", "what all neighbours know of all rounds"
    )


def _one_sample(case: AttackCase, attack: str, source: Source, saw: str) -> AttackResult | None:
    if not case.subject.descends:
        return None
    errors = []
    for readings, leakage_case in _regression_cases(case, case.trials, 1):
        for node, found in enumerate(recover_gradients(leakage_case, source)):
            truth = readings.phi[node, 0, :-1]
            errors.append(relative_error(solve_closed_form(found), truth, np.zeros_like(truth)))
    return AttackResult(
        attack=attack,
        system=case.name,
        sought="the one sample of a node, a linear model's",
        saw=saw,
        knew=_CLOSED,
        measure="error",
        value=float(np.median(errors)),
        chance=1.0,
        guess="features zero, their mean",
        trials=case.trials,
        note="median over nodes",
    )


def leakage_of_several(case: AttackCase) -> AttackResult | None:
    """Two samples of a node from its steps in the first rounds.

    Estimates still move then, so that gradients differ; one gradient would have many explanations.
    """
    if not case.subject.descends:
        return None
    errors = []
    for readings, leakage_case in _regression_cases(
        case, max(1, case.trials // SEVERAL_EACH), SEVERAL
    ):
        log = leakage_case.run_cached(0)
        for node in range(leakage_case.solved_problem.nodes):
            reading = leakage_case.read(log, leakage_case.neighbours(node), node, many=False)
            gradients = reading.gradients(slice(WATCHED))[:, 0]
            states = reading.states[reading.first :][:WATCHED, 0]
            found, _ = match_gradients(gradients, states, SEVERAL, seed=leakage_case.seed)
            errors.append(sample_error(found, readings.phi[node, :, :-1]))
    return AttackResult(
        attack="leakage-several",
        system=case.name,
        sought=f"the {SEVERAL} samples of a node, a linear model's",
        saw=f"what all neighbours know of the first {WATCHED} rounds",
        knew="the model",
        measure="error",
        value=float(np.median(errors)),
        chance=1.0,
        guess="features zero, their mean",
        trials=len(errors) // 5,
        note=f"median over nodes; L-BFGS from {STARTS} starts",
    )


def match_gradients(
    gradients: Array, estimates: Array, count: int, seed: int, loss: RegressionLoss = SQUARED
) -> tuple[Array, Array]:
    """Find features, shape (count, f), and targets that match *gradients* at *estimates* (K, d)."""
    from scipy.optimize import minimize

    rng, width = np.random.default_rng(seed), gradients.shape[1]

    def unpack(entries: Array) -> tuple[Array, Array]:
        rows = entries.reshape(count, width)
        return np.concatenate([rows[:, :-1], np.ones((count, 1))], axis=1), rows[:, -1]

    def mismatch_and_slope(entries: Array) -> tuple[float, Array]:
        phi, targets = unpack(entries)
        heights = estimates @ phi.T  # (K, count)
        slopes = loss.slope(heights, targets)
        mismatch = slopes @ phi / count - gradients
        curved = loss.curvature(heights, targets) * (mismatch @ phi.T)
        by_phi = (curved.T @ estimates + slopes.T @ mismatch) / count
        by_target = (
            -(mismatch @ phi.T).sum(axis=0) / count
        )  # of the squared loss: d slope / dy = -1
        slope = np.concatenate([by_phi[:, :-1], by_target[:, None]], axis=1)
        return float((mismatch**2).sum() / 2), slope.ravel()

    solutions = [
        minimize(
            mismatch_and_slope,
            rng.normal(size=count * width),
            jac=True,
            method="L-BFGS-B",
            options=LIMIT,
        )
        for _ in range(STARTS)
    ]
    phi, targets = unpack(min(solutions, key=lambda done: float(done.fun)).x)
    return phi[:, :-1], targets


def sample_error(found: Array, truth: Array) -> float:
    """Return the relative error of unordered samples, shape (count, f)."""
    orders = permutations(range(len(truth)))
    return min(relative_error(found[list(o)], truth, np.zeros_like(truth)) for o in orders)


def recover_gradients(leakage_case: AttackCase, source: Source) -> Array:
    """Return a gradient of every node from *source*, shape (n, d), in a run of *leakage_case*."""
    log, middle = leakage_case.run_cached(0), SETTLED.start
    if source == "true":
        return np.array(log.gradients[middle])
    nodes = range(leakage_case.solved_problem.nodes)
    if source == "telescoped":
        return np.array(
            [
                mean_gradients(leakage_case, log, node, leakage_case.neighbours(node))[0]
                for node in nodes
            ]
        )
    one = slice(middle, middle + 1)
    found = [
        leakage_case.read(log, leakage_case.neighbours(node), node, many=False).gradients(one)
        for node in nodes
    ]
    return np.array(found)[:, 0, 0]


def _regression_cases(
    case: AttackCase, trials: int, rows: int
) -> Iterator[tuple[Readings, AttackCase]]:
    """Yield synthetic readings of *rows* samples per node, with the same system on them."""
    for trial in range(trials):
        number = case.seed * 1000 + trial
        readings, name = samples(number, rows), f"{rows} samples, {trial}"
        if name not in case.others:
            problem = make_regression_problem(readings, case.problem.edges)
            case.others[name] = replace(
                case, trials=1, seed=number, problem=problem, stepsize=STEPSIZE
            )
        yield readings, case.others[name]
