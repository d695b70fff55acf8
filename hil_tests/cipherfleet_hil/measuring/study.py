"""Parameter study: key size, resolution and dimension against error and wall time.

Every case is a real fleet: daemons, broker, ciphertexts. The readings are synthetic, and equal in
all cases of one dimension. All nodes run on this machine, so that times are those of the whole
fleet.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from cipherfleet_analysis.cost.traffic import layout_of
from cipherfleet_deploy.local.record import NodeRecord
from cipherfleet_deploy.local.results import Trajectory, relative_error
from cipherfleet_deploy.local.run import NODES_FOLDER, RunOptions, run_fleet
from cipherfleet_hil.measurement.environment import MachineSummary
from cipherfleet_node.settings.sections import SAFE_KEY_BITS
from cipherfleet_provisioning.fleet.fleet import load_fleet

FloatArray = npt.NDArray[np.float64]

NODES, DEGREE, READINGS = 6, 3, 8
SEED = 20041
ACCURACIES = (
    1e-1,
    1e-2,
    1e-3,
    1e-4,
)  # relative errors; the study reports rounds and seconds to each
FLEET_FILE, READINGS_FILE = "fleet.yaml", "readings.csv"
_FLEET = """\
config_version: 1
fleet: study
crypto: {{exchange: sealed, key_bits: {case.key_bits}, allow_weak_keys: {weak}}}
algorithm:
  rounds: {rounds}
  resolution: 2^-{case.resolution_bits}
  method: article
  {schedule}attenuation: none
  answer_timeout_s: 60
objective: {{kind: {case.objective}, values: [{fields}]}}
topology: {{kind: random_regular, degree: {degree}, seed: 1}}
nodes:
  - each: {nodes}
    id: "n{{n}}"
    sensor: {{kind: csv, path: {readings}, where: {{node: "{{n}}"}}}}
"""
_STEPSIZE = "stepsize: {initial: 0.5, decay: 0.2, exponent: 1, spread: 0.5, law: uniform}\n  "


class StudyCase(msgspec.Struct, frozen=True):
    """The settings of one fleet of the study; *objective* is `average` or `mean`."""

    objective: str
    key_bits: int
    resolution_bits: int
    dimension: int


@dataclass(frozen=True)
class Grid:
    """The axes of the study; every fleet runs *rounds* rounds.

    The first objective runs with all key sizes, the others with the smallest safe one, because the
    key size affects only times.
    """

    objectives: Sequence[str] = ("average", "mean")
    key_bits: Sequence[int] = (1024, 2048, 3072)
    resolution_bits: Sequence[int] = (8, 16, 24)
    dimensions: Sequence[int] = (4, 32, 128)
    rounds: int = 60

    def cases(self) -> list[StudyCase]:
        """Return the cases in the order in which they run."""
        first, *others = self.objectives
        smallest_safe = min((bits for bits in self.key_bits if bits >= SAFE_KEY_BITS), default=0)
        with_keys = [(first, bits) for bits in self.key_bits] + [
            (each, smallest_safe) for each in others
        ]
        sizes = list(product(self.resolution_bits, self.dimensions))
        return [
            StudyCase(*objective_and_bits, *size)
            for objective_and_bits in with_keys
            if objective_and_bits[1]
            for size in sizes
        ]


QUICK = Grid(("average",), (1024,), (4, 24), (2,), 18)  # 1024 bits are unsafe but quick


class Reached(msgspec.Struct, frozen=True):
    """When the error came to stay at or below an accuracy; None if it did not."""

    rounds: int | None
    seconds: float | None  # wall time of these rounds


class StudyOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one case.

    *error* is the relative error after each round, root mean square over nodes. *seconds* is the
    time from the beginning of the first round until the last node closed each round.
    """

    case: StudyCase
    ciphertexts: int  # per vector
    round_ms: float  # median over nodes and rounds, ms
    bytes_per_edge_round: float
    error: list[float]
    seconds: list[float]
    unsafe: bool  # the key is too short
    reached: dict[str, Reached]  # by the numbers ACCURACIES, as text


class StudyResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `bench study`: `--json` and the file of the study have these keys."""

    kind: Literal["host"]
    command: str
    machine: MachineSummary
    outcomes: list[StudyOutcome]


def reach(accuracy: float, error: Sequence[float], seconds: Sequence[float]) -> Reached:
    """Return the rounds after which *error* stays at or below *accuracy*, and their time."""
    above = [k for k, each in enumerate(error) if each > accuracy]
    rounds = above[-1] + 2 if above else 1
    if rounds > len(error):
        return Reached(None, None)
    return Reached(rounds, seconds[rounds - 1])


def run_study(grid: Grid, console: Console) -> list[StudyOutcome]:
    """Run all cases one after another, with progress on *console*. Raises CipherfleetError."""
    return [
        run_case(case, grid.rounds)
        for case in track(
            grid.cases(),
            description="fleets",
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
    ]


def run_case(case: StudyCase, rounds: int) -> StudyOutcome:
    """Run one fleet in a temporary folder, from key generation to the last round."""
    with tempfile.TemporaryDirectory(prefix="cipherfleet-study-") as name:
        folder = Path(name)
        file = write_fleet(case, rounds, folder)
        options = RunOptions(seed=SEED, out=folder / "out")
        result = run_fleet(file, options, Console(stderr=True, quiet=True))
        nodes = [
            NodeRecord(each.name, each)
            for each in sorted((folder / "out" / NODES_FOLDER).iterdir())
        ]
        for node in nodes:
            node.read()
        fleet = load_fleet(file)
    assert result.round_ms.p50 is not None  # the run has closed rounds
    optimum = np.array(result.optimum)
    estimates = Trajectory.of(
        _FinishedFleet({node.id: node for node in nodes}), fleet.dimension
    ).estimates
    error = [relative_error(known[~np.isnan(known).any(axis=1)], optimum) for known in estimates]
    seconds = list(_closing_times(nodes, len(estimates)))
    return StudyOutcome(
        case=case,
        ciphertexts=layout_of(fleet).ciphertexts,
        round_ms=result.round_ms.p50,
        bytes_per_edge_round=result.bytes_per_edge_round,
        error=error,
        seconds=seconds,
        unsafe=case.key_bits < SAFE_KEY_BITS,
        reached={f"{accuracy:g}": reach(accuracy, error, seconds) for accuracy in ACCURACIES},
    )


@dataclass(frozen=True)
class _FinishedFleet:
    """The records of a finished fleet, in the form that Trajectory takes."""

    nodes: dict[str, NodeRecord]


def _closing_times(nodes: Iterable[NodeRecord], rounds: int) -> Iterator[float]:
    """Yield, per round, the seconds from the first round's beginning to the last node's end."""
    lines = [line for node in nodes for line in node.rounds]
    began = min(line["at"] for line in lines)
    latest = 0.0
    for k in range(rounds):
        ends = [line["at"] + line["ms"] / 1000.0 - began for line in lines if line["round"] == k]
        latest = max([latest, *ends])
        yield latest


def write_fleet(case: StudyCase, rounds: int, folder: Path) -> Path:
    """Write fleet.yaml and its readings, with mean 2 and deviation 0.5 between nodes."""
    rng = np.random.default_rng(SEED + case.dimension)
    fields = [f"f{place}" for place in range(case.dimension)]
    lines = [",".join(["node", *fields])]
    for node in range(1, NODES + 1):
        mean = 2.0 + 0.5 * rng.standard_normal(case.dimension)
        for values in mean + 0.3 * rng.standard_normal((READINGS, case.dimension)):
            lines.append(",".join([str(node), *(f"{value:.4f}" for value in values)]))
    (folder / READINGS_FILE).write_text("\n".join(lines) + "\n")
    text = _FLEET.format(
        case=case,
        weak=str(case.key_bits < SAFE_KEY_BITS).lower(),
        rounds=rounds,
        schedule="" if case.objective == "average" else _STEPSIZE,
        fields=", ".join(f"{{field: {field}}}" for field in fields),
        degree=DEGREE,
        nodes=NODES,
        readings=READINGS_FILE,
    )
    file = folder / FLEET_FILE
    file.write_text(text)
    return file
