"""Measurements of the parts of an exchange: cases, processes, warm-ups and documents."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import jsonschema
import pytest

from cipherfleet_hil.measurement.document import SCHEMA_FILE, read_measurement
from cipherfleet_hil.measurement.environment import read_environment
from cipherfleet_hil.measuring import crypto as crypto_bench
from cipherfleet_hil.measuring.cases import CASE_DESCRIPTIONS, make_sized_cases
from cipherfleet_hil.measuring.crypto import (
    CryptoPlan,
    MeasuringFailed,
    WorkerHost,
    measure_crypto,
    run_worker,
)
from cipherfleet_hil.measuring.exchange_scene import (
    OWN_TABLE,
    AskerScenario,
    FilledPool,
    KeyMaterial,
    PackedExchange,
)
from cipherfleet_hil.measuring.sampling import (
    CaseSampler,
    CaseTimes,
    Effort,
    TimedCase,
    WrongResult,
    sample,
)
from cipherfleet_node.errors import CipherfleetError

QUICK = ("--quick", "--bits", 1024, "--dimension", 2, "--degree", 2)


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [
        sys.executable,
        "-m",
        "cipherfleet_deploy",
        "bench",
        "crypto",
        *map(str, arguments),
    ]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


# -- the command ---------------------------------------------------------------------------------


def test_a_quick_run_measures_every_case_and_says_that_it_is_not_valid(tmp_path: Path) -> None:
    out = tmp_path / "quick.json"
    done = bench(*QUICK, "--out", out, "--json")
    assert done.returncode == 5
    *progress, error = done.stderr.splitlines()
    assert progress[0] == "processes: 0 of 2", "there is no terminal"
    assert error.startswith("cipherfleet: the measurement is not valid: ")
    assert "only 2 processes, at least 5 are needed" in error
    assert done.stdout == out.read_text()
    jsonschema.validate(json.loads(done.stdout), json.loads(SCHEMA_FILE.read_text()))
    made = read_measurement(out)
    result = made.cipherfleet
    assert {each.labels["case"] for each in made.benchmarks} == set(CASE_DESCRIPTIONS)
    assert (result.what, result.kind) == ("crypto", result.targets[0].kind)
    assert result.settings == {
        "key_bits": [1024],
        "dimensions": [2],
        "degrees": [2],
        "cases": "all",
        "clock": "wall",
    }
    assert result.effort["processes"] == 2
    assert result.command.endswith("--json")
    assert not result.verdict.valid
    for each in made.benchmarks:
        assert [run.metadata["process"] for run in each.runs] == [0, 1]
    # A first run that was held up for long counts as a value, so not every run has a warm-up.
    assert any(run.warmups for each in made.benchmarks for run in each.runs)
    before, after = result.targets[0].environment.before, result.targets[0].environment.after
    assert after.cpu_time.own_s > before.cpu_time.own_s, "the workers' time is our own"


def test_the_table_says_where_it_comes_from_and_that_a_key_is_unsafe() -> None:
    done = bench(*QUICK, "--case", "online", "--case", "phe")
    assert done.returncode == 5
    for words in (
        "figures of ", "keys of 1024 bits are UNSAFE", "NOT VALID", "phe /",
        "because only 2 processes", "needs: p50 5, p90 29, p95 59, p99 299\n",
    ):  # fmt: skip
        assert words in done.stdout
    assert "keygen" not in done.stdout
    assert "…" not in done.stdout, "80 columns are enough for every figure"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--bits", "512"),
        ("--percentile", "97"),
        ("--clock", "sun"),
        ("--processes", 0),
        ("--case", "keys"),
    ],
)
def test_what_cannot_be_measured_is_exit_code_2(arguments: tuple[object, ...]) -> None:
    done = bench(*arguments)
    assert (done.returncode, done.stdout) == (2, "")


def test_a_path_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    done = bench("--out", tmp_path / "no" / "out.json")
    assert (done.returncode, done.stdout) == (3, "")
    assert f"{tmp_path / 'no'} is not a folder with write permission" in done.stderr


def test_a_size_given_twice_is_measured_once(tmp_path: Path) -> None:
    out, twice = tmp_path / "out.json", ("--bits", 1024, "--bits", 1024, "--degree", 2)
    assert bench(*twice, *QUICK, "--case", "sign", "--out", out).returncode == 5
    (sign,) = read_measurement(out).benchmarks
    assert len(sign.runs) == 2


# -- processes -----------------------------------------------------------------------------------


def test_sizes_alternate_in_processes_of_their_own() -> None:
    plan = CryptoPlan(key_bits=(2048, 3072), processes=3)
    assert plan.jobs == [(0, 2048), (0, 3072), (1, 2048), (1, 3072), (2, 2048), (2, 3072)]


def test_a_measurement_asks_the_place_that_it_was_given() -> None:
    asked: list[Sequence[str]] = []

    def worker(words: Sequence[str]) -> str:
        asked.append(words)
        values = [0.001 * len(asked)] * 3
        case = {"labels": {"case": "online", "key_bits": 1024}, "run": {"values": values}}
        return json.dumps({"cases": [case]})

    place = WorkerHost("bench-3", "emulated", worker, read_environment)
    plan = CryptoPlan((1024,), (4,), (2,), processes=2, effort=Effort(0.5, 2), clock="cpu")
    made = measure_crypto(plan, place, "any")
    assert asked == [plan.worker_arguments(1024)] * 2
    assert asked[0] == [
        "crypto", "--bits", "1024", "--clock", "cpu", "--seconds", "0.5", "--passes", "2",
        "--dimension", "4", "--degree", "2",
    ]  # fmt: skip
    (online,) = made.benchmarks
    assert online.samples == [0.001] * 3 + [0.002] * 3
    assert [run.metadata["target"] for run in online.runs] == ["bench-3"] * 2
    assert made.cipherfleet.kind == "emulated"


def test_the_error_of_a_failed_worker_quotes_its_last_line() -> None:
    with pytest.raises(MeasuringFailed, match=r"worker \(crypto --bits 7\) ended with [12]: .*\w"):
        run_worker(["crypto", "--bits", "7", "--dimension", "1", "--degree", "1"])


def test_a_wrong_result_ends_the_worker_with_a_line_and_exit_code_5(tmp_path: Path) -> None:
    """A library whose decryption is off by one, in a process of its own."""
    (tmp_path / "wrong.py").write_text(
        "import sys\n"
        "from cipherfleet_hil.measuring import exchange_scene, worker\n"
        "right = exchange_scene.Phe.open\n"
        "exchange_scene.Phe.open = lambda self, answer: [1 + m for m in right(self, answer)]\n"
        "sys.argv = ['worker', 'crypto', '--bits', '1024', '--dimension', '1', '--degree', '1',\n"
        "  '--case', 'phe']\n"
        "sys.exit(worker.main())\n"
    )
    done = subprocess.run(
        [sys.executable, tmp_path / "wrong.py"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr == "phe: the result differs from the plaintext result\n"


def test_a_board_is_a_device_and_this_is_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import msgspec

    result = read_environment()
    for is_board, kind in ((True, "device"), (False, "host")):
        state = msgspec.structs.replace(result, is_board=is_board)
        monkeypatch.setattr(crypto_bench, "read_environment", lambda *_, state=state: state)
        assert crypto_bench.this_machine().kind == kind


# -- cases ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["keygen", "refill: full", "prepare", "sign", "decrypt", "phe"])
def test_a_result_that_is_wrong_is_seen_in_every_kind_of_case(name: str) -> None:
    """The right result of another key, vector or message is not the right one here."""
    ours, theirs = (make_sized_cases(1024, (3,), (2,), [name])[0].case for _ in "ab")
    for case in (ours, theirs):
        case.fill()
    assert ours.is_right(ours.run())
    if name != "keygen":  # any keys that work are right
        theirs.fill()
        assert not is_right(ours, theirs.run())


def is_right(case: TimedCase, result: object) -> bool:
    """A check that cannot even be made has not been passed."""
    try:
        return bool(case.is_right(result))
    except CipherfleetError:
        return False


@pytest.mark.parametrize("dimension", [1, 17], ids=["one ciphertext", "two ciphertexts"])
def test_an_exchange_of_the_benchmark_takes_every_obfuscator_once(dimension: int) -> None:
    material = KeyMaterial(1024)
    scenario = AskerScenario(material.keys, dimension, 3)
    handed: list[int] = []

    class WatchedFleet(FilledPool):
        def own(self) -> Any:
            handed.append(int(super().own()))
            return handed[-1]

        def towards(self, neighbour: str) -> Any:
            handed.append(int(super().towards(neighbour)))
            return handed[-1]

    pool = WatchedFleet(material.own_sources[OWN_TABLE])
    pool.fill(4 * math.ceil(dimension / 16))
    packed = PackedExchange(scenario, pool)
    assert packed.online(packed.prepare()) == scenario.expected
    assert len(handed) == len(set(handed)) == 4 * math.ceil(dimension / 16)


# -- samples -------------------------------------------------------------------------------------


class Work:
    """A case that notes its turns and computes for so long: CPU time, whatever else runs."""

    def __init__(self, name: str, seconds: float, turns: list[str]) -> None:
        self._name, self._seconds, self._turns = name, seconds, turns

    def case(self) -> TimedCase:
        """Its case."""
        return TimedCase(self._name, self.run, lambda result: result == self._name)

    def run(self) -> str:
        """Take some time."""
        self._turns.append(self._name)
        until = time.process_time() + self._seconds
        while time.process_time() < until:
            pass
        return self._name


def test_the_first_run_of_a_turn_warms_up_unless_it_is_long() -> None:
    turns: list[str] = []
    short, long = Work("short", 0.0, turns).case(), Work("long", 0.26, turns).case()
    taken = sample([short, long], Effort(0.0, 2), CaseSampler("cpu"), Random(1))
    assert [len(each.warmups) for each in taken] == [2, 0]
    assert [len(each.values) for each in taken] == [2 * 25, 2]
    assert turns.count("long") == 2
    assert all(value > 0 for each in taken for value in each.values)


def test_a_middling_case_warms_up_once_in_a_process() -> None:
    taken = sample([Work("a", 0.04, []).case()], Effort(0.0, 3), CaseSampler("cpu"), Random(1))
    assert (len(taken[0].warmups), len(taken[0].values)) == (1, 3)


def test_the_order_of_cases_in_a_pass_is_random() -> None:
    turns: list[str] = []
    cases = [Work(name, 0.04, turns).case() for name in "abc"]
    sample(cases, Effort(0.0, 6), CaseSampler("cpu"), Random(1))
    passes = [turns[6:][start : start + 3] for start in range(0, 15, 3)]
    assert all(sorted(each) == [*"abc"] for each in passes)
    assert len({tuple(each) for each in passes}) > 1


def test_a_case_that_sleeps_has_no_cpu_and_the_clocks_differ() -> None:
    def nap() -> None:
        time.sleep(0.02)

    case = TimedCase("nap", nap, lambda _: True)
    sampler, taken = CaseSampler("cpu"), CaseTimes()
    sampler.sample_slot(case, taken, is_first=True)
    assert sampler.cpu_share < 0.5
    assert max(taken.values) < 0.02
    wall, waited = CaseSampler("wall"), CaseTimes()
    wall.sample_slot(case, waited, is_first=True)
    assert min(waited.values) >= 0.02


def test_a_wrong_result_ends_a_process() -> None:
    liar = replace(Work("liar", 0.0, []).case(), is_right=lambda _: False)
    with pytest.raises(WrongResult, match="liar: the result differs"):
        sample([liar], Effort(0.0, 1), CaseSampler("cpu"), Random(1))
