"""The phases of real rounds on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from cipherfleet_deploy.cli import example
from cipherfleet_deploy.run import RunOptions, run_fleet
from cipherfleet_hil.phases import phase_table, read_spans
from cipherfleet_provisioning.fleet import Overrides

pytestmark = pytest.mark.fleet


def test_the_phases_of_a_local_fleet_are_measured(tmp_path: Path) -> None:
    file = example("intel_lab") / "fleet.yaml"
    options = RunOptions(Overrides(nodes=3, rounds=12), out=tmp_path / "out")
    run_fleet(file, options, Console(stderr=True, quiet=True))
    spans = read_spans((tmp_path / "out" / "nodes").glob("*/logs/spans.jsonl"))
    table = phase_table(spans)
    assert {
        "quantise",
        "encrypt",
        "answer",
        "decrypt",
        "update",
        "save",
        "publish",
        "round",
    } <= set(table)
    assert table["round"].count == 3 * 12
    assert table["decrypt"].p50_ms < table["round"].p50_ms
    assert json.loads(json.dumps(table["round"].as_dict()))["count"] == 36
