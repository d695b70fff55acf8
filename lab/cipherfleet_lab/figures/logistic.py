"""Study: logistic regression, with a different mixture of two classes at every node."""

from __future__ import annotations

from cipherfleet_lab import problems
from cipherfleet_lab.measures import relative_error

from .gradient_panels import EXACT, EXTRA_STEP, MINIBATCH, NIDS_STEP, SIZE, STEPSIZE, compare
from .study import Result, Study, StudyEffort, Table

LEAST_SHOWN = 1e-8


def _run(effort: StudyEffort) -> Result:
    drawn_problem = problems.logistic(minibatch=MINIBATCH)
    compared = compare(effort, problems.logistic(), drawn_problem, relative_error)
    rounds, last = compared.rounds, compared.last
    exact, drawn = last.values()
    return Result(
        finding=(
            f"After {rounds[-1]} rounds the sealed fleet's error is "
            f"{exact['sealed, no attenuation']:.3f} with exact gradients (DSGD's "
            f"{exact['DSGD']:.3f}) and {drawn['sealed, no attenuation']:.3f} with {MINIBATCH} of "
            f"20 readings per gradient (DSGD's {drawn['DSGD']:.3f}). The exact method's error is "
            f"{exact[EXACT]:.0e}."
        ),
        text=(
            "Ten nodes, each on a ring with its four nearest, 20 readings of three regressors and "
            "a bias, generated from a seed; penalty 0.05/2 |x|^2. lambda_k = "
            f"{STEPSIZE.initial:g}/(1 + {STEPSIZE.decay:g} k), spread 1 for the encrypted nodes; "
            f"gradient tracking with 0.2, NIDS with {NIDS_STEP:g}, EXTRA with {EXTRA_STEP:g}. The "
            "exact method, NIDS and EXTRA take gradients over whole windows. Relative error, root "
            "mean square over nodes, medians over "
            f"{len(compared.seeds)} runs."
        ),
        tables=[
            Table(
                ["system", *last],
                compared.rows(),
                f"Relative error after {rounds[-1]} rounds",
            )
        ],
        numbers={"rounds": int(rounds[-1]), "relative_error": last},
        draw=lambda figure: compared.draw(figure, "relative error", LEAST_SHOWN),
        size=SIZE,
    )


STUDY = Study("logistic", "Logistic regression", _run)
