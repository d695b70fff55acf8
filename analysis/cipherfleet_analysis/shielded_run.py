"""A shield in a simulated fleet: its late start, the first duals, and the quadratic shares.

The shares are not those of the fleet's nodes, which are secret, but have the same size and sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cipherfleet_node.core.objective import Objective
from cipherfleet_node.core.quadratic import WithQuadratic, symmetric
from cipherfleet_node.core.shield import quadratic_deviation
from cipherfleet_node.settings.sections import AGREE
from cipherfleet_provisioning.fleet.fleet import Fleet
from cipherfleet_provisioning.generations import plan_schedule

from .exact_run import ExactMethod, exact_method
from .gradients import Gradients, WithMatrices
from .random_choices import Array

SEED = 2


def with_shield(
    fleet: Fleet, objectives: Sequence[Objective], gradients: Gradients, method: ExactMethod
) -> tuple[Gradients, ExactMethod]:
    """Return *gradients* and *method* of the nodes of *fleet*, which has a shield.

    The first generation is applied after its roll call, when votes have crossed the graph. Until
    then nodes have no gradients.
    """
    chance, file = np.random.default_rng(SEED), fleet.file
    count, dimension = len(objectives), objectives[0].dimension
    scale = _scale(method, (count, dimension))
    if file.algorithm.shield == "quadratic":
        entries = chance.standard_normal((count, dimension, dimension))
        rows, columns = np.triu_indices(dimension)
        upper = entries[:, rows, columns]
        drawn = _centred(np.array([symmetric(own, dimension) for own in upper]))
        matrices = scale * quadratic_deviation(dimension) * drawn
        bent = [WithQuadratic(each, own) for each, own in zip(objectives, matrices, strict=True)]
        gradients = WithMatrices(gradients, matrices)
        made = exact_method(bent, file.algorithm, file.objective)
        assert made is not None
        method = made
    shares = file.algorithm.shares * scale * _centred(chance.standard_normal((count, dimension)))
    start = plan_schedule(fleet.graph).roll_call + fleet.graph.diameter
    return gradients, replace(method, first_duals=shares, first_gradient=start)


def _scale(method: ExactMethod, shape: tuple[int, int]) -> float:
    if method.scale != AGREE:
        return method.scale
    return method.agreed_scale(np.broadcast_to(method.logarithms(shape).mean(axis=0), shape))


def _centred(values: Array) -> Array:
    result: Array = values - values.mean(axis=0)
    return result
