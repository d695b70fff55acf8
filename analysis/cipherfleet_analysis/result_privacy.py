"""What the section `privacy` protects, from which observers, and what it costs in accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from cipherfleet_node.core.perturbation import (
    Perturbation,
    Perturbed,
    fleet_deviation,
    release_seeds_of,
)
from cipherfleet_node.core.randomness import SEED_BYTES, FloatVector, RoundRandomness
from cipherfleet_node.core.window import FloatMatrix
from cipherfleet_node.findings import Finding
from cipherfleet_node.settings.sections import NodePrivacy
from cipherfleet_provisioning.fleet.fleet import Fleet

from .centralised import common_answer, minimise, recorded_objectives

PRIVACY = "privacy"  # subject of findings
SAMPLES = 500  # of the noise, for the expected error
LARGE_ERROR = 0.1  # of the length of the answer: no digit of it is right
_ANY_SEED = bytes(SEED_BYTES)


def result_privacy_findings(fleet: Fleet) -> Iterator[Finding]:
    """Yield what is protected, from which observers not, and the expected error of the result.

    There is no finding for a fleet without the section `privacy`.
    """
    settings = fleet.privacy
    if settings is None:
        return
    yield _protection(settings)
    yield _limits(fleet)
    error = expected_error(fleet)
    if error is not None:
        text = (
            f"noise and clipping move the result by {error:.2g} of its length in half of all runs"
        )
        remedy = "use more nodes or readings, or a larger privacy.epsilon"
        is_large = error >= LARGE_ERROR
        yield Finding("warn" if is_large else "note", PRIVACY, text, remedy if is_large else "")


def _limits(fleet: Fleet) -> Finding:
    neighbours, remedy = "see gradients at many points", "set algorithm.shield: linear"
    if fleet.has_shield:
        neighbours, remedy = "see more than the result; the shield hides gradients from them", ""
    text = (
        "the section privacy protects nothing from readers of a node's own corrected values, and "
        f"nothing from neighbours, which {neighbours}. The number of readings is not protected"
    )
    return Finding("note", PRIVACY, text, remedy)


def _protection(settings: NodePrivacy) -> Finding:
    epsilon, delta = settings.epsilon, settings.delta
    text = (
        f"epsilon {epsilon:g} and delta {delta:g} protect one reading of one node from observers "
        f"who see the result only; replaced by another reading, it has epsilon {2 * epsilon:g}. "
        "Each provisioned set and each local run is one release; k releases have "
        f"{epsilon:g} k and {delta:g} k"
    )
    if settings.colluders:
        text += f"; up to {settings.colluders:.0%} of the nodes may subtract their noise"
    readings = settings.nodes * settings.readings
    if delta * readings >= 1.0:
        text += f"; delta is not below 1 / {readings:,}, one over the number of readings"
        return Finding("warn", PRIVACY, text, f"set privacy.delta below {0.1 / readings:.0e}")
    return Finding("note", PRIVACY, text)


def expected_error(fleet: Fleet) -> float | None:
    """Return the median error of the result relative to the centralised answer.

    The objective with the bounded loss is minimised once. There the noise b moves the result by
    -H^-1 b, with H the second derivative, to first order. None if readings are not recorded, or if
    the answer is zero.
    """
    settings, recorded = fleet.privacy, recorded_objectives(fleet)
    if settings is None or recorded is None:
        return None
    answer = common_answer(recorded)
    size = 0.0 if answer is None else float(np.linalg.norm(answer))
    if answer is None or not size or not math.isfinite(size):
        return None
    (perturbed,) = perturbed_objectives(fleet, [0])
    quiet = [WithoutNoise(each) for each in perturbed]
    middle = minimise(quiet)
    hessian = np.sum([each.hessian(middle) for each in quiet], axis=0)
    deviation = fleet_deviation(fleet.file.objective, settings)
    deviation /= math.sqrt(1.0 - settings.colluders)  # of the noise of all nodes together
    normal = RoundRandomness(_ANY_SEED).normal("noise", SAMPLES * answer.size)
    moved = -np.linalg.solve(hessian, deviation * normal.reshape(-1, SAMPLES))
    errors = np.linalg.norm((middle - answer)[:, None] + moved, axis=0)
    return float(np.median(errors)) / size


def perturbed_objectives(fleet: Fleet, seeds: Iterable[int]) -> Iterator[list[Perturbed]]:
    """Yield, for each of *seeds*, the objectives of all members with noise from it.

    A seed is no secret. The readings must be recorded ones.
    """
    settings, section = fleet.privacy, fleet.file.objective
    assert settings is not None
    members = [member for member in fleet.members if member.role == "member"]
    samples = {member.id: fleet.recorded(member) or [] for member in members}
    for seed in seeds:
        made = []
        for name, own in samples.items():
            source = release_seeds_of(f"{seed} {name}".encode())
            made.append(Perturbed(section, Perturbation(settings, source)))
            made[-1].absorb(own)
        yield made


class WithoutNoise:
    """A perturbed objective without its b_i: clipped readings and the quadratic term remain."""

    def __init__(self, objective: Perturbed) -> None:
        self._objective = objective
        self.dimension = objective.dimension

    def gradient(self, x: FloatVector, randomness: RoundRandomness) -> FloatVector:
        return self._objective.gradient(x, randomness) - self._objective.noise

    def hessian(self, x: FloatVector) -> FloatMatrix:
        return self._objective.hessian(x)
