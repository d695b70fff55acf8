"""Study: logistic regression, with a different mixture of two classes at every node."""

from __future__ import annotations

from cipherfleet_lab import problems
from cipherfleet_lab.measures import relative_error

from .gradient_panels import MINIBATCH, SIZE, STEPSIZE, compare
from .study import Result, Study, StudyEffort, Table


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
            f"20 readings per gradient (DSGD's {drawn['DSGD']:.3f})."
        ),
        text=(
            "Ten nodes, each on a ring with its four nearest, 20 readings of three regressors and "
            "a bias, generated from a seed; penalty 0.05/2 |x|^2. lambda_k = "
            f"{STEPSIZE.initial:g}/(1 + {STEPSIZE.decay:g} k), spread 1 for the encrypted nodes; "
            "gradient tracking with 0.2. Relative error, root mean square over nodes, medians over "
            f"{len(compared.seeds)} runs."
        ),
        tables=[
            Table(
                ["system", *last],
                [(name, *(last[kind][name] for kind in last)) for name in drawn],
                f"Relative error after {rounds[-1]} rounds",
            )
        ],
        numbers={"rounds": int(rounds[-1]), "relative_error": last},
        draw=lambda figure: compared.draw(figure, "relative error", 1e-4),
        size=SIZE,
    )


STUDY = Study("logistic", "Logistic regression", _run)
