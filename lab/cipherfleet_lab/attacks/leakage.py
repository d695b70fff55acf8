"""Deep leakage: from a gradient back to the readings behind it.

A linear or logistic model with a bias has, for one sample, grad = slope * (phi, 1): the features
are the other entries over the bias's, in closed form. Several samples are sought by making
gradients that match, at several estimates (L-BFGS from random starts).
Source: Zhu, Liu and Han, 2019; the closed form is checked by
test_deep_leakage_from_a_true_gradient_is_exact_for_one_sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from typing import Literal

import numpy as np

from cipherfleet_lab.problems import FIVE_EDGES, SQUARED, Edges, Loss, Readings, regression
from cipherfleet_lab.systems import Array, Problem
from cipherfleet_node.settings.sections import Stepsize

from .result import Finding, relative_error
from .subjects import SETTLED, Case
from .telescoping import averaged

FEATURES = 2  # beside the bias, which is the last entry
STEPSIZE = Stepsize(initial=0.1, decay=0.02, exponent=1.0, spread=1.0)
SEVERAL = 2  # samples
WATCHED = 12  # rounds
STARTS = 4  # of L-BFGS
LIMIT = {"maxiter": 300}
SEVERAL_EACH = 10  # trials of others for one of several samples, which take that long
_CLOSED = "the model; the features are the gradient over its last entry"

Source = Literal["true", "round", "telescoped"]


def samples(seed: int, rows: int, loss: Loss = SQUARED) -> Readings:
    """*rows* samples for each of five nodes, features of order one, the bias last."""
    chance = np.random.default_rng(seed)
    phi = np.concatenate([chance.normal(size=(5, rows, FEATURES)), np.ones((5, rows, 1))], axis=2)
    heights = phi @ np.array([0.5, -1.0, 0.3]) + chance.normal(size=(5, rows))
    targets = heights if loss is SQUARED else (heights > 0).astype(np.float64)
    return Readings(phi, targets, loss, penalty=0.0 if loss is SQUARED else 0.01)


def fitting(readings: Readings, edges: Edges = FIVE_EDGES) -> Problem:
    """The problem of fitting *readings* among five nodes."""
    start = np.zeros(readings.phi.shape[::2])
    return regression("leakage", readings, edges, start, None)


def closed_form(gradient: Array) -> Array:
    """The features of the one sample behind *gradient*, shape (features,); zero if it is zero."""
    if gradient[-1] == 0.0:
        return np.zeros(len(gradient) - 1)
    result: Array = gradient[:-1] / gradient[-1]
    return result


def leakage_of_truth(case: Case) -> Finding | None:
    """The one sample of a node from its true gradient, which nobody sees."""
    return _one_sample(case, "leakage-true", "true", "the true gradient of one round")


def leakage_of_round(case: Case) -> Finding | None:
    """The one sample of a node from its step in one round."""
    return _one_sample(case, "leakage-round", "round", "what all neighbours know of one round")


def leakage_of_telescoped(case: Case) -> Finding | None:
    """The one sample of a node from its mean gradient over many rounds."""
    return _one_sample(
        case, "leakage-telescoped", "telescoped", "what all neighbours know of all rounds"
    )


def _one_sample(case: Case, attack: str, source: Source, saw: str) -> Finding | None:
    if not case.subject.descends:
        return None
    errors = []
    for readings, fit in _fits(case, case.trials, 1):
        for node, found in enumerate(recovered(fit, source)):
            truth = readings.phi[node, 0, :-1]
            errors.append(relative_error(closed_form(found), truth, np.zeros_like(truth)))
    return Finding(
        attack, case.name, "the one sample of a node, a linear model's", saw, _CLOSED, "error",
        float(np.median(errors)), 1.0, "features zero, their mean", case.trials,
        "median over nodes",
    )  # fmt: skip


def leakage_of_several(case: Case) -> Finding | None:
    """Two samples of a node from its steps in the first rounds.

    Estimates still move then, so that gradients differ; one gradient would have many explanations.
    """
    if not case.subject.descends:
        return None
    errors = []
    for readings, fit in _fits(case, max(1, case.trials // SEVERAL_EACH), SEVERAL):
        log = fit.once(0)
        for node in range(fit.solved.nodes):
            reading = fit.read(log, fit.neighbours(node), node, many=False)
            gradients = reading.steps[:WATCHED, 0] / reading.scales[:WATCHED, None]
            states = reading.states[reading.first :][:WATCHED, 0]
            found, _ = matching(gradients, states, SEVERAL, seed=fit.seed)
            errors.append(apart(found, readings.phi[node, :, :-1]))
    return Finding(
        "leakage-several", case.name, f"the {SEVERAL} samples of a node, a linear model's",
        f"what all neighbours know of the first {WATCHED} rounds", "the model", "error",
        float(np.median(errors)), 1.0, "features zero, their mean", len(errors) // 5,
        f"median over nodes; L-BFGS from {STARTS} starts",
    )  # fmt: skip


def matching(
    gradients: Array, estimates: Array, count: int, seed: int, loss: Loss = SQUARED
) -> tuple[Array, Array]:
    """Features, shape (count, f), and targets that explain *gradients* at *estimates*, (K, d)."""
    from scipy.optimize import minimize

    chance, width = np.random.default_rng(seed), gradients.shape[1]

    def made_of(entries: Array) -> tuple[Array, Array]:
        rows = entries.reshape(count, width)
        return np.concatenate([rows[:, :-1], np.ones((count, 1))], axis=1), rows[:, -1]

    def mismatch(entries: Array) -> tuple[float, Array]:
        phi, targets = made_of(entries)
        heights = estimates @ phi.T  # (K, count)
        slopes = loss.slope(heights, targets)
        off = slopes @ phi / count - gradients
        bent = loss.curvature(heights, targets) * (off @ phi.T)
        by_phi = (bent.T @ estimates + slopes.T @ off) / count
        by_target = -(off @ phi.T).sum(axis=0) / count  # of the squared loss: d slope / dy = -1
        slope = np.concatenate([by_phi[:, :-1], by_target[:, None]], axis=1)
        return float((off**2).sum() / 2), slope.ravel()

    tries = [
        minimize(
            mismatch, chance.normal(size=count * width), jac=True, method="L-BFGS-B", options=LIMIT
        )
        for _ in range(STARTS)
    ]
    phi, targets = made_of(min(tries, key=lambda done: float(done.fun)).x)
    return phi[:, :-1], targets


def apart(found: Array, truth: Array) -> float:
    """The relative error of samples whose order means nothing, shape (count, f)."""
    orders = permutations(range(len(truth)))
    return min(relative_error(found[list(o)], truth, np.zeros_like(truth)) for o in orders)


def recovered(fit: Case, source: Source) -> Array:
    """Of every node a gradient from *source*, shape (n, d), in a run of *fit*."""
    log, middle = fit.once(0), SETTLED.start
    if source == "true":
        return np.array(log.gradients[middle])
    nodes = range(fit.solved.nodes)
    if source == "telescoped":
        return np.array([averaged(fit, log, node, fit.neighbours(node))[0] for node in nodes])
    steps = [fit.read(log, fit.neighbours(node), node, many=False).steps[middle] for node in nodes]
    return np.array(steps)[:, 0]  # the closed form does not mind the stepsize


def _fits(case: Case, trials: int, rows: int) -> Iterator[tuple[Readings, Case]]:
    """Made-up readings of *rows* samples for every node, and the same system on them."""
    for trial in range(trials):
        number = case.seed * 1000 + trial
        readings, name = samples(number, rows), f"{rows} samples, {trial}"
        if name not in case.others:
            problem = fitting(readings, case.problem.edges)
            case.others[name] = replace(
                case, trials=1, seed=number, problem=problem, stepsize=STEPSIZE
            )
        yield readings, case.others[name]
