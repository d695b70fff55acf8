"""How a fleet agrees on the scale of curvature c0 of the exact method, without anyone's data.

In the first AGREED_ROUNDS rounds the nodes average the logarithms of their own curvatures, with the
usual exchange: the first entry of the estimate is log2 L_i, the others are zero. Each node then
takes SHARE times two to this average for c0, rounded to an eighth of a power of two. From then on
its queries carry the exponent, and every node takes the largest one of earlier rounds. So all nodes
end with the same number, bit for bit, after as many rounds as the graph has hops.

**Nodes may switch at different times.** The exact method keeps its dual as an integer ledger, whose
sum over the fleet is zero under any c0. The fleet ends at the optimum as soon as all nodes have the
same c0, whatever they had before.

**Newcomers** have no part in the average. They begin with their own curvature, send no exponent,
and take the one that they see.

**A false exponent** costs rounds. A node accepts none more than REACH above its own, so a member
cannot slow the fleet down by more.

Source: docs/explanation/algorithm.md#scale-of-curvature. Checked by
test_all_nodes_agree_on_the_same_bits and test_features_ten_times_as_large_cost_few_rounds.
"""

from __future__ import annotations

import math

from cipherfleet_node.settings.sections import AGREE, MetricName, Scale

from . import progress
from .messages import LARGEST_POWER
from .state import State

AGREED_ROUNDS = 6
METRIC_SHARE = 0.25
SHARE = 0.6  # of the mean curvature: needs the fewest rounds on most graphs
PARTS = 8  # of a power of two: an exponent counts eighths
REACH = 6 * PARTS  # a factor of 64
FAR_OFF = 16.0  # a curvature that differs from c0 by a larger factor deserves a warning


def is_agreeing(scale: Scale | None, k: int) -> bool:
    """True if round *k* averages logarithms of curvatures."""
    return scale == AGREE and k < AGREED_ROUNDS


def logarithm(curvature: float, metric: MetricName = "step") -> float:
    """Return log2 of a curvature L_i; a flat f_i counts as 1.

    Other metrics than `step` do best with a smaller scale, so L_i counts as METRIC_SHARE of it.
    """
    share = 1.0 if metric == "step" else METRIC_SHARE
    return math.log2(share * curvature if curvature > 0 else share)


def power_of(logarithm: float) -> int:
    """Return the exponent of c0 for a mean *logarithm* of curvatures, in eighths."""
    power = round(PARTS * (logarithm + math.log2(SHARE)))
    return max(-LARGEST_POWER, min(power, LARGEST_POWER))


def scale_of(power: int) -> float:
    """Return two to *power* eighths, from square roots: the same bits on every machine."""
    whole, rest = divmod(power, PARTS)
    root, result = 2.0, 1.0
    for bit in (4, 2, 1):
        root = math.sqrt(root)
        if rest & bit:
            result *= root
    return math.ldexp(result, whole)


def used_scale(scale: Scale, state: State) -> float:
    """Return the c0 that a node in *state* uses; *scale* is that of its settings."""
    if scale != AGREE:
        return scale
    power = state.own_power if state.scale_power is None else state.scale_power
    assert power is not None
    return scale_of(power)


def is_far_off(curvature: float, scale: float) -> bool | None:
    """Return if *curvature* is far above (True) or far below (False) c0; None if it is near."""
    if curvature > FAR_OFF * scale:
        return True
    return False if 0 < curvature < scale / FAR_OFF else None


def agreed(state: State) -> State:
    """Return *state* after the agreement; its estimate is still the average of logarithms."""
    assert state.estimate is not None
    power = power_of(state.estimate[0])
    after = progress.replaced(state, own_power=power, agrees=False, estimate=None, sizes=[])
    return heard(after, power)


def heard(state: State, power: int) -> State:
    """Return *state* after a neighbour's query with the exponent *power*."""
    own, known = state.own_power, state.scale_power
    is_smaller = known is not None and power <= known
    if own is None or power > own + REACH or is_smaller:
        return state
    return progress.replaced(state, scale_power=power)
