"""Study: the effects of key size and resolution on error, range and entries per ciphertext."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cipherfleet_lab import problems
from cipherfleet_lab.measures import mean_squared_error, relative_error
from cipherfleet_lab.systems import Array, Log, Problem
from cipherfleet_node.core.packing import Layout
from cipherfleet_node.core.quantiser import VALUE_BITS
from cipherfleet_node.settings.sections import Stepsize

from .attenuation import lab_stepsize
from .drawing import line_style, powers_of_two
from .seeds import exact_fleet, fleet, measure_end
from .study import Result, Study, StudyEffort, Table

ROUNDS, SEEDS = 1000, 5
EXACT = "the same, exact method"
EXPONENTS = (-32, -28, -24, -20, -16, -12, -10, -8, -6, -4, -2)
KEY_BITS = (1024, 2048, 3072, 4096)
EXCHANGES = {"sealed": 1, "pairwise": 2}  # half weights in a slot
DIMENSION = 128


def errors_by_resolution(
    exponents: Sequence[int], rounds: int, seeds: range
) -> dict[str, list[float]]:
    """Return errors of consensus and least squares, relative to the starts and the optimum."""
    fit = problems.intel_lab()
    starts = np.random.default_rng(seeds[0]).normal(size=(fit.nodes, 4))
    consensus = problems.averages(starts - starts.mean(axis=0), fit.edges)

    def error_per_entry(log: Log, problem: Problem) -> Array:
        """Return the error per entry, in units of the starts' deviation of about one."""
        apart: Array = np.sqrt(mean_squared_error(log, problem) / problem.dimension)
        return apart

    ways = {
        "average consensus": (consensus, Stepsize(), error_per_entry),
        "least squares of the Intel lab": (fit, lab_stepsize(1.0), relative_error),
    }
    errors = {
        name: [
            measure_end(fleet(stepsize, resolution=2.0**e), problem, rounds, seeds, measure)
            for e in exponents
        ]
        for name, (problem, stepsize, measure) in ways.items()
    }
    errors[EXACT] = [
        measure_end(exact_fleet(resolution=2.0**e), fit, rounds, seeds, relative_error)
        for e in exponents
    ]
    return errors


def packing(key_bits: int, half_weights: int) -> tuple[int, int, int]:
    """Return slots per ciphertext, and ciphertexts and bytes of a vector of DIMENSION entries."""
    layout = Layout(key_bits, DIMENSION, half_weights)
    return layout.slots, layout.ciphertexts, layout.ciphertexts * layout.ciphertext_bytes


def _run(effort: StudyEffort) -> Result:
    rounds, seeds = effort.rounds(ROUNDS), effort.seeds(SEEDS)
    exponents = EXPONENTS[1::3] if effort.quick else EXPONENTS
    errors = errors_by_resolution(exponents, rounds, seeds)
    keys = [
        (bits, exchange, *packing(bits, half_weights))
        for bits in KEY_BITS
        for exchange, half_weights in EXCHANGES.items()
    ]
    floors = [e / 2.0**x for x, e in zip(exponents, errors["average consensus"], strict=True)]
    slots = {bits: packing(bits, 1)[0] for bits in KEY_BITS}
    return Result(
        finding=(
            "The key size does not affect the error. It determines how many entries share a "
            f"ciphertext, {slots[2048]} sealed ones at 2048 bits for every resolution. The error "
            "of "
            f"consensus is {min(floors):.2f} .. {max(floors):.2f} resolutions after {rounds} "
            f"rounds, and that of the exact method at 2^{exponents[0]} is {errors[EXACT][0]:.0e}."
        ),
        text=(
            f"Sealed exchange without attenuation, geometric graph of 50 nodes, {rounds} rounds, "
            f"medians over {len(seeds)} runs; least squares as on the page on attenuation, spread "
            "1. A "
            f"value has {VALUE_BITS} bits with its sign, so that a resolution delta covers "
            f"±2^{VALUE_BITS - 1} delta: a finer resolution reduces the range, not the entries "
            "per ciphertext. 1024 bits are unsafe. Bytes are those of the ciphertexts of a query "
            "of "
            f"{DIMENSION} entries."
        ),
        tables=[
            Table(
                ["resolution", "range", *errors],
                [
                    (f"2^{e}", f"±2^{VALUE_BITS - 1 + e}", *row)
                    for e, *row in zip(exponents, *errors.values(), strict=True)
                ],
                f"Error after {rounds} rounds",
            ),
            Table(
                ["key bits", "exchange", "entries in a ciphertext", "ciphertexts", "bytes"],
                keys,
                f"Entries in a ciphertext, and a vector of {DIMENSION} entries",
            ),
        ],
        numbers={
            "rounds": rounds,
            "errors": {
                n: dict(zip(map(str, exponents), e, strict=True)) for n, e in errors.items()
            },
            "keys": keys,
        },
        draw=lambda figure: _draw(figure, exponents, errors),
        size=(7.2, 3.3),
    )


def _draw(figure: Any, exponents: Sequence[int], errors: dict[str, list[float]]) -> None:
    left, right = figure.subplots(1, 2)
    resolutions = [2.0**e for e in exponents]
    for place, (name, line) in enumerate(errors.items()):
        left.plot(resolutions, line, marker="o", ms=3, label=name, **line_style(place + 1))
    left.plot(resolutions, resolutions, color="#777777", lw=0.8, label="one resolution")
    left.set(yscale="log", xlabel="resolution $\\delta$", title="Error")
    powers_of_two(left, [-32, -28, -24, -20, -16, -12, -8, -4])
    left.legend(loc="lower right")
    at = np.arange(len(KEY_BITS))
    for place, (exchange, half_weights) in enumerate(EXCHANGES.items()):
        slots = [packing(bits, half_weights)[0] for bits in KEY_BITS]
        bars = right.bar(
            at + 0.4 * place - 0.2,
            slots,
            0.38,
            label=exchange,
            color=line_style(place + 1)["color"],
        )
        right.bar_label(bars, fontsize=8)
    right.set_xticks(at, ["1024\n(unsafe)", "2048", "3072", "4096"])
    right.set(xlabel="bits of the key", title="Entries in one ciphertext")
    right.grid(visible=False, axis="x")
    right.legend(loc="upper left")


STUDY = Study("key-size", "Key size and resolution against error", _run, True)
