"""Study: the accuracy that differential privacy costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cipherfleet_lab import problems
from cipherfleet_lab.baselines import DifferentialPrivacy, Dsgd
from cipherfleet_lab.baselines.differential_privacy import epsilon
from cipherfleet_lab.measures import relative_error

from .attenuation import lab_stepsize
from .drawing import line_style
from .seeds import fleet, measure_end
from .study import Result, Study, StudyEffort, Table

ROUNDS = (100, 300, 1000)
SEEDS, CLIP, DELTA = 10, 1.0, 1e-5
MULTIPLIERS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


def _run(effort: StudyEffort) -> Result:
    seeds, problem = effort.seeds(SEEDS), problems.intel_lab()
    lengths = [effort.rounds(rounds) for rounds in ROUNDS]
    found = {
        rounds: [
            (
                epsilon((rounds - 1) / (2 * z**2), DELTA),
                measure_end(_make_system(z), problem, rounds, seeds, relative_error),
            )
            for z in MULTIPLIERS
        ]
        for rounds in dict.fromkeys(lengths)
    }
    clear = measure_end(Dsgd(lab_stepsize(0.0)), problem, lengths[-1], seeds[:1], relative_error)
    sealed = measure_end(fleet(lab_stepsize(1.0)), problem, lengths[-1], seeds[:3], relative_error)
    nearest = min(found[lengths[-1]], key=lambda point: abs(point[0] - 10.0))
    return Result(
        finding=(
            f"At epsilon {nearest[0]:.1f} the noise leaves a relative error of {nearest[1]:.2f} "
            f"after {lengths[-1]} rounds, where the sealed fleet has {sealed:.3f} and DSGD "
            f"{clear:.3f}; the two protect different things."
        ),
        text=(
            "50 motes of the Intel lab, geometric graph, lambda_k = 0.5/(1 + 0.05 k); gradients "
            f"clipped at {CLIP:g}, every message with normal noise of 0.2 to 50 times its "
            "sensitivity; all readings of one node are protected against every observer; "
            f"delta = {DELTA:g}; medians over {len(seeds)} runs. epsilon = rho + 2 "
            "sqrt(rho ln(1/delta)), rho = (rounds - 1)/(2 multiplier^2). Encryption limits who "
            "sees a message, differential privacy limits what a message reveals. A coalition of "
            "neighbours circumvents the first, no observer circumvents the second."
        ),
        tables=[
            Table(
                ["noise over sensitivity"]
                + [f"{what}, {rounds} rounds" for rounds in found for what in ("epsilon", "error")],
                [
                    (f"{z:g}", *(v for points in found.values() for v in points[place]))
                    for place, z in enumerate(MULTIPLIERS)
                ],
            )
        ],
        numbers={
            "delta": DELTA,
            "sealed": sealed,
            "dsgd": clear,
            "by_rounds": {str(rounds): points for rounds, points in found.items()},
        },
        draw=lambda figure: _draw(figure, found, sealed, clear, lengths[-1]),
        size=(6.4, 3.4),
    )


def _make_system(multiplier: float) -> DifferentialPrivacy:
    return DifferentialPrivacy(lab_stepsize(0.0), CLIP, multiplier, DELTA)


def _draw(
    figure: Any,
    found: Mapping[int, list[tuple[float, float]]],
    sealed: float,
    clear: float,
    rounds: int,
) -> None:
    axes = figure.subplots()
    for place, (length, points) in enumerate(found.items()):
        style = {"marker": "o", "ms": 3, **line_style(place + 1)}
        axes.plot(*zip(*points, strict=True), label=f"{length} rounds", **style)
    lines = {
        f"sealed fleet, {rounds} rounds": (sealed, "-"),
        f"DSGD, {rounds} rounds": (clear, ":"),
    }
    for name, (error, dashes) in lines.items():
        axes.axhline(error, color="black", linestyle=dashes, lw=1, label=name)
    axes.set(xscale="log", yscale="log", xlabel="epsilon (weaker to the right)")
    axes.set(title="Relative error against privacy")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


STUDY = Study("differential-privacy", "The price of differential privacy", _run, True)
