"""Study: the two tables of the articles that can be checked, computed and measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from .drawing import BLACK, BLUE, RED
from .study import Result, Study, StudyEffort, Table

RESOLUTION = 0.01
# As printed in the article; the last one lacks a digit, (10-1)^2 * 0.01^2 / 2 is 0.00405.
PRINTED_BOUNDS = {2: 5e-5, 3: 2e-4, 4: 4.5e-4, 5: 8e-4, 6: 1.25e-3, 8: 2.45e-3, 10: 4e-4}
MU = 0.5
PRINTED_NORMS = {1: 0.750, 5: 0.917, 10: 0.955, 20: 0.976, 50: 0.990, 100: 0.995, 200: 0.998}
DRAWS = 40_000
RING = 5  # number of nodes of the ring


def quantisation_bound(nodes: int, dimension: int, resolution: float) -> float:
    """Return the bound (n-1)^2 d delta^2 / 2.

    It bounds E |sum_j (e_j - e_i)|^2, where e_i is the error of rounding x_i and i receives from
    all others with weights of at most one. Checked by
    test_rounding_errors_stay_below_the_articles_bound.
    """
    return (nodes - 1) ** 2 * dimension * resolution**2 / 2


def measured_rounding(nodes: int, resolution: float, samples: int, seed: int) -> float:
    """Return the mean of |sum_j (e_j - e_i)|^2 over nodes and samples, d = 1, in the worst state.

    The variance of rounding is largest half-way between two multiples; the expectation is
    n (n-1) delta^2 / 4.
    """
    rng = np.random.default_rng(seed)
    scaled = np.full((samples, nodes), 0.5)
    errors = resolution * (np.floor(scaled + rng.random(scaled.shape)) - scaled)
    sums = errors.sum(axis=1, keepdims=True) - nodes * errors
    return float(np.mean(sums**2))


def spectral_norm(k: int) -> float:
    """Return |I + gamma_k W - 11'/n| of a ring of RING nodes, gamma_k = 1/(k+1).

    -W is the ring's Laplacian, scaled to the second eigenvalue MU.
    """
    shift = np.roll(np.eye(RING), 1, axis=0)
    laplacian = 2.0 * np.eye(RING) - shift - shift.T
    scaled = MU * laplacian / np.sort(np.linalg.eigvalsh(laplacian))[1]
    matrix = np.eye(RING) - scaled / (k + 1) - np.full((RING, RING), 1.0 / RING)
    return float(np.linalg.norm(matrix, 2))


def _run(effort: StudyEffort) -> Result:
    samples = 2000 if effort.quick else DRAWS
    bounds = [
        (
            n,
            printed,
            quantisation_bound(n, 1, RESOLUTION),
            measured_rounding(n, RESOLUTION, samples, effort.seed),
            n * (n - 1) * RESOLUTION**2 / 4,
        )
        for n, printed in PRINTED_BOUNDS.items()
    ]
    norms = [
        (k, printed, 1 - MU / (k + 1), spectral_norm(k)) for k, printed in PRINTED_NORMS.items()
    ]
    misprinted = [n for n, printed, bound, *_ in bounds if abs(printed - bound) > 0.005 * bound]
    largest_difference = max(abs(printed - norm) for _, printed, _, norm in norms)
    largest_share = max(measured / bound for _, _, bound, measured, _ in bounds)
    return Result(
        finding=(
            f"The quantisation bound holds: rounding reaches at most {largest_share:.1%} of it. "
            "The articles "
            f"print it correctly except for n = {', '.join(map(str, misprinted))}. The printed "
            "spectral "
            f"norms agree with those of a ring to {largest_difference:.1g}, the articles' rounding."
        ),
        text=(
            "(n-1)^2 d delta^2/2 with d = 1 and delta = 0.01 bounds what rounding adds to one "
            "node's coupling term on a complete graph with weights of at most one. Measured: "
            f"{samples} roundings of states half-way between two multiples, where the "
            "variance is "
            "n (n-1) delta^2/4. The articles print 0.0004 for n = 10, in which a digit is missing: "
            "0.00405 is correct. The norm is that of I + gamma_k W - 11'/n for a ring of five "
            "nodes "
            "scaled to mu = 0.5, gamma_k = 1/(k+1)."
        ),
        tables=[
            Table(
                ["n", "printed", "(n-1)^2 d delta^2/2", "measured", "n (n-1) delta^2/4"],
                bounds,
                "Quantisation bound",
            ),
            Table(["k", "printed", "1 - mu gamma_k", "norm of the ring"], norms, "Spectral norm"),
        ],
        numbers={"bounds": bounds, "norms": norms, "misprinted": misprinted},
        draw=lambda figure: _draw(figure, bounds, norms),
        size=(7.2, 3.0),
    )


def _draw(figure: Any, bounds: list[Any], norms: list[Any]) -> None:
    left, right = figure.subplots(1, 2)
    n, printed, bound, measured, _ = zip(*bounds, strict=True)
    left.plot(n, bound, color=BLACK, label="$(n-1)^2\\,d\\,\\delta^2/2$")
    left.plot(n, printed, "o", color=RED, mfc="none", ms=8, label="as printed")
    left.plot(n, measured, "x", color=BLUE, ms=6, label="measured")
    left.set(yscale="log", xlabel="nodes n", title="Quantisation bound, $\\delta = 0.01$")
    left.annotate(
        "a dropped digit", (10, 4e-4), (7.2, 1.6e-4), arrowprops={"arrowstyle": "->"}, fontsize=8
    )
    k, printed, formula, norm = zip(*norms, strict=True)
    right.plot(k, formula, color=BLACK, label="$1 - \\mu\\gamma_k$")
    right.plot(k, printed, "o", color=RED, mfc="none", ms=8, label="as printed")
    right.plot(k, norm, "x", color=BLUE, ms=6, label="of a ring of five nodes")
    right.set(xscale="log", xlabel="round k", title="Spectral norm, $\\mu = 0.5$")
    left.legend(loc="upper left")
    right.legend(loc="lower right")


STUDY = Study("articles", "The articles' tables, checked", _run)
