"""Conversion of real numbers to whole multiples of the resolution, and back.

Integers begin in this module: the modules after it work on values without a physical unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cipherfleet_node.errors import HeadroomExceeded

from .randomness import FloatVector, RoundRandomness

VALUE_BITS = 40  # a quantised entry X has |X| < 2^39; at resolution 2^-32 the range is +-128
START_NOISE = 16.0  # in resolutions; see randomise_start


def quantise(x: FloatVector, resolution: float, randomness: RoundRandomness) -> list[int]:
    """Round each entry of *x* to a neighbouring multiple of *resolution*, without bias.

    *x* has shape (d,), in the objective's units. The result counts resolutions, with |error| < 1
    and variance <= 1/4. Raises HeadroomExceeded if an entry would leave its slot.
    Source: docs/explanation/algorithm.md#quantiser; checked by test_quantiser_is_unbiased.
    """
    scaled = np.floor(x / resolution + randomness.uniform("quantise", x.size))
    # A comparison with NaN is false, so this refuses NaN as well.
    if not bool(np.all(np.abs(scaled) < 2.0 ** (VALUE_BITS - 1))):
        raise HeadroomExceeded(
            f"an entry of the estimate has left the range of {VALUE_BITS - 1} bits at resolution "
            f"{resolution:g}: use a coarser resolution or smaller stepsizes"
        )
    return [int(entry) for entry in scaled]


def dequantise(integers: Sequence[int], unit: float) -> FloatVector:
    """Return *integers* times *unit*, shape (d,); each exact product is rounded once."""
    return np.array([entry * unit for entry in integers], dtype=np.float64)


def randomise_start(x: FloatVector, resolution: float, randomness: RoundRandomness) -> FloatVector:
    """Return *x* plus noise of mean zero, at most START_NOISE resolutions.

    A first estimate of zero, or one from coarse readings, is a multiple of many resolutions.
    Stochastic rounding would return it unchanged, and the dither could not hide the half weight.
    Source: docs/explanation/algorithm.md#first-estimate;
    checked by test_a_coarse_start_is_random_at_the_resolution.
    """
    return x + resolution * START_NOISE * (2.0 * randomness.uniform("start", x.size) - 1.0)
