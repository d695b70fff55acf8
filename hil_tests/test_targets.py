"""Tests that run on every target of the bench: lease, files, jobs, state, crypto, rounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from cipherfleet_deploy.data_folders import example_folder
from cipherfleet_hil.measurement.document import read_measurement, write_measurement
from cipherfleet_hil.measuring.crypto import CryptoPlan, make_worker_host, measure_crypto
from cipherfleet_hil.measuring.rounds import RoundsPlan, document, run_fleet
from cipherfleet_hil.measuring.sampling import Effort
from cipherfleet_hil.targets.bench_file import Bench, Spec
from cipherfleet_hil.targets.target import LeasedTarget, TargetFailed, TargetHeld
from cipherfleet_provisioning.fleet.fleet import load_fleet
from tests.support.measured import most_unaccounted

ROUNDS, WARM_UP = 12, 3


def ignore(_text: str) -> None:
    pass


def test_a_second_holder_is_refused_with_the_first_holder_and_the_end_of_its_lease(
    target: LeasedTarget, spec: Spec, bench: Bench
) -> None:
    if spec.__struct_config__.tag == "docker":
        pytest.skip("every lease has its own container")
    with pytest.raises(TargetHeld, match=r"held by .*process \d+ until \d\d:\d\d:\d\d UTC"):
        bench.open_target(spec).__enter__()
    assert target.run(["/bin/echo", "still", "ours"], 30.0) == "still ours\n"


def test_files_come_and_go(target: LeasedTarget, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deeper").mkdir(parents=True)
    (folder / "deeper" / "file").write_bytes(bytes(range(256)) * 10_000)
    target.put(folder, "copied")
    target.get("copied/deeper/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (folder / "deeper" / "file").read_bytes()


def test_the_error_of_a_failed_job_quotes_its_last_line(target: LeasedTarget) -> None:
    with pytest.raises(
        TargetFailed, match=r"exit code 3.*last line of its standard error: no such luck"
    ):
        target.run(["/bin/sh", "-c", "echo first >&2; echo no such luck >&2; exit 3"], 30.0)


def test_a_job_that_does_not_end_is_an_error(target: LeasedTarget) -> None:
    with pytest.raises(TargetFailed, match=r"did not end within 0\.5 s"):
        target.run(["/bin/sleep", "60"], 0.5)


def test_a_target_reports_its_state(target: LeasedTarget) -> None:
    before, after = target.environment(), target.environment()
    assert after.cpu_time.total_s > before.cpu_time.total_s
    assert after.cpu_time.own_s > before.cpu_time.own_s, "a job counts as own load"
    assert before.versions["gmpy2"]
    assert target.kind in ("device", "emulated", "host")


def test_crypto_is_measured(target: LeasedTarget, tmp_path: Path) -> None:
    plan = CryptoPlan((1024,), (1,), (1,), processes=1, effort=Effort(0.0, 1))
    measured = measure_crypto(plan, make_worker_host(target), "test")
    write_measurement(tmp_path / "crypto.json", measured)
    result = read_measurement(tmp_path / "crypto.json").cipherfleet
    assert (result.what, result.kind) == ("crypto", target.kind)
    assert [each.name for each in result.targets] == [target.name]
    assert not result.verdict.valid, "one process is too few"


@pytest.mark.fleet
def test_the_phases_of_rounds_add_up(target: LeasedTarget, bench: Bench, tmp_path: Path) -> None:
    bench.check_reach()
    plan = RoundsPlan(example_folder("intel_lab") / "fleet.yaml", bench, ROUNDS, 3, WARM_UP)
    fleet = load_fleet(plan.file, plan.overrides, endless=False)
    fleet_run = run_fleet(fleet, plan, [target], ignore, tmp_path)
    measured = document(plan, fleet, fleet_run, "test")
    write_measurement(tmp_path / "rounds.json", measured)
    result = read_measurement(tmp_path / "rounds.json").cipherfleet
    assert len(result.nodes) == 3
    for node in result.nodes:
        assert node.counts["rounds"] == ROUNDS
        assert abs(node.counts["unaccounted"]) < most_unaccounted()
        assert {
            *("quantise", "encrypt", "save", "publish", "wait", "receive", "accept", "prepare"),
            *("answer", "combine", "decrypt", "gradient", "update", "agent", "tend", "round"),
        } <= set(node.phases)
        assert {"sample", "trip", "network", "acknowledged"} <= set(node.beside)
        trip, network = node.beside["trip"].p50, node.beside["network"].p50
        assert trip is not None
        assert network is not None
        assert 0 < network < trip, "the round trip contains the neighbour's service time"
        assert node.counts["bytes_sent_per_round"] > 1000
        assert node.counts["cpu_ms_per_round"] > 0
        assert 10 < node.counts["rss_mib"] < 500
        for line in (tmp_path / f"{node.name}.jsonl").read_text().splitlines():
            assert line.startswith('{"round": ')
