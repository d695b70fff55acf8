"""Study: sliding windows; each method follows an optimum that moves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from cipherfleet_analysis.exact_run import ExactMethod
from cipherfleet_analysis.random_choices import FleetRandomness, SeededRandomness
from cipherfleet_analysis.simulation import Links, run
from cipherfleet_deploy.data_folders import example_folder
from cipherfleet_lab.problems import LAB_GRAPH, SQUARED, Readings, build_edges, lab_readings
from cipherfleet_lab.systems import USUAL_SCALE, Array
from cipherfleet_node.settings.sections import Algorithm, Stepsize

from .drawing import line_style
from .seeds import FINE
from .study import Result, Study, StudyEffort, Table

WINDOW = 96  # readings: two days
READINGS = 144  # of every mote
NODES = 10
PACES = (1, 5, 20)  # rounds per reading
SHOWN_PACE = 20
SETTLED = 10  # readings after which an error counts
SCHEDULES = {
    "article's method, default schedule": Stepsize(),
    "article's method, constant stepsize 0.3": Stepsize(decay=0.0),
}
EXACT = "exact method"


@dataclass(frozen=True)
class Stream:
    """Windows that slide by one reading in every *pace* rounds; all nodes at the same time."""

    phi: Array  # (n, readings, d)
    targets: Array  # (n, readings)
    pace: int

    @property
    def readings(self) -> int:
        """The number of readings that come after the first window."""
        return int(self.targets.shape[1]) - WINDOW

    def window(self, k: int) -> Readings:
        """Return the readings that are in the windows in round *k*."""
        first = min(k // self.pace, self.readings)
        rows = slice(first, first + WINDOW)
        return Readings(self.phi[:, rows], self.targets[:, rows], SQUARED)

    def evaluate(self, x: Array, k: int, randomness: FleetRandomness) -> Array:
        """Return the gradients of all nodes in round *k*, shape (n, d)."""
        del randomness
        return self.window(k).whole_gradients(x)

    def optima(self) -> Array:
        """Return the optimum of every window, shape (readings + 1, d)."""
        return np.array([self.window(k * self.pace).minimum() for k in range(self.readings + 1)])


def errors_of(stream: Stream, algorithm: Algorithm, seed: int) -> Array:
    """Return the error after each round, relative to the length of the optimum of that round."""
    links = Links.between(np.array(build_edges(LAB_GRAPH, len(stream.phi))), len(stream.phi))
    start, optima = np.zeros(stream.phi.shape[::2]), stream.optima()
    rounds = run(
        links, start, stream, algorithm, SeededRandomness(seed), sealed=True,
        method=_method(stream, algorithm),
    )  # fmt: skip
    closed = islice(rounds, stream.readings * stream.pace)
    away = (_error(each.estimates, optima[k // stream.pace]) for k, each in enumerate(closed))
    return np.fromiter(away, np.float64)


def _method(stream: Stream, algorithm: Algorithm) -> ExactMethod | None:
    """Return the exact method with the largest curvature of a node in any window."""
    if algorithm.method != "exact":
        return None
    windows = [stream.window(k * stream.pace) for k in range(stream.readings + 1)]
    bounds = np.array([each.bounds() for each in windows])
    largest = np.linalg.eigvalsh(bounds)[:, :, -1].max(axis=0)
    return ExactMethod(USUAL_SCALE, largest, algorithm.stepsize.spread)


def _error(estimates: Array, optimum: Array) -> float:
    squares = ((estimates - optimum) ** 2).sum(axis=1).mean()
    return float(np.sqrt(squares) / np.linalg.norm(optimum))


def algorithms() -> dict[str, Algorithm]:
    """Return the compared algorithms by label."""
    articles = {
        name: Algorithm(method="article", resolution=FINE, stepsize=stepsize)
        for name, stepsize in SCHEDULES.items()
    }
    return {EXACT: Algorithm(method="exact", resolution=2.0**-32), **articles}


def make_stream(pace: int) -> Stream:
    """Return the readings of the first NODES motes of the Intel lab as a stream."""
    phi, targets = lab_readings(example_folder("intel_lab") / "intel_lab.csv")
    return Stream(phi[:NODES], targets[:NODES], pace)


def _run(effort: StudyEffort) -> Result:
    paces = (SHOWN_PACE,) if effort.quick else PACES
    found = {
        pace: {
            name: errors_of(make_stream(pace), algorithm, effort.seed)
            for name, algorithm in algorithms().items()
        }
        for pace in paces
    }
    lasting = {pace: dict(_lasting(errors, pace)) for pace, errors in found.items()}
    shown = lasting[SHOWN_PACE]
    default, constant = (shown[name] for name in SCHEDULES)
    return Result(
        finding=(
            f"With one reading per {SHOWN_PACE} rounds the exact method follows the moving optimum "
            f"with a root mean square error of {shown[EXACT]:.4f}; the article's method leaves "
            f"{default:.3f} with its default schedule and {constant:.3f} with a constant stepsize."
        ),
        text=(
            f"{NODES} motes of the Intel lab, geometric graph, sealed exchange, least squares over "
            f"the latest {WINDOW} of {READINGS} readings; all nodes get their next reading in "
            "the same round. The error is that of a round's estimates against the optimum of the "
            "windows of that round, relative to its length, root mean square over nodes. The table "
            f"has its root mean square over all rounds after the first {SETTLED} readings. The "
            "default schedule is 0.3/(1 + 0.01 k); no attenuation; spread 1. The exact method has "
            "resolution 2^-32."
        ),
        tables=[
            Table(
                ["rounds per reading", *algorithms()],
                [(f"{pace}", *each.values()) for pace, each in lasting.items()],
                "Root mean square error against the moving optimum",
            )
        ],
        numbers={"window": WINDOW, "root_mean_square": lasting},
        draw=lambda figure: _draw(figure, found[SHOWN_PACE]),
        size=(7.2, 3.4),
    )


def _lasting(errors: Mapping[str, Array], pace: int) -> Iterator[tuple[str, float]]:
    for name, course in errors.items():
        yield name, float(np.sqrt(np.mean(course[SETTLED * pace :] ** 2)))


def _draw(figure: Any, errors: Mapping[str, Array]) -> None:
    axes = figure.subplots()
    for place, (name, course) in enumerate(errors.items()):
        every: npt.NDArray[np.intp] = np.arange(0, len(course), 4)
        axes.plot(every + 1, course[every], label=name, lw=1.0, **line_style(place + 1))
    axes.set(yscale="log", xlabel="round", title="Relative error against the moving optimum")
    axes.legend(loc="upper right")


STUDY = Study("streaming", "Sliding windows: following a moving optimum", _run, True)
