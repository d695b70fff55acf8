"""The page of the parameter study: a table, three figures, and the command that made them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from cipherfleet_hil.measuring.study import (
    ACCURACIES,
    DEGREE,
    NODES,
    READINGS,
    SEED,
    Reached,
    StudyOutcome,
    StudyResult,
)
from cipherfleet_node.settings.sections import SAFE_KEY_BITS

DATA_FILE, PAGE_FILE = "study.json", "README.md"
_LINES = ("-", "--", ":", "-.")


def write_study(result: StudyResult, folder: Path) -> list[Path]:
    """Write README.md, study.json and the figures into *folder*; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    data, page = folder / DATA_FILE, folder / PAGE_FILE
    data.write_text(json.dumps(msgspec.to_builtins(result), indent=1) + "\n")
    drawn = [_draw(folder / name, draw, result.outcomes) for name, draw in _FIGURES.items()]
    page.write_text(_page(result, drawn))
    return [page, data, *drawn]


# -- the page -----------------------------------------------------------------------------------


def _page(result: StudyResult, drawn: Iterable[Path]) -> str:
    machine = result.machine
    where = f"{machine.cpu}, {machine.cores} cores, load before {machine.load_before}"
    figures = "\n\n".join(f"![{path.stem.replace('-', ' ')}]({path.name})" for path in drawn)
    return f"""# Key size, resolution and dimension against error and time (kind: host)

Every line is a real fleet of {NODES} encrypted daemons with {DEGREE} neighbours each, sealed. They
share one machine with a broker: {where}. Times are those of the whole fleet on this machine, never
those of a device. `average` is average consensus; `mean` minimises the sum of squares with
stepsizes 0.5 / (1 + 0.2 k), spread 0.5. No attenuation. Each node has {READINGS} synthetic readings
(seed {SEED}), equal in all lines of a dimension.

The first rounds build the tables from which later rounds make their obfuscators (64 rounds at one
ciphertext per vector). The rounds of a longer run are shorter; `cipherfleet check` predicts them.

Made by `{result.command}`; all figures of all rounds are in [{DATA_FILE}]({DATA_FILE}).

{figures}

Error is relative to the centralised answer, root mean square over nodes. "rounds (s) to" has
the rounds after which the error stays at or below this value, and the wall time until then; "-"
means not within this run.

{_table(result.outcomes)}
"""


def _table(outcomes: Sequence[StudyOutcome]) -> str:
    heads = [
        "objective", "key bits", "resolution", "d", "ciphertexts", "round, ms", "bytes / edge",
        "error at the end", *(f"rounds (s) to {accuracy:g}" for accuracy in ACCURACIES),
    ]  # fmt: skip
    rows = [heads, ["---"] * len(heads), *map(_row, outcomes)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(outcome: StudyOutcome) -> list[str]:
    case = outcome.case
    return [
        case.objective,
        f"{case.key_bits}" + " (unsafe)" * outcome.unsafe,
        f"2^-{case.resolution_bits}",
        str(case.dimension),
        str(outcome.ciphertexts),
        f"{outcome.round_ms:.0f}",
        f"{outcome.bytes_per_edge_round:,.0f}",
        f"{outcome.error[-1]:.2g}",
        *map(_format_reached, outcome.reached.values()),
    ]


def _format_reached(reached: Reached) -> str:
    return "-" if reached.rounds is None else f"{reached.rounds} ({reached.seconds:.1f})"


# -- the figures --------------------------------------------------------------------------------


def _draw(
    file: Path, draw: Callable[[Any, Sequence[StudyOutcome]], None], of: Sequence[StudyOutcome]
) -> Path:
    import matplotlib as mpl  # takes 0.4 s, which --help must not wait for
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    draw(figure, of)
    # The same outcomes give the same file.
    with mpl.rc_context({"svg.hashsalt": file.name, "svg.fonttype": "path"}):
        figure.savefig(file, metadata={"Date": None})
    return file


def _error_by_resolution(figure: Any, outcomes: Sequence[StudyOutcome]) -> None:
    """Draw one panel per objective, with the smallest safe key and the smallest dimension."""
    objectives = _values(outcomes, "objective")
    dimension = _values(outcomes, "dimension")[0]
    panels = figure.subplots(1, len(objectives), squeeze=False)[0]
    for axes, objective in zip(panels, objectives, strict=True):
        of_it = _select(outcomes, objective=objective)
        bits = next((b for b in _values(of_it, "key_bits") if b >= SAFE_KEY_BITS), None)
        bits = bits or _values(of_it, "key_bits")[0]
        chosen = _select(of_it, key_bits=bits, dimension=dimension)
        for place, outcome in enumerate(chosen):
            rounds = np.arange(1, len(outcome.error) + 1)
            label = f"resolution 2^-{outcome.case.resolution_bits}"
            axes.plot(rounds, outcome.error, _LINES[place % 4], color=f"C{place}", label=label)
        _finish(axes, f"{objective}, d = {dimension}, {bits} bits", "round", "relative error")


def _error_by_time(figure: Any, outcomes: Sequence[StudyOutcome]) -> None:
    """Draw one panel per dimension, with the finest resolution and the first objective."""
    dimensions, finest = _values(outcomes, "dimension"), _values(outcomes, "resolution_bits")[-1]
    objective = _values(outcomes, "objective")[0]
    panels = figure.subplots(1, len(dimensions), squeeze=False, sharey=True)[0]
    for axes, dimension in zip(panels, dimensions, strict=True):
        chosen = _select(outcomes, objective=objective, dimension=dimension, resolution_bits=finest)
        for place, outcome in enumerate(chosen):
            label = f"{outcome.case.key_bits} bits"
            axes.plot(
                outcome.seconds, outcome.error, _LINES[place % 4], color=f"C{place}", label=label
            )
        title = f"{objective}, d = {dimension}, 2^-{finest}"
        _finish(axes, title, "seconds, wall clock", "relative error")


def _round_time(figure: Any, outcomes: Sequence[StudyOutcome]) -> None:
    """Draw the median round time against dimension, one line per key size."""
    axes, finest = figure.subplots(), _values(outcomes, "resolution_bits")[-1]
    objective = _values(outcomes, "objective")[0]
    for place, bits in enumerate(_values(outcomes, "key_bits")):
        chosen = _select(outcomes, objective=objective, key_bits=bits, resolution_bits=finest)
        d = [outcome.case.dimension for outcome in chosen]
        ms = [outcome.round_ms for outcome in chosen]
        axes.plot(d, ms, "o" + _LINES[place % 4], color=f"C{place}", label=f"{bits} bits")
        for outcome in chosen:
            axes.annotate(
                f"{outcome.ciphertexts}", (outcome.case.dimension, outcome.round_ms),
                textcoords="offset points", xytext=(0, 6), fontsize="small", ha="center",
            )  # fmt: skip
    axes.set_xscale("log", base=2)
    title = "time of a round on this machine; numbers: ciphertexts per vector"
    _finish(axes, title, "dimension d", "round, ms (median)")


def _finish(axes: Any, title: str, across: str, up: str) -> None:
    axes.set_yscale("log")
    axes.set_title(f"{title} (host)", fontsize="medium")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(fontsize="small")


def _values(outcomes: Iterable[StudyOutcome], axis: str) -> list[Any]:
    return sorted({getattr(outcome.case, axis) for outcome in outcomes})


def _select(outcomes: Iterable[StudyOutcome], **wanted: object) -> list[StudyOutcome]:
    return [
        outcome
        for outcome in outcomes
        if all(getattr(outcome.case, axis) == value for axis, value in wanted.items())
    ]


_FIGURES: Mapping[str, Callable[[Any, Sequence[StudyOutcome]], None]] = {
    "error-by-resolution.svg": _error_by_resolution,
    "error-by-time.svg": _error_by_time,
    "round-time.svg": _round_time,
}
