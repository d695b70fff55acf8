"""Differential privacy of the result by objective perturbation: noise once, in the objective.

Node i with N_i >= N readings minimises, instead of f_i,

    f_i(x) + b_i . x + Delta / (2 n) |x|^2,    b_i ~ N(0, sd^2 / ((1 - c) n) I)

where n is the number of nodes with readings and c the share of them that may collude. A regressor
phi longer than `norm` is scaled down to it, and its target with it, except for logistic. The
squared loss becomes the Huber loss with threshold `residual`. The nodes still solve one convex
problem, so the exact iteration is unchanged.

**Bounds.** f_i is a mean over N_i readings. The gradient of one of them in it is slope(phi . x, y)
phi / N_i, of length zeta / N at most: zeta is `norm` times the largest slope, which is `residual`
for squares and 1 for logistic. Its curvature is a matrix of rank one with an eigenvalue of at most
lambda / N: lambda is norm^2, or norm^2 / 4 for logistic.

**What is protected.** One reading of one node, from an observer who sees the result only. D and D'
are the readings of the fleet with and without it; its place in N_i stays, so all other weights are
equal. With

    sd = (zeta / N) sqrt(8 ln(2 / delta) + 4 epsilon) / epsilon,    Delta = 2 (lambda / N) / epsilon

the result x is (epsilon, delta)-private. A reading that is *replaced* by another one is two such
changes: (2 epsilon, (1 + e^epsilon) delta). The number of readings is not protected.

**Derivation.** Let B be the sum of the b_i of nodes that do not collude; there are (1 - c) n at
least, so its deviation is sd or more. At the optimum B(x) = -sum grad f_i(x) - Delta x - the b of
the colluders, which is one to one in x because the problem is strongly convex. So the density of x
is that of B(x) times |det B'(x)|, where -B'(x) is the sum of the second derivatives plus Delta I.
The ratio of the densities of x for D and D' has two factors.

* The determinants differ by a matrix of rank one with an eigenvalue of at most lambda / N, added to
  a matrix that is at least Delta I. Their ratio is at most 1 + lambda / (N Delta) = 1 + epsilon / 2
  <= e^(epsilon / 2).
* B(x) differs by v = s phi with |v| <= zeta / N. Only the number s depends on x, not the direction
  phi, so B . phi / (|phi| sd) is a standard normal number. It is within t = sqrt(2 ln(2 / delta))
  but for a probability of delta / 2. Within it the logarithm of the ratio of the normal densities
  is at most r t + r^2 / 2 with r = zeta / (N sd) = epsilon / (2 sqrt(t^2 + epsilon)), and this is
  at most epsilon / 2.

The Huber loss has a second derivative almost everywhere and B(x) is Lipschitz both ways, which is
all that the density needs. A penalty of the objective depends on no reading and only helps.

**One release.** b_i is a function of the node's secret, of the settings, and of the clipped
readings. The same readings give the same noise, over restarts too: the result is released once.
Other readings give independent noise. The results of two releases are two results; see
docs/explanation/differential-privacy.md#accounting.

Source: Kifer, Smith, Thakurta, Private convex empirical risk minimization, COLT 2012. Checked by
test_the_gradient_of_a_clipped_reading_is_bounded_at_every_point,
test_the_densities_of_two_neighbouring_fleets_have_the_stated_ratio and
test_the_fleet_ends_at_the_central_perturbed_optimum.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cipherfleet_node.errors import ConfigError
from cipherfleet_node.settings.sections import NodePrivacy, ObjectiveSection, Privacy

from .objective import HuberLoss, LogisticLoss, Regression
from .randomness import FloatVector, RoundRandomness
from .sample import Sample
from .window import FloatMatrix, Window

ReleaseSeeds = Callable[[bytes], bytes]  # from the digest of a release to the seed of its noise


@dataclass(frozen=True)
class Perturbation:
    """The settings of a node, and the seeds of its noise."""

    settings: NodePrivacy
    seeds: ReleaseSeeds


def release_seeds_of(secret: bytes) -> ReleaseSeeds:
    """Return the seeds of a node with this *secret*: HMAC-SHA256 of the digest of the release."""

    def seed(release: bytes) -> bytes:
        return hmac.digest(secret, b"cipherfleet/v2/release\0" + release, "sha256")

    return seed


# -- bounds and noise ------------------------------------------------------------------------------


def private_loss(section: ObjectiveSection, privacy: Privacy) -> LogisticLoss | HuberLoss:
    """Return the loss with a bounded slope that replaces that of *section*."""
    if section.kind == "logistic":
        return LogisticLoss()
    return HuberLoss(largest_slope(section, privacy))


def largest_slope(section: ObjectiveSection, privacy: Privacy) -> float:
    """Return the largest slope of the loss; kind huber has a threshold of its own, too."""
    if section.kind == "logistic":
        return 1.0
    if section.kind == "huber":
        return min(section.threshold, privacy.residual)
    return privacy.residual


def gradient_bound(section: ObjectiveSection, privacy: NodePrivacy) -> float:
    """Return zeta / N, the largest length of one reading's gradient in f_i."""
    return privacy.norm * largest_slope(section, privacy) / privacy.readings


def curvature_bound(section: ObjectiveSection, privacy: NodePrivacy) -> float:
    """Return lambda / N, the largest curvature of one reading in f_i."""
    return privacy.norm**2 * private_loss(section, privacy).most_curved / privacy.readings


def fleet_deviation(section: ObjectiveSection, privacy: NodePrivacy) -> float:
    """Return sd, the standard deviation of each entry of the noise on the sum of all f_i."""
    epsilon = privacy.epsilon
    root = math.sqrt(8.0 * math.log(2.0 / privacy.delta) + 4.0 * epsilon)
    return gradient_bound(section, privacy) * root / epsilon


def node_deviation(section: ObjectiveSection, privacy: NodePrivacy) -> float:
    """Return the standard deviation of each entry of b_i."""
    honest = (1.0 - privacy.colluders) * privacy.nodes
    return fleet_deviation(section, privacy) / math.sqrt(honest)


def added_curvature(section: ObjectiveSection, privacy: NodePrivacy) -> float:
    """Return Delta / n, the curvature that each node adds."""
    return 2.0 * curvature_bound(section, privacy) / privacy.epsilon / privacy.nodes


def clip_rows(rows: FloatMatrix, norm: float, *, with_targets: bool) -> FloatMatrix:
    """Return *rows* with every regressor scaled down to length *norm* if it is longer.

    *rows* has shape (N, d + 1), with the target in the last column. *with_targets* scales the
    target of such a row as well. The row then fits the same parameters and counts less, so the
    optimum moves little. A class of kind logistic cannot be scaled.
    """
    lengths = np.linalg.norm(rows[:, :-1], axis=1, keepdims=True)
    factors = norm / np.maximum(lengths, norm)
    targets = rows[:, -1:] * factors if with_targets else rows[:, -1:]
    return np.hstack([rows[:, :-1] * factors, targets])


def digest_of_release(rows: FloatMatrix, section: ObjectiveSection, privacy: NodePrivacy) -> bytes:
    """Return the SHA-256 of the clipped *rows* and of all settings on which the result depends.

    Settings are listed one by one: a new setting of a later version must not change the noise.
    """
    reals = (
        section.penalty,
        section.threshold,
        privacy.epsilon,
        privacy.delta,
        privacy.norm,
        privacy.residual,
        privacy.colluders,
    )
    counts = (privacy.readings, privacy.nodes, *rows.shape)
    settings = " ".join([section.kind, *map(repr, map(float, reals)), *map(str, counts)])
    values = (rows + 0.0).astype(">f8").tobytes()  # -0.0 becomes 0.0
    return hashlib.sha256(settings.encode() + b"\0" + values).digest()


# -- the objective ---------------------------------------------------------------------------------


class Perturbed:
    """A regression over clipped readings, with the noise and the quadratic term of a release.

    `window` keeps the readings as they are, for what a node publishes of its own. The gradient sees
    clipped ones only. Raises ConfigError in `absorb` if there are fewer readings than the settings
    promise: the bounds would be wrong.
    """

    def __init__(self, section: ObjectiveSection, perturbation: Perturbation) -> None:
        settings = perturbation.settings
        loss = private_loss(section, settings)
        self._readings, self._clipped = Regression(section, loss), Regression(section, loss)
        self._section, self._settings, self._seeds = section, settings, perturbation.seeds
        self.fields = self._readings.fields
        self.dimension = self._readings.dimension
        self.added = added_curvature(section, settings)
        self._release: tuple[FloatMatrix, FloatVector] | None = None  # rows, and b_i for them

    @property
    def window(self) -> Window:
        """The readings as they are: they are not clipped."""
        return self._readings.window

    @property
    def ready(self) -> bool:
        """True as soon as there is one reading; `absorb` refuses too few."""
        return self._readings.ready

    def absorb(self, samples: Sequence[Sample]) -> None:
        """Add the readings of the release.

        Raises ConfigError if there are fewer than the settings promise, and for a target that the
        loss does not allow.
        """
        self._readings.absorb(samples)
        found, least = len(self.window), self._settings.readings
        if samples and found < least:
            raise ConfigError(
                f"privacy.readings is {least}: the noise is for nodes with at least as many "
                f"readings, and this node has {found}",
                remedy="set privacy.readings in fleet.yaml to the least number of readings of a "
                "node, or leave it out, and provision the fleet again",
            )

    def start(self) -> FloatVector:
        """Return zero, which is the same on all nodes."""
        return self._readings.start()

    @property
    def noise(self) -> FloatVector:
        """b_i of the current readings, shape (d,). It is private."""
        rows = self.window.rows
        if self._release is None or self._release[0] is not rows:
            self._release = rows, self._open_release(rows)
        return self._release[1]

    def gradient(self, x: FloatVector, randomness: RoundRandomness) -> FloatVector:
        """Return the gradient over all clipped readings, plus b_i + Delta / n x; shape (d,)."""
        noise = self.noise
        return self._clipped.gradient(x, randomness) + noise + self.added * x

    def curvature(self) -> float:
        """Return the largest eigenvalue of the second derivative over all x."""
        return self._current.curvature() + self.added

    def curvature_bound(self) -> FloatMatrix:
        """Return a matrix H, shape (d, d), with hessian(x) <= H at every x."""
        return self._with_added(self._current.curvature_bound())

    def hessian(self, x: FloatVector) -> FloatMatrix:
        """Return the second derivative at *x*, shape (d, d)."""
        return self._with_added(self._current.hessian(x))

    @property
    def _current(self) -> Regression:
        """The regression over the clipped readings of the current release."""
        _ = self.noise
        return self._clipped

    def _with_added(self, matrix: FloatMatrix) -> FloatMatrix:
        result: FloatMatrix = matrix + self.added * np.eye(self.dimension)
        return result

    def _open_release(self, rows: FloatMatrix) -> FloatVector:
        """Clip *rows*, and return the noise that belongs to them."""
        is_scaled = self._section.kind != "logistic"
        clipped = clip_rows(rows, self._settings.norm, with_targets=is_scaled)
        self._clipped.window.rows = clipped
        seed = self._seeds(digest_of_release(clipped, self._section, self._settings))
        deviation = node_deviation(self._section, self._settings)
        noise: FloatVector = deviation * RoundRandomness(seed).normal("noise", self.dimension)
        return noise
