"""Study: private metrics: biased as plain stepsizes, exact as Lambda_i of the exact method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from cipherfleet_analysis.exact_run import ExactMethod
from cipherfleet_analysis.random_choices import SeededRandomness
from cipherfleet_analysis.simulation import Links, run
from cipherfleet_deploy.data_folders import example_folder
from cipherfleet_lab import problems
from cipherfleet_lab.baselines import AdaGrad, Dsgd, PlainMetric, RmsProp
from cipherfleet_lab.measures import relative_error
from cipherfleet_lab.problems import LOGISTIC, SQUARED, Readings
from cipherfleet_lab.systems import Array, Problem, System
from cipherfleet_node.settings.sections import AGREE, Algorithm, MetricName, Scale, Stepsize
from cipherfleet_provisioning.topology.section import Topology

from .drawing import line_style, shown_rounds
from .study import Result, Study, StudyEffort, Table

ROUNDS, LONGEST, SEEDS = 1000, 1500, 3
MOTES = np.round(np.linspace(0, 49, 10)).astype(int)
GRAPH = Topology(kind="geometric", neighbours=4, seed=4)
METRICS: tuple[MetricName, ...] = get_args(MetricName)
LEVELS = (1e-4, 1e-6)
PLAIN_SCALE = 0.15  # near what ten motes agree on with these metrics
FALLING = Stepsize(initial=0.5, decay=0.02, exponent=1.0)
# Factors of the features: one, temperature, sine and cosine of the hour.
SCALINGS = {
    "as in the example": (1.0, 1.0, 1.0, 1.0),
    "temperature x 3": (1.0, 3.0, 1.0, 1.0),
    "temperature x 0.3": (1.0, 0.3, 1.0, 1.0),
    "temperature x 3, sine x 0.3": (1.0, 3.0, 0.3, 1.0),
}


def motes(scaling: tuple[float, ...], *, logistic: bool = False) -> tuple[Readings, Problem]:
    """Return ten motes with scaled features; logistic: is the humidity above 40 %."""
    phi, targets = problems.lab_readings(example_folder("intel_lab") / "intel_lab.csv")
    phi, targets = phi[MOTES] * np.array(scaling), targets[MOTES]
    if logistic:
        readings = Readings(phi, (targets > 0).astype(np.float64), LOGISTIC, penalty=0.01)
    else:
        readings = Readings(phi, targets, SQUARED)
    start, edges = np.zeros((len(phi), 4)), problems.build_edges(GRAPH, len(phi))
    return readings, problems.regression("ten motes", readings, edges, start, readings.minimum())


def method_of(
    readings: Readings, metric: MetricName, spread: float, scale: Scale = AGREE
) -> ExactMethod:
    """Return the exact method of a fleet with these *readings*."""
    bounds = readings.bounds()
    curvatures = np.asarray(np.linalg.eigvalsh(bounds)[:, -1], np.float64)
    return ExactMethod(scale, curvatures, spread, metric=metric, bounds=bounds)


def exact_errors(
    readings: Readings, problem: Problem, metric: MetricName, rounds: int, seed: int
) -> Array:
    """Return the relative error after each round of the exact method, shape (rounds,)."""
    stepsize = Stepsize(spread=1.0)
    algorithm = Algorithm(
        rounds=rounds, resolution=2.0**-32, method="exact", metric=metric, stepsize=stepsize
    )
    links = Links.between(np.array(problem.edges), problem.nodes)
    passed = run(
        links, problem.start, _Gradients(problem), algorithm, SeededRandomness(seed),
        sealed=True, method=method_of(readings, metric, stepsize.spread),
    )  # fmt: skip
    assert problem.optimum is not None
    length = float(np.linalg.norm(problem.optimum))
    away = [each.estimates - problem.optimum for each in islice(passed, rounds)]
    return np.array([np.sqrt(np.mean(np.sum(each**2, axis=1))) / length for each in away])


class _Gradients:
    def __init__(self, problem: Problem) -> None:
        self._problem, self._unused = problem, np.random.default_rng(0)

    def evaluate(self, x: Array, k: int, randomness: object) -> Array:
        """Return the gradients of all nodes."""
        del k, randomness
        return self._problem.all_gradients(x, self._unused)


def rounds_to(errors: Array, level: float) -> int | None:
    """Return the round from which on *errors* stay below *level*; None if the last one is not."""
    above = np.flatnonzero(errors >= level)
    if len(above) == 0:
        return 1
    return None if above[-1] == len(errors) - 1 else int(above[-1]) + 2


def _plain(readings: Readings) -> dict[str, System]:
    plain: dict[str, System] = {
        f"{metric}, plain": PlainMetric(FALLING, method_of(readings, metric, 0.0, PLAIN_SCALE))
        for metric in ("diagonal", "newton")
    }
    return {
        "one mean step (DSGD)": Dsgd(FALLING),
        "AdaGrad": AdaGrad(Stepsize(initial=0.5, decay=0.0)),
        "RMSProp": RmsProp(Stepsize(initial=0.1, decay=0.02)),
        **plain,
    }


def _run(effort: StudyEffort) -> Result:
    rounds, longest = effort.rounds(ROUNDS), effort.rounds(LONGEST)
    seeds, shown = effort.seeds(SEEDS), shown_rounds(rounds)
    readings, problem = motes(SCALINGS["as in the example"])
    plain = {
        name: relative_error(system.run(problem, rounds, effort.seed), problem)[shown]
        for name, system in _plain(readings).items()
    }
    exact: dict[str, Array] = {}
    rows = []
    cases = {name: (scaling, False) for name, scaling in SCALINGS.items()}
    cases["logistic, as in the example"] = SCALINGS["as in the example"], True
    cases["logistic, temperature x 3"] = SCALINGS["temperature x 3"], True
    for case, (scaling, logistic) in cases.items():
        for metric in METRICS:
            own, of = motes(scaling, logistic=logistic)
            runs = [exact_errors(own, of, metric, longest, seed) for seed in seeds]
            rows.append((case, metric, *(_median(runs, level) for level in LEVELS)))
            if case == "as in the example":
                exact[f"{metric}, exact"] = np.median(runs, axis=0)[shown - 1]
    adaptive = [name for name in plain if "DSGD" not in name]
    last = {name: float(errors[-1]) for name, errors in (plain | exact).items()}
    return Result(
        finding=(
            f"After {rounds} rounds the adaptive plain rules are {_range(last, adaptive)} from the "
            "optimum; "
            f"as metrics of the exact method they are within {_range(last, exact)}."
        ),
        text=(
            "10 motes of the Intel lab, geometric graph of the 4 nearest, full windows. Left: "
            "plain stepsizes on plaintext averaging, lambda_k = 0.5/(1 + 0.02 k) (AdaGrad 0.5, "
            "RMSProp 0.1/(1 + 0.02 k)). Right: the exact method, sealed exchange, spread 1, "
            "resolution 2^-32, scale: agree. Rounds to a level: from then "
            f"on below it, medians over {len(seeds)} runs of {longest} rounds."
        ),
        tables=[
            Table(
                ["rule", "relative error"],
                list(last.items()),
                f"After {rounds} rounds",
            ),
            Table(["readings", "metric", "rounds to 1e-4", "rounds to 1e-6"], rows, "Rounds"),
        ],
        numbers={"rounds": rounds, "relative_error": last, "rounds_to": [list(r) for r in rows]},
        draw=lambda figure: _draw(figure, shown, plain, exact),
        size=(7.2, 4.0),
    )


def _median(runs: list[Array], level: float) -> object:
    found = [rounds_to(errors, level) for errors in runs]
    known = [each for each in found if each is not None]
    return int(np.median(known)) if len(known) == len(found) else "not reached"


def _range(last: Mapping[str, float], names: Iterable[str]) -> str:
    values = sorted(last[name] for name in names)
    return f"{values[0]:.2g} .. {values[-1]:.2g}"


def _draw(
    figure: Any, shown: npt.NDArray[np.intp], plain: Mapping[str, Array], exact: Mapping[str, Array]
) -> None:
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, lines in zip(panels, (plain, exact), strict=True):
        for place, (name, errors) in enumerate(lines.items()):
            axes.plot(shown, errors, label=name, **line_style(place))
        axes.set(xscale="log", yscale="log", xlabel="round")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    panels[0].set(title="Relative error: plain stepsizes")
    panels[1].set(title="Relative error: exact method")


STUDY = Study("metrics", "Private metrics", _run, True)
