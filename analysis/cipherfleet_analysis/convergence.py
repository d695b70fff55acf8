"""How fast a fleet mixes, and whether its schedule can converge, said before anything is sent.

Notation: a_ij = m_ij h_ij h_ji is the coupling weight of one edge in one round, m_ij the public
Metropolis factor, h_ij the private half weight, in the sealed exchange one h_i for all edges of i;
L is the graph Laplacian weighted with a_ij.
Averaging (no gradient, gamma = 1) is x <- (I - L) x; the disagreement d is x minus its mean.
Everything about mixing assumes that every neighbour answers in every round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from cipherfleet_node.core.exchange import metropolis
from cipherfleet_node.core.packing import HALF_WEIGHT_BITS, METROPOLIS_BITS
from cipherfleet_node.core.quantiser import START_NOISE
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import Algorithm, Attenuation, resolution_of
from cipherfleet_provisioning.topology.graph import Graph

Matrix = npt.NDArray[np.float64]

# Every half weight h that can be drawn, all equally likely: H / 2^12, H odd, of exactly 12 bits.
_HALF_WEIGHTS = (
    np.arange(2 ** (HALF_WEIGHT_BITS - 1) + 1, 2**HALF_WEIGHT_BITS, 2) / 2.0**HALF_WEIGHT_BITS
)
# The law of a/m = h h', two independent half weights.
MEAN = float(_HALF_WEIGHTS.mean()) ** 2
MEAN_SQUARE = float((_HALF_WEIGHTS**2).mean()) ** 2
# The covariance of a/m of two edges that share a node, and with it one half weight, when sealed.
SEALED_COVARIANCE = float(_HALF_WEIGHTS.var()) * MEAN
LOWEST, HIGHEST = float(_HALF_WEIGHTS[0]) ** 2, float(_HALF_WEIGHTS[-1]) ** 2

FAILURE_PROBABILITY = 1e-6  # of RoundsToConsensus.expected, an upper bound
NOISE_PEAK = 6.0  # standard deviations of quantisation noise set aside: one in 5e8 for a normal law

COARSE_RESOLUTION = 1e-3
USUAL_NOISE = 0.5  # resolutions; disagreement_floor is 0.3 to 0.5 on all but long, thin graphs


# -- mixing -------------------------------------------------------------------------------------


def metropolis_laplacian(graph: Graph, power: int = 1) -> Matrix:
    """The Laplacian weighted with m_ij^power, of shape (n, n), nodes in the graph's order."""
    place = {node: i for i, node in enumerate(graph.ids)}
    adjacency = np.zeros((len(graph.ids), len(graph.ids)))
    for a, b in graph.edges:
        factor = metropolis(graph.degree(a), graph.degree(b)) / 2.0**METROPOLIS_BITS
        adjacency[place[a], place[b]] = factor**power
    adjacency += adjacency.T
    laplacian: Matrix = np.diag(adjacency.sum(axis=1)) - adjacency
    return laplacian


def spectral_gap(graph: Graph) -> float:
    """1 minus the spectral norm of E[I - L] on disagreements, in (0, 1]; 0 would never mix."""
    rates = np.linalg.eigvalsh(metropolis_laplacian(graph))[1:]  # the first is the mean's, 0
    return float(1 - np.abs(1 - MEAN * rates).max())


def mean_square_contraction(graph: Graph, *, sealed: bool) -> float:
    """The least rho with E|(I - L) d|^2 <= rho |d|^2 for every disagreement d, in (0, 1).

    It is the greatest eigenvalue of E[(I - L)^2] = I - 2 E[L] + E[L^2] on disagreements.
    Checked by test_mean_square_contraction_is_that_of_drawn_weights.
    """
    mean, square = _moments(graph, sealed=sealed)
    n = len(graph.ids)
    # J/n takes the eigenvalue 1 of the mean away; all others are positive.
    operator = np.eye(n) - 2 * mean + square - np.full((n, n), 1 / n)
    return float(np.linalg.eigvalsh(operator)[-1])


def worst_contraction(graph: Graph) -> float:
    """A bound on |(I - L) d| / |d| that holds whatever half weights are drawn, in (0, 1).

    L lies between LOWEST L_m and HIGHEST L_m (L_m with weights m_ij) as a quadratic form, hence so
    does every one of its eigenvalues (Weyl): what counts is the slowest mode under the lightest
    weights and the fastest under the heaviest.
    """
    rates = np.linalg.eigvalsh(metropolis_laplacian(graph))[1:]
    return float(max(1 - LOWEST * rates[0], HIGHEST * rates[-1] - 1))


def _moments(graph: Graph, *, sealed: bool) -> tuple[Matrix, Matrix]:
    """E[L] and E[L^2], from the Laplacians L_1 and L_2 weighted with m_ij and m_ij^2.

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
    """The accuracy asked for lies below the quantisation noise; the text names a cure."""


@dataclass(frozen=True)
class RoundsToConsensus:
    """How many rounds plain averaging needs.

    expected: fails with a probability of at most FAILURE_PROBABILITY, per entry of the estimate;
    guaranteed: suffices whatever half weights are drawn.
    """

    expected: int
    guaranteed: int

    @property
    def rounds(self) -> int:
        """The figure to run with: either bound is enough by itself."""
        return min(self.expected, self.guaranteed)


def rounds_to_consensus(
    graph: Graph,
    accuracy: float = 1e-4,
    reading_range: float = 1.0,
    resolution: float = 0.0,
    *,
    sealed: bool,
) -> RoundsToConsensus:
    """Rounds until every node is within accuracy * reading_range of the readings' mean.

    reading_range is the greatest minus the least reading, resolution the quantiser's, both in the
    readings' unit; accuracy is a fraction in (0, 1). With t the tolerance accuracy * reading_range
    less NOISE_PEAK standard deviations of quantisation noise (see noise_floor), and
    |d_0|^2 <= n reading_range^2 / 4 (Popoviciu; the start's own randomness widens the range):

        expected:    P(|d_K| > t) <= rho^K |d_0|^2 / t^2 <= FAILURE_PROBABILITY  (Markov),
                     rho the mean_square_contraction
        guaranteed:  r^K |d_0| <= t, r the worst_contraction

    A node's error is at most |d_K|. Raises AccuracyError if noise would take more than half
    of the tolerance, ValueError for arguments outside their range.
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
                f"resolution {resolution:.3g} makes {noise:.2g}; 2^{power} would do"
            )
        tolerance -= noise
    return _rounds(*rates, start, tolerance)


def _rounds(mean_square: float, worst: float, start: float, tolerance: float) -> RoundsToConsensus:
    needed = math.log(start / tolerance)
    doubt = -math.log(FAILURE_PROBABILITY)
    expected = (2 * needed + doubt) / -math.log(mean_square)
    guaranteed = needed / -math.log(worst)
    return RoundsToConsensus(max(1, math.ceil(expected)), max(1, math.ceil(guaranteed)))


def round_noise(graph: Graph, *, sealed: bool) -> Matrix:
    """The covariance that one round of averaging adds at most, shape (n, n), in resolutions^2.

    N = E[L^2]/4 + diag(sum_j E[a_ij^2])/12: the rounding of the states, and the dither of the
    answers, which is independent at both ends of an edge.
    Checked by test_one_round_adds_the_round_noise.
    """
    _, square = _moments(graph, sealed=sealed)
    dither = MEAN_SQUARE * np.diag(np.diag(metropolis_laplacian(graph, 2))) / 12
    noise: Matrix = square / 4 + dither
    return noise


def disagreement_floor(graph: Graph, resolution: float, *, sealed: bool) -> float:
    """A bound on the standard deviation of a node from the fleet's mean once averaging has settled.

    In the unit of *resolution*, per entry. With c the greatest eigenvalue of round_noise relative
    to I - E[(I - L)^2] on disagreements, a covariance of at most c I stays so from round to round:
    c E[(I - L)^2] + N <= c I.
    Checked by test_quantised_averaging_is_no_noisier_than_the_noise_floor.
    """
    mean, square = _moments(graph, sealed=sealed)
    decay, modes = np.linalg.eigh(2 * mean - square)
    scaled = modes[:, 1:] / np.sqrt(decay[1:])  # without the first mode, the fleet's mean
    relative = scaled.T @ round_noise(graph, sealed=sealed) @ scaled
    return resolution * math.sqrt(float(np.linalg.eigvalsh(relative)[-1]))


def noise_floor(graph: Graph, resolution: float, rounds: int, *, sealed: bool) -> float:
    """A bound on the standard deviation of a node from the readings' mean, after *rounds*.

    In the unit of *resolution*, per entry, of plain averaging. To disagreement_floor it adds the
    drift of the fleet's own mean, which the randomised start moves once and dither in every round.
    """
    n = len(graph.ids)
    drift = START_NOISE**2 / 3 / n + rounds * float(round_noise(graph, sealed=sealed).sum()) / n**2
    settled = disagreement_floor(graph, resolution, sealed=sealed)
    return math.hypot(settled, resolution * math.sqrt(drift))


# -- the schedule -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Note:
    """One line of advice: ok (as it should be), note (worth knowing) or warn (will disappoint)."""

    level: Literal["ok", "note", "warn"]
    text: str


def schedule_notes(algorithm: Algorithm) -> list[Note]:
    """What ALGORITHM section 2 says of the stepsizes lambda_k and the attenuation gamma_k.

    With lambda ~ k^-p and gamma ~ k^-u the sums behave as wanted when 1/2 < u <= 1, p <= 1 and
    2p - u > 1. They speak of endless runs; the notes on noise and spread of any run.
    """
    notes = [Note("warn", text) for text in _failing_sums(algorithm)]
    if not notes:
        notes = [Note("ok", f"{_wanted_sums(algorithm)}: as they should be")]
    return [*notes, _noise_note(algorithm), _spread_note(algorithm)]


def _wanted_sums(algorithm: Algorithm) -> str:
    if _attenuation_exponent(algorithm):
        return "sum lambda and sum gamma infinite, sums lambda^2, gamma^2 and lambda^2/gamma finite"
    return "sum lambda infinite, sum lambda^2 finite"


def _failing_sums(algorithm: Algorithm) -> list[str]:
    """A sentence for every condition that fails; gamma constant is judged by _noise_note."""
    p = _exponent(algorithm.stepsize.decay, algorithm.stepsize.exponent)
    stepsize = f"stepsize.exponent {float(p):g}" if p else "a constant stepsize"
    failing = []
    if p > 1:
        failing.append(
            f"sum lambda is finite with {stepsize}: the estimates stop short of the optimum; "
            "choose at most 1"
        )
    if 2 * p <= 1:
        failing.append(
            f"sum lambda^2 is infinite with {stepsize}: the estimates keep hovering about the "
            "optimum, as far off as the last stepsizes reach; choose a decay above 0 and an "
            "exponent above 0.5, for example 1"
        )
    u = _attenuation_exponent(algorithm)
    if not u:
        return failing
    attenuation = f"attenuation.exponent {float(u):g}"
    if u > 1:
        failing.append(
            f"sum gamma is finite with {attenuation}: the nodes stop listening to each other "
            "before they agree; choose below 1, for example 0.81"
        )
    if 2 * u <= 1:
        failing.append(
            f"sum gamma^2 is infinite with {attenuation}: quantisation noise is not averaged out; "
            "choose above 0.5, for example 0.81"
        )
    if 2 * p - u <= 1:
        failing.append(
            f"sum lambda^2/gamma is infinite with {stepsize} and {attenuation}: gradients pull the "
            f"nodes apart faster than they agree; choose {_remedy(u)}"
        )
    return failing


def _remedy(u: Fraction) -> str:
    if u < 1:
        return f"stepsize.exponent above {float((1 + u) / 2):g}"
    return "attenuation.exponent below 1, for example 0.81: at 1 no stepsize meets all conditions"


def _exponent(speed: float, exponent: float) -> Fraction:
    """The p of 1/(1 + speed k^p), 0 for a constant; exact in the operator's own decimals."""
    return Fraction(repr(exponent)) if speed else Fraction(0)


def _attenuation_exponent(algorithm: Algorithm) -> Fraction:
    attenuation = algorithm.attenuation
    if isinstance(attenuation, Attenuation):
        return _exponent(attenuation.scale, attenuation.exponent)
    return Fraction(0)


def _noise_note(algorithm: Algorithm) -> Note:
    resolution = resolution_of(algorithm)
    coarse = resolution >= COARSE_RESOLUTION
    noise = f"quantisation noise of about {USUAL_NOISE * resolution:.2g} (standard deviation)"
    attenuated = _attenuation_exponent(algorithm) > 0
    if attenuated and coarse:
        return Note("ok", f"attenuation averages {noise} out, slowly")
    if attenuated:
        return Note(
            "note",
            f"attenuation slows the agreement of unlike nodes and gains little here: without it, "
            f"{noise} would stay; attenuation: none is usually nearer after the same rounds",
        )
    if coarse:
        return Note(
            "warn",
            f"sum gamma^2 is infinite without attenuation: {noise} stays in every entry however "
            "long the fleet runs; choose a finer resolution (2^-24 costs nothing) or attenuation",
        )
    return Note(
        "ok", f"no attenuation: {noise} stays in every entry, the resolution is fine enough"
    )


def _spread_note(algorithm: Algorithm) -> Note:
    spread = algorithm.stepsize.spread
    if spread == 0:
        return Note(
            "note",
            "stepsize.spread is 0: all stepsizes are public, so that all neighbours of a node "
            "together compute its gradients exactly; 1 costs next to no accuracy",
        )
    return Note("ok", f"every node draws stepsizes of its own, spread {spread:g} about their mean")
