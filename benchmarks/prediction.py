"""Compare predicted with measured round times of fleets that the calibration did not use.

Before each fleet a calibration card is measured on this machine. The fleet runs here as daemons,
and the median of its round times is compared with the card's prediction. `--gate` fails if one
differs by more than LIMIT. The first rounds, which build the obfuscator tables, are excluded; they
are predicted separately.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from cipherfleet_analysis.cost.round_time import RoundTime, predict
from cipherfleet_deploy.local.record import NodeRecord
from cipherfleet_deploy.local.run import NODES_FOLDER, RunOptions, run_fleet
from cipherfleet_hil.measuring.calibrate import measure_calibration
from cipherfleet_hil.measuring.prediction import SETTLING
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet

LIMIT = 0.30
KEY_BITS = 2048
_FLEET = """\
config_version: 1
fleet: prediction
crypto: {{exchange: {case.exchange}, key_bits: {bits}}}
algorithm: {{rounds: {case.rounds}, answer_timeout_s: 30}}
objective: {{kind: mean, values: [{values}]}}
topology: {case.topology}
nodes:
  - {{each: {case.nodes}, id: "n{{n:02}}", sensor: {{kind: synthetic, fields: {{{fields}}}}}}}
"""


@dataclass(frozen=True, kw_only=True)
class PredictionCase:
    """The settings of a fleet to predict."""

    name: str
    nodes: int
    dimension: int
    topology: str
    exchange: str
    rounds: int = 200


CASES = (
    PredictionCase(
        name="ring of 10, d = 4, sealed",
        nodes=10,
        dimension=4,
        topology="{kind: ring}",
        exchange="sealed",
    ),
    PredictionCase(
        name="8 nodes of degree 4, d = 32, pairwise",
        nodes=8,
        dimension=32,
        topology="{kind: random_regular, degree: 4, seed: 1}",
        exchange="pairwise",
    ),
    PredictionCase(
        name="complete graph of 6, d = 60, sealed",
        nodes=6,
        dimension=60,
        topology="{kind: complete}",
        exchange="sealed",
        rounds=160,
    ),
)


def main() -> int:
    """Measure and print; with --gate exit code 1 if a prediction differs by more than LIMIT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--gate", action="store_true", help=f"fail if one differs by > {100 * LIMIT:.0f} %%"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    flags = parser.parse_args()
    results = [compare(case) for case in CASES]
    if flags.json:
        print(json.dumps({"kind": "host", "limit": LIMIT, "fleets": results}))
    else:
        for each in results:
            print(
                f"{each['fleet']}: predicted {each['predicted_ms']:.1f} ms, measured "
                f"{each['measured_ms']:.1f} ms, ratio {each['ratio']:.2f}, load {each['load']:.1f}"
            )
    off = [each for each in results if abs(each["ratio"] - 1.0) > LIMIT]
    return 1 if flags.gate and off else 0


def compare(case: PredictionCase) -> dict[str, Any]:
    """Predict *case* from a new card, then run it and compare."""
    with tempfile.TemporaryDirectory(prefix="cipherfleet-prediction-") as name:
        folder = Path(name)
        fleet = _write_fleet(case, folder / "fleet.yaml")
        prediction = predict(fleet, measure_calibration("here", [KEY_BITS]))
        load = os.getloadavg()[0]
        options = RunOptions(out=folder / "out")
        run_fleet(folder / "fleet.yaml", options, Console(stderr=True, quiet=True))
        measured = _median_round_ms(folder / "out", prediction)
    return {
        "fleet": case.name,
        "predicted_ms": prediction.together_ms,
        "measured_ms": measured,
        "ratio": prediction.together_ms / measured,
        "load": load,
    }


def _write_fleet(case: PredictionCase, file: Path) -> Fleet:
    fields = [f"f{place}" for place in range(case.dimension)]
    text = _FLEET.format(
        case=case,
        bits=KEY_BITS,
        values=", ".join(f"{{field: {field}}}" for field in fields),
        fields=", ".join(f"{field}: {{mean: 1, deviation: 0.1}}" for field in fields),
    )
    file.write_text(text)
    return load_fleet(file)


def _median_round_ms(out: Path, prediction: RoundTime) -> float:
    """Return the median round time of all nodes, after their tables are built."""
    first = prediction.first_rounds + SETTLING
    nodes = [NodeRecord(folder.name, folder) for folder in (out / NODES_FOLDER).iterdir()]
    for node in nodes:
        node.read()
    return median(line["ms"] for node in nodes for line in node.rounds if line["round"] >= first)


if __name__ == "__main__":
    sys.exit(main())
