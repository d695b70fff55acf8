"""What an operator can tell who has everybody's readings, as in an emulated fleet.

Above all the centralised answer: what one solver finds that sees all readings, and what the fleet
is held against. For live sensors nothing of this can be said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec
import numpy as np

from cipherfleet_node.core.objective import Average, Mean, Objective, Regression, make_objective
from cipherfleet_node.core.randomness import SEED_BYTES, Draws, FloatVector
from cipherfleet_provisioning.fleet.fleet import Fleet

GRADIENT_TOLERANCE = 1e-12
MAX_STEPS = 200
_NO_DRAWS = Draws(bytes(SEED_BYTES))  # full windows draw nothing


def objectives_in_sight(fleet: Fleet) -> list[Objective] | None:
    """Every node's objective with all its recorded readings; None if some sensor is a live one."""
    section = msgspec.structs.replace(fleet.file.objective, minibatch=None)
    objectives = []
    for member in fleet.members:
        samples = fleet.recorded(member)
        if samples is None:
            return None
        objective = make_objective(section)
        objective.absorb(samples)
        objectives.append(objective)
    return objectives


def centralised_answer(fleet: Fleet) -> FloatVector | None:
    """The minimiser of F = (1/n) sum f_i, shape (d,); None where some readings are out of sight."""
    return common_answer(objectives_in_sight(fleet) or [])


def common_answer(objectives: Sequence[Objective]) -> FloatVector | None:
    """The minimiser of the mean of *objectives*; None for kinds that no solver here knows."""
    if objectives and all(isinstance(objective, Average) for objective in objectives):
        return cast("FloatVector", np.mean([objective.start() for objective in objectives], axis=0))
    smooth = [objective for objective in objectives if isinstance(objective, Mean | Regression)]
    return minimise(smooth) if smooth and len(smooth) == len(objectives) else None


def range_of_starts(fleet: Fleet) -> float:
    """Greatest minus least of the values that nodes start at, of the entry where they differ least.

    1 where they are out of sight or equal in every entry.
    """
    objectives = objectives_in_sight(fleet)
    if objectives is None:
        return 1.0
    ranges = np.ptp([objective.start() for objective in objectives], axis=0)
    return float(ranges[ranges > 0].min(initial=np.inf)) if ranges.any() else 1.0


def steepest(fleet: Fleet) -> tuple[str, float] | None:
    """The node with the greatest curvature at its start, and that curvature L_i.

    A node alone diverges when its mean stepsize stays above 2/L_i (gradient descent on f_i).
    """
    objectives = objectives_in_sight(fleet) or []
    curvatures = {
        member.id: float(np.linalg.eigvalsh(objective.hessian(objective.start()))[-1])
        for member, objective in zip(fleet.members, objectives, strict=False)
        if isinstance(objective, Mean | Regression)
    }
    if not curvatures:
        return None
    node = max(curvatures, key=curvatures.__getitem__)
    return node, curvatures[node]


def minimise(objectives: list[Mean | Regression]) -> FloatVector:
    """Newton's method with damping, which raises when a step does not lower the gradient."""
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
            break  # as near as numbers of 53 bits allow
        else:
            damping = max(10.0 * damping, 1e-6)
    return x


def _gradient(objectives: list[Mean | Regression], x: FloatVector) -> FloatVector:
    total: FloatVector = np.mean([o.gradient(x, _NO_DRAWS) for o in objectives], axis=0)
    return total
