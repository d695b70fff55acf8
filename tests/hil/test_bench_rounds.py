"""`cipherfleet bench rounds` as a command: document, spans and exit code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jsonschema
import pyperf
import pytest

from cipherfleet_deploy.data_folders import example_folder
from cipherfleet_hil.measurement.document import SCHEMA_FILE, read_measurement
from cipherfleet_hil.measuring.rounds import RoundsPlan, measure_rounds
from cipherfleet_hil.targets.bench_file import Bench, BrokerSpec

COMMAND = [sys.executable, "-m", "cipherfleet_deploy", "bench", "rounds"]


@pytest.mark.fleet
def test_rounds_are_measured_and_written_down(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    bench, out = tmp_path / "bench.yaml", tmp_path / "out"
    bench.write_text("targets: [{name: here, kind: local}]\n")
    flags = ["--bench", str(bench), "--rounds", "8", "--warm-up", "2", "--out", str(out), "--json"]
    done = subprocess.run(
        [*COMMAND, *flags],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode in (0, 5), done.stderr
    document = json.loads(done.stdout)
    jsonschema.validate(document, json.loads(SCHEMA_FILE.read_text()))
    result = read_measurement(out / "rounds.json").cipherfleet
    assert (done.returncode == 0) is result.verdict.valid
    assert result.settings["nodes"] == 3
    assert result.effort == {"rounds": 8, "warm_up": 2}
    suite = pyperf.BenchmarkSuite.load(str(out / "rounds.json"))
    assert suite.get_benchmark_names() == ["round, here", "network, here"]
    for node in result.nodes:
        lines = (out / f"{node.name}.jsonl").read_text().splitlines()
        assert {json.loads(line)["round"] for line in lines} >= set(range(10)), "the warm-up, too"
    assert list((tmp_path / "tmp").iterdir()) == [], "nothing is left behind"


def own_address() -> str:
    """Of this machine, as others would reach it; nothing is sent to find it out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("NO ADDRESS BUT LOOPBACK: A BROKER FOR BOARDS WAS NOT TESTED")
        return str(sock.getsockname()[0])


@pytest.mark.fleet
def test_a_broker_that_boards_reach_speaks_tls_with_certificates_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    bench = Bench(broker=BrokerSpec(address=own_address()))
    plan = RoundsPlan(example_folder("intel_lab") / "fleet.yaml", bench, 4, 3, 1)
    result = measure_rounds(plan, "test", lambda _text: None).cipherfleet
    assert result.settings["tls"] is True
    assert [node.counts["rounds"] for node in result.nodes] == [4.0] * 3


@pytest.mark.parametrize("flags", [("--rounds", "1"), ("--nodes", "1"), ("--warm-up", "-1")])
def test_what_cannot_be_measured_is_exit_code_2(flags: tuple[str, str]) -> None:
    done = subprocess.run([*COMMAND, *flags], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
