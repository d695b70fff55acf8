"""Windows that slide while a fleet runs: the exact method follows the moving optimum.

The clock is accelerated: rounds follow each other at once, and a reading comes every 20 rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cipherfleet_analysis.centralised import common_answer
from cipherfleet_analysis.random_choices import Array
from cipherfleet_deploy.local.record import NodeRecord
from cipherfleet_deploy.local.run import NODES_FOLDER, RunOptions, run_fleet
from cipherfleet_lab.simulation.engines import run_core
from cipherfleet_node.core.objective import make_objective
from cipherfleet_node.sensors.csv_replay import rows_of_read
from cipherfleet_node.settings.sections import CsvSensor
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet
from tests.support.paths import ROOT

READINGS = ROOT / "examples" / "intel_lab" / "intel_lab.csv"
MOTES = (1, 11, 21, 31, 41)
PACE = 20  # rounds for a reading
SETTLED = 160  # rounds after which the first windows' optimum is reached
ROUNDS = PACE * 24  # the window of 120 slides over all 144 readings of a mote
RMS = 0.01
FLEET = f"""\
config_version: 1
fleet: streaming
crypto: {{key_bits: 512, allow_weak_keys: true}}
algorithm: {{rounds: {ROUNDS}, method: exact, answer_timeout_s: 20}}
objective:
  kind: least_squares
  window: 120
  target: {{field: humidity_pct, offset: 40, scale: 10}}
  features:
    - {{constant: 1}}
    - {{field: temperature_c, offset: 20, scale: 5}}
    - {{daily: hour, harmonics: 1}}
topology: {{kind: ring}}
nodes:
"""
NODE = (
    "  - {{id: m{mote}, sensor: {{kind: csv, path: {path}, where: {{sensor: {mote}}}, "
    "first_rows: 120, rounds_per_row: {pace}}}}}\n"
)


def fleet_file(folder: Path, motes: Sequence[int] = MOTES) -> Path:
    file = folder / "fleet.yaml"
    nodes = [NODE.format(mote=mote, path=READINGS, pace=PACE) for mote in motes]
    file.write_text(FLEET + "".join(nodes))
    return file


def moving_optimum(fleet: Fleet, rounds: int) -> Array:
    """Return the optimum of the windows in each round, shape (rounds, d).

    Round k takes in the reads 0 to k of every sensor.
    """
    objectives = [make_objective(fleet.file.objective) for _ in fleet.members]
    left = [list(fleet.recorded(member) or []) for member in fleet.members]
    found: list[Array] = []
    for k in range(rounds):
        has_changed = False
        for place, member in enumerate(fleet.members):
            assert isinstance(member.sensor, CsvSensor)
            fresh = left[place][: rows_of_read(member.sensor, k)]
            left[place] = left[place][len(fresh) :]
            objectives[place].absorb(fresh)
            has_changed = has_changed or bool(fresh)
        answer = common_answer(objectives) if has_changed else found[-1]
        assert answer is not None
        found.append(answer)
    return np.array(found)


def errors(estimates: Sequence[Array], optimum: Array) -> Array:
    """Return the relative error of each round, root mean square over nodes."""
    return np.array(
        [
            math.sqrt(float(np.mean(np.sum((x - best) ** 2, axis=1)))) / float(np.linalg.norm(best))
            for x, best in zip(estimates, optimum, strict=True)
        ]
    )


def assert_follows(estimates: Sequence[Array], optimum: Array) -> None:
    late = errors(estimates, optimum)[SETTLED:]
    assert math.sqrt(float(np.mean(late**2))) <= RMS
    # The same estimates do not belong to an optimum that stands still.
    still = np.broadcast_to(optimum[0], optimum.shape)
    assert math.sqrt(float(np.mean(errors(estimates, still)[SETTLED:] ** 2))) > 4 * RMS


def test_agents_in_memory_follow_the_moving_optimum(tmp_path: Path) -> None:
    fleet = load_fleet(fleet_file(tmp_path))
    assert_follows(list(run_core(fleet, ROUNDS, seed=3)), moving_optimum(fleet, ROUNDS))


@pytest.mark.xdist_group("fleet")
def test_real_daemons_follow_the_moving_optimum(tmp_path: Path) -> None:
    file, out = fleet_file(tmp_path, MOTES[2:]), tmp_path / "out"
    result = run_fleet(file, RunOptions(out=out), Console(quiet=True))
    assert result.ended == "complete"
    fleet = load_fleet(file)
    records = [NodeRecord(m.id, out / NODES_FOLDER / m.id) for m in fleet.members]
    for record in records:
        record.read()
    estimates = [np.array([node.estimates[k] for node in records]) for k in range(ROUNDS)]
    assert_follows(estimates, moving_optimum(fleet, ROUNDS))
    assert result.relative_error is not None, "the centralised answer is that of the last windows"
    assert result.relative_error < 5 * RMS
