"""Files that nobody wrote come to 1e-4 in the predicted rounds, without a section `algorithm`.

`make unseen` tries more of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cipherfleet_provisioning.fleet.file import DEFAULT_ROUNDS
from cipherfleet_provisioning.fleet.fleet import load_fleet
from tests.tools.unseen_files import try_file, write_file


@pytest.mark.parametrize("seed", [42, 2, 27], ids=["twenty entries", "logistic", "complete graph"])
def test_a_fleet_needs_the_predicted_rounds(tmp_path: Path, seed: int) -> None:
    """Fixed seeds: deterministic."""
    outcome = try_file(tmp_path, seed)
    assert outcome.predicted is not None
    assert outcome.is_kept, outcome


def test_a_file_without_an_algorithm_runs_the_exact_method(tmp_path: Path) -> None:
    write_file(tmp_path, 0)
    algorithm = load_fleet(tmp_path / "fleet.yaml", endless=False).file.algorithm
    assert (algorithm.method, algorithm.rounds) == ("exact", DEFAULT_ROUNDS)
