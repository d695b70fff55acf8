"""Comparisons of two measurements: false alarms, and differences that were put in."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from random import Random
from statistics import NormalDist

import numpy as np
import pytest
from msgspec.structs import replace

from cipherfleet_hil.measurement.compare import _student_quantile, compare, find_differences
from cipherfleet_hil.measurement.document import (
    Benchmark,
    Measurement,
    benchmark,
    write_measurement,
)
from cipherfleet_node.errors import ConfigError
from tests.support.command_line import run_here
from tests.support.measured import BOARD, benchmarks, document, machine, rounds, samples
from tests.support.paths import ROOT
from tests.support.results import check_result

LIMIT = 0.05
SLOWED = "tests.tools.slowed_work"


def cipherfleet(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_here("bench", *arguments)


# -- what is really measured: `make slowed` ------------------------------------------------------


def test_the_command_that_measures_slower_work_says_what_was_found() -> None:
    """What a busy machine finds is not judged here."""
    done = subprocess.run(
        [sys.executable, "-m", SLOWED, "--trials", "1", "--processes", "2"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    found, alarms = re.findall(r"in ([01]) of 1 trials", done.stdout)
    assert done.stderr == ""
    assert done.returncode == int(found == "0" or alarms == "1")


# -- random variation ----------------------------------------------------------------------------


def drawn(rng: Random, count: int, last: float = 1.0, apart: float = 0.02) -> Measurement:
    """A measurement of *count* benchmarks, the last of them *last* times as long.

    Processes differ by *apart*, each benchmark by itself, and by half as much in all of them.
    """
    own = [rng.gauss(0, apart / 2) for _ in range(5)]
    made: list[Benchmark] = []
    for place in range(count):
        middle = 1e-3 * (last if place == count - 1 else 1.0)
        runs = [
            replace(run, values=[value * (1 + shift) for value in run.values])
            for run, shift in zip(samples(rng, middle, between=apart), own, strict=True)
        ]
        made.append(benchmark(f"b{place}", {}, runs))
    return document(made)


@pytest.mark.parametrize(("count", "trials"), [(1, 150), (24, 12)])
def test_equal_measurements_seldom_differ_however_many_benchmarks_they_have(
    count: int, trials: int
) -> None:
    """A false alarm anywhere, at any size: 5 % of comparisons at most, and random variation on top.

    The samples are synthetic and their seed is fixed: deterministic.
    """
    rng = Random(7)
    found = [compare(drawn(rng, count), drawn(rng, count), 0.0) for _ in range(trials)]
    anywhere = sum(any(each.significant for each in one.benchmarks) for one in found)
    overall = sum(one.overall.significant for one in found)
    most = 0.05 * trials + 3 * (0.05 * 0.95 * trials) ** 0.5
    assert anywhere <= most
    assert overall <= most
    assert not any(compare(drawn(rng, count), drawn(rng, count), 0.1).failed for _ in "ab")


def test_an_interval_that_ignored_processes_or_the_number_of_benchmarks_would_cry_wolf() -> None:
    """The samples above do differ between processes: pooled, they seem to differ by themselves.

    Fixed seed: deterministic.
    """
    rng, alarms = Random(7), 0
    for _ in range(30):
        a, b = (drawn(rng, 12) for _ in "ab")
        alarms += any(
            abs(np.mean(np.log(x.samples)) - np.mean(np.log(y.samples)))
            > 1.96 * (np.var(np.log(x.samples)) / 100 + np.var(np.log(y.samples)) / 100) ** 0.5
            for x, y in zip(a.benchmarks, b.benchmarks, strict=True)
        )
    assert alarms > 15


def test_a_tenth_is_found_in_one_benchmark_among_many() -> None:
    """Fixed seed: deterministic."""
    rng, found = Random(3), 0
    for _ in range(10):
        result = compare(drawn(rng, 12, apart=0.01), drawn(rng, 12, 1.1, apart=0.01), LIMIT)
        found += [each.fails for each in result.benchmarks] == [False] * 11 + [True]
    assert found >= 9


def test_the_quantiles_are_students() -> None:
    """Against the tables: two-sided 95 % and 99.9 %."""
    for freedom, result in ((4, 2.776), (8, 2.306), (18, 2.101), (98, 1.984)):
        assert _student_quantile(0.95, freedom) == pytest.approx(result, rel=0.01)
    for freedom, result in ((8, 5.041), (18, 3.922), (98, 3.393)):
        assert _student_quantile(0.999, freedom) == pytest.approx(result, rel=0.01)
    assert _student_quantile(0.95, 10**6) == pytest.approx(NormalDist().inv_cdf(0.975), rel=1e-4)


def test_one_process_proves_nothing() -> None:
    one = document(benchmarks(processes=1))
    other = document(benchmarks(processes=1, times=3.0))
    result = compare(one, other, LIMIT)
    assert result.overall.ratio == pytest.approx(3.0)
    assert not result.failed


def test_the_same_documents_always_have_the_same_interval() -> None:
    a, b = document(benchmarks(1)), document(benchmarks(2))
    assert compare(a, b, LIMIT) == compare(a, b, LIMIT)


# -- what may be compared ------------------------------------------------------------------------


def test_what_is_not_comparable_is_refused_with_all_that_differs() -> None:
    a = document(settings={"key_bits": [2048], "clock": "wall"})
    b = document(
        benchmarks()[:2],
        machine("emulated"),
        settings={"key_bits": [3072], "clock": "wall", "tls": True},
    )
    assert list(find_differences(a, b)) == [
        "kind is device in A, emulated in B",
        "settings.key_bits is [2048] in A, [3072] in B",
        "settings.tls is None in A, True in B",
        "only A has 'phe, d=32'",
    ]
    with pytest.raises(
        ConfigError, match=r"kind is device in A.*measure both with the same settings"
    ):
        compare(a, b, LIMIT)
    assert list(find_differences(a, document(benchmarks(9)))) == []
    assert list(find_differences(a, rounds())) == ["A measures crypto, B measures rounds"]


def test_another_version_or_board_is_compared_and_noted() -> None:
    newer = replace(BOARD, board="Raspberry Pi 5", versions={**BOARD.versions, "gmp": "7.0"})
    result = compare(document(), document(target=machine(before=newer)), LIMIT)
    assert result.notes == [
        "board: Raspberry Pi 4 Model B Rev 1.4 in A, Raspberry Pi 5 in B",
        "gmp: 6.3.0 in A, 7.0 in B",
    ]


# -- the command ---------------------------------------------------------------------------------


def files(folder: Path, **made: Measurement) -> list[Path]:
    for name, each in made.items():
        write_measurement(folder / f"{name}.json", each)
    return [folder / f"{name}.json" for name in made]


def test_the_command_ends_with_1_for_what_is_slower_and_0_for_what_is_not(tmp_path: Path) -> None:
    a, same, slow = files(
        tmp_path,
        a=document(benchmarks(1)),
        same=document(benchmarks(2)),
        slow=document(benchmarks(3, times=1.1)),
    )
    found = cipherfleet("compare", a, same)
    assert (found.returncode, found.stderr) == (0, "")
    assert "not significant" in found.stdout
    found = cipherfleet("compare", a, slow, "--json")
    assert (found.returncode, found.stderr) == (1, "")
    result = check_result("compare-result", found.stdout)
    assert result["failed"]
    assert result["overall"]["fails"]
    assert result["overall"]["low"] <= result["overall"]["ratio"] <= result["overall"]["high"]
    assert {each["name"] for each in result["benchmarks"]} == {b.name for b in benchmarks()}
    found = cipherfleet("compare", a, slow, "--fail-above", "20%")
    assert found.returncode == 0
    assert "slower, within the limit" in found.stdout


def test_what_is_not_valid_proves_nothing(tmp_path: Path) -> None:
    a, b = files(
        tmp_path, a=document(), b=document(benchmarks(times=2.0), machine(throttled=0x50005))
    )
    result = cipherfleet("compare", a, b)
    assert result.returncode == 5
    assert "under-voltage" in result.stdout
    assert result.stderr.startswith("cipherfleet: A or B is not valid")
    assert "slower by more than" not in result.stdout
    result = cipherfleet("compare", a, b, "--allow-not-valid")
    assert result.returncode == 1
    assert "slower by more than 5 %" in result.stdout


def test_a_reason_against_both_measurements_is_given_once(tmp_path: Path) -> None:
    (a,) = files(tmp_path, a=document(target=machine(throttled=0x50005)))
    result = cipherfleet("compare", a, a)
    assert result.returncode == 5
    text = " ".join(result.stdout.split())
    assert text.count("under-voltage") == 1
    assert "NOT VALID A and B: " in text
    assert "not slower" not in text


def test_what_cannot_be_compared_is_exit_code_3_and_no_share_2(tmp_path: Path) -> None:
    a, b = files(tmp_path, a=document(), b=document(target=machine("host")))
    result = cipherfleet("compare", a, b)
    assert (result.returncode, result.stdout) == (3, "")
    assert "kind is device in A, host in B" in result.stderr
    assert cipherfleet("compare", a, b, "--fail-above", "fast").returncode == 2
