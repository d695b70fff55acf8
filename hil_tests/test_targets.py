"""On every machine of the bench: the lease, files, work, its state, crypto, rounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from cipherfleet_deploy.cli.main import example
from cipherfleet_hil.measurement.document import read_measurement, write_measurement
from cipherfleet_hil.measuring.crypto import Plan, measure_crypto, place_of
from cipherfleet_hil.measuring.interleaved import Effort
from cipherfleet_hil.measuring.rounds import MOST_UNACCOUNTED, RoundsPlan, document, run_fleet
from cipherfleet_hil.targets.bench_file import Bench, Spec
from cipherfleet_hil.targets.target import KeptTarget, TargetFailed, TargetHeld
from cipherfleet_provisioning.fleet.fleet import load_fleet

ROUNDS, WARM_UP = 12, 3


def nobody(_text: str) -> None:
    pass


def test_a_second_holder_is_refused_and_told_by_whom_and_until_when(
    target: KeptTarget, spec: Spec, bench: Bench
) -> None:
    if spec.__struct_config__.tag == "docker":
        pytest.skip("every holder has a container of its own")
    with pytest.raises(TargetHeld, match=r"held by .*process \d+ until \d\d:\d\d:\d\d UTC"):
        bench.make(spec).__enter__()
    assert target.run(["/bin/echo", "still", "ours"], 30.0) == "still ours\n"


def test_files_come_and_go(target: KeptTarget, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deeper").mkdir(parents=True)
    (folder / "deeper" / "file").write_bytes(bytes(range(256)) * 10_000)
    target.put(folder, "copied")
    target.get("copied/deeper/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (folder / "deeper" / "file").read_bytes()


def test_work_that_fails_tells_its_last_words(target: KeptTarget) -> None:
    with pytest.raises(TargetFailed, match=r"exit code 3.*last words: no such luck"):
        target.run(["/bin/sh", "-c", "echo first >&2; echo no such luck >&2; exit 3"], 30.0)


def test_work_that_does_not_end_is_told(target: KeptTarget) -> None:
    with pytest.raises(TargetFailed, match=r"did not end within 0\.5 s"):
        target.run(["/bin/sleep", "60"], 0.5)


def test_a_machine_tells_its_state(target: KeptTarget) -> None:
    before, after = target.environment(), target.environment()
    assert after.cpu_time.total_s > before.cpu_time.total_s
    assert after.cpu_time.own_s > before.cpu_time.own_s, "what runs for us is our own load"
    assert before.versions["gmpy2"]
    assert target.kind in ("device", "emulated", "host")


def test_crypto_is_measured(target: KeptTarget, tmp_path: Path) -> None:
    plan = Plan((1024,), (1,), (1,), processes=1, effort=Effort(0.0, 1))
    measured = measure_crypto(plan, place_of(target), "test")
    write_measurement(tmp_path / "crypto.json", measured)
    told = read_measurement(tmp_path / "crypto.json").cipherfleet
    assert (told.what, told.kind) == ("crypto", target.kind)
    assert [each.name for each in told.targets] == [target.name]
    assert not told.verdict.valid, "one process is none"


@pytest.mark.fleet
def test_the_phases_of_rounds_add_up(target: KeptTarget, bench: Bench, tmp_path: Path) -> None:
    bench.check_reach()
    plan = RoundsPlan(example("intel_lab") / "fleet.yaml", bench, ROUNDS, 3, WARM_UP)
    fleet = load_fleet(plan.file, plan.overrides, endless=False)
    came = run_fleet(fleet, plan, [target], nobody, tmp_path)
    measured = document(plan, fleet, came, "test")
    write_measurement(tmp_path / "rounds.json", measured)
    told = read_measurement(tmp_path / "rounds.json").cipherfleet
    assert len(told.nodes) == 3
    for node in told.nodes:
        assert node.counts["rounds"] == ROUNDS
        assert abs(node.counts["unaccounted"]) < MOST_UNACCOUNTED
        assert {
            *("quantise", "encrypt", "save", "publish", "wait", "receive", "accept", "prepare"),
            *("answer", "combine", "decrypt", "gradient", "update", "agent", "tend", "round"),
        } <= set(node.phases)
        assert {"sample", "trip", "network", "acknowledged"} <= set(node.beside)
        trip, network = node.beside["trip"].p50, node.beside["network"].p50
        assert trip is not None
        assert network is not None
        assert 0 < network < trip, "the neighbour's own time is part of the trip"
        assert node.counts["bytes_sent_per_round"] > 1000
        assert node.counts["cpu_ms_per_round"] > 0
        assert 10 < node.counts["rss_mib"] < 500
        for line in (tmp_path / f"{node.name}.jsonl").read_text().splitlines():
            assert line.startswith('{"round": ')
