"""Attacks by a coalition of neighbours on the curvature of a node: its second derivative H_i.

For a linear model H_i has the second moments of the node's features; the temperature's mean, for
example. In every round of the exact method

    x_i - u_i = p_i (1 + s U) (H_i x_i - b_i + y_i),  U uniform on -1 .. 1 for every entry

The coalition knows x_i, u_i and how y_i changes, as exactly as the resolution allows. In a sealed
exchange it needs the help of all nodes that it asks together with i; their shares are not counted
here. So the only noise is 1 + s U. It is multiplicative: near the optimum it is as small as the
differences themselves, and all rounds count alike. The coalition subtracts the last round, at which
H_i x_i - b_i + y_i is nearly zero. That removes b_i, and with it the linear shield.

It then fits H_i by least squares, with weights from the sizes that the last fit predicts, and with
what it knows of the fleet: mean and covariance of the entries of all H_i, and p_i. That is more
than a real coalition knows. (p_i is no secret: it can be fitted as well, to 2 %.)

With a quadratic shield this finds H_i + c0 Q_i, as if the node showed it. The coalition knows its
own shares of Q_i, and the law of the others. The variance of these, beside that of the entries of
H_i over the fleet, is what remains hidden: no number of rounds changes it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from cipherfleet_lab.problems import intel_lab
from cipherfleet_lab.systems import Array, Log, Problem
from cipherfleet_node.core.exact import BETA
from cipherfleet_node.core.quadratic import symmetric
from cipherfleet_node.core.shield import counted_partners, quadratic_deviation
from cipherfleet_provisioning.topology.section import Topology

from .result import AttackResult, percent, relative_error
from .subjects import AttackCase
from .telescoping import between

MOTES = 10
GRAPH = Topology(kind="geometric", neighbours=4, seed=1)
ITERATIONS = 12
VARIANCE = 1.0 / 3.0  # of s U; its size is at most 1
_LOOSE = 10.0  # deviation of what is left in the last round, in sizes of its steps


def second_moments(case: AttackCase) -> AttackResult | None:
    """A node's second derivative, which has the second moments of its features, from all rounds."""
    return _attack(case, "second-moments", with_partners=False)


def second_moments_by_partners(case: AttackCase) -> AttackResult | None:
    """The same in spite of a quadratic shield, if all partners collude as well."""
    if case.subject.method != "exact" or on_motes(case).logs[0].added_curvatures is None:
        return None
    return _attack(case, "second-moments-partners", with_partners=True)


def _attack(case: AttackCase, attack: str, *, with_partners: bool) -> AttackResult | None:
    if case.subject.method != "exact":
        return None
    motes = on_motes(case)
    problem, prior = motes.solved_problem, Prior.of(motes.solved_problem)
    fitted, shown = [], []
    for log in motes.logs:
        for node in range(problem.nodes):
            inside = range(problem.nodes) if with_partners else problem.neighbours(node)
            shield = KnownShield.of(log, problem, inside, node)
            fitted.append(find_second_derivative(log, node, prior, shield))
            shown.append(prior.without(shield, true_second_derivative(log, problem, node)))
    assert problem.bounds is not None
    truth = np.tile(problem.bounds, (len(motes.logs), 1, 1))
    guess = np.broadcast_to(problem.bounds.mean(axis=0), truth.shape)
    errors = [
        relative_error(*(np.array(each[node :: problem.nodes]) for each in (fitted, truth, guess)))
        for node in range(problem.nodes)
    ]
    known = "the shares of all other nodes" if with_partners else "their own shares"
    return AttackResult(
        attack=attack,
        system=case.name,
        sought=f"the second derivative of a node, of {MOTES} motes of the Intel lab",
        saw="every estimate and flow of the node",
        knew=f"the fleet's mean and covariance of it, the node's mean stepsize, {known}",
        measure="error",
        value=relative_error(np.array(fitted), truth, guess),
        chance=1.0,
        guess="the fleet's mean",
        trials=motes.trials,
        note=(
            f"{between(errors, 'node')}; {percent(relative_error(np.array(shown), truth, guess))} "
            "if the node showed its second derivative with its shield"
        ),
        worst_off=min(errors),
    )


def on_motes(case: AttackCase) -> AttackCase:
    """Return the same system on motes: the entries of their second derivatives differ."""
    name = f"{MOTES} motes"
    if name not in case.others:
        case.others[name] = replace(case, trials=case.fleets, problem=_motes())
    return case.others[name]


@cache
def _motes() -> Problem:
    return intel_lab(GRAPH, motes=MOTES)


# -- what the coalition knows before ------------------------------------------------------------


def upper(matrices: Array) -> Array:
    """Return the entries on and above the diagonal, shape (..., d (d + 1) / 2)."""
    rows, columns = np.triu_indices(matrices.shape[-1])
    entries: Array = matrices[..., rows, columns]
    return entries


@dataclass(frozen=True)
class KnownShield:
    """What a coalition knows of c0 Q_i."""

    mean: Array  # the sum of its own shares, shape (d, d)
    variance: float  # of an entry of the sum of the others

    @classmethod
    def of(cls, log: Log, problem: Problem, inside: Collection[int], node: int) -> KnownShield:
        """Return what the nodes *inside* know of the shield of *node*."""
        if log.added_curvatures is None:
            return cls(np.zeros((problem.dimension, problem.dimension)), 0.0)
        assert log.dual_rate is not None
        own = log.added_curvatures[node, [other for other in inside if other != node]]
        honest = problem.nodes - 1 - len(own)
        deviation = quadratic_deviation(problem.dimension) * log.dual_rate / BETA
        of_pair = deviation**2 / counted_partners(problem.nodes - 1)
        return cls(own.sum(axis=0), honest * of_pair)


@dataclass(frozen=True)
class Prior:
    """Mean, shape (d, d), and covariance of the entries of the fleet's second derivatives."""

    mean: Array
    covariance: Array  # of the entries on and above the diagonal

    @classmethod
    def of(cls, problem: Problem) -> Prior:
        """Return mean and covariance over the nodes of *problem*."""
        assert problem.bounds is not None
        covariance = np.cov(upper(problem.bounds).T, bias=True)
        return cls(problem.bounds.mean(axis=0), covariance)

    def shielded(self, shield: KnownShield) -> Prior:
        """Return the prior of H_i + c0 Q_i."""
        added = shield.variance * np.eye(len(self.covariance))
        return Prior(self.mean + shield.mean, self.covariance + added)

    def without(self, shield: KnownShield, shown: Array) -> Array:
        """Return the expected H_i, shape (d, d), given that H_i + c0 Q_i is *shown*."""
        whole = self.shielded(shield)
        share = self.covariance @ np.linalg.pinv(whole.covariance, rcond=1e-9, hermitian=True)
        return self.mean + symmetric(share @ upper(shown - whole.mean), len(shown))

    def root(self) -> Array:
        """Return a matrix whose product with its transpose is the covariance."""
        values, vectors = np.linalg.eigh(self.covariance)
        root: Array = vectors * np.sqrt(np.maximum(values, 0.0))
        return root


# -- the fit ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What the coalition sees of one node; x and the dual relative to the last round, (K, d)."""

    steps: Array  # (x - u) / p_i
    states: Array
    duals: Array
    floor: float  # deviation of the steps by rounding

    @classmethod
    def of(cls, log: Log, node: int) -> Seen:
        """Return what is seen of *node* in all rounds of *log*."""
        assert log.dual_rate is not None
        assert log.couplings is not None
        assert log.own_steps is not None
        assert log.resolution is not None
        x, own_step = log.estimates[:-1, node], float(log.own_steps[node])
        duals = -log.dual_rate * log.couplings[:-1, node].cumsum(axis=0)
        duals = np.concatenate([np.zeros((1, x.shape[1])), duals])
        return cls(
            (x - log.points[:, node]) / own_step,
            x - x[-1],
            duals - duals[-1],
            log.resolution / own_step,
        )


def true_second_derivative(log: Log, problem: Problem, node: int) -> Array:
    """Return the second derivative of *node* with its quadratic shield, shape (d, d)."""
    assert problem.bounds is not None
    own: Array = problem.bounds[node]
    return own if log.added_curvatures is None else own + log.added_curvatures[node].sum(axis=0)


def find_second_derivative(log: Log, node: int, prior: Prior, shield: KnownShield) -> Array:
    """Return the estimate of H_i, shape (d, d)."""
    return prior.without(shield, fit(Seen.of(log, node), prior.shielded(shield)))


def fit(seen: Seen, prior: Prior) -> Array:
    """Return the second derivative that explains the steps best, shape (d, d).

    The unknowns are its entries, in deviations of *prior*, and H_i x_i - b_i + y_i in the last
    round. A step is their sum times 1 + s U, so the sum is at least half as large as the step.
    """
    rounds, d = seen.states.shape
    last = _LOOSE * float(np.abs(seen.steps[-10:]).max()) + seen.floor
    known = (seen.states @ prior.mean + seen.duals).ravel()
    by_entry = (_design(seen.states) @ prior.root()).reshape(rounds * d, -1)
    system = np.concatenate([by_entry, last * np.tile(np.eye(d), (rounds, 1))], axis=1)
    steps, own = seen.steps.ravel(), np.eye(system.shape[1])
    unknowns = np.zeros(system.shape[1])
    for _ in range(ITERATIONS):
        sizes = np.maximum(np.abs(known + system @ unknowns), np.abs(steps) / 2.0)
        weights = 1.0 / np.sqrt(VARIANCE * sizes**2 + seen.floor**2)
        rows = np.concatenate([system * weights[:, None], own])
        sought = np.concatenate([(steps - known) * weights, np.zeros(len(own))])
        unknowns = np.linalg.lstsq(rows, sought, rcond=None)[0]
    entries = prior.root() @ unknowns[:-d]
    return prior.mean + symmetric(entries, d)


def _design(states: Array) -> Array:
    """Return the derivative of H x by the entries of H, shape (K, d, d (d + 1) / 2)."""
    rounds, d = states.shape
    rows, columns = np.triu_indices(d)
    places = np.arange(len(rows))
    design = np.zeros((rounds, d, len(rows)))
    design[:, rows, places] = states[:, columns]
    design[:, columns, places] = states[:, rows]
    return design
