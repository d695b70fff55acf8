"""Fleet files that nobody wrote: the predicted rounds against those of the node's own agents.

    python -m tests.tools.unseen_files --count 50

Each file has random readings, a random graph, up to 40 features with a standard deviation of 0.1 to
10, and no section `algorithm`. `cipherfleet check` predicts the rounds to 1e-4. The node's own
agents then run without encryption, as in `cipherfleet simulate --engine core`. Exit code 1 if a
fleet needs more than 1.3 times its prediction.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
from rich.console import Console

from cipherfleet_analysis.rounds import first_below, predict_convergence
from cipherfleet_lab.simulation.simulate import SimulationOptions, simulate
from cipherfleet_node.errors import ConfigError
from cipherfleet_provisioning.fleet.fleet import load_fleet

LEVEL, FACTOR = "1e-4", 1.3
KINDS = ("least_squares", "ridge", "logistic")
GRAPHS = (
    "{kind: ring}",
    "{kind: complete}",
    "{kind: random_regular, degree: 4, seed: 5}",
    "{kind: geometric, neighbours: 4, seed: 5}",
)
FILE = """\
config_version: 1
fleet: unseen
objective:
  kind: {kind}
  penalty: {penalty}
  target: {target}
  features:
    - {{constant: 1}}
{features}
topology: {graph}
nodes:
  - each: {nodes}
    id: "n{{n}}"
    sensor: {{kind: csv, path: readings.csv, where: {{site: "s{{n}}"}}}}
"""


@dataclass(frozen=True)
class Outcome:
    """What one file has shown."""

    what: str
    predicted: int | None  # None: more rounds than `check` simulates
    needed: int | None  # None: more than FACTOR times the prediction

    @property
    def is_kept(self) -> bool:
        """True if there was a prediction, and the fleet kept it."""
        return self.predicted is None or self.needed is not None

    def __str__(self) -> str:
        ratio = (
            "" if not (self.predicted and self.needed) else f"{self.needed / self.predicted:.2f}"
        )
        return f"{self.what}: predicted {self.predicted}, needed {self.needed} {ratio}"


def write_file(folder: Path, seed: int) -> str:
    """Write fleet.yaml and its readings of *seed* to *folder*; return what they are."""
    chance = np.random.default_rng(seed)
    kind, graph = KINDS[seed % len(KINDS)], GRAPHS[seed // len(KINDS) % len(GRAPHS)]
    nodes, d = int(chance.integers(5, 13)), int(chance.choice([2, 4, 9, 20, 40]))
    factor = 10 ** chance.uniform(-1, 1)
    theta = chance.normal(size=d)
    names = [f"f{place}" for place in range(d - 1)]
    lines = ["site,target," + ",".join(names)]
    for site in range(1, nodes + 1):
        shift = 0.3 * chance.normal(size=d - 1)
        for _ in range(2 * d + 10):
            phi = shift + chance.normal(size=d - 1)
            value = theta @ [1.0, *phi] + 0.2 * chance.normal()
            if kind == "logistic":
                value = float(value > 0)
            lines.append(
                ",".join([f"s{site}", f"{value:.6f}", *(f"{factor * x:.6f}" for x in phi)])
            )
    (folder / "readings.csv").write_text("\n".join(lines) + "\n")
    text = FILE.format(
        kind=kind,
        penalty=0 if kind == "least_squares" else 0.1,
        target="{field: target}" if kind == "logistic" else "{field: target, scale: 2}",
        features="\n".join(f"    - {{field: {name}}}" for name in names),
        graph=graph,
        nodes=nodes,
    )
    (folder / "fleet.yaml").write_text(text)
    return f"{seed}: {kind}, {nodes} nodes, {graph}, {d} entries, units {factor:.2g}"


def try_file(folder: Path, seed: int) -> Outcome:
    """Predict and run the fleet of *seed*."""
    what = write_file(folder, seed)
    prediction = predict_convergence(load_fleet(folder / "fleet.yaml", endless=True))
    assert prediction is not None
    predicted = prediction.rounds_to[LEVEL]
    if predicted is None:
        return Outcome(what, None, None)
    options = SimulationOptions(engine="core", rounds=math.ceil(FACTOR * predicted))
    result = simulate(folder / "fleet.yaml", options, Console(file=StringIO()))
    assert result.relative_error is not None
    errors = [math.inf if error is None else error for error in result.relative_error.mean]
    return Outcome(what, predicted, first_below(errors, float(LEVEL)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the files; a line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    options = parser.parse_args(arguments)
    bad = 0
    for seed in range(options.first, options.first + options.count):
        with tempfile.TemporaryDirectory() as place:
            try:
                outcome = try_file(Path(place), seed)
            except ConfigError as error:
                print(f"{seed}: refused: {error}", flush=True)
                continue
        bad += not outcome.is_kept
        print(outcome, flush=True)
    print("all within the prediction" if not bad else f"{bad} BEYOND THE PREDICTION")
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
