"""The update of one round, with private random stepsizes and the public attenuation factor.

    x_i <- x_i + gamma_k c_i - Lambda_i g_i
Source: arXiv 2604.21381; ALGORITHM section 2.
"""

from __future__ import annotations

import math

import numpy as np

from cipherfleet_node.settings.sections import Algorithm, Attenuation, Stepsize

from .randomness import Draws, FloatVector


def mean_stepsize(stepsize: Stepsize, k: int) -> float:
    """lambda_k = initial / (1 + decay k^exponent), the same for all nodes."""
    return float(stepsize.initial / (1.0 + stepsize.decay * float(k) ** stepsize.exponent))


def attenuation_factor(attenuation: Attenuation | str, k: int) -> float:
    """gamma_k = 1 / (1 + scale k^exponent), or 1 without attenuation."""
    if isinstance(attenuation, str):
        return 1.0
    return float(1.0 / (1.0 + attenuation.scale * float(k) ** attenuation.exponent))


def draw_stepsizes(stepsize: Stepsize, k: int, dimension: int, draws: Draws) -> FloatVector:
    """The diagonal of Lambda_i, shape (d,): independent entries of mean lambda_k.

    All laws have the deviation spread * lambda_k / sqrt(3), which is the uniform law's.
    Checked by test_stepsizes_have_the_same_mean_under_every_law.
    """
    deviation = stepsize.spread / math.sqrt(3.0)
    if stepsize.law == "uniform":
        factors = 1.0 + stepsize.spread * (2.0 * draws.uniform("stepsize", dimension) - 1.0)
    elif stepsize.law == "normal":
        factors = 1.0 + deviation * draws.normal("stepsize", dimension)
    else:
        sigma = math.sqrt(math.log1p(deviation**2))
        factors = np.exp(sigma * draws.normal("stepsize", dimension) - sigma**2 / 2.0)
    result: FloatVector = mean_stepsize(stepsize, k) * factors
    return result


def descend(
    x: FloatVector,
    coupling: FloatVector,
    gradient: FloatVector,
    k: int,
    algorithm: Algorithm,
    draws: Draws,
) -> FloatVector:
    """The next estimate, shape (d,), in the objective's units.

    Checked by test_the_encrypted_fleet_equals_the_plain_reference.
    """
    steps = draw_stepsizes(algorithm.stepsize, k, x.size, draws)
    result: FloatVector = (
        x + attenuation_factor(algorithm.attenuation, k) * coupling - steps * gradient
    )
    return result
