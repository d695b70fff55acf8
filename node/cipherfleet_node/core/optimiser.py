"""The update of one round, with private random stepsizes and the public attenuation factor.

    x_i <- x_i + gamma_k c_i - Lambda_i g_i

c_i is the coupling term, g_i the gradient, Lambda_i the diagonal matrix of the stepsizes and
gamma_k the attenuation factor of round k. Source: arXiv 2604.21381;
docs/explanation/algorithm.md#iteration.
"""

from __future__ import annotations

import math

import numpy as np

from cipherfleet_node.settings.sections import Algorithm, Attenuation, Stepsize

from .randomness import FloatVector, RoundRandomness


def mean_stepsize(stepsize: Stepsize, k: int) -> float:
    """Return lambda_k = initial / (1 + decay k^exponent), which is equal on all nodes."""
    return float(stepsize.initial / (1.0 + stepsize.decay * float(k) ** stepsize.exponent))


def attenuation_factor(attenuation: Attenuation | str, k: int) -> float:
    """Return gamma_k = 1 / (1 + scale k^exponent), or 1 without attenuation."""
    if isinstance(attenuation, str):
        return 1.0
    return float(1.0 / (1.0 + attenuation.scale * float(k) ** attenuation.exponent))


def draw_stepsizes(
    stepsize: Stepsize, k: int, dimension: int, randomness: RoundRandomness
) -> FloatVector:
    """Return the diagonal of Lambda_i, shape (d,): independent entries of mean lambda_k.

    Checked by test_stepsizes_have_the_same_mean_under_every_law.
    """
    result: FloatVector = mean_stepsize(stepsize, k) * draw_factors(stepsize, dimension, randomness)
    return result


def draw_factors(stepsize: Stepsize, dimension: int, randomness: RoundRandomness) -> FloatVector:
    """Return independent factors of mean 1, shape (d,).

    The standard deviation is spread / sqrt(3) under every law: that of the uniform law.
    """
    deviation = stepsize.spread / math.sqrt(3.0)
    if stepsize.law == "uniform":
        return 1.0 + stepsize.spread * (2.0 * randomness.uniform("stepsize", dimension) - 1.0)
    if stepsize.law == "normal":
        return 1.0 + deviation * randomness.normal("stepsize", dimension)
    sigma = math.sqrt(math.log1p(deviation**2))
    factors: FloatVector = np.exp(sigma * randomness.normal("stepsize", dimension) - sigma**2 / 2.0)
    return factors


def descend(
    x: FloatVector,
    coupling: FloatVector,
    gradient: FloatVector,
    k: int,
    algorithm: Algorithm,
    randomness: RoundRandomness,
) -> FloatVector:
    """Return the next estimate, shape (d,), in the objective's units.

    Checked by test_the_encrypted_fleet_equals_the_plain_reference.
    """
    steps = draw_stepsizes(algorithm.stepsize, k, x.size, randomness)
    result: FloatVector = (
        x + attenuation_factor(algorithm.attenuation, k) * coupling - steps * gradient
    )
    return result
