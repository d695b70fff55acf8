"""From real numbers to whole multiples of the resolution, and back.

Integers begin here: beyond this module no value carries a physical unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cipherfleet_node.errors import HeadroomExceeded

from .randomness import Draws, FloatVector

VALUE_BITS = 32  # a quantised entry X holds |X| < 2^31: at 2^-24 that is +-128 in real units
START_NOISE = 16.0  # resolutions; see randomise_start


def quantise(x: FloatVector, resolution: float, draws: Draws) -> list[int]:
    """Round each entry of *x* to a neighbouring multiple of *resolution*, without bias.

    x has shape (d,), in the objective's units; the result counts resolutions, |error| < 1,
    variance <= 1/4. Raises HeadroomExceeded if an entry would leave its slot.
    Source: ALGORITHM section 2; checked by test_quantiser_is_unbiased.
    """
    scaled = np.floor(x / resolution + draws.uniform("quantise", x.size))
    # NaN compares false, so it is refused here as well.
    if not bool(np.all(np.abs(scaled) < 2.0 ** (VALUE_BITS - 1))):
        raise HeadroomExceeded(
            f"an entry of the estimate has left the range of {VALUE_BITS - 1} bits at resolution "
            f"{resolution:g}: take a coarser resolution or smaller stepsizes"
        )
    return [int(entry) for entry in scaled]


def dequantise(integers: Sequence[int], unit: float) -> FloatVector:
    """*integers* times *unit*, shape (d,); exact products are rounded once."""
    return np.array([entry * unit for entry in integers], dtype=np.float64)


def randomise_start(x: FloatVector, resolution: float, draws: Draws) -> FloatVector:
    """*x* plus zero-mean noise of a few resolutions.

    A start of zero, or of coarse readings, is a multiple of many resolutions; stochastic rounding
    would return it unchanged and dither could not hide the half weight behind it.
    Source: ALGORITHM section 4; checked by test_a_coarse_start_is_random_at_the_resolution.
    """
    return x + resolution * START_NOISE * (2.0 * draws.uniform("start", x.size) - 1.0)
