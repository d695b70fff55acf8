"""The gates of the benchmark of whole rounds; no test asserts a time."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from round import FleetResult, compare_with_gates
from tests.support.paths import ROOT


@pytest.mark.parametrize(
    ("ms", "error", "fallen"),
    [(129.0, 2e-6, False), (132.0, 2e-6, True), (80.0, 1.3e-5, True), (80.0, math.nan, True)],
)
def test_sealed_rounds_fall_for_their_time_and_for_their_error(
    ms: float, error: float, *, fallen: bool
) -> None:
    def ran(times: float, error: float) -> FleetResult:
        return FleetResult([[{"phase": "round", "round": k, "ms": times} for k in range(9)]], error)

    found = compare_with_gates({"sealed": [ran(ms, error)] * 3, "pairwise": [ran(100.0, 1e-6)] * 3})
    assert found["fallen"] is fallen
    assert found["ratio_p50"] == pytest.approx(ms / 100)
    assert found["pairwise_error"] == 1e-6


@pytest.mark.parametrize(
    "arguments", [["sealed", "--exchange", "sealed"], ["growth", "--rounds", "5"], ["speed"]]
)
def test_what_rounds_cannot_be_asked_is_exit_code_2(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "round.py", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
