"""Key size x resolution x dimension x convergence, wall clock included, on one machine.

Every case is a real fleet: daemons, broker, ciphertexts. Its readings are made up, the same for all
cases of a dimension; its nodes share this machine, so that times are those of the whole fleet.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from cipherfleet_analysis.cost.traffic import layout_of
from cipherfleet_deploy.local.record import NodeRecord
from cipherfleet_deploy.local.results import Trajectory, relative_error
from cipherfleet_deploy.local.run import NODES_FOLDER, RunOptions, run_fleet
from cipherfleet_node.settings.sections import SAFE_KEY_BITS
from cipherfleet_provisioning.fleet.fleet import load_fleet

FloatArray = npt.NDArray[np.float64]

NODES, DEGREE, READINGS = 6, 3, 8
SEED = 20041
ACCURACIES = (1e-1, 1e-2, 1e-3, 1e-4)  # of the answer; rounds and seconds to each are told
FLEET_FILE, READINGS_FILE = "fleet.yaml", "readings.csv"
_FLEET = """\
config_version: 1
fleet: study
crypto: {{exchange: sealed, key_bits: {case.key_bits}, allow_weak_keys: {weak}}}
algorithm:
  rounds: {rounds}
  resolution: 2^-{case.resolution_bits}
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


@dataclass(frozen=True)
class Case:
    """What one fleet of the study is asked to do; *objective* is `average` or `mean`."""

    objective: str
    key_bits: int
    resolution_bits: int
    dimension: int


@dataclass(frozen=True)
class Grid:
    """The axes of the study; every fleet runs *rounds* rounds.

    The first objective is run at all sizes of keys, the others at the smallest safe one: keys touch
    times alone.
    """

    objectives: Sequence[str] = ("average", "mean")
    key_bits: Sequence[int] = (1024, 2048, 3072)
    resolution_bits: Sequence[int] = (8, 16, 24)
    dimensions: Sequence[int] = (4, 32, 128)
    rounds: int = 60

    def cases(self) -> list[Case]:
        """What is run, in this order."""
        first, *others = self.objectives
        one = min((bits for bits in self.key_bits if bits >= SAFE_KEY_BITS), default=0)
        with_keys = [(first, bits) for bits in self.key_bits] + [(each, one) for each in others]
        sizes = list(product(self.resolution_bits, self.dimensions))
        return [Case(*head, *size) for head in with_keys if head[1] for size in sizes]


QUICK = Grid(("average",), (1024,), (4, 24), (2,), 18)  # 1024 bits: unsafe, and quick


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    *error*: relative, root mean square over nodes, after each round. *seconds*: until the last node
    had closed the round, from the first round's beginning.
    """

    case: Case
    ciphertexts: int  # of one vector
    round_ms: float  # median over nodes and rounds
    bytes_per_edge_round: float
    error: Sequence[float]
    seconds: Sequence[float]

    def rounds_to(self, accuracy: float) -> int | None:
        """Rounds after which the error stays at *accuracy* or below; None: never in this run."""
        above = [k for k, error in enumerate(self.error) if error > accuracy]
        reached = above[-1] + 2 if above else 1
        return reached if reached <= len(self.error) else None

    def seconds_to(self, accuracy: float) -> float | None:
        """The wall clock's part of `rounds_to`."""
        rounds = self.rounds_to(accuracy)
        return None if rounds is None else self.seconds[rounds - 1]

    def to_json(self) -> dict[str, Any]:
        """One entry of `outcomes` of the study's file."""
        reached = {
            f"{accuracy:g}": {
                "rounds": self.rounds_to(accuracy),
                "seconds": self.seconds_to(accuracy),
            }
            for accuracy in ACCURACIES
        }
        return asdict(self) | {"unsafe": self.case.key_bits < SAFE_KEY_BITS, "reached": reached}


def run_study(grid: Grid, console: Console) -> list[Outcome]:
    """Every case in turn; *console* shows how far it is. Raises CipherfleetError."""
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


def run_case(case: Case, rounds: int) -> Outcome:
    """A fleet from its keys to its last round, in a temporary folder."""
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
    optimum = np.array(result["optimum"])
    estimates = Trajectory.of(_Ended({node.id: node for node in nodes}), fleet.dimension).estimates
    return Outcome(
        case,
        layout_of(fleet).ciphertexts,
        result["round_ms"]["p50"],
        result["bytes_per_edge_round"],
        [relative_error(known[~np.isnan(known).any(axis=1)], optimum) for known in estimates],
        list(_closed_at(nodes, len(estimates))),
    )


@dataclass(frozen=True)
class _Ended:
    """A fleet that has ended, for Trajectory."""

    nodes: dict[str, NodeRecord]


def _closed_at(nodes: Iterable[NodeRecord], rounds: int) -> Iterator[float]:
    """Seconds from the beginning of the first round to the last node's end of each."""
    lines = [line for node in nodes for line in node.rounds]
    began = min(line["at"] for line in lines)
    latest = 0.0
    for k in range(rounds):
        ends = [line["at"] + line["ms"] / 1000.0 - began for line in lines if line["round"] == k]
        latest = max([latest, *ends])
        yield latest


def write_fleet(case: Case, rounds: int, folder: Path) -> Path:
    """fleet.yaml and its readings: fields of mean 2 and deviation 0.5 between nodes."""
    chance = np.random.default_rng(SEED + case.dimension)
    fields = [f"f{place}" for place in range(case.dimension)]
    lines = [",".join(["node", *fields])]
    for node in range(1, NODES + 1):
        mean = 2.0 + 0.5 * chance.standard_normal(case.dimension)
        for values in mean + 0.3 * chance.standard_normal((READINGS, case.dimension)):
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
