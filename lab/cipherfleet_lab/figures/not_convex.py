"""Study: a problem that is not convex; fleet and plain descent reach a stationary point."""

from __future__ import annotations

from cipherfleet_lab import problems
from cipherfleet_lab.measures import stationarity

from .gradient_panels import (
    ATTENUATED,
    EXACT,
    EXTRA_STEP,
    MINIBATCH,
    NIDS_STEP,
    SIZE,
    STEPSIZE,
    compare,
)
from .study import Result, Study, StudyEffort, Table

LEAST_SHOWN = 1e-8  # smaller values are rounding errors of sums


def _run(effort: StudyEffort) -> Result:
    drawn_problem = problems.non_convex(minibatch=MINIBATCH)
    compared = compare(effort, problems.non_convex(), drawn_problem, stationarity)
    rounds, last = compared.rounds, compared.last
    exact = last["exact gradients"]
    return Result(
        finding=(
            f"After {rounds[-1]} rounds with exact gradients |grad F| plus disagreement is "
            f"{exact['sealed, no attenuation']:.2g} for the sealed fleet and {exact['DSGD']:.2g} "
            f"for DSGD, {exact[ATTENUATED]:.2g} "
            f"with the articles' attenuation, {exact[EXACT]:.2g} with the exact method."
        ),
        text=(
            "Ten nodes, each on a ring with its four nearest, fit a line to 20 readings of which "
            "about a quarter are 1 to 6 too high, with Geman and McClure's bounded loss; F curves "
            "downwards at the start. There is no single optimum. The measure is the length of F's "
            "gradient at the nodes' mean plus the root mean square of their distances to it; it "
            "is zero "
            f"only if all agree on a stationary point. lambda_k = {STEPSIZE.initial:g}/"
            f"(1 + {STEPSIZE.decay:g} k), spread 1 for the encrypted nodes; gradient tracking with "
            f"0.2, NIDS with {NIDS_STEP:g}, EXTRA with {EXTRA_STEP:g}. The exact method, NIDS and "
            "EXTRA take gradients over whole windows. Medians over {len(compared.seeds)} runs."
        ),
        tables=[
            Table(
                ["system", *last],
                compared.rows(),
                f"|grad F| at the mean plus disagreement after {rounds[-1]} rounds",
            )
        ],
        numbers={"rounds": int(rounds[-1]), "stationarity": last},
        draw=lambda figure: compared.draw(figure, "|grad F| + disagreement", LEAST_SHOWN),
        size=SIZE,
    )


STUDY = Study("not-convex", "A problem that is not convex", _run)
