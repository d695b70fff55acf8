"""The centralised answer and other values that need the readings of all nodes.

The centralised answer is the result of one solver that has all readings; the fleet's result is
compared with it. The functions need recorded readings, as in an emulated fleet. They return None
if a node has a live sensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import msgspec
import numpy as np

from cipherfleet_node.core.objective import Average, Flat, Mean, Objective, Regression, objective_of
from cipherfleet_node.core.randomness import SEED_BYTES, FloatVector, RoundRandomness
from cipherfleet_node.core.window import FloatMatrix
from cipherfleet_provisioning.fleet.fleet import Fleet

GRADIENT_TOLERANCE = 1e-12
MAX_STEPS = 200
_UNUSED_RANDOMNESS = RoundRandomness(
    bytes(SEED_BYTES)
)  # gradients over all readings use no randomness


def recorded_objectives(fleet: Fleet) -> list[Objective] | None:
    """Return every node's objective with all its readings; None if a sensor is a live one."""
    section = msgspec.structs.replace(fleet.file.objective, minibatch=None)
    objectives = []
    for member in fleet.members:
        samples = fleet.recorded(member)
        if samples is None:
            return None
        objective = objective_of(section, member.role)
        objective.absorb(samples)
        objectives.append(objective)
    return objectives


def centralised_answer(fleet: Fleet) -> FloatVector | None:
    """Return the minimiser of F = (1/n) sum f_i, shape (d,); None if readings are not recorded.

    It is not known for a window by time either: which readings are in it depends on the run.
    """
    if fleet.file.objective.window_s is not None:
        return None
    return common_answer(recorded_objectives(fleet) or [])


def common_answer(objectives: Sequence[Objective]) -> FloatVector | None:
    """Return the minimiser of the mean of *objectives*; None for kinds without a solver here.

    Followers have no part in it.
    """
    objectives = [objective for objective in objectives if not isinstance(objective, Flat)]
    if objectives and all(isinstance(objective, Average) for objective in objectives):
        return cast("FloatVector", np.mean([objective.start() for objective in objectives], axis=0))
    smooth = [objective for objective in objectives if isinstance(objective, Mean | Regression)]
    return minimise(smooth) if smooth and len(smooth) == len(objectives) else None


def range_of_starts(fleet: Fleet) -> float:
    """Return the range of the nodes' first estimates, in the entry where it is smallest.

    Entries in which all nodes are equal are left out. The result is 1 if readings are not recorded,
    or if all entries are equal.
    """
    objectives = recorded_objectives(fleet)
    if objectives is None:
        return 1.0
    ranges = np.ptp([objective.start() for objective in objectives], axis=0)
    return float(ranges[ranges > 0].min(initial=np.inf)) if ranges.any() else 1.0


def steepest(fleet: Fleet) -> tuple[str, float] | None:
    """Return the node with the greatest curvature L_i at its first estimate, and L_i.

    Gradient descent on f_i alone diverges if its mean stepsize stays above 2/L_i.
    """
    objectives = recorded_objectives(fleet) or []
    curvatures = {
        member.id: float(np.linalg.eigvalsh(objective.hessian(objective.start()))[-1])
        for member, objective in zip(fleet.members, objectives, strict=False)
        if isinstance(objective, Mean | Regression)
    }
    if not curvatures:
        return None
    node = max(curvatures, key=curvatures.__getitem__)
    return node, curvatures[node]


class Smooth(Protocol):
    """An objective with a first and a second derivative."""

    dimension: int

    def gradient(self, x: FloatVector, randomness: RoundRandomness) -> FloatVector: ...

    def hessian(self, x: FloatVector) -> FloatMatrix: ...


def minimise(objectives: Sequence[Smooth]) -> FloatVector:
    """Minimise by Newton's method; the damping rises when a step does not lower the gradient."""
    x: FloatVector = np.zeros(objectives[0].dimension)
    damping, gradient = 0.0, _gradient(objectives, x)
    for _ in range(MAX_STEPS):
        size = float(np.linalg.norm(gradient))
        if size <= GRADIENT_TOLERANCE:
            break
        hessian = np.mean([objective.hessian(x) for objective in objectives], axis=0)
        step = np.linalg.lstsq(hessian + damping * np.eye(x.size), -gradient, rcond=None)[0]
        tried = _gradient(objectives, x + step)
        if float(np.linalg.norm(tried)) < size:
            x, gradient, damping = x + step, tried, damping / 10.0
        elif damping > 1e12:
            break  # limit of double precision
        else:
            damping = max(10.0 * damping, 1e-6)
    return x


def _gradient(objectives: Sequence[Smooth], x: FloatVector) -> FloatVector:
    total: FloatVector = np.mean([o.gradient(x, _UNUSED_RANDOMNESS) for o in objectives], axis=0)
    return total
