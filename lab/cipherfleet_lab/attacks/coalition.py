"""Inference of a coalition about one other node: its estimates, and the flow into it.

The coalition uses its own estimates and half weights and the public graph. For unknown quantities
it uses expected values: the mean half weight, and the mean of its own estimates.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from cipherfleet_lab.cipherfleet import MEAN_HALF_WEIGHT
from cipherfleet_lab.systems import Array, Log, Problem
from cipherfleet_node.core.exchange import metropolis
from cipherfleet_node.core.packing import HALF_WEIGHT_BITS, METROPOLIS_BITS

from .transcripts import Reading, mean_steps

DEVIATION = 0.5 / np.sqrt(12.0)  # standard deviation of a half weight
_SINGULAR = 1e-6  # singular values below this share of the largest are rounding


@dataclass(frozen=True)
class ObservedTrajectory:
    """What is inferred of one node in every round; shapes (rounds, d)."""

    states: Array  # what the rounds share
    flows: Array  # gamma_k c_i

    def reading(self, log: Log) -> Reading:
        """Return the steps: the changes of the estimates without the flow."""
        arrived = (self.states + self.flows)[:-1]
        steps, scales = (arrived - self.states[1:])[:, None], mean_steps(log)[:-1]
        if log.dual_rate is None:
            return Reading(self.states[:, None], steps, scales)
        # Exact: the states are points u_i, and the estimates are those points plus the flows.
        estimates = np.concatenate([self.states[:1], arrived])
        duals = -log.dual_rate * self.flows.cumsum(axis=0)[:-1]
        return Reading(estimates[:, None], steps, scales, first=1, duals=duals[:, None])


Observe = Callable[[Log, Problem, Collection[int], int], ObservedTrajectory]


def link_factor(problem: Problem, i: int, j: int) -> float:
    """Return the Metropolis factor m_ij."""
    degrees = len(problem.neighbours(i)), len(problem.neighbours(j))
    return float(metropolis(*degrees)) / 2.0**METROPOLIS_BITS


def link_half_weights(log: Log, i: int, j: int) -> Array:
    """Return h_ij, shape (rounds,), which only node i knows."""
    return log.half_weights[i, j] / 2.0**HALF_WEIGHT_BITS


def opened_difference(log: Log, asker: int, node: int) -> Array:
    """Return h (x_node - x_asker) as *asker* decrypts it, shape (rounds, d)."""
    assert log.resolution is not None
    return log.opened[asker, node] * log.resolution / 2.0**HALF_WEIGHT_BITS


def unit_of_sums(log: Log) -> float:
    """Return the value of one unit of a sealed sum, in the estimates' units."""
    assert log.resolution is not None
    return log.resolution / 2.0 ** (HALF_WEIGHT_BITS + METROPOLIS_BITS)


def observe_differences(
    log: Log, problem: Problem, coalition: Collection[int], node: int
) -> ObservedTrajectory:
    """Infer from answers that open one by one: the flow over every link to the coalition is known.

    The flow over a link to an outside node is estimated from both ends' estimates, if both can be
    located.
    """
    states = locate(log, problem, coalition, node)
    assert states is not None, "a neighbour of the node is in the coalition"
    flows = np.zeros_like(states)
    for near in problem.neighbours(node):
        factor = link_factor(problem, node, near)
        if near in coalition:
            own = link_half_weights(log, near, node)[:, None]
            flows -= factor * own * opened_difference(log, near, node)
        else:
            there = locate(log, problem, coalition, near)
            if there is not None:
                flows += factor * MEAN_HALF_WEIGHT**2 * (there - states)
    return ObservedTrajectory(states, _attenuate(log, flows))


def locate(log: Log, problem: Problem, coalition: Collection[int], node: int) -> Array | None:
    """Locate x of *node*, shape (rounds, d): where the lines from its neighbours cross.

    With one neighbour there is only one line; the mean half weight then gives the distance. None if
    no neighbour is in the coalition.
    """
    near = [other for other in problem.neighbours(node) if other in coalition]
    if not near:
        return None
    own = log.points[:, near]  # (rounds, neighbours, d)
    seen = np.stack([opened_difference(log, other, node) for other in near], axis=1)
    expected: Array = (own + seen / MEAN_HALF_WEIGHT).mean(axis=1)
    if len(near) == 1 or problem.dimension == 1:
        return expected
    size = np.linalg.norm(seen, axis=2, keepdims=True)
    along = seen / np.maximum(size, np.finfo(np.float64).tiny)
    across = np.eye(problem.dimension) - along[..., :, None] * along[..., None, :]
    pull = np.einsum("rjab,rjb->ra", across, own - expected[:, None])
    crossing = np.linalg.pinv(across.sum(axis=1), rcond=1e-9, hermitian=True)
    result: Array = expected + np.einsum("rab,rb->ra", crossing, pull)
    return result


def observe_sums(
    log: Log, problem: Problem, coalition: Collection[int], node: int
) -> ObservedTrajectory:
    """Infer from sums of one round: half weights and estimates that explain all sums.

    The unknowns of every outside node m are h_m and y_m = h_m (x_m - centre); the sums are linear
    in them. Of all solutions this takes the one nearest to the expected values, in deviations.
    """
    return _observe_sums(log, problem, coalition, node, DEVIATION)


def observe_mean_sums(
    log: Log, problem: Problem, coalition: Collection[int], node: int
) -> ObservedTrajectory:
    """Infer from sums with every half weight at its mean, which is right on average over rounds.

    There are fewer unknowns: as many sums as outside nodes are enough.
    """
    return _observe_sums(log, problem, coalition, node, 0.0)


def _observe_sums(
    log: Log, problem: Problem, coalition: Collection[int], node: int, deviation: float
) -> ObservedTrajectory:
    centre = log.points[:, sorted(coalition)].mean(axis=1)
    outside = [m for m in range(problem.nodes) if m not in coalition]
    seen = [m for m in outside if set(problem.neighbours(m)) & set(coalition)]
    system, known, scale = _equations(log, problem, coalition, seen, centre, deviation)
    solved = np.einsum("ruv,rv->ru", np.linalg.pinv(system, rcond=_SINGULAR), known)
    shape = len(centre), len(seen), problem.dimension + 1
    entries = solved.reshape(shape)
    weights = dict(zip(seen, (MEAN_HALF_WEIGHT + deviation * entries[:, :, -1]).T, strict=True))
    away = dict(zip(seen, (scale[:, None, None] * entries[:, :, :-1]).swapaxes(0, 1), strict=True))
    h, y = weights[node][:, None], away[node]
    flows = np.zeros_like(centre)
    for near in problem.neighbours(node):
        if near in coalition:
            own = link_half_weights(log, near, node)[:, None]
            term = own * (h * (log.points[:, near] - centre) - y)
        elif near in weights:
            term = h * away[near] - weights[near][:, None] * y
        else:
            term = -MEAN_HALF_WEIGHT * y
        flows += link_factor(problem, node, near) * term
    return ObservedTrajectory(centre + y / h, _attenuate(log, flows))


def _equations(
    log: Log,
    problem: Problem,
    coalition: Collection[int],
    seen: list[int],
    centre: Array,
    deviation: float,
) -> tuple[Array, Array, Array]:
    """Return the linear system: rows are sums, columns y_m / scale and (h_m - 3/4) / deviation."""
    assert log.sums is not None
    rounds, d = centre.shape
    unit = unit_of_sums(log)
    askers = [j for j in sorted(coalition) if set(problem.neighbours(j)) & set(seen)]
    known, rows = [], []
    for asker in askers:
        left = log.sums[:, asker] * unit
        off = centre - log.points[:, asker]
        row = np.zeros((rounds, d, len(seen), d + 1))
        for near in problem.neighbours(asker):
            factor = link_factor(problem, asker, near)
            if near in coalition:
                own = link_half_weights(log, near, asker)[:, None]
                left = left - factor * own * (log.points[:, near] - log.points[:, asker])
                continue
            place = seen.index(near)
            left = left - factor * MEAN_HALF_WEIGHT * off
            row[:, :, place, :d] = factor * np.eye(d)
            row[:, :, place, d] = factor * deviation * off
        known.append(left)
        rows.append(row.reshape(rounds, d, -1))
    total = np.concatenate(known, axis=1)
    scale = np.sqrt((total**2).mean(axis=1)) + np.finfo(np.float64).tiny
    system = np.concatenate(rows, axis=1)
    columns = np.tile([*[True] * d, False], len(seen))
    return np.where(columns, system * scale[:, None, None], system), total, scale


def observe_obfuscations(
    log: Log, problem: Problem, coalition: Collection[int], node: int
) -> ObservedTrajectory:
    """Infer by removing the obfuscations that the coalition exchanged with *node*."""
    assert log.broadcast is not None
    assert log.weights is not None
    found = sum(
        (log.between[near, node] - log.between[node, near])
        for near in problem.neighbours(node)
        if near in coalition
    )
    states = log.broadcast[:, node] - mean_steps(log)[:, None] * found
    return ObservedTrajectory(states, (log.weights @ log.broadcast)[:, node] - states)


def observe_ring(
    log: Log, problem: Problem, coalition: Collection[int], node: int
) -> ObservedTrajectory:
    """Infer from the public sum of a ring: the outside nodes share the rest of it equally."""
    assert log.served is not None
    del node
    inside = log.points[:, sorted(coalition)].sum(axis=1)
    states = (log.served - inside) / (problem.nodes - len(coalition))
    return ObservedTrajectory(states, log.served / problem.nodes - states)


def _attenuate(log: Log, flows: Array) -> Array:
    assert log.attenuations is not None
    return log.attenuations[:, None] * flows
