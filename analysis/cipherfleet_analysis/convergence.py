"""Predict how fast a fleet mixes, and whether its schedule can converge.

Notation: a_ij = m_ij h_ij h_ji is the coupling weight of one edge in one round, where m_ij is the
public Metropolis factor and h_ij the private half weight. In the sealed exchange node i has one h_i
for all its edges. L is the graph Laplacian weighted with a_ij. Averaging (no gradient, gamma = 1)
is x <- (I - L) x. The disagreement d is x minus its mean. All results about mixing assume that
every neighbour answers in every round.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from cipherfleet_node.core.quantiser import START_NOISE
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.findings import Finding
from cipherfleet_node.settings.sections import Algorithm, Attenuation, resolution_of
from cipherfleet_provisioning.topology.graph import Graph
from cipherfleet_provisioning.topology.mixing import (
    HALF_WEIGHTS,
    MEAN,
    Matrix,
    metropolis_laplacian,
)

# The law of a/m = h h', two independent half weights.
MEAN_SQUARE = float((HALF_WEIGHTS**2).mean()) ** 2
# Sealed: the covariance of a/m of two edges that share a node and therefore one half weight.
SEALED_COVARIANCE = float(HALF_WEIGHTS.var()) * MEAN
LOWEST, HIGHEST = float(HALF_WEIGHTS[0]) ** 2, float(HALF_WEIGHTS[-1]) ** 2

FAILURE_PROBABILITY = 1e-6  # of RoundsToConsensus.expected, an upper bound
NOISE_PEAK = 6.0  # standard deviations of quantisation noise allowed for: exceeded once in 5e8

COARSE_RESOLUTION = 1e-3
USUAL_NOISE = 0.5  # resolutions; disagreement_floor is 0.3 to 0.5 on all but long, thin graphs

SCHEDULE, SPREAD = "schedule", "stepsize.spread"  # subjects of findings


# -- mixing -------------------------------------------------------------------------------------


def mean_square_contraction(graph: Graph, *, sealed: bool) -> float:
    """Return the least rho in (0, 1) with E|(I - L) d|^2 <= rho |d|^2 for every disagreement d.

    It is the greatest eigenvalue of E[(I - L)^2] = I - 2 E[L] + E[L^2] on disagreements.
    Checked by test_mean_square_contraction_is_that_of_drawn_weights.
    """
    mean, square = _moments(graph, sealed=sealed)
    n = len(graph.ids)
    # J/n (all entries 1/n) removes the eigenvalue 1 of the mean; all others are positive.
    operator = np.eye(n) - 2 * mean + square - np.full((n, n), 1 / n)
    return float(np.linalg.eigvalsh(operator)[-1])


def worst_contraction(graph: Graph) -> float:
    """Return a bound in (0, 1) on |(I - L) d| / |d| for all possible half weights.

    L lies between LOWEST L_m and HIGHEST L_m (L_m with weights m_ij) as a quadratic form, hence so
    does every one of its eigenvalues (Weyl). Two modes decide: the slowest mode with the smallest
    weights, and the fastest mode with the largest weights.
    """
    rates = np.linalg.eigvalsh(metropolis_laplacian(graph))[1:]
    return float(max(1 - LOWEST * rates[0], HIGHEST * rates[-1] - 1))


def _moments(graph: Graph, *, sealed: bool) -> tuple[Matrix, Matrix]:
    """Return E[L] and E[L^2], from the Laplacians L_1 and L_2 weighted with m_ij and m_ij^2.

    With L = sum_e a_e b_e b_e', b_e'b_e = 2, E[L^2] = E[L]^2 + 2 sum_e var(a_e) b_e b_e' plus the
    covariances of the pairs of edges that share a node, whose terms sum to L_1^2 - 2 L_2.
    """
    first, second = metropolis_laplacian(graph), metropolis_laplacian(graph, 2)
    mean = MEAN * first
    square = mean @ mean + 2 * (MEAN_SQUARE - MEAN**2) * second
    if sealed:
        square += SEALED_COVARIANCE * (first @ first - 2 * second)
    return mean, square


# -- rounds to consensus ------------------------------------------------------------------------


class AccuracyError(ConfigError):
    """The requested accuracy is below the quantisation noise; it has a remedy."""


@dataclass(frozen=True)
class RoundsToConsensus:
    """Two bounds of the number of rounds that averaging needs.

    expected: fails with a probability of at most FAILURE_PROBABILITY, per entry of the estimate;
    guaranteed: suffices for all possible half weights.
    """

    expected: int
    guaranteed: int

    @property
    def rounds(self) -> int:
        """The smaller bound; either one suffices."""
        return min(self.expected, self.guaranteed)


def rounds_to_consensus(
    graph: Graph,
    accuracy: float = 1e-4,
    reading_range: float = 1.0,
    resolution: float = 0.0,
    *,
    sealed: bool,
) -> RoundsToConsensus:
    """Return the rounds until every node is within accuracy * reading_range of the readings' mean.

    reading_range is the greatest minus the least reading, resolution is the quantiser's, both in
    the readings' unit; accuracy is a fraction in (0, 1). Let t be the tolerance accuracy *
    reading_range minus NOISE_PEAK standard deviations of quantisation noise (see noise_floor), and
    |d_0|^2 <= n reading_range^2 / 4 (Popoviciu; the randomised start widens the range). Then

        expected:    P(|d_K| > t) <= rho^K |d_0|^2 / t^2 <= FAILURE_PROBABILITY  (Markov),
                     rho the mean_square_contraction
        guaranteed:  r^K |d_0| <= t, r the worst_contraction

    A node's error is at most |d_K|. Raises AccuracyError if the noise exceeds half of the
    tolerance, ValueError for arguments outside their range.
    Checked by test_every_node_is_within_the_accuracy_after_the_predicted_rounds.
    """
    if not (0 < accuracy < 1 and reading_range > 0 and resolution >= 0):
        raise ValueError("accuracy must be in (0, 1), reading_range > 0 and resolution >= 0")
    rates = mean_square_contraction(graph, sealed=sealed), worst_contraction(graph)
    tolerance = accuracy * reading_range
    start = math.sqrt(len(graph.ids)) / 2 * (reading_range + 2 * START_NOISE * resolution)
    if resolution > 0:
        longest = _rounds(*rates, start, tolerance / 2).rounds
        noise = NOISE_PEAK * noise_floor(graph, resolution, longest, sealed=sealed)
        if noise > tolerance / 2:
            power = math.floor(math.log2(resolution * tolerance / 2 / noise))
            raise AccuracyError(
                f"an accuracy of {tolerance:.3g} ({accuracy:.3g} of a range of "
                f"{reading_range:.3g}) needs quantisation noise of at most half of it, but "
                f"the noise of resolution {resolution:.3g} is {noise:.2g}",
                remedy=f"a resolution of 2^{power} is fine enough",
            )
        tolerance -= noise
    return _rounds(*rates, start, tolerance)


def _rounds(mean_square: float, worst: float, start: float, tolerance: float) -> RoundsToConsensus:
    reduction = math.log(start / tolerance)
    confidence = -math.log(FAILURE_PROBABILITY)
    expected = (2 * reduction + confidence) / -math.log(mean_square)
    guaranteed = reduction / -math.log(worst)
    return RoundsToConsensus(max(1, math.ceil(expected)), max(1, math.ceil(guaranteed)))


def round_noise(graph: Graph, *, sealed: bool) -> Matrix:
    """Return the largest covariance that one round of averaging adds, shape (n, n).

    In resolutions^2: N = E[L^2]/4 + diag(sum_j E[a_ij^2])/12. The first term is the rounding of the
    estimates. The second is the dither of the answers, independent at both ends of an edge.
    Checked by test_one_round_adds_the_round_noise.
    """
    _, square = _moments(graph, sealed=sealed)
    dither = MEAN_SQUARE * np.diag(np.diag(metropolis_laplacian(graph, 2))) / 12
    noise: Matrix = square / 4 + dither
    return noise


def disagreement_floor(graph: Graph, resolution: float, *, sealed: bool) -> float:
    """Return a bound on a node's standard deviation from the fleet's mean, after many rounds.

    In the unit of *resolution*, per entry. Let c be the greatest eigenvalue of round_noise relative
    to I - E[(I - L)^2] on disagreements. Then a covariance of at most c I stays at most c I in
    every round: c E[(I - L)^2] + N <= c I.
    Checked by test_quantised_averaging_is_no_noisier_than_the_noise_floor.
    """
    mean, square = _moments(graph, sealed=sealed)
    decay, modes = np.linalg.eigh(2 * mean - square)
    scaled = modes[:, 1:] / np.sqrt(decay[1:])  # without the first mode, the fleet's mean
    relative = scaled.T @ round_noise(graph, sealed=sealed) @ scaled
    return resolution * math.sqrt(float(np.linalg.eigvalsh(relative)[-1]))


def noise_floor(graph: Graph, resolution: float, rounds: int, *, sealed: bool) -> float:
    """Return a bound on a node's standard deviation from the readings' mean, after *rounds*.

    In the unit of *resolution*, per entry, for averaging without gradients. It adds the drift of
    the fleet's mean to disagreement_floor. The randomised start moves the mean once, and the dither
    moves it in every round.
    """
    n = len(graph.ids)
    drift = START_NOISE**2 / 3 / n + rounds * float(round_noise(graph, sealed=sealed).sum()) / n**2
    settled = disagreement_floor(graph, resolution, sealed=sealed)
    return math.hypot(settled, resolution * math.sqrt(drift))


# -- the schedule -------------------------------------------------------------------------------


def check_schedule(algorithm: Algorithm) -> list[Finding]:
    """Check the stepsizes lambda_k and the attenuation gamma_k against the articles' conditions.

    With lambda ~ k^-p and gamma ~ k^-u the conditions on the sums hold if 1/2 < u <= 1, p <= 1 and
    2p - u > 1. They are about endless runs; the findings on noise and spread apply to every run.
    The level is ok, note (information) or warn (a poor result is expected).
    Source: docs/explanation/algorithm.md#schedule.
    """
    all_hold = Finding("ok", SCHEDULE, f"{_wanted_sums(algorithm)}: as required")
    return [
        *(list(_failing_sums(algorithm)) or [all_hold]),
        _check_noise(algorithm),
        _check_spread(algorithm),
    ]


def _wanted_sums(algorithm: Algorithm) -> str:
    if _attenuation_exponent(algorithm):
        return "sum lambda and sum gamma infinite, sums lambda^2, gamma^2 and lambda^2/gamma finite"
    return "sum lambda infinite, sum lambda^2 finite"


def _failing_sums(algorithm: Algorithm) -> Iterator[Finding]:
    """Yield a warning for every condition that fails; _check_noise checks a constant gamma."""
    p = _exponent(algorithm.stepsize.decay, algorithm.stepsize.exponent)
    stepsize = f"stepsize.exponent {float(p):g}" if p else "a constant stepsize"
    if p > 1:
        text = f"sum lambda is finite with {stepsize}: the estimates stop short of the optimum"
        yield Finding("warn", SCHEDULE, text, "choose stepsize.exponent of at most 1")
    if 2 * p <= 1:
        text = (
            f"sum lambda^2 is infinite with {stepsize}: the estimates keep fluctuating about the "
            "optimum, by about the size of the last steps"
        )
        remedy = "choose stepsize.decay above 0 and stepsize.exponent above 0.5, for example 1"
        yield Finding("warn", SCHEDULE, text, remedy)
    u = _attenuation_exponent(algorithm)
    if not u:
        return
    attenuation = f"attenuation.exponent {float(u):g}"
    if u > 1:
        text = f"sum gamma is finite with {attenuation}: the coupling ends before the nodes agree"
        remedy = "choose attenuation.exponent below 1, for example 0.81"
        yield Finding("warn", SCHEDULE, text, remedy)
    if 2 * u <= 1:
        text = f"sum gamma^2 is infinite with {attenuation}: quantisation noise is not averaged out"
        remedy = "choose attenuation.exponent above 0.5, for example 0.81"
        yield Finding("warn", SCHEDULE, text, remedy)
    if 2 * p - u <= 1:
        text = (
            f"sum lambda^2/gamma is infinite with {stepsize} and {attenuation}: gradients pull the "
            "nodes apart faster than they agree"
        )
        yield Finding("warn", SCHEDULE, text, f"choose {_remedy(u)}")


def _remedy(u: Fraction) -> str:
    if u < 1:
        return f"stepsize.exponent above {float((1 + u) / 2):g}"
    return "attenuation.exponent below 1, for example 0.81: at 1 no stepsize meets all conditions"


def _exponent(speed: float, exponent: float) -> Fraction:
    """Return the p of 1/(1 + speed k^p), 0 for a constant; exact for the decimals in the file."""
    return Fraction(repr(exponent)) if speed else Fraction(0)


def _attenuation_exponent(algorithm: Algorithm) -> Fraction:
    attenuation = algorithm.attenuation
    if isinstance(attenuation, Attenuation):
        return _exponent(attenuation.scale, attenuation.exponent)
    return Fraction(0)


def _check_noise(algorithm: Algorithm) -> Finding:
    resolution = resolution_of(algorithm)
    coarse = resolution >= COARSE_RESOLUTION
    noise = f"quantisation noise of about {USUAL_NOISE * resolution:.2g} (standard deviation)"
    attenuated = _attenuation_exponent(algorithm) > 0
    if attenuated and coarse:
        return Finding("ok", SCHEDULE, f"attenuation averages {noise} out, slowly")
    if attenuated:
        return Finding(
            "note",
            SCHEDULE,
            f"attenuation slows the agreement of nodes with different readings and gains little "
            f"here: without it, {noise} would remain; attenuation: none is usually more accurate "
            "after the same rounds",
        )
    if coarse:
        return Finding(
            "warn",
            SCHEDULE,
            f"sum gamma^2 is infinite without attenuation: {noise} remains in every entry however "
            "long the fleet runs",
            "choose a finer resolution (2^-24 costs nothing) or attenuation",
        )
    text = f"no attenuation: {noise} remains in every entry, the resolution is fine enough"
    return Finding("ok", SCHEDULE, text)


def _check_spread(algorithm: Algorithm) -> Finding:
    spread = algorithm.stepsize.spread
    if spread == 0:
        return Finding(
            "note",
            SPREAD,
            "stepsize.spread is 0: all stepsizes are public, so all neighbours of a node together "
            "can compute its gradients exactly; 1 costs hardly any accuracy",
        )
    return Finding("ok", SPREAD, f"every node has random private stepsizes, with spread {spread:g}")
