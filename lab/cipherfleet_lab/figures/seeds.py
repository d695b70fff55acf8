"""Runs of one system over many seeds, and settings that several studies share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt

from cipherfleet_lab.cipherfleet import Cipherfleet
from cipherfleet_lab.systems import Array, Log, Problem, System
from cipherfleet_node.settings.sections import AGREE, Algorithm, Attenuation, Stepsize

Schedule = Attenuation | Literal["none"]
Measure = Callable[[Log, Problem], Array]  # -> (rounds + 1,)

ARTICLES = Attenuation(scale=0.1, exponent=0.81)  # gamma_k = 1/(1 + 0.1 k^0.81)
NONE: Literal["none"] = "none"
FINE = 2.0**-24  # of the article's method in all studies
FINEST = 2.0**-32  # of the exact method


def fleet(
    stepsize: Stepsize,
    attenuation: Schedule = NONE,
    resolution: float = FINE,
    exchange: Literal["pairwise", "sealed"] = "sealed",
) -> Cipherfleet:
    """Return the article's method, encrypted, with all its guards."""
    algorithm = Algorithm(
        method="article", stepsize=stepsize, attenuation=attenuation, resolution=resolution
    )
    return Cipherfleet(exchange, algorithm)


def exact_fleet(
    stepsize: Stepsize | None = None,
    resolution: float = FINEST,
    exchange: Literal["pairwise", "sealed"] = "sealed",
    scale: float | None = None,
) -> Cipherfleet:
    """Return the exact method, encrypted; of *stepsize* it uses the spread and the law only."""
    algorithm = Algorithm(
        method="exact",
        stepsize=stepsize or Stepsize(),
        resolution=resolution,
        scale=AGREE if scale is None else scale,
    )
    return Cipherfleet(exchange, algorithm)


def measure_rounds(
    system: System,
    problem: Problem,
    rounds: npt.NDArray[np.intp],
    seeds: Iterable[int],
    measure: Measure,
) -> Array:
    """Return *measure* after each of the ascending *rounds*, shape (seeds, rounds)."""
    last = int(rounds[-1])
    return np.array([measure(system.run(problem, last, seed), problem)[rounds] for seed in seeds])


def measure_end(
    system: System, problem: Problem, rounds: int, seeds: Iterable[int], measure: Measure
) -> float:
    """Return the median over seeds of *measure* after *rounds* rounds; infinite if it diverged."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = measure_rounds(system, problem, np.array([rounds]), seeds, measure)
    return float(np.median(np.nan_to_num(found, nan=np.inf, posinf=np.inf)))
