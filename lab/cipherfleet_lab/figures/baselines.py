"""Study: all systems on one problem: accuracy, plaintext on the wire, and who learns what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cipherfleet_deploy.local.results import stays_below
from cipherfleet_lab import problems
from cipherfleet_lab.baselines import (
    AdaGrad,
    DifferentialPrivacy,
    Dsgd,
    Extra,
    GradientTracking,
    Nids,
    Obfuscation,
    PaillierRing,
    PushSum,
    RmsProp,
    Ternary,
)
from cipherfleet_lab.measures import disagreement, relative_error
from cipherfleet_lab.systems import Array, Problem, System
from cipherfleet_node.settings.sections import Attenuation, Stepsize

from .drawing import line_with_band, shown_rounds
from .seeds import ARTICLES, NONE, exact_fleet, fleet
from .study import Result, Study, StudyEffort, Table

ROUNDS, SEEDS, SLOW_SEEDS, WHOLE_SEEDS = 1000, 10, 2, 3
CLOSE = ("1e-2", "1e-4", "1e-6", "1e-8")
MINIBATCH = 36  # of 144 readings
STEPSIZE = problems.LAB_STEPSIZE
RANDOM = Stepsize(STEPSIZE.initial, STEPSIZE.decay, STEPSIZE.exponent, spread=1.0)


EXACT = "cipherfleet sealed, exact"
TRACKING_STEP, NIDS_STEP, EXTRA_STEP = 0.06, 0.4, 0.3  # near the largest that converge
LEAST_SHOWN = 1e-8


@dataclass(frozen=True)
class ComparedSystem:
    """A compared system, its plaintext on the wire, and what an insider learns."""

    system: System
    wire: str
    insider: str
    panel: int  # 0: ways of hiding, 1: other steps and graphs, 2: both panels
    slow: bool = False


def compared_systems(nodes: int) -> dict[str, ComparedSystem]:
    """Return the compared systems by label; DSGD is in both panels."""
    one_way = [(i, (i + step) % nodes) for i in range(nodes) for step in (1, 3, 7)]
    none = "nothing: ciphertexts"
    return {
        "DSGD": ComparedSystem(
            Dsgd(STEPSIZE), "estimate", "an eavesdropper: the exact gradient", 2
        ),
        "cipherfleet sealed": ComparedSystem(
            fleet(RANDOM, NONE), none, "a neighbour: the sum over its neighbours", 0
        ),
        "cipherfleet pairwise": ComparedSystem(
            fleet(RANDOM, NONE, exchange="pairwise"),
            none,
            "a neighbour: sign and direction of each difference",
            0,
        ),
        "cipherfleet sealed, attenuated": ComparedSystem(
            fleet(RANDOM, ARTICLES), none, "a neighbour: the sum over its neighbours", 0
        ),
        "obfuscation": ComparedSystem(
            Obfuscation(STEPSIZE, deviation=1.0),
            "estimate + noise that cancels",
            "all neighbours together: the exact gradient",
            0,
        ),
        "ternary": ComparedSystem(
            Ternary(STEPSIZE, 10.0, Attenuation(scale=1.0, exponent=0.81)),
            "signs, one at a time",
            "an eavesdropper: mean of the signs",
            0,
        ),
        "differential privacy": ComparedSystem(
            DifferentialPrivacy(STEPSIZE, clip=1.0, multiplier=10.0),
            "estimate + noise that stays",
            "an eavesdropper: what epsilon allows",
            0,
        ),
        "Paillier ring": ComparedSystem(
            PaillierRing(STEPSIZE), "mean", "the key holder: the sum, every round", 0, slow=True
        ),
        "gradient tracking": ComparedSystem(
            GradientTracking(TRACKING_STEP),
            "estimate, tracker",
            "an eavesdropper: the exact gradient",
            1,
        ),
        "AdaGrad": ComparedSystem(
            AdaGrad(Stepsize(initial=0.5, decay=0.0)),
            "estimate",
            "an eavesdropper: scaled gradient",
            1,
        ),
        "RMSProp": ComparedSystem(
            RmsProp(Stepsize(initial=0.1, decay=0.02)),
            "estimate",
            "an eavesdropper: scaled gradient",
            1,
        ),
        "push-sum, one-way links": ComparedSystem(
            PushSum(STEPSIZE, one_way), "shares", "an eavesdropper: the exact gradient", 1
        ),
    }


def whole_window_systems() -> dict[str, ComparedSystem]:
    """Return the systems of the third panel, which take gradients over whole windows."""
    none, exact = "nothing: ciphertexts", "an eavesdropper: the exact gradient"
    return {
        "DSGD": ComparedSystem(Dsgd(STEPSIZE), "estimate", exact, 3),
        EXACT: ComparedSystem(
            exact_fleet(), none, "all neighbours together: the gradient at the optimum", 3
        ),
        "cipherfleet pairwise, exact": ComparedSystem(
            exact_fleet(exchange="pairwise"),
            none,
            "all neighbours together: the gradient at the optimum",
            3,
        ),
        "gradient tracking": ComparedSystem(
            GradientTracking(TRACKING_STEP), "estimate, tracker", exact, 3
        ),
        "NIDS": ComparedSystem(Nids(NIDS_STEP), "corrected estimate", exact, 3),
        "EXTRA": ComparedSystem(Extra(EXTRA_STEP), "estimate", exact, 3),
    }


def run_courses(
    entry: ComparedSystem, problem: Problem, rounds: npt.NDArray[np.intp], seeds: Sequence[int]
) -> tuple[Array, float, Mapping[str, float]]:
    """Return errors, shape (seeds, rounds), the last disagreement, and the figures of the log."""
    logs = [entry.system.run(problem, int(rounds[-1]), seed) for seed in seeds]
    errors = np.array([relative_error(log, problem)[rounds] for log in logs])
    apart = float(np.median([disagreement(log)[-1] for log in logs]))
    assert problem.optimum is not None
    return errors, apart / float(np.linalg.norm(problem.optimum)), logs[0].figures


def _run(effort: StudyEffort) -> Result:
    problem = problems.intel_lab(minibatch=MINIBATCH)
    rounds, seeds = shown_rounds(effort.rounds(ROUNDS)), effort.seeds(SEEDS)
    ways = compared_systems(problem.nodes)
    found = {
        name: run_courses(way, problem, rounds, seeds[:SLOW_SEEDS] if way.slow else seeds)
        for name, way in ways.items()
    }
    whole = {
        name: run_courses(way, problems.intel_lab(), rounds, seeds[:WHOLE_SEEDS])
        for name, way in whole_window_systems().items()
    }
    last, last_whole = (
        {name: float(np.median(errors[:, -1])) for name, (errors, _, _) in each.items()}
        for each in (found, whole)
    )
    epsilon = found["differential privacy"][2]["epsilon"]
    rows = [
        (name, last[name], found[name][1], len(found[name][0]), way.wire, way.insider)
        for name, way in ways.items()
    ]
    whole_rows = [
        (name, last_whole[name], *_rounds_to(rounds, whole[name][0]), way.wire, way.insider)
        for name, way in whole_window_systems().items()
    ]
    return Result(
        finding=(
            f"After {rounds[-1]} rounds the sealed fleet's error is "
            f"{last['cipherfleet sealed']:.3f} and that of plain DSGD {last['DSGD']:.3f}; AdaGrad "
            f"and RMSProp are at {last['AdaGrad']:.2f} and {last['RMSProp']:.2f}, off the "
            f"optimum; differential privacy of epsilon {epsilon:.0f} leaves "
            f"{last['differential privacy']:.2f}. Over whole windows the exact method's error is "
            f"{last_whole[EXACT]:.0e}, that of NIDS {last_whole['NIDS']:.0e} and that of EXTRA "
            f"{last_whole['EXTRA']:.0e}."
        ),
        text=_text(len(problem.edges)),
        tables=[
            Table(
                ["system", "relative error", "disagreement", "runs", "on the wire", "who learns"],
                rows,
                f"After {rounds[-1]} rounds, medians, relative to the optimum's length",
            ),
            Table(
                ["system", "relative error", *CLOSE, "on the wire", "who learns"],
                whole_rows,
                f"Whole windows: the error after {rounds[-1]} rounds, and the first of the shown "
                "rounds from which on it is below a level",
            ),
        ],
        numbers={
            "rounds": int(rounds[-1]),
            "relative_error": last,
            "whole_windows": last_whole,
            "disagreement": {name: apart for name, (_, apart, _) in found.items()},
            "epsilon": epsilon,
        },
        draw=lambda figure: _draw(
            figure,
            rounds,
            {name: (ways[name].panel, errors) for name, (errors, *_) in found.items()},
            {name: errors for name, (errors, *_) in whole.items()},
        ),
        size=(9.4, 4.6),
    )


def _text(edges: int) -> str:
    return (
        f"50 motes of the Intel lab, geometric graph of {edges} edges, gradients "
        f"from {MINIBATCH} of 144 readings, random in each round and equal for all systems. "
        "lambda_k = 0.5/(1 + 0.05 k) except for gradient tracking (0.06, constant), AdaGrad "
        "(0.5) "
        "and RMSProp (0.1/(1 + 0.02 k)). Obfuscation with deviation 1, ternary values of 10 "
        "with eps_k = 1/(1 + k^0.81), "
        "privacy by clipping at 1 and noise of ten times the sensitivity (delta = 1e-5), "
        "one-way links from every node to the first, third and seventh after it. The ring's "
        "keys have 256 bits, for the lab only. The third panel and the second table are over "
        f"whole windows: gradient tracking with {TRACKING_STEP:g}, NIDS with {NIDS_STEP:g}, "
        f"EXTRA with {EXTRA_STEP:g}, the exact method without any choice. The measured leakage "
        "is in [Leakage under all attacks](attacks.md)."
    )


def _rounds_to(rounds: npt.NDArray[np.intp], errors: Array) -> list[str]:
    """Return for each of CLOSE the first of *rounds* from which on the median is below it."""
    found = (stays_below(np.median(errors, axis=0).tolist(), float(level)) for level in CLOSE)
    return ["–" if place is None else f"{rounds[place - 1]}" for place in found]


def _draw(
    figure: Any,
    rounds: npt.NDArray[np.intp],
    found: Mapping[str, tuple[int, Array]],
    whole: Mapping[str, Array],
) -> None:
    panels = figure.subplots(1, 3, sharex=True)
    panels[1].sharey(panels[0])
    for panel, axes in enumerate(panels):
        shown = [(name, errors) for name, (where, errors) in found.items() if where in (panel, 2)]
        if panel == 2:
            shown = list(whole.items())
        for place, (name, errors) in enumerate(shown):
            line_with_band(axes, rounds, errors, name, place)
        axes.set(xscale="log", yscale="log", xlabel="round")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2 if panel == 0 else 1)
    panels[0].set(title="Relative error: ways of hiding")
    panels[1].set(title="Relative error: other steps, one-way links")
    panels[2].set(title="Relative error: whole windows")
    panels[2].set_ylim(bottom=LEAST_SHOWN)


STUDY = Study("baselines", "All systems on one problem", _run, True)
